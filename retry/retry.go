// Package retry decides whether, when and how often a failed attempt is repeated.
//
// It knows failures only through small interfaces that the errors may implement:
//
//	Permanent() bool           repeating cannot help: give up now
//	Systemic() bool            the fault hits everyone (no token, no permission, throttled): wait as long as it takes
//	Shared() bool              the fault may hit everyone (server down): it counts only while others succeed
//	Lagging() bool             the answer may be true later (replication): believe it after Policy.LaggingFor
//	RetryAfter() time.Duration the server asked not to be called earlier
//
// An error that implements none of them counts against the budget and is repeated.
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
	// MaxAge is the age at which Shared failures count although nobody else succeeds.
	MaxAge time.Duration
	// LaggingFor is how long after the first attempt a Lagging failure is taken for replication lag; 0 believes it at once.
	LaggingFor time.Duration
}

// Retrier runs attempts under one Policy. It is safe for concurrent use, and must be shared by all calls to one server:
// it learns from the successes of some whether the failures of others are their own.
type Retrier struct {
	policy    Policy
	successes atomic.Uint64
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

// Failure is one failed attempt that will be repeated.
type Failure struct {
	// Attempt counts from 1.
	Attempt int
	Err     error
	// Wait is how long until the next attempt.
	Wait time.Duration
}

// Do calls attempt until it succeeds, its failure is final, or ctx ends. The error is nil, the failure itself when it is
// permanent or no longer taken for lag, an *ExhaustedError, or the cause of ctx.
//
// ctx ends the waiting and further attempts, never an attempt under way: attempt brings its own context.
// onRetry, which may be nil, is told of each failure before the wait that follows it.
func (r *Retrier) Do(ctx context.Context, attempt func() error, onRetry func(Failure)) error {
	waits := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(r.policy.InitialInterval),
		backoff.WithMaxInterval(r.policy.MaxInterval),
		backoff.WithMultiplier(2),
		// The time spent is not the budget: attempts are. Waiting on a server's order must not use it up.
		backoff.WithMaxElapsedTime(0),
	)
	start := time.Now()
	seen := r.successes.Load()
	counted := 0
	for attempts := 1; ; attempts++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := attempt()
		if err == nil {
			r.successes.Add(1)
			return nil
		}
		elapsed := time.Since(start)
		successes := r.successes.Load()
		switch {
		case permanent(err), lagging(err) && elapsed >= r.policy.LaggingFor:
			return err
		case systemic(err), lagging(err):
		case shared(err) && successes == seen && elapsed < r.policy.MaxAge:
		default:
			if counted++; counted >= r.policy.MaxAttempts {
				return &ExhaustedError{Attempts: attempts, Elapsed: elapsed, Err: err}
			}
		}
		seen = successes
		wait := max(waits.NextBackOff(), min(retryAfter(err), MaxRetryAfter))
		if lagging(err) {
			wait = min(wait, r.policy.LaggingFor-elapsed)
		}
		if onRetry != nil {
			onRetry(Failure{Attempt: attempts, Err: err, Wait: wait})
		}
		if err := Sleep(ctx, wait); err != nil {
			return err
		}
	}
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

func shared(err error) bool {
	var e interface{ Shared() bool }
	return errors.As(err, &e) && e.Shared()
}

func lagging(err error) bool {
	var e interface{ Lagging() bool }
	return errors.As(err, &e) && e.Lagging()
}

func retryAfter(err error) time.Duration {
	var e interface{ RetryAfter() time.Duration }
	if errors.As(err, &e) {
		return e.RetryAfter()
	}
	return 0
}
