package servicebus

import "github.com/session-revoker/session-revoker/emulator/servicebus/amqp"

// lockTable holds the locked messages of a queue by lock token. It also keeps the messages with a
// lock of their own in the order in which the locks expire. A new or renewed lock is the last to
// expire, unless the queue's lock duration was shortened.
type lockTable struct {
	byToken map[amqp.UUID]*message
	ring    message // sentinel of the list through message.prev and message.next
}

func (t *lockTable) init() {
	t.byToken = map[amqp.UUID]*message{}
	t.ring.prev, t.ring.next = &t.ring, &t.ring
}

// find returns the message that the token locks, or nil if there is none.
func (t *lockTable) find(token amqp.UUID) *message { return t.byToken[token] }

// add gives the message a new token. The lock lasts until a time in milliseconds of Unix time.
func (t *lockTable) add(m *message, until int64) {
	t.addInSession(m, until)
	t.pushLast(m)
}

// addInSession is add for a message whose lock ends with its session's lock.
func (t *lockTable) addInSession(m *message, until int64) {
	m.token, m.until = newToken(), until
	t.byToken[m.token] = m
}

// remove ends the message's lock. The caller sets the message's state.
func (t *lockTable) remove(m *message) {
	delete(t.byToken, m.token)
	if m.next == nil {
		return // the lock of a session
	}
	m.prev.next, m.next.prev = m.next, m.prev
	m.prev, m.next = nil, nil
}

// renew extends a lock that add made.
func (t *lockTable) renew(m *message, until int64) {
	m.until = until
	m.prev.next, m.next.prev = m.next, m.prev
	t.pushLast(m)
}

func (t *lockTable) pushLast(m *message) {
	after := t.ring.prev
	for after != &t.ring && after.until > m.until {
		after = after.prev
	}
	m.prev, m.next = after, after.next
	m.prev.next, m.next.prev = m, m
}

// first returns the message whose lock expires first, or nil if there is none.
func (t *lockTable) first() *message {
	if t.ring.next == &t.ring {
		return nil
	}
	return t.ring.next
}
