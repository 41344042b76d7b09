package replay

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/go-amqp"
	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
)

// Record is a dead letter in an exported file, which holds one JSON object per line. Letter says
// why it was dead-lettered. Of Letter, an import reads only the counters of replays and the ids;
// the rest of the message is in the other fields.
type Record struct {
	Letter Letter `json:"deadLetter"`

	ContentType   string `json:"contentType,omitempty"`
	Subject       string `json:"subject,omitempty"`
	CorrelationID any    `json:"correlationId,omitempty"`
	SessionID     string `json:"sessionId,omitempty"`
	PartitionKey  string `json:"partitionKey,omitempty"`
	To            string `json:"to,omitempty"`
	ReplyTo       string `json:"replyTo,omitempty"`
	// TimeToLive is a duration such as 24h0m0s.
	TimeToLive string `json:"timeToLive,omitempty"`
	// OnlyEvents has the indexes (from 0) of the events in the body that the worker must act on. It
	// is absent for all. A person who adds or removes events must remove this field.
	OnlyEvents []int `json:"onlyEvents,omitempty"`
	// Properties are the application properties, without ours. Values that are not strings, numbers
	// or booleans have the form {"type": "…", "value": "…"}.
	Properties map[string]any `json:"properties,omitempty"`
	// Original (base64) is the complete message as it was encoded, if the client library cannot
	// read all of it. It is kept for other tools and never sent.
	Original string `json:"originalAmqp,omitempty"`
	// Exactly one of these is set, or none if the body cannot be read. Body is a JSON body,
	// BodyText is any other text, BodyBase64 is any other bytes, and BodyAMQP (base64) is the
	// encoded AMQP sections of a body that does not consist of bytes.
	Body       json.RawMessage `json:"body,omitempty"`
	BodyText   *string         `json:"bodyText,omitempty"`
	BodyBase64 string          `json:"bodyBase64,omitempty"`
	BodyAMQP   string          `json:"bodyAmqp,omitempty"`
}

// NewRecord returns the record of a dead letter. If the client library cannot read all of the
// letter and the original is not available, the error is ErrNoOriginal, and the record is good only
// for showing what is known.
func NewRecord(f Found) (Record, error) {
	raw := f.Message.RawAMQPMessage
	r := Record{
		Letter: f.Letter, OnlyEvents: f.toActOn(), Properties: map[string]any{},
		Original: base64.StdEncoding.EncodeToString(f.Original),
	}
	if p := raw.Properties; p != nil {
		r.ContentType, r.Subject, r.SessionID = text(p.ContentType), text(p.Subject), text(p.GroupID)
		r.To, r.ReplyTo = text(p.To), text(p.ReplyTo)
		if p.CorrelationID != nil {
			r.CorrelationID = typedOut(p.CorrelationID)
		}
	}
	r.PartitionKey, _ = raw.MessageAnnotations["x-opt-partition-key"].(string)
	if raw.Header != nil && raw.Header.TTL > 0 {
		r.TimeToLive = raw.Header.TTL.String()
	}
	for name, value := range raw.ApplicationProperties {
		if deadletter.IsProducers(name) {
			r.Properties[name] = typedOut(value)
		}
	}
	if f.Unreadable == "" {
		if err := r.setBody(raw.Body); err != nil {
			return r, err
		}
	}
	if f.changed() && len(f.Original) == 0 {
		return r, ErrNoOriginal
	}
	return r, nil
}

// ErrNoOriginal means that the client library can read only a part of the message, and the original
// bytes are not available.
var ErrNoOriginal = errors.New("the client library cannot read all of the message, and its original bytes are no longer in memory")

// ErrStandIn means that the record has no body, because the client library could not read the
// message.
var ErrStandIn = errors.New("the message could not be read when it was exported, so there is no body to send: " +
	"add a body to the record, or inform the producer")

