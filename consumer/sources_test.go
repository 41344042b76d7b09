package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// sendUrgent sends a message to the more urgent source.
func (w *world) sendUrgent(m *azservicebus.Message) {
	w.t.Helper()
	if err := w.urgentSender.SendMessage(context.Background(), m, nil); err != nil {
		w.t.Fatal(err)
	}
}

// empty waits until both sources hold nothing but dead letters.
func (w *world) empty(limit time.Duration) {
	w.t.Helper()
	w.settled(limit)
	for deadline := time.Now().Add(limit); ; time.Sleep(100 * time.Millisecond) {
		counts, err := w.broker.Counts(urgent)
		if err != nil {
			w.t.Fatal(err)
		}
		if counts.Active == 0 {
			synctest.Wait()
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%+v in the urgent source after %v; log: %v", counts, limit, w.lines())
		}
	}
}

// leaver returns one of the users of a mass offboarding.
func leaver(i int) graph.User {
	return graph.User{
		ID:                fmt.Sprintf("0a5bd9b6-4a5c-4ee1-9a7e-1d3c5a6b%04d", i),
		UserPrincipalName: fmt.Sprintf("leaver%d@contoso.com", i), UserType: "Member",
	}
}

func TestSourceThatIsUrgentOvertakesAMassOffboarding(t *testing.T) {
	inBubble(t, settings{urgent: true, maxInFlight: 32}, func(t *testing.T, w *world) {
		const leavers = 100
		for i := range leavers {
			if err := w.graph.AddUser(leaver(i)); err != nil {
				t.Fatal(err)
			}
			id := fmt.Sprintf("leaver-%d", i)
			// These events say "stolen", too: the source counts more than the type.
			w.send(&azservicebus.Message{MessageID: &id, Body: fmt.Appendf(nil, `{"type":"device.stolen","userId":%q}`, leaver(i).ID)})
		}
		if err := w.graph.SetQuota(graph.Quota{Model: graph.FixedWindow, Limit: 5, Per: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
		w.run()
		time.Sleep(25 * time.Second)
		w.sendUrgent(&azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"user.offboarded","userId":%q}`, ada.ID)})
		sent := time.Now()
		w.empty(30 * time.Minute)
		at, revoked := w.graph.Revoked(ada.ID)
		if !revoked || at.Sub(sent) > 15*time.Second {
			t.Errorf("ada was revoked %v after her event; the next window of the quota begins within 10 s", at.Sub(sent))
		}
		for i := range leavers {
			if _, revoked := w.graph.Revoked(leaver(i).ID); !revoked {
				t.Errorf("%s is not revoked", leaver(i).UserPrincipalName)
			}
		}
		w.wantDead(nil)
	})
}

// However many bulk messages are in flight and wait for Graph, urgent messages are received.
func TestSourceThatIsFullKeepsNoUrgentMessageInItsQueue(t *testing.T) {
	inBubble(t, settings{urgent: true, maxInFlight: 4}, func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		w.settled(time.Minute)
		remove := w.graph.Inject(graph.Fault{Status: http.StatusTooManyRequests, RetryAfter: "120"})
		for i := range 20 {
			if err := w.graph.AddUser(leaver(i)); err != nil {
				t.Fatal(err)
			}
			w.send(about(leaver(i)))
		}
		time.Sleep(30 * time.Second)
		remove()
		w.sendUrgent(about(grace))
		sent := time.Now()
		w.empty(10 * time.Minute)
		for _, call := range w.graph.Calls() {
			if call.Start.After(sent) {
				if call.UserID != grace.ID {
					t.Errorf("the first call after the throttling is for %s, want the urgent source's user", call.UserID)
				}
				return
			}
		}
		t.Error("no call after the throttling")
	})
}

func TestSourceHasItsOwnDeadLetters(t *testing.T) {
	inBubble(t, settings{urgent: true}, func(t *testing.T, w *world) {
		w.send(&azservicebus.Message{Body: []byte("rubbish")})
		w.sendUrgent(named("nobody@contoso.com"))
		w.run()
		w.empty(10 * time.Minute)
		w.wantDead(map[string]string{"m0": "InvalidEvent"})
		letters, err := w.broker.Peek(urgent+"/$DeadLetterQueue", 0, 10)
		if err != nil || len(letters) != 1 || letters[0].DeadLetterReason != "UserNotFound" {
			t.Errorf("the urgent source's dead letters: %+v, %v", letters, err)
		}
	})
}

func TestDedupeAcrossSources(t *testing.T) {
	t.Run("a newer urgent event stands for a bulk one", func(t *testing.T) {
		inBubble(t, settings{urgent: true, concurrency: 1}, func(t *testing.T, w *world) {
			w.graph.Inject(graph.Fault{User: grace.ID, Delay: 10 * time.Second})
			w.run()
			w.sendUrgent(about(alan)) // until Graph has answered once, one message at a time is received
			w.empty(time.Minute)
			w.send(about(grace))
			time.Sleep(500 * time.Millisecond) // the only attempt is grace's, and ada waits
			w.send(about(ada))
			time.Sleep(500 * time.Millisecond)
			w.sendUrgent(about(ada))
			w.empty(time.Minute)
			w.wantRevoked(ada, grace, alan)
			if n := w.logs.FilterField(outcomeField("superseded")).Len(); n != 1 || len(w.graph.CallsFor(ada.ID)) != 1 {
				t.Errorf("%d superseded, %d calls for ada; want one each: %v", n, len(w.graph.CallsFor(ada.ID)), w.lines())
			}
		})
	})
	t.Run("a newer bulk event does not stand for an urgent one, and one call settles both", func(t *testing.T) {
		inBubble(t, settings{urgent: true, concurrency: 1}, func(t *testing.T, w *world) {
			w.graph.Inject(graph.Fault{User: grace.ID, Delay: 10 * time.Second})
			w.run()
			w.sendUrgent(about(alan)) // until Graph has answered once, one message at a time is received
			w.empty(time.Minute)
			w.send(about(grace))
			time.Sleep(500 * time.Millisecond)
			w.sendUrgent(about(ada))
			time.Sleep(500 * time.Millisecond)
			w.send(about(ada))
			w.empty(time.Minute)
			w.wantRevoked(ada, grace, alan)
			if n := w.logs.FilterField(outcomeField("superseded")).Len(); n != 0 || len(w.graph.CallsFor(ada.ID)) != 1 {
				t.Errorf("%d superseded, %d calls for ada; want none and one: %v", n, len(w.graph.CallsFor(ada.ID)), w.lines())
			}
		})
	})
}

// deaf is a receiver that cannot reach its entity.
type deaf struct{ consumer.Receiver }

func (deaf) PeekMessages(context.Context, int, *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
	return nil, errors.New("the entity is away")
}

func TestSourceThatIsAwayDoesNotStopTheOthers(t *testing.T) {
	inBubble(t, settings{urgent: true, wrap: func(r consumer.Receiver) consumer.Receiver { return deaf{r} }}, func(t *testing.T, w *world) {
		w.run()
		w.sendUrgent(about(ada))
		time.Sleep(10 * time.Minute)
		w.wantRevoked(ada)
		problems := w.health.Problems()
		if len(problems) != 1 || problems["servicebus events"] != "the entity is away" {
			t.Errorf("problems %v, want only the source that is away", problems)
		}
		if !w.health.Alive() {
			t.Error("not alive")
		}
	})
}
