// Package retry decides whether, when and how often attempts are made: the budget of one user's
// attempts, the rate limiter for the attempts of all users, and the circuit breaker that stops them
// while none can succeed.
//
// It knows failures only by small interfaces that errors may implement:
//
//	Permanent() bool           another attempt cannot help: give up now
//	Systemic() bool            the fault hits everyone (no token, no permission): no attempt can succeed
//	Throttled() bool           too many calls: the server asks all callers to pause
//	Shared() bool              the fault may hit everyone (server down): only another user's success can tell
//	Suspicious() bool          the fault is of a kind that hits everyone; several in a row raise suspicion
//	MaxFailures() int          how many counted failures of this kind are accepted; 0 leaves it to the Policy
//	Lagging() bool             the answer may change soon (replication): it is final after Policy.LaggingFor
//	Excused() bool             the cause is removed already (a token was renewed): try again at no cost
//	RetryAfter() time.Duration how long the server asked not to be called
//
// An error that implements none of them is an answer about one user, and counts against that user's
// budget.
//
// Only success proves that the server is well: a Shared failure counts only if another user's
// attempt succeeded that began after this user's previous failure. Then the fault is the user's
// own.
package retry

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// MaxRetryAfter bounds how long a Retry-After is obeyed. Then one attempt asks again. A broken
// proxy that asks for a day must not keep a stolen device signed in for a day.
const MaxRetryAfter = 10 * time.Minute

// Policy bounds what one user's attempts may cost.
type Policy struct {
	// MaxAttempts is how many counted failures are final; at least 1.
	MaxAttempts int
	// InitialInterval is the first wait after a failure. Each following wait is twice as long, with
	// ±50 % jitter, up to MaxInterval.
	InitialInterval time.Duration
	MaxInterval     time.Duration
	// MaxAge is the age from which Shared failures count even if nobody else succeeds. It begins
	// with the first failure that is not Throttled, Systemic, or Excused.
	MaxAge time.Duration
	// LaggingFor is how long a Lagging failure is not final, from that same attempt on. 0 makes it
	// final at once.
	LaggingFor time.Duration
}

// Validate returns an error if no Retrier can follow the policy.
func (p Policy) Validate() error {
	if p.MaxAttempts < 1 || p.InitialInterval <= 0 || p.MaxInterval < p.InitialInterval {
		return fmt.Errorf("impossible policy %+v: it needs at least 1 attempt, and 0 < InitialInterval <= MaxInterval", p)
	}
	return nil
}

// Retrier makes budgets under one Policy. All attempts at one server must share it, because it
// learns from the successes of some users whether the failures of others are their own. It is safe
// for concurrent use.
type Retrier struct {
	policy Policy
	// lastSuccess is when the latest successful attempt began, in Unix nanoseconds. Of two
	// attempts, the one that began later is the latest.
	lastSuccess atomic.Int64
}

// New returns a Retrier. It panics if the policy is not valid. This is a programming error, because
// the configuration is validated before.
func New(policy Policy) *Retrier {
	if err := policy.Validate(); err != nil {
		panic(fmt.Sprintf("retry: %v", err))
	}
	return &Retrier{policy: policy}
}

// Apart returns a Retrier with the same Policy that knows nothing of r's successes, for attempts
// that can fail while r's succeed.
func (r *Retrier) Apart() *Retrier { return &Retrier{policy: r.policy} }

// ExhaustedError is the final error when a budget is used up. Err is the last failure.
type ExhaustedError struct {
	Attempts int
	Elapsed  time.Duration
	Err      error
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("gave up after %d attempts in %s: %v", e.Attempts, e.Elapsed.Round(time.Second), e.Err)
}

func (e *ExhaustedError) Unwrap() error { return e.Err }

// Budget bounds how many failures one user may have until the last one is final. Waiting costs
// nothing, and neither do failures that hit everyone. Only one goroutine may use it at a time.
type Budget struct {
	retrier  *Retrier
	waits    *backoff.ExponentialBackOff // nil until something fails
	start    time.Time                   // of the first attempt that failed for a reason of the user's own
	began    time.Time                   // of the last attempt
	since    time.Time                   // of the last such failure, or start; a success that began later is proof
	attempts int
	failures int // that do not hit everyone
	counted  int // of these, the ones that use the budget up
	unproved bool
	refused  int       // throttled answers in a row
	first    time.Time // the first of them
}

// maxRefused bounds how much longer than Retry-After a user waits who is throttled while others are
// not.
const maxRefused = 30 * time.Second

// Budget returns a new budget. Its time begins with the first failure that is not Throttled,
// Systemic, or Excused.
func (r *Retrier) Budget() *Budget {
	return &Budget{retrier: r}
}

// Proved notes that an attempt that began at this time has succeeded. Failures of other users since
// then are their own.
func (r *Retrier) Proved(began time.Time) {
	for at := began.UnixNano(); ; {
		last := r.lastSuccess.Load()
		if at <= last || r.lastSuccess.CompareAndSwap(last, at) {
			return
		}
	}
}

