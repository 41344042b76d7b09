package event

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"time"
)

// DefaultTypes are the event types that sign somebody out, unless configured otherwise.
var DefaultTypes = []string{"device.lost", "device.stolen", "user.offboarded", "user.compromised"}

// The only fields that are ever taken for the user. An event often names other people too: the admin who pressed the
// button, the manager, a private mail address.
const (
	fieldID  = "userId"
	fieldUPN = "userPrincipalName"
)

// Config says what a Decoder accepts.
type Config struct {
	// Types is the allow-list, compared exactly. Empty means DefaultTypes.
	Types []string
}

// Decoder decodes messages. It is immutable and safe for concurrent use.
type Decoder struct {
	types map[string]bool
}

// NewDecoder returns a Decoder; the error names an unusable type.
func NewDecoder(cfg Config) (*Decoder, error) {
	if len(cfg.Types) == 0 {
		cfg.Types = DefaultTypes
	}
	d := &Decoder{types: map[string]bool{}}
	for _, t := range cfg.Types {
		if t == "" || t != strings.TrimSpace(t) {
			return nil, fmt.Errorf("event type %q: empty, or with spaces around it", t)
		}
		d.types[t] = true
	}
	return d, nil
}

// Decode returns the message's events in order, each good or with its own error, at least one and at most MaxEvents; or an
// *Error when the message as a whole cannot be read.
//
// The form is chosen by the content type (application/cloudevents+json, application/cloudevents-batch+json), then by the
// properties of a CloudEvent in binary form, then by each JSON object's shape: specversion means CloudEvents, eventType
// means the Event Grid schema, neither means a plain event.
func (d *Decoder) Decode(m Message) (items []Item, err error) {
	defer func() {
		// The CloudEvents library parses foreign bytes; a panic of its must not stop the worker.
		if p := recover(); p != nil {
			items, err = nil, invalid("body", "cannot be decoded")
		}
	}()
	if m.BodyKind != "" && m.BodyKind != "data" {
		return nil, invalid("body", "an AMQP %s: send the JSON as data (bytes)", m.BodyKind)
	}
	body, problem := checkJSON(m.Body)
	if problem != nil {
		return nil, problem
	}
	mediaType, _, _ := mime.ParseMediaType(m.ContentType)
	read := d.readByShape
	switch mediaType {
	case "application/cloudevents+json":
		return one(d.readCloudEvent(body)), nil
	case "application/cloudevents-batch+json":
		read = d.readCloudEvent
	default:
		if attributes := binaryAttributes(m.Properties); attributes != nil {
			return one(d.readBinary(attributes, body)), nil
		}
		if body[0] == '{' {
			return one(d.readByShape(body)), nil
		}
	}
	values, problem := readArray(body)
	if problem != nil {
		return nil, problem
	}
	items = make([]Item, len(values))
	for i, value := range values {
		event, problem := read(value)
		items[i] = item(i, event, problem)
	}
	return items, nil
}

func one(event Event, problem *Error) []Item {
	return []Item{item(0, event, problem)}
}

func item(index int, event Event, problem *Error) Item {
	if problem != nil {
		event.User = User{}
		return Item{Index: index, Event: event, Err: problem}
	}
	return Item{Index: index, Event: event}
}

func (d *Decoder) readByShape(raw json.RawMessage) (Event, *Error) {
	o, problem := readObject(raw)
	switch {
	case problem != nil:
		return Event{}, within("event", problem)
	case o.has("specversion") && o.has("eventType"):
		return Event{}, invalid("specversion", "both CloudEvents' specversion and Event Grid's eventType are present: send one of the two forms")
	case o.has("specversion"):
		return d.readCloudEvent(raw)
	case o.has("eventType"):
		return d.readEventGrid(o)
	}
	return d.readPlain(o)
}

// readPlain reads {"type", "userId" and/or "userPrincipalName", and optionally "id", "source", "time"}.
func (d *Decoder) readPlain(o object) (Event, *Error) {
	event, problem := d.readEnvelope(o, "type", "source", "time")
	if problem == nil {
		event.User, problem = readUser("", o)
	}
	return event, problem
}

// readEventGrid reads the Event Grid event schema
// (https://learn.microsoft.com/azure/event-grid/event-schema).
func (d *Decoder) readEventGrid(o object) (Event, *Error) {
	event, problem := d.readEnvelope(o, "eventType", "topic", "eventTime")
	if problem == nil {
		event.User, problem = readData(o["data"])
	}
	return event, problem
}

// readEnvelope reads id, type, source and time; the type first, since of a foreign type nothing else matters.
func (d *Decoder) readEnvelope(o object, typeName, sourceName, timeName string) (event Event, problem *Error) {
	if event.Type, problem = o.text(typeName); problem != nil {
		return event, &Error{Kind: UnknownType, Field: typeName, Problem: problem.Problem}
	}
	if problem = d.checkType(typeName, event.Type); problem != nil {
		return event, problem
	}
	var idProblem, sourceProblem, textProblem, timeProblem *Error
	var when string
	event.ID, idProblem = o.text("id")
	event.Source, sourceProblem = o.text(sourceName)
	when, textProblem = o.text(timeName)
	if textProblem == nil {
		event.Time, timeProblem = readTime(timeName, when)
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

func (d *Decoder) checkType(field, value string) *Error {
	switch {
	case value == "":
		return &Error{Kind: UnknownType, Field: field, Problem: "missing"}
	case !d.types[value]:
		return &Error{Kind: UnknownType, Field: field, Problem: quote(value) + " is not on the allow-list (events.types)"}
	}
	return nil
}

// readTime reads RFC 3339 with up to nine digits of a second; "" is the zero time.
func readTime(field, value string) (time.Time, *Error) {
	if value == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, value)
	if err != nil {
		return time.Time{}, invalid(field, "%s is not a time in RFC 3339 form (2026-03-01T12:00:00Z)", quote(value))
	}
	return t.UTC(), nil
}

// readData reads the user from an envelope's data.
func readData(raw json.RawMessage) (User, *Error) {
	if len(raw) == 0 || string(raw) == "null" {
		return User{}, invalid("data", "missing: it must hold userId or userPrincipalName")
	}
	o, problem := readObject(raw)
	if problem != nil {
		if problem.Field == "" {
			return User{}, invalid("data", "%s", problem.Problem)
		}
		return User{}, within("data", problem)
	}
	return readUser("data", o)
}

// readUser reads the two fields that name the user; an empty string or null is as good as absent.
func readUser(where string, o object) (User, *Error) {
	id, problem := o.text(fieldID)
	if problem != nil {
		return User{}, within(where, problem)
	}
	upn, problem := o.text(fieldUPN)
	if problem != nil {
		return User{}, within(where, problem)
	}
	user, err := NewUser(id, upn)
	if errors.As(err, &problem) {
		return User{}, within(where, problem)
	}
	return user, nil
}
