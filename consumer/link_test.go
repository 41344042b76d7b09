package consumer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// lateSettlements cuts the connection while a call is on the wire, and waits until whatever the settlement breaks is mended.
func (w *world) lateSettlements(users ...graph.User) {
	w.run()
	time.Sleep(2 * time.Second)
	w.broker.CloseConnections()
	time.Sleep(2 * time.Minute)
	w.wantRevoked(users...)
}

// wantOneCut fails unless the connections are the first one, and the one after the cut.
func (w *world) wantOneCut() {
	w.t.Helper()
	if n := w.dials.Load(); n != 2 {
		w.t.Errorf("%d connections, want 2: settling a message of the lost one ends no other; log: %v", n, w.lines())
	}
	if n := w.logs.FilterMessageSnippet("not settled").Len(); n != 0 {
		w.t.Errorf("%d messages were not settled: %v", n, w.lines())
	}
}

func TestSettlingAMessageOfALostConnectionKeepsTheNewOne(t *testing.T) {
	forbiddenOnce := graph.Fault{User: guest.ID, Delay: 10 * time.Second}
	for name, s := range map[string]struct {
		users   []graph.User
		body    *azservicebus.Message
		revoked []graph.User
		dead    map[string]string
	}{
		"completed":     {body: about(ada), revoked: []graph.User{ada}},
		"dead-lettered": {body: about(ada, glass), revoked: []graph.User{ada}, dead: map[string]string{"m0": "ProtectedUser"}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{}, func(t *testing.T, w *world) {
				_ = forbiddenOnce
				w.graph.Inject(graph.Fault{User: ada.ID, Delay: 10 * time.Second})
				w.send(s.body)
				w.lateSettlements(s.revoked...)
				w.wantOneCut()
				w.wantDead(s.dead)
				if letter, ok := w.dead()["m0"]; ok {
					if letter.DeadLetterDescription == "" || letter.ApplicationProperties[deadletter.PropertyFailed] != "1" || letter.ApplicationProperties[deadletter.PropertyAttempts] != "0" {
						t.Errorf("the dead letter lost what it tells: %q, %v", letter.DeadLetterDescription, letter.ApplicationProperties)
					}
				}
				if c := w.counts(); c.Active+c.Deferred != 0 {
					t.Errorf("%+v left", c)
				}
			})
		})
	}
}

func TestTwoSourcesWithFullHandsSurviveACut(t *testing.T) {
	inBubble(t, settings{urgent: true, maxInHand: 8, concurrency: 8, lock: 20 * time.Second, maxDeliveries: 3}, func(t *testing.T, w *world) {
		const people = 64
		for i := range people {
			u := leaver(i)
			if err := w.graph.AddUser(u); err != nil {
				t.Fatal(err)
			}
			// Answers come one by one, so that each source settles while the other receives.
			w.graph.Inject(graph.Fault{User: u.ID, Delay: 5*time.Second + time.Duration(i%7)*time.Second})
			id := fmt.Sprintf("m%d", i)
			m := about(u)
			m.MessageID = &id
			if i%2 == 0 {
				w.sendUrgent(m)
			} else {
				w.send(m)
			}
		}
		w.run()
		time.Sleep(30*time.Second + 500*time.Millisecond) // between two settlements
		w.broker.CloseConnections()
		w.empty(10 * time.Minute)
		w.wantOneCut()
		w.wantDead(nil)
		if n := testutil.ToFloat64(w.metrics.LocksLost); n != 0 {
			t.Errorf("%v locks lost", n)
		}
		if n := w.logs.FilterField(zap.String("outcome", "revoked")).Len(); n != people {
			t.Errorf("%d revoked, want %d", n, people)
		}
	})
}

func TestASessionsMessagesOfALostConnectionKeepTheNewOne(t *testing.T) {
	inBubble(t, settings{sessions: 2, maxDeliveries: 2}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Delay: 10 * time.Second})
		w.send(inSession(ada, 0))
		w.lateSettlements(ada)
		if n := w.dials.Load(); n != 2 {
			t.Errorf("%d connections, want 2: %v", n, w.lines())
		}
		w.settled(time.Minute)
		w.wantDead(nil)
		if problems := w.health.Problems(); len(problems) != 0 {
			t.Errorf("problems %v", problems[consumer.PartServiceBus])
		}
	})
}
