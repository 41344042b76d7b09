package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// inSession returns an event about a user, in a session of that user's own.
func inSession(u graph.User, n int) *azservicebus.Message {
	m := about(u)
	id := fmt.Sprintf("%s-%d", u.UserPrincipalName, n)
	m.SessionID, m.MessageID = &u.ID, &id
	return m
}

func TestSessionsAreServedSideBySideUntilAllAreDone(t *testing.T) {
	inBubble(t, settings{sessions: 3}, func(t *testing.T, w *world) {
		const people = 20
		for n := range 3 {
			for i := range people {
				if n == 0 {
					if err := w.graph.AddUser(leaver(i)); err != nil {
						t.Fatal(err)
					}
				}
				w.send(inSession(leaver(i), n))
			}
		}
		w.run()
		w.settled(time.Hour)
		for i := range people {
			if _, revoked := w.graph.Revoked(leaver(i).ID); !revoked {
				t.Errorf("%s is not revoked", leaver(i).UserPrincipalName)
			}
		}
		w.wantDead(nil)
		if problems := w.health.Problems(); len(problems) != 0 || !w.health.Alive() {
			t.Errorf("problems %v", problems)
		}
	})
}

func TestSessionLockIsRenewedWhileItsMessagesWait(t *testing.T) {
	inBubble(t, settings{sessions: 2, lock: 20 * time.Second}, func(t *testing.T, w *world) {
		remove := w.graph.Inject(graph.Fault{Status: http.StatusServiceUnavailable})
		w.send(inSession(ada, 0))
		w.run()
		time.Sleep(5 * time.Minute)
		remove()
		w.settled(10 * time.Minute)
		w.wantRevoked(ada)
		if n := testutil.ToFloat64(w.metrics.LocksLost); n != 0 {
			t.Errorf("%v locks lost", n)
		}
		if n := testutil.ToFloat64(w.metrics.Renewals.WithLabelValues("ok")); n < 10 {
			t.Errorf("%v renewals", n)
		}
	})
}

func TestSessionsNewerEventSupersedesOneThatWaits(t *testing.T) {
	inBubble(t, settings{sessions: 1}, func(t *testing.T, w *world) {
		remove := w.graph.Inject(graph.Fault{User: ada.ID, Status: http.StatusServiceUnavailable})
		w.send(inSession(ada, 0))
		w.run()
		time.Sleep(30 * time.Second)
		w.send(inSession(ada, 1))
		time.Sleep(30 * time.Second)
		if n := w.logs.FilterField(outcomeField("superseded")).Len(); n != 1 {
			t.Errorf("%d superseded, want the older event: %v", n, w.lines())
		}
		remove()
		w.settled(10 * time.Minute)
		w.wantRevoked(ada)
	})
}

func TestSessionThatIsIdleIsReleasedWithoutABusyLoop(t *testing.T) {
	inBubble(t, settings{sessions: 2}, func(t *testing.T, w *world) {
		w.send(inSession(ada, 0))
		w.run()
		w.settled(time.Minute)
		time.Sleep(5 * time.Second)
		r, err := w.client.AcceptSessionForQueue(t.Context(), queue, ada.ID, nil)
		if err != nil {
			t.Fatalf("the session is not free: %v", err)
		}
		if err := r.Close(t.Context()); err != nil {
			t.Error(err)
		}
		before := w.accepts.Load()
		time.Sleep(10 * time.Minute)
		if n := w.accepts.Load() - before; n > 50 {
			t.Errorf("%d attempts to accept a session in 10 idle minutes, by two", n)
		}
		if problems := w.health.Problems(); len(problems) != 0 || !w.health.Alive() {
			t.Errorf("problems %v after idle minutes", problems)
		}
	})
}

