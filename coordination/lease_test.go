package coordination

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/dedupe"
)

const (
	ada    = "ada@contoso.com"
	margin = 5 * time.Second
)

// observed counts a Store's observations.
type observed struct {
	mu     sync.Mutex
	counts map[Observation]int
	states []bool // whether Redis answers, at each change
}

func (o *observed) of(what Observation) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts[what]
}

// newStore returns the Store of one replica for a tenant.
func newStore(client *redis.Client, tenant string) (*Store, *observed) {
	seen := &observed{counts: map[Observation]int{}}
	return New(Config{
		Client: client, Scope: []string{"global", tenant, "graph.microsoft.com"}, Timeout: patience,
		LeaseFor: time.Minute, Remember: time.Hour, SkewMargin: margin,
		Observe: func(o Observation) {
			seen.mu.Lock()
			defer seen.mu.Unlock()
			seen.counts[o]++
		},
		Changed: func(err error) { seen.states = append(seen.states, err == nil) },
	}), seen
}

// now is the time, rounded as Redis keeps it.
func now() time.Time { return time.Now().Truncate(time.Microsecond) }

func success(start time.Time, sequence int64) dedupe.Verdict {
	return dedupe.Verdict{Start: start, Covers: start.Add(-margin), Entity: "events", Sequence: sequence}
}

func same(a, b dedupe.Verdict) bool {
	return a.Start.Equal(b.Start) && a.Covers.Equal(b.Covers) && a.Entity == b.Entity && a.Sequence == b.Sequence
}

func TestLeaseBelongsToOneReplica(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		a, _ := newStore(client, "contoso")
		b, seen := newStore(client, "contoso")
		first, last, taken := a.Lease(t.Context(), ada, nil)
		if taken || !last.Start.IsZero() {
			t.Fatalf("first lease: taken %v, last %v", taken, last)
		}
		if _, _, taken := b.Lease(t.Context(), ada, nil); !taken {
			t.Fatal("two replicas have the lease")
		}
		if _, _, taken := b.Lease(t.Context(), "bob@contoso.com", nil); taken {
			t.Fatal("the lease of one user is that of another")
		}
		verdict := success(now(), 7)
		first.End(t.Context(), verdict)
		if last, taken := b.Look(t.Context(), ada, nil); taken || !same(last, verdict) {
			t.Fatalf("after the call: taken %v, last %+v, want %+v", taken, last, verdict)
		}
		if _, last, taken := b.Lease(t.Context(), ada, nil); taken || !same(last, verdict) {
			t.Fatalf("second lease: taken %v, last %+v", taken, last)
		}
		if seen.of(Taken) != 1 || seen.of(Granted) != 2 {
			t.Fatalf("counted %v", seen.counts)
		}
	})
}

func TestLeaseThatEndedEarlyIsCountedAndStaysWithItsNewHolder(t *testing.T) {
	server := miniredis.RunT(t)
	a, seen := newStore(dial(t, server.Addr()), "contoso")
	b, _ := newStore(dial(t, server.Addr()), "contoso")
	late, _, _ := a.Lease(t.Context(), ada, nil)
	server.FastForward(time.Minute)
	if _, _, taken := b.Lease(t.Context(), ada, nil); taken {
		t.Fatal("a lease does not expire")
	}
	late.End(t.Context(), dedupe.Verdict{})
	if seen.of(LeaseLost) != 1 {
		t.Fatalf("counted %v", seen.counts)
	}
	if _, taken := a.Look(t.Context(), ada, nil); !taken {
		t.Fatal("the late end of a lease took it from its new holder")
	}
}

func TestVerdictNeverOverwritesNewerSuccess(t *testing.T) {
	at := now().Add(-time.Minute)
	older, newer, failure := success(at, 1), success(at.Add(10*time.Second), 2), dedupe.Verdict{Start: at.Add(20 * time.Second)}
	failedLater := newer
	failedLater.Start = failure.Start // the window counts from the failure; the covered time stays
	for name, c := range map[string]struct {
		writes []dedupe.Verdict
		want   dedupe.Verdict
	}{
		"in order":                {[]dedupe.Verdict{older, newer}, newer},
		"out of order":            {[]dedupe.Verdict{newer, older}, newer},
		"failure after success":   {[]dedupe.Verdict{newer, failure}, failedLater},
		"failure before success":  {[]dedupe.Verdict{failure, newer}, failedLater},
		"nothing after a success": {[]dedupe.Verdict{newer, {}}, newer},
	} {
		t.Run(name, func(t *testing.T) {
			eachRedis(t, func(t *testing.T, client *redis.Client) {
				s, _ := newStore(client, "contoso")
				for _, v := range c.writes {
					lease, _, _ := s.Lease(t.Context(), ada, nil)
					lease.End(t.Context(), v)
				}
				if last, _ := s.Look(t.Context(), ada, nil); !same(last, c.want) {
					t.Fatalf("last %+v, want %+v", last, c.want)
				}
			})
		})
	}
}

