package consumer_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
)

// inBubble runs a scenario against a world with these settings. It is the only harness of this
// package: bubbles are synctest's, where time passes as soon as all goroutines wait.
func inBubble(t *testing.T, s settings, scenario func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { scenario(t, newWorld(t, s)) })
}

func TestConsumerRevokesTheUserOfAnEvent(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.send(about(ada), named(grace.UserPrincipalName))
		w.run()
		w.settled(time.Minute)
		w.wantRevoked(ada, grace)
		w.wantDead(nil)
		for _, u := range []graph.User{ada, grace} {
			if calls := w.graph.CallsFor(u.ID); len(calls) != 1 {
				t.Errorf("%d calls for %s, want 1", len(calls), u.UserPrincipalName)
			}
		}
		if n := w.logs.FilterField(outcomeField("revoked")).Len(); n != 2 {
			t.Errorf("%d lines say revoked, want one per event: %v", n, w.lines())
		}
		if problems := w.health.Problems(); len(problems) != 0 {
			t.Errorf("not ready: %v", problems)
		}
	})
}

// firstAccept is how long a worker waits for its first session.
const firstAccept = time.Second

func TestIdleConsumerIsReadyWithoutAMessage(t *testing.T) {
	for name, s := range map[string]settings{"queue": {}, "two queues": {urgent: true}, "sessions": {sessions: 2}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, s, func(t *testing.T, w *world) {
				w.run()
				time.Sleep(firstAccept)
				if problems := w.health.Problems(); len(problems) != 0 {
					t.Errorf("not ready: %v", problems)
				}
			})
		})
	}
}

func TestConsumerDeadLettersWhatCannotBeRevokedWithItsReason(t *testing.T) {
	// The canary account proves that Graph is well, although nobody else is signed out.
	canary, err := event.NewUser(canaries.ID, "")
	if err != nil {
		t.Fatal(err)
	}
	inBubble(t, settings{canary: canary}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, ValueFalse: true})
		w.graph.Inject(graph.Fault{User: grace.ID, Status: 400, Body: `{"error":{"code":"BadRequest","message":"no"}}`})
		w.send(
			about(ada),
			about(grace),
			named("nobody@contoso.com"),
			named(guest.UserPrincipalName),
			about(glass),
			named(strings.ToUpper(glass.UserPrincipalName)),
			&azservicebus.Message{Body: []byte(`{"type":"device.stolen"}`)},
			&azservicebus.Message{Body: []byte(fmt.Sprintf(`{"type":"device.enrolled","userId":%q}`, alan.ID))},
		)
		w.run()
		w.settled(10 * time.Minute)
		w.wantRevoked(canaries)
		w.wantDead(map[string]string{
			"m0": "NotRevoked", "m1": "RequestRejected", "m2": "UserNotFound", "m3": "ExternalUser",
			"m4": "ProtectedUser", "m5": "ProtectedUser", "m6": "InvalidEvent", "m7": "UnknownEvent",
		})
		for _, u := range []graph.User{guest, glass, alan} {
			if calls := w.graph.CallsFor(u.ID); len(calls) != 0 {
				t.Errorf("%s was called %d times and must never be", u.UserPrincipalName, len(calls))
			}
		}
		letter := w.dead()["m1"]
		for property, want := range map[string]string{
			deadletter.PropertyStatus: "400", deadletter.PropertyCode: "BadRequest", deadletter.PropertyAttempts: "1",
		} {
			if got := letter.ApplicationProperties[property]; got != want {
				t.Errorf("%s is %v, want %s", property, got, want)
			}
		}
		call := w.graph.CallsFor(grace.ID)[0]
		if letter.ApplicationProperties[deadletter.PropertyClientRequestID] != call.ClientRequestID ||
			letter.ApplicationProperties[deadletter.PropertyRequestID] != call.RequestID {
			t.Errorf("the dead letter does not name the call: %v", letter.ApplicationProperties)
		}
	})
}

