package servicebus_test

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// restarted closes a broker and its client, and returns a broker and client that go on from what
// was saved.
func restarted(
	t *testing.T, old *servicebus.Broker, oldClient *azservicebus.Client, cfg servicebus.Config,
) (*servicebus.Broker, *azservicebus.Client) {
	t.Helper()
	_ = oldClient.Close(context.Background())
	_ = old.Close()
	var file bytes.Buffer
	must(t, old.Save(&file))
	cfg.Saved = &file
	broker, err := servicebus.New(cfg)
	must(t, err)
	client := newClient(t, broker)
	t.Cleanup(func() {
		_ = client.Close(context.Background())
		_ = broker.Close()
		synctest.Wait()
	})
	return broker, client
}

func TestSavedBrokerGoesOnWhereItStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		filter, err := rule.NewSQL("color = @wanted", map[string]any{"@wanted": "red"})
		must(t, err)
		cfg := servicebus.Config{
			Queues: []servicebus.QueueConfig{
				{Name: queue, DuplicateWindow: time.Hour, MaxDeliveryCount: 3},
				{Name: "sessions", RequiresSession: true},
				{Name: "one", ForwardDeadLettersTo: "two"},
				{Name: "two", ForwardDeadLettersTo: "one"},
			},
			Topics: []servicebus.TopicConfig{{
				QueueConfig: servicebus.QueueConfig{Name: "paint"},
				Subscriptions: []servicebus.SubscriptionConfig{
					{QueueConfig: servicebus.QueueConfig{Name: "red"}, Rules: []rule.Rule{{Name: "r", Filter: filter}}},
				},
			}},
		}
		broker, err := servicebus.New(cfg)
		must(t, err)
		client := newClient(t, broker)
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		for _, id := range []string{"active", "locked", "deferred", "dead", "done"} {
			must(t, sender.SendMessage(ctx, &azservicebus.Message{
				MessageID: &id, Body: []byte(id), ApplicationProperties: map[string]any{"n": int64(1), "id": id},
			}, nil))
		}
		_, err = sender.ScheduleMessages(ctx, []*azservicebus.Message{{Body: []byte("scheduled")}}, time.Now().Add(time.Hour), nil)
		must(t, err)
		receiver, err := client.NewReceiverForQueue(queue, nil)
		must(t, err)
		var deferred int64
		for _, m := range receiveFrom(t, receiver, 5) {
			switch string(m.Body) {
			case "active":
				must(t, receiver.AbandonMessage(ctx, m, nil))
			case "deferred":
				must(t, receiver.DeferMessage(ctx, m, nil))
				deferred = *m.SequenceNumber
			case "dead":
				reason := "because"
				must(t, receiver.DeadLetterMessage(ctx, m, &azservicebus.DeadLetterOptions{Reason: &reason}))
			case "done":
				must(t, receiver.CompleteMessage(ctx, m, nil))
			}
		}
		withSessions, err := client.NewSender("sessions", nil)
		must(t, err)
		id := "s1"
		must(t, withSessions.SendMessage(ctx, &azservicebus.Message{SessionID: &id, Body: []byte("in a session")}, nil))
		session, err := client.AcceptSessionForQueue(ctx, "sessions", id, nil)
		must(t, err)
		must(t, session.SetSessionState(ctx, []byte("half"), nil))

		before := broker.Revision()
		broker, client = restarted(t, broker, client, servicebus.Config{
			Queues: []servicebus.QueueConfig{{Name: queue, MaxDeliveryCount: 50}, {Name: "new"}},
			Topics: []servicebus.TopicConfig{{
				QueueConfig:   servicebus.QueueConfig{Name: "Paint"},
				Subscriptions: []servicebus.SubscriptionConfig{subscription("all"), subscription("RED")},
			}},
		})
		if before == 0 || before == broker.Revision() {
			t.Errorf("the revision is %d before and after", before)
		}
		counts, err := broker.Counts(queue)
		must(t, err)
		counts.Bytes = 0
		if want := (servicebus.Counts{Active: 2, Scheduled: 1, Deferred: 1, DeadLetter: 1}); counts != want {
			t.Errorf("counts %+v, want %+v", counts, want)
		}
		receiver, err = client.NewReceiverForQueue(queue, nil)
		must(t, err)
		for _, m := range receiveFrom(t, receiver, 2) {
			// Each has failed once: one was abandoned, and one was locked at the end.
			if m.DeliveryCount != 2 || m.ApplicationProperties["id"] != string(m.Body) || m.ApplicationProperties["n"] != int64(1) {
				t.Errorf("%s: delivery %d, %v", m.Body, m.DeliveryCount, m.ApplicationProperties)
			}
			must(t, receiver.AbandonMessage(ctx, m, nil))
		}
		if got, err := receiver.ReceiveDeferredMessages(ctx, []int64{deferred}, nil); err != nil || bodies(got) != "[deferred]" ||
			got[0].DeliveryCount != 2 {
			t.Errorf("deferred: %s, %+v, %v", bodies(got), got, err)
		}
		dead, err := client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
		must(t, err)
		if got := receiveFrom(t, dead, 1)[0]; string(got.Body) != "dead" || *got.DeadLetterReason != "because" {
			t.Errorf("dead letter %s: %v", got.Body, got.DeadLetterReason)
		}
		// The settings, too, are those that were saved: the third failed delivery is the last.
		for _, m := range receiveFrom(t, receiver, 2) {
			must(t, receiver.AbandonMessage(ctx, m, nil))
		}
		if counts, _ := broker.Counts(queue); counts.DeadLetter != 3 {
			t.Errorf("%d dead letters, want 3", counts.DeadLetter)
		}
		// Duplicates are known, and sequence numbers go on.
		sender, err = client.NewSender(queue, nil)
		must(t, err)
		twice := "done"
		must(t, sender.SendMessage(ctx, &azservicebus.Message{MessageID: &twice}, nil))
		must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("next")}, nil))
		if got := receiveFrom(t, receiver, 1)[0]; string(got.Body) != "next" || *got.SequenceNumber <= 6 {
			t.Errorf("received %s with number %d", got.Body, *got.SequenceNumber)
		}
		time.Sleep(2 * time.Hour)
		if got := bodies(receiveFrom(t, receiver, 2)); !strings.Contains(got, "scheduled") {
			t.Errorf("after two hours: %s", got)
		}
		session, err = client.AcceptSessionForQueue(ctx, "sessions", id, nil)
		must(t, err)
		if state, err := session.GetSessionState(ctx, nil); err != nil || string(state) != "half" {
			t.Errorf("the session's state is %q, %v", state, err)
		}
		messages, err := session.ReceiveMessages(ctx, 1, nil)
		if err != nil || bodies(messages) != "[in a session]" {
			t.Errorf("%s, %v", bodies(messages), err)
		}
		// Rules and what was declared in addition.
		topic, err := client.NewSender("paint", nil)
		must(t, err)
		for _, color := range []string{"red", "blue"} {
			must(t, topic.SendMessage(ctx, &azservicebus.Message{ApplicationProperties: map[string]any{"color": color}}, nil))
		}
		for name, want := range map[string]int{"paint/subscriptions/red": 1, "paint/subscriptions/all": 2, "new": 0} {
			if counts, err := broker.Counts(name); err != nil || counts.Active != want {
				t.Errorf("%s has %d messages, want %d (%v)", name, counts.Active, want, err)
			}
		}
	})
}

