package servicebus

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// The Atom documents of the administration API, with the names of Service Bus.

const (
	nsService  = "http://schemas.microsoft.com/netservices/2010/10/servicebus/connect"
	nsCounts   = "http://schemas.microsoft.com/netservices/2011/06/servicebus"
	nsInstance = "http://www.w3.org/2001/XMLSchema-instance"
	nsSchema   = "http://www.w3.org/2001/XMLSchema"
)

type text struct {
	Type string `xml:"type,attr"`
	Text string `xml:",chardata"`
}

type entry struct {
	XMLName   xml.Name `xml:"http://www.w3.org/2005/Atom entry"`
	ID        string   `xml:"id"`
	Title     text     `xml:"title"`
	Published string   `xml:"published,omitempty"`
	Updated   string   `xml:"updated,omitempty"`
	Content   struct {
		Type string `xml:"type,attr"`
		Of   any    // has its own XMLName
	} `xml:"content"`
}

type feed struct {
	XMLName xml.Name `xml:"http://www.w3.org/2005/Atom feed"`
	ID      string   `xml:"id"`
	Title   text     `xml:"title"`
	Updated string   `xml:"updated,omitempty"`
	Entries []entry
}

// nothing is how Service Bus says that there is no such entity.
var nothing = feed{Title: text{"text", "Publicly Listed Services"}}

type errorBody struct {
	XMLName xml.Name `xml:"Error"`
	Code    int      `xml:"Code"`
	Detail  detail   `xml:"Detail"`
}

// detail is text in which quotes stay as they are: clients show the answer as it came.
type detail struct {
	Text string `xml:",innerxml"`
}

var plainly = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// partitions is how many times its size the service reports of a partitioned entity.
const partitions = 16

// newEntry makes an entry; the JavaScript client takes names from the path of its id.
func newEntry(host, path, title string, content any) entry {
	e := entry{ID: "sb://" + host + "/" + path, Title: text{"text", title}}
	e.Content.Type, e.Content.Of = "application/xml", content
	return e
}

// readEntry reads what a PUT carries.
func readEntry(body io.Reader, into any) error {
	var e struct {
		Content struct {
			Inner []byte `xml:",innerxml"`
		} `xml:"content"`
	}
	if err := xml.NewDecoder(io.LimitReader(body, maxAdminBody)).Decode(&e); err != nil {
		return invalid("The body is not an Atom entry: " + err.Error())
	}
	if err := xml.Unmarshal(e.Content.Inner, into); err != nil {
		return invalid("The entry's content is not readable: " + err.Error())
	}
	return nil
}

// kept are settings that the administration API gives back as they were written, and that this broker does not act on.
type kept struct {
	// ForwardTo and ForwardDeadLettersTo are addresses; those in a QueueConfig are names.
	ForwardTo                 string         `xml:"ForwardTo,omitempty"`
	UserMetadata              string         `xml:"UserMetadata,omitempty"`
	ForwardDeadLettersTo      string         `xml:"ForwardDeadLetteredMessagesTo,omitempty"`
	AutoDeleteOnIdle          string         `xml:"AutoDeleteOnIdle,omitempty"`
	EnableBatchedOperations   *bool          `xml:"EnableBatchedOperations"`
	EnablePartitioning        bool           `xml:"EnablePartitioning"`
	EnableExpress             bool           `xml:"EnableExpress"`
	DeadLetterOnFilterErrors  bool           `xml:"DeadLetteringOnFilterEvaluationExceptions"`
	MaxMessageSizeInKilobytes int64          `xml:"MaxMessageSizeInKilobytes,omitempty"`
	AuthorizationRules        *authorization `xml:"AuthorizationRules"`
}

type authorization struct {
	Inner []byte `xml:",innerxml"`
}

// description is a QueueDescription, TopicDescription or SubscriptionDescription.
type description struct {
	XMLName                    xml.Name
	LockDuration               string           `xml:"LockDuration,omitempty"`
	MaxSizeInMegabytes         int64            `xml:"MaxSizeInMegabytes,omitempty"`
	RequiresDuplicateDetection bool             `xml:"RequiresDuplicateDetection"`
	RequiresSession            *bool            `xml:"RequiresSession"`
	DefaultMessageTimeToLive   string           `xml:"DefaultMessageTimeToLive,omitempty"`
	DeadLetterOnExpiration     bool             `xml:"DeadLetteringOnMessageExpiration"`
	DuplicateDetectionWindow   string           `xml:"DuplicateDetectionHistoryTimeWindow,omitempty"`
	DefaultRule                *ruleDescription `xml:"DefaultRuleDescription,omitempty"`
	MaxDeliveryCount           int              `xml:"MaxDeliveryCount,omitempty"`
	SizeInBytes                int64            `xml:"SizeInBytes"`
	MessageCount               int              `xml:"MessageCount"`
	Status                     string           `xml:"Status,omitempty"`
	CreatedAt                  string           `xml:"CreatedAt,omitempty"`
	UpdatedAt                  string           `xml:"UpdatedAt,omitempty"`
	AccessedAt                 string           `xml:"AccessedAt,omitempty"`
	SupportOrdering            bool             `xml:"SupportOrdering"`
	Availability               string           `xml:"EntityAvailabilityStatus,omitempty"`
	SubscriptionCount          int              `xml:"SubscriptionCount"`
	Counts                     *countDetails    `xml:"CountDetails,omitempty"`
	kept
}

