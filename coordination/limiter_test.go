package coordination

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/retry"
)

// tooMany is Graph's 429.
type tooMany struct{ after time.Duration }

func (tooMany) Error() string               { return "too many requests" }
func (tooMany) Throttled() bool             { return true }
func (e tooMany) RetryAfter() time.Duration { return e.after }

// newLimiters returns the limiters of n replicas that share one imitation of Redis, whose clock the
// test moves.
func newLimiters(t *testing.T, n int) (*inMemory, []*Limiter) {
	server := newInMemory()
	server.SetTime(time.Now())
	var limiters []*Limiter
	for range n {
		s, _ := newStore(pipe(t, server), "contoso")
		limiters = append(limiters, s.NewLimiter("app", 8))
	}
	return server, limiters
}

// begin asks for want calls and begins those that are allowed.
func begin(t *testing.T, p *Limiter, want int) (calls []int) {
	t.Helper()
	p.Want(want, 0)
	p.exchange(t.Context())
	for range want {
		if _, ok := p.Allow(time.Now()); !ok {
			break
		}
		calls = append(calls, p.Begin(time.Now()))
	}
	p.giveBack()
	return calls
}

// end ends a call and shares the result.
func end(t *testing.T, p *Limiter, call int, err error) {
	t.Helper()
	p.End(call, err, 0, time.Now())
	p.exchange(t.Context())
}

func TestLimiterThrottledCallPausesEveryReplica(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		sa, _ := newStore(client, "contoso")
		sb, _ := newStore(client, "contoso")
		a, b := sa.NewLimiter("app", 8), sb.NewLimiter("app", 8)
		calls := begin(t, a, 3)
		if len(calls) != 3 || len(begin(t, b, 1)) != 1 {
			t.Fatalf("%d calls before any signal", len(calls))
		}
		end(t, a, calls[0], nil)
		const asked = 8 * time.Minute
		end(t, a, calls[1], tooMany{asked})
		if got := begin(t, b, 1); len(got) != 0 {
			t.Fatal("the other replica calls during the pause that Graph asked for")
		}
		// The machine may be busy meanwhile.
		if wait, ok := b.Allow(time.Now()); ok || wait < asked/2 || wait > 2*asked {
			t.Fatalf("wait %s, ok %v", wait, ok)
		}
		if pause := time.Until(b.State().PausedUntil); pause < asked/2 {
			t.Errorf("blocked for %s", pause)
		}
		other := sa.NewLimiter("another app", 8)
		if len(begin(t, other, 1)) != 1 {
			t.Error("one application's pause blocks another")
		}
	})
}

func TestLimiterAllowsOneCallOfAllReplicasAfterAPause(t *testing.T) {
	server, limiters := newLimiters(t, 2)
	a, b := limiters[0], limiters[1]
	end(t, a, begin(t, a, 1)[0], tooMany{10 * time.Second})
	server.SetTime(time.Now().Add(11 * time.Second))
	first := begin(t, a, 4)
	if len(first) != 1 || len(begin(t, b, 4)) != 0 {
		t.Fatalf("%d calls of one replica beside those of the other", len(first))
	}
	end(t, a, first[0], nil)
	if len(begin(t, b, 1)) != 1 {
		t.Error("after the first success the other replica may not call")
	}
}

func TestLimiterLooksOftenAfterAPause(t *testing.T) {
	server, limiters := newLimiters(t, 2)
	a, b := limiters[0], limiters[1]
	end(t, a, begin(t, a, 1)[0], tooMany{10 * time.Second})
	b.again = lookSeldom // it has looked in vain for a long time
	b.Want(4, 0)
	if again, _ := b.exchange(t.Context()); again != lookAtMost {
		t.Fatalf("looks again after %s of a pause of 10 s", again)
	}
	server.SetTime(time.Now().Add(11 * time.Second))
	begin(t, a, 1)
	if again, _ := b.exchange(t.Context()); again != lookAgain {
		t.Errorf("looks again after %s while another replica's call tests whether the pause is over", again)
	}
}

