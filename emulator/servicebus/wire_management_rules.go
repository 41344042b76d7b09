package servicebus

import (
	"errors"
	"fmt"
	"strings"

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
	describedAction      = 0x13700000006
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
	if err := checkName(ruleName, name); err != nil {
		return badRequest(err.Error())
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
	action, err := readAction(description)
	if err != nil {
		return badRequest(err.Error())
	}
	switch _, err := m.q.rules.add(rule.Rule{Name: name, Filter: filter, Action: action}); {
	case errors.Is(err, errRuleExists):
		return failure(
			409, "com.microsoft:entity-already-exists", fmt.Sprintf("The messaging entity '%s|%s' already exists.", m.q.name, name),
		)
	case err != nil:
		return failure(403, errFull.Condition, err.Error())
	}
	return ok(amqp.Map{})
}

// filterKeys are the kinds of filters in a rule description, of which it has one.
var filterKeys = []string{"sql-filter", "correlation-filter", "true-filter", "false-filter"}

// readFilter reads the filter of a rule description.
func readFilter(description amqp.Map) (rule.Filter, error) {
	var kind string
	var fields amqp.Map
	for _, key := range filterKeys {
		v, _ := description.Get(key)
		if v == nil {
			continue
		}
		given, isMap := v.(amqp.Map)
		switch {
		case kind != "":
			return nil, fmt.Errorf("rule-description has both %s and %s", kind, key)
		case !isMap:
			return nil, fmt.Errorf("%s must be a map", key)
		}
		kind, fields = key, given
	}
	switch kind {
	case "sql-filter":
		expression, parameters, err := readSQL(kind, fields)
		if err != nil {
			return nil, err
		}
		return rule.NewSQL(expression, parameters)
	case "correlation-filter":
		return readCorrelation(fields)
	case "true-filter":
		return rule.True{}, nil
	case "false-filter":
		return rule.False{}, nil
	}
	return nil, fmt.Errorf("rule-description has none of the known filters: %s", strings.Join(filterKeys, ", "))
}

// readAction reads the action of a rule description. Nil is none.
func readAction(description amqp.Map) (*rule.Action, error) {
	const key = "sql-rule-action"
	v, _ := description.Get(key)
	fields, isMap := v.(amqp.Map)
	switch {
	case v == nil, isMap && len(fields) == 0:
		return nil, nil
	case !isMap:
		return nil, fmt.Errorf("%s must be a map", key)
	}
	statements, parameters, err := readSQL(key, fields)
	if err != nil {
		return nil, err
	}
	return rule.NewAction(statements, parameters)
}

// readSQL reads the expression of a filter or an action, and its parameters.
func readSQL(key string, fields amqp.Map) (expression string, parameters map[string]any, err error) {
	v, _ := fields.Get("expression")
	expression, isText := v.(string)
	if !isText {
		return "", nil, fmt.Errorf("%s needs an expression that is a string", key)
	}
	parameters, err = readPairs(fields, "parameters")
	return expression, parameters, err
}

// readPairs reads a map of values that rules use. It may be absent.
func readPairs(fields amqp.Map, key string) (map[string]any, error) {
	v, _ := fields.Get(key)
	pairs, isMap := v.(amqp.Map)
	if v != nil && !isMap {
		return nil, fmt.Errorf("%s must be a map", key)
	}
	values := map[string]any{}
	for _, p := range pairs {
		values[fmt.Sprint(p.Key)] = ruleValue(p.Value)
	}
	return values, nil
}

func readCorrelation(fields amqp.Map) (rule.Filter, error) {
	system := map[string]string{}
	for _, n := range correlationNames {
		v, _ := fields.Get(n.wire)
		value, isText := v.(string)
		if v != nil && !isText {
			return nil, fmt.Errorf("%s must be a string", n.wire)
		}
		system[n.name] = value
	}
	user, err := readPairs(fields, "properties")
	if err != nil {
		return nil, err
	}
	return rule.NewCorrelation(system, user)
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
	list := m.q.rules.byName()
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

// describe returns a rule as it is encoded: its filter, its action, its name and when it was
// created.
func describe(r rule.Rule) amqp.Described {
	of := func(code uint64, fields ...any) amqp.Described {
		return amqp.Described{Descriptor: code, Value: append([]any{}, fields...)}
	}
	var filter amqp.Described
	switch f := r.Filter.(type) {
	case rule.SQL:
		filter = of(describedSQL, f.String(), int32(compatibilityLevel))
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
		for name, value := range f.User() {
			user = append(user, amqp.Pair{Key: name, Value: wireValue(value)})
		}
		filter = of(describedCorrelation, append(fields, user)...)
	case rule.False:
		filter = of(describedFalse)
	default:
		filter = of(describedTrue)
	}
	action := of(describedNoAction)
	if r.Action != nil {
		action = of(describedAction, r.Action.String(), int32(compatibilityLevel))
	}
	return of(describedRule, filter, action, r.Name, r.Created)
}