func TestVerdictFromTheFutureIsIgnoredAndReplaced(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		s, seen := newStore(client, "contoso")
		ahead := success(now().Add(time.Hour), 1)
		lease, _, _ := s.Lease(t.Context(), ada, nil)
		lease.End(t.Context(), ahead)
		if last, _ := s.Look(t.Context(), ada, nil); !last.Start.IsZero() || seen.of(Future) != 1 {
			t.Fatalf("last %+v, counted %v", last, seen.counts)
		}
		honest := success(now(), 2)
		lease, _, _ = s.Lease(t.Context(), ada, nil)
		lease.End(t.Context(), honest)
		if last, _ := s.Look(t.Context(), ada, nil); !same(last, honest) {
			t.Fatalf("last %+v, want %+v", last, honest)
		}
		// A start within the margin may come from a different clock, and is believed.
		near := success(now().Add(margin/2), 3)
		lease, _, _ = s.Lease(t.Context(), ada, nil)
		lease.End(t.Context(), near)
		if last, _ := s.Look(t.Context(), ada, nil); !same(last, near) {
			t.Fatalf("last %+v, want %+v", last, near)
		}
	})
}

func TestVerdictUnreadableIsIgnored(t *testing.T) {
	for _, fields := range [][]any{
		{"start", "soon"},
		{"start", "1", "covers", "never"},
		{"start", "1", "covers", "1", "sequence", "first"},
		{"start", "99999999999999999999999"},
	} {
		server := miniredis.RunT(t)
		client := dial(t, server.Addr())
		s, seen := newStore(client, "contoso")
		verdict, _ := s.userKeys(ada)
		client.HSet(t.Context(), verdict, fields...)
		if last, _ := s.Look(t.Context(), ada, nil); !last.Start.IsZero() || seen.of(Unreadable) != 1 {
			t.Errorf("%v: last %+v, counted %v", fields, last, seen.counts)
		}
	}
}

func TestStoreKeysHoldScopeAndNoNames(t *testing.T) {
	server := miniredis.RunT(t)
	client := dial(t, server.Addr())
	s, _ := newStore(client, "contoso")
	lease, _, _ := s.Lease(t.Context(), ada, nil)
	lease.End(t.Context(), success(now(), 1))
	s.Lease(t.Context(), ada, nil)
	keys := server.Keys()
	if len(keys) != 2 {
		t.Fatalf("keys %q", keys)
	}
	for _, key := range keys {
		if !strings.HasPrefix(key, "session-revoker:global:contoso:graph.microsoft.com:{") || strings.Contains(key, "ada") {
			t.Errorf("key %q", key)
		}
	}
	other, _ := newStore(client, "fabrikam")
	if last, taken := other.Look(t.Context(), ada, nil); taken || !last.Start.IsZero() {
		t.Error("one tenant knows of the other")
	}
	if ttl := server.TTL(keys[slices.IndexFunc(keys, func(k string) bool { return strings.HasSuffix(k, ":verdict") })]); ttl != time.Hour {
		t.Errorf("a verdict is kept for %s", ttl)
	}
}

func TestLeaseWithoutRedisIsGrantedAtOnce(t *testing.T) {
	server := newInMemory()
	s, seen := newStore(pipe(t, server), "contoso")
	lease, _, _ := s.Lease(t.Context(), ada, nil)
	server.leave()
	lease.End(t.Context(), success(now(), 1))
	for range 3 {
		lease, last, taken := s.Lease(t.Context(), ada, nil)
		if taken || !last.Start.IsZero() {
			t.Fatalf("taken %v, last %+v", taken, last)
		}
		lease.End(t.Context(), dedupe.Verdict{})
	}
	if seen.of(Away) != 4 || seen.of(LeaseLost) != 0 {
		t.Errorf("counted %v", seen.counts)
	}
	if !slices.Equal(seen.states, []bool{true, false}) {
		t.Errorf("reported %v, want each change once", seen.states)
	}
	server.comeBack()
	// A verdict that is made while Redis comes back is shared.
	lease, _, _ = s.Lease(t.Context(), ada, nil)
	s.until = time.Time{} // as after a second
	verdict := success(now(), 2)
	lease.End(t.Context(), verdict)
	if last, _ := s.Look(t.Context(), ada, nil); !same(last, verdict) {
		t.Errorf("last %+v, want %+v", last, verdict)
	}
	if !slices.Equal(seen.states, []bool{true, false, true}) || seen.of(LeaseLost) != 0 {
		t.Errorf("reported %v, counted %v", seen.states, seen.counts)
	}
}
