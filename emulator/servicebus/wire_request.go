package servicebus

import (
	"strings"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// Requests are messages to $cbs or to a $management node, and responses the messages that answer
// them.

// request is a request as the nodes see it.
type request struct {
	properties amqp.Map // the application properties
	body       any      // the value of the body
}

// text returns a string property, or "" if there is none.
func (r request) text(name string) string {
	v, _ := r.properties.Get(name)
	s, _ := v.(string)
	return s
}

// response answers a request.
type response struct {
	status      int32 // as in HTTP
	description string
	condition   amqp.Symbol // "" unless the request failed
	body        amqp.Map
	dashed      bool // the names are those of $cbs: status-code instead of statusCode
}

// serveRequest executes a request and queues the answer at the receiver that the request's reply-to
// names. It returns that receiver, or why there is no answer. The caller sends the answer after the
// request's disposition, because some clients understand no other order.
func (l *link) serveRequest(encoded []byte) (to *link, refusal *amqp.Error) {
	sections, err := amqp.SplitMessage(encoded)
	if err != nil {
		return nil, &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
	}
	properties, err := amqp.ReadProperties(sections.Properties)
	if err != nil {
		return nil, &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
	}
	var req request
	if req.properties, err = amqp.ReadMapSection(sections.ApplicationProperties); err == nil {
		req.body, err = amqp.ReadAMQPValue(sections.Body)
	}
	res := response{status: 400, condition: "amqp:decode-error", description: "The request is not readable."}
	if err == nil {
		res = l.answer(req)
	}
	reply, err := res.encode(properties.MessageID)
	if err != nil {
		return nil, &amqp.Error{Condition: "amqp:internal-error", Description: err.Error()}
	}
	if to = l.replyLink(properties.ReplyTo); to == nil {
		return nil, &amqp.Error{Condition: "amqp:not-found", Description: "No receiver is attached for the request's reply-to."}
	}
	if !to.addReply(reply) {
		return nil, limitExceeded("Too many answers wait for the receiver's credit.")
	}
	return to, nil
}

// replyLink finds the receiver for a response: the one with the target address or name replyTo, or
// else the one with the same address as the sender in the same session. It returns nil if there is
// none.
func (l *link) replyLink(replyTo string) *link {
	var sameAddress *link
	for _, s := range l.session.conn.sessions {
		for _, other := range s.links {
			if other.role != amqp.RoleReceiver || other.queue != nil || other.detached.Load() {
				continue
			}
			if replyTo != "" && (other.replyTo == replyTo || other.name == replyTo) {
				return other
			}
			if s == l.session && strings.EqualFold(other.address, l.address) {
				sameAddress = other
			}
		}
	}
	return sameAddress
}

// replyQueue holds the responses that wait for a receiver's credit. The connection's lock guards it.
type replyQueue struct {
	waiting [][]byte
	bytes   int // of waiting
	credit  uint32
	sent    uint32
}

// add queues a response. It returns false if too many responses wait.
func (q *replyQueue) add(reply []byte) bool {
	if len(q.waiting) >= senderCredit {
		return false
	}
	q.waiting = append(q.waiting, reply)
	q.bytes += len(reply)
	return true
}

// drop forgets the responses that wait, and returns their size in bytes.
func (q *replyQueue) drop() (bytes int) {
	bytes, q.waiting, q.bytes = q.bytes, nil, 0
	return bytes
}

// next removes the first response and uses up credit for it. ok is false if there is no response
// or no credit.
func (q *replyQueue) next() (reply []byte, ok bool) {
	if q.credit == 0 || len(q.waiting) == 0 {
		return nil, false
	}
	reply = q.waiting[0]
	q.waiting[0] = nil
	q.waiting = q.waiting[1:]
	q.bytes -= len(reply)
	q.credit--
	q.sent++
	return reply, true
}

// grant sets the credit from a flow frame (part 2, §2.6.7).
func (q *replyQueue) grant(p *amqp.Flow) {
	var counted uint32
	if p.DeliveryCount != nil {
		counted = *p.DeliveryCount
	}
	q.credit = counted + *p.LinkCredit - q.sent
}

// drain uses up the credit without responses.
func (q *replyQueue) drain() { q.sent, q.credit = q.sent+q.credit, 0 }

// addReply queues a response. It returns false if too many responses wait.
func (l *link) addReply(reply []byte) bool {
	c := l.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	most := maxBuffered
	if !c.signedIn {
		most = unsignedBacklog
	}
	if c.replies+len(reply) > most && c.replies > 0 || !l.replies.add(reply) {
		return false
	}
	c.replies += len(reply)
	return true
}

// flushReplies sends responses while there is credit and room in the session's window.
func (l *link) flushReplies() {
	l.session.conn.mu.Lock()
	defer l.session.conn.mu.Unlock()
	l.flushLocked()
}

// flushLocked is flushReplies for a caller that holds the connection's lock.
func (l *link) flushLocked() {
	s := l.session
	for len(l.rest) == 0 && !l.detached.Load() {
		if s.window <= 0 && len(l.replies.waiting) > 0 && l.replies.credit > 0 {
			s.conn.stalled = append(s.conn.stalled, l)
			return
		}
		reply, ok := l.replies.next()
		if !ok {
			return
		}
		s.conn.replies -= len(reply)
		l.deliver(tagOf(newToken()), true, reply)
	}
}

// grantReplies sets the credit from a flow frame, and uses it up if the frame says so. It returns
// the delivery count and the credit that is left.
func (l *link) grantReplies(p *amqp.Flow) (sent, credit uint32) {
	l.session.conn.mu.Lock()
	defer l.session.conn.mu.Unlock()
	l.replies.grant(p)
	l.flushLocked()
	if p.Drain {
		l.replies.drain()
	}
	return l.replies.sent, l.replies.credit
}

// encode returns the response as a message. It must have the request's message id, of the same
// type, as its correlation id, and an int32 status. Otherwise clients panic or give up.
func (r response) encode(correlation any) ([]byte, error) {
	b, err := amqp.Properties{CorrelationID: correlation}.Append(nil)
	if err != nil {
		return nil, err
	}
	code, description := "statusCode", "statusDescription"
	if r.dashed {
		code, description = "status-code", "status-description"
	}
	properties := amqp.Map{{Key: code, Value: r.status}, {Key: description, Value: r.description}}
	if r.condition != "" {
		properties = append(properties, amqp.Pair{Key: "errorCondition", Value: r.condition})
	}
	if b, err = amqp.AppendMapSection(b, amqp.SectionApplicationProperties, properties); err != nil {
		return nil, err
	}
	var body any
	if r.body != nil {
		body = r.body
	}
	return amqp.AppendAMQPValue(b, body)
}