func TestSavedRulesAreShownAsBefore(t *testing.T) {
	broker, d := newDocuments(t, oneTopic(servicebus.SubscriptionConfig{QueueConfig: servicebus.QueueConfig{Name: "s"}}))
	const rules = "t/Subscriptions/s/Rules"
	revision := broker.Revision()
	for name, inner := range map[string]string{
		"sql": `<Filter i:type="SqlFilter"><SqlExpression>a = '&lt;1'</SqlExpression></Filter>` +
			`<Action i:type="SqlRuleAction"><SqlExpression>SET b = 2</SqlExpression></Action>`,
		"correlation": `<Filter i:type="CorrelationFilter"><Label>x</Label></Filter>`,
		"none":        `<Filter i:type="FalseFilter"/>`,
	} {
		d.want(http.StatusCreated, http.MethodPut, rules+"/"+name, ruleDocument(inner))
	}
	if broker.Revision() == revision {
		t.Error("the revision does not change with a rule")
	}
	_, before := d.send(http.MethodGet, rules, "", false)
	var file bytes.Buffer
	must(t, broker.Save(&file))
	_, restored := newDocuments(t, servicebus.Config{Saved: &file})
	_, after := restored.send(http.MethodGet, rules, "", false)
	parts := regexp.MustCompile(`(?s)<content.*?</content>`)
	want := parts.FindAllString(before, -1)
	if got := parts.FindAllString(after, -1); len(want) != 4 || !slices.Equal(got, want) {
		t.Errorf("the rules after a restart are\n%q\nand were\n%q", got, want)
	}
}

