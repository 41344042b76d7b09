package consumer_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/alicebob/miniredis/v2"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

func TestStopFinishesTheMessagesInFlight(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.send(about(ada)) // until Graph has answered one attempt well, one message at a time is received
		w.run()
		w.settled(time.Minute)
		w.graph.Inject(graph.Fault{Delay: 8 * time.Second})
		w.send(about(grace))
		time.Sleep(2 * time.Second)
		w.send(about(alan)) // is received before the stop, too
		time.Sleep(time.Second)
		if left := w.stop(); left != 0 {
			t.Errorf("%d messages unfinished, want none", left)
		}
		w.wantRevoked(ada, grace, alan)
		if c := w.counts(); c.Active != 0 {
			t.Errorf("%+v: settled messages are still there", c)
		}
	})
}

func TestStopWaitsForTheCallOfAnotherReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := miniredis.NewMiniRedis()
		server.ClockTTL(true)
		shared, _ := store(t, server)
		other, _ := store(t, server)
		lease, _, _ := other.Lease(t.Context(), ada.ID, nil)
		w := newWorld(t, settings{coordinator: shared})
		w.send(about(ada))
		w.run()
		time.Sleep(10 * time.Second)
		go func() {
			time.Sleep(5 * time.Second)
			lease.End(t.Context(), forged(time.Now()))
		}()
		if left := w.stop(); left != 0 {
			t.Errorf("%d messages unfinished, want none: they waited only for the other replica's call", left)
		}
		if c := w.counts(); c.Active != 0 {
			t.Errorf("%+v: covered messages are still there", c)
		}
	})
}

func TestStopEndsReceiving(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.run()
		time.Sleep(5 * time.Second)
		w.stop()
		w.send(about(ada))
		time.Sleep(5 * time.Minute)
		if c := w.counts(); c.Active != 1 || len(w.graph.Calls()) != 0 {
			t.Errorf("%+v after %d calls, want the message untouched", c, len(w.graph.Calls()))
		}
	})
}

func TestStopAbandonsWhatCannotBeFinished(t *testing.T) {
	inBubble(t, settings{drain: 20 * time.Second}, func(t *testing.T, w *world) {
		up := w.graph.Inject(graph.Fault{User: ada.ID, Status: 503})
		w.send(about(ada), about(grace))
		w.run()
		time.Sleep(10 * time.Second)
		start := time.Now()
		if left := w.stop(); left != 1 {
			t.Errorf("%d messages unfinished, want 1", left)
		}
		if took := time.Since(start); took > 31*time.Second {
			t.Errorf("the stop took %v, want drain_timeout and at most settle_timeout more", took)
		}
		up()
		if c := w.counts(); c.Active != 1 || c.Locked != 0 || c.DeadLetter != 0 {
			t.Fatalf("%+v, want the message unlocked", c)
		}
		letters, err := w.broker.Peek(queue, 0, 10)
		if err != nil || len(letters) != 1 || letters[0].DeliveryCount != 1 {
			t.Errorf("%+v %v, want a delivery count of 1", letters, err)
		}
	})
}

func TestStopEndsAtOnceWithASecondSignal(t *testing.T) {
	inBubble(t, settings{drain: 10 * time.Minute}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: time.Minute, Status: 503})
		w.send(about(ada))
		w.run()
		time.Sleep(5 * time.Second)
		start := time.Now()
		time.AfterFunc(3*time.Second, w.stopHard)
		if left := w.stop(); left != 1 || time.Since(start) > 5*time.Second {
			t.Errorf("%d unfinished after %v, want 1 after 3 s", left, time.Since(start))
		}
		if c := w.counts(); c.Active != 1 || c.Locked != 0 {
			t.Errorf("%+v, want the message unlocked", c)
		}
	})
}

func TestStopThatTakesLongIsAliveAndBlamesNobody(t *testing.T) {
	inBubble(t, settings{drain: 30 * time.Minute, maxInFlight: 16}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Status: 429, RetryAfter: "590"})
		w.graph.Inject(graph.Fault{Delay: 25 * time.Second})
		w.send(about(ada))
		w.run()
		time.Sleep(time.Minute)
		for i := range 5 { // their attempts are in flight when everything ends
			m, id := about(grace), fmt.Sprintf("late%d", i)
			m.MessageID = &id
			w.send(m)
		}
		w.stopSoft()
		for range 5 {
			time.Sleep(4 * time.Second)
			if !w.health.Alive() {
				t.Fatal("a worker that stops slowly is not alive")
			}
		}
		w.stopHard()
		w.stop()
		if problem := w.health.Problems()[consumer.PartGraph]; problem != "" {
			t.Errorf("calls that the worker has canceled are taken for Graph's fault: %s", problem)
		}
	})
	inBubble(t, settings{drain: 30 * time.Minute}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Count: 3, Status: 429, RetryAfter: "590"})
		w.send(about(ada))
		w.run()
		time.Sleep(time.Second)
		w.stopSoft()
		for range 17 { // the canary was hit by one of the three faults
			time.Sleep(time.Minute)
			if !w.health.Alive() {
				t.Fatal("a worker that stops slowly is not alive")
			}
		}
	})
}

func TestStopWhileWaitingForThePermissionEndsAtOnce(t *testing.T) {
	inBubble(t, settings{roles: []string{"User.Read.All"}}, func(t *testing.T, w *world) {
		w.run()
		time.Sleep(time.Hour)
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

func TestStopsAndStartsWhileGraphIsAwayDeadLetterNothing(t *testing.T) {
	inBubble(t, settings{drain: 5 * time.Second}, func(t *testing.T, w *world) {
		up := w.graph.Inject(graph.Fault{Status: 503})
		w.send(about(ada), about(grace))
		for range 20 {
			w.restart()
			time.Sleep(20 * time.Second)
			w.stop()
		}
		if c := w.counts(); c.Active != 2 || c.DeadLetter != 0 {
			t.Fatalf("%+v, want both messages in the queue", c)
		}
		up()
		w.restart()
		w.settled(10 * time.Minute)
		w.wantRevoked(ada, grace)
	})
}
