package retry_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/session-revoker/session-revoker/retry"
)

// unavailable is a failure of the server, such as a 503. It may hit everyone.
type unavailable struct{}

func (unavailable) Error() string    { return "503 Service Unavailable" }
func (unavailable) Shared() bool     { return true }
func (unavailable) Suspicious() bool { return true }

// A failure that may hit everyone counts against a user only if another user's attempt has
// succeeded in the meantime. This proves that the server works, so the failure concerns this user
// only.
func ExampleBudget() {
	retrier := retry.New(retry.Policy{
		MaxAttempts: 2, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: 24 * time.Hour,
	})
	ada, grace := retrier.Budget(), retrier.Budget()
	fail := func() {
		ada.Attempt()
		_, final := ada.Failed(unavailable{})
		var exhausted *retry.ExhaustedError
		fmt.Printf("attempt %d: proved %v, final %v\n", ada.Attempts(), !ada.Unproved(), errors.As(final, &exhausted))
	}
	for range 3 { // an outage: the failures cost ada nothing
		fail()
	}
	for range 2 { // the server works for grace
		time.Sleep(time.Millisecond)
		grace.Attempt()
		grace.Succeeded()
		fail()
	}
	// Output:
	// attempt 1: proved false, final false
	// attempt 2: proved false, final false
	// attempt 3: proved false, final false
	// attempt 4: proved true, final false
	// attempt 5: proved true, final true
}

// Three users in a row fail, the canary fails twice, and the breaker opens. Then a user who was not
// tried since is probed, and their success closes the breaker. The caller passes the time, so
// nothing here waits.
func ExampleBreaker() {
	breaker := retry.NewBreaker(true)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	attempt := func(user string, err error) {
		if _, ok := breaker.Allow(breaker.Tried(user) > 0, now); !ok {
			fmt.Println(user, "must wait")
			return
		}
		breaker.Begin(user, false, now)
		breaker.End(user, false, err, now)
	}
	attempt("ada", nil)
	fmt.Println("closed:", breaker.Closed())
	for _, user := range []string{"grace", "edgar", "mary"} {
		attempt(user, unavailable{})
	}
	suspected, _ := breaker.Suspicion()
	fmt.Println("suspicion:", suspected)
	for range 2 {
		wait, _ := breaker.CanaryDue(true, true, now)
		now = now.Add(wait)
		breaker.CanaryBegin()
		breaker.CanaryEnd(unavailable{}, false, now)
	}
	fmt.Println("closed:", breaker.Closed())
	attempt("grace", nil) // she has failed, so others are probed first
	attempt("ada", nil)
	fmt.Println("closed:", breaker.Closed())
	// Output:
	// closed: true
	// suspicion: true
	// closed: false
	// grace must wait
	// closed: true
}

// The server refuses a call and asks for a pause. The limiter delays all calls until it is over.
func ExampleLimiter() {
	limiter := retry.NewLimiter(16)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for i := range 3 {
		call := limiter.Begin(now)
		if i < 2 {
			limiter.End(call, nil, 0, now)
		} else {
			limiter.End(call, throttling{10 * time.Second}, 0, now)
		}
	}
	wait, ok := limiter.Allow(now)
	fmt.Println("may begin:", ok, "ask again in", wait)
	_, ok = limiter.Allow(now.Add(wait))
	fmt.Println("may begin:", ok)
	// Output:
	// may begin: false ask again in 10s
	// may begin: true
}