// doubling returns waits that double from first up to most, with ±50 % jitter unless options say
// otherwise. They never end: a budget counts failures and not time, because a wait that the server
// asks for must not use it up.
func doubling(first, most time.Duration, options ...backoff.ExponentialBackOffOpts) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(append([]backoff.ExponentialBackOffOpts{
		backoff.WithInitialInterval(first),
		backoff.WithMaxInterval(most),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0),
	}, options...)...)
}

// Attempt notes that an attempt begins now.
func (b *Budget) Attempt() {
	b.began = time.Now()
	b.attempts++
}

// Attempts returns how many attempts have begun.
func (b *Budget) Attempts() int { return b.attempts }

// Unproved reports whether the last failure did not count, because nothing has proved that the
// server is well.
func (b *Budget) Unproved() bool { return b.unproved }

// Own reports whether a failure has counted: the server was well for others meanwhile.
func (b *Budget) Own() bool { return b.counted > 0 }

// HasFailed reports whether an attempt has failed with an error that is not Throttled, Systemic, or
// Excused.
func (b *Budget) HasFailed() bool { return b.failures > 0 }

// Refused reports whether the user was throttled at least twice in a row: others should be tried
// first.
func (b *Budget) Refused() bool { return b.refused > 1 }

// Succeeded ends the attempt with success. It is proof for the budgets of other users.
func (b *Budget) Succeeded() { b.retrier.Proved(b.began) }

// Failed ends the attempt with a failure. It returns how long to wait before the next attempt, or a
// final error: err itself when it is permanent or no longer lagging, and otherwise an
// *ExhaustedError.
//
// After a failure that stops everyone, the wait is 0, because the rate limiter or the breaker
// delays the next attempt.
func (b *Budget) Failed(err error) (wait time.Duration, final error) {
	p := b.retrier.policy
	if throttled(err) {
		return b.throttle(err), nil
	}
	if excused(err) || systemic(err) {
		return 0, nil // it says nothing about this user
	}
	b.refused = 0
	if b.failures == 0 {
		b.start, b.since = b.began, b.began
	}
	elapsed := time.Since(b.start)
	// If a success began before the last failure, it was only slow. It does not prove that the
	// server is well now.
	proved := b.retrier.lastSuccess.Load() > b.since.UnixNano()
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

// throttle returns how long to wait after a throttled answer. The rate limiter makes everybody
// wait. A user who is throttled again and again while others succeed waits longer, because each of
// their attempts stops everybody.
func (b *Budget) throttle(err error) time.Duration {
	if b.refused++; b.refused == 1 {
		b.first = time.Now()
	}
	if !b.Refused() || b.retrier.lastSuccess.Load() <= b.first.UnixNano() {
		return 0
	}
	return After(err) + min(time.Second<<min(b.refused, 10), maxRefused)
}

// wait returns how long to wait after a failure: the next backoff, and no less than Retry-After.
func (b *Budget) wait(err error) time.Duration {
	if b.waits == nil {
		b.waits = doubling(b.retrier.policy.InitialInterval, b.retrier.policy.MaxInterval)
	}
	return max(b.waits.NextBackOff(), After(err))
}

// Sleep waits for d. If ctx ends before, it returns the cause of ctx.
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
	e, ok := errors.AsType[interface {
		error
		Permanent() bool
	}](err)
	return ok && e.Permanent()
}

func systemic(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Systemic() bool
	}](err)
	return ok && e.Systemic()
}

func throttled(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Throttled() bool
	}](err)
	return ok && e.Throttled()
}

func shared(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Shared() bool
	}](err)
	return ok && e.Shared()
}

func suspicious(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Suspicious() bool
	}](err)
	return ok && e.Suspicious()
}

// forbids reports whether the failure is a refusal. A refusal has its own number of failures, and
// is no sign of a server that is down.
func forbids(err error) bool { return suspicious(err) && maxFailures(err) > 0 }

func maxFailures(err error) int {
	e, ok := errors.AsType[interface {
		error
		MaxFailures() int
	}](err)
	if ok {
		return e.MaxFailures()
	}
	return 0
}

func lagging(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Lagging() bool
	}](err)
	return ok && e.Lagging()
}

func excused(err error) bool {
	e, ok := errors.AsType[interface {
		error
		Excused() bool
	}](err)
	return ok && e.Excused()
}

// After returns how long the server asked not to be called, at most MaxRetryAfter. It returns 0 if
// the server did not ask.
func After(err error) time.Duration { return min(retryAfter(err), MaxRetryAfter) }

func retryAfter(err error) time.Duration {
	e, ok := errors.AsType[interface {
		error
		RetryAfter() time.Duration
	}](err)
	if ok {
		return e.RetryAfter()
	}
	return 0
}