func TestStopFinishesAndFreesTheSessions(t *testing.T) {
	inBubble(t, settings{sessions: 2}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: grace.ID, Delay: 10 * time.Second})
		w.send(inSession(ada, 0))
		w.run()
		time.Sleep(time.Second)
		w.send(inSession(ada, 1), inSession(grace, 0)) // ada's is parked
		time.Sleep(2 * time.Second)
		if left := w.stop(); left != 0 {
			t.Errorf("%d messages were not finished", left)
		}
		synctest.Wait()
		w.wantRevoked(ada, grace)
		if c := w.counts(); c.Active != 0 {
			t.Errorf("%+v", c)
		}
		for _, u := range []graph.User{ada, grace} {
			r, err := w.client.AcceptSessionForQueue(t.Context(), queue, u.ID, nil)
			if err != nil {
				t.Fatalf("%s's session is not free: %v", u.UserPrincipalName, err)
			}
			_ = r.Close(t.Context())
		}
	})
}

func TestSessionsSurviveConnectionCuts(t *testing.T) {
	inBubble(t, settings{sessions: 3, lock: 20 * time.Second}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: 5 * time.Second})
		w.send(inSession(ada, 0), inSession(grace, 0), inSession(alan, 0), inSession(ada, 1))
		w.run()
		for range 4 {
			time.Sleep(3 * time.Second)
			w.broker.CloseConnections()
		}
		w.settled(30 * time.Minute)
		w.wantRevoked(ada, grace, alan)
		w.wantDead(nil)
	})
}

func TestSessionThatWaitsForSeveralLockDurationsIsRevoked(t *testing.T) {
	inBubble(t, settings{sessions: 1, lock: 5 * time.Second, maxDeliveries: 2}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Delay: 28 * time.Second})
		w.send(inSession(ada, 0))
		w.run()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
		locksLost, ok := testutil.ToFloat64(w.metrics.LocksLost), testutil.ToFloat64(w.metrics.Renewals.WithLabelValues("ok"))
		if calls := len(w.graph.CallsFor(ada.ID)); locksLost != 0 || calls != 1 || ok < 8 || ok > 14 {
			t.Errorf("%v locks lost, %d calls, %v renewals of a lock of 5 s in 28 s", locksLost, calls, ok)
		}
	})
}

func TestSessionWhoseUserFailsForLongIsNeverDeadLettered(t *testing.T) {
	inBubble(t, settings{sessions: 1, lock: 5 * time.Second, maxDeliveries: 2}, func(t *testing.T, w *world) {
		up := w.graph.Inject(graph.Fault{User: ada.ID, Status: 503})
		w.send(inSession(ada, 0))
		w.run()
		time.Sleep(10 * time.Minute)
		up()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}

// accepting makes a new worker that accepts sessions by this function.
func (w *world) accepting(accept func(ctx context.Context) (consumer.Session, error)) {
	w.deps.Sources = slices.Clone(w.deps.Sources)
	w.deps.Sources[0].Accept = accept
	w.newWorker()
}

func TestSessionAcceptThatEndsAtOnceIsNotRepeatedInABusyLoop(t *testing.T) {
	for name, err := range map[string]error{
		"no session":  &azservicebus.Error{Code: azservicebus.CodeTimeout},
		"anything":    errors.New("the broker says no"),
		"not ours":    &azservicebus.Error{Code: azservicebus.CodeUnauthorizedAccess},
		"a lost link": &azservicebus.Error{Code: azservicebus.CodeConnectionLost},
		"a lost lock": &azservicebus.Error{Code: azservicebus.CodeLockLost},
		"a canceling": context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{sessions: 1}, func(t *testing.T, w *world) {
				var accepts atomic.Int64
				w.accepting(func(context.Context) (consumer.Session, error) {
					if accepts.Add(1) > 100_000 {
						panic("a busy loop")
					}
					return nil, err
				})
				w.run()
				time.Sleep(10 * time.Minute)
				if n := accepts.Load(); n > 601 || n < 15 {
					t.Errorf("%d attempts to accept a session in ten minutes", n)
				}
				if quiet := name == "no session"; quiet != (w.health.Problems()[consumer.PartServiceBus] == "") || !w.health.Alive() {
					t.Errorf("health: %v, alive %v", w.health.Problems(), w.health.Alive())
				}
			})
		})
	}
}
