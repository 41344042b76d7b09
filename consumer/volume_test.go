package consumer_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/guard"
)

func TestAnImplausibleVolumeStopsUntilAnOperatorReleasesIt(t *testing.T) {
	const people, limit = 60, 20
	var mu sync.Mutex
	var release guard.Release
	s := settings{
		maxInHand: 16, volume: guard.VolumeConfig{Max: limit, Window: time.Hour},
		release: func() (guard.Release, error) {
			mu.Lock()
			defer mu.Unlock()
			return release, nil
		},
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		for i := range people {
			if err := w.graph.AddUser(leaver(i)); err != nil {
				t.Fatal(err)
			}
			w.send(about(leaver(i)))
		}
		revoked := func() (n int) {
			for i := range people {
				if _, ok := w.graph.Revoked(leaver(i).ID); ok {
					n++
				}
			}
			return n
		}
		w.run()
		time.Sleep(24 * time.Hour) // renewing what is in hand; time alone releases nothing
		if n := revoked(); n != limit {
			t.Fatalf("%d people were signed out, want %d", n, limit)
		}
		if problem := w.health.Problems()[consumer.PartGuard]; !strings.Contains(problem, "worker guard release") || !w.health.Alive() {
			t.Errorf("health: %q, alive %v", problem, w.health.Alive())
		}
		if state := w.metrics.State(); !state.GuardTripped || state.GuardLimit != limit {
			t.Errorf("%+v", state)
		}
		mu.Lock()
		release = guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 1000, By: "ada@desk"}
		mu.Unlock()
		w.settled(10 * time.Minute)
		if n := revoked(); n != people || w.health.Problems()[consumer.PartGuard] != "" {
			t.Errorf("%d people, health %v", n, w.health.Problems())
		}
		w.wantDead(nil)
		if lines := strings.Join(w.lines(), "\n"); strings.Count(lines, "the guard has tripped") != 1 || !strings.Contains(lines, `"by":"ada@desk"`) {
			t.Errorf("the log tells it wrong:\n%s", lines)
		}
	})
}

func TestStoppingWhileTheGuardIsTrippedLosesNothing(t *testing.T) {
	inBubble(t, settings{volume: guard.VolumeConfig{Max: 1, Window: time.Hour}}, func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		w.settled(time.Minute)
		w.send(about(grace), about(alan))
		time.Sleep(10 * time.Second)
		w.stop()
		if counts := w.counts(); counts.Active != 2 || counts.DeadLetter != 0 {
			t.Errorf("%+v", counts)
		}
		w.wantRevoked(ada)
	})
}
