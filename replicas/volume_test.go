package replicas

import (
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

func TestAllReplicasTogetherCallNoMoreThanMayBe(t *testing.T) {
	eachRedis(t, func(t *testing.T, client *redis.Client) {
		a, _ := newStore(client, "contoso")
		b, _ := newStore(client, "contoso")
		for i, s := range []*Store{a, b, a, b, a} {
			if may, total := s.Count(t.Context(), fmt.Sprint(i), 5, time.Hour); !may || total != i+1 {
				t.Fatalf("user %d: may %v, total %d", i, may, total)
			}
		}
		if may, total := b.Count(t.Context(), "one too many", 5, time.Hour); may || total != 5 {
			t.Errorf("may %v, total %d", may, total)
		}
		if may, _ := b.Count(t.Context(), "0", 5, time.Hour); !may {
			t.Error("somebody who was called before counts twice")
		}
		if may, total := b.Count(t.Context(), "one too many", 0, time.Hour); !may || total != 6 {
			t.Errorf("without a bound: may %v, total %d", may, total)
		}
		other, _ := newStore(client, "fabrikam")
		if _, total := other.Count(t.Context(), "0", 5, time.Hour); total != 1 {
			t.Errorf("another tenant counts %d", total)
		}
	})
}

func TestWhoWasCalledBeforeTheWindowCountsNoMore(t *testing.T) {
	server := miniredis.RunT(t)
	start := time.Now()
	server.SetTime(start)
	s, _ := newStore(dial(t, server.Addr()), "contoso")
	s.Count(t.Context(), "1", 2, time.Hour)
	server.SetTime(start.Add(30 * time.Minute))
	s.Count(t.Context(), "2", 2, time.Hour)
	if may, _ := s.Count(t.Context(), "3", 2, time.Hour); may {
		t.Error("three of two within the hour")
	}
	server.SetTime(start.Add(61 * time.Minute))
	if may, total := s.Count(t.Context(), "3", 2, time.Hour); !may || total != 2 {
		t.Errorf("an hour later: may %v, total %d", may, total)
	}
	server.Close()
	if may, _ := s.Count(t.Context(), "4", 2, time.Hour); !may {
		t.Error("nobody may be called without Redis")
	}
}
