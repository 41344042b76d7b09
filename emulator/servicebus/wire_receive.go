package servicebus

import (
	"fmt"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// How a link gets the messages that a client sends.

const (
	// senderCredit is how many messages a sender may send before it needs more credit. It gets more
	// when half is left.
	senderCredit = 1000
	// batchFormat marks a message whose data sections are each a whole message.
	batchFormat = 0x80013700
)

var errTooLarge = &amqp.Error{
	Condition:   "amqp:link:message-size-exceeded",
	Description: "The message is larger than the link's max-message-size.",
}

// topUp gives a sender credit when half of it is used up.
func (l *link) topUp() {
	if l.granted > senderCredit/2 {
		return
	}
	l.granted = senderCredit
	f := l.session.state()
	f.Handle, f.DeliveryCount, f.LinkCredit = &l.handle, &l.deliveries, &l.granted
	l.session.conn.put(l.session.channel, f)
}

// receive handles one frame of a message that the client sends. An error ends the connection.
func (s *session) receive(t *amqp.Transfer, payload []byte) error {
	s.received++
	l := s.links[t.Handle]
	if l == nil || l.forced.Load() {
		return nil // the frame crossed the broker's detach
	}
	if l.role != amqp.RoleSender {
		return fmt.Errorf("a transfer on the receiving link %q", l.name)
	}
	if t.DeliveryID != nil {
		l.first = *t
		l.first.DeliveryTag = nil // it shares the frame's memory
		l.dropPartial()
	}
	if t.Aborted {
		l.dropPartial()
		return nil
	}
	if len(l.partial)+len(payload) > l.maxMessage+maxFrameSize {
		l.close()
		l.detach(errTooLarge)
		return nil
	}
	if t.More || len(l.partial) > 0 {
		if s.conn.partial += len(payload); s.conn.partial > maxBacklog+s.conn.b.largestMessage() {
			return fmt.Errorf("more than %d bytes of unfinished messages", s.conn.partial)
		}
		l.partial = append(l.partial, payload...)
		payload = l.partial
	}
	if !t.More {
		l.finish(payload)
	}
	return nil
}

// finish accepts or rejects a message that has arrived completely.
func (l *link) finish(encoded []byte) {
	l.deliveries++
	if l.granted > 0 {
		l.granted--
	}
	var state any = amqp.Accepted{}
	if refusal := l.accept(encoded); refusal != nil {
		state = amqp.Rejected{Error: refusal}
	}
	l.dropPartial()
	if !l.first.Settled && l.first.DeliveryID != nil {
		l.session.conn.put(l.session.channel, &amqp.Disposition{
			Role: amqp.RoleReceiver, First: *l.first.DeliveryID, Settled: true, State: state,
		})
	}
	l.topUp()
}

// dropPartial drops the frames so far of a message, with their memory: large messages are rare.
func (l *link) dropPartial() {
	l.session.conn.partial -= len(l.partial)
	l.partial = nil
}

// accept handles a whole message: a request, a message for the entity, or a batch of those.
func (l *link) accept(encoded []byte) *amqp.Error {
	if l.answer != nil {
		return l.serveRequest(encoded)
	}
	if len(encoded) > l.maxMessage {
		return errTooLarge
	}
	now := time.Now()
	var messages []*message
	add := func(one []byte) error {
		if len(messages) == maxBatch {
			return fmt.Errorf("a batch of more than %d messages", maxBatch)
		}
		m, err := parseMessage(one, now)
		messages = append(messages, m)
		return err
	}
	var err error
	if l.first.MessageFormat != nil && *l.first.MessageFormat == batchFormat {
		var envelope amqp.Sections
		if envelope, err = amqp.SplitOpaque(encoded); err == nil {
			err = amqp.DataSections(envelope.Body, add)
		}
	} else {
		err = add(encoded)
	}
	if err != nil {
		return &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
	}
	_, err = l.queue.enqueue(messages)
	return asError(err)
}

// asError returns an error in the form that a client gets.
func asError(err error) *amqp.Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*amqp.Error); ok { //nolint:errorlint // queues return it without wrapping
		return e
	}
	return &amqp.Error{Condition: "amqp:internal-error", Description: err.Error()}
}
