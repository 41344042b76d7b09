package event

import (
	"encoding/json"
	"mime"
	"strings"
	"time"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
)

// readCloudEvent reads a CloudEvent 1.0 in its JSON form (https://github.com/cloudevents/spec, JSON Event Format §3).
func (d *Decoder) readCloudEvent(raw json.RawMessage) (Event, *Error) {
	envelope, problem := readObject(raw)
	if problem != nil {
		return Event{}, within("event", problem)
	}
	// The library would report a missing type as one problem among others; the type has a reason of its own.
	eventType, problem := envelope.text("type")
	if problem != nil {
		return Event{}, &Error{Kind: UnknownType, Field: "type", Problem: problem.Problem}
	}
	if problem := d.checkType("type", eventType); problem != nil {
		return Event{Type: eventType}, problem
	}
	// The library reads the time loosely.
	when, problem := envelope.text("time")
	if problem == nil {
		_, problem = readTime("time", when)
	}
	if problem != nil {
		return Event{Type: eventType}, problem
	}
	var ce cloudevents.Event
	if err := json.Unmarshal(raw, &ce); err != nil {
		return Event{Type: eventType}, invalid("event", "not a CloudEvent: %s", quote(err.Error()))
	}
	return finish(ce)
}

// finish takes the user from a CloudEvent whose type is known.
func finish(ce cloudevents.Event) (Event, *Error) {
	event := Event{ID: ce.ID(), Source: ce.Source(), Type: ce.Type(), Time: ce.Time()}
	if ce.SpecVersion() != cloudevents.CloudEventsVersionV1 {
		return event, invalid("specversion", "%s: only 1.0 is read", quote(ce.SpecVersion()))
	}
	if err := ce.Validate(); err != nil {
		return event, invalid("event", "not a CloudEvent: %s", strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
	}
	if contentType := ce.DataContentType(); contentType != "" && !isJSON(contentType) {
		return event, invalid("datacontenttype", "%s: the data must be JSON", quote(contentType))
	}
	data := ce.Data()
	if len(data) == 0 {
		return event, invalid("data", "missing: it must hold userId or userPrincipalName")
	}
	// Data given as data_base64 has not been looked at yet.
	checked, problem := checkJSON(data)
	if problem != nil {
		return event, invalid("data", "%s", problem.Problem)
	}
	event.User, problem = readData(checked)
	return event, problem
}

func isJSON(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && (mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json"))
}

// binaryAttributes returns the attributes of a CloudEvent in binary form, or nil if it is none. The AMQP binding prefixes
// them with "cloudEvents:" or, for clients that cannot send a colon, "cloudEvents_"
// (https://github.com/cloudevents/spec, AMQP Protocol Binding §3.1.3).
func binaryAttributes(properties map[string]any) map[string]any {
	const prefix = "cloudevents"
	var attributes map[string]any
	for name, value := range properties {
		if len(name) <= len(prefix)+1 || !strings.EqualFold(name[:len(prefix)], prefix) || !strings.ContainsRune(":_", rune(name[len(prefix)])) {
			continue
		}
		if attributes == nil {
			attributes = map[string]any{}
		}
		attributes[name[len(prefix)+1:]] = value
	}
	if _, ok := attributes["specversion"]; !ok {
		return nil
	}
	return attributes
}

// readBinary reads a CloudEvent in binary form: its attributes stand in properties, the body is the data.
func (d *Decoder) readBinary(attributes map[string]any, body []byte) (Event, *Error) {
	texts := map[string]string{}
	for _, name := range []string{"specversion", "id", "source", "type", "subject"} {
		value, ok := attributes[name]
		if !ok {
			continue
		}
		if texts[name], ok = value.(string); !ok {
			return Event{}, invalid("cloudEvents:"+name, "must be a string")
		}
	}
	event := Event{Type: texts["type"]}
	if problem := d.checkType("cloudEvents:type", event.Type); problem != nil {
		return event, problem
	}
	if texts["specversion"] != cloudevents.CloudEventsVersionV1 {
		return event, invalid("cloudEvents:specversion", "%s: only 1.0 is read", quote(texts["specversion"]))
	}
	ce := cloudevents.New(cloudevents.CloudEventsVersionV1)
	ce.SetID(texts["id"])
	ce.SetSource(texts["source"])
	ce.SetType(event.Type)
	if texts["subject"] != "" {
		ce.SetSubject(texts["subject"])
	}
	switch when := attributes["time"].(type) {
	case nil:
	case time.Time:
		ce.SetTime(when)
	case string:
		t, problem := readTime("cloudEvents:time", when)
		if problem != nil {
			return event, problem
		}
		ce.SetTime(t)
	default:
		return event, invalid("cloudEvents:time", "must be a timestamp or a string")
	}
	if err := ce.SetData(cloudevents.ApplicationJSON, body); err != nil {
		return event, invalid("data", "not readable: %v", err)
	}
	return finish(ce)
}