func TestConsumerNeverCallsGraphForBadInput(t *testing.T) {
	inputs := map[string]*azservicebus.Message{
		"a 1 MB body":          {Body: []byte(`{"type":"device.lost","userId":"` + strings.Repeat("a", 1<<20) + `"}`)},
		"invalid UTF-8":        {Body: []byte("{\"type\":\"device.lost\",\"userPrincipalName\":\"a\xff@contoso.com\"}")},
		"deep JSON":            {Body: []byte(strings.Repeat("[", 100_000))},
		"slashes in a UPN":     named("a/../../b@contoso.com"),
		"dots in a UPN":        named("..@contoso.com"),
		"the SDK's me literal": named("me-token-to-replace"),
		"an empty body":        {Body: []byte{}},
		"no body at all":       {},
		"rubbish":              {Body: []byte{0, 1, 2, 3, 255}},
	}
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		want := map[string]string{}
		for name, m := range inputs {
			m.MessageID = &name
			w.send(m)
			want[name] = "InvalidEvent"
		}
		value := "AMQP value"
		err := w.sender.SendAMQPAnnotatedMessage(t.Context(), &azservicebus.AMQPAnnotatedMessage{
			Properties: &azservicebus.AMQPAnnotatedMessageProperties{MessageID: value},
			Body:       azservicebus.AMQPAnnotatedMessageBody{Value: fmt.Sprintf(`{"type":"device.lost","userId":%q}`, ada.ID)},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		want[value] = "InvalidEvent"
		w.run()
		w.settled(time.Minute)
		w.wantDead(want)
		if calls := w.graph.Calls(); len(calls) != 0 {
			t.Errorf("Graph was called: %v", calls)
		}
	})
}

func TestConsumerReadsABodyInSeveralDataSections(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		err := w.sender.SendAMQPAnnotatedMessage(t.Context(), &azservicebus.AMQPAnnotatedMessage{
			Body: azservicebus.AMQPAnnotatedMessageBody{Data: [][]byte{
				[]byte(`{"type":"device.lost",`), fmt.Appendf(nil, `"userId":%q}`, ada.ID),
			}},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.run()
		w.settled(time.Minute)
		w.wantRevoked(ada)
	})
}

func TestConsumerSettlesAMessageWhenAllItsUsersAreDecided(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.send(
			about(ada, grace, alan),
			about(ada, graph.User{ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6bffff"}, glass, grace),
			about(glass, glass),
		)
		w.run()
		w.settled(10 * time.Minute)
		w.wantRevoked(ada, grace, alan)
		w.wantDead(map[string]string{"m1": "UserNotFound", "m2": "ProtectedUser"})
		if got := w.dead()["m1"].ApplicationProperties[deadletter.PropertyFailed]; got != "1,2" {
			t.Errorf("failed events %q, want 1,2", got)
		}
		if got, ok := w.dead()["m2"].ApplicationProperties[deadletter.PropertyFailed]; ok {
			t.Errorf("all events failed, and the dead letter has the indexes %v", got)
		}
	})
}

func TestDeadLetterTextsStaySmall(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		events := strings.Repeat(fmt.Sprintf(`{"type":"device.stolen","userId":%q},`, glass.ID), 999)
		w.send(&azservicebus.Message{Body: []byte(fmt.Sprintf(`[%s{"type":"device.stolen","userId":%q}]`, events, ada.ID))})
		w.run()
		w.settled(time.Minute)
		w.wantDead(map[string]string{"m0": "ProtectedUser"})
		w.wantRevoked(ada)
		letter := w.dead()["m0"]
		if n := len(letter.DeadLetterDescription); n == 0 || n > deadletter.MaxDescription {
			t.Errorf("a description of %d bytes", n)
		}
		failed, _ := letter.ApplicationProperties[deadletter.PropertyFailed].(string)
		if len(failed) > deadletter.MaxProperty || failed != "" && strings.Count(failed, ",") != 998 {
			t.Errorf("%d bytes of indexes: all must be there, or none if they do not fit", len(failed))
		}
	})
}

