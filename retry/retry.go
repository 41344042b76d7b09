// Package retry decides whether, when and how often attempts are made: the budget of one user's call, the pace that Graph
// allows to all calls, and the breaker that stops them while nothing can succeed.
//
// It knows failures only through small interfaces that the errors may implement:
//
//	Permanent() bool           repeating cannot help: give up now
//	Systemic() bool            the fault hits everyone (no token, no permission): no attempt of anybody can succeed
//	Throttled() bool           too many calls: the server asks all callers to pause
//	Shared() bool              the fault may hit everyone (server down): only another user's success can tell
//	Suspicious() bool          the fault is of a kind that hits everyone; several in a row raise suspicion
//	MaxFailures() int          how many counted failures of this kind are accepted; 0 leaves it to the Policy
//	Lagging() bool             the answer may be true later (replication): believe it after Policy.LaggingFor
//	Excused() bool             the fault is already mended (a token renewed): try again, it counts for nothing
//	RetryAfter() time.Duration the server asked not to be called earlier
//
// An error that implements none of them is an answer about one user; it counts against that user's budget.
//
// Only success proves: a Shared failure counts only if an attempt for another user succeeded that began after this user's
// previous failure. Then the server is well, and the fault is the user's own.
package retry

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// MaxRetryAfter bounds how long one Retry-After is believed; then one call asks again. A broken proxy that asks for a
// day must not leave a stolen device signed in for a day.
const MaxRetryAfter = 10 * time.Minute

// Policy is the budget of one user's call.
type Policy struct {
	// MaxAttempts is how many counted failures are accepted before giving up; at least 1.
	MaxAttempts int
	// InitialInterval is the first wait; each following one doubles, with ±50 % jitter, up to MaxInterval.
	InitialInterval time.Duration
	MaxInterval     time.Duration
	// MaxAge is the age at which Shared failures count although nobody else succeeds; it begins with the first failure of the user's own.
	MaxAge time.Duration
	// LaggingFor is how long after the first attempt that told something of the user a Lagging failure is taken for replication lag; 0 believes it at once.
	LaggingFor time.Duration
}

// Retrier hands out budgets under one Policy. It is safe for concurrent use, and must be shared by all calls to one server:
// it learns from the successes of some whether the failures of others are their own.
type Retrier struct {
	policy Policy
	good   atomic.Int64 // when the attempt began that began last of those that succeeded, in Unix nanoseconds
}

// New returns a Retrier. It panics on a policy without attempts or intervals: a programming error, since
// configuration is validated before.
func New(policy Policy) *Retrier {
	if policy.MaxAttempts < 1 || policy.InitialInterval <= 0 || policy.MaxInterval < policy.InitialInterval {
		panic(fmt.Sprintf("retry: impossible policy %+v", policy))
	}
	return &Retrier{policy: policy}
}

// ExhaustedError says that the budget is spent; Err is the last failure.
type ExhaustedError struct {
	Attempts int
	Elapsed  time.Duration
	Err      error
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("gave up after %d attempts in %s: %v", e.Attempts, e.Elapsed.Round(time.Second), e.Err)
}

func (e *ExhaustedError) Unwrap() error { return e.Err }

// Budget is what one user's failures may cost until giving up. Waiting costs nothing, and neither do failures that are
// everyone's. One goroutine uses it.
type Budget struct {
	retrier  *Retrier
	waits    *backoff.ExponentialBackOff // nil until something fails
	start    time.Time                   // the first attempt that ended with a failure of the user's own
	began    time.Time                   // the attempt under way
	since    time.Time                   // the last failure, or start: what began later can tell whether failures are everyone's
	attempts int
	failures int // that were not everyone's
	counted  int // of them, those that use the budget up
	unproved bool
	refused  int       // throttled answers in a row
	first    time.Time // the first of them
}

// maxRefused bounds what a user who alone is throttled waits beyond Retry-After.
const maxRefused = 30 * time.Second

// Budget begins a new budget; its time runs from the first attempt that tells something of the user.
func (r *Retrier) Budget() *Budget {
	return &Budget{retrier: r}
}

// Proved says that an attempt succeeded which began then: from that time on failures of others are their own.
func (r *Retrier) Proved(began time.Time) {
	for at := began.UnixNano(); ; {
		good := r.good.Load()
		if at <= good || r.good.CompareAndSwap(good, at) {
			return
		}
	}
}

// doubling returns waits that double from first to most, with ±50 % jitter unless options say otherwise, for ever: the time
// spent is no budget, attempts are. Waiting on a server's order must not use it up.
func doubling(first, most time.Duration, options ...backoff.ExponentialBackOffOpts) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(append([]backoff.ExponentialBackOffOpts{
		backoff.WithInitialInterval(first),
		backoff.WithMaxInterval(most),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0),
	}, options...)...)
}

