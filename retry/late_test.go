package retry

import (
	"testing"
	"testing/synctest"
	"time"
)

// down is a server's failure, which may hit everyone.
type down struct{}

func (down) Error() string { return "down" }
func (down) Shared() bool  { return true }

func TestASuccessThatBeganBeforeTheFailureTellsNothingOfTheServer(t *testing.T) {
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
			if _, final := b.Failed(down{}, false); final != nil {
				t.Fatalf("given up after %d attempts during an outage: %v", b.Attempts(), final)
			}
		}
		// Successes that began later do tell.
		for range 2 {
			time.Sleep(time.Second)
			other := r.Budget()
			other.Attempt()
			other.Succeeded()
			b.Attempt()
			if _, final := b.Failed(down{}, false); final != nil {
				t.Fatalf("given up too early: %v", final)
			}
		}
		time.Sleep(time.Second)
		other := r.Budget()
		other.Attempt()
		other.Succeeded()
		b.Attempt()
		if _, final := b.Failed(down{}, false); final == nil {
			t.Error("not given up although others succeed")
		}
	})
}

func TestASlowSuccessFromBeforeDoesNotCloseTheBreaker(t *testing.T) {
	now := time.Now()
	b := NewBreaker()
	b.Begin("first")
	b.End("first", nil, now)
	for _, user := range []string{"slow", "a", "b", "c"} {
		b.Begin(user)
	}
	for _, user := range []string{"a", "b", "c"} {
		b.End(user, down{}, now)
	}
	if b.Closed() {
		t.Fatal("closed after three failures in a row")
	}
	b.End("slow", nil, now)
	if b.Closed() {
		t.Error("a call from before the outage closed the breaker")
	}
	now = now.Add(time.Minute)
	if _, ok := b.Allow(now); !ok {
		t.Fatal("no probe")
	}
	b.Begin("probe")
	b.End("probe", nil, now)
	if !b.Closed() {
		t.Error("a good probe did not close it")
	}
}
