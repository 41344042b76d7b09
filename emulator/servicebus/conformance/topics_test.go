package conformance

import (
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const (
	filtersPage   = "topic-filters"
	sqlFilterPage = "service-bus-messaging-sql-filter"
	sqlActionPage = "service-bus-messaging-sql-rule-action"
)

// oneTopic is a topic named t.
func oneTopic(subscriptions map[string]subscription) entities {
	return entities{topics: map[string]topic{"t": {subscriptions: subscriptions}}}
}

// filtered is a subscription with one rule.
func filtered(filter admin.RuleFilter) subscription {
	return subscription{rules: []admin.RuleProperties{{Name: "only", Filter: filter}}}
}

// orders are the messages that filters select from. Their bodies name them.
func orders() []*azservicebus.Message {
	return []*azservicebus.Message{
		{
			Body: []byte("red"), MessageID: new("1"), Subject: new("order"),
			ApplicationProperties: map[string]any{"color": "red", "quantity": int64(10), "price": 1.5, "rush": true, "note": "10%"},
		},
		{
			Body: []byte("blue"), MessageID: new("2"), CorrelationID: new("high"), To: new("store"), ContentType: new("application/json"),
			ApplicationProperties: map[string]any{"color": "blue", "quantity": int64(20), "price": 2.0, "rush": false, "note": "100"},
		},
		{Body: []byte("plain"), MessageID: new("3")},
	}
}

// selects is a feature: each filter selects the orders with these names, separated by blanks.
func selects(name, page string, filters []admin.RuleFilter, want ...string) feature {
	subscriptions := map[string]subscription{}
	names := make([]string, len(filters))
	for i, filter := range filters {
		names[i] = "s" + string(rune('a'+i))
		subscriptions[names[i]] = filtered(filter)
	}
	return feature{
		name: name, page: page, entities: oneTopic(subscriptions),
		try: func(c *check) {
			c.send("t", orders()...)
			for i, filter := range filters {
				what := "the filter"
				if sql, ok := filter.(*admin.SQLFilter); ok {
					what = sql.Expression
				}
				c.peeks(c.receiver("t/"+names[i]), what, strings.Fields(want[i])...)
			}
		},
	}
}

// sql is selects for expressions, each followed by the names of what it selects.
func sql(name, page string, expressions ...string) feature {
	var filters []admin.RuleFilter
	var want []string
	for pair := range slices.Chunk(expressions, 2) {
		filters, want = append(filters, &admin.SQLFilter{Expression: pair[0]}), append(want, pair[1])
	}
	return selects(name, page, filters, want...)
}

var topics = []feature{
	{
		name: "every subscription gets every message", page: "service-bus-queues-topics-subscriptions",
		entities: oneTopic(map[string]subscription{"a": {}, "b": {}}),
		try: func(c *check) {
			c.send("t", text("1", "2")...)
			r := c.receiver("t/a")
			m := c.take(r, 2)
			c.equal("in a", bodies(m), []string{"1", "2"})
			c.complete(r, m[0])
			c.must(r.DeadLetterMessage(c.ctx, m[1], nil))
			c.holds("t/a")
			c.deadLettersAre("t/a", "2")
			c.holds("t/b", "1", "2") // it is another copy
		},
	},
	{
		name: "a scheduled message comes to subscriptions when it is due", page: schedulePage,
		entities: oneTopic(map[string]subscription{"a": {}}),
		try: func(c *check) {
			sender := c.sender("t")
			numbers, err := sender.ScheduleMessages(c.ctx, text("canceled", "kept"), time.Now().Add(soon), nil)
			c.must(err)
			c.must(sender.CancelScheduledMessages(c.ctx, numbers[:1], nil))
			r := c.receiver("t/a")
			c.nothing("before it is due", r)
			c.equal("received", string(c.one(r).Body), "kept")
		},
	},
	selects("boolean filters", filtersPage+"#boolean-filters",
		[]admin.RuleFilter{&admin.TrueFilter{}, &admin.FalseFilter{}}, "red blue plain", ""),
	selects(
		"correlation filters", filtersPage+"#correlation-filters",
		[]admin.RuleFilter{
			&admin.CorrelationFilter{CorrelationID: new("high")},
			&admin.CorrelationFilter{CorrelationID: new("HIGH")},
			&admin.CorrelationFilter{Subject: new("order")},
			&admin.CorrelationFilter{To: new("store"), ContentType: new("application/json")},
			&admin.CorrelationFilter{To: new("store"), ContentType: new("text/plain")},
			&admin.CorrelationFilter{MessageID: new("3")},
			&admin.CorrelationFilter{ApplicationProperties: map[string]any{"color": "red"}},
			&admin.CorrelationFilter{Subject: new("order"), ApplicationProperties: map[string]any{"color": "blue"}},
		},
		"blue", "", "red", "blue", "", "plain", "red", "",
	),
	sql("SQL filters compare", sqlFilterPage,
		"color = 'red'", "red", "color <> 'red'", "blue", "quantity > 10 AND quantity <= 20", "blue",
		"price >= 1.5 AND price < 2", "red", "color = 'red' OR sys.MessageId = '3'", "red plain",
		"NOT (color = 'red')", "blue", "rush = TRUE", "red", "user.color = 'blue'", "blue",
		"sys.Label = 'order'", "red", "sys.CorrelationId = 'high'", "blue", "1 = 1", "red blue plain"),
	sql("SQL filters know NULL and lists", sqlFilterPage,
		"color IS NULL", "plain", "color IS NOT NULL", "red blue", "EXISTS(color)", "red blue", "NOT EXISTS(color)", "plain",
		"color IN ('red', 'green')", "red", "color NOT IN ('red')", "blue", "[color] = 'red'", "red"),
	sql("SQL filters know patterns", sqlFilterPage,
		"color LIKE 'r%'", "red", "color LIKE '_lue'", "blue", "color NOT LIKE '%e%'", "", "color LIKE '%e%'", "red blue",
		`note LIKE '10\%' ESCAPE '\'`, "red", "note LIKE '10%'", "red blue"),
	sql("SQL filters calculate", sqlFilterPage,
		"quantity * 2 = 20", "red", "quantity + 5 > 20", "blue", "quantity % 3 = 1", "red", "-quantity < -15", "blue",
		"(quantity - 10) / 2 = 5", "blue", "quantity * price > 20", "blue"),
	withAdmin(selects("SQL filters have parameters", "service-bus-filter-examples", []admin.RuleFilter{
		&admin.SQLFilter{Expression: "color = @color", Parameters: map[string]any{"@color": "red"}},
		&admin.SQLFilter{Expression: "quantity > @least", Parameters: map[string]any{"@least": 15}},
	}, "red", "blue")),
	{
		name: "an action changes properties", page: sqlActionPage,
		entities: oneTopic(map[string]subscription{"a": {rules: []admin.RuleProperties{{
			Name: "change", Filter: &admin.SQLFilter{Expression: "color = 'red'"},
			Action: &admin.SQLAction{Expression: "SET quantity = quantity / 2; REMOVE note; SET sys.Label = 'changed'; SET made = 'new'"},
		}}}, "b": {}}),
		try: func(c *check) {
			c.send("t", orders()...)
			m := c.one(c.receiver("t/a"))
			c.equal("body", string(m.Body), "red")
			c.equal("quantity", m.ApplicationProperties["quantity"], any(int64(5)))
			c.equal("made", m.ApplicationProperties["made"], any("new"))
			c.equal("subject", value(m.Subject), "changed")
			if note, ok := m.ApplicationProperties["note"]; ok {
				c.Errorf("the note %v is still there", note)
			}
			untouched := c.one(c.receiver("t/b"))
			c.equal("quantity in the other subscription", untouched.ApplicationProperties["quantity"], any(int64(10)))
		},
	},
	{
		name: "each rule with an action makes a copy", page: filtersPage,
		entities: oneTopic(map[string]subscription{"a": {rules: []admin.RuleProperties{
			{Name: "one", Filter: &admin.SQLFilter{Expression: "1=1"}, Action: &admin.SQLAction{Expression: "SET by = 'one'"}},
			{Name: "two", Filter: &admin.SQLFilter{Expression: "1=1"}, Action: &admin.SQLAction{Expression: "SET by = 'two'"}},
			{Name: "plain", Filter: &admin.SQLFilter{Expression: "1=1"}},
			{Name: "more", Filter: &admin.SQLFilter{Expression: "color IS NULL"}},
		}}}),
		try: func(c *check) {
			c.send("t", text("x")...)
			r := c.receiver("t/a")
			got := map[any]any{}
			for _, m := range c.take(r, 3) {
				got[m.ApplicationProperties["by"]] = m.ApplicationProperties["RuleName"]
			}
			c.equal("rules of the copies", got, map[any]any{"one": "one", "two": "two", nil: nil})
			c.nothing("a fourth copy", r)
		},
	},
}

// withAdmin is for features whose entities no configuration file can declare.
func withAdmin(f feature) feature {
	f.needs.admin = true
	return f
}