// countDetails has the prefix that the service writes: the JavaScript client reads the names with it.
type countDetails struct {
	Prefix             string `xml:"xmlns:d2p1,attr"`
	Active             int    `xml:"d2p1:ActiveMessageCount"`
	DeadLetter         int    `xml:"d2p1:DeadLetterMessageCount"`
	Scheduled          int    `xml:"d2p1:ScheduledMessageCount"`
	TransferDeadLetter int    `xml:"d2p1:TransferDeadLetterMessageCount"`
	Transfer           int    `xml:"d2p1:TransferMessageCount"`
}

// config changes what a description says; the rest stays as it was.
func (d description) config(cfg QueueConfig) (QueueConfig, error) {
	if d.RequiresSession != nil {
		cfg.RequiresSession = *d.RequiresSession
	}
	for name, field := range map[string]struct {
		text string
		to   *time.Duration
	}{
		"LockDuration":                        {d.LockDuration, &cfg.LockDuration},
		"DefaultMessageTimeToLive":            {d.DefaultMessageTimeToLive, &cfg.DefaultTTL},
		"DuplicateDetectionHistoryTimeWindow": {d.DuplicateDetectionWindow, &cfg.DuplicateWindow},
	} {
		if field.text == "" {
			continue
		}
		value, err := ParseDuration(field.text)
		if err != nil {
			return cfg, invalid(name + ": " + err.Error())
		}
		*field.to = value
	}
	switch {
	case !d.RequiresDuplicateDetection:
		cfg.DuplicateWindow = 0
	case cfg.DuplicateWindow == 0:
		cfg.DuplicateWindow = 10 * time.Minute
	}
	if cfg.DefaultTTL == math.MaxInt64 {
		cfg.DefaultTTL = 0
	}
	cfg.MaxDeliveryCount = cmp.Or(d.MaxDeliveryCount, cfg.MaxDeliveryCount)
	cfg.DeadLetterOnExpiration = d.DeadLetterOnExpiration
	if d.MaxSizeInMegabytes > 0 {
		size := d.MaxSizeInMegabytes
		if cfg.kept.EnablePartitioning {
			size = max(1, size/partitions) // what was read is written back
		}
		cfg.MaxBytes = min(size, 1<<30) << 20
	}
	cfg.ForwardTo, cfg.ForwardDeadLettersTo = entityOf(d.ForwardTo), entityOf(d.ForwardDeadLettersTo)
	cfg.kept = d.kept
	cfg.Status = Status(d.Status)
	if !cfg.Status.valid() {
		return cfg, invalid("Status: " + d.Status + " is not known.")
	}
	return cfg, nil
}

// entityOf is the name of an entity that may be given as an address.
func entityOf(address string) string {
	if u, err := url.Parse(address); err == nil && u.Scheme != "" {
		return strings.Trim(u.Path, "/")
	}
	return address
}

