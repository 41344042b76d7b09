package servicebus_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

func act(t *testing.T, statements string) *rule.Action {
	t.Helper()
	action, err := rule.NewAction(statements, nil)
	must(t, err)
	return action
}

func withRules(name string, rules ...rule.Rule) servicebus.SubscriptionConfig {
	return servicebus.SubscriptionConfig{QueueConfig: servicebus.QueueConfig{Name: name}, Rules: rules}
}

// received receives and completes n messages of a subscription.
func (b *topics) received(n int, topic, name string) []*azservicebus.ReceivedMessage {
	b.t.Helper()
	receiver, err := b.client.NewReceiverForSubscription(topic, name, nil)
	must(b.t, err)
	defer receiver.Close(context.Background())
	messages := receiveFrom(b.t, receiver, n)
	for _, m := range messages {
		must(b.t, receiver.CompleteMessage(context.Background(), m, nil))
	}
	return messages
}

// Rules without an action share one copy. Each rule with an action makes one of its own.
func TestRulesWithActionsMakeCopies(t *testing.T) {
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig: servicebus.QueueConfig{Name: "colors"},
		Subscriptions: []servicebus.SubscriptionConfig{
			withRules("many",
				rule.Rule{Name: "a", Filter: rule.True{}},
				rule.Rule{Name: "b", Filter: sql(t, "color = 'red'")},
				rule.Rule{Name: "up", Filter: sql(t, "color LIKE 'r%'"), Action: act(t, "SET n = n + 1; SET color = 'RED'; REMOVE other")},
				rule.Rule{Name: "system", Filter: rule.True{}, Action: act(t,
					"SET sys.Label = 'new'; SET sys.To = color; SET sys.SessionId = 's'"+
						"; SET sys.CorrelationId = sys.MessageId; SET sys.TimeToLive = '00:10'; SET sys.PartitionKey = 's'"+
						"; REMOVE sys.ReplyTo")},
				rule.Rule{Name: "never", Filter: sql(t, "color = 'blue'"), Action: act(t, "SET n = 0")},
			),
			withRules("plain"),
		},
	}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		id, reply := "m1", "reply"
		m := colored("red")
		m.MessageID, m.ReplyTo = &id, &reply
		m.ApplicationProperties["other"] = []byte("x")
		b.send("colors", m)
		got := b.received(3, "colors", "many")
		byRule := map[any]*azservicebus.ReceivedMessage{}
		for _, m := range got {
			byRule[m.ApplicationProperties["RuleName"]] = m
			if string(m.Body) != "red" || m.MessageID != "m1" {
				t.Errorf("body %q, id %s", m.Body, m.MessageID)
			}
		}
		if p := byRule[nil]; p == nil || !reflect.DeepEqual(p.ApplicationProperties, m.ApplicationProperties) || *p.Subject != "red" ||
			*p.ReplyTo != "reply" {
			t.Errorf("plain copy: %+v", p)
		}
		if up := byRule["up"]; up == nil ||
			!reflect.DeepEqual(up.ApplicationProperties, map[string]any{"color": "RED", "n": int32(4), "RuleName": "up"}) ||
			*up.Subject != "red" {
			t.Errorf("changed copy: %+v", up)
		}
		system := byRule["system"]
		if system == nil || *system.Subject != "new" || *system.To != "red" || *system.SessionID != "s" || *system.CorrelationID != "m1" ||
			system.ReplyTo != nil || *system.TimeToLive != 10*time.Minute || *system.PartitionKey != "s" {
			t.Errorf("copy with other system properties: %+v", system)
		}
		if plain := b.received(1, "colors", "plain")[0]; !reflect.DeepEqual(plain.ApplicationProperties, m.ApplicationProperties) {
			t.Errorf("another subscription got %+v", plain.ApplicationProperties)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		b.holds("colors/Subscriptions/many")
	})
}

