package servicebus

import (
	"errors"
	"fmt"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// The descriptors of rules on the wire
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response, rule
// operations). The descriptors of filters have one zero less, both there and in the JavaScript
// client.
const (
	describedRule        = 0x13700000004
	describedNoAction    = 0x13700000005
	describedSQL         = 0x1370000006
	describedTrue        = 0x1370000007
	describedFalse       = 0x1370000008
	describedCorrelation = 0x1370000009
)

// correlationNames are the system properties of a correlation filter, in the order of the wire.
var correlationNames = []struct{ wire, name string }{
	{"correlation-id", "CorrelationId"},
	{"message-id", "MessageId"},
	{"to", "To"},
	{"reply-to", "ReplyTo"},
	{"label", "Label"},
	{"session-id", "SessionId"},
	{"reply-to-session-id", "ReplyToSessionId"},
	{"content-type", "ContentType"},
}

func (m management) addRule() response {
	if m.q.rules == nil {
		return badRequest("Only subscriptions have rules.")
	}
	name := m.text("rule-name")
	if name == "" || len(name) > 50 {
		return badRequest("rule-name must have 1 to 50 characters.")
	}
	described, _ := m.body.Get("rule-description")
	description, isMap := described.(amqp.Map)
	if !isMap {
		return badRequest("rule-description must be a map.")
	}
	filter, err := readFilter(description)
	if err != nil {
		return badRequest(err.Error())
	}
	if action, _ := description.Get("sql-rule-action"); action != nil {
		if fields, isMap := action.(amqp.Map); !isMap || len(fields) > 0 {
			return badRequest("Rule actions are not supported by this emulator.")
		}
	}
	switch err := m.q.rules.add(rule.Rule{Name: name, Filter: filter}); {
	case errors.Is(err, errRuleExists):
		return failure(409, "com.microsoft:entity-already-exists", fmt.Sprintf("The rule '%s' already exists.", name))
	case err != nil:
		return failure(403, errFull.Condition, err.Error())
	}
	return ok(amqp.Map{})
}

// readFilter reads the filter of a rule description.
func readFilter(description amqp.Map) (rule.Filter, error) {
	if v, found := description.Get("sql-filter"); found && v != nil {
		fields, _ := v.(amqp.Map)
		text, _ := fields.Get("expression")
		expression, isText := text.(string)
		if !isText {
			return nil, errors.New("a sql-filter needs an expression")
		}
		return rule.NewSQL(expression)
	}
	if v, found := description.Get("correlation-filter"); found && v != nil {
		fields, _ := v.(amqp.Map)
		system, user := map[string]string{}, map[string]any{}
		for _, n := range correlationNames {
			if value, _ := fields.Get(n.wire); value != nil {
				system[n.name] = fmt.Sprint(value)
			}
		}
		if properties, _ := fields.Get("properties"); properties != nil {
			pairs, _ := properties.(amqp.Map)
			for _, p := range pairs {
				user[fmt.Sprint(p.Key)] = p.Value
			}
		}
		return rule.NewCorrelation(system, user)
	}
	if _, found := description.Get("true-filter"); found {
		return rule.True{}, nil
	}
	if _, found := description.Get("false-filter"); found {
		return rule.False{}, nil
	}
	return nil, errors.New("rule-description needs a sql-filter, correlation-filter, true-filter or false-filter")
}

func (m management) removeRule() response {
	if m.q.rules == nil {
		return badRequest("Only subscriptions have rules.")
	}
	if m.q.rules.remove(m.text("rule-name")) != nil {
		return failure(404, "com.microsoft:entity-not-found", fmt.Sprintf("The rule '%s' could not be found.", m.text("rule-name")))
	}
	return ok(amqp.Map{})
}

func (m management) enumerateRules() response {
	if m.q.rules == nil {
		return badRequest("Only subscriptions have rules.")
	}
	skip, _ := m.number("skip")
	top, limited := m.number("top")
	list := m.q.rules.all()
	list = list[min(max(skip, 0), int64(len(list))):]
	if limited {
		list = list[:min(max(top, 0), int64(len(list)))]
	}
	if len(list) == 0 {
		return response{status: 204, description: "No rules.", body: amqp.Map{}}
	}
	entries := []any{}
	for _, r := range list {
		entries = append(entries, amqp.Map{{Key: "rule-description", Value: describe(r)}})
	}
	return ok(amqp.Map{{Key: "rules", Value: entries}})
}

// describe returns a rule as it is encoded: its filter, its empty action and its name.
func describe(r rule.Rule) amqp.Described {
	of := func(code uint64, fields ...any) amqp.Described {
		return amqp.Described{Descriptor: code, Value: append([]any{}, fields...)}
	}
	var filter amqp.Described
	switch f := r.Filter.(type) {
	case rule.SQL:
		filter = of(describedSQL, f.String(), int32(20))
	case rule.Correlation:
		var fields []any
		for _, n := range correlationNames {
			if value := f.Property(n.name); value != "" {
				fields = append(fields, value)
			} else {
				fields = append(fields, nil)
			}
		}
		user := amqp.Map{}
		for name, value := range f.User {
			user = append(user, amqp.Pair{Key: name, Value: value})
		}
		filter = of(describedCorrelation, append(fields, user)...)
	case rule.False:
		filter = of(describedFalse)
	default:
		filter = of(describedTrue)
	}
	return of(describedRule, filter, of(describedNoAction), r.Name)
}
