package servicebus_test

import (
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

const entitiesFile = `{"UserConfig": {"Namespaces": [{"Name": "sbemulatorns",
  "Queues": [{"Name": "queue.1", "Properties": {
      "DeadLetteringOnMessageExpiration": true, "DefaultMessageTimeToLive": "PT1H", "DuplicateDetectionHistoryTimeWindow": "PT20S",
      "ForwardDeadLetteredMessagesTo": "", "ForwardTo": "", "LockDuration": "PT1M", "MaxDeliveryCount": 3,
      "RequiresDuplicateDetection": true, "RequiresSession": false}}],
  "Topics": [{"Name": "topic.1",
      "Properties": {
        "DefaultMessageTimeToLive": "PT1H", "DuplicateDetectionHistoryTimeWindow": "PT20S", "RequiresDuplicateDetection": false
      },
      "Subscriptions": [
        {"Name": "correlated", "Properties": {"LockDuration": "PT30S", "MaxDeliveryCount": 3, "ForwardTo": "queue.1"},
         "Rules": [{"Name": "r", "Properties": {
           "FilterType": "Correlation", "CorrelationFilter": {"Label": "red", "Properties": {"prop1": "value1"}}
         }}]},
        {"Name": "sql", "Rules": [{"Name": "r", "Properties": {"FilterType": "Sql", "SqlFilter": {"SqlExpression": "color = 'red'"}}}]},
        {"Name": "changed", "Properties": {"ForwardDeadLetteredMessagesTo": "queue.1"}, "Rules": [
           {"Name": "r", "Properties": {"FilterType": "Sql", "SqlFilter": {"SqlExpression": "color LIKE 'r%' AND n IN (1, 3)"},
             "Action": {"SqlExpression": "SET sys.To = 'elsewhere'"}}},
           {"Name": "typed", "Properties": {"FilterType": "Correlation", "Action": {"SqlExpression": ""}, "CorrelationFilter": {
             "ContentType": "c", "CorrelationId": "i", "Label": "red", "MessageId": "m", "ReplyTo": "rt", "ReplyToSessionId": "rs",
             "SessionId": "s", "To": "t", "Properties": {"n": 3, "color": "red", "ratio": 0.5, "urgent": true}}}}]},
        {"Name": "all"}]}]
}], "Logging": {"Type": "File"}}}`

func TestReadEntities(t *testing.T) {
	queues, declared, err := servicebus.ReadEntities(strings.NewReader(entitiesFile))
	must(t, err)
	want := servicebus.QueueConfig{
		Name: "queue.1", LockDuration: time.Minute, MaxDeliveryCount: 3, DefaultTTL: time.Hour, DeadLetterOnExpiration: true,
		DuplicateWindow: 20 * time.Second,
	}
	if len(queues) != 1 || !reflect.DeepEqual(queues[0], want) {
		t.Errorf("queues %+v", queues)
	}
	inTopics(t, servicebus.Config{Queues: queues, Topics: declared}, func(t *testing.T, b *topics) {
		red := colored("red")
		red.ApplicationProperties["prop1"] = "value1"
		exact := colored("red")
		exact.ContentType, exact.CorrelationID, exact.MessageID, exact.ReplyTo = new("c"), new("i"), new("m"), new("rt")
		exact.ReplyToSessionID, exact.SessionID, exact.To = new("rs"), new("s"), new("t")
		exact.ApplicationProperties["ratio"], exact.ApplicationProperties["urgent"] = 0.5, true
		b.send("topic.1", red, colored("blue"), exact)
		b.holds("queue.1", "red")
		// The message that both rules select comes twice, because one of them has an action.
		b.holds("topic.1/Subscriptions/changed", "red", "red", "red")
		var to []string
		for _, m := range b.received(3, "topic.1", "changed") {
			if m.To != nil {
				to = append(to, *m.To)
			}
		}
		if !reflect.DeepEqual(to, []string{"elsewhere", "elsewhere", "t"}) {
			t.Errorf("To: %v", to)
		}
		b.holds("topic.1/Subscriptions/sql", "red", "red")
		b.holds("topic.1/Subscriptions/all", "red", "blue", "red")
	})
}

func TestReadEntitiesAcceptsWhatEditorsAdd(t *testing.T) {
	text := "\ufeff" + strings.Replace(entitiesFile, `{"UserConfig"`, `{"$schema": "Config-schema.json", "UserConfig"`, 1)
	if queues, _, err := servicebus.ReadEntities(strings.NewReader(text)); err != nil || len(queues) != 1 {
		t.Errorf("%d queues, %v", len(queues), err)
	}
}

func TestReadEntitiesNamesWhatIsNotSupported(t *testing.T) {
	for change, want := range map[string]string{
		`"LockDuration": "PT1M"|"LockDuration": "1 minute"`:                             "queue.1: LockDuration",
		`"MaxDeliveryCount": 3|"MaxDeliverys": 3`:                                       "MaxDeliverys",
		`"FilterType": "Sql"|"FilterType": "Regex"`:                                     "Regex",
		`color = 'red'|color LIKE`:                                                      "subscription sql: rule r: the SQL filter",
		`"FilterType": "Sql"|"FilterType": "Correlation"`:                               "must have a CorrelationFilter",
		`[{"Name": "sbemulatorns"|[{"Name": "a"}, {"Name": "b"`:                         "2 namespaces",
		`"FilterType": "Sql"|"FilterType": "Sql", "Action": {"SqlExpression": "SET a"}`: "the SQL action \"SET a\"",
		`{"UserConfig"|[{"UserConfig"`:                                                  "read the entities",
		`"MaxDeliveryCount": 3|"MaxDeliveryCount": "3"`:                                 "line ",
		`{"Type": "File"}}}|{"Type": "File"}}},`:                                        "more text follows",
		`"LockDuration": "PT1M"|"LockDuration": "PT10M"`:                                "PT10M is more than 5 minutes",
	} {
		from, to, _ := strings.Cut(change, "|")
		text := strings.Replace(entitiesFile, from, to, 1)
		if _, _, err := servicebus.ReadEntities(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one with %q", to, err, want)
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"PT1M": time.Minute, "PT0S": 0, "P1D": 24 * time.Hour, "P2DT3H4M5.5S": 51*time.Hour + 4*time.Minute + 5500*time.Millisecond,
		"P10675199DT2H48M5.4775807S": math.MaxInt64, "P14D": 14 * 24 * time.Hour,
	} {
		if got, err := servicebus.ParseDuration(text); err != nil || got != want {
			t.Errorf("%s is %v (%v), want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "P", "PT", "P1DT", "1M", "PT1X", "PT1.5M", "-PT1M", "P1Y", "PT1S "} {
		if got, err := servicebus.ParseDuration(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func TestParseKey(t *testing.T) {
	for text, want := range map[string]servicebus.Key{
		"reader=a=b:c:Listen":            {Name: "reader", Value: "a=b:c", Listen: true},
		"all=secret:listen, Send,MANAGE": {Name: "all", Value: "secret", Listen: true, Send: true, Manage: true},
	} {
		if got, err := servicebus.ParseKey(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "name", "name=value", "=value:Listen", "name=:Listen", "name=value:", "name=value:Read"} {
		if key, err := servicebus.ParseKey(text); err == nil {
			t.Errorf("%q is read as %+v", text, key)
		} else if strings.Contains(fmt.Sprint(err), "value:") {
			t.Errorf("the error contains the secret: %v", err)
		}
	}
}
