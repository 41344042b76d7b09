package deadletter

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
)

// Record is a dead letter in an exported file, one JSON object to a line. Letter tells why it was one; an import reads only
// what stands below it.
type Record struct {
	Letter Letter `json:"deadLetter"`

	ContentType   string `json:"contentType,omitempty"`
	Subject       string `json:"subject,omitempty"`
	CorrelationID any    `json:"correlationId,omitempty"`
	SessionID     string `json:"sessionId,omitempty"`
	PartitionKey  string `json:"partitionKey,omitempty"`
	To            string `json:"to,omitempty"`
	ReplyTo       string `json:"replyTo,omitempty"`
	// TimeToLive is a duration as in 24h0m0s.
	TimeToLive string `json:"timeToLive,omitempty"`
	// Properties are the application properties. Those that are no text, number or truth value are written as
	// {"type": "…", "value": "…"}.
	Properties map[string]any `json:"properties,omitempty"`
	// Of the following, one is set. Body is a body that is JSON, BodyText one that is other text, BodyBase64 any bytes, and
	// BodyAMQP (base64) the encoded AMQP sections of a body that is not bytes at all.
	Body       json.RawMessage `json:"body,omitempty"`
	BodyText   *string         `json:"bodyText,omitempty"`
	BodyBase64 string          `json:"bodyBase64,omitempty"`
	BodyAMQP   string          `json:"bodyAmqp,omitempty"`
}

// MaxRecord bounds one line of an imported file, in bytes.
const MaxRecord = 8 << 20

// NewRecord writes down a dead letter.
func NewRecord(f Found) (Record, error) {
	raw := f.Message.RawAMQPMessage
	r := Record{Letter: f.Letter, Properties: map[string]any{}}
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
	again := Run{}.Again(f)
	for name, value := range again.ApplicationProperties {
		switch name {
		case PropertyRun, PropertyReplayedAt, PropertyReplayedBy:
		case PropertyOriginalID:
			if f.Replays > 0 {
				r.Properties[name] = value
			}
		case PropertyReplays:
			if f.Replays > 0 {
				r.Properties[name] = strconv.Itoa(f.Replays)
			}
		default:
			r.Properties[name] = typedOut(value)
		}
	}
	return r, r.setBody(raw.Body)
}

func (r *Record) setBody(body azservicebus.AMQPAnnotatedMessageBody) error {
	if body.Value != nil || len(body.Sequence) > 0 {
		encoded, err := (&amqp.Message{Value: body.Value, Sequence: body.Sequence}).MarshalBinary()
		r.BodyAMQP = base64.StdEncoding.EncodeToString(encoded)
		return err
	}
	data := bytes.Join(body.Data, nil)
	switch {
	case json.Valid(data):
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

// ReadRecord reads one line, which a person may have edited. The error says what is wrong with it.
func ReadRecord(line []byte) (Record, error) {
	decoder := json.NewDecoder(bytes.NewReader(line))
	decoder.DisallowUnknownFields()
	decoder.UseNumber()
	var r Record
	if err := decoder.Decode(&r); err != nil {
		return Record{}, fmt.Errorf("not a record as dlq export writes it: %w", err)
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
	if bodies != 1 {
		return Record{}, errors.New("exactly one of body, bodyText, bodyBase64 and bodyAmqp must be set")
	}
	return r, nil
}

// Message makes the message that the record is sent as.
func (r Record) Message(run Run) (*azservicebus.AMQPAnnotatedMessage, error) {
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
		if m.ApplicationProperties[name], err = typedIn(value); err != nil {
			return nil, fmt.Errorf("property %s: %w", name, err)
		}
	}
	if _, ok := m.ApplicationProperties[PropertyOriginalID]; !ok && r.Letter.MessageID != "" {
		m.ApplicationProperties[PropertyOriginalID] = r.Letter.MessageID
	}
	replays := 0
	if before, ok := m.ApplicationProperties[PropertyReplays].(string); ok {
		replays, _ = strconv.Atoi(before)
	}
	m.ApplicationProperties[PropertyReplays] = strconv.Itoa(max(0, replays) + 1)
	m.ApplicationProperties[PropertyRun] = run.ID
	m.ApplicationProperties[PropertyReplayedAt] = time.Now().UTC().Format(time.RFC3339)
	m.ApplicationProperties[PropertyReplayedBy] = run.By
	return m, r.body(&m.Body)
}

func (r Record) body(into *azservicebus.AMQPAnnotatedMessageBody) error {
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

// typed is a value that JSON has no form for.
type typed struct {
	Type  string `json:"type"`
	Value string `json:"value"`
}

// typedOut writes a property. Text, truth values and the numbers that Go's clients send (int64 and float64) stand for
// themselves.
func typedOut(value any) any {
	switch v := value.(type) {
	case string, bool, int64:
		return v
	case float64:
		if v != math.Trunc(v) && !math.IsInf(v, 0) && !math.IsNaN(v) {
			return v
		}
		return typed{"float64", strconv.FormatFloat(v, 'g', -1, 64)} // else it would be read as a whole number
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

// typedIn reads what typedOut wrote.
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
	return nil, errors.New(`must be text, a number, true, false or {"type": "…", "value": "…"}`)
}

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
		return nil, fmt.Errorf("the type %q is not known", kind)
	}
	return value, err
}
