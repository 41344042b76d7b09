package consumer_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/internal/raced"
)

func TestVolumeGuardStopsUntilAnOperatorReleasesIt(t *testing.T) {
	const people, limit = 60, 20
	var mu sync.Mutex
	var release guard.Release
	s := settings{
		maxInFlight: 16, volume: guard.VolumeConfig{Max: limit, Window: time.Hour},
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
		waits := 24 * time.Hour // locks are renewed; time alone does not release the guard
		if raced.Enabled {
			waits = 3 * time.Hour
		}
		time.Sleep(waits)
		if n := revoked(); n != limit {
			t.Fatalf("%d people were signed out, want %d", n, limit)
		}
		if problem := w.health.Problems()[consumer.PartGuard]; !strings.Contains(problem, "worker guard release") || !w.health.Alive() {
			t.Errorf("health: %q, alive %v", problem, w.health.Alive())
		}
		if state := w.metrics.State(); len(state.Guard) != 1 || !state.Guard[0].Tripped || state.Guard[0].Limit != limit {
			t.Errorf("%+v", state)
		}
		mu.Lock()
		release = guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 1000, By: "ada@desk"}
		mu.Unlock()
		time.Sleep(10 * time.Second) // deferred messages come back with the release
		if n := revoked(); n != people || w.health.Problems()[consumer.PartGuard] != "" {
			t.Errorf("%d people, health %v", n, w.health.Problems())
		}
		w.wantDead(nil)
		lines := strings.Join(w.lines(), "\n")
		if strings.Count(lines, "the guard has tripped") != 1 || !strings.Contains(lines, `"by":"ada@desk"`) {
			t.Errorf("the log is wrong:\n%s", lines)
		}
	})
}

// elsewhere is the id of a message that another replica receives.
const elsewhere = "elsewhere"

// otherReplica defers the message with the id elsewhere, as another replica whose guard has tripped
// would, and hides it from the worker.
type otherReplica struct{ consumer.Receiver }

func (o otherReplica) ReceiveMessages(ctx context.Context, n int, options *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := o.Receiver.ReceiveMessages(ctx, n, options)
	return slices.DeleteFunc(messages, func(m *azservicebus.ReceivedMessage) bool {
		if m.MessageID != elsewhere {
			return false
		}
		until := time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + " volume-guard"
		_ = o.DeferMessage(ctx, m, &azservicebus.DeferMessageOptions{
			PropertiesToModify: map[string]any{deadletter.PropertyDeferred: until},
		}) // otherwise the message is not revoked, and the test fails
		return true
	}), err
}

// A replica that is gone may have deferred messages for long because its guard had tripped.
func TestVolumeGuardReleaseBringsMessagesOfOtherReplicasBack(t *testing.T) {
	var released atomic.Bool
	s := settings{
		wrap:   func(r consumer.Receiver) consumer.Receiver { return otherReplica{r} },
		volume: guard.VolumeConfig{Max: 1, Window: time.Hour},
		release: func() (guard.Release, error) {
			if !released.Load() {
				return guard.Release{}, nil
			}
			return guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 1000, By: "ada@desk"}, nil
		},
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		users := w.people(0, 3)
		w.run()
		w.send(about(users[0]))
		w.send(about(users[1])) // trips the guard, and waits for it
		time.Sleep(time.Minute) // the first search is over
		message := about(users[2])
		message.MessageID = new(elsewhere)
		w.send(message)
		time.Sleep(20 * time.Minute)
		if _, ok := w.graph.Revoked(users[2].ID); ok {
			t.Fatal("revoked, although another replica looks after the message")
		}
		released.Store(true)
		time.Sleep(time.Minute)
		w.wantRevocations(users)
		w.wantDead(nil)
	})
}