func TestConsumerWaitsForReplicationLag(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{
			User: ada.ID, Count: 3, Status: 404, Body: `{"error":{"code":"Request_ResourceNotFound","message":"?"}}`,
		})
		w.send(about(ada))
		w.run()
		w.settled(time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}

func TestConsumerObeysThrottling(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: http.StatusTooManyRequests, RetryAfter: "97"})
		w.send(about(ada))
		w.run()
		w.settled(10 * time.Minute)
		calls := w.graph.CallsFor(ada.ID)
		if len(calls) != 2 || calls[1].Start.Sub(calls[0].End) < 97*time.Second {
			t.Fatalf("calls %+v, want the second 97 s after the first", calls)
		}
		w.wantRevoked(ada)
	})
}

func TestOutageOfGraphDeadLettersNothingAndRaisesNoDeliveryCount(t *testing.T) {
	inBubble(t, settings{maxDeliveries: 2, maxInFlight: 8}, func(t *testing.T, w *world) {
		down := w.graph.Inject(graph.Fault{Status: 503})
		w.send(about(ada), about(grace), about(alan))
		w.run()
		time.Sleep(30 * time.Minute)
		if c := w.counts(); c.Active != 3 || c.DeadLetter != 0 || c.Locked != 3 {
			t.Errorf("after 30 minutes: %+v, want all three in the queue, and locked", c)
		}
		if w.health.Problems()[consumer.PartGraph] == "" {
			t.Error("readiness does not show that Graph is down")
		}
		if !w.health.Alive() {
			t.Error("a worker is not alive during an outage of Graph")
		}
		down()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada, grace, alan)
		w.wantDead(nil)
		if problems := w.health.Problems(); len(problems) != 0 {
			t.Errorf("after the outage: %v", problems)
		}
	})
}

func TestPermissionIsRequiredBeforeMessagesAreReceived(t *testing.T) {
	inBubble(t, settings{roles: []string{"User.Read.All"}}, func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		time.Sleep(time.Hour)
		if c := w.counts(); c.Active != 1 || c.Locked != 0 || c.DeadLetter != 0 {
			t.Errorf("%+v, want the message untouched", c)
		}
		problems := w.health.Problems()
		if problem := problems[consumer.PartGraph]; len(problems) != 1 || !strings.Contains(problem, "User.RevokeSessions.All") {
			t.Errorf("readiness says %q, want the missing permission alone", problems)
		}
		if n := w.logs.FilterLevelExact(-1).Len() + len(w.lines()); n > 5 {
			t.Errorf("%d log lines in an hour of waiting: %v", n, w.lines())
		}
	})
}

func TestPermissionTakenAwayMakesMessagesWait(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.run()
		time.Sleep(time.Minute)
		w.graph.SetRoles("app", nil)
		w.graph.RevokeTokens()
		w.send(about(ada))
		time.Sleep(3 * time.Hour)
		if c := w.counts(); c.Active != 1 || c.DeadLetter != 0 {
			t.Fatalf("%+v, want the message waiting", c)
		}
		w.graph.SetRoles("app", []string{"User.RevokeSessions.All"})
		w.graph.RevokeTokens()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada)
	})
}

func TestForbiddenUserIsDeadLetteredWhileOthersSucceed(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Status: 403, Body: `{"error":{"code":"Authorization_RequestDenied","message":"no"}}`})
		w.send(about(ada))
		w.run()
		time.Sleep(30 * time.Minute)
		if len(w.dead()) != 0 {
			t.Fatal("dead-lettered in a quiet night: the 403 may be a fault that hits everyone")
		}
		for i := range 20 {
			m, id := about(grace), fmt.Sprintf("other%d", i)
			m.MessageID = &id
			w.send(m)
			time.Sleep(2 * time.Minute)
		}
		w.wantDead(map[string]string{"m0": "Forbidden"})
	})
}

