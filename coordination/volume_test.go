package coordination

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func TestReserveBoundsAllReplicasTogether(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		a, _ := newStore(client, "contoso")
		b, _ := newStore(client, "contoso")
		for i, s := range []*Store{a, b, a, b, a} {
			if may, _, total := s.Reserve(t.Context(), "device.lost", fmt.Sprint(i), 5, time.Hour); !may || total != i+1 {
				t.Fatalf("user %d: may %v, total %d", i, may, total)
			}
		}
		if may, _, total := b.Reserve(t.Context(), "device.lost", "one too many", 5, time.Hour); may || total != 5 {
			t.Errorf("may %v, total %d", may, total)
		}
		if may, _, _ := b.Reserve(t.Context(), "device.lost", "0", 5, time.Hour); !may {
			t.Error("a user who was called before counts twice")
		}
		if may, _, total := b.Reserve(t.Context(), "device.lost", "one too many", 0, time.Hour); !may || total != 6 {
			t.Errorf("without a bound: may %v, total %d", may, total)
		}
		other, _ := newStore(client, "fabrikam")
		if _, _, total := other.Reserve(t.Context(), "device.lost", "0", 5, time.Hour); total != 1 {
			t.Errorf("another tenant counts %d", total)
		}
	})
}

func TestReserveForgetsUsersAfterTheWindow(t *testing.T) {
	server := newInMemory()
	start := time.Now()
	server.SetTime(start)
	s, _ := newStore(pipe(t, server), "contoso")
	s.Reserve(t.Context(), "device.lost", "1", 2, time.Hour)
	server.SetTime(start.Add(30 * time.Minute))
	s.Reserve(t.Context(), "device.lost", "2", 2, time.Hour)
	if may, _, _ := s.Reserve(t.Context(), "device.lost", "3", 2, time.Hour); may {
		t.Error("three users instead of two within the hour")
	}
	server.SetTime(start.Add(61 * time.Minute))
	if may, _, total := s.Reserve(t.Context(), "device.lost", "3", 2, time.Hour); !may || total != 2 {
		t.Errorf("an hour later: may %v, total %d", may, total)
	}
	server.leave()
	if may, _, _ := s.Reserve(t.Context(), "device.lost", "4", 2, time.Hour); !may {
		t.Error("nobody may be called without Redis")
	}
}

func TestRefundForgetsUser(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		a, _ := newStore(client, "contoso")
		b, _ := newStore(client, "contoso")
		reserve := func(s *Store, kind, user string) (may, added bool, total int) {
			return s.Reserve(t.Context(), kind, user, 2, time.Hour)
		}
		if may, added, total := reserve(a, "device.lost", "1"); !may || !added || total != 1 {
			t.Fatalf("may %v, added %v, total %d", may, added, total)
		}
		if may, added, total := reserve(b, "device.lost", "1"); !may || added || total != 1 {
			t.Fatalf("counted before: may %v, added %v, total %d", may, added, total)
		}
		reserve(b, "device.lost", "2")
		if may, added, total := reserve(a, "device.lost", "3"); may || added || total != 2 {
			t.Fatalf("one too many: may %v, added %v, total %d", may, added, total)
		}
		if may, added, total := reserve(a, "person.leaves", "3"); !may || !added || total != 1 {
			t.Errorf("one event type's count is another's: may %v, added %v, total %d", may, added, total)
		}
		b.Refund(t.Context(), "device.lost", "2")
		b.Refund(t.Context(), "device.lost", "nobody")
		if may, added, total := reserve(a, "device.lost", "3"); !may || !added || total != 2 {
			t.Errorf("after a refund: may %v, added %v, total %d", may, added, total)
		}
		if keys := client.Keys(t.Context(), "*device*").Val(); len(keys) != 0 {
			t.Errorf("the type appears in %q", keys)
		}
	})
}

func TestReserveIgnoresUsersCountedInTheFuture(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		s, seen := newStore(client, "contoso")
		key := s.guardKey("device.lost")
		moment := time.Now()
		for member, score := range map[string]float64{
			"tomorrow": float64(moment.Add(24 * time.Hour).UnixMilli()), "never": math.Inf(1), "always": math.Inf(-1), "long ago": 0,
			"soon": float64(moment.Add(countSlack / 2).UnixMilli()), // as if Redis' clock was set back
		} {
			if err := client.ZAdd(t.Context(), key, redis.Z{Score: score, Member: member}).Err(); err != nil {
				t.Fatal(err)
			}
		}
		if may, added, total := s.Reserve(t.Context(), "device.lost", ada, 2, time.Hour); !may || !added || total != 2 {
			t.Errorf("may %v, added %v, total %d", may, added, total)
		}
		if seen.of(Overfull) != 1 {
			t.Errorf("counted %v", seen.counts)
		}
		if left := client.PTTL(t.Context(), key).Val(); left <= 0 || left > time.Hour {
			t.Errorf("the count is kept for %s", left)
		}
	})
}

func TestReserveStartsAgainAfterAnImpossibleCount(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		s, seen := newStore(client, "contoso")
		s.beyond = 100
		key := s.guardKey("device.lost")
		fill := redis.NewScript(`for i = 1, tonumber(ARGV[1]) do redis.call('ZADD', KEYS[1], ARGV[2], i) end return 1`)
		for _, c := range []struct {
			people int
			may    bool
		}{
			{105, false}, // plausible: the guard is on the safe side
			{106, true},  // more than anybody can have counted
		} {
			client.Del(t.Context(), key)
			if err := fill.Run(t.Context(), client, []string{key}, c.people, time.Now().UnixMilli()).Err(); err != nil {
				t.Fatal(err)
			}
			if may, _, total := s.Reserve(t.Context(), "device.lost", ada, 5, time.Hour); may != c.may {
				t.Errorf("with %d people: may %v, total %d", c.people, may, total)
			}
		}
		if seen.of(Overfull) != 1 || seen.of(Away) != 0 {
			t.Errorf("counted %v", seen.counts)
		}
	})
}

func TestReserveRecoversFromAFilledCountAfterTheWindow(t *testing.T) {
	server := miniredis.RunT(t)
	start := time.Now()
	server.SetTime(start)
	client := dial(t, server.Addr())
	s, _ := newStore(client, "contoso")
	key := s.guardKey("device.lost")
	for i := range 100 {
		client.ZAdd(t.Context(), key, redis.Z{Score: float64(start.Add(countSlack).UnixMilli()), Member: i})
	}
	if may, _, total := s.Reserve(t.Context(), "device.lost", ada, 5, time.Hour); may || total != 100 {
		t.Fatalf("may %v, total %d", may, total)
	}
	if may, _, _ := s.Reserve(t.Context(), "person.leaves", ada, 5, time.Hour); !may {
		t.Error("another event type is blocked, too")
	}
	server.SetTime(start.Add(time.Hour + countSlack))
	if may, _, total := s.Reserve(t.Context(), "device.lost", ada, 5, time.Hour); !may || total != 1 {
		t.Errorf("a window later: may %v, total %d", may, total)
	}
}