func TestVolumeGuardTrippedForOneTypeLetsTheOthersGoOn(t *testing.T) {
	kinds := []string{"device.stolen", "device.lost", "user.compromised", "user.offboarded"}
	s := settings{maxInFlight: 64, volume: guard.VolumeConfig{Kinds: kinds, Max: 3, Window: time.Hour}}
	inBubble(t, s, func(t *testing.T, w *world) {
		for i := range 20 {
			if err := w.graph.AddUser(leaver(i)); err != nil {
				t.Fatal(err)
			}
			w.send(&azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"user.offboarded","userId":%q}`, leaver(i).ID)})
		}
		w.run()
		time.Sleep(time.Minute)
		w.send(about(ada))
		time.Sleep(5 * time.Second)
		w.wantRevoked(ada)
		problem := w.health.Problems()[consumer.PartGuard]
		if !strings.Contains(problem, "user.offboarded") || strings.Contains(problem, "device.stolen") {
			t.Errorf("health: %q", problem)
		}
		if n := w.counts().Active; n != 17 {
			t.Errorf("%d leavers wait, want all but the three who may be signed out", n)
		}
		w.stop()
	})
}

func TestVolumeGuardDoesNotCountUnknownUsers(t *testing.T) {
	s := settings{volume: guard.VolumeConfig{Max: 3, Window: time.Hour}}
	inBubble(t, s, func(t *testing.T, w *world) {
		for i := range 20 { // users whom Graph does not know
			w.send(about(leaver(i)))
		}
		w.run()
		time.Sleep(30 * time.Minute)
		w.send(about(ada))
		time.Sleep(5 * time.Second)
		w.wantRevoked(ada)
		if problem := w.health.Problems()[consumer.PartGuard]; problem != "" {
			t.Errorf("health: %q", problem)
		}
		w.stop()
	})
}

func TestVolumeGuardTrippedAtTheStopLosesNothing(t *testing.T) {
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

// A user becomes protected while the guard has tripped. There must be no attempt for them
// afterwards.
func TestVolumeGuardReleaseDoesNotCallUsersProtectedMeanwhile(t *testing.T) {
	var mu sync.Mutex
	var release guard.Release
	s := settings{
		volume: guard.VolumeConfig{Kinds: event.DefaultTypes, Max: 1, Window: time.Hour},
		release: func() (guard.Release, error) {
			mu.Lock()
			defer mu.Unlock()
			return release, nil
		},
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		w.send(about(alan))
		w.run()
		w.settled(time.Minute)
		for i, u := range []graph.User{ada, grace} {
			m, id := about(u), fmt.Sprintf("waits-%d", i)
			m.MessageID = &id
			w.send(m)
		}
		time.Sleep(time.Minute)
		if w.health.Problems()[consumer.PartGuard] == "" {
			t.Fatal("the guard has not tripped")
		}
		file := filepath.Join(t.TempDir(), "protected")
		if err := os.WriteFile(file, []byte("# since this morning\n"+ada.ID+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.deps.Protected.Load(file); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		release = guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 2}
		mu.Unlock()
		w.settled(10 * time.Minute)
		w.wantRevoked(alan, grace) // ada does not count in the release of two users
		w.wantDead(map[string]string{"waits-0": "ProtectedUser"})
		if calls := w.graph.CallsFor(ada.ID); len(calls) != 0 {
			t.Errorf("%d calls for a protected user", len(calls))
		}
	})
}

// The event about a stolen device must not wait for the release of another type because a newer
// event of that type has come for the same user.
func TestVolumeGuardLetsNoLessUrgentEventSupersede(t *testing.T) {
	s := settings{volume: guard.VolumeConfig{Kinds: []string{"device.stolen", "user.offboarded"}, Max: 1, Window: time.Hour}}
	of := func(kind string, u graph.User) *azservicebus.Message {
		return &azservicebus.Message{Body: []byte(fmt.Sprintf(`{"type":%q,"userId":%q}`, kind, u.ID))}
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		w.send(of("user.offboarded", ada)) // the volume is used up
		w.run()
		time.Sleep(3 * time.Second)
		w.send(of("device.stolen", grace))
		time.Sleep(time.Second)
		w.send(of("device.stolen", grace), of("user.offboarded", grace)) // wait for the end of the window
		time.Sleep(2 * time.Minute)
		if calls := w.graph.CallsFor(grace.ID); len(calls) != 2 {
			t.Errorf("%d calls, want 2", len(calls))
		}
		w.wantRevoked(ada, grace)
	})
}
