package dedupe

import (
	"crypto/sha256"
	"hash/maphash"
	"time"
)

// Verdict is what the last decided attempt for a user means for events to come, as replicas tell it to each other. The zero
// Verdict is none.
type Verdict struct {
	// Start is when the attempt started; the window is counted from there.
	Start time.Time
	// Covers is the instant before which an event must have been enqueued to be covered; zero when the attempt failed, or when it cannot be
	// told.
	Covers time.Time
	// Entity and Sequence are the newest message that the attempt was made for; empty when it failed.
	Entity   string
	Sequence int64
}

// verdict is what the last decided attempt for a user means for events to come. It is kept small: there is one per
// remembered user.
type verdict struct {
	// covers: an event enqueued before this instant was enqueued before the attempt started, whatever the clocks say. 0 covers nothing.
	covers instant
	// until is the end of the window.
	until instant
	// message is the one that the attempt was made for; 0 is none: the attempt failed.
	message mark
}

// instant is a time in whole microseconds since 1970, in a third of the space of a time.Time. Nanoseconds would overflow beyond the years
// 1678 to 2262, and times from outside lie there: FILETIME zero is 1601.
type instant int64

// instantOf rounds down. What lies beyond the years 1 to 9999 is taken for the nearest of these.
func instantOf(t time.Time) instant {
	return instant(min(max(t.Unix(), -62_135_596_800), 253_402_300_799)*1e6 + int64(t.Nanosecond())/1e3)
}

func (i instant) time() time.Time { return time.UnixMicro(int64(i)) }

// mark stands for a message in a third of its space. That two messages share one happens once in 2^64, and nobody can bring it about: each process has
// marks of its own.
type mark uint64

var seed = maphash.MakeSeed()

func markOf(entity string, sequence int64) mark {
	return mark(maphash.Comparable(seed, Position{Entity: entity, Sequence: sequence}))
}

// covered: the event was enqueued before the successful attempt started. So was the very message that the attempt was made
// for, should its settlement have been lost.
func (v verdict) covered(p Position) bool {
	if p.Enqueued.Unix() <= 0 {
		return false // it was enqueued nobody knows when: no broker is that old
	}
	return v.covers > 0 && p.Enqueued.Before(v.covers.time()) || v.message != 0 && markOf(p.Entity, p.Sequence) == v.message
}

// parkedUntil is the end of the window, at most a window from now: a clock that was set back must not park anybody for longer. It
// is by the wall clock alone, so that the same window has the same end however the clock was adjusted in between.
func (v verdict) parkedUntil(now time.Time, window time.Duration) time.Time {
	return now.Add(min(v.until.time().Sub(now), window)).Round(0)
}

// Attempt is when an attempt took place, by the clocks of both sides.
type Attempt struct {
	// Start is our clock just before the request was sent.
	Start time.Time
	// Duration is how long it took, by the monotonic clock.
	Duration time.Duration
	// ServerDate is the Date of Graph's answer, whole seconds rounded down; zero when there was none.
	ServerDate time.Time
}

// maxDateSkew is how far a Date may lie from our clock to be believed. A proxy's can be wrong by centuries; and if it is our clock that is
// wrong, an extra call does no harm.
const maxDateSkew = time.Hour

// coversBefore is the instant before which an event must have been enqueued to be covered by the attempt: its start, minus a
// margin for the skew between the broker's clock and the others. The start is the earlier of our clock's and Graph's, so
// that a Date, however wrong, can only make it cover less. Without one it covers nothing, the zero time: our own clock alone may be
// hours ahead. When in doubt, the call is made again: a second call is harmless, a missing one is not.
func (a Attempt) coversBefore(margin time.Duration) time.Time {
	if a.ServerDate.Sub(a.Start.Add(a.Duration)).Abs() > maxDateSkew { // no Date is one of the year 1
		return time.Time{}
	}
	start := a.Start
	if theirs := a.ServerDate.Truncate(time.Second).Add(-a.Duration); theirs.Before(start) {
		start = theirs
	}
	return start.Add(-margin)
}

// remember keeps a verdict of ours or of another replica. What was covered once stays so.
func (l *Ledger) remember(key string, known Verdict, now time.Time) verdict {
	// By the monotonic clock, for an attempt of this process, and never further from now than a window.
	left := min(l.cfg.Window-now.Sub(known.Start), l.cfg.Window)
	v := verdict{until: instantOf(now.Add(left))}
	if known.Entity != "" {
		v.message = markOf(known.Entity, known.Sequence)
	}
	if !known.Covers.IsZero() {
		// No attempt covers more than what was enqueued a margin before it.
		v.covers = min(instantOf(known.Covers), instantOf(known.Start.Add(-l.cfg.SkewMargin)))
	}
	if before, ok := l.verdicts.get(key); ok {
		if v.message == 0 || before.message != 0 && before.until > v.until {
			v.message = before.message // of the last attempt that succeeded
		}
		v.covers = max(v.covers, before.covers)
		v.until = max(v.until, min(before.until, instantOf(now.Add(l.cfg.Window))))
	}
	l.verdicts.put(key, v, now)
	return v
}

// plausible says that another replica can have decided this: its attempt did not start in the future, by clocks that differ as much as
// they may.
func (l *Ledger) plausible(known Verdict, now time.Time) bool {
	return !known.Start.After(now.Add(l.cfg.SkewMargin))
}

// memory remembers verdicts, bounded by count and time. Forgetting is always safe: it costs a call. Two generations make
// forgetting cheap, without anything kept per verdict beside itself.
type memory struct {
	max     int           // of both generations
	keep    time.Duration // at least this long, if max allows, and at most twice as long
	rotated time.Time
	young   map[fingerprint]verdict
	old     map[fingerprint]verdict
}

// fingerprint stands for a user's key in less than half of its space. That two users share one is as good as impossible, by
// chance or on purpose: it is half of a SHA-256 sum.
type fingerprint [16]byte

func fingerprintOf(key string) fingerprint {
	sum := sha256.Sum256([]byte(key))
	return fingerprint(sum[:16])
}

func (m *memory) get(key string) (verdict, bool) {
	user := fingerprintOf(key)
	if v, ok := m.young[user]; ok {
		return v, true
	}
	v, ok := m.old[user]
	return v, ok
}

func (m *memory) put(key string, v verdict, now time.Time) {
	if m.young == nil || len(m.young) >= (m.max+1)/2 || now.Sub(m.rotated) >= m.keep {
		m.old, m.young, m.rotated = m.young, map[fingerprint]verdict{}, now
	}
	m.young[fingerprintOf(key)] = v
}

func (m *memory) len() int { return len(m.young) + len(m.old) }
