package servicebus

import (
	"errors"
	"fmt"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// managementOf returns the $management node of an entity
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-request-response).
func managementOf(q *queue, c *conn, granted Grant, maxMessage int) func(request) response {
	return func(r request) response {
		body, _ := r.body.(amqp.Map)
		operation := r.text("operation")
		needsSend := operation == "com.microsoft:schedule-message" || operation == "com.microsoft:cancel-scheduled-message"
		if needsSend && !granted.Send || !needsSend && !granted.Listen {
			return failure(401, "amqp:unauthorized-access", "Unauthorized access.")
		}
		m := management{q, c, body}
		switch operation {
		case "com.microsoft:renew-lock":
			return m.renew()
		case "com.microsoft:peek-message":
			return m.peek()
		case "com.microsoft:receive-by-sequence-number":
			return m.receive()
		case "com.microsoft:update-disposition":
			return m.dispose()
		case "com.microsoft:schedule-message":
			return m.schedule(maxMessage)
		case "com.microsoft:cancel-scheduled-message":
			return m.cancel()
		case "com.microsoft:renew-session-lock":
			return m.renewSession()
		case "com.microsoft:get-session-state":
			return m.sessionState()
		case "com.microsoft:set-session-state":
			return m.setSessionState(maxMessage)
		case "com.microsoft:get-message-sessions":
			return m.sessions()
		case "com.microsoft:add-rule":
			return m.addRule()
		case "com.microsoft:remove-rule":
			return m.removeRule()
		case "com.microsoft:enumerate-rules":
			return m.enumerateRules()
		}
		return failure(501, "amqp:not-implemented", fmt.Sprintf("The operation %q is not supported by this emulator.", operation))
	}
}

// management is one request to an entity's $management node.
type management struct {
	q    *queue
	c    *conn // the client's
	body amqp.Map
}

func ok(body amqp.Map) response { return response{status: 200, description: "OK", body: body} }

func failure(status int32, condition amqp.Symbol, description string) response {
	return response{status: status, condition: condition, description: description}
}

func badRequest(description string) response {
	return failure(400, "com.microsoft:argument-error", description)
}

// failed returns the response for a queue's error.
func failed(err error) response {
	var e *amqp.Error
	switch {
	case errors.Is(err, errNoMessage):
		return failure(404, "com.microsoft:message-not-found", "The message with this sequence number could not be found.")
	case errors.As(err, &e) && (e == errDeadLettered || e == errProperties):
		return failure(400, e.Condition, e.Description)
	case e != nil && (e == errFull || e == errAnswer || e == errDisabled):
		return failure(403, e.Condition, e.Description)
	case e != nil:
		return failure(410, e.Condition, e.Description)
	}
	return failure(500, "amqp:internal-error", err.Error())
}

// array reads a member that is an array or list of at most maxBatch values of type T. ok is false
// if it is anything else.
func array[T any](m amqp.Map, name string) (values []T, ok bool) {
	v, _ := m.Get(name)
	items, isArray := v.(amqp.Array)
	if list, isList := v.([]any); isList {
		items, isArray = list, true
	}
	if !isArray || len(items) > maxBatch {
		return nil, false
	}
	values = make([]T, len(items))
	for i, item := range items {
		value, isT := item.(T)
		if !isT {
			return nil, false
		}
		values[i] = value
	}
	return values, true
}

// number reads an integer member of any width. ok is false if it is anything else.
func (m management) number(name string) (n int64, ok bool) {
	v, _ := m.body.Get(name)
	switch v := v.(type) {
	case int64:
		return v, true
	case int32:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint8:
		return int64(v), true
	case uint64:
		return int64(v), v < 1<<62
	}
	return 0, false
}

// text reads a string member, or returns "" if there is none.
func (m management) text(name string) string {
	v, _ := m.body.Get(name)
	s, _ := v.(string)
	return s
}

func (m management) renew() response {
	tokens, valid := array[amqp.UUID](m.body, "lock-tokens")
	if !valid {
		return badRequest("lock-tokens must be an array of uuids.")
	}
	until, err := m.q.renew(tokens)
	if err != nil {
		return failed(err)
	}
	return ok(amqp.Map{{Key: "expirations", Value: arrayOf(until)}})
}

func arrayOf[T any](values []T) amqp.Array {
	items := make(amqp.Array, len(values))
	for i := range values {
		items[i] = values[i]
	}
	return items
}

func (m management) peek() response {
	from, fromOK := m.number("from-sequence-number")
	limit, limitOK := m.number("message-count")
	if !fromOK || !limitOK || limit <= 0 {
		return badRequest("from-sequence-number and a positive message-count are required.")
	}
	messages := []any{}
	var session *string
	if id, named := m.body.Get("session-id"); named {
		if text, isText := id.(string); isText {
			session = &text
		}
	}
	for _, encoded := range m.q.peek(from, int(min(limit, maxBatch)), session) {
		messages = append(messages, amqp.Map{{Key: "message", Value: encoded}})
	}
	if len(messages) == 0 {
		return response{status: 204, description: "No messages.", body: amqp.Map{}}
	}
	return ok(amqp.Map{{Key: "messages", Value: messages}})
}

