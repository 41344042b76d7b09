package servicebus

import (
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// askRules sends one request about the rules of a subscription over AMQP.
func askRules(q *queue, operation string, body amqp.Map) response {
	return managementOf(q, nil, Grant{Listen: true}, 1<<20)(request{
		properties: amqp.Map{{Key: "operation", Value: "com.microsoft:" + operation}}, body: body,
	})
}

func newSubscription(t *testing.T) (*Broker, *queue) {
	t.Helper()
	b, err := New(Config{Topics: []TopicConfig{{
		QueueConfig: QueueConfig{Name: "t"}, Subscriptions: []SubscriptionConfig{{QueueConfig: QueueConfig{Name: "s"}}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b, b.entity("t/Subscriptions/s")
}

// ruleMaps are rule descriptions as clients send them over AMQP, and the same rules.
func ruleMaps(t *testing.T) map[string]struct {
	description amqp.Map
	want        rule.Rule
} {
	t.Helper()
	filter, err := rule.NewSQL("color = @c AND span < @s", map[string]any{"@c": "red", "@s": time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	action, err := rule.NewAction("SET a = @x", map[string]any{"@x": int32(5)})
	if err != nil {
		t.Fatal(err)
	}
	correlation, err := rule.NewCorrelation(map[string]string{"CorrelationId": "c", "Label": "l", "To": "to"},
		map[string]any{"n": int32(5), "id": rule.GUID{1}, "span": time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]struct {
		description amqp.Map
		want        rule.Rule
	}{
		"sql": {amqp.Map{
			{Key: "sql-filter", Value: amqp.Map{
				{Key: "expression", Value: filter.String()},
				{Key: "parameters", Value: amqp.Map{
					{Key: "@c", Value: "red"}, {Key: "@s", Value: amqp.Described{
						Descriptor: describedTimespan,
						Value:      int64(time.Minute / 100),
					}},
				}},
			}},
			{Key: "sql-rule-action", Value: amqp.Map{
				{Key: "expression", Value: action.String()}, {Key: "parameters", Value: amqp.Map{{Key: "@x", Value: int32(5)}}},
			}},
		}, rule.Rule{Filter: filter, Action: action}},
		"correlation": {amqp.Map{
			{Key: "correlation-filter", Value: amqp.Map{
				{Key: "correlation-id", Value: "c"},
				{Key: "label", Value: "l"},
				{Key: "to", Value: "to"},
				{Key: "message-id", Value: nil},
				{Key: "properties", Value: amqp.Map{
					{Key: "n", Value: int32(5)},
					{Key: "id", Value: amqp.UUID{1}},
					{Key: "span", Value: amqp.Described{Descriptor: describedTimespan, Value: int64(time.Minute / 100)}},
				}},
			}},
			{Key: "sql-rule-action", Value: nil},
		}, rule.Rule{Filter: correlation}},
		"true": {amqp.Map{{Key: "true-filter", Value: amqp.Map{}}}, rule.Rule{Filter: rule.True{}}},
		"false": {
			amqp.Map{{Key: "false-filter", Value: amqp.Map{}}, {Key: "sql-rule-action", Value: amqp.Map{}}},
			rule.Rule{Filter: rule.False{}},
		},
	}
}

// A rule that was added over AMQP is the same as one that was added with the administration API.
func TestManagementRulesEqualThoseOfTheAdministration(t *testing.T) {
	overAMQP, q := newSubscription(t)
	overHTTP, other := newSubscription(t)
	for name, c := range ruleMaps(t) {
		if r := askRules(q, "add-rule", amqp.Map{{Key: "rule-name", Value: name}, {
			Key:   "rule-description",
			Value: c.description,
		}}); r.status != 200 {
			t.Fatalf("%s: %+v", name, r)
		}
		c.want.Name = name
		if _, err := other.rules.add(c.want); err != nil {
			t.Fatal(err)
		}
	}
	// As clients see them, over both protocols.
	for name := range ruleMaps(t) {
		read := func(b *Broker) any {
			r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/t/Subscriptions/s/Rules/" + name}, Host: "h"}
			_, answer, err := admin{b}.serve(r, r.URL.Path[1:])
			if err != nil {
				t.Fatal(err)
			}
			entry := answer.(atomEntry)
			entry.Published, entry.Updated = "", ""
			content := reflect.ValueOf(entry.Content.Of)
			return []any{content.FieldByName("Filter").Interface(), content.FieldByName("Action").Interface()}
		}
		if got, want := read(overAMQP), read(overHTTP); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	described := func(q *queue) map[string]any {
		found := map[string]any{}
		list, _ := askRules(q, "enumerate-rules", amqp.Map{{Key: "skip", Value: int32(0)}, {
			Key:   "top",
			Value: int32(100),
		}}).body.Get("rules")
		for _, one := range list.([]any) {
			d, _ := one.(amqp.Map).Get("rule-description")
			if _, err := amqp.AppendValue(nil, d); err != nil {
				t.Errorf("%v cannot be written: %v", d, err)
			}
			fields := d.(amqp.Described).Value.([]any)
			found[fields[2].(string)] = fields[1]
			if filter := fields[0].(amqp.Described); filter.Descriptor != any(uint64(describedCorrelation)) { // whose map has no order
				found[fields[2].(string)] = fields[:2]
			}
		}
		return found
	}
	if got, want := described(q), described(other); len(got) != 5 || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestManagementRulesNameWhatIsWrong(t *testing.T) {
	_, q := newSubscription(t)
	sql := func(expression any) amqp.Map {
		return amqp.Map{{Key: "sql-filter", Value: amqp.Map{{Key: "expression", Value: expression}}}}
	}
	for want, description := range map[string]any{
		"must be a map":                   "x",
		"none of the known filters":       amqp.Map{{Key: "regex-filter", Value: amqp.Map{}}},
		"both sql-filter and true-filter": append(sql("1=1"), amqp.Pair{Key: "true-filter", Value: amqp.Map{}}),
		"sql-filter must be a map":        amqp.Map{{Key: "sql-filter", Value: "1=1"}},
		"an expression that is a string":  sql(5),
		"column 3: expected":              sql("a="),
		"@p has no value":                 sql("a = @p"),
		"label must be a string":          amqp.Map{{Key: "correlation-filter", Value: amqp.Map{{Key: "label", Value: 5}}}},
		"at least one property":           amqp.Map{{Key: "correlation-filter", Value: amqp.Map{}}},
		"properties must be a map":        amqp.Map{{Key: "correlation-filter", Value: amqp.Map{{Key: "properties", Value: 5}}}},
		"the property \"k\" with a value of": amqp.Map{{Key: "correlation-filter", Value: amqp.Map{{
			Key:   "properties",
			Value: amqp.Map{{Key: "k", Value: []byte{}}},
		}}}},
		"sql-rule-action must be a map": append(sql("1=1"), amqp.Pair{Key: "sql-rule-action", Value: "SET a = 1"}),
		"the SQL action \"SET\"": append(sql("1=1"), amqp.Pair{Key: "sql-rule-action", Value: amqp.Map{{
			Key:   "expression",
			Value: "SET",
		}}}),
	} {
		r := askRules(q, "add-rule", amqp.Map{{Key: "rule-name", Value: "r"}, {Key: "rule-description", Value: description}})
		if r.status != 400 || !strings.Contains(r.description, want) {
			t.Errorf("%v: %d %s, want 400 with %q", description, r.status, r.description, want)
		}
	}
	for _, name := range []any{"", "a/b", strings.Repeat("r", 51), 5, nil} {
		if r := askRules(q, "add-rule", amqp.Map{{Key: "rule-name", Value: name}, {
			Key:   "rule-description",
			Value: sql("1=1"),
		}}); r.status != 400 {
			t.Errorf("%v is accepted as a name: %+v", name, r)
		}
	}
	if len(q.rules.all()) != 1 {
		t.Errorf("rules %v", q.rules.all())
	}
}
