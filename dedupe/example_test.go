package dedupe_test

import (
	"fmt"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
)

// Two events are about one user, and the second arrives while the attempt for the first is in
// flight. That attempt cannot settle the second event, because it may have started before the event
// was enqueued. The event waits for one more attempt at the end of the window.
func ExampleLedger() {
	ledger := dedupe.New(dedupe.Config{
		Window: 100 * time.Millisecond, Remember: time.Hour, MaxUsers: 1000, MaxParked: 8, MaxFailing: 16,
	})
	event := func(sequence int64) *dedupe.Event {
		message := dedupe.NewMessage(0)
		message.Lock.Renewed(time.Now().Add(time.Minute))
		return &dedupe.Event{
			Position: dedupe.Position{Enqueued: time.Now(), Entity: "events", Sequence: sequence},
			Message:  message,
		}
	}

	first := event(1)
	work, isNew := ledger.Add("ada", first)
	fmt.Println("run the work of ada:", isNew)
	work.Start()
	start := time.Now()
	second := event(2) // it arrives while the request to Graph is in flight
	_, isNew = ledger.Add("ada", second)
	fmt.Println("run another work of ada:", isNew)
	again := work.Succeeded(dedupe.Attempt{Start: start, ServerDate: time.Now()}, nil)
	fmt.Println("the first event is", first.Result())
	fmt.Println("another event waits:", again)

	work.AwaitWindow()
	fmt.Println("the window has passed:", time.Since(start).Round(time.Millisecond) >= 100*time.Millisecond)
	work.Start()
	again = work.Succeeded(dedupe.Attempt{Start: time.Now(), ServerDate: time.Now()}, nil)
	fmt.Println("the second event is", second.Result())
	fmt.Println("another event waits:", again)
	// Output:
	// run the work of ada: true
	// run another work of ada: false
	// the first event is revoked
	// another event waits: true
	// the window has passed: true
	// the second event is revoked
	// another event waits: false
}

// Before the attempt for the first event begins, a newer message supersedes the older one, which is
// completed at once. One attempt is made for both.
func ExampleLedger_Add() {
	ledger := dedupe.New(dedupe.Config{
		Window: time.Minute, Remember: time.Hour, MaxUsers: 1000, MaxParked: 8, MaxFailing: 16,
	})
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var work *dedupe.Work
	var events []*dedupe.Event
	for i := range 3 {
		message := dedupe.NewMessage(0)
		message.Lock.Renewed(time.Now().Add(time.Minute))
		e := &dedupe.Event{
			Position:  dedupe.Position{Enqueued: noon.Add(time.Duration(i) * time.Second), Entity: "events", Sequence: int64(i)},
			MessageID: fmt.Sprint("message ", i),
			Message:   message,
		}
		events = append(events, e)
		work, _ = ledger.Add("ada", e)
	}
	work.Start()
	work.Succeeded(dedupe.Attempt{Start: time.Now(), ServerDate: time.Now()}, nil)
	for _, e := range events {
		fmt.Printf("%s: %s\n", e.MessageID, e.Result())
	}
	fmt.Println(events[2].Superseded().MessageIDs)
	// Output:
	// message 0: superseded by message 1 of events
	// message 1: superseded by message 2 of events
	// message 2: revoked
	// [message 0 message 1]
}
