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

// serveRequest answers a request over the receiver that its reply-to names.
func (l *link) serveRequest(encoded []byte) *amqp.Error {
	sections, err := amqp.SplitMessage(encoded)
	if err != nil {
		return &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
	}
	properties, err := amqp.ReadProperties(sections.Properties)
	if err != nil {
		return &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
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
		return &amqp.Error{Condition: "amqp:internal-error", Description: err.Error()}
	}
	to := l.replyLink(properties.ReplyTo)
	if to == nil {
		return &amqp.Error{Condition: "amqp:not-found", Description: "No receiver is attached for the request's reply-to."}
	}
	if !to.replies.add(reply) {
		return &amqp.Error{
			Condition: "amqp:resource-limit-exceeded", Description: "Too many answers wait for the receiver's credit.",
		}
	}
	to.flushReplies()
	return nil
}

// replyLink finds the receiver for a response: the one with the target address or name replyTo, or
// else the one with the same address as the sender in the same session. It returns nil if there is
// none.
func (l *link) replyLink(replyTo string) *link {
	var sameAddress *link
	for _, s := range l.session.conn.sessions {
		for _, other := range s.links {
			if other.role != amqp.RoleReceiver || other.outlet != nil {
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

// replyQueue holds the responses that wait for a receiver's credit.
type replyQueue struct {
	waiting [][]byte
	bytes   int // of waiting
	credit  uint32
	sent    uint32
}

// add queues a response. It returns false if too many responses wait.
func (q *replyQueue) add(reply []byte) bool {
	if q.bytes+len(reply) > maxBuffered && q.bytes > 0 || len(q.waiting) >= senderCredit {
		return false
	}
	q.waiting = append(q.waiting, reply)
	q.bytes += len(reply)
	return true
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

// flushReplies sends responses while there is credit.
func (l *link) flushReplies() {
	s, c := l.session, l.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for reply, ok := l.replies.next(); ok; reply, ok = l.replies.next() {
		id := s.nextDelivery
		s.nextDelivery++
		c.appendTransfer(s, l.handle, id, tagOf(newToken()), true, reply)
	}
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