// The system properties of a message that filters can name.
func TestRulesSeeSystemProperties(t *testing.T) {
	conditions := []string{
		"sys.MessageId = 'm'", "sys.CorrelationId = 'c'", "sys.Label = 'l'", "sys.Subject = 'l'", "sys.To = 't'", "sys.ReplyTo = 'r'",
		"sys.ContentType = 'ct'", "sys.SessionId = 's'", "sys.ReplyToSessionId = 'rs'", "sys.PartitionKey = 's'",
		"sys.ViaPartitionKey IS NULL",
		"sys.SequenceNumber = 1", "sys.EnqueuedSequenceNumber = 0", "sys.DeliveryCount = 0", "sys.Size > 10", "sys.TimeToLive = @ttl",
		"sys.EnqueuedTimeUtc > @past", "sys.ExpiresAtUtc - sys.EnqueuedTimeUtc = @ttl", "sys.ScheduledEnqueueTimeUtc IS NULL",
		"sys.DeadLetterSource IS NULL",
	}
	var subscriptions []servicebus.SubscriptionConfig
	for i, text := range conditions {
		parameters := map[string]any{}
		for name, value := range map[string]any{"@ttl": time.Minute, "@past": time.Unix(0, 0)} {
			if strings.Contains(text, name) {
				parameters[name] = value
			}
		}
		filter, err := rule.NewSQL(text, parameters)
		must(t, err)
		subscriptions = append(subscriptions, subscription(fmt.Sprintf("s%d", i), filter))
	}
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig:   servicebus.QueueConfig{Name: "colors"},
		Subscriptions: subscriptions,
	}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		b.send("colors", &azservicebus.Message{
			Body: []byte("red"), MessageID: new("m"), CorrelationID: new("c"), Subject: new("l"), To: new("t"), ReplyTo: new("r"),
			ContentType: new("ct"),
			SessionID:   new("s"), ReplyToSessionID: new("rs"), PartitionKey: new("s"), TimeToLive: new(time.Minute),
		})
		for i, text := range conditions {
			if list, err := b.broker.Peek(fmt.Sprintf("colors/Subscriptions/s%d", i), 0, 10); err != nil || len(list) != 1 {
				t.Errorf("%s does not match: %v", text, err)
			}
		}
	})
}

// .NET's clients send types that AMQP does not have, and GUIDs.
func TestRulesSeeTypesOfOtherClients(t *testing.T) {
	filters := map[string]string{
		"id": "id = newid() OR id <> newid()", "span": "span > @span AND span + @span > span", "offset": "moment = @moment",
		"uri":    "uri LIKE 'http%'",
		"letter": "letter = 'x'", "tiny": "tiny + 1 = 4", "float": "half * 2 = 1",
	}
	parameters := map[string]any{"@span": time.Minute, "@moment": time.Unix(1, 0)}
	var subscriptions []servicebus.SubscriptionConfig
	for name, text := range filters {
		given := map[string]any{}
		for p, value := range parameters {
			if strings.Contains(text, p) {
				given[p] = value
			}
		}
		filter, err := rule.NewSQL(text, given)
		must(t, err)
		subscriptions = append(subscriptions, subscription(name, filter))
	}
	subscriptions = append(subscriptions, withRules("changed", rule.Rule{
		Name: "r", Filter: rule.True{}, Action: act(t, "SET span = '00:00:05'; SET id = newid(); SET copy = moment"),
	}))
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig:   servicebus.QueueConfig{Name: "colors"},
		Subscriptions: subscriptions,
	}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		described := func(name amqp.Symbol, value any) any { return amqp.Described{Descriptor: name, Value: value} }
		encoded, err := amqp.Properties{MessageID: amqp.UUID{1}}.Append(nil)
		must(t, err)
		encoded, err = amqp.AppendMapSection(encoded, amqp.SectionApplicationProperties, amqp.Map{
			{Key: "id", Value: amqp.UUID{7}},
			{Key: "span", Value: described("com.microsoft:timespan", int64(90*time.Second/100))},
			{Key: "moment", Value: described("com.microsoft:datetime-offset", int64(621355968000000000+1e7))},
			{Key: "uri", Value: described("com.microsoft:uri", "http://x")},
			{Key: "letter", Value: amqp.Char('x')},
			{Key: "tiny", Value: int8(3)},
			{Key: "half", Value: float32(0.5)},
			{Key: "binary", Value: []byte{1}},
		})
		must(t, err)
		must(t, b.broker.Inject("colors", amqp.AppendData(encoded, []byte("red"))))
		for name := range filters {
			b.holds("colors/Subscriptions/"+name, "red")
		}
		changed, err := b.broker.Peek("colors/Subscriptions/changed", 0, 1)
		must(t, err)
		got := changed[0].ApplicationProperties
		if got["span"] != described("com.microsoft:timespan", int64(5*time.Second/100)) || got["id"] == any(amqp.UUID{7}) ||
			!got["copy"].(time.Time).Equal(time.Unix(1, 0)) || !reflect.DeepEqual(got["binary"], []byte{1}) {
			t.Errorf("changed to %#v", got)
		}
	})
}

