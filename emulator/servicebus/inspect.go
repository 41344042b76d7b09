package servicebus

import (
	"fmt"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What a test can observe of a broker.

// Counts says how many messages a queue holds.
type Counts struct {
	// Active includes Locked.
	Active, Locked, Scheduled, Deferred, DeadLetter int
	// Bytes is the size of all of them.
	Bytes int64
}

// Counts returns what the queue holds. It returns an error if there is no such queue.
func (b *Broker) Counts(name string) (Counts, error) {
	q, err := b.find(name)
	if err != nil {
		return Counts{}, err
	}
	return q.counts(), nil
}

// PeekedMessage is a message as a test sees it.
type PeekedMessage struct {
	SequenceNumber int64
	MessageID      string
	EnqueuedTime   time.Time
	// DeliveryCount is the number of failed deliveries, without the deferrals that receivers see in
	// theirs.
	DeliveryCount         uint32
	State                 string // active, locked, deferred or scheduled
	ApplicationProperties map[string]any
	DeadLetterReason      string
	DeadLetterDescription string
	// Body is the content of the body's data sections, joined. It is nil for other kinds of body.
	Body []byte
}

// Peek returns up to limit messages of a queue, or of "NAME/$DeadLetterQueue", whose sequence
// numbers are from or higher. It returns an error if there is no such queue.
func (b *Broker) Peek(name string, from int64, limit int) ([]PeekedMessage, error) {
	q, err := b.find(name)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []PeekedMessage
	for _, m := range q.messages.from(from, limit) {
		p, err := peeked(m)
		if err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func peeked(m *message) (PeekedMessage, error) {
	p := PeekedMessage{
		SequenceNumber: m.seq, MessageID: m.id(), EnqueuedTime: time.UnixMilli(m.enqueued).UTC(), DeliveryCount: m.failures,
		State: m.state.String(), ApplicationProperties: map[string]any{},
	}
	properties, err := amqp.ReadMapSection(m.appProperties)
	if err != nil {
		return p, err
	}
	for _, pair := range properties {
		p.ApplicationProperties[fmt.Sprint(pair.Key)] = pair.Value
	}
	p.DeadLetterReason, _ = p.ApplicationProperties[propertyReason].(string)
	p.DeadLetterDescription, _ = p.ApplicationProperties[propertyDescription].(string)
	_ = amqp.DataSections(m.bodySections(), func(payload []byte) error {
		p.Body = append(p.Body, payload...)
		return nil
	})
	return p, nil
}

// EventKind says what happened to a message.
type EventKind string

// The kinds of Record.
const (
	Enqueued     EventKind = "enqueued"
	Duplicate    EventKind = "duplicate"
	Delivered    EventKind = "delivered"
	Renewed      EventKind = "renewed"
	Completed    EventKind = "completed"
	Abandoned    EventKind = "abandoned"
	Released     EventKind = "released"
	Deferred     EventKind = "deferred"
	DeadLettered EventKind = "dead_lettered"
	LockExpired  EventKind = "lock_expired"
	Expired      EventKind = "expired"
	Canceled     EventKind = "canceled"
	Forwarded    EventKind = "forwarded" // also to subscriptions, and to another number when it is due
)

// Record is one change of a message's state.
type Record struct {
	Time           time.Time
	Queue          string
	SequenceNumber int64
	MessageID      string
	Event          EventKind
	// Failures is the number of failed deliveries after the change.
	Failures uint32
	// Reason is the reason of a dead letter.
	Reason string
}
