package dispatch_test

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

// graphThatWaits answers each attempt with success, once the example lets it.
type graphThatWaits struct{ asked, answer chan struct{} }

func (g graphThatWaits) Revoke(context.Context, event.User) (revoker.Attempt, error) {
	start := time.Now()
	g.asked <- struct{}{}
	<-g.answer
	return revoker.Attempt{Start: start, Sent: true, Status: 200, ServerDate: time.Now()}, nil
}

// Two events are about one user, and the second arrives while the call for the first is in flight.
// The first event is settled by that call, and the second by another call, one window after the
// first.
func ExampleDispatcher() {
	const window = 100 * time.Millisecond
	user, err := event.NewUser("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01", "")
	if err != nil {
		panic(err)
	}
	protected, err := guard.NewProtected(nil)
	if err != nil {
		panic(err)
	}
	graph := graphThatWaits{make(chan struct{}), make(chan struct{})}
	d := dispatch.New(dispatch.Config{
		Concurrency: 4,
		Dedupe:      dedupe.Config{Window: window, Remember: time.Hour, MaxUsers: 100, MaxParked: 8, MaxFailing: 8},
	}, dispatch.Dependencies{
		Revoker: graph, Protected: protected, Log: zap.NewNop(), Metrics: telemetry.NewMetrics("example", "example"),
		Health:  telemetry.NewHealth(time.Minute, dispatch.PartGraph, dispatch.PartGuard),
		Retrier: retry.New(retry.Policy{MaxAttempts: 3, InitialInterval: time.Second, MaxInterval: time.Minute}),
		Name:    event.User.Key, Text: error.Error,
	})
	ctx, stop := context.WithCancel(context.Background())
	running := make(chan struct{})
	go func() { d.Run(ctx); close(running) }()

	add := func(ticket int64) *dedupe.Event {
		message := dedupe.NewMessage(0)
		message.Lock.Renewed(time.Now().Add(time.Minute))
		e := &dedupe.Event{
			Position: dedupe.Position{Enqueued: time.Now(), Entity: "events", Sequence: ticket},
			Message:  message,
		}
		d.Add(user.Key(), user, e)
		d.AllAdded(message)
		return e
	}
	first := add(1)
	<-graph.asked
	second := add(2) // the call for the first event is in flight
	graph.answer <- struct{}{}
	<-first.Message.Changed()
	fmt.Println("the first event is", first.Result())
	if second.Ended() {
		fmt.Println("the second event is", second.Result())
	} else {
		fmt.Println("the second event is not decided by the call for the first")
	}

	<-graph.asked
	graph.answer <- struct{}{}
	<-second.Message.Changed()
	fmt.Println("the second event is", second.Result())
	calls := []time.Time{
		first.Result().Detail.(*dispatch.Attempts).Last.Start,
		second.Result().Detail.(*dispatch.Attempts).Last.Start,
	}
	fmt.Println("the calls are a window apart:", calls[1].Sub(calls[0]).Round(time.Millisecond) >= window)

	stop()
	<-running
	d.Stop()
	// Output:
	// the first event is revoked
	// the second event is not decided by the call for the first
	// the second event is revoked
	// the calls are a window apart: true
}

func ExampleManualRevocation_Revoke() {
	protected, err := guard.NewProtected([]string{"breakglass@contoso.com"})
	if err != nil {
		panic(err)
	}
	var users []event.User
	for _, name := range []string{"ada@contoso.com", "breakglass@contoso.com", "nobody@contoso.com"} {
		user, err := event.NewUser("", name)
		if err != nil {
			panic(err)
		}
		users = append(users, user)
	}
	manual := dispatch.ManualRevocation{
		Protected:   protected,
		Retrier:     retry.New(retry.Policy{MaxAttempts: 3, InitialInterval: time.Second, MaxInterval: time.Minute}),
		Concurrency: 4,
		Call: func(_ context.Context, user event.User) (revoker.Attempt, error) {
			if user.UPN() == "nobody@contoso.com" {
				return revoker.Attempt{Sent: true, Status: 404}, &revoker.Error{Kind: revoker.NotFound}
			}
			return revoker.Attempt{Sent: true, Status: 200}, nil
		},
	}
	manual.Revoke(context.Background(), users, func(r dispatch.ManualResult) {
		fmt.Printf("%s: revoked %v, calls %d, reason %q\n", r.User.UPN(), r.Revoked, r.Calls, r.Reason)
	})
	// Unordered output:
	// ada@contoso.com: revoked true, calls 1, reason ""
	// breakglass@contoso.com: revoked false, calls 0, reason "ProtectedUser"
	// nobody@contoso.com: revoked false, calls 1, reason "UserNotFound"
}
