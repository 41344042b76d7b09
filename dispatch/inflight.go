package dispatch

import (
	"slices"
	"time"
)

const (
	// lateAfter is how long an attempt may be without an answer until it is late, and gives its
	// slot to another attempt: users whose answers hang must not make the others wait. maxLate is
	// how many attempts may be late.
	lateAfter = 2 * time.Second
	maxLate   = 64
)

// inFlight counts the attempts in flight. At most concurrency of them are not late.
type inFlight struct {
	concurrency int
	running     int // attempts that are not late
	late        int // attempts that are
	lateRetries int // of them, retries
	// begun holds attempts in the order in which they began. Those that have ended may still be
	// among them.
	begun []*permit
}

func (f *inFlight) begin(p *permit) {
	f.running++
	f.begun = append(f.begun, p)
}

func (f *inFlight) end(p *permit) {
	p.ended = true
	switch {
	case !p.late:
		f.running--
	default:
		f.late--
		if p.retry {
			f.lateRetries--
		}
	}
	// While the first ones hang, and may not be late, those behind them that have ended pile up.
	if len(f.begun) > 4*(f.concurrency+maxLate) {
		f.begun = slices.DeleteFunc(f.begun, func(p *permit) bool { return p.ended })
	}
}

// markLate marks the attempts that are late by now and returns them, and how long it is until the
// next one is; 0 means that none will be, or none may.
func (f *inFlight) markLate(now time.Time) (late []*permit, next time.Duration) {
	for len(f.begun) > 0 && f.late < maxLate {
		p := f.begun[0]
		if !p.ended {
			if wait := p.began.Add(lateAfter).Sub(now); wait > 0 {
				return late, wait
			}
			p.late = true
			f.running--
			f.late++
			if p.retry {
				f.lateRetries++
			}
			late = append(late, p)
		}
		f.begun = f.begun[1:]
	}
	return late, 0
}

// full reports whether no attempt may begin.
func (f *inFlight) full() bool { return f.running >= f.concurrency }
