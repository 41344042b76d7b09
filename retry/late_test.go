package retry

import (
	"testing"
	"testing/synctest"
	"time"
)

// down is a failure of the server, which may hit everyone.
type down struct{}

func (down) Error() string { return "down" }
func (down) Shared() bool  { return true }

func TestBudgetSuccessThatBeganBeforeTheFailureProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Policy{MaxAttempts: 3, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: time.Hour})
		var slow []*Budget
		for range 10 {
			b := r.Budget()
			b.Attempt()
			slow = append(slow, b)
		}
		time.Sleep(time.Second)
		b := r.Budget()
		for _, other := range slow {
			b.Attempt()
			time.Sleep(time.Second)
			other.Succeeded() // after many seconds: it began while the server was well
			if _, final := b.Failed(down{}); final != nil {
				t.Fatalf("given up after %d attempts during an outage: %v", b.Attempts(), final)
			}
		}
		// Successes that began later are proof.
		for range 2 {
			time.Sleep(time.Second)
			other := r.Budget()
			other.Attempt()
			other.Succeeded()
			b.Attempt()
			if _, final := b.Failed(down{}); final != nil {
				t.Fatalf("given up too early: %v", final)
			}
		}
		time.Sleep(time.Second)
		other := r.Budget()
		other.Attempt()
		other.Succeeded()
		b.Attempt()
		if _, final := b.Failed(down{}); final == nil {
			t.Error("not given up although others succeed")
		}
	})
}

func TestBreakerSlowSuccessFromBeforeDoesNotCloseIt(t *testing.T) {
	now := time.Now()
	b := NewBreaker(false)
	b.Begin("first", false, now)
	b.End("first", false, nil, now)
	b.Begin("slow", false, now)
	b.Begin("other", false, now)
	b.End("other", false, nobodyCan{}, now)
	if b.Closed() {
		t.Fatal("closed although no attempt can succeed")
	}
	b.End("slow", false, nil, now)
	if b.Closed() {
		t.Error("an attempt from before the outage closed the breaker")
	}
	now = now.Add(time.Minute)
	b.CanaryBegin()
	b.CanaryEnd(nobodyCan{}, false, now)
	now = now.Add(time.Minute)
	if _, ok := b.Allow(false, now); !ok {
		t.Fatal("no probe")
	}
	b.Begin("probe", false, now)
	b.End("probe", false, nil, now)
	if !b.Closed() {
		t.Error("a successful probe did not close the breaker")
	}
}

// nobodyCan is a failure that stops everyone.
type nobodyCan struct{}

func (nobodyCan) Error() string  { return "no token" }
func (nobodyCan) Systemic() bool { return true }