func (r *Record) setBody(body azservicebus.AMQPAnnotatedMessageBody) error {
	if body.Value != nil || len(body.Sequence) > 0 {
		encoded, err := (&amqp.Message{Value: body.Value, Sequence: body.Sequence}).MarshalBinary()
		r.BodyAMQP = base64.StdEncoding.EncodeToString(encoded)
		return err
	}
	data := bytes.Join(body.Data, nil)
	switch {
	case json.Valid(data) && utf8.Valid(data):
		r.Body = data
	case utf8.Valid(data):
		r.BodyText = new(string(data))
	default:
		r.BodyBase64 = base64.StdEncoding.EncodeToString(data)
	}
	return nil
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// WriteRecord writes one line.
func WriteRecord(w io.Writer, r Record) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(r)
}

// ReadRecord parses one line, which a person may have edited. The error says what is wrong with it.
func ReadRecord(line []byte) (Record, error) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	var r Record
	if err := decoder.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("not a record as worker dlq export writes it: %w", err)
	}
	if decoder.More() {
		return Record{}, errors.New("more than one JSON value in the line")
	}
	bodies := 0
	for _, set := range []bool{len(r.Body) > 0, r.BodyText != nil, r.BodyBase64 != "", r.BodyAMQP != ""} {
		if set {
			bodies++
		}
	}
	if bodies > 1 || bodies == 0 && r.Original == "" {
		return Record{}, errors.New("exactly one of body, bodyText, bodyBase64 and bodyAmqp must be set")
	}
	for _, n := range r.OnlyEvents {
		if n < 0 || n >= event.MaxEvents {
			return Record{}, fmt.Errorf("onlyEvents: %d is not the index of an event", n)
		}
	}
	if len(r.OnlyEvents) > event.MaxEvents {
		return Record{}, fmt.Errorf("onlyEvents: more than %d", event.MaxEvents)
	}
	return r, nil
}

// Message returns the message to send for the record. It ignores properties under our names,
// whoever wrote them. The error is ErrStandIn for a record without a body.
func (r Record) Message(run Run) (*azservicebus.AMQPAnnotatedMessage, error) {
	if len(r.Body) == 0 && r.BodyText == nil && r.BodyBase64 == "" && r.BodyAMQP == "" {
		return nil, ErrStandIn
	}
	m := &azservicebus.AMQPAnnotatedMessage{
		Properties:            &azservicebus.AMQPAnnotatedMessageProperties{MessageID: uuid.NewString()},
		ApplicationProperties: map[string]any{},
		MessageAnnotations:    map[any]any{},
	}
	p := m.Properties
	for to, value := range map[**string]string{
		&p.ContentType: r.ContentType, &p.Subject: r.Subject, &p.GroupID: r.SessionID, &p.To: r.To, &p.ReplyTo: r.ReplyTo,
	} {
		if value != "" {
			*to = &value
		}
	}
	if r.PartitionKey != "" {
		m.MessageAnnotations["x-opt-partition-key"] = r.PartitionKey
	}
	if r.TimeToLive != "" {
		life, err := time.ParseDuration(r.TimeToLive)
		if err != nil || life <= 0 {
			return nil, fmt.Errorf("timeToLive: %q is not a duration like 24h0m0s", r.TimeToLive)
		}
		m.Header = &azservicebus.AMQPAnnotatedMessageHeader{TTL: life, Durable: true}
	}
	var err error
	if r.CorrelationID != nil {
		if p.CorrelationID, err = typedIn(r.CorrelationID); err != nil {
			return nil, fmt.Errorf("correlationId: %w", err)
		}
	}
	for name, value := range r.Properties {
		if !deadletter.IsProducers(name) {
			continue
		}
		if m.ApplicationProperties[name], err = typedIn(value); err != nil {
			return nil, fmt.Errorf("property %s: %w", name, err)
		}
	}
	if err := r.body(&m.Body); err != nil {
		return nil, err
	}
	run.label(m, r.Letter, r.OnlyEvents, time.Now().UTC())
	return m, nil
}

