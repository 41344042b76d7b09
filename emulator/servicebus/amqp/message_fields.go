package amqp

import (
	"fmt"
	"time"
)

// Header is a message's header (AMQP 1.0 §3.2.1).
type Header struct {
	Durable       bool
	Priority      *uint8  // nil means 4
	TTL           *uint32 // in milliseconds; nil means forever
	FirstAcquirer bool
	DeliveryCount uint32 // of failed deliveries before this one
}

// ReadHeader reads a header section. For an absent section it returns the zero Header. It fails on
// another section and on wrong types.
func ReadHeader(section []byte) (Header, error) {
	r, err := fieldsOf(section, SectionHeader)
	if err != nil || r.c == nil {
		return Header{}, err
	}
	h := Header{Durable: r.bool(), Priority: r.optUbyte(), TTL: r.optUint(new(uint32)), FirstAcquirer: r.bool(), DeliveryCount: r.uint()}
	return h, r.finish()
}

// Append appends the header section. It writes the delivery count even if it is 0, because some
// clients do not apply the default.
func (h Header) Append(dst []byte) []byte {
	w := newWriter(dst, SectionHeader)
	w.bool(h.Durable)
	w.optUbyte(h.Priority)
	w.optUint(h.TTL)
	w.bool(h.FirstAcquirer)
	w.uint(h.DeliveryCount)
	dst, _ = w.done() // the error is always nil, because these types can be written
	return dst
}

// Properties are a message's properties (AMQP 1.0 §3.2.4). A string that was sent empty reads like
// an absent one, except for the group ids, because in Service Bus the id of a session can be empty.
type Properties struct {
	MessageID          any // nil, string, uint64, UUID or []byte, like CorrelationID
	UserID             []byte
	To, Subject        string
	ReplyTo            string
	CorrelationID      any
	ContentType        Symbol
	ContentEncoding    Symbol
	AbsoluteExpiryTime *time.Time
	CreationTime       *time.Time
	GroupID            *string
	GroupSequence      *uint32
	ReplyToGroupID     *string
}

// ReadProperties reads a properties section. []byte values alias it. For an absent section it
// returns the zero Properties. It fails on another section and on wrong types.
func ReadProperties(section []byte) (Properties, error) {
	r, err := fieldsOf(section, SectionProperties)
	if err != nil || r.c == nil {
		return Properties{}, err
	}
	p := Properties{
		MessageID: r.id(), UserID: r.binary(), To: r.text(), Subject: r.text(), ReplyTo: r.text(), CorrelationID: r.id(),
		ContentType: r.symbol(), ContentEncoding: r.symbol(), AbsoluteExpiryTime: r.optTime(), CreationTime: r.optTime(),
		GroupID: r.optText(), GroupSequence: r.optUint(new(uint32)), ReplyToGroupID: r.optText(),
	}
	return p, r.finish()
}

// Append appends the properties section. It fails if an id has none of the allowed types.
func (p Properties) Append(dst []byte) ([]byte, error) {
	w := newWriter(dst, SectionProperties)
	w.id(p.MessageID)
	w.binary(p.UserID)
	w.text(p.To)
	w.text(p.Subject)
	w.text(p.ReplyTo)
	w.id(p.CorrelationID)
	w.name(p.ContentType)
	w.name(p.ContentEncoding)
	w.optTime(p.AbsoluteExpiryTime)
	w.optTime(p.CreationTime)
	w.optText(p.GroupID)
	w.optUint(p.GroupSequence)
	w.optText(p.ReplyToGroupID)
	out, err := w.done()
	if err != nil {
		return dst, fmt.Errorf("amqp: properties: %w", err)
	}
	return out, nil
}

// id reads a message id (AMQP 1.0 §3.2.11 to §3.2.14).
func (r *reader) id() any {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	switch raw[0] {
	case codeUlong, codeSmallUlong, codeUlong0, codeUUID, codeBin8, codeBin32, codeStr8, codeStr32:
		v, _, _ := readBody(raw[0], raw[1:], 0) // raw is one whole value
		return v
	}
	r.wrong(raw, "a ulong, uuid, binary or string")
	return nil
}

func (w *writer) id(v any) {
	switch v := v.(type) {
	case nil, string, uint64, UUID, []byte:
		w.any(v)
	default:
		w.nested(nil, fmt.Errorf("an id is %s, must be a string, uint64, UUID or []byte", goType(v)))
	}
}

// RawMessageID returns the encoded message id of a properties section, or nil if there is none. The
// result aliases the section. It does not read the other fields.
func RawMessageID(section []byte) ([]byte, error) {
	r, err := fieldsOf(section, SectionProperties)
	if err != nil || r.c == nil {
		return nil, err
	}
	return r.raw(), r.failure()
}

// WithMessageID returns a properties section with id as its message id. The encoding of the other
// fields stays the same.
func WithMessageID(section []byte, id string) ([]byte, error) {
	r, err := fieldsOf(section, SectionProperties)
	if err != nil {
		return nil, err
	}
	w := newWriter(make([]byte, 0, len(section)+len(id)+32), SectionProperties)
	w.string(id)
	if r.c != nil {
		r.raw()
		for r.left > 0 {
			if raw := r.raw(); raw == nil {
				w.null()
			} else {
				w.field(append(w.dst, raw...))
			}
		}
		if err := r.finish(); err != nil {
			return nil, err
		}
	}
	return w.done()
}

// fieldsOf begins to read a section that is a list. The reader's definition is nil if the section
// is absent.
func fieldsOf(section []byte, code byte) (reader, error) {
	if len(section) == 0 {
		return reader{}, nil
	}
	r, rest, err := readComposite(section)
	if err == nil && r.c.code != code {
		err = fmt.Errorf("message section 0x%02x instead of 0x%02x", r.c.code, code)
	}
	if err == nil {
		err = trailing(rest)
	}
	if err != nil {
		return reader{}, fmt.Errorf("amqp: %w", err)
	}
	return r, nil
}

// failure returns the first error so far.
func (r *reader) failure() error {
	if r.err != nil {
		return fmt.Errorf("amqp: %w", r.err)
	}
	return nil
}

// finish is done with the error of an exported function.
func (r *reader) finish() error {
	if err := r.done(); err != nil {
		return fmt.Errorf("amqp: %w", err)
	}
	return nil
}
