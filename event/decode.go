package event

import (
	"errors"
	"fmt"
	"mime"
	"regexp"
	"slices"
	"strings"
	"time"
)

// DefaultTypes are the event types that revoke sessions by default, the most urgent first.
var DefaultTypes = []string{"device.stolen", "device.lost", "user.compromised", "user.offboarded"}

// The only fields that name the user. An event often names other people too: an administrator, a
// manager, or a private email address.
const (
	fieldID  = "userId"
	fieldUPN = "userPrincipalName"
)

// The fields that say when an event must be acted on, and that it must not be any more.
const (
	fieldEffective = "effectiveTime"
	fieldWithdrawn = "withdrawn"
)

// The names that the decoder reads, by the object that contains them. It ignores every other name.
var (
	dataNames  = []string{fieldID, fieldUPN, fieldEffective, fieldWithdrawn}
	eventNames = append([]string{
		"specversion", "datacontenttype", "data_base64", // CloudEvents
		"eventType", "topic", "eventTime", // Event Grid
		"type", "id", "source", "time", "data",
	}, dataNames...) // plain
)

// Config configures what a Decoder accepts.
type Config struct {
	// Types is the allow-list, the most urgent type first. Case matters. Empty means DefaultTypes.
	Types []string
	// AnyType accepts all other types as well, for tools that only show events.
	AnyType bool
}

// Decoder decodes messages. It is immutable and safe for concurrent use.
type Decoder struct {
	types   map[string]int // the index on the allow-list
	anyType bool
}

// NewDecoder returns a Decoder. The error names a type that is not usable.
func NewDecoder(cfg Config) (*Decoder, error) {
	if len(cfg.Types) == 0 {
		cfg.Types = DefaultTypes
	}
	d := &Decoder{types: map[string]int{}, anyType: cfg.AnyType}
	for i, t := range cfg.Types {
		if t == "" || t != strings.TrimSpace(t) {
			return nil, fmt.Errorf("event type %q: empty, or with spaces around it", t)
		}
		if _, ok := d.types[t]; !ok {
			d.types[t] = i
		}
	}
	return d, nil
}

// Decode returns the events of a message in order, from 1 to MaxEvents. Each is valid or has its
// own error. Decode returns an
// *Error if it cannot decode the message as a whole.
//
// The content type selects the form (application/cloudevents+json,
// application/cloudevents-batch+json). Otherwise the properties of a CloudEvent in binary form do,
// and otherwise the members of each JSON object: specversion means CloudEvents, eventType means the
// Event Grid schema, and neither means a plain event.
func (d *Decoder) Decode(m Message) ([]Item, error) {
	if m.BodyKind != "" && m.BodyKind != "data" {
		return nil, invalid("body", "an AMQP %s: send the JSON as data (bytes)", m.BodyKind)
	}
	body, problem := checkJSON("body", m.Body)
	if problem != nil {
		return nil, problem
	}
	mediaType, _, _ := mime.ParseMediaType(m.ContentType)
	read := d.readByShape
	switch mediaType {
	case "application/cloudevents+json":
		return []Item{readItem(0, string(body), d.readCloudEvent)}, nil
	case "application/cloudevents-batch+json":
		read = d.readCloudEvent
	default:
		binary, problem := readBinary(m.Properties, body)
		if problem != nil {
			return nil, problem
		}
		if len(binary.members) > 0 {
			return []Item{newItem(0, func() (Event, *Error) { return d.readCloudEvent(binary) })}, nil
		}
		if body[0] == '{' {
			return []Item{readItem(0, string(body), d.readByShape)}, nil
		}
	}
	values, problem := readArray(string(body))
	if problem != nil {
		return nil, problem
	}
	items := make([]Item, len(values))
	for i, value := range values {
		items[i] = readItem(i, value, read)
	}
	return items, nil
}

// newItem returns the event that read returns. A panic of the decoder or of a library costs this
// event only, and not the worker or the other events of the message.
func newItem(index int, read func() (Event, *Error)) (item Item) {
	defer func() {
		if recover() != nil {
			item = Item{Index: index, Err: invalid("event", "cannot be decoded, by a defect of the worker: report it with this message")}
		}
	}()
	event, problem := read()
	event.Mapping = Native
	if problem == nil {
		event.Field = nativeField(event.User)
	}
	if problem != nil {
		return Item{Index: index, Event: event, Err: problem}
	}
	return Item{Index: index, Event: event}
}

// nativeField is the field that a call goes by in the forms of docs/events.md.
func nativeField(u User) string {
	if u.ID() != "" {
		return fieldID
	}
	return fieldUPN
}

// readItem decodes one JSON object of a message.
func readItem(index int, raw string, read func(object) (Event, *Error)) Item {
	return newItem(index, func() (Event, *Error) {
		o, problem := readObject("event", "", raw, eventNames)
		if problem != nil {
			return Event{}, problem
		}
		return read(o)
	})
}

