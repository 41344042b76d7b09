package coordination

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/dedupe"
)

// micros formats a time as verdicts hold it.
func micros(at time.Time) string { return fmt.Sprint(at.UnixMicro()) }

func TestLeaseWithoutExpiryIsTakenOver(t *testing.T) {
	for name, write := range map[string]func(ctx context.Context, client *redis.Client, key string) error{
		"forever": func(ctx context.Context, client *redis.Client, key string) error {
			return client.Set(ctx, key, "x", 0).Err()
		},
		"for too long": func(ctx context.Context, client *redis.Client, key string) error {
			return client.Set(ctx, key, "x", time.Hour).Err()
		},
		"of another type": func(ctx context.Context, client *redis.Client, key string) error {
			return client.RPush(ctx, key, "x").Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachRedis(t, func(t *testing.T, client *redis.Client) {
				s, seen := newStore(client, "contoso")
				_, key := s.userKeys(ada)
				if err := write(t.Context(), client, key); err != nil {
					t.Fatal(err)
				}
				if _, taken := s.Look(t.Context(), ada, nil); taken {
					t.Error("a lease without an expiry blocks a call")
				}
				lease, _, taken := s.Lease(t.Context(), ada, nil)
				if taken || seen.of(Endless) != 1 || seen.of(Granted) != 1 {
					t.Fatalf("taken %v, counted %v", taken, seen.counts)
				}
				if left := client.PTTL(t.Context(), key).Val(); left <= 0 || left > time.Minute {
					t.Errorf("the lease that was taken over lasts %s", left)
				}
				if other, _ := newStore(client, "contoso"); !taken {
					if _, _, taken := other.Lease(t.Context(), ada, nil); !taken {
						t.Error("two replicas have the lease")
					}
				}
				lease.End(t.Context(), dedupe.Verdict{})
				if seen.of(LeaseLost) != 0 || client.Exists(t.Context(), key).Val() != 0 {
					t.Errorf("the lease was not given back: counted %v", seen.counts)
				}
			})
		})
	}
}

func TestLeaseOfOthersBlocksForOneLeaseAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newInMemory()
		server.ClockTTL(true)
		s, seen := newStore(pipe(t, server), "contoso")
		_, key := s.userKeys(ada)
		takeAgain := func() { // by another replica that takes the lease again and again
			if err := server.Set(key, "x"); err != nil {
				t.Fatal(err)
			}
			server.SetTTL(key, 30*time.Second)
		}
		var wait Wait
		for round := range 2 {
			began := time.Now()
			for time.Since(began) < time.Hour {
				takeAgain()
				lease, _, taken := s.Lease(t.Context(), ada, &wait)
				if !taken {
					takeAgain()
					lease.End(t.Context(), success(time.Now(), int64(round))) // which leaves the other's lease alone
					break
				}
				if left := wait.Left(); left <= 0 || left > time.Minute {
					t.Fatalf("%s left to wait", left)
				}
				time.Sleep(min(time.Second, wait.Left()))
			}
			if waited := time.Since(began); waited != time.Minute {
				t.Errorf("waited %s for leases that last a minute", waited)
			}
			if seen.of(Overdue) != round+1 || seen.of(LeaseLost) != 0 || !server.Exists(key) {
				t.Errorf("counted %v", seen.counts)
			}
		}
		// A granted lease resets the wait.
		server.Del(key)
		lease, _, _ := s.Lease(t.Context(), ada, &wait)
		lease.End(t.Context(), dedupe.Verdict{})
		time.Sleep(time.Hour)
		takeAgain()
		if _, _, taken := s.Lease(t.Context(), ada, &wait); !taken {
			t.Error("an old wait counts for a new lease")
		}
	})
}

