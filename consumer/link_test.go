package consumer_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// overLink is the time for which the worker tries a settlement over the link.
const overLink = 3 * time.Second

// wantOneCut fails unless there were two connections: the first one, and one after the cut.
func (w *world) wantOneCut() {
	w.t.Helper()
	if n := w.dials.Load(); n != 2 {
		w.t.Errorf("%d connections, want 2: to settle a message of the lost one must not close another; log: %v", n, w.lines())
	}
	if n := w.logs.FilterMessageSnippet("not settled").Len(); n != 0 {
		w.t.Errorf("%d messages were not settled: %v", n, w.lines())
	}
}

func TestLinkLossAndASettlementKeepTheNewConnection(t *testing.T) {
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
				w.graph.Inject(graph.Fault{User: ada.ID, Delay: 10 * time.Second})
				w.send(s.body)
				w.run()
				time.Sleep(2 * time.Second)
				w.broker.CloseConnections()
				time.Sleep(2 * time.Minute) // until the client library would have recovered from what the settlement may break
				w.wantRevoked(s.revoked...)
				w.wantOneCut()
				w.wantDead(s.dead)
				if letter, ok := w.dead()["m0"]; ok {
					if letter.DeadLetterDescription == "" || letter.ApplicationProperties[deadletter.PropertyFailed] != "1" ||
						letter.ApplicationProperties[deadletter.PropertyAttempts] != "0" {
						t.Errorf("the dead letter has lost its description: %q, %v",
							letter.DeadLetterDescription, letter.ApplicationProperties)
					}
				}
				if c := w.counts(); c.Active+c.Deferred != 0 {
					t.Errorf("%+v left", c)
				}
			})
		})
	}
}

func TestLinkLossAndAStopAbandonTheMessage(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Delay: time.Minute})
		w.send(about(ada))
		w.run()
		time.Sleep(2 * time.Second)
		w.broker.CloseConnections()
		time.Sleep(2 * time.Second)
		w.stopSoft() // nothing is received again
		time.Sleep(time.Second)
		w.stopHard()
		if left := w.stop(); left != 1 {
			t.Errorf("%d unfinished, want 1", left)
		}
		if c := w.counts(); c.Active != 1 || c.Locked != 0 {
			t.Errorf("%+v: the message is not available again", c)
		}
		w.wantOneCut()
	})
}

// After the first settlement has failed, all others use the management node at once.
func TestLinkLossThatOnlyASettlementNotices(t *testing.T) {
	r := &trap{}
	var failed atomic.Int64
	r.complete = func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
		err := r.Receiver.CompleteMessage(ctx, m, nil)
		if err != nil {
			failed.Add(1)
		}
		return err
	}
	inBubble(t, trapped(settings{maxInFlight: 8, concurrency: 8, lock: 5 * time.Minute}, r), func(t *testing.T, w *world) {
		w.send(about(grace))
		w.run()
		w.settled(time.Minute)
		users := w.people(0, 8)
		for i, u := range users {
			delay := 15 * time.Second
			if i > 0 {
				delay += overLink + time.Second
			}
			w.graph.Inject(graph.Fault{User: u.ID, Delay: delay})
		}
		w.sendEach(users)
		time.Sleep(5 * time.Second)
		if c := w.counts(); c.Locked != 8 {
			t.Fatalf("%+v: not all messages are in flight", c)
		}
		w.broker.CloseConnections()
		time.Sleep(time.Second)
		w.send(about(ada)) // makes the new connection, which the receive loop has not noticed
		w.settled(2 * time.Minute)
		w.wantOneCut()
		w.wantRevoked(grace, ada)
		w.wantDead(nil)
		if n := failed.Load(); n != 1 {
			t.Errorf("%d settlements were tried over the lost link, want only the first", n)
		}
	})
}

func TestLinkLossIsSurvivedByTwoFullSources(t *testing.T) {
	s := settings{urgent: true, maxInFlight: 8, concurrency: 8, lock: 20 * time.Second, maxDeliveries: 3}
	inBubble(t, s, func(t *testing.T, w *world) {
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

// A session's lock is lost with its link: the session's messages come again, at once.
func TestSessionMessagesOfALostConnectionComeAgain(t *testing.T) {
	inBubble(t, settings{sessions: 1, maxDeliveries: 2}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Delay: 10 * time.Second})
		w.send(inSession(ada, 0))
		w.run()
		time.Sleep(2 * time.Second)
		w.broker.CloseConnections()
		time.Sleep(10 * time.Second)
		if c := w.counts(); c.Active != 0 {
			t.Errorf("%+v, two seconds after the call: %v", c, w.lines())
		}
		w.wantRevoked(ada)
		w.wantDead(nil)
		if n := w.dials.Load(); n != 2 {
			t.Errorf("%d connections, want 2", n)
		}
		if n := testutil.ToFloat64(w.metrics.Settlements.WithLabelValues("complete", "lock_lost")); n != 1 {
			t.Errorf("%v settlements without a lock, want the first delivery's", n)
		}
		if problems := w.health.Problems(); len(problems) != 0 {
			t.Errorf("problems %v", problems)
		}
	})
}
