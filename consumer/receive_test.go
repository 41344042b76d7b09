package consumer_test

import (
	"slices"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

func TestReceiveTakesFewMessagesWhileNothingIsKnownOfGraph(t *testing.T) {
	r := &trap{}
	inBubble(t, trapped(settings{maxInFlight: 16, concurrency: 16}, r), func(t *testing.T, w *world) {
		slow := w.graph.Inject(graph.Fault{Delay: 20 * time.Second})
		w.sendEach(w.people(0, 40))
		w.run()
		time.Sleep(2 * time.Second) // before the canary times out
		if c := w.counts(); c.Locked > 8 || c.Locked < 3 {
			t.Errorf("%d messages are in flight before Graph has answered, want a few and at most half of 16", c.Locked)
		}
		slow()
		w.settled(10 * time.Minute)
		w.stop()
		if r.limits[0] != 4 {
			t.Errorf("asked for %d messages at first, want 4", r.limits[0])
		}
		if slices.Max(r.limits) < 8 {
			t.Errorf("asked for %v, want no more than the free slots", r.limits)
		}
	})
}

func TestReceiveTakesMessagesOneByOneWhileTheBreakerIsOpen(t *testing.T) {
	r := &trap{}
	inBubble(t, trapped(settings{maxInFlight: 16}, r), func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		w.settled(time.Minute)
		down := w.graph.Inject(graph.Fault{Status: 503})
		w.sendEach(w.people(0, 100))
		time.Sleep(2 * time.Minute)
		locked := w.counts().Locked + w.counts().Deferred
		r.mu.Lock()
		so := len(r.limits)
		r.mu.Unlock()
		time.Sleep(20 * time.Minute)
		r.mu.Lock()
		later := slices.Clone(r.limits[so:])
		r.mu.Unlock()
		for _, limit := range later {
			if limit != 1 {
				t.Errorf("asked for %v with the breaker open", later)
				break
			}
		}
		if c := w.counts(); c.Locked+c.Deferred > max(locked, 16) || c.Locked > 16 {
			t.Errorf("%+v in flight: %d before", c, locked)
		}
		down()
		w.settled(10 * time.Minute)
		w.wantDead(nil)
	})
}