func (d *Decoder) readByShape(o object) (Event, *Error) {
	switch {
	case o.has("specversion") && o.has("eventType"):
		return Event{}, invalid("specversion",
			"both CloudEvents' specversion and Event Grid's eventType are present: send one of the two forms")
	case o.has("specversion"):
		return d.readCloudEvent(o)
	case o.has("eventType"):
		return d.readEventGrid(o)
	}
	return d.readPlain(o)
}

// readPlain decodes {"type", "userId" and/or "userPrincipalName", and optionally "id", "source",
// "time", "effectiveTime", "withdrawn"}.
func (d *Decoder) readPlain(o object) (Event, *Error) {
	event, problem := d.readEnvelope(o, "type", "source", "time")
	if problem == nil {
		problem = readWhoAndWhen(o, &event)
	}
	return event, problem
}

// readEventGrid decodes the Event Grid event schema
// (https://learn.microsoft.com/azure/event-grid/event-schema).
func (d *Decoder) readEventGrid(o object) (Event, *Error) {
	event, problem := d.readEnvelope(o, "eventType", "topic", "eventTime")
	if problem != nil {
		return event, problem
	}
	data, problem := o.value("data")
	if problem != nil {
		return event, problem
	}
	problem = readData(data, &event)
	return event, problem
}

// readEnvelope reads the type first, and then ID, source, and time. Of an unknown type, nothing
// else matters.
func (d *Decoder) readEnvelope(o object, typeName, sourceName, timeName string) (event Event, problem *Error) {
	if _, problem = o.value(typeName); problem != nil {
		return event, problem
	}
	if event.Type, problem = o.text(typeName); problem != nil {
		return event, &Error{Kind: UnknownType, Field: o.prefix + typeName, Problem: problem.Problem}
	}
	if event.Urgency, problem = d.urgency(o.prefix+typeName, event.Type); problem != nil {
		return event, problem
	}
	var idProblem, sourceProblem, textProblem, timeProblem *Error
	var when string
	event.ID, idProblem = o.text("id")
	event.Source, sourceProblem = o.text(sourceName)
	when, textProblem = o.text(timeName)
	if textProblem == nil {
		event.Time, timeProblem = readTime(o.prefix+timeName, when)
	}
	return event, firstOf(idProblem, sourceProblem, textProblem, timeProblem)
}

func firstOf(problems ...*Error) *Error {
	i := slices.IndexFunc(problems, func(p *Error) bool { return p != nil })
	if i < 0 {
		return nil
	}
	return problems[i]
}

// urgency returns the index of the type on the allow-list.
func (d *Decoder) urgency(field, value string) (int, *Error) {
	place, known := d.types[value]
	switch {
	case value == "":
		return 0, &Error{Kind: UnknownType, Field: field, Problem: "missing"}
	case !known && !d.anyType:
		return 0, &Error{Kind: UnknownType, Field: field, Problem: quote(value) + " is not on the allow-list (events.types)"}
	}
	return place, nil
}

// rfc3339 is the form of a time. Package time also accepts a comma, hours of one digit, and any
// number of digits of a second (https://go.dev/issue/54580).
var rfc3339 = regexp.MustCompile(`^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})$`)

// readTime parses a time of RFC 3339 with up to nine digits of a second. For "" it returns the zero
// time.
func readTime(field, value string) (time.Time, *Error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil || !rfc3339.MatchString(value) {
		return time.Time{}, invalid(field,
			"%s is not a time in RFC 3339 form (2026-03-01T12:00:00Z, at most nine digits behind the second)", quote(value))
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 { // a zone can lead there, and the audit log cannot hold it
		return time.Time{}, invalid(field, "%s is not from the year 0 to 9999 in UTC", quote(value))
	}
	return t, nil
}

// readData reads an envelope's data into the event.
func readData(raw string, event *Event) *Error {
	if raw == "" || raw == "null" {
		return invalid("data", "missing: it must hold userId or userPrincipalName")
	}
	o, problem := readObject("data", "data.", raw, dataNames)
	if problem != nil {
		return problem
	}
	return readWhoAndWhen(o, event)
}

// readWhoAndWhen reads whom the event is about, when it takes effect, and whether it is withdrawn.
func readWhoAndWhen(o object, event *Event) *Error {
	when, textProblem := o.text(fieldEffective)
	effective, timeProblem := readTime(o.prefix+fieldEffective, when)
	withdrawn, boolProblem := o.boolean(fieldWithdrawn)
	if problem := firstOf(textProblem, timeProblem, boolProblem); problem != nil {
		return problem
	}
	user, problem := readUser(o)
	if problem != nil {
		return problem
	}
	event.User, event.TakesEffect, event.Withdrawn = user, effective, withdrawn
	return nil
}

// readUser reads the two fields that name the user. An empty string is the same as no field.
func readUser(o object) (User, *Error) {
	id, idProblem := o.text(fieldID)
	upn, upnProblem := o.text(fieldUPN)
	if problem := firstOf(idProblem, upnProblem); problem != nil {
		return User{}, problem
	}
	user, err := NewUser(id, upn)
	if problem, ok := errors.AsType[*Error](err); ok {
		return User{}, &Error{Kind: problem.Kind, Field: o.prefix + problem.Field, Problem: problem.Problem}
	}
	return user, nil
}
