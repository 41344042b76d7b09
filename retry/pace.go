package retry

import (
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// exploreEvery is how long after the last throttled call more is tried than was allowed then.
	exploreEvery = 15 * time.Second
	// forgetAfter is after how much time without being held back an allowance is forgotten: the quota is full again.
	forgetAfter = 5 * time.Minute
	// shortPause is a pause after which all calls may begin at once.
	shortPause = 2 * time.Second
	// usageFrom is the usage from which Graph reports it (https://learn.microsoft.com/graph/throttling,
	// x-ms-throttle-limit-percentage).
	usageFrom = 0.8
)

// Pace lets calls begin as fast as the server allows. It does not know how the server counts (a fixed window, a sliding
// one, a token bucket), and learns from what happens: between two pauses that the server asked for, so many calls went
// through in so much time. From then on each such round lets as many calls through, and pauses by itself; now and then it
// feels, one call at a time, whether more is allowed.
//
// Until the first signal all calls go at full speed. A throttled call holds all others until its Retry-After has passed.
//
// It is not safe for concurrent use: whoever lets calls begin owns it.
type Pace struct {
	limit    int // calls at once
	underWay int

	hold    time.Time     // no call before
	pauses  time.Duration // all that the server asked for, together
	careful bool          // one call at a time until one succeeds
	guesses *backoff.ExponentialBackOff

	last int // number of the last call that began, from 1

	// The round: the calls since the last pause.
	first      int // number of its first call
	begun, ok  int
	start, end time.Time // of the round; end only while an allowance is known

	// The last round that the server ended, until the next begins.
	ended struct {
		first, ok  int
		start, end time.Time
		judged     bool
	}

	// What the server allows, as learned from such rounds.
	allowance int // calls in a round; 0 is not known
	confirmed bool
	short     bool // the last round was much shorter than allowed
	period    time.Duration
	pause     time.Duration // at the end of it

	usage     float64 // as last reported
	usageAt   int     // number of the last call that had begun when that was reported
	throttled time.Time
	held      time.Time // when a call was last held back
}

// NewPace returns a Pace that lets at most limit calls be under way at once.
func NewPace(limit int) *Pace {
	p := &Pace{limit: limit, guesses: doubling(time.Second, time.Minute, backoff.WithRandomizationFactor(0.1))}
	p.ended.judged = true
	return p
}

// Allow says whether a call may begin now. If not, wait is how long until it is worth asking again; 0 means when a call has
// ended.
func (p *Pace) Allow(now time.Time) (wait time.Duration, ok bool) {
	if p.underWay >= p.limit {
		return 0, false
	}
	if wait := p.hold.Sub(now); wait > 0 {
		p.held = now
		return wait, false
	}
	p.judge()
	if p.allowance > 0 && now.Sub(p.held) >= forgetAfter {
		p.allowance, p.confirmed = 0, false
	}
	if p.careful && p.underWay > 0 {
		return 0, false
	}
	if p.allowance == 0 {
		return 0, p.underWay < p.width()
	}
	if p.begun > 0 && !now.Before(p.end) {
		if p.ok > p.allowance && now.Sub(p.throttled) >= 2*exploreEvery {
			p.allowance = p.ok
		}
		p.newRound()
	}
	switch {
	case p.begun < p.allowance:
		return 0, p.underWay < p.ramp()
	case now.Sub(p.throttled) >= exploreEvery:
		return 0, p.underWay < 1
	}
	p.held = now
	return p.end.Sub(now), false
}

// width is how many calls may be under way by the usage that the server reports: half of what seems to be left, so that
// few are refused. How much that is follows from the calls of this round, which are at most all that were counted.
func (p *Pace) width() int {
	if p.usage < usageFrom {
		return p.limit
	}
	left := float64(p.ok) / p.usage * (1 - p.usage)
	return min(p.limit, max(1, int(left/2)))
}

