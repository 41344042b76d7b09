package servicebus

import (
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// How a link sends deliveries to a client.

// transfer begins to put a message on the wire. If the connection or the session's window has no
// room, it returns false and the writer wakes the link later. It is called with the queue locked,
// and does not block.
func (s *session) transfer(l *link, m *message) bool {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || l.detached.Load() || len(l.rest) > 0 { // a rest means that the link is stalled already
		return false
	}
	if len(c.out) > maxBuffered || s.window <= 0 {
		c.stalled = append(c.stalled, l)
		return false
	}
	token := m.token
	if l.outlet.peekLock {
		s.unsettled[s.nextDelivery] = unsettledDelivery{l, token}
		s.sweep(l.queue)
	} else {
		token = newToken() // a delivery tag must not be null
	}
	l.deliver(tagOf(token), !l.outlet.peekLock, m.encode(nil, view{locked: l.outlet.peekLock}))
	return true
}

// sweep forgets the queue's deliveries whose locks have ended, because they need no settlement. The
// caller holds the queue's and the connection's lock.
func (s *session) sweep(q *queue) {
	if len(s.unsettled) < s.sweepAt {
		return
	}
	for id, d := range s.unsettled {
		if d.link.queue == q && q.locks.find(d.token) == nil {
			delete(s.unsettled, id)
		}
	}
	s.sweepAt = 2*len(s.unsettled) + 1000
}

// deliver begins a delivery with the session's next id. The caller holds the connection's lock.
func (l *link) deliver(tag []byte, settled bool, payload []byte) {
	var format uint32
	id := l.session.nextDelivery
	l.session.nextDelivery++
	l.rest = payload
	l.sendRest(&amqp.Transfer{Handle: l.handle, DeliveryID: &id, DeliveryTag: tag, MessageFormat: &format, Settled: settled})
}

// sendRest sends the rest of a delivery in as many frames as the session's window has room for. If
// a part is left, the writer goes on with it when the window has changed. It asks for that with a
// flow frame, because rhea opens its window in the middle of a delivery only then. The caller holds
// the connection's lock.
func (l *link) sendRest(next *amqp.Transfer) {
	s, c := l.session, l.session.conn
	room := int(c.maxFrame) - 128 // beside the performative
	before := s.nextOutgoing
	for ; s.window > 0; next = (&amqp.Transfer{Handle: l.handle}) {
		part := l.rest[:min(len(l.rest), room)]
		l.rest = l.rest[len(part):]
		next.More = len(l.rest) > 0
		c.out, _ = amqp.AppendFrame(c.out, amqp.TypeAMQP, s.channel, next, part)
		s.nextOutgoing++
		s.window--
		if !next.More {
			l.rest = nil // frees the message
			break
		}
	}
	if len(l.rest) > 0 {
		c.stalled = append(c.stalled, l)
	}
	if s.nextOutgoing == before {
		return // the window has no room, and to wake the writer now would wake it for ever
	}
	if len(l.rest) > 0 {
		ask := s.stateLocked()
		ask.Echo = true
		c.putLocked(amqp.TypeAMQP, s.channel, ask)
	}
	c.closeOnBacklog()
	c.wakeWriter()
}

// resume goes on with what had no room: first the rest of a delivery, then further deliveries. The
// writer calls it.
func (l *link) resume() {
	c := l.session.conn
	c.mu.Lock()
	if len(l.rest) > 0 {
		l.sendRest(&amqp.Transfer{Handle: l.handle})
	}
	stalled := len(l.rest) > 0
	c.mu.Unlock()
	switch {
	case stalled:
	case l.outlet != nil:
		l.queue.wake(l.outlet)
	default:
		l.flushReplies()
	}
}
