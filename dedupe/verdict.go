package dedupe

import (
	"crypto/sha256"
	"hash/maphash"
	"time"
)

// Verdict is what the last decisive attempt for a user means for later events, in the form in which
// replicas exchange it. The zero Verdict means that there is none.
type Verdict struct {
	// Start is when the attempt started; the window is counted from there.
	Start time.Time
	// Covers is a time: the verdict covers events that were enqueued before it. It is zero when the
	// attempt failed, or when the time is not certain.
	Covers time.Time
	// Entity and Sequence identify the newest message that the attempt was made for. They are empty
	// when the attempt failed.
	Entity   string
	Sequence int64
}

// verdict is a Verdict in little space: there is one per remembered user.
type verdict struct {
	// covers is Verdict.Covers: an event that was enqueued before it was enqueued before the
	// attempt started, however wrong the clocks are. 0 covers nothing.
	covers instant
	// until is the end of the window.
	until instant
	// message is the one that the attempt was made for; 0 when the attempt failed.
	message messageHash
}

// instant is a time in whole microseconds since 1970. It needs a third of the space of a time.Time.
// Nanoseconds would overflow before 1678 and after 2262, and times from outside the process can be
// that wrong: zero in Windows FILETIME is 1601.
type instant int64

// instantOf rounds down, and limits the time to the years 1 to 9999.
func instantOf(t time.Time) instant {
	return instant(min(max(t.Unix(), -62_135_596_800), 253_402_300_799)*1e6 + int64(t.Nanosecond())/1e3)
}

func (i instant) time() time.Time { return time.UnixMicro(int64(i)) }

// messageHash identifies a message in a third of its space. Two messages have the same hash with a
// probability of 1 in 2^64. Nobody can choose such messages, because each process hashes with a
// seed of its own.
type messageHash uint64

var seed = maphash.MakeSeed()

func messageHashOf(entity string, sequence int64) messageHash {
	return messageHash(maphash.Comparable(seed, Position{Entity: entity, Sequence: sequence}))
}

// covered reports whether the successful attempt decides the event, too. It does if the event was
// enqueued before the attempt started. It also does if the attempt was made for the event's own
// message, which was delivered again because its settlement was lost.
func (v verdict) covered(p Position) bool {
	if p.Enqueued.Unix() <= 0 {
		return false // the enqueued time is not known: no broker is that old
	}
	return v.covers > 0 && p.Enqueued.Before(v.covers.time()) ||
		v.message != 0 && messageHashOf(p.Entity, p.Sequence) == v.message
}

// parkedUntil returns the end of the window, at most a window from now, so that a clock that was
// set back parks nobody for longer. It uses the wall clock alone, so that the same window always
// has the same end.
func (v verdict) parkedUntil(now time.Time, window time.Duration) time.Time {
	return now.Add(min(v.until.time().Sub(now), window)).Round(0)
}

// Attempt is when an attempt was made, by the clocks of both sides.
type Attempt struct {
	// Start is this process's clock just before the request was sent.
	Start time.Time
	// Duration is how long it took, by the monotonic clock.
	Duration time.Duration
	// ServerDate is the Date of Graph's answer, in whole seconds, rounded down. It is zero if the
	// answer had none.
	ServerDate time.Time
}

// maxDateSkew is the greatest difference between this process's clock and a Date that is believed.
// A proxy's Date can be wrong by centuries. If this process's clock is wrong instead, the price is
// an extra attempt.
const maxDateSkew = time.Hour

// coversBefore returns a time: the attempt covers events that were enqueued before it. The time is
// the attempt's start, minus a margin for the skew of the broker's clock. The start is taken from
// this process's clock and from Graph's, and the earlier one counts. So a Date, however wrong, can
// only make it earlier. Without a Date it returns the zero time, which covers nothing, since this
// process's clock alone may be hours ahead. A second attempt does no harm, but a missing one does.
func (a Attempt) coversBefore(margin time.Duration) time.Time {
	if a.ServerDate.Sub(a.Start.Add(a.Duration)).Abs() > maxDateSkew { // a missing Date is in the year 1
		return time.Time{}
	}
	start := a.Start
	if theirs := a.ServerDate.Truncate(time.Second).Add(-a.Duration); theirs.Before(start) {
		start = theirs
	}
	return start.Add(-margin)
}

// remember keeps a verdict that this process or another replica has reached. An event that was
// covered once stays covered.
func (l *Ledger) remember(key string, reached Verdict, now time.Time) verdict {
	// Sub uses the monotonic clock for an attempt of this process. The end is at most a window from
	// now.
	left := min(l.cfg.Window-now.Sub(reached.Start), l.cfg.Window)
	v := verdict{until: instantOf(now.Add(left))}
	if reached.Entity != "" {
		v.message = messageHashOf(reached.Entity, reached.Sequence)
	}
	if !reached.Covers.IsZero() {
		// No attempt covers what was enqueued less than a margin before its start.
		v.covers = min(instantOf(reached.Covers), instantOf(reached.Start.Add(-l.cfg.SkewMargin)))
	}
	if before, ok := l.verdicts.get(key); ok {
		if v.message == 0 || before.message != 0 && before.until > v.until {
			v.message = before.message // that of the last success
		}
		v.covers = max(v.covers, before.covers)
		v.until = max(v.until, min(before.until, instantOf(now.Add(l.cfg.Window))))
	}
	l.verdicts.put(key, v, now)
	return v
}

// plausible reports whether another replica can have reached this verdict. Its attempt must not
// have started in the future, by clocks that differ by at most the margin.
func (l *Ledger) plausible(theirs Verdict, now time.Time) bool {
	return !theirs.Start.After(now.Add(l.cfg.SkewMargin))
}

// memory remembers verdicts, bounded by number and time. To forget one is always safe: it costs an
// attempt. Two generations make forgetting cheap, without any data per verdict.
type memory struct {
	max     int           // verdicts in both generations
	keep    time.Duration // verdicts are kept this long at least, if max allows, and twice as long at most
	rotated time.Time
	users   Generations[fingerprint, verdict]
}

// fingerprint identifies a user's key in less than half of its space. It is half of a SHA-256 sum,
// so no two users have the same one, by chance or on purpose.
type fingerprint [16]byte

func fingerprintOf(key string) fingerprint {
	var room [128]byte // most keys fit, and need no memory of their own
	sum := sha256.Sum256(append(room[:0], key...))
	return fingerprint(sum[:16])
}

func (m *memory) get(key string) (verdict, bool) {
	return m.users.Get(fingerprintOf(key))
}

func (m *memory) put(key string, v verdict, now time.Time) {
	if m.users.Young() >= (m.max+1)/2 || now.Sub(m.rotated) >= m.keep {
		m.users.Rotate()
		m.rotated = now
	}
	m.users.Set(fingerprintOf(key), v)
}

func (m *memory) len() int { return m.users.Len() }
