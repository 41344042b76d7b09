package servicebus

import (
	"errors"
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
	// requestOverhead is what a request to $management may be larger than a message, so that a
	// message of the largest size can be scheduled.
	requestOverhead = 64 << 10
	// maxToken is the largest request to $cbs. Clients may send it before they have signed in.
	maxToken = 256 << 10
)

// Unfinished messages may take maxPartial bytes on one connection, or two of the largest messages,
// and on all connections together as much as on maxPartials. A connection without a token may have a
// few unfinished tokens.
const (
	maxPartial  = 64 << 20
	maxPartials = 4
)

// incoming is the state of a link on which a client sends. The reader goroutine owns it.
type incoming struct {
	maxMessage int    // the bytes of a message
	deliveries uint32 // that arrived: the delivery-count
	granted    uint32 // credit that is left
	arriving   bool   // a delivery has begun and not ended
	partial    []byte // its frames so far, if they are several
	first      amqp.Transfer
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

// receive handles one frame of a message that the client sends.
func (s *session) receive(t *amqp.Transfer, payload []byte) {
	s.received.Add(1)
	l := s.attached(t.Handle)
	if l == nil {
		return
	}
	if l.role != amqp.RoleSender {
		l.fail(notAllowed("A transfer on the link %q, where the client is the receiver.", l.name))
		return
	}
	// A delivery begins when the one before has ended. Some clients repeat its id in every frame
	// (part 2, §2.7.5). One that gives up in the middle, as go-amqp does when a context ends, goes
	// on with the next id.
	if !l.arriving || t.DeliveryID != nil && *t.DeliveryID != *l.first.DeliveryID {
		if refusal := l.begin(t); refusal != nil {
			l.fail(refusal)
			return
		}
	}
	l.first.Settled = l.first.Settled || t.Settled // may be in any frame
	switch {
	case t.Aborted:
		l.end()
		l.topUp()
	case len(l.partial)+len(payload) > l.maxMessage:
		l.fail(&amqp.Error{
			Condition:   "amqp:link:message-size-exceeded",
			Description: fmt.Sprintf("The message is larger than the link's max-message-size of %d bytes.", l.maxMessage),
		})
	case t.More:
		if refusal := l.keepPartial(payload); refusal != nil {
			l.fail(refusal)
		}
	case len(l.partial) > 0:
		l.finish(append(l.partial, payload...))
	default:
		l.finish(payload)
	}
}

// begin begins a delivery. It drops one that the client gave up, which uses up no credit.
func (l *link) begin(t *amqp.Transfer) *amqp.Error {
	l.dropPartial()
	if t.DeliveryID == nil {
		return &amqp.Error{Condition: "amqp:invalid-field", Description: "The first transfer of a delivery has no delivery-id."}
	}
	l.first = *t
	l.first.DeliveryTag, l.first.State = nil, nil // they share the frame's memory
	l.arriving = true
	return nil
}

// end ends a delivery, which uses up credit. The client cannot run out of it, because topUp follows.
// end drops the frames with their memory: large messages are rare.
func (l *link) end() {
	l.arriving = false
	l.deliveries++
	l.granted--
	l.dropPartial()
}

// keepPartial keeps a part of a message. It returns an error if unfinished messages take too much
// memory.
func (l *link) keepPartial(part []byte) *amqp.Error {
	c := l.session.conn
	bound := int64(max(maxPartial, 2*c.b.largestMessage()))
	added := int64(len(part))
	l.partial = append(l.partial, part...)
	c.partial += added
	total := c.b.partial.Add(added)
	if c.partial > bound || total > maxPartials*bound || len(c.claims) == 0 && c.partial > 4*maxToken {
		return limitExceeded("Too many messages are unfinished: send one after the other.")
	}
	return nil
}

func (l *link) dropPartial() {
	c := l.session.conn
	dropped := int64(len(l.partial))
	c.partial -= dropped
	c.b.partial.Add(-dropped)
	l.partial = nil
}

// finish accepts or rejects a message that has arrived completely.
func (l *link) finish(encoded []byte) {
	var state any = amqp.Accepted{}
	to, refusal := l.accept(encoded)
	if refusal != nil {
		state = amqp.Rejected{Error: refusal}
	}
	id, settled := *l.first.DeliveryID, l.first.Settled
	l.end()
	if !settled {
		l.session.conn.put(l.session.channel, &amqp.Disposition{Role: amqp.RoleReceiver, First: id, Settled: true, State: state})
	}
	if to != nil {
		to.flushReplies()
	}
	l.topUp()
}

// accept handles a whole message: a request, a message for the entity, or a batch of those. It
// returns the receiver of the answer to a request, or why the message is rejected.
func (l *link) accept(encoded []byte) (to *link, refusal *amqp.Error) {
	if l.answer != nil {
		return l.serveRequest(encoded)
	}
	now := time.Now()
	var messages []*message
	add := func(one []byte) error {
		if len(messages) == maxBatch {
			return &amqp.Error{
				Condition:   "amqp:link:message-size-exceeded",
				Description: fmt.Sprintf("A batch of more than %d messages is not supported by this emulator.", maxBatch),
			}
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
	if tooMany := (*amqp.Error)(nil); errors.As(err, &tooMany) {
		return nil, tooMany
	}
	if err != nil {
		return nil, &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
	}
	_, err = l.queue.enqueue(messages)
	return nil, asError(err)
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