// ramp is how many calls may be under way in a round: after a long pause more with each that goes through, so that a pause
// that was too short costs one refused call and not all that may be under way. A short pause needs no such care, and has
// no time for it, once it is known that the allowance is not what was left over from a quiet time.
func (p *Pace) ramp() int {
	switch {
	case p.pause >= shortPause:
		return min(p.limit, 1+p.ok)
	case p.confirmed:
		return p.limit
	}
	return min(p.width(), 1+p.ok)
}

// Begin tells of a call that begins, after Allow; its number is given back to End or Cancel.
func (p *Pace) Begin(now time.Time) (call int) {
	if p.begun == 0 {
		p.start, p.end = now, now.Add(p.period)
	}
	p.begun++
	p.underWay++
	p.last++
	return p.last
}

// Cancel takes a Begin back: no call was made, or it was cut off by ourselves.
func (p *Pace) Cancel(call int) {
	p.underWay--
	if call >= p.first {
		p.begun--
	}
}

// End tells how a call ended. usage is the part of the quota that is used, as the server reports it; 0 when it does not.
func (p *Pace) End(call int, err error, usage float64, now time.Time) {
	p.underWay--
	if throttled(err) {
		p.refused(call, err, now)
		return
	}
	p.guesses.Reset()
	if call < p.first && call >= p.ended.first && !p.ended.judged {
		p.ended.ok++ // was under way when the round was ended
	}
	if call < p.first {
		return
	}
	p.careful = false
	if usage >= p.usage || call > p.usageAt { // answers overtake each other
		p.usage, p.usageAt = usage, p.last
	}
	p.ok++
	p.confirmed = p.confirmed || p.allowance > 0 && p.ok >= p.allowance
}

// refused learns from a throttled call.
func (p *Pace) refused(call int, err error, now time.Time) {
	wait := After(err)
	if wait <= 0 && !now.Before(p.hold) {
		wait = p.guesses.NextBackOff()
	}
	if call >= p.first {
		if p.ok > 0 {
			p.ended.first, p.ended.ok, p.ended.judged = p.first, p.ok, false
			p.ended.start, p.ended.end = p.start, now
		}
		p.newRound()
	}
	if until := now.Add(wait); until.After(p.hold) {
		from := now
		if p.hold.After(now) {
			from = p.hold
		}
		p.pauses += until.Sub(from)
		p.hold = until
	}
	p.careful, p.throttled, p.held = true, now, now
}

// judge takes the round that the server ended for what it allows, when the pause that followed is over.
func (p *Pace) judge() {
	if p.ended.judged {
		return
	}
	p.ended.judged = true
	p.pause = p.hold.Sub(p.ended.end)
	n := p.ended.ok
	switch {
	case n < p.allowance/2 && !p.short:
		// Much shorter than the last is not trusted before it has happened twice: a sliding window remembers earlier calls.
		p.short = true
		return
	case p.allowance > 0 && n >= p.allowance:
		// What was found by feeling may be left over from a quiet time: a little more is noise, much more is believed in steps.
		if step := max(1, p.allowance/8); n > p.allowance+step {
			p.allowance += step
		}
		p.confirmed = true
	default:
		p.allowance, p.confirmed = n, false
	}
	p.short = false
	// A round that began long before must not make us pause for longer than makes sense of the server's pause.
	p.period = min(p.hold.Sub(p.ended.start), max(2*p.pause, 2*exploreEvery))
}

func (p *Pace) newRound() {
	p.first = p.last + 1
	p.begun, p.ok = 0, 0
}

// PaceState is a picture of the pace.
type PaceState struct {
	// PerSecond is the rate that the server allowed when it last asked for a pause; +Inf when it never did.
	PerSecond float64
	// HeldUntil is when the pause ends that the server asked for; in the past when there is none.
	HeldUntil time.Time
	// Pauses are all that the server asked for, together.
	Pauses   time.Duration
	UnderWay int
}

// State returns a picture of the pace.
func (p *Pace) State() PaceState {
	s := PaceState{PerSecond: math.Inf(1), HeldUntil: p.hold, Pauses: p.pauses, UnderWay: p.underWay}
	if p.allowance > 0 && p.period > 0 {
		s.PerSecond = float64(p.allowance) / p.period.Seconds()
	}
	return s
}