func (r Record) body(into *azservicebus.AMQPAnnotatedMessageBody) (err error) {
	defer func() {
		if recover() != nil { // go-amqp panics over some maps
			err = errors.New("bodyAmqp: not a readable body")
		}
	}()
	switch {
	case r.BodyText != nil:
		into.Data = [][]byte{[]byte(*r.BodyText)}
	case r.BodyBase64 != "":
		data, err := base64.StdEncoding.DecodeString(r.BodyBase64)
		if err != nil {
			return fmt.Errorf("bodyBase64: %w", err)
		}
		into.Data = [][]byte{data}
	case r.BodyAMQP != "":
		encoded, err := base64.StdEncoding.DecodeString(r.BodyAMQP)
		if err != nil {
			return fmt.Errorf("bodyAmqp: %w", err)
		}
		var sections amqp.Message
		if err := sections.UnmarshalBinary(encoded); err != nil {
			return fmt.Errorf("bodyAmqp: %w", err)
		}
		into.Value, into.Sequence = sections.Value, sections.Sequence
	default:
		into.Data = [][]byte{r.Body}
	}
	return nil
}

// typed is a value of a type that JSON does not have.
type typed struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// typedOut returns a property in the form of a record. Strings, booleans and the numbers that Go
// clients send (int64 and float64) stay as they are.
func typedOut(value any) any {
	switch v := value.(type) {
	case string, bool, int64:
		return v
	case float64:
		if v != math.Trunc(v) && !math.IsInf(v, 0) && !math.IsNaN(v) {
			return v
		}
		return typed{"float64", strconv.FormatFloat(v, 'g', -1, 64)} // otherwise, it would be read back as an integer
	case nil:
		return typed{Type: "null"}
	case []byte:
		return typed{"bytes", base64.StdEncoding.EncodeToString(v)}
	case time.Time:
		return typed{"time", v.UTC().Format(time.RFC3339Nano)}
	case amqp.UUID:
		return typed{"uuid", v.String()}
	case int8, int16, int32, int, uint8, uint16, uint32, uint64, float32:
		return typed{fmt.Sprintf("%T", v), fmt.Sprint(v)}
	}
	return typed{"string", fmt.Sprint(value)}
}

// typedIn returns the property that typedOut wrote.
func typedIn(value any) (any, error) {
	switch v := value.(type) {
	case string, bool:
		return v, nil
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		return v.Float64()
	case map[string]any:
		kind, ok1 := v["type"].(string)
		written, ok2 := v["value"].(string)
		if ok1 && ok2 && len(v) == 2 {
			return parse(kind, written)
		}
	}
	return nil, errors.New(`must be a string, a number, true, false or {"type": "…", "value": "…"}`)
}

// parse parses the value of a typed.
func parse(kind, written string) (value any, err error) {
	signed := func(bits int) (n int64) { n, err = strconv.ParseInt(written, 10, bits); return n }
	unsigned := func(bits int) (n uint64) { n, err = strconv.ParseUint(written, 10, bits); return n }
	switch kind {
	case "null":
		return nil, nil
	case "string":
		return written, nil
	case "bytes":
		return base64.StdEncoding.DecodeString(written)
	case "time":
		return time.Parse(time.RFC3339Nano, written)
	case "uuid":
		id, err := uuid.Parse(written)
		return amqp.UUID(id), err
	case "int8":
		value = int8(signed(8))
	case "int16":
		value = int16(signed(16))
	case "int32":
		value = int32(signed(32))
	case "int", "int64":
		value = signed(64)
	case "uint8":
		value = uint8(unsigned(8))
	case "uint16":
		value = uint16(unsigned(16))
	case "uint32":
		value = uint32(unsigned(32))
	case "uint64":
		value = unsigned(64)
	case "float32":
		var f float64
		f, err = strconv.ParseFloat(written, 32)
		value = float32(f)
	case "float64":
		return strconv.ParseFloat(written, 64)
	default:
		return nil, fmt.Errorf("unknown type %q", kind)
	}
	return value, err
}