func TestVerdictImpossibleIsIgnoredAndReplaced(t *testing.T) {
	moment := now()
	filetimeZero := time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		fields []any
		want   Observation
	}{
		"from 1601":         {[]any{"start", micros(filetimeZero)}, Stale},
		"covers until 1601": {[]any{"start", micros(moment), "covers", micros(filetimeZero), "sequence", "1"}, Stale},
		"from 1970":         {[]any{"start", "0", "covers", "0", "entity", "events", "sequence", "1"}, Stale},
		"negative":          {[]any{"start", "-1", "covers", "-1", "sequence", "-1"}, Stale},
		"older than any that is kept": {[]any{
			"start", micros(moment.Add(-time.Hour - time.Minute - 2*margin)), "covers", micros(moment.Add(-2 * time.Hour)), "sequence", "1",
		}, Stale},
		"in an hour":         {[]any{"start", micros(moment.Add(time.Hour)), "covers", micros(moment), "sequence", "1"}, Future},
		"at the end of time": {[]any{"start", "9223372036854775807"}, Future},
		"covers later events": {[]any{
			"start", micros(moment), "covers", micros(moment.Add(time.Second)), "sequence", "1",
		}, Implausible},
		"no number":   {[]any{"start", "nan", "covers", "nan"}, Unreadable},
		"without end": {[]any{"start", "inf"}, Unreadable},
		"hexadecimal": {[]any{"start", "0x10"}, Unreadable},
		"an entity of 1 MB": {[]any{
			"start", micros(moment), "covers", micros(moment.Add(-margin)), "entity", strings.Repeat("x", 1<<20), "sequence", "1",
		}, Unreadable},
	} {
		t.Run(name, func(t *testing.T) {
			eachRedis(t, func(t *testing.T, client *redis.Client) {
				s, seen := newStore(client, "contoso")
				key, _ := s.userKeys(ada)
				if err := client.HSet(t.Context(), key, c.fields...).Err(); err != nil {
					t.Fatal(err)
				}
				lease, last, taken := s.Lease(t.Context(), ada, nil)
				if taken || !last.Start.IsZero() || !last.Covers.IsZero() || seen.of(c.want) != 1 {
					t.Fatalf("taken %v, last %+v, counted %v", taken, last, seen.counts)
				}
				honest := success(now(), 2)
				lease.End(t.Context(), honest)
				if last, _ := s.Look(t.Context(), ada, nil); !same(last, honest) {
					t.Errorf("last %+v, want %+v; counted %v", last, honest, seen.counts)
				}
			})
		})
	}
}

func TestVerdictForgetsOldCoverAndKeepsLaterStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newInMemory()
		server.ClockTTL(true)
		s, seen := newStore(pipe(t, server), "contoso")
		first := success(now(), 1)
		lease, _, _ := s.Lease(t.Context(), ada, nil)
		lease.End(t.Context(), first)
		var last dedupe.Verdict
		for range 4 {
			time.Sleep(50 * time.Minute)
			last = dedupe.Verdict{Start: now()}
			lease, shared, _ := s.Lease(t.Context(), ada, nil)
			if shared.Start.IsZero() {
				t.Fatalf("an honest verdict is not believed: counted %v", seen.counts)
			}
			lease.End(t.Context(), last)
		}
		if shared, _ := s.Look(t.Context(), ada, nil); !same(shared, last) || seen.of(Stale) != 0 {
			t.Errorf("shared %+v, want %+v; counted %v", shared, last, seen.counts)
		}
	})
}

