package servicebus

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// serveRules lists a subscription's rules if the name is empty. Otherwise it reads, creates,
// updates or deletes the rule of that name.
func (a admin) serveRules(r *http.Request, subscription *queue, name string) (status int, answer any, err error) {
	rules := subscription.rules
	list := rules.byName()
	entry := func(one rule.Rule) atomEntry { return ruleEntry(r, subscription, one) }
	if name == "" {
		if r.Method != http.MethodGet {
			return 0, nil, notSupported(r.Method)
		}
		f, err := newFeed(r, "Rules", list, entry)
		return http.StatusOK, f, err
	}
	at := slices.IndexFunc(list, func(one rule.Rule) bool { return strings.EqualFold(one.Name, name) })
	switch r.Method {
	case http.MethodGet:
		if at < 0 {
			return http.StatusOK, noSuchEntity, nil
		}
		return http.StatusOK, entry(list[at]), nil
	case http.MethodDelete:
		if rules.remove(name) != nil {
			return 0, nil, missing(name)
		}
		return http.StatusOK, nil, nil
	case http.MethodPut:
		return a.putRule(r, rules, name, entry)
	}
	return 0, nil, notSupported(r.Method)
}

// putRule creates a rule, or updates it if the request has If-Match.
func (a admin) putRule(r *http.Request, rules *rules, name string, entry func(rule.Rule) atomEntry) (status int, answer any, err error) {
	d, err := readEntry[ruleDescription](r.Body)
	if err != nil {
		return 0, nil, err
	}
	d.Name = name
	one, err := d.rule()
	if err != nil {
		return 0, nil, err
	}
	if r.Header.Get("If-Match") != "" {
		if one, err = rules.replace(one); err != nil {
			return 0, nil, missing(name)
		}
		return http.StatusOK, entry(one), nil
	}
	switch one, err = rules.add(one); {
	case errors.Is(err, errRuleExists):
		return 0, nil, conflict(name)
	case err != nil:
		return 0, nil, &adminError{http.StatusForbidden, "SubCode=40300. " + err.Error()}
	}
	return http.StatusCreated, entry(one), nil
}

// ruleDescription is a rule as clients write it.
type ruleDescription struct {
	Filter *filterDescription `xml:"Filter"`
	Action *actionDescription `xml:"Action"`
	Name   string             `xml:"Name"`
}

type actionDescription struct {
	Type          string     `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
	SQLExpression string     `xml:"SqlExpression"`
	Parameters    []keyValue `xml:"Parameters>KeyValueOfstringanyType"`
}

type filterDescription struct {
	actionDescription
	CorrelationID    string     `xml:"CorrelationId"`
	MessageID        string     `xml:"MessageId"`
	To               string     `xml:"To"`
	ReplyTo          string     `xml:"ReplyTo"`
	Label            string     `xml:"Label"`
	SessionID        string     `xml:"SessionId"`
	ReplyToSessionID string     `xml:"ReplyToSessionId"`
	ContentType      string     `xml:"ContentType"`
	Properties       []keyValue `xml:"Properties>KeyValueOfstringanyType"`
}

// rule returns the rule that the description describes. A rule without a filter gets the one that
// selects every message, as in the service.
func (d ruleDescription) rule() (rule.Rule, error) {
	one := rule.Rule{Name: cmp.Or(d.Name, defaultRule), Filter: rule.True{}}
	err := checkName(ruleName, one.Name)
	if err == nil && d.Filter != nil {
		one.Filter, err = d.Filter.filter()
	}
	if err == nil && d.Action != nil {
		one.Action, err = d.Action.action()
	}
	if err != nil {
		return rule.Rule{}, invalid(err.Error())
	}
	return one, nil
}

// unprefixed returns a type without the prefix of its namespace.
func unprefixed(schemaType string) string {
	return schemaType[strings.LastIndexByte(schemaType, ':')+1:]
}

func (f filterDescription) filter() (rule.Filter, error) {
	switch unprefixed(f.Type) {
	case "TrueFilter":
		return rule.True{}, nil
	case "FalseFilter":
		return rule.False{}, nil
	case "SqlFilter":
		parameters, err := readValues(f.Parameters)
		if err != nil {
			return nil, fmt.Errorf("the parameters of the SqlFilter: %w", err)
		}
		return rule.NewSQL(f.SQLExpression, parameters)
	case "CorrelationFilter":
		user, err := readValues(f.Properties)
		if err != nil {
			return nil, fmt.Errorf("the properties of the CorrelationFilter: %w", err)
		}
		return rule.NewCorrelation(map[string]string{
			"CorrelationId": f.CorrelationID, "MessageId": f.MessageID, "To": f.To, "ReplyTo": f.ReplyTo, "Label": f.Label,
			"SessionId": f.SessionID, "ReplyToSessionId": f.ReplyToSessionID, "ContentType": f.ContentType,
		}, user)
	case "":
		return nil, errors.New("the Filter has no type: it needs the attribute type of the namespace " + nsInstance)
	}
	return nil, fmt.Errorf("the filter type %q is none of SqlFilter, CorrelationFilter, TrueFilter and FalseFilter", f.Type)
}

func (d actionDescription) action() (*rule.Action, error) {
	switch unprefixed(d.Type) {
	case "EmptyRuleAction":
		return nil, nil
	case "SqlRuleAction":
		parameters, err := readValues(d.Parameters)
		if err != nil {
			return nil, fmt.Errorf("the parameters of the SqlRuleAction: %w", err)
		}
		return rule.NewAction(d.SQLExpression, parameters)
	case "":
		return nil, errors.New("the Action has no type: it needs the attribute type of the namespace " + nsInstance)
	}
	return nil, fmt.Errorf("the action type %q is neither SqlRuleAction nor EmptyRuleAction", d.Type)
}
