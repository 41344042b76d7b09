package servicebus

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// state is what can happen to a message next.
type state uint8

const (
	available state = iota
	locked
	deferred
	scheduled
	gone
)

func (s state) String() string {
	return [...]string{"active", "locked", "deferred", "scheduled", "gone"}[s]
}

// The names of annotations and properties in Service Bus.
const (
	annotationSequence   = "x-opt-sequence-number"
	annotationEnqueued   = "x-opt-enqueued-time"
	annotationLocked     = "x-opt-locked-until"
	annotationState      = "x-opt-message-state"
	annotationEnqueueSeq = "x-opt-enqueue-sequence-number"
	annotationDeadSource = "x-opt-deadletter-source"
	annotationScheduled  = "x-opt-scheduled-enqueue-time"
	annotationToken      = "x-opt-lock-token"
	propertyReason       = "DeadLetterReason"
	propertyDescription  = "DeadLetterErrorDescription"
)

// message is one stored message. The lock of its queue guards it. Times are in milliseconds of Unix
// time.
type message struct {
	seq                        int64
	enqueued, expires, visible int64  // expires: 0 is never; visible: when a scheduled message becomes active
	failures                   uint32 // failed deliveries; too many dead-letter the message
	deferrals                  uint32 // deliveries that ended with a deferral
	state                      state
	wasDeferred                bool // a locked message was deferred before, and becomes so again on release
	durable, firstAcquirer     bool
	priority                   *uint8
	ttl                        *uint32
	// The encoded parts are whole sections, or the pairs of a map. Their bytes belong to the
	// message and its copies, and are never changed in place.
	annotations, deliveryAnnotations         []byte
	annotationCount, deliveryAnnotationCount int
	properties, appProperties, bodyAndFooter []byte
	bodyLength                               int
	deadSource                               string
	sessionID                                string // the group-id, where the entity requires sessions
	origin                                   int64  // the sequence number before it was forwarded; 0 if it was not
	hops                                     int    // how often it was forwarded

	token      amqp.UUID // of the lock
	until      int64     // when the lock ends
	prev, next *message  // in lockTable's list
}

// size is what the message counts towards its queue's MaxBytes.
func (m *message) size() int64 {
	return int64(len(m.annotations) + len(m.deliveryAnnotations) + len(m.properties) + len(m.appProperties) + len(m.bodyAndFooter))
}

func (m *message) bodySections() []byte { return m.bodyAndFooter[:m.bodyLength] }

func (m *message) id() string {
	p, err := amqp.ReadProperties(m.properties)
	if err != nil || p.MessageID == nil {
		return ""
	}
	return fmt.Sprint(p.MessageID)
}