func TestSavedBrokerWithADamagedFileIsRefused(t *testing.T) {
	filter, err := rule.NewSQL("a = @a", map[string]any{"@a": rule.GUID{1}})
	must(t, err)
	cfg := oneTopic(withRules("s", rule.Rule{Name: "r", Filter: filter, Action: act(t, "SET b = 1")}))
	cfg.Queues = []servicebus.QueueConfig{{Name: queue}}
	broker, err := servicebus.New(cfg)
	must(t, err)
	defer broker.Close()
	for range 3 {
		must(t, broker.Inject(queue, []byte("\x00Su\xa0\x01x")))
	}
	var file bytes.Buffer
	must(t, broker.Save(&file))
	whole := file.Bytes()
	for n := len(whole) - 1; n >= 0; n -= 7 { // cut off anywhere
		if other, err := servicebus.New(servicebus.Config{Saved: bytes.NewReader(whole[:n])}); err == nil {
			_ = other.Close()
			t.Fatalf("%d of %d bytes are enough", n, len(whole))
		}
	}
	for i := range whole { // changed anywhere: an error or a broker, and never a panic
		changed := bytes.Clone(whole)
		changed[i] ^= []byte{0xff, 1, 0x80}[i%3]
		if other, err := servicebus.New(servicebus.Config{Saved: bytes.NewReader(changed)}); err == nil {
			_ = other.Close()
		}
	}
}

func TestSavedRulesSelectTheSameMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		filter, err := rule.NewSQL("a = @a AND b = @b", map[string]any{"@a": float32(0.1), "@b": "\x01"})
		must(t, err)
		cfg := oneTopic(servicebus.SubscriptionConfig{
			QueueConfig: servicebus.QueueConfig{Name: "s"}, Rules: []rule.Rule{{Name: "r", Filter: filter}},
		})
		broker, err := servicebus.New(cfg)
		must(t, err)
		_, client := restarted(t, broker, newClient(t, broker), servicebus.Config{})
		sender, err := client.NewSender("t", nil)
		must(t, err)
		must(t, sender.SendMessage(ctx, &azservicebus.Message{ApplicationProperties: map[string]any{"a": float32(0.1), "b": "\x01"}}, nil))
		receiver, err := client.NewReceiverForSubscription("t", "s", nil)
		must(t, err)
		within, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if got, err := receiver.ReceiveMessages(within, 1, nil); err != nil || len(got) != 1 {
			t.Errorf("%d messages, %v", len(got), err)
		}
	})
}

func TestSavedRevisionChangesWithTheContent(t *testing.T) {
	broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	must(t, err)
	defer broker.Close()
	before := broker.Revision()
	if broker.Revision() != before {
		t.Error("the revision changes by itself")
	}
	must(t, broker.Inject(queue, []byte("\x00Su\xa0\x01x")))
	if broker.Revision() == before {
		t.Error("the revision does not change with a message")
	}
}

// BenchmarkSave shows what keeping many messages costs.
func BenchmarkSave(b *testing.B) {
	broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	must(b, err)
	defer broker.Close()
	body := append([]byte("\x00Su\xb0\x00\x00\x01\x90"), make([]byte, 400)...)
	for range 100_000 {
		must(b, broker.Inject(queue, body))
	}
	for b.Loop() {
		var file bytes.Buffer
		must(b, broker.Save(&file))
		b.ReportMetric(float64(file.Len()), "bytes")
	}
}
