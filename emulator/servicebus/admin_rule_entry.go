package servicebus

import (
	"encoding/xml"
	"net/http"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// compatibilityLevel is what the service reports of the SQL language of every rule.
const compatibilityLevel = 20

// ruleEntry describes a rule. It has the namespace prefixes of the service, because clients read
// them.
func ruleEntry(r *http.Request, subscription *queue, one rule.Rule) atomEntry {
	var d struct {
		XMLName   xml.Name
		Instance  string      `xml:"xmlns:i,attr"`
		Filter    filterEntry `xml:"Filter"`
		Action    actionEntry `xml:"Action"`
		CreatedAt string      `xml:"CreatedAt"`
		Name      string      `xml:"Name"`
	}
	d.XMLName = xml.Name{Space: nsService, Local: "RuleDescription"}
	d.Instance, d.Name = nsInstance, one.Name
	d.CreatedAt = one.Created.UTC().Format(time.RFC3339Nano)
	d.Action = actionEntry{Type: "EmptyRuleAction"}
	if a := one.Action; a != nil {
		d.Action = actionEntry{"SqlRuleAction", a.String(), compatibilityLevel, writeValues(a.Parameters())}
	}
	switch f := one.Filter.(type) {
	case rule.SQL:
		d.Filter.actionEntry = actionEntry{"SqlFilter", f.String(), compatibilityLevel, writeValues(f.Parameters())}
	case rule.Correlation:
		d.Filter = correlationEntry(f)
	case rule.False:
		d.Filter.actionEntry = actionEntry{Type: "FalseFilter", SQLExpression: "1=0", CompatibilityLevel: compatibilityLevel}
	default:
		d.Filter.actionEntry = actionEntry{Type: "TrueFilter", SQLExpression: "1=1", CompatibilityLevel: compatibilityLevel}
	}
	e := newEntry(r, subscription.name+"/Rules/"+one.Name, one.Name, d)
	e.Published, e.Updated = d.CreatedAt, d.CreatedAt
	return e
}

// actionEntry is an action, or the part of a filter that is like one, as clients read it.
type actionEntry struct {
	Type               string        `xml:"i:type,attr"`
	SQLExpression      string        `xml:"SqlExpression,omitempty"`
	CompatibilityLevel int           `xml:"CompatibilityLevel,omitempty"`
	Parameters         *valueEntries `xml:"Parameters,omitempty"`
}

// filterEntry is a filter as clients read it.
type filterEntry struct {
	actionEntry
	CorrelationID    string        `xml:"CorrelationId,omitempty"`
	MessageID        string        `xml:"MessageId,omitempty"`
	To               string        `xml:"To,omitempty"`
	ReplyTo          string        `xml:"ReplyTo,omitempty"`
	Label            string        `xml:"Label,omitempty"`
	SessionID        string        `xml:"SessionId,omitempty"`
	ReplyToSessionID string        `xml:"ReplyToSessionId,omitempty"`
	ContentType      string        `xml:"ContentType,omitempty"`
	Properties       *valueEntries `xml:"Properties,omitempty"`
}

func correlationEntry(f rule.Correlation) filterEntry {
	return filterEntry{
		actionEntry:   actionEntry{Type: "CorrelationFilter"},
		CorrelationID: f.Property("CorrelationId"), MessageID: f.Property("MessageId"), To: f.Property("To"),
		ReplyTo: f.Property("ReplyTo"), Label: f.Property("Label"), SessionID: f.Property("SessionId"),
		ReplyToSessionID: f.Property("ReplyToSessionId"), ContentType: f.Property("ContentType"), Properties: writeValues(f.User()),
	}
}