// entryOf describes an entity as it is now.
func (b *Broker) entryOf(q *queue, host string) entry {
	counts := q.count()
	transferDead := 0
	if q.transfer != nil {
		transferDead = q.transfer.count().Active
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := description{
		LockDuration:               formatDuration(q.cfg.LockDuration),
		MaxSizeInMegabytes:         max(1, q.cfg.MaxBytes>>20),
		RequiresDuplicateDetection: q.cfg.DuplicateWindow > 0,
		RequiresSession:            new(q.cfg.RequiresSession),
		DefaultMessageTimeToLive:   formatDuration(q.cfg.DefaultTTL),
		DeadLetterOnExpiration:     q.cfg.DeadLetterOnExpiration,
		DuplicateDetectionWindow:   formatDuration(cmp.Or(q.cfg.DuplicateWindow, 10*time.Minute)),
		MaxDeliveryCount:           q.cfg.MaxDeliveryCount,
		SizeInBytes:                counts.Bytes,
		MessageCount:               counts.Active + counts.Scheduled + counts.Deferred + counts.DeadLetter,
		Status:                     string(cmp.Or(q.cfg.Status, Active)),
		CreatedAt:                  q.created.UTC().Format(time.RFC3339Nano),
		UpdatedAt:                  q.updated.UTC().Format(time.RFC3339Nano),
		AccessedAt:                 q.accessed.UTC().Format(time.RFC3339Nano),
		SupportOrdering:            true,
		Availability:               "Available",
		Counts: &countDetails{
			Prefix: nsCounts, Active: counts.Active, DeadLetter: counts.DeadLetter, Scheduled: counts.Scheduled, TransferDeadLetter: transferDead,
		},
		kept: q.cfg.kept,
	}
	d.ForwardTo = cmp.Or(d.ForwardTo, q.cfg.ForwardTo)
	d.ForwardDeadLettersTo = cmp.Or(d.ForwardDeadLettersTo, q.cfg.ForwardDeadLettersTo)
	d.AutoDeleteOnIdle = cmp.Or(d.AutoDeleteOnIdle, forever)
	d.MaxMessageSizeInKilobytes = cmp.Or(d.MaxMessageSizeInKilobytes, int64(b.maxMessage>>10))
	if d.EnableBatchedOperations == nil {
		d.EnableBatchedOperations = new(true)
	}
	if d.EnablePartitioning {
		d.MaxSizeInMegabytes *= partitions
	}
	title := q.name
	d.XMLName = xml.Name{Space: nsService, Local: "QueueDescription"}
	switch q.kind {
	case topicQueue:
		d.XMLName.Local = "TopicDescription"
		d.SubscriptionCount = len(q.subscriptions)
	case subscriptionQueue:
		d.XMLName.Local = "SubscriptionDescription"
		title = q.name[strings.LastIndexByte(q.name, '/')+1:]
	}
	return newEntry(host, q.name, title, d)
}

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

// typed reads a value of an XML Schema type.
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

// ruleEntry writes a rule. Prefixes are spelled out as the service does.
func ruleEntry(subscription *queue, r rule.Rule, host string) entry {
	type value struct {
		Type   string `xml:"i:type,attr"`
		Schema string `xml:"xmlns:d6p1,attr"`
		Text   string `xml:",chardata"`
	}
	type property struct {
		Key   string `xml:"Key"`
		Value value  `xml:"Value"`
	}
	type filter struct {
		Type               string     `xml:"i:type,attr"`
		SQLExpression      string     `xml:"SqlExpression,omitempty"`
		CompatibilityLevel int        `xml:"CompatibilityLevel,omitempty"`
		CorrelationID      string     `xml:"CorrelationId,omitempty"`
		MessageID          string     `xml:"MessageId,omitempty"`
		To                 string     `xml:"To,omitempty"`
		ReplyTo            string     `xml:"ReplyTo,omitempty"`
		Label              string     `xml:"Label,omitempty"`
		SessionID          string     `xml:"SessionId,omitempty"`
		ReplyToSessionID   string     `xml:"ReplyToSessionId,omitempty"`
		ContentType        string     `xml:"ContentType,omitempty"`
		Properties         []property `xml:"Properties>KeyValueOfstringanyType,omitempty"`
	}
	var d struct {
		XMLName  xml.Name
		Instance string `xml:"xmlns:i,attr"`
		Filter   filter `xml:"Filter"`
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
		d.Filter = filter{Type: "SqlFilter", SQLExpression: f.String(), CompatibilityLevel: 20}
	case rule.Correlation:
		d.Filter = filter{
			Type: "CorrelationFilter", CorrelationID: f.Property("CorrelationId"), MessageID: f.Property("MessageId"),
			To: f.Property("To"), ReplyTo: f.Property("ReplyTo"), Label: cmp.Or(f.Property("Label"), f.Property("Subject")),
			SessionID: f.Property("SessionId"), ReplyToSessionID: f.Property("ReplyToSessionId"), ContentType: f.Property("ContentType"),
		}
		for key, v := range f.User {
			schemaType := "d6p1:string"
			switch v.(type) {
			case bool:
				schemaType = "d6p1:boolean"
			case float32, float64:
				schemaType = "d6p1:double"
			case int8, int16, int32, int64, int, uint8, uint16, uint32, uint64:
				schemaType = "d6p1:int" // the only integer that the Go client reads
			case time.Time:
				schemaType = "d6p1:dateTime"
			}
			written := fmt.Sprint(v)
			if t, ok := v.(time.Time); ok {
				written = t.UTC().Format(time.RFC3339Nano)
			}
			d.Filter.Properties = append(d.Filter.Properties, property{key, value{schemaType, nsSchema, written}})
		}
	case rule.False:
		d.Filter = filter{Type: "FalseFilter", SQLExpression: "1=0", CompatibilityLevel: 20}
	default:
		d.Filter = filter{Type: "TrueFilter", SQLExpression: "1=1", CompatibilityLevel: 20}
	}
	return newEntry(host, subscription.name+"/Rules/"+r.Name, r.Name, d)
}

func namespaceInfo(host string) entry {
	var d struct {
		XMLName       xml.Name
		CreatedTime   string `xml:"CreatedTime"`
		MessagingSKU  string `xml:"MessagingSKU"`
		ModifiedTime  string `xml:"ModifiedTime"`
		Name          string `xml:"Name"`
		NamespaceType string `xml:"NamespaceType"`
	}
	d.XMLName = xml.Name{Space: nsService, Local: "NamespaceInfo"}
	now := time.Now().UTC().Format(time.RFC3339)
	d.CreatedTime, d.ModifiedTime, d.MessagingSKU, d.Name, d.NamespaceType = now, now, "Standard", host, "Messaging"
	return newEntry(host, "$namespaceinfo", host, d)
}
