package servicebus

import (
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// serveRules lists a subscription's rules if the name is empty. Otherwise it reads, creates,
// updates or deletes the rule of that name.
func (a admin) serveRules(r *http.Request, subscription *queue, name string) (status int, answer any, err error) {
	rules := subscription.rules
	list := rules.all()
	if name == "" {
		f := atomFeed{Title: atomText{"text", "Rules"}}
		for _, one := range page(r, list) {
			f.Entries = append(f.Entries, ruleEntry(subscription, one, r.Host))
		}
		return http.StatusOK, f, nil
	}
	at := slices.IndexFunc(list, func(one rule.Rule) bool { return strings.EqualFold(one.Name, name) })
	switch r.Method {
	case http.MethodGet:
		if at < 0 {
			return http.StatusOK, noSuchEntity, nil
		}
		return http.StatusOK, ruleEntry(subscription, list[at], r.Host), nil
	case http.MethodDelete:
		if rules.remove(name) != nil {
			return 0, nil, missing(name)
		}
		return http.StatusOK, nil, nil
	case http.MethodPut:
		var d ruleDescription
		if err := readEntry(r.Body, &d); err != nil {
			return 0, nil, err
		}
		d.Name = name
		one, err := d.rule()
		if err != nil {
			return 0, nil, err
		}
		if r.Header.Get("If-Match") != "" {
			if rules.replace(one) != nil {
				return 0, nil, missing(name)
			}
			return http.StatusOK, ruleEntry(subscription, one, r.Host), nil
		}
		switch err := rules.add(one); {
		case errors.Is(err, errRuleExists):
			return 0, nil, conflict(name)
		case err != nil:
			return 0, nil, invalid(err.Error())
		}
		return http.StatusCreated, ruleEntry(subscription, one, r.Host), nil
	}
	return 0, nil, notSupported(r.Method)
}

// ruleDescription is a rule as clients write it. ruleEntry is a rule as clients read it.
type ruleDescription struct {
	XMLName xml.Name
	Filter  filterDescription `xml:"Filter"`
	Action  struct {
		Type          string `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
		SQLExpression string `xml:"SqlExpression"`
	} `xml:"Action"`
	Name string `xml:"Name"`
}

type filterDescription struct {
	Type             string `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
	SQLExpression    string `xml:"SqlExpression"`
	CorrelationID    string `xml:"CorrelationId"`
	MessageID        string `xml:"MessageId"`
	To               string `xml:"To"`
	ReplyTo          string `xml:"ReplyTo"`
	Label            string `xml:"Label"`
	SessionID        string `xml:"SessionId"`
	ReplyToSessionID string `xml:"ReplyToSessionId"`
	ContentType      string `xml:"ContentType"`
	Properties       []struct {
		Key   string `xml:"Key"`
		Value struct {
			Type string `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
			Text string `xml:",chardata"`
		} `xml:"Value"`
	} `xml:"Properties>KeyValueOfstringanyType"`
}

// rule returns the rule that the description describes.
func (d ruleDescription) rule() (rule.Rule, error) {
	if d.Action.SQLExpression != "" {
		return rule.Rule{}, invalid("Rule actions are not supported by this emulator.")
	}
	filter, err := d.Filter.filter()
	if err != nil {
		return rule.Rule{}, invalid(err.Error())
	}
	return rule.Rule{Name: cmp.Or(d.Name, "$Default"), Filter: filter}, nil
}

func (f filterDescription) filter() (rule.Filter, error) {
	switch f.Type {
	case "TrueFilter", "":
		return rule.True{}, nil
	case "FalseFilter":
		return rule.False{}, nil
	case "SqlFilter":
		return rule.NewSQL(f.SQLExpression)
	case "CorrelationFilter":
		user := map[string]any{}
		for _, p := range f.Properties {
			value, err := typed(p.Value.Type, p.Value.Text)
			if err != nil {
				return nil, fmt.Errorf("property %s: %w", p.Key, err)
			}
			user[p.Key] = value
		}
		return rule.NewCorrelation(map[string]string{
			"CorrelationId": f.CorrelationID, "MessageId": f.MessageID, "To": f.To, "ReplyTo": f.ReplyTo, "Label": f.Label,
			"SessionId": f.SessionID, "ReplyToSessionId": f.ReplyToSessionID, "ContentType": f.ContentType,
		}, user)
	}
	return nil, fmt.Errorf("the filter type %q is not supported by this emulator", f.Type)
}

// typed reads a value of an XML Schema type, such as xs:int.
func typed(schemaType, value string) (any, error) {
	_, name, _ := strings.Cut(schemaType, ":")
	switch name {
	case "string":
		return value, nil
	case "int", "long", "short", "byte":
		return strconv.ParseInt(value, 10, 64)
	case "double", "float", "decimal":
		return strconv.ParseFloat(value, 64)
	case "boolean":
		return strconv.ParseBool(value)
	case "dateTime":
		return time.Parse(time.RFC3339Nano, value)
	}
	return nil, fmt.Errorf("the type %q is not supported by this emulator", schemaType)
}

// ruleEntry describes a rule. It has the namespace prefixes of the service, because clients read
// them.
func ruleEntry(subscription *queue, r rule.Rule, host string) atomEntry {
	var d struct {
		XMLName  xml.Name
		Instance string      `xml:"xmlns:i,attr"`
		Filter   filterEntry `xml:"Filter"`
		Action   struct {
			Type string `xml:"i:type,attr"`
		} `xml:"Action"`
		CreatedAt string `xml:"CreatedAt"`
		Name      string `xml:"Name"`
	}
	d.XMLName = xml.Name{Space: nsService, Local: "RuleDescription"}
	d.Instance, d.Action.Type, d.Name = nsInstance, "EmptyRuleAction", r.Name
	d.CreatedAt = time.Time{}.Format(time.RFC3339)
	switch f := r.Filter.(type) {
	case rule.SQL:
		d.Filter = filterEntry{Type: "SqlFilter", SQLExpression: f.String(), CompatibilityLevel: 20}
	case rule.Correlation:
		d.Filter = correlationEntry(f)
	case rule.False:
		d.Filter = filterEntry{Type: "FalseFilter", SQLExpression: "1=0", CompatibilityLevel: 20}
	default:
		d.Filter = filterEntry{Type: "TrueFilter", SQLExpression: "1=1", CompatibilityLevel: 20}
	}
	return newEntry(host, subscription.name+"/Rules/"+r.Name, r.Name, d)
}

// filterEntry is a filter as clients read it.
type filterEntry struct {
	Type               string          `xml:"i:type,attr"`
	SQLExpression      string          `xml:"SqlExpression,omitempty"`
	CompatibilityLevel int             `xml:"CompatibilityLevel,omitempty"`
	CorrelationID      string          `xml:"CorrelationId,omitempty"`
	MessageID          string          `xml:"MessageId,omitempty"`
	To                 string          `xml:"To,omitempty"`
	ReplyTo            string          `xml:"ReplyTo,omitempty"`
	Label              string          `xml:"Label,omitempty"`
	SessionID          string          `xml:"SessionId,omitempty"`
	ReplyToSessionID   string          `xml:"ReplyToSessionId,omitempty"`
	ContentType        string          `xml:"ContentType,omitempty"`
	Properties         []propertyEntry `xml:"Properties>KeyValueOfstringanyType,omitempty"`
}

// propertyEntry is an application property of a correlation filter as clients read it.
type propertyEntry struct {
	Key   string `xml:"Key"`
	Value struct {
		Type   string `xml:"i:type,attr"`
		Schema string `xml:"xmlns:d6p1,attr"`
		Text   string `xml:",chardata"`
	} `xml:"Value"`
}

func correlationEntry(f rule.Correlation) filterEntry {
	e := filterEntry{
		Type: "CorrelationFilter", CorrelationID: f.Property("CorrelationId"), MessageID: f.Property("MessageId"),
		To: f.Property("To"), ReplyTo: f.Property("ReplyTo"), Label: cmp.Or(f.Property("Label"), f.Property("Subject")),
		SessionID: f.Property("SessionId"), ReplyToSessionID: f.Property("ReplyToSessionId"), ContentType: f.Property("ContentType"),
	}
	for key, value := range f.User {
		p := propertyEntry{Key: key}
		p.Value.Schema = nsSchema
		p.Value.Type, p.Value.Text = written(value)
		e.Properties = append(e.Properties, p)
	}
	return e
}

// written is the opposite of typed.
func written(value any) (schemaType, text string) {
	switch v := value.(type) {
	case bool:
		return "d6p1:boolean", fmt.Sprint(v)
	case float32, float64:
		return "d6p1:double", fmt.Sprint(v)
	case int8, int16, int32, int64, int, uint8, uint16, uint32, uint64:
		return "d6p1:int", fmt.Sprint(v) // the only integer type that the Go client reads
	case time.Time:
		return "d6p1:dateTime", v.UTC().Format(time.RFC3339Nano)
	}
	return "d6p1:string", fmt.Sprint(value)
}