func TestStoreReplacesKeysOfAnotherType(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		s, seen := newStore(client, "contoso")
		verdictKey, leaseKey := s.userKeys(ada)
		limiter := s.NewLimiter("app", 8)
		ask := s.prefix + "ask:{" + fingerprint("canary") + "}"
		for _, key := range []string{verdictKey, leaseKey, s.guardKey("device.lost"), ask, limiter.key} {
			client.Del(t.Context(), key)
			if err := client.RPush(t.Context(), key, "x").Err(); err != nil {
				t.Fatal(err)
			}
		}
		client.Del(t.Context(), leaseKey)
		lease, last, taken := s.Lease(t.Context(), ada, nil)
		if taken || !last.Start.IsZero() || seen.of(Unreadable) != 1 {
			t.Fatalf("taken %v, last %+v, counted %v", taken, last, seen.counts)
		}
		client.Del(t.Context(), leaseKey)
		client.RPush(t.Context(), leaseKey, "x")
		lease.End(t.Context(), success(now(), 1))
		if last, _ := s.Look(t.Context(), ada, nil); last.Sequence != 1 {
			t.Errorf("the verdict was not shared: %+v", last)
		}
		if may, added, total := s.Reserve(t.Context(), "device.lost", ada, 5, time.Hour); !may || !added || total != 1 {
			t.Errorf("may %v, added %v, total %d", may, added, total)
		}
		if may, ok := s.MayAsk(t.Context(), "canary", 5*time.Second); !may || !ok {
			t.Errorf("may %v, ok %v", may, ok)
		}
		if len(begin(t, limiter, 2)) != 2 {
			t.Error("no call may begin")
		}
		if seen.of(Away) != 0 || len(seen.states) != 1 || !seen.states[0] {
			t.Errorf("a foreign value is mistaken for Redis being away: counted %v, reported %v", seen.counts, seen.states)
		}
	})
}

func TestMayAskAllowsOneReplicaWithinTheTime(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		a, _ := newStore(client, "contoso")
		b, seen := newStore(client, "contoso")
		if may, ok := a.MayAsk(t.Context(), "canary", time.Hour); !may || !ok {
			t.Fatalf("may %v, ok %v", may, ok)
		}
		for _, s := range []*Store{a, b} {
			if may, ok := s.MayAsk(t.Context(), "canary", time.Hour); may || !ok {
				t.Fatalf("again: may %v, ok %v", may, ok)
			}
		}
		if may, _ := b.MayAsk(t.Context(), "something else", time.Hour); !may {
			t.Error("one purpose blocks another")
		}
		key := a.prefix + "ask:{" + fingerprint("canary") + "}"
		for _, endless := range []time.Duration{0, 2 * time.Hour} {
			if err := client.Set(t.Context(), key, "x", endless).Err(); err != nil {
				t.Fatal(err)
			}
			if may, ok := b.MayAsk(t.Context(), "canary", time.Hour); !may || !ok {
				t.Errorf("a key that lasts %s blocks everybody", endless)
			}
		}
		if seen.of(Endless) != 2 {
			t.Errorf("counted %v", seen.counts)
		}
	})
}

func TestMayAskWithoutRedisLeavesItToTheCaller(t *testing.T) {
	server := newInMemory()
	s, seen := newStore(pipe(t, server), "contoso")
	server.leave()
	if may, ok := s.MayAsk(t.Context(), "canary", time.Second); may || ok || seen.of(Away) != 1 {
		t.Errorf("may %v, ok %v, counted %v", may, ok, seen.counts)
	}
	if may, added, total := s.Reserve(t.Context(), "device.lost", ada, 1, time.Hour); !may || added || total != 0 {
		t.Errorf("may %v, added %v, total %d", may, added, total)
	}
	s.Refund(t.Context(), "device.lost", ada)
	if seen.of(Away) != 3 {
		t.Errorf("counted %v", seen.counts)
	}
}

func TestMayAskAllowsAnotherAfterTheTime(t *testing.T) {
	server := miniredis.RunT(t)
	s, _ := newStore(dial(t, server.Addr()), "contoso")
	s.MayAsk(t.Context(), "canary", 5*time.Second)
	server.FastForward(5 * time.Second)
	if may, _ := s.MayAsk(t.Context(), "canary", 5*time.Second); !may {
		t.Error("nobody may ask anymore")
	}
}