func TestRulesThatFailDeadLetter(t *testing.T) {
	failing := rule.Rule{Name: "bad", Filter: sql(t, "color > 5")}
	badAction := rule.Rule{Name: "worse", Filter: rule.True{}, Action: act(t, "SET n = 1 / (n - n)")}
	plain := rule.Rule{Name: "good", Filter: sql(t, "n = 3")}
	ignoring := withRules("ignoring", failing, badAction, plain)
	ignoring.IgnoreRuleFailures = true
	cfg := servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig: servicebus.QueueConfig{Name: "colors"},
		Subscriptions: []servicebus.SubscriptionConfig{
			withRules("filter", plain, failing), withRules("action", plain, badAction), withRules("good", plain, rule.Rule{
				Name:   "x",
				Filter: failing.Filter,
			}), ignoring,
		},
	}}}
	inTopics(t, cfg, func(t *testing.T, b *topics) {
		b.send("colors", colored("red"), colored("green"))
		b.holds("colors")
		b.holds("colors/$Transfer/$DeadLetterQueue")
		b.holds("colors/Subscriptions/ignoring", "red")
		b.holds("colors/Subscriptions/good", "red") // the first rule selects it, and the second is not needed
		b.holds("colors/Subscriptions/filter", "red")
		b.holds("colors/Subscriptions/action")
		b.holds("colors/Subscriptions/action/$DeadLetterQueue", "red", "green")
		for name, want := range map[string][2]string{
			"filter": {"FilterException", `rule bad: the SQL filter "color > 5" failed: column 1: the operator > cannot be applied`},
			"action": {"RuleActionException", `rule worse: the SQL action "SET n = 1 / (n - n)" failed: column 11: division by zero`},
		} {
			receiver, err := b.client.NewReceiverForSubscription("colors", name,
				&azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
			must(t, err)
			m := receiveFrom(t, receiver, 1)[0]
			if *m.DeadLetterReason != want[0] || !strings.Contains(*m.DeadLetterErrorDescription, want[1]) ||
				m.ApplicationProperties["n"] == int32(1) {
				t.Errorf("%s: %s: %s", name, *m.DeadLetterReason, *m.DeadLetterErrorDescription)
			}
		}
	})
}

func TestRulesOfAConfigAreChecked(t *testing.T) {
	for want, list := range map[string][]rule.Rule{
		"a rule of this name exists": {{Name: "a", Filter: rule.True{}}, {Name: "A", Filter: rule.True{}}},
		"has no filter":              {{Name: "a"}},
		"the character '?'":          {{Name: "a?", Filter: rule.True{}}},
		"it is empty":                {{Filter: rule.True{}}},
	} {
		_, err := servicebus.New(oneTopic(withRules("s", list...)))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want one with %q", list, err, want)
		}
	}
}