// Between two exchanges, a limiter goes by its own clock, which must not move meanwhile.
func TestLimiterAsksLessOftenWhileItWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, limiters := newLimiters(t, 2)
		a, b := limiters[0], limiters[1]
		end(t, a, begin(t, a, 1)[0], tooMany{10 * time.Second})
		server.SetTime(time.Now().Add(11 * time.Second))
		if len(begin(t, a, 1)) != 1 { // its end shows whether the pause is over
			t.Fatal("no call after the pause")
		}
		b.Want(4, 0)
		exchanges := 0
		for waited := time.Duration(0); waited < 10*time.Second; exchanges++ {
			if exchanges > 100 {
				t.Fatalf("it asks Redis %d times within %s", exchanges, waited)
			}
			again, _ := b.exchange(t.Context())
			waited += again
		}
		if exchanges > 30 {
			t.Errorf("it asks Redis %d times within 10 s", exchanges)
		}
	})
}

func TestLimiterKeepsCountingLongCalls(t *testing.T) {
	server, limiters := newLimiters(t, 2)
	a, b := limiters[0], limiters[1]
	end(t, a, begin(t, a, 1)[0], tooMany{10 * time.Second})
	began := time.Now().Add(11 * time.Second)
	server.SetTime(began)
	if len(begin(t, a, 1)) != 1 { // one at a time
		t.Fatal("no call after the pause")
	}
	a.Want(0, 0)
	for passed := time.Duration(0); passed < 4*goneAfter; passed += seenEvery + time.Millisecond {
		server.SetTime(began.Add(passed))
		if again, _ := a.exchange(t.Context()); again > seenEvery {
			t.Fatalf("reports that it is alive after %s", again)
		}
		if b.exchange(t.Context()); b.own.State().InFlight != 1 {
			t.Fatalf("the others count %d calls after %s", b.own.State().InFlight, passed)
		}
	}
}

func TestLimiterSharesPausesWithoutRetryAfter(t *testing.T) {
	server, limiters := newLimiters(t, 2)
	a, b := limiters[0], limiters[1]
	seen := 0
	a.store.cfg.Observe = func(o Observation) {
		if o == BadLimiter {
			seen++
		}
	}
	at := time.Now()
	for range 12 {
		calls := begin(t, a, 1)
		if len(calls) != 1 {
			t.Fatal("no call after the pause")
		}
		end(t, a, calls[0], tooMany{})
		if len(begin(t, b, 1)) != 0 {
			t.Fatal("the other replica calls during the pause")
		}
		at = at.Add(2 * time.Minute)
		server.SetTime(at)
	}
	state, _, _ := a.swap(t.Context(), "", "")
	if next, _, _ := b.change(state, at, nil, 0, 0, 0); next.replaced || seen > 0 {
		t.Errorf("the pauses are forgotten: %s", state)
	}
}

func TestLimiterReplacesTextThatIsTooLong(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		s, seen := newStore(client, "contoso")
		p := s.NewLimiter("app", 8)
		text := `{"Limiter":{},"Replicas":{"` + strings.Repeat("x", maxState) + `":{}}}`
		if err := client.Set(t.Context(), p.key, text, 0).Err(); err != nil {
			t.Fatal(err)
		}
		if len(begin(t, p, 2)) != 2 || seen.of(BadLimiter) != 1 {
			t.Errorf("counted %v", seen.counts)
		}
		if left := client.PTTL(t.Context(), p.key).Val(); left <= 0 || left > keepState {
			t.Errorf("the state is kept for %s", left)
		}
	})
}

func TestLimiterForgetsCallsOfDeadReplica(t *testing.T) {
	server, limiters := newLimiters(t, 2)
	a, b := limiters[0], limiters[1]
	end(t, a, begin(t, a, 1)[0], tooMany{10 * time.Second})
	server.SetTime(time.Now().Add(11 * time.Second))
	if len(begin(t, a, 1)) != 1 { // this call never ends
		t.Fatal("no call after the pause")
	}
	if len(begin(t, b, 1)) != 0 {
		t.Fatal("two calls at once")
	}
	server.SetTime(time.Now().Add(11*time.Second + goneAfter + time.Second))
	if len(begin(t, b, 1)) != 1 {
		t.Error("a dead replica blocks the others forever")
	}
}

