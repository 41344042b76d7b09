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
	// Covers is the instant before which an event must have been enqueued to be covered; zero when the attempt failed.
	Covers time.Time
	// Entity and Sequence are the newest message that the attempt was made for; empty when it failed.
	Entity   string
	Sequence int64
}

// verdict is what the last decided attempt for a user means for events to come. It is kept small: there is one per
// remembered user.
type verdict struct {
	// covers: an event enqueued before this instant (Unix, ns) was enqueued before the attempt started, whatever the
	// clocks say. 0 covers nothing: the attempt failed.
	covers int64
	// until is the end of the window, in Unix nanoseconds.
	until int64
	// message is the one that the attempt was made for; it means nothing when it failed.
	message mark
}

// mark stands for a message in a third of its space. That two messages share one happens once in 2^64, and nobody can bring it about: each process has
// marks of its own.
type mark uint64

var seed = maphash.MakeSeed()

func markOf(entity string, sequence int64) mark {
	return mark(maphash.Comparable(seed, Position{Entity: entity, Sequence: sequence}))
}

// Covered: the event was enqueued before the successful attempt started. So was the very message that the attempt was made
// for, should its settlement have been lost.
func (v verdict) covered(p Position) bool {
	// A message without an enqueued time was enqueued nobody knows when.
	return v.covers != 0 && !p.Enqueued.IsZero() && (p.Enqueued.UnixNano() < v.covers || markOf(p.Entity, p.Sequence) == v.message)
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

// coversBefore is the instant before which an event must have been enqueued to be covered by the attempt: the start of the
// attempt, minus a margin for the skew between the broker's clock and the others. Of our clock and Graph's the
// earlier one counts; without Graph's, the margin is taken twice. When in doubt, the call is made again: a second call
// is harmless, a missing one is not.
func (a Attempt) coversBefore(margin time.Duration) time.Time {
	if a.ServerDate.IsZero() {
		return a.Start.Add(-2 * margin)
	}
	start := a.Start
	if theirs := a.ServerDate.Add(-a.Duration); theirs.Before(start) {
		start = theirs
	}
	return start.Add(-margin)
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
