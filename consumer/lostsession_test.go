package consumer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// A session that has used its share of slots does not notice that its connection is gone until it
// receives again. This must not close the connection that the others have by then: they would close
// the next one, and so on without end. Without mayReceive's rule this happened in one run of six.
func TestSessionsThatAreFullSurviveCuts(t *testing.T) {
	for run := range 12 {
		inBubble(t, settings{sessions: 4, maxInFlight: 8, concurrency: 16}, func(t *testing.T, w *world) {
			const people = 160
			for i := range people {
				u := leaver(i)
				if err := w.graph.AddUser(u); err != nil {
					t.Fatal(err)
				}
				if i < people/4 {
					w.graph.Inject(graph.Fault{User: u.ID, Delay: time.Duration(3+i%7) * time.Second})
				}
				id, session := fmt.Sprintf("m%d", i), fmt.Sprintf("s%d", i%8)
				w.send(&azservicebus.Message{MessageID: &id, SessionID: &session, Body: about(u).Body})
			}
			w.run()
			for range 20 {
				time.Sleep(1100*time.Millisecond + time.Duration(run)*10*time.Millisecond)
				w.broker.CloseConnections()
			}
			w.settled(5 * time.Minute)
			w.wantDead(nil)
		})
	}
}

// When the connection is back, somebody else holds the session. To ask for the session again at
// once, as long as messages of it are in flight, would be a busy loop.
func TestSessionThatSomebodyElseHasIsGivenUp(t *testing.T) {
	inBubble(t, settings{sessions: 4, maxInFlight: 8}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Delay: 3 * time.Second})
		w.graph.Inject(graph.Fault{User: grace.ID, Delay: 20 * time.Second})
		for _, u := range []graph.User{ada, grace} {
			session := "s"
			w.send(&azservicebus.Message{SessionID: &session, Body: about(u).Body})
		}
		w.run()
		time.Sleep(time.Second)
		w.broker.CloseConnections()
		other, err := w.client.AcceptSessionForQueue(t.Context(), queue, "s", nil)
		// The first call notices the loss of the connection. The worker may be quicker, and has the
		// session once more.
		for range 60 {
			if err == nil {
				break
			}
			time.Sleep(time.Second)
			other, err = w.client.AcceptSessionForQueue(t.Context(), queue, "s", nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(25 * time.Second)
		if err := other.Close(t.Context()); err != nil {
			t.Error(err)
		}
		w.settled(5 * time.Minute)
		w.wantRevoked(ada, grace)
	})
}
