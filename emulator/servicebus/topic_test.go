package servicebus_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// inTopics runs a scenario against these entities, in virtual time.
func inTopics(t *testing.T, cfg servicebus.Config, scenario func(t *testing.T, b *topics)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		broker, err := servicebus.New(cfg)
		must(t, err)
		b := &topics{t: t, broker: broker, client: newClient(t, broker)}
		t.Cleanup(func() {
			_ = b.client.Close(context.Background())
			_ = broker.Close()
			synctest.Wait()
		})
		scenario(t, b)
	})
}

type topics struct {
	t      *testing.T
	broker *servicebus.Broker
	client *azservicebus.Client
}

func (b *topics) send(entity string, messages ...*azservicebus.Message) {
	b.t.Helper()
	sender, err := b.client.NewSender(entity, nil)
	must(b.t, err)
	defer sender.Close(context.Background())
	for _, m := range messages {
		must(b.t, sender.SendMessage(context.Background(), m, nil))
	}
}

// holds fails unless an entity holds exactly these bodies, in this order.
func (b *topics) holds(entity string, want ...string) {
	b.t.Helper()
	list, err := b.broker.Peek(entity, 0, 1000)
	must(b.t, err)
	var got []string
	for _, m := range list {
		got = append(got, string(m.Body))
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("%s holds %q, want %q", entity, got, want)
	}
}

func sql(t *testing.T, text string) rule.Filter {
	t.Helper()
	filter, err := rule.NewSQL(text, nil)
	must(t, err)
	return filter
}

func colored(color string) *azservicebus.Message {
	return &azservicebus.Message{
		Body: []byte(color), Subject: &color, ApplicationProperties: map[string]any{"color": color, "n": int32(len(color))},
	}
}

func subscription(name string, filters ...rule.Filter) servicebus.SubscriptionConfig {
	s := servicebus.SubscriptionConfig{QueueConfig: servicebus.QueueConfig{Name: name}}
	for i, f := range filters {
		s.Rules = append(s.Rules, rule.Rule{Name: fmt.Sprintf("r%d", i), Filter: f})
	}
	return s
}

func TestTopicCopiesToMatchingSubscriptions(t *testing.T) {
	red, err := rule.NewCorrelation(map[string]string{"Subject": "red"}, nil)
	must(t, err)
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig: servicebus.QueueConfig{Name: "colors"},
		Subscriptions: []servicebus.SubscriptionConfig{
			subscription("all"), subscription("none", rule.False{}), subscription("red", red),
			subscription("either", sql(t, "color = 'blue'"), sql(t, "n = 5")),
		},
	}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		b.send("colors", colored("red"), colored("blue"), colored("green"))
		b.holds("colors")
		b.holds("colors/Subscriptions/all", "red", "blue", "green")
		b.holds("colors/subscriptions/NONE")
		b.holds("colors/Subscriptions/red", "red")
		b.holds("colors/Subscriptions/either", "blue", "green")

		receiver, err := b.client.NewReceiverForSubscription("colors", "all", nil)
		must(t, err)
		messages := receiveFrom(t, receiver, 3)
		if got := bodies(messages); got != "[red blue green]" {
			t.Errorf("received %s", got)
		}
		must(t, receiver.DeadLetterMessage(t.Context(), messages[0], nil))
		must(t, receiver.CompleteMessage(t.Context(), messages[1], nil))
		must(t, receiver.AbandonMessage(t.Context(), messages[2], nil))
		b.holds("colors/Subscriptions/all", "green")
		b.holds("colors/Subscriptions/all/$DeadLetterQueue", "red")
		b.holds("colors/Subscriptions/red", "red") // each subscription has its own copy
		dead, err := b.client.NewReceiverForSubscription("colors", "all", &azservicebus.ReceiverOptions{
			SubQueue: azservicebus.SubQueueDeadLetter,
		})
		must(t, err)
		if got := bodies(receiveFrom(t, dead, 1)); got != "[red]" {
			t.Errorf("received %s from the dead letters", got)
		}
	})
}

func TestTopicKeepsScheduledMessages(t *testing.T) {
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig:   servicebus.QueueConfig{Name: "colors", DefaultTTL: time.Hour},
		Subscriptions: []servicebus.SubscriptionConfig{subscription("all")},
	}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		sender, err := b.client.NewSender("colors", nil)
		must(t, err)
		_, err = sender.ScheduleMessages(t.Context(), []*azservicebus.Message{colored("red")}, time.Now().Add(time.Minute), nil)
		must(t, err)
		b.holds("colors/Subscriptions/all")
		time.Sleep(time.Minute + time.Second)
		synctest.Wait()
		b.holds("colors/Subscriptions/all", "red")
		time.Sleep(time.Hour)
		synctest.Wait()
		b.holds("colors/Subscriptions/all") // the topic's time to live applies
	})
}