func (m management) renewSession() response {
	until, err := m.q.renewSession(m.text("session-id"), m.c)
	if err != nil {
		return failed(err)
	}
	return ok(amqp.Map{{Key: "expiration", Value: until.UTC()}})
}

func (m management) sessionState() response {
	state, err := m.q.sessionState(m.text("session-id"), m.c)
	if err != nil {
		return failed(err)
	}
	return ok(amqp.Map{{Key: "session-state", Value: bytesOrNil(state)}})
}

// bytesOrNil returns an untyped nil for nil, which is encoded as null. The key must be present, or
// clients cannot read the response.
func bytesOrNil(b []byte) any {
	if b == nil {
		return nil
	}
	return b
}

func (m management) setSessionState(maxState int) response {
	v, _ := m.body.Get("session-state")
	state, _ := v.([]byte)
	switch {
	case !m.q.hasSessions():
		return badRequest("The entity has no sessions.")
	case len(state) > maxState:
		return badRequest("The state is too large.")
	}
	if err := m.q.setSessionState(m.text("session-id"), state, m.c); err != nil {
		return failed(err)
	}
	return ok(amqp.Map{})
}

// noTime or later in last-updated-time asks for all sessions with active messages or a state.
var noTime = time.UnixMilli(253402300799999)

func (m management) sessions() response {
	v, _ := m.body.Get("last-updated-time")
	since, _ := v.(time.Time)
	if !since.Before(noTime) {
		since = time.Time{}
	}
	skip, _ := m.number("skip")
	top, _ := m.number("top")
	ids := m.q.sessionIDs(since)
	ids = ids[min(max(skip, 0), int64(len(ids))):]
	ids = ids[:min(max(top, 0), int64(len(ids)), maxBatch)]
	if len(ids) == 0 {
		return response{status: 204, description: "No sessions.", body: amqp.Map{}}
	}
	next := int32(skip) + int32(len(ids)) // where the client's next request begins
	return ok(amqp.Map{{Key: "sessions-ids", Value: arrayOf(ids)}, {Key: "skip", Value: next}})
}

func (m management) receive() response {
	numbers, valid := array[int64](m.body, "sequence-numbers")
	mode, _ := m.number("receiver-settle-mode")
	if !valid {
		return badRequest("sequence-numbers must be an array of longs.")
	}
	list, err := m.q.receiveDeferred(numbers, mode == int64(amqp.ReceiverSecond))
	if err != nil {
		return failed(err)
	}
	messages := []any{}
	for _, t := range list {
		messages = append(messages, amqp.Map{{Key: "message", Value: t.encoded}, {Key: "lock-token", Value: t.token}})
	}
	return ok(amqp.Map{{Key: "messages", Value: messages}})
}

func (m management) dispose() response {
	tokens, valid := array[amqp.UUID](m.body, "lock-tokens")
	if !valid {
		return badRequest("lock-tokens must be an array of uuids.")
	}
	s := settlement{reason: m.text("deadletter-reason"), description: m.text("deadletter-description")}
	if modify, _ := m.body.Get("properties-to-modify"); modify != nil {
		s.modify, _ = modify.(amqp.Map)
	}
	switch status := m.text("disposition-status"); status {
	case "completed":
		s.kind = Completed
	case "abandoned":
		s.kind = Abandoned
	case "suspended":
		s.kind = DeadLettered
	case "defered": // the protocol spells it so
		s.kind = Deferred
	default:
		return badRequest(fmt.Sprintf("disposition-status %q is not known.", status))
	}
	for _, t := range tokens {
		if err := m.q.settle(t, s); err != nil {
			return failed(err)
		}
	}
	return ok(amqp.Map{})
}

func (m management) schedule(maxMessage int) response {
	list, _ := m.body.Get("messages")
	entries, _ := list.([]any)
	if len(entries) == 0 || len(entries) > maxBatch || m.q.kind == deadQueue || m.q.kind == subscriptionQueue {
		return badRequest("messages must be a list of messages.")
	}
	if refusal := m.q.checkUse(true); refusal != nil {
		return failed(refusal)
	}
	now := time.Now()
	var messages []*message
	for _, entry := range entries {
		fields, _ := entry.(amqp.Map)
		raw, _ := fields.Get("message")
		encoded, _ := raw.([]byte)
		if len(encoded) == 0 || len(encoded) > maxMessage {
			return badRequest("a message is missing or too large.")
		}
		one, err := parseMessage(encoded, now)
		if err != nil {
			return badRequest(err.Error())
		}
		messages = append(messages, one)
	}
	numbers, err := m.q.enqueue(messages)
	if err != nil {
		return failed(err)
	}
	return ok(amqp.Map{{Key: "sequence-numbers", Value: arrayOf(numbers)}})
}

func (m management) cancel() response {
	numbers, valid := array[int64](m.body, "sequence-numbers")
	if !valid {
		return badRequest("sequence-numbers must be an array of longs.")
	}
	if err := m.q.cancel(numbers); err != nil {
		return failed(err)
	}
	return ok(amqp.Map{})
}