// FuzzForeign fills every key of Redis with a value of any type, text and expiry. Its property:
// nothing panics, Redis does not count as away, no call waits for longer than a lease, the guard's
// window and MayAsk's time still pass, and what was ignored is counted.
func FuzzForeign(f *testing.F) {
	const kinds = 8
	moment := time.Now()
	for kind := range byte(kinds) {
		for _, text := range []string{
			"", "x", "-1", "inf", "nan", "1e300", micros(moment), micros(moment.Add(time.Hour)),
			`{"Limiter":{"Careful":true,"InFlight":4096}}`, "\x00\xff", strings.Repeat("9", 2000),
		} {
			for _, life := range []int64{0, 30_000, 1 << 40} {
				f.Add(kind, text, text, life)
			}
		}
	}
	server := miniredis.RunT(f)
	client := dial(f, server.Addr())
	f.Fuzz(func(t *testing.T, kind byte, text, more string, life int64) {
		ctx := t.Context()
		server.FlushAll()
		at := time.Now()
		server.SetTime(at)
		s, seen := newStore(client, "contoso")
		limiter := s.NewLimiter("app", 8)
		verdictKey, leaseKey := s.userKeys(ada)
		keys := []string{verdictKey, leaseKey, s.guardKey("k"), s.prefix + "ask:{" + fingerprint("canary") + "}", limiter.key}
		for _, key := range keys {
			switch kind % kinds {
			case 0:
				client.Set(ctx, key, text, 0)
			case 1:
				client.HSet(ctx, key, "start", text, "covers", more, "entity", text, "sequence", more)
			case 2:
				client.HSet(ctx, key, "start", micros(at), "covers", more, "entity", text, "sequence", "1")
			case 3:
				client.RPush(ctx, key, text, more)
			case 4:
				client.SAdd(ctx, key, text, more)
			case 5:
				var score float64
				_, _ = fmt.Sscan(text, &score)
				client.ZAdd(ctx, key, redis.Z{Score: score, Member: more})
			case 6:
				client.ZAdd(ctx, key, redis.Z{Score: float64(at.UnixMilli()), Member: text},
					redis.Z{Score: float64(at.Add(100 * time.Hour).UnixMilli()), Member: more})
			case 7:
				client.HSet(ctx, key, text, more)
			}
			if life > 0 {
				client.PExpire(ctx, key, time.Duration(min(life, 1<<40))*time.Millisecond)
			}
		}

		var wait Wait
		lease, last, taken := s.Lease(ctx, ada, &wait)
		if latest := time.Now().Add(margin + time.Second); last.Start.After(latest) || last.Covers.After(last.Start) ||
			!last.Start.IsZero() && last.Start.Before(at.Add(-2*time.Hour)) {
			t.Fatalf("an implausible verdict is believed: %+v", last)
		}
		if left := wait.Left(); taken && left > time.Minute {
			t.Fatalf("the call waits %s", left)
		}
		if taken {
			wait.until = time.Now() // the time of one lease has passed
			if lease, _, taken = s.Lease(ctx, ada, &wait); taken || seen.of(Overdue) != 1 {
				t.Fatalf("the call waits forever: counted %v", seen.counts)
			}
		}
		honest := success(now(), 7)
		lease.End(ctx, honest)
		if last, _ := s.Look(ctx, ada, nil); last.Start.Before(honest.Start) {
			t.Fatalf("the verdict is not shared: %+v", last)
		}
		s.Reserve(ctx, "k", ada, 1, time.Hour)
		may, ok := s.MayAsk(ctx, "canary", 5*time.Second)
		if !ok {
			t.Fatal("Redis is mistaken for being away")
		}
		begin(t, limiter, 1)

		server.SetTime(at.Add(time.Hour + time.Millisecond))
		server.FastForward(time.Hour)
		if again, _ := s.MayAsk(ctx, "canary", 5*time.Second); !again {
			t.Fatalf("nobody may ask after %v", may)
		}
		if may, _, _ := s.Reserve(ctx, "k", ada, 1, time.Hour); !may {
			t.Fatal("the guard blocks everybody for longer than its window")
		}
		if seen.of(Away) != 0 || len(seen.states) != 1 || !seen.states[0] {
			t.Fatalf("a foreign value is mistaken for Redis being away: counted %v, reported %v", seen.counts, seen.states)
		}
		ignored := 0
		for _, o := range []Observation{Future, Stale, Implausible, Unreadable, Endless, Overdue, Overfull, BadLimiter} {
			ignored += seen.of(o)
		}
		if ignored == 0 && (life == 0 || life > 3_600_000) {
			t.Fatalf("none of it is counted: %v", seen.counts)
		}
	})
}
