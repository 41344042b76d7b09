package retry_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/retry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// failure is an error with the methods that retry looks for.
type failure struct {
	permanent, systemic, shared, lagging, suspicious bool
	most                                             int
	after                                            time.Duration
}

func (failure) Error() string               { return "failed" }
func (f failure) Permanent() bool           { return f.permanent }
func (f failure) Systemic() bool            { return f.systemic }
func (f failure) Shared() bool              { return f.shared }
func (f failure) Lagging() bool             { return f.lagging }
func (f failure) Suspicious() bool          { return f.suspicious }
func (f failure) MaxFailures() int          { return f.most }
func (f failure) RetryAfter() time.Duration { return f.after }

var policy = retry.Policy{
	MaxAttempts:     4,
	InitialInterval: time.Second,
	MaxInterval:     8 * time.Second,
	MaxAge:          time.Hour,
	LaggingFor:      30 * time.Second,
}

// do makes attempts as the worker does, without rate limiter and breaker, until one succeeds or a
// failure is final.
func do(ctx context.Context, r *retry.Retrier, attempt func() error) error {
	budget := r.Budget()
	for {
		budget.Attempt()
		err := attempt()
		if err == nil {
			budget.Succeeded()
			return nil
		}
		wait, final := budget.Failed(err)
		if final != nil {
			return final
		}
		if err := retry.Sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// calls runs do with a fixed series of answers, the last of which repeats. It returns the time of
// each call since the start.
func calls(ctx context.Context, r *retry.Retrier, answers ...error) (at []time.Duration, err error) {
	start := time.Now()
	err = do(ctx, r, func() error {
		answer := answers[min(len(at), len(answers)-1)]
		at = append(at, time.Since(start))
		return answer
	})
	return at, err
}

func TestBudgetSuccessIsNotRepeated(t *testing.T) {
	at, err := calls(t.Context(), retry.New(policy), nil)
	if len(at) != 1 || err != nil {
		t.Fatalf("calls %v, error %v", at, err)
	}
}

func TestBudgetPermanentFailureIsNotRepeated(t *testing.T) {
	at, err := calls(t.Context(), retry.New(policy), failure{permanent: true})
	if len(at) != 1 || !errors.As(err, &failure{}) {
		t.Fatalf("calls %v, error %v", at, err)
	}
}

func TestBudgetBackoffDoublesWithJitterAndEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at, err := calls(t.Context(), retry.New(policy), failure{})
		var exhausted *retry.ExhaustedError
		if !errors.As(err, &exhausted) || exhausted.Attempts != 4 || len(at) != 4 {
			t.Fatalf("want exhaustion after 4 attempts, got %d calls and %v", len(at), err)
		}
		if !errors.As(err, &failure{}) {
			t.Errorf("the last failure is lost: %v", err)
		}
		for i, middle := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
			if wait := at[i+1] - at[i]; wait < middle/2 || wait > middle*3/2 {
				t.Errorf("wait %d is %v, want %v ± 50 %%", i+1, wait, middle)
			}
		}
	})
}

func TestBudgetWaitsForRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at, err := calls(t.Context(), retry.New(policy), failure{after: 90 * time.Second}, nil)
		if err != nil || len(at) != 2 || at[1] < 90*time.Second || at[1] > 91*time.Second {
			t.Fatalf("calls at %v, error %v; want the second after 90 s", at, err)
		}
	})
}

func TestBudgetRetryAfterOfADayIsAskedAgainAfterTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at, err := calls(t.Context(), retry.New(policy), failure{after: 24 * time.Hour}, nil)
		if err != nil || len(at) != 2 || at[1] != retry.MaxRetryAfter {
			t.Fatalf("calls at %v, error %v; want the second after %v", at, err, retry.MaxRetryAfter)
		}
	})
}

func TestBudgetSystemicFailuresCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		answers := make([]error, 0, 101)
		for range 100 {
			answers = append(answers, failure{systemic: true})
		}
		at, err := calls(t.Context(), retry.New(policy), append(answers, nil)...)
		if err != nil || len(at) != 101 {
			t.Fatalf("%d calls, error %v; want success at the 101st", len(at), err)
		}
	})
}

func TestBudgetSharedFailureCountsOnlyWhileOthersSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := retry.New(policy)
		ctx, cancel := context.WithCancel(t.Context())
		others := func() { _ = do(ctx, r, func() error { return nil }) }

		count := 0
		err := do(ctx, r, func() error {
			if count++; count > 20 { // 20 failures in a quiet night cost nothing
				others()
			}
			return failure{shared: true}
		})
		cancel()
		var exhausted *retry.ExhaustedError
		if !errors.As(err, &exhausted) || exhausted.Attempts != 20+policy.MaxAttempts {
			t.Fatalf("want exhaustion at attempt %d, got %v", 20+policy.MaxAttempts, err)
		}
	})
}

func TestBudgetSharedFailureCountsAfterMaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		_, err := calls(t.Context(), retry.New(policy), failure{shared: true})
		var exhausted *retry.ExhaustedError
		if !errors.As(err, &exhausted) || time.Since(start) < policy.MaxAge {
			t.Fatalf("after %v: %v; want exhaustion after %v", time.Since(start), err, policy.MaxAge)
		}
	})
}

// Failures without a token say nothing about the user. The age of a user's failures begins with the
// first failure after them.
func TestBudgetAgeBeginsWithTheFirstFailureOfTheUsersOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, own := range map[string]failure{"shared": {shared: true}, "lagging": {lagging: true}} {
			budget := retry.New(policy).Budget()
			budget.Attempt()
			if _, final := budget.Failed(failure{systemic: true}); final != nil {
				t.Fatal(final)
			}
			time.Sleep(2 * policy.MaxAge)
			for range policy.MaxAttempts + 1 {
				budget.Attempt()
				if _, final := budget.Failed(own); final != nil {
					t.Errorf("%s: given up at once after an outage: %v", name, final)
				}
			}
		}
	})
}

func TestBudgetLaggingFailureIsFinalAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at, err := calls(t.Context(), retry.New(policy), failure{lagging: true})
		if last := at[len(at)-1]; last != policy.LaggingFor || !errors.As(err, &failure{}) {
			t.Fatalf("calls at %v, error %v; want the last exactly after %v", at, err, policy.LaggingFor)
		}
		believing := policy
		believing.LaggingFor = 0
		if at, _ := calls(t.Context(), retry.New(believing), failure{lagging: true}); len(at) != 1 {
			t.Errorf("LaggingFor 0: %d calls, want 1", len(at))
		}
	})
}

func TestBudgetRecognizesWrappedFailures(t *testing.T) {
	at, _ := calls(t.Context(), retry.New(policy), fmt.Errorf("call: %w", failure{permanent: true}))
	if len(at) != 1 {
		t.Fatalf("%d calls, want 1", len(at))
	}
}

func TestBudgetKindOfFailureMayHaveAShorterBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at, err := calls(t.Context(), retry.New(policy), failure{most: 2})
		var exhausted *retry.ExhaustedError
		if len(at) != 2 || !errors.As(err, &exhausted) {
			t.Errorf("%d attempts, %v; want 2", len(at), err)
		}
	})
}

func TestBudgetFailureThatStopsEveryoneIsNotTheUsers(t *testing.T) {
	budget := retry.New(policy).Budget()
	for _, err := range []error{failure{systemic: true}, throttling{time.Second}} {
		budget.Attempt()
		if _, final := budget.Failed(err); final != nil || budget.HasFailed() {
			t.Errorf("%v counts against the user", err)
		}
	}
	budget.Attempt()
	if _, _ = budget.Failed(failure{shared: true}); !budget.HasFailed() {
		t.Error("a 503 is not a failure of the user's")
	}
}
