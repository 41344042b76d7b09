package retry

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// breakAfter is for how many distinct users in a row calls must fail until the fault is taken for everyone's.
	breakAfter = 3
	// probeFirst and probeMax bound the wait between two probes, which doubles: an outage costs Graph one call in 10 s.
	probeFirst = time.Second
	probeMax   = 10 * time.Second
)

// Breaker stops all calls while nothing can succeed, and then lets one at a time probe, until Graph has answered one well.
// "Well" is a success, or an answer about one user.
//
// It opens at once on a Systemic failure and on a Retry-After beyond MaxRetryAfter, and on Shared failures of three
// distinct users in a row. A new Breaker is half-open: the first call tells.
//
// It is not safe for concurrent use: whoever lets calls begin owns it.
type Breaker struct {
	closed bool
	cause  error     // of the last failure while not closed; nil before the first call
	since  time.Time // when it opened
	next   time.Time // no probe before
	waits  *backoff.ExponentialBackOff

	probe   string // the user of the probe on the wire, "" for none
	row     map[string]bool
	tried   map[string]int // when each user was last tried since it opened, by count
	attempt int
}

// NewBreaker returns a half-open Breaker.
func NewBreaker() *Breaker {
	return &Breaker{
		waits: doubling(probeFirst, probeMax),
		row:   map[string]bool{},
		tried: map[string]int{},
	}
}

// Closed says that calls are not held back.
func (b *Breaker) Closed() bool { return b.closed }

// Open says since when calls are held back, and by which failure. The time is zero when they are not, or when no call has
// failed yet.
func (b *Breaker) Open() (since time.Time, cause error) {
	if b.closed || b.cause == nil {
		return time.Time{}, nil
	}
	return b.since, b.cause
}

// Allow says whether a call may begin. If not, wait is how long until a probe is due; 0 means when the probe has ended.
func (b *Breaker) Allow(now time.Time) (wait time.Duration, ok bool) {
	switch {
	case b.closed:
		return 0, true
	case b.probe != "":
		return 0, false
	}
	wait = max(0, b.next.Sub(now))
	return wait, wait == 0
}

// Tried is 0 for a user whose call was not tried since the breaker opened, and grows with each try of any user: a probe
// should go to the lowest. One user's own trouble must not be taken for everyone's.
func (b *Breaker) Tried(user string) int { return b.tried[user] }

// Begin tells of a call that begins, after Allow.
func (b *Breaker) Begin(user string) {
	if !b.closed {
		b.probe = user
	}
}

// Cancel takes a Begin back: no call was made, or it was cut off by ourselves.
func (b *Breaker) Cancel(user string) {
	if b.probe == user {
		b.probe = ""
	}
}

// End tells how a call ended; err is nil for success.
func (b *Breaker) End(user string, err error, now time.Time) {
	wasProbe := b.probe == user
	b.Cancel(user)
	after := After(err)
	switch {
	case excused(err):
	case throttled(err):
		if retryAfter(err) > MaxRetryAfter {
			b.open(err, now, after)
		}
	case systemic(err):
		b.failed(user, wasProbe, err, now, after)
	case shared(err):
		b.row[user] = true
		if !b.closed || len(b.row) >= breakAfter {
			b.failed(user, wasProbe, err, now, after)
		}
	case !b.closed && b.cause != nil && !wasProbe:
		// A call that was under way when it opened says nothing new, however well it ended.
	default:
		b.closed, b.cause = true, nil
		b.waits.Reset()
		clear(b.row)
		clear(b.tried)
	}
}

func (b *Breaker) failed(user string, wasProbe bool, err error, now time.Time, after time.Duration) {
	for other := range b.row {
		b.try(other)
	}
	clear(b.row)
	b.try(user)
	if b.closed || wasProbe { // calls that were under way when it opened say nothing new
		b.open(err, now, max(after, b.waits.NextBackOff()))
	}
}

func (b *Breaker) try(user string) {
	b.attempt++
	b.tried[user] = b.attempt
}

func (b *Breaker) open(err error, now time.Time, wait time.Duration) {
	if b.closed || b.cause == nil {
		b.since = now
	}
	b.closed, b.cause = false, err
	b.next = now.Add(wait)
}

// Forget drops what is known of a user who is not in hand any more.
func (b *Breaker) Forget(user string) { delete(b.tried, user) }