func TestForwardingOfMessagesAndDeadLetters(t *testing.T) {
	cfg := servicebus.Config{
		Queues: []servicebus.QueueConfig{
			{Name: "in", ForwardTo: "colors"},
			{Name: "work", ForwardDeadLettersTo: "graveyard"},
			{Name: "graveyard"},
		},
		Topics: []servicebus.TopicConfig{{
			QueueConfig: servicebus.QueueConfig{Name: "colors"},
			Subscriptions: []servicebus.SubscriptionConfig{
				{QueueConfig: servicebus.QueueConfig{Name: "toWork", ForwardTo: "work"}}, subscription("kept"),
			},
		}},
	}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		b.send("in", colored("red"), colored("blue"))
		b.holds("in")
		b.holds("colors/Subscriptions/toWork")
		b.holds("colors/Subscriptions/kept", "red", "blue")
		b.holds("work", "red", "blue")
		receiver, err := b.client.NewReceiverForQueue("work", nil)
		must(t, err)
		reason := "broken"
		must(t, receiver.DeadLetterMessage(t.Context(), receiveFrom(t, receiver, 1)[0], &azservicebus.DeadLetterOptions{Reason: &reason}))
		b.holds("work/$DeadLetterQueue")
		graveyard, err := b.client.NewReceiverForQueue("graveyard", nil)
		must(t, err)
		m := receiveFrom(t, graveyard, 1)[0]
		if string(m.Body) != "red" || m.DeadLetterReason == nil || *m.DeadLetterReason != "broken" || m.DeadLetterSource == nil ||
			*m.DeadLetterSource != "work" {
			t.Errorf("%s, reason %v, source %v", m.Body, m.DeadLetterReason, m.DeadLetterSource)
		}
		if m.EnqueuedSequenceNumber == nil || *m.EnqueuedSequenceNumber != 1 {
			t.Errorf("enqueued sequence number %v, want the one in the previous entity", m.EnqueuedSequenceNumber)
		}
	})
}

func TestForwardingInACircleEnds(t *testing.T) {
	cfg := servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "a", ForwardTo: "b"}, {Name: "b", ForwardTo: "a"}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		b.send("a", colored("red"))
		b.holds("a")
		b.holds("b")
		b.holds("a/$Transfer/$DeadLetterQueue", "red")
		receiver, err := b.client.NewReceiverForQueue("a", &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueTransfer})
		must(t, err)
		if m := receiveFrom(t, receiver, 1)[0]; m.DeadLetterReason == nil || *m.DeadLetterReason != "MaxTransferHopCountExceeded" {
			t.Errorf("reason %v", m.DeadLetterReason)
		}
	})
}

func TestForwardingKeepsWhatTheTargetRefuses(t *testing.T) {
	cfg := servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "in", ForwardTo: "small"}, {Name: "small", MaxBytes: 10}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		b.send("in", colored("red"))
		b.holds("small")
		b.holds("in/$Transfer/$DeadLetterQueue", "red")
	})
}

func TestEntityRefusesTheWrongDirection(t *testing.T) {
	cfg := servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: "in", ForwardTo: "out"}, {Name: "out"}},
		Topics: []servicebus.TopicConfig{{
			QueueConfig: servicebus.QueueConfig{Name: "colors"}, Subscriptions: []servicebus.SubscriptionConfig{subscription("all")},
		}},
	}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		for _, entity := range []string{"colors", "in"} {
			receiver, err := b.client.NewReceiverForQueue(entity, nil)
			must(t, err)
			if _, err := receiver.ReceiveMessages(t.Context(), 1, nil); err == nil || !strings.Contains(err.Error(), "Nobody may receive") {
				t.Errorf("receiving from %s: %v", entity, err)
			}
		}
		sender, err := b.client.NewSender("colors/Subscriptions/all", nil)
		must(t, err)
		if err := sender.SendMessage(t.Context(), colored("red"), nil); err == nil || !strings.Contains(err.Error(), "Nobody may send") {
			t.Errorf("sending to a subscription: %v", err)
		}
		missing, err := b.client.NewReceiverForSubscription("colors", "missing", nil)
		must(t, err)
		_, err = missing.ReceiveMessages(t.Context(), 1, nil)
		wantCode(t, err, azservicebus.CodeNotFound)
	})
}

func TestConfigWithContradictionsIsRefused(t *testing.T) {
	one := servicebus.QueueConfig{Name: "one"}
	cases := map[string]servicebus.Config{
		"declared twice":      {Queues: []servicebus.QueueConfig{one}, Topics: []servicebus.TopicConfig{{QueueConfig: one}}},
		"which is no queue":   {Queues: []servicebus.QueueConfig{{Name: "one", ForwardTo: "two"}}},
		"forwards to itself":  {Queues: []servicebus.QueueConfig{{Name: "one", ForwardTo: "One"}}},
		"only queues and sub": {Topics: []servicebus.TopicConfig{{QueueConfig: servicebus.QueueConfig{Name: "one", ForwardTo: "two"}}}},
		"detected by the topic": {
			Topics: []servicebus.TopicConfig{
				{
					QueueConfig: one,
					Subscriptions: []servicebus.SubscriptionConfig{
						{QueueConfig: servicebus.QueueConfig{Name: "s", DuplicateWindow: time.Hour}},
					},
				},
			},
		},
		"not a name for a sub": {
			Topics: []servicebus.TopicConfig{{QueueConfig: one, Subscriptions: []servicebus.SubscriptionConfig{subscription("a/b")}}},
		},
	}
	for want, cfg := range cases {
		if _, err := servicebus.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