// Attempt counts an attempt that begins now.
func (b *Budget) Attempt() {
	b.began = time.Now()
	b.attempts++
}

// Attempts is how many were made.
func (b *Budget) Attempts() int { return b.attempts }

// Unproved says that the last failure did not count, since nothing has shown that it is the user's own.
func (b *Budget) Unproved() bool { return b.unproved }

// Own says that a failure has counted: Graph was well for others meanwhile.
func (b *Budget) Own() bool { return b.counted > 0 }

// HasFailed says that the user has failed at least once, for whatever reason of their own.
func (b *Budget) HasFailed() bool { return b.failures > 0 }

// Refused says that the user was throttled twice in a row: others should be tried first.
func (b *Budget) Refused() bool { return b.refused > 1 }

// Succeeded tells of an attempt that succeeded, so that others can tell their own failures from everyone's.
func (b *Budget) Succeeded() { b.retrier.Proved(b.began) }

// Failed says what follows from an attempt's failure: how long to wait until the next one, or a final error, which is the
// failure itself when it is permanent or no longer taken for lag, and otherwise an *ExhaustedError.
//
// A failure that stops everyone is not waited for here: rate limiter and breaker hold the next attempt back.
func (b *Budget) Failed(err error) (wait time.Duration, final error) {
	p := b.retrier.policy
	if throttled(err) {
		return b.throttle(err), nil
	}
	if excused(err) || systemic(err) {
		return 0, nil // everyone's: nothing is known of this user
	}
	b.refused = 0
	if b.failures == 0 {
		b.start, b.since = b.began, b.began
	}
	elapsed := time.Since(b.start)
	// A success of an attempt that began before, and took long, does not tell that the server is well now.
	proved := b.retrier.good.Load() > b.since.UnixNano()
	b.since, b.unproved = time.Now(), false
	b.failures++
	switch {
	case permanent(err), lagging(err) && elapsed >= p.LaggingFor:
		return 0, err
	case lagging(err):
		return min(b.wait(err), p.LaggingFor-elapsed), nil
	case shared(err) && !proved && elapsed < p.MaxAge:
		b.unproved = true
		return b.wait(err), nil
	}
	most := p.MaxAttempts
	if fewer := maxFailures(err); fewer > 0 {
		most = min(most, fewer)
	}
	if b.counted++; b.counted >= most {
		return 0, &ExhaustedError{Attempts: b.attempts, Elapsed: elapsed, Err: err}
	}
	return b.wait(err), nil
}

// throttle is how long to wait after a throttled answer. The rate limiter makes everybody wait; but whoever is throttled again
// and again while others succeed waits longer by themselves, since each of their attempts stops everybody.
func (b *Budget) throttle(err error) time.Duration {
	if b.refused++; b.refused == 1 {
		b.first = time.Now()
	}
	if !b.Refused() || b.retrier.good.Load() <= b.first.UnixNano() {
		return 0
	}
	return After(err) + min(time.Second<<min(b.refused, 10), maxRefused)
}

func (b *Budget) wait(err error) time.Duration {
	if b.waits == nil {
		b.waits = doubling(b.retrier.policy.InitialInterval, b.retrier.policy.MaxInterval)
	}
	return max(b.waits.NextBackOff(), After(err))
}

// Sleep waits for d or until ctx ends, and then returns the cause of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func permanent(err error) bool {
	var e interface{ Permanent() bool }
	return errors.As(err, &e) && e.Permanent()
}

func systemic(err error) bool {
	var e interface{ Systemic() bool }
	return errors.As(err, &e) && e.Systemic()
}

func throttled(err error) bool {
	var e interface{ Throttled() bool }
	return errors.As(err, &e) && e.Throttled()
}

func shared(err error) bool {
	var e interface{ Shared() bool }
	return errors.As(err, &e) && e.Shared()
}

func suspicious(err error) bool {
	var e interface{ Suspicious() bool }
	return errors.As(err, &e) && e.Suspicious()
}

// forbids says that the failure is a refusal, and no sign of a server that is down: a kind with a budget of its own.
func forbids(err error) bool { return suspicious(err) && maxFailures(err) > 0 }

func maxFailures(err error) int {
	var e interface{ MaxFailures() int }
	if errors.As(err, &e) {
		return e.MaxFailures()
	}
	return 0
}

func lagging(err error) bool {
	var e interface{ Lagging() bool }
	return errors.As(err, &e) && e.Lagging()
}

func excused(err error) bool {
	var e interface{ Excused() bool }
	return errors.As(err, &e) && e.Excused()
}

// After is how long the server asked not to be called, at most MaxRetryAfter; 0 when it did not.
func After(err error) time.Duration { return min(retryAfter(err), MaxRetryAfter) }

func retryAfter(err error) time.Duration {
	var e interface{ RetryAfter() time.Duration }
	if errors.As(err, &e) {
		return e.RetryAfter()
	}
	return 0
}