func TestLockIsKeptWhileAMessageWaits(t *testing.T) {
	inBubble(t, settings{lock: 30 * time.Second}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: 429, RetryAfter: "590"})
		w.send(about(ada))
		w.run()
		w.settled(20 * time.Minute)
		w.wantRevoked(ada)
		if n := testutil.ToFloat64(w.metrics.LocksLost); n != 0 {
			t.Errorf("%v locks lost", n)
		}
		if n := testutil.ToFloat64(w.metrics.Renewals.WithLabelValues("ok")); n < 590/30 {
			t.Errorf("%v renewals in 590 s of waiting", n)
		}
		if calls := w.graph.CallsFor(ada.ID); len(calls) != 2 {
			t.Errorf("%d calls, want 2: a redelivery would have made more", len(calls))
		}
	})
}

func TestLockOfAQuickMessageIsNotRenewed(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		w.settled(time.Minute)
		if n := testutil.ToFloat64(w.metrics.Renewals.WithLabelValues("ok")); n != 0 {
			t.Errorf("%v renewals", n)
		}
	})
}

func TestLinkLossLosesNoMessage(t *testing.T) {
	inBubble(t, settings{lock: 20 * time.Second}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: 5 * time.Second})
		w.send(about(ada), about(grace), about(alan))
		w.run()
		for range 4 {
			time.Sleep(3 * time.Second)
			w.broker.CloseConnections()
		}
		w.settled(10 * time.Minute)
		w.wantRevoked(ada, grace, alan)
		w.wantDead(nil)
	})
}

func TestConsumerReceivesDecodesGuardsRevokesSettles(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Delay: 10 * time.Second})
		w.send(about(ada))
		w.run()
		time.Sleep(9 * time.Second)
		if c := w.counts(); c.Locked != 1 || c.Active != 1 {
			t.Fatalf("%+v during the call: the message must be locked, not settled", c)
		}
		w.settled(time.Minute)
		w.wantRevoked(ada)
	})
}

func TestLogShowsNoUsersThatAreHashed(t *testing.T) {
	inBubble(t, settings{hashUsers: true}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{
			User: grace.ID, Status: 400, Body: fmt.Sprintf(`{"error":{"code":"BadRequest","message":"user %s"}}`, grace.ID),
		})
		w.send(about(ada), about(grace), named("nobody@contoso.com"), named("a/b@contoso.com"), named(guest.UserPrincipalName))
		w.run()
		w.settled(10 * time.Minute)
		log := strings.Join(w.lines(), "\n")
		for _, secret := range []string{ada.ID, grace.ID, "nobody", "a/b", "fabrikam"} {
			if strings.Contains(log, secret) {
				t.Errorf("the log names %s:\n%s", secret, log)
			}
		}
		if !strings.Contains(log, "sha256:") {
			t.Errorf("no hashed user in the log:\n%s", log)
		}
	})
}