func TestLimiterGivesBackUnusedCalls(t *testing.T) {
	_, limiters := newLimiters(t, 2)
	a, b := limiters[0], limiters[1]
	a.Want(5, 0)
	a.exchange(t.Context())
	a.giveBack()
	a.exchange(t.Context())
	b.Want(1, 0)
	b.exchange(t.Context())
	if n := b.own.State().InFlight; n != 1 {
		t.Errorf("%d calls are in flight for the others, want one", n)
	}
}

func TestLimiterGoesOnAloneWithoutRedis(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, limiters := newLimiters(t, 2)
		a, b := limiters[0], limiters[1]
		end(t, b, begin(t, b, 1)[0], tooMany{30 * time.Second})
		begin(t, a, 1) // learns of the pause
		server.leave()
		if _, news := a.exchange(t.Context()); !news || !a.alone {
			t.Fatal("nobody reports that Redis is away")
		}
		if wait, ok := a.Allow(time.Now()); ok || wait < 20*time.Second {
			t.Fatalf("the known pause is forgotten: wait %s, ok %v", wait, ok)
		}
		a.own = retry.NewLimiter(maxInFlight) // the pause is over
		if _, ok := a.Allow(time.Now()); !ok {
			t.Fatal("no call without Redis")
		}
		call := a.Begin(time.Now())
		server.comeBack()
		a.store.until = time.Time{} // as after a second
		if _, news := a.exchange(t.Context()); !news || a.alone {
			t.Fatal("nobody reports that Redis is back")
		}
		end(t, a, call, nil)
		if n := a.own.State().InFlight; n != 0 {
			t.Errorf("%d calls are in flight after the last has ended", n)
		}
	})
}

func TestLimiterReplacesImplausibleState(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":               "hello",
		"no limiter":            `{"Limiter":null}`,
		"another shape":         `{"Limiter":{"InFlight":"many"}}`,
		"an endless pause":      `{"Limiter":{"Hold":"2999-01-01T00:00:00Z"},"Replicas":{}}`,
		"an unreadable time":    `{"Limiter":{"Hold":"yesterday"}}`,
		"an impossible replica": `{"Limiter":{},"Replicas":{"x":{"InFlight":1e99}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			server, limiters := newLimiters(t, 1)
			if err := server.Set(limiters[0].key, text); err != nil {
				t.Fatal(err)
			}
			replaced := 0
			limiters[0].store.cfg.Observe = func(o Observation) {
				if o == BadLimiter {
					replaced++
				}
			}
			if len(begin(t, limiters[0], 2)) != 2 || replaced != 1 {
				t.Errorf("no call may begin, or the replacement is not counted: counted %d", replaced)
			}
		})
	}
}

func TestLimiterCountsConcurrentReplicas(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		const replicas, each = 4, 200
		var wait sync.WaitGroup
		var begun atomic.Int32
		var last *Limiter
		for range replicas {
			s, _ := newStore(client, "contoso")
			p := s.NewLimiter("app", 8)
			last = p
			wait.Go(func() {
				var mu sync.Mutex // like the lock of the owner of the calls
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				left := each
				grant := func() {
					mu.Lock()
					defer mu.Unlock()
					for left > 0 {
						p.Want(left, 0)
						if _, ok := p.Allow(time.Now()); !ok {
							return
						}
						call := p.Begin(time.Now())
						left--
						begun.Add(1)
						p.End(call, nil, 0, time.Now())
					}
					stop()
				}
				grant()
				p.Run(ctx, grant)
			})
		}
		wait.Wait()
		state, _, _ := last.swap(t.Context(), "", "")
		made, _, _ := last.change(state, time.Now(), nil, 0, 0, 0)
		if n := begun.Load(); n != replicas*each || made.Limiter.State().InFlight != 0 || made.Limiter.Last < replicas*each {
			t.Errorf("%d calls began; Redis counts %d, and %d are in flight", n, made.Limiter.Last, made.Limiter.State().InFlight)
		}
	})
}
