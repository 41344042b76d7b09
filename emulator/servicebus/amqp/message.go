package amqp

import (
	"errors"
	"fmt"
	"time"
)

// Descriptor codes of a message's sections (part 3, §3.2).
const (
	SectionHeader                = 0x70
	SectionDeliveryAnnotations   = 0x71
	SectionMessageAnnotations    = 0x72
	SectionProperties            = 0x73
	SectionApplicationProperties = 0x74
	SectionData                  = 0x75
	SectionSequence              = 0x76
	SectionValue                 = 0x77
	SectionFooter                = 0x78
)

// Sections are a message's encoded sections: each slice aliases the message and holds the whole section with its
// descriptor; Body holds all body sections in order; absent sections are nil. They are kept encoded because decoding and
// encoding again would lose distinctions that a sender made.
type Sections struct {
	Header, DeliveryAnnotations, MessageAnnotations, Properties, ApplicationProperties, Body, Footer []byte
}

// SplitMessage finds the sections. It checks their order and sizes, not their content.
func SplitMessage(b []byte) (Sections, error) {
	var s Sections
	last := 0
	for len(b) > 0 {
		code, _, rest, err := splitSection(b)
		if err != nil {
			return Sections{}, err
		}
		section := b[:len(b)-len(rest)]
		isBody := code >= SectionData && code <= SectionValue
		if code < last || code == last && (!isBody || code == SectionValue) || isBody && last >= SectionData && code != last {
			return Sections{}, fmt.Errorf("amqp: message section 0x%02x stands behind 0x%02x", code, last)
		}
		last = code
		switch code {
		case SectionHeader:
			s.Header = section
		case SectionDeliveryAnnotations:
			s.DeliveryAnnotations = section
		case SectionMessageAnnotations:
			s.MessageAnnotations = section
		case SectionProperties:
			s.Properties = section
		case SectionApplicationProperties:
			s.ApplicationProperties = section
		case SectionFooter:
			s.Footer = section
		default:
			if s.Body == nil {
				s.Body = section
			} else {
				s.Body = s.Body[:len(s.Body)+len(section)] // the next one stands right behind in the message
			}
		}
		b = rest
	}
	return s, nil
}

// splitSection reads a section's code and its value's bytes.
func splitSection(b []byte) (code int, value, rest []byte, err error) {
	if len(b) < 3 || b[0] != codeDescribed {
		return 0, nil, nil, errors.New("amqp: a message section must begin with a descriptor")
	}
	if b[1] == codeSmallUlong {
		code, b = int(b[2]), b[3:]
	} else {
		descriptor, after, err := readValue(b[1:], 0)
		if err != nil {
			return 0, nil, nil, err
		}
		number, _ := descriptor.(uint64)
		code, b = int(min(number, 0xff)), after
	}
	if code < SectionHeader || code > SectionFooter {
		return 0, nil, nil, fmt.Errorf("amqp: no message section has the code 0x%02x", code)
	}
	value, rest, err = skipValue(b)
	return code, value, rest, err
}

// DataSections calls yield with the payload of each data section of a body.
func DataSections(body []byte, yield func(payload []byte) error) error {
	for len(body) > 0 {
		code, value, rest, err := splitSection(body)
		if err != nil {
			return err
		}
		if code != SectionData || value[0] != codeBin8 && value[0] != codeBin32 {
			return fmt.Errorf("amqp: body section 0x%02x is not binary data", code)
		}
		payload, _, _ := span(value[0], value[1:]) // value is one whole value
		if err := yield(payload); err != nil {
			return err
		}
		body = rest
	}
	return nil
}

// Header is a message's header. TTL is in milliseconds.
type Header struct {
	Durable       bool
	Priority      *uint8
	TTL           *uint32
	FirstAcquirer bool
	DeliveryCount uint32
}

// ReadHeader reads a header section; an absent one is the zero Header.
func ReadHeader(section []byte) (Header, error) {
	if len(section) == 0 {
		return Header{}, nil
	}
	_, r, _, err := readComposite(section)
	if err != nil {
		return Header{}, err
	}
	h := Header{Durable: r.bool(), Priority: r.optUbyte(), TTL: r.optUint(), FirstAcquirer: r.bool()}
	h.DeliveryCount, _ = r.uint()
	return h, r.err
}

// Append appends the header section. The delivery count is written even when it is 0: some clients show it as it comes.
func (h Header) Append(dst []byte) []byte {
	w := newWriter(dst, SectionHeader)
	w.bool(h.Durable)
	w.optUbyte(h.Priority)
	w.optUint(h.TTL)
	w.bool(h.FirstAcquirer)
	w.uint(h.DeliveryCount)
	dst, _ = w.done() // fixed types
	return dst
}

// Properties are the fields of a properties section that a broker needs, and may write.
type Properties struct {
	MessageID     any
	To, Subject   string
	ReplyTo       string
	CorrelationID any
	ContentType   Symbol
}

