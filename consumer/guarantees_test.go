package consumer_test

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// sendUnknown sends events about users whom Graph does not know. The numbers become the message
// ids.
func (w *world) sendUnknown(prefix string, numbers ...int) {
	w.t.Helper()
	for _, n := range numbers {
		m := about(graph.User{ID: fmt.Sprintf("0a5bd9b6-4a5c-4ee1-9a7e-%012d", n)})
		id := fmt.Sprintf("%s%d", prefix, n)
		m.MessageID = &id
		w.send(m)
	}
}

// A message may report an offboarding and a stolen device of one person: the call is as urgent as
// the more urgent of the two, whichever comes first.
func TestConsumerCallsAUserByTheMostUrgentEventOfTheirMessage(t *testing.T) {
	inBubble(t, settings{concurrency: 1}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: time.Second})
		for _, u := range w.people(0, 8) {
			w.send(&azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"device.lost","userId":%q}`, u.ID)})
		}
		body := fmt.Appendf(nil, `[{"type":"user.offboarded","userId":%q},{"type":"device.stolen","userId":%q}]`, ada.ID, ada.ID)
		w.send(&azservicebus.Message{Body: body})
		w.run()
		w.settled(time.Minute)
		for i, call := range w.graph.Calls() {
			if call.UserID == ada.ID {
				if i > 4 { // a few may have begun before the message was received
					t.Errorf("the call for the stolen device was number %d", i+1)
				}
				return
			}
		}
		t.Error("no call")
	})
}

func TestDedupeOfAStormCostsOneCallNowAndOnePerWindow(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.run()
		for i := range 120 { // two minutes, an event every second
			m, id := about(ada), fmt.Sprintf("storm%d", i)
			m.MessageID = &id
			w.send(m)
			time.Sleep(time.Second)
		}
		w.settled(5 * time.Minute)
		calls := w.graph.CallsFor(ada.ID)
		if len(calls) > 4 {
			t.Errorf("%d calls in two minutes, want one now and one per window", len(calls))
		}
		if last := calls[len(calls)-1].Start; time.Since(last) > 5*time.Minute {
			t.Errorf("the last event was not called for")
		}
		w.wantDead(nil)
	})
}

func TestDedupeOfAStormForAnUnknownUserEndsInFewDeadLettersThatNameTheOthers(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.run()
		for i := range 20 {
			m := named("nobody@contoso.com")
			id := fmt.Sprintf("storm%d", i)
			m.MessageID = &id
			w.send(m)
			time.Sleep(time.Second)
		}
		w.settled(10 * time.Minute)
		dead, count := w.dead(), 0
		for _, letter := range dead {
			n := 0
			_, _ = fmt.Sscan(fmt.Sprint(letter.ApplicationProperties[deadletter.PropertySupersededCount]), &n)
			count += 1 + n
		}
		if len(dead) == 0 || len(dead) > 2 || count != 20 {
			t.Errorf("%d dead letters supersede %d messages, want 20 in all, in one or two dead letters", len(dead), count)
		}
	})
}

func TestLivenessOfAStolenDeviceAmongAThousandUnknownUsers(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{maxInFlight: 16}, func(t *testing.T, w *world) {
		for i := range 1000 {
			w.sendUnknown("u", i)
		}
		w.send(about(ada))
		w.run()
		start := time.Now()
		for {
			if _, done := w.graph.Revoked(ada.ID); done {
				break
			}
			if time.Since(start) > 10*time.Minute {
				t.Fatal("the stolen device still waits after 10 minutes")
			}
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("the stolen device waited %v behind users whom Graph does not know", took)
		}
		w.settled(10 * time.Minute)
	})
}

func TestOutageOfHalfAnHourLosesNoLoneEvent(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		up := w.graph.Inject(graph.Fault{Status: http.StatusServiceUnavailable})
		w.send(about(ada))
		w.run()
		time.Sleep(30 * time.Minute)
		up()
		w.settled(2 * time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}

func TestOutageWithARetryAfterOfADayIsProbed(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		// Each answer takes a while, so that the attempts have begun before the first one ends. A success
		// of one that began later would close the breaker, and so would a canary that is throttled instead.
		const takes = 100 * time.Millisecond
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: http.StatusTooManyRequests, RetryAfter: "86400", Delay: takes})
		w.graph.Inject(graph.Fault{Delay: takes})
		w.send(about(ada), about(grace))
		w.run()
		time.Sleep(5 * time.Minute)
		if w.health.Problems()[consumer.PartGraph] == "" || len(w.graph.Calls()) > 3 {
			t.Errorf("problems %v after the calls %+v, want the breaker open after the attempts that began together",
				w.health.Problems(), w.graph.Calls())
		}
		w.settled(6 * time.Minute)
		w.wantRevoked(ada, grace)
	})
}

func TestLocksLostWhileTheBreakerIsOpenLoseNoMessage(t *testing.T) {
	inBubble(t, settings{lock: 20 * time.Second}, func(t *testing.T, w *world) {
		up := w.graph.Inject(graph.Fault{Status: http.StatusServiceUnavailable})
		w.send(about(ada), about(grace), about(alan))
		w.run()
		time.Sleep(2 * time.Minute)
		w.broker.CloseConnections()
		time.Sleep(5 * time.Minute)
		up()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada, grace, alan)
		w.wantDead(nil)
	})
}

func TestUrgentUsersInFlightAreCalledFirst(t *testing.T) {
	inBubble(t, settings{concurrency: 1}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Count: 1, User: alan.ID, Status: http.StatusTooManyRequests, RetryAfter: "30"})
		w.send(about(alan))
		w.run()
		w.settled(time.Minute)
		w.graph.Inject(graph.Fault{Count: 1, Status: http.StatusTooManyRequests, RetryAfter: "30"})
		for i, m := range []string{
			fmt.Sprintf(`{"type":"user.offboarded","userId":%q}`, ada.ID),
			fmt.Sprintf(`{"type":"device.stolen","userId":%q}`, grace.ID),
		} {
			message := about(ada)
			message.Body = []byte(m)
			id := fmt.Sprintf("urgent%d", i)
			message.MessageID = &id
			w.send(message)
		}
		w.settled(5 * time.Minute)
		var order []string
		for _, call := range w.graph.Calls() {
			if call.Revoked && call.UserID != alan.ID {
				order = append(order, call.UserID)
			}
		}
		if !slices.Equal(order, []string{grace.ID, ada.ID}) {
			t.Errorf("revoked in the order %v, want the stolen device (%s) before the leaver", order, grace.ID)
		}
	})
}

// A naive breaker would take the single 403 for a fault that hits everyone, and stop receiving.
func TestForbiddenUserInAQuietNightStopsNobody(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{
			User: ada.ID, Status: http.StatusForbidden, Body: `{"error":{"code":"Authorization_RequestDenied","message":"no"}}`,
		})
		w.send(about(ada))
		w.run()
		time.Sleep(10 * time.Minute)
		m, id := about(grace), "later"
		m.MessageID = &id
		w.send(m)
		time.Sleep(30 * time.Second)
		w.wantRevoked(grace)
		w.settled(3 * time.Hour)
		w.wantDead(map[string]string{"m0": "Forbidden"})
	})
}
