package servicebus

import (
	"strings"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// request is a message to $cbs or to a $management node.
type request struct {
	properties amqp.Map // the application properties
	body       any      // the value
}

func (r request) text(name string) string {
	v, _ := r.properties.Get(name)
	s, _ := v.(string)
	return s
}

// response is what is answered. Condition is empty unless the request failed.
type response struct {
	status      int32
	description string
	condition   amqp.Symbol
	body        amqp.Map
	dashed      bool // the names of $cbs: status-code rather than statusCode
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
	if to.waiting+len(reply) > maxBuffered && to.waiting > 0 || len(to.replies) >= senderCredit {
		return &amqp.Error{Condition: "amqp:resource-limit-exceeded", Description: "Too many answers wait for the receiver's credit."}
	}
	to.replies = append(to.replies, reply)
	to.waiting += len(reply)
	to.flushReplies()
	return nil
}

// replyLink finds the receiver for answers: the one with that target address or name, else the one beside the sender.
func (l *link) replyLink(replyTo string) *link {
	var beside *link
	for _, s := range l.session.conn.sessions {
		for _, other := range s.links {
			if other.role != amqp.RoleReceiver || other.outlet != nil {
				continue
			}
			if replyTo != "" && (other.replyTo == replyTo || other.name == replyTo) {
				return other
			}
			if s == l.session && strings.EqualFold(other.address, l.address) {
				beside = other
			}
		}
	}
	return beside
}

// flushReplies sends answers while there is credit.
func (l *link) flushReplies() {
	c := l.session.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	for l.credit > 0 && len(l.replies) > 0 {
		id := l.session.nextDelivery
		l.session.nextDelivery++
		c.appendTransfer(l.session, l.handle, id, tagOf(newToken()), true, l.replies[0])
		l.waiting -= len(l.replies[0])
		l.replies[0] = nil
		l.replies = l.replies[1:]
		l.credit--
		l.sent++
	}
}

// encode makes the response a message. It must have properties with the request's message id, of the same type, and an
// int32 status: clients panic or give up otherwise.
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
