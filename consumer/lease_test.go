package consumer_test

import (
	"context"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
)

const leaseFor = 35 * time.Second

// store returns the coordination of a worker through an in-memory Redis, and a function that
// returns how often an observation was made.
func store(t *testing.T, server *miniredis.Miniredis) (*coordination.Store, func(coordination.Observation) int) {
	client := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Dialer: func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	var mu sync.Mutex
	counts := map[coordination.Observation]int{}
	return coordination.New(coordination.Config{
			Client: client, Scope: []string{"test"}, Timeout: time.Second,
			LeaseFor: leaseFor, Remember: time.Hour, SkewMargin: 5 * time.Second,
			Observe: func(o coordination.Observation) {
				mu.Lock()
				defer mu.Unlock()
				counts[o]++
			},
			Changed: func(error) {},
		}), func(o coordination.Observation) int {
			mu.Lock()
			defer mu.Unlock()
			return counts[o]
		}
}

func TestLeaseThatSomebodyElseWroteStopsNobodyForLong(t *testing.T) {
	ago := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(-d).UnixMicro(), 10) }
	for name, c := range map[string]struct {
		// write is called each second with the keys of the only user.
		write   func(server *miniredis.Miniredis, verdict, lease string)
		within  time.Duration
		counted coordination.Observation
	}{
		"a lease without an end": {func(server *miniredis.Miniredis, _, lease string) {
			if !server.Exists(lease) {
				_ = server.Set(lease, "x")
			}
		}, 2 * time.Second, coordination.Endless},
		"a lease that is taken again and again": {func(server *miniredis.Miniredis, _, lease string) {
			_ = server.Set(lease, "x")
			server.SetTTL(lease, leaseFor)
		}, leaseFor + 2*time.Second, coordination.Overdue},
		"a verdict from 1601": {func(server *miniredis.Miniredis, verdict, _ string) {
			server.HSet(verdict, "start", "-11644473600000000", "covers", "-11644473600000000", "sequence", "1")
		}, 2 * time.Second, coordination.Stale},
		"a verdict that moves on": {func(server *miniredis.Miniredis, verdict, _ string) {
			server.HSet(verdict, "start", ago(0), "covers", ago(30*time.Minute), "sequence", "1")
		}, 2*time.Minute + time.Minute + 15*time.Second + time.Minute, coordination.Adopted},
		"both": {func(server *miniredis.Miniredis, verdict, lease string) {
			server.HSet(verdict, "start", ago(0), "covers", ago(30*time.Minute), "sequence", "1")
			_ = server.Set(lease, "x")
			server.SetTTL(lease, leaseFor)
		}, 2*time.Minute + time.Minute + 15*time.Second + time.Minute + leaseFor, coordination.Overdue},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := miniredis.NewMiniRedis()
				server.ClockTTL(true)
				shared, counted := store(t, server)
				// The user's keys, as a replica of the same scope names them.
				other, _ := store(t, server)
				lease, _, _ := other.Lease(t.Context(), ada.ID, nil)
				if lease == nil {
					t.Fatal("no lease")
				}
				locked := server.Keys()[0]
				verdict := strings.TrimSuffix(locked, "lease") + "verdict"
				server.FlushAll()
				w := newWorld(t, settings{coordinator: shared})
				c.write(server, verdict, locked)
				w.run()
				w.send(about(ada))
				began := time.Now()
				for w.counts().Active > 0 && time.Since(began) < time.Hour {
					time.Sleep(time.Second)
					c.write(server, verdict, locked)
				}
				if _, revoked := w.graph.Revoked(ada.ID); !revoked || time.Since(began) > c.within {
					t.Errorf("after %s: revoked %v, want it within %s", time.Since(began), revoked, c.within)
				}
				if counted(c.counted) == 0 || counted(coordination.Away) > 0 {
					t.Errorf("%s was not counted, or Redis was taken for unreachable", c.counted)
				}
			})
		})
	}
}

func TestVerdictOfAnotherReplicaIsCountedWhenItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		server.ClockTTL(true)
		shared, counted := store(t, server)
		w := newWorld(t, settings{coordinator: shared})
		w.send(about(ada))
		time.Sleep(10 * time.Second)
		// Whoever can write to Redis can still forge a plausible verdict.
		other, _ := store(t, server)
		lease, _, _ := other.Lease(t.Context(), ada.ID, nil)
		lease.End(t.Context(), forged(time.Now()))
		w.run()
		w.settled(time.Minute)
		if _, revoked := w.graph.Revoked(ada.ID); revoked || counted(coordination.Adopted) != 1 {
			t.Errorf("revoked %v, counted %d", revoked, counted(coordination.Adopted))
		}
	})
}

// forged returns a verdict as Redis has it: a success whose attempt started at this time.
func forged(start time.Time) dedupe.Verdict {
	return dedupe.Verdict{Start: start, Covers: start.Add(-5 * time.Second), Entity: queue, Sequence: 1000}
}