// ReadProperties reads a properties section; an absent one is the zero Properties.
func ReadProperties(section []byte) (Properties, error) {
	if len(section) == 0 {
		return Properties{}, nil
	}
	_, r, _, err := readComposite(section)
	if err != nil {
		return Properties{}, err
	}
	p := Properties{MessageID: r.any()}
	r.raw() // user-id
	p.To, p.Subject, p.ReplyTo, p.CorrelationID, p.ContentType = r.text(), r.text(), r.text(), r.any(), r.symbol()
	return p, r.err
}

// Append appends the section.
func (p Properties) Append(dst []byte) ([]byte, error) {
	w := newWriter(dst, SectionProperties)
	w.any(p.MessageID)
	w.null()
	w.text(p.To)
	w.text(p.Subject)
	w.text(p.ReplyTo)
	w.any(p.CorrelationID)
	w.symbol(p.ContentType)
	return w.done()
}

// RawMessageID returns the encoded message id of a properties section; nil if there is none.
func RawMessageID(section []byte) ([]byte, error) {
	if len(section) == 0 {
		return nil, nil
	}
	_, r, _, err := readComposite(section)
	if err != nil {
		return nil, err
	}
	return r.raw(), r.err
}

// WithMessageID returns the properties section with its first field, which must be absent or null, replaced by id.
func WithMessageID(section []byte, id string) ([]byte, error) {
	w := newWriter(nil, SectionProperties)
	w.any(id)
	if len(section) > 0 {
		_, r, _, err := readComposite(section)
		if err != nil {
			return nil, err
		}
		r.raw()
		for r.left > 0 {
			raw := r.raw()
			if r.err != nil {
				return nil, r.err
			}
			if raw == nil {
				w.null()
				continue
			}
			w.dst, w.count = append(w.dst, raw...), w.count+1
		}
	}
	return w.done()
}

// ReadMapSection reads annotations or application properties; an absent section is a nil Map.
func ReadMapSection(section []byte) (Map, error) {
	if len(section) == 0 {
		return nil, nil
	}
	_, value, _, err := splitSection(section)
	if err != nil {
		return nil, err
	}
	v, _, err := readValue(value, 0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(Map)
	if !ok && v != nil {
		return nil, fmt.Errorf("amqp: message section 0x%02x is a %T, must be a map", section[2], v)
	}
	return m, nil
}

// AppendMapSection appends a section that holds a map.
func AppendMapSection(dst []byte, code byte, m Map) ([]byte, error) {
	return AppendValue(append(dst, codeDescribed, codeSmallUlong, code), m)
}

// AppendData appends a data section.
func AppendData(dst, data []byte) []byte {
	return appendBinary(append(dst, codeDescribed, codeSmallUlong, SectionData), data)
}

// AppendAMQPValue appends a value section.
func AppendAMQPValue(dst []byte, v any) ([]byte, error) {
	return AppendValue(append(dst, codeDescribed, codeSmallUlong, SectionValue), v)
}

// ReadAMQPValue reads the value of a body that is a value section; nil for any other.
func ReadAMQPValue(body []byte) (any, error) {
	if len(body) == 0 {
		return nil, nil
	}
	code, value, _, err := splitSection(body)
	if err != nil || code != SectionValue {
		return nil, err
	}
	v, _, err := readValue(value, 0)
	return v, err
}

// MapWriter appends a map section pair by pair, without a Map in between: a broker writes one for every delivery.
type MapWriter struct{ w writer }

// NewMapWriter begins a section.
func NewMapWriter(dst []byte, code byte) MapWriter {
	dst = append(dst, codeDescribed, codeSmallUlong, code, codeMap32, 0, 0, 0, 0, 0, 0, 0, 0)
	return MapWriter{writer{dst: dst, start: len(dst) - 4}}
}

func (m *MapWriter) key(name string) {
	m.w.dst = appendSized(m.w.dst, codeSym8, codeSym32, name)
	m.w.count += 2
}

// Long appends a long; its key, like those below, is a symbol.
func (m *MapWriter) Long(name string, v int64) {
	m.key(name)
	m.w.dst = appendLong(m.w.dst, v)
}

// Time appends a timestamp.
func (m *MapWriter) Time(name string, t time.Time) {
	m.key(name)
	m.w.dst = appendTimestamp(m.w.dst, t)
}

// Int appends an int.
func (m *MapWriter) Int(name string, v int32) {
	m.key(name)
	m.w.dst, _ = AppendValue(m.w.dst, v) // int32 has a type
}

// String appends a string.
func (m *MapWriter) String(name, v string) {
	m.key(name)
	m.w.dst = appendSized(m.w.dst, codeStr8, codeStr32, v)
}

// UUID appends a uuid.
func (m *MapWriter) UUID(name string, v UUID) {
	m.key(name)
	m.w.dst = append(append(m.w.dst, codeUUID), v[:]...)
}

// Raw appends n pairs that are encoded already.
func (m *MapWriter) Raw(pairs []byte, n int) {
	m.w.dst = append(m.w.dst, pairs...)
	m.w.count += 2 * uint32(n)
}

// Done ends the section.
func (m *MapWriter) Done() []byte {
	dst, _ := m.w.done()
	return dst
}
