package retry_test

import (
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/retry"
)

var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// closed returns a breaker after its first success.
func closed() *retry.Breaker {
	b := retry.NewBreaker()
	b.Begin("first")
	b.End("first", nil, midnight)
	return b
}

func TestBreakerStartsHalfOpen(t *testing.T) {
	b := retry.NewBreaker()
	if _, ok := b.Allow(midnight); !ok || b.Closed() {
		t.Fatal("a new breaker must allow one call, and not be closed")
	}
	b.Begin("ada")
	if _, ok := b.Allow(midnight); ok {
		t.Error("a second call before the first has ended")
	}
	b.End("ada", nil, midnight)
	if _, ok := b.Allow(midnight); !ok || !b.Closed() {
		t.Error("not closed by a success")
	}
}

func TestBreakerOpensForThreeDistinctUsersInARow(t *testing.T) {
	b := closed()
	for range 20 {
		b.End("ada", failure{shared: true}, midnight)
	}
	if !b.Closed() {
		t.Fatal("one user's own trouble stopped everyone")
	}
	b.End("grace", failure{shared: true}, midnight)
	b.End("alan", nil, midnight)
	b.End("edsger", failure{shared: true}, midnight)
	b.End("barbara", failure{shared: true}, midnight)
	if !b.Closed() {
		t.Fatal("opened although a call succeeded in between")
	}
	b.End("tony", failure{shared: true}, midnight)
	if since, cause := b.Open(); b.Closed() || since != midnight || cause == nil {
		t.Errorf("open since %v because of %v", since, cause)
	}
}

func TestBreakerOpensAtOnceWhenNobodyCanSucceed(t *testing.T) {
	for name, err := range map[string]error{
		"no permission":            failure{systemic: true},
		"a Retry-After of a day":   throttling{24 * time.Hour},
		"a probe that fails again": failure{systemic: true, after: time.Minute},
	} {
		b := closed()
		b.End("ada", err, midnight)
		wait, ok := b.Allow(midnight)
		if ok || b.Closed() || wait <= 0 || wait > retry.MaxRetryAfter {
			t.Errorf("%s: allowed %v, next probe in %v", name, ok, wait)
		}
	}
	b := closed()
	b.End("ada", throttling{time.Minute}, midnight)
	if !b.Closed() {
		t.Error("opened by an ordinary 429, which is the pace's business")
	}
}

func TestBreakerProbesGoRound(t *testing.T) {
	b := closed()
	for _, user := range []string{"ada", "grace", "alan"} {
		b.End(user, failure{shared: true}, midnight)
	}
	if b.Tried("tony") != 0 || b.Tried("alan") == 0 {
		t.Error("the probe should go to somebody who did not fail")
	}
	now := midnight
	var last time.Duration
	for range 20 {
		wait, ok := b.Allow(now)
		if ok {
			t.Fatal("no pause between probes")
		}
		last = wait
		now = now.Add(wait)
		b.Begin("tony")
		b.End("tony", failure{shared: true}, now)
	}
	if last > 15*time.Second {
		t.Errorf("%v between probes: a stolen device waits that long after the outage", last)
	}
	now = now.Add(time.Minute)
	b.Begin("ada")
	b.End("ada", nil, now)
	if !b.Closed() || b.Tried("tony") != 0 {
		t.Error("a success must end it, and forget who failed")
	}
}