func TestLogAndSpansShowNothingThatAProducerChoseWithHashedUsers(t *testing.T) {
	exporter := tracetest.NewInMemoryExporter()
	tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test")
	inBubble(t, settings{hashUsers: true, tracer: tracer}, func(t *testing.T, w *world) {
		const private = "ada-lovelace"
		event := func(kind string) []byte {
			return fmt.Appendf(nil, `{"specversion":"1.0","id":"%s-event","source":"%s-source","type":%q,"data":{"userId":%q}}`,
				private, private, kind, ada.ID)
		}
		properties := map[string]any{
			"revoker-replay-run": private + "-run", "tracestate": "hr=" + private,
			"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		}
		w.send(&azservicebus.Message{MessageID: new(private + "-1"), Body: event("device.lost"), ApplicationProperties: properties},
			&azservicebus.Message{MessageID: new(private + "-2"), Body: event(private + ".lost"), ApplicationProperties: properties})
		w.run()
		w.settled(time.Minute)
		log := strings.Join(w.lines(), "\n")
		if strings.Contains(log, private) || !strings.Contains(log, "device.lost") {
			t.Errorf("the log holds what a producer chose, or lacks what is on the allow-list:\n%s", log)
		}
		for _, span := range exporter.GetSpans() {
			if text := fmt.Sprintf("%+v", span); strings.Contains(text, private) {
				t.Errorf("a span holds what a producer chose: %s", text)
			}
		}
	})
}

func TestReplayActsOnTheEventsThatFailedAlone(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		body := fmt.Appendf(nil, `[{"type":"device.lost","userId":%q},{"type":"device.lost","userId":%q},
			{"type":"device.lost","userPrincipalName":"nobody@contoso.com"}]`, ada.ID, grace.ID)
		resubmitted := func(id string, only int) *azservicebus.Message {
			again, err := replay.Record{Body: body, OnlyEvents: []int{only}}.Message(replay.NewRun("ada@desk"))
			if err != nil {
				t.Fatal(err)
			}
			return &azservicebus.Message{MessageID: &id, Body: body, ApplicationProperties: again.ApplicationProperties}
		}
		w.send(resubmitted("one", 1), resubmitted("failed again", 2))
		w.run()
		w.settled(5 * time.Minute)
		w.wantRevoked(grace)
		w.wantDead(map[string]string{"failed again": "UserNotFound"})
		if got := w.dead()["failed again"].ApplicationProperties[deadletter.PropertyFailed]; got != "2" {
			t.Errorf("failed events %v: the next replay would act on all users of the message", got)
		}
		rubbish := resubmitted("rubbish", 1)
		rubbish.ApplicationProperties[deadletter.PropertyOnly] = "x"
		w.send(rubbish)
		w.settled(5 * time.Minute)
		w.wantRevoked(ada, grace)
	})
}

// A producer, or a tool that copies properties, must not make the worker leave out events.
func TestReplayIndexesAreBelievedForTheirOwnBodyAlone(t *testing.T) {
	whole, err := replay.Record{Body: []byte(`[1,2]`), OnlyEvents: []int{1}}.Message(replay.NewRun("ada@desk"))
	if err != nil {
		t.Fatal(err)
	}
	for name, properties := range map[string]map[string]any{
		"indexes alone":  {deadletter.PropertyOnly: "1"},
		"another's body": whole.ApplicationProperties,
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{}, func(t *testing.T, w *world) {
				body := fmt.Appendf(nil, `[{"type":"device.lost","userId":%q},{"type":"device.lost","userId":%q}]`, ada.ID, grace.ID)
				w.send(&azservicebus.Message{Body: body, ApplicationProperties: properties})
				w.run()
				w.settled(time.Minute)
				w.wantRevoked(ada, grace)
			})
		})
	}
}

// A dead letter must not show properties under our names that a producer sent, or that are left
// from an earlier failure.
func TestDeadLetterHasNoneOfOurPropertiesButThoseTheWorkerWrote(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		forged := map[string]any{"mine": "kept", deadletter.PropertyAttempts: int64(99)}
		for _, name := range []string{
			deadletter.PropertyFailed, deadletter.PropertySuperseded, deadletter.PropertySupersededCount,
			deadletter.PropertyStatus, deadletter.PropertyCode,
			deadletter.PropertyRequestID, deadletter.PropertyClientRequestID, deadletter.PropertyOnly, deadletter.PropertyOnlyOf,
			deadletter.PropertyReplays, deadletter.PropertyRun, deadletter.PropertyReplayedAt,
			deadletter.PropertyReplayedBy, deadletter.PropertyOriginalID,
		} {
			forged[name] = "1"
		}
		m := about(glass)
		m.ApplicationProperties = forged
		w.send(m)
		w.run()
		w.settled(time.Minute)
		w.wantDead(map[string]string{"m0": "ProtectedUser"})
		for name, value := range w.dead()["m0"].ApplicationProperties {
			switch {
			case name == "mine" && value == "kept",
				name == deadletter.PropertyAttempts && value == "0", strings.HasPrefix(name, "DeadLetter"):
			case value != "":
				t.Errorf("%s = %v", name, value)
			}
		}
	})
}
