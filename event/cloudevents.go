package event

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"net/url"
	"slices"
	"strings"
	"time"
)

// specVersion is the only version of CloudEvents that is read and written.
const specVersion = "1.0"

// CloudEvent is a CloudEvents 1.0 event in structured JSON form, ready for json.Marshal.
// NewCloudEvent makes one.
type CloudEvent struct {
	SpecVersion     string    `json:"specversion"`
	ID              string    `json:"id"`
	Source          string    `json:"source"`
	Type            string    `json:"type"`
	DataContentType string    `json:"datacontenttype"`
	Time            time.Time `json:"time,omitzero"`
	Data            any       `json:"data"`
}

// CloudEventContentType is the content type of a message whose body is one CloudEvent.
const CloudEventContentType = "application/cloudevents+json"

// NewCloudEvent returns an event whose data becomes JSON. It escapes what a URI reference may not
// hold in source; a source that is not a URI reference stays as it is, and a Decoder refuses it. A
// zero time is left out.
func NewCloudEvent(id, source, eventType string, at time.Time, data any) CloudEvent {
	if u, err := url.Parse(source); err == nil {
		source = u.String()
	}
	e := CloudEvent{
		SpecVersion: specVersion, ID: strings.TrimSpace(id), Source: source, Type: strings.TrimSpace(eventType),
		DataContentType: "application/json", Data: data,
	}
	if !at.IsZero() {
		e.Time = at.UTC()
	}
	return e
}

// readCloudEvent decodes a CloudEvent 1.0 of structured or binary form
// (https://github.com/cloudevents/spec).
//
// The CloudEvents SDK does not parse it. As of v2.16, the SDK accepts an event that has both data
// and data_base64, stops at a member whose name is empty, panics on a data_base64 that is not a
// string, and does not unescape one. Each of these picks another user or loses an event. The SDK's
// check of the attributes is three comparisons, and costs megabytes in the binary.
func (d *Decoder) readCloudEvent(o object) (Event, *Error) {
	event, problem := d.readEnvelope(o, "type", "source", "time")
	if problem == nil {
		problem = checkAttributes(o, event)
	}
	if problem != nil {
		return event, problem
	}
	data, problem := o.value("data")
	if problem != nil {
		return event, problem
	}
	encoded, problem := o.text("data_base64")
	if problem != nil {
		return event, problem
	}
	if encoded != "" {
		if data != "" {
			return event, invalid("data", "given beside data_base64: they could name different users; send one of the two")
		}
		if data, problem = readBase64("data_base64", encoded); problem != nil {
			return event, problem
		}
	}
	problem = readData(data, &event)
	return event, problem
}

// checkAttributes checks the attributes that CloudEvents 1.0 requires (CloudEvents specification
// §3.1), and that the data is JSON.
func checkAttributes(o object, event Event) *Error {
	specversion, versionProblem := o.text("specversion")
	contentType, typeProblem := o.text("datacontenttype")
	if problem := firstOf(versionProblem, typeProblem); problem != nil {
		return problem
	}
	for _, required := range []struct{ name, value string }{{"specversion", specversion}, {"id", event.ID}, {"source", event.Source}} {
		if required.value == "" {
			return invalid(o.prefix+required.name, "missing: CloudEvents 1.0 requires it")
		}
	}
	if specversion != specVersion {
		return invalid(o.prefix+"specversion", "%s: only 1.0 is read", quote(specversion))
	}
	if contentType != "" && !isJSON(contentType) {
		return invalid(o.prefix+"datacontenttype", "%s: the data must be JSON", quote(contentType))
	}
	for _, attribute := range []struct {
		name  string
		valid bool
	}{
		{"id", strings.TrimSpace(event.ID) != ""},
		{"source", isURIReference(event.Source)},
		{"type", strings.TrimSpace(event.Type) != ""},
	} {
		if !attribute.valid {
			return invalid(o.prefix+attribute.name, "blank, or not a URI reference where CloudEvents 1.0 requires one")
		}
	}
	return nil
}

// isURIReference reports whether s is a URI reference (RFC 3986 §4.1) that names something.
func isURIReference(s string) bool {
	u, err := url.Parse(s)
	return err == nil && strings.TrimSpace(u.String()) != ""
}

func isJSON(contentType string) bool {
	mediaType, _, err := mime.ParseMediaType(contentType)
	return err == nil && (mediaType == "application/json" || mediaType == "text/json" || strings.HasSuffix(mediaType, "+json"))
}

// readBase64 returns the JSON that encoded contains.
func readBase64(field, encoded string) (string, *Error) {
	data, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return "", invalid(field, "not Base64 (RFC 4648 §4, with padding): %v", err)
	}
	checked, problem := checkJSON(field, data)
	return string(checked), problem
}

// readBinary converts a CloudEvent of binary form to the object of the structured form. Its
// attributes are in the properties, and the body is the data. The object has no members if the
// message is no such event. The AMQP binding prefixes the attributes with "cloudEvents:", or with
// "cloudEvents_" for clients that cannot send a colon (AMQP Protocol Binding §3.1.3).
//
// readBinary ignores the content type of the message, which is the data's. The body is known to be
// JSON, and many clients set no content type or a wrong one.
func readBinary(properties map[string]any, body []byte) (object, *Error) {
	const prefix = "cloudEvents:"
	o := object{prefix: prefix}
	for property, value := range properties {
		name, ok := cutBinaryPrefix(property)
		if !ok || !slices.Contains([]string{"specversion", "id", "source", "type", "time"}, name) {
			continue
		}
		if o.has(name) {
			return o, invalid(prefix+name, "given twice, with different prefixes")
		}
		switch v := value.(type) {
		case time.Time:
			value = v.UTC().Format(time.RFC3339Nano)
		case string:
		default:
			return o, invalid(prefix+name, "must be a string; time may be a timestamp")
		}
		text, err := json.Marshal(value)
		if err != nil {
			return o, invalid(prefix+name, "not readable: %v", err)
		}
		o.members = append(o.members, member{name: name, value: string(text), written: name, times: 1})
	}
	if len(o.members) > 0 {
		o.members = append(o.members, member{name: "data", value: string(body), written: "data", times: 1})
	}
	return o, nil
}

// cutBinaryPrefix returns the name of the attribute in the name of an application property. ok is
// false if there is none.
func cutBinaryPrefix(property string) (name string, ok bool) {
	const word = "cloudEvents"
	if len(property) <= len(word) || !strings.EqualFold(property[:len(word)], word) {
		return "", false
	}
	return property[len(word)+1:], property[len(word)] == ':' || property[len(word)] == '_'
}