// parseMessage returns an encoded message as a stored one. It copies what it keeps.
func parseMessage(encoded []byte, now time.Time) (*message, error) {
	s, err := amqp.SplitOpaque(encoded)
	if err != nil {
		return nil, err
	}
	header, err := amqp.ReadHeader(s.Header)
	if err != nil {
		return nil, err
	}
	m := &message{durable: header.Durable, firstAcquirer: header.FirstAcquirer, priority: header.Priority, ttl: header.TTL}
	if m.deliveryAnnotations, m.deliveryAnnotationCount, err = pairsOf(s.DeliveryAnnotations, nil); err != nil {
		return nil, err
	}
	m.annotations, m.annotationCount, err = pairsOf(s.MessageAnnotations, func(key string, value any) bool {
		switch key {
		case annotationSequence, annotationEnqueued, annotationLocked, annotationState, annotationEnqueueSeq, annotationDeadSource:
			return false // the broker sets these
		case annotationScheduled:
			if t, ok := value.(time.Time); ok && t.After(now) {
				m.visible = t.UnixMilli()
			}
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	if _, err := amqp.ReadMapSection(s.ApplicationProperties); err != nil {
		return nil, err
	}
	id, err := amqp.RawMessageID(s.Properties)
	if err == nil {
		err = checkIDs(s.Properties)
	}
	if err != nil {
		return nil, err
	}
	if id == nil {
		if s.Properties, err = amqp.WithMessageID(s.Properties, newID()); err != nil {
			return nil, err
		}
	}
	// One array of the right size for all parts: the buffer of the frame or of the batch must not
	// stay in memory.
	parts := make([]byte, 0, len(s.Properties)+len(s.ApplicationProperties)+len(s.Body)+len(s.Footer))
	keep := func(b ...[]byte) []byte {
		start := len(parts)
		for _, part := range b {
			parts = append(parts, part...)
		}
		if start == len(parts) {
			return nil
		}
		return parts[start:len(parts):len(parts)]
	}
	m.properties, m.appProperties = keep(s.Properties), keep(s.ApplicationProperties)
	m.bodyAndFooter, m.bodyLength = keep(s.Body, s.Footer), len(s.Body)
	return m, nil
}

// maxID is the longest id of a message or a session, in characters
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas). Queues remember ids
// for longer than the messages.
const maxID = 128

// checkIDs returns an error if an id in a properties section is too long.
func checkIDs(section []byte) error {
	if len(section) <= maxID { // nearly always: no id in it can be too long
		return nil
	}
	p, err := amqp.ReadProperties(section)
	if err != nil {
		return err
	}
	for _, id := range []struct {
		of, text string
	}{{"message", idText(p.MessageID)}, {"session", pointedText(p.GroupID)}} {
		if n := utf8.RuneCountInString(id.text); n > maxID {
			return fmt.Errorf("the id of the %s has %d characters; at most %d are allowed", id.of, n, maxID)
		}
	}
	return nil
}

func pointedText(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

// pairsOf returns the encoded pairs of a map section, and their number. It leaves out the pairs for
// which keep returns false.
func pairsOf(section []byte, keep func(key string, value any) bool) (pairs []byte, n int, err error) {
	m, err := amqp.ReadMapSection(section)
	if err != nil || len(m) == 0 {
		return nil, 0, err
	}
	for _, p := range m {
		key := fmt.Sprint(p.Key)
		if keep != nil && !keep(key, p.Value) {
			continue
		}
		if pairs, err = amqp.AppendValue(pairs, p.Key); err != nil {
			return nil, 0, err
		}
		if pairs, err = amqp.AppendValue(pairs, p.Value); err != nil {
			return nil, 0, err
		}
		n++
	}
	return bytes.Clone(pairs), n, nil
}

// view says for whom a message is encoded.
type view struct {
	locked bool // for a receiver, with its lock
	peeked bool // for a peek, with its state
}

// deliveries is the delivery count that receivers see, which too many end. It counts deferrals too.
func (m *message) deliveries() uint32 { return m.failures + m.deferrals }

// encode appends the whole encoded message to dst.
func (m *message) encode(dst []byte, v view) []byte {
	dst = amqp.Header{
		Durable: m.durable, Priority: m.priority, TTL: m.ttl, FirstAcquirer: m.firstAcquirer, DeliveryCount: m.deliveries(),
	}.Append(dst)
	if m.deliveryAnnotationCount > 0 || v.locked {
		w := amqp.NewMapWriter(dst, amqp.SectionDeliveryAnnotations)
		w.Raw(m.deliveryAnnotations, m.deliveryAnnotationCount)
		if v.locked {
			w.UUID(annotationToken, m.token)
		}
		dst = w.Done()
	}
	w := amqp.NewMapWriter(dst, amqp.SectionMessageAnnotations)
	w.Raw(m.annotations, m.annotationCount)
	w.Long(annotationSequence, m.seq)
	w.Time(annotationEnqueued, time.UnixMilli(m.enqueued))
	if v.locked {
		w.Time(annotationLocked, time.UnixMilli(m.until))
	}
	if m.origin != 0 {
		w.Long(annotationEnqueueSeq, m.origin)
	}
	if m.deadSource != "" {
		w.String(annotationDeadSource, m.deadSource)
	}
	switch {
	case m.state == scheduled:
		w.Int(annotationState, 2)
	case m.state == deferred, m.wasDeferred:
		w.Int(annotationState, 1)
	case v.peeked:
		w.Int(annotationState, 0)
	}
	dst = w.Done()
	dst = append(dst, m.properties...)
	dst = append(dst, m.appProperties...)
	return append(dst, m.bodyAndFooter...)
}

// modify merges pairs into the application properties.
func (m *message) modify(pairs amqp.Map) {
	if len(pairs) == 0 {
		return
	}
	properties, err := amqp.ReadMapSection(m.appProperties)
	if err != nil {
		return // cannot happen: parseMessage has checked it
	}
	for _, p := range pairs {
		properties.Set(fmt.Sprint(p.Key), p.Value)
	}
	if section, err := amqp.AppendMapSection(nil, amqp.SectionApplicationProperties, properties); err == nil {
		m.appProperties = section
	}
}

// readSessionID sets the message's session id. It returns false if the message has none. "" is a
// session id too.
func (m *message) readSessionID() (found bool) {
	p, err := amqp.ReadProperties(m.properties)
	if err != nil || p.GroupID == nil {
		return false
	}
	m.sessionID = *p.GroupID
	return true
}

// copied returns a message of its own with the same content.
func (m *message) copied() *message {
	c := *m
	return &c
}

// newToken returns a random lock token. It may be guessable, because clients with the Listen claim
// have no secrets from each other.
func newToken() (t amqp.UUID) {
	binary.BigEndian.PutUint64(t[:8], rand.Uint64())
	binary.BigEndian.PutUint64(t[8:], rand.Uint64())
	t[6], t[8] = t[6]&0x0f|0x40, t[8]&0x3f|0x80
	return t
}

func newID() string {
	t := newToken()
	return fmt.Sprintf("%x-%x-%x-%x-%x", t[:4], t[4:6], t[6:8], t[8:10], t[10:])
}

// tagOf returns a lock token as a delivery tag, which has the byte order of a .NET GUID.
func tagOf(t amqp.UUID) []byte {
	return []byte{t[3], t[2], t[1], t[0], t[5], t[4], t[7], t[6], t[8], t[9], t[10], t[11], t[12], t[13], t[14], t[15]}
}
