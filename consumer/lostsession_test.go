package consumer_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// Sessions whose hands are full do not notice that their connection is gone, until they receive again: that must not end the
// connection that the others have by then, and these the next one, for ever. Without the rule it did so in one run of six.
func TestSessionsWithFullHandsSurviveCuts(t *testing.T) {
	for run := range 12 {
		inBubble(t, settings{sessions: 4, maxInHand: 8, concurrency: 16}, func(t *testing.T, w *world) {
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
