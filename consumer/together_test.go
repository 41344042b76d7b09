package consumer_test

import (
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// Such messages are deferred as soon as all of their users have failed. What is decided about one
// of the users must not be lost with that.
func TestConsumerDecidesMessagesWithSeveralUsersWhoAlwaysFail(t *testing.T) {
	inBubble(t, settings{maxInFlight: 8}, func(t *testing.T, w *world) {
		const people = 12
		reasons := map[string]string{}
		for i := range people {
			if err := w.graph.AddUser(leaver(i)); err != nil {
				t.Fatal(err)
			}
			w.graph.Inject(graph.Fault{User: leaver(i).ID, Status: 403})
		}
		for i := 0; i < people; i += 2 {
			m := about(leaver(i), leaver(i+1))
			id := leaver(i).ID
			m.MessageID = &id
			reasons[id] = "Forbidden"
			w.send(m)
		}
		w.run()
		for range 60 { // others succeed now and then
			w.send(about(ada))
			time.Sleep(10 * time.Second)
		}
		w.settled(time.Minute)
		w.wantDead(reasons)
	})
}

// Each time that the message comes back there must be one attempt for each user, not only for the
// first.
func TestConsumerDecidesALargeMessageOfUsersWhoAlwaysFail(t *testing.T) {
	inBubble(t, settings{maxInFlight: 8}, func(t *testing.T, w *world) {
		var people []graph.User
		for i := range 60 {
			if err := w.graph.AddUser(leaver(i)); err != nil {
				t.Fatal(err)
			}
			w.graph.Inject(graph.Fault{User: leaver(i).ID, Status: 403})
			people = append(people, leaver(i))
		}
		w.send(about(people...))
		w.run()
		for range 60 { // others succeed now and then
			m, id := about(ada), "ada"
			m.MessageID = &id
			w.send(m)
			time.Sleep(10 * time.Second)
		}
		w.settled(time.Minute)
		w.wantDead(map[string]string{"m0": "Forbidden"})
	})
}
