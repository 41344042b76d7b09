package servicebus

import (
	"fmt"
	"slices"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// sessionWindow is how many transfer frames either side of a session may send. It is as good as
// unlimited, because credit bounds the links.
const sessionWindow = 1<<31 - 1

// session is an AMQP session. It numbers its deliveries and has its own windows (part 2, §2.5.6).
type session struct {
	conn    *conn
	channel uint16
	links   map[uint32]*link // by the client's handle, which the broker uses too

	received uint32 // next-incoming-id: the peer's first number plus the transfer frames that arrived

	// The connection's lock guards these.
	nextOutgoing uint32
	window       int64 // transfer frames that the peer accepts
	nextDelivery uint32
	unsettled    map[uint32]unsettledDelivery // by delivery id
	sweepAt      int                          // the size of unsettled at which sweep works
}

// unsettledDelivery is a delivery that the client has not settled.
type unsettledDelivery struct {
	link  *link
	token amqp.UUID
}

func newSession(c *conn, channel uint16, p *amqp.Begin) *session {
	return &session{
		conn: c, channel: channel, links: map[uint32]*link{}, unsettled: map[uint32]unsettledDelivery{},
		received: p.NextOutgoingID, window: int64(p.IncomingWindow),
	}
}

// handle acts on one performative of the session. An error ends the connection.
func (s *session) handle(p amqp.Performative, payload []byte) error {
	switch p := p.(type) {
	case *amqp.Attach:
		return s.attach(p)
	case *amqp.Flow:
		s.flow(p)
	case *amqp.Transfer:
		return s.receive(p, payload)
	case *amqp.Disposition:
		s.dispose(p)
	case *amqp.Detach:
		if l := s.links[p.Handle]; l != nil {
			l.close()
			if !l.forced.Load() {
				l.detach(nil)
			}
		}
	case *amqp.End:
		s.end()
		s.conn.put(s.channel, &amqp.End{})
	default:
		return fmt.Errorf("%T inside a session", p)
	}
	return nil
}

// flow adopts the client's windows and credit (part 2, §2.7.4).
func (s *session) flow(p *amqp.Flow) {
	c := s.conn
	c.mu.Lock()
	var next uint32
	if p.NextIncomingID != nil {
		next = *p.NextIncomingID
	}
	s.window = int64(p.IncomingWindow) - int64(int32(s.nextOutgoing-next))
	c.mu.Unlock()
	c.wakeWriter() // it wakes the receivers that wait for the window

	if p.Handle == nil {
		if p.Echo {
			c.put(s.channel, s.state())
		}
		return
	}
	l := s.links[*p.Handle]
	if l == nil || l.forced.Load() {
		return // the frame crossed the broker's detach
	}
	answer := l.flow(p)
	if p.Echo || p.Drain {
		c.put(s.channel, answer)
	}
}

// flow adopts the client's credit for the link, and returns the flow frame that answers it.
func (l *link) flow(p *amqp.Flow) *amqp.Flow {
	var delivered, left uint32
	drained := false
	switch {
	case l.outlet != nil && p.LinkCredit != nil:
		delivered, left = l.queue.grant(l.outlet, p.DeliveryCount, *p.LinkCredit, p.Drain)
		drained = p.Drain
	case l.role == amqp.RoleReceiver && p.LinkCredit != nil:
		l.replies.grant(p)
		l.flushReplies()
		if p.Drain {
			l.replies.drain()
		}
		delivered, left, drained = l.replies.sent, l.replies.credit, p.Drain
	default:
		delivered, left = l.deliveries, l.granted
	}
	answer := l.session.state() // after the deliveries, which change it
	answer.Handle, answer.DeliveryCount, answer.LinkCredit, answer.Drain = &l.handle, &delivered, &left, drained
	return answer
}

// state returns a flow frame with the broker's side of the session. All four fields are necessary:
// go-amqp ends the session without next-incoming-id, and panics on a link flow without link-credit.
func (s *session) state() *amqp.Flow {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	received := s.received
	return &amqp.Flow{
		NextIncomingID: &received, IncomingWindow: sessionWindow, NextOutgoingID: s.nextOutgoing, OutgoingWindow: sessionWindow,
	}
}

// transfer puts a message on the wire in as many frames as necessary. If the connection or the
// session's window has no room, it returns false and the writer wakes the link later. It is called
// with the queue locked, and does not block.
func (s *session) transfer(l *link, m *message) bool {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	payload := m.encode(nil, view{locked: l.outlet.peekLock})
	room := c.payloadRoom()
	frames := int64((len(payload) + room - 1) / room)
	if len(c.out) > maxBuffered || s.window < frames && s.window < sessionWindow {
		c.stalled = append(c.stalled, l)
		return false
	}
	id := s.nextDelivery
	s.nextDelivery++
	token := m.token
	if l.outlet.peekLock {
		s.unsettled[id] = unsettledDelivery{l, token}
		s.sweep(l.queue)
	} else {
		token = newToken() // a delivery tag must not be null
	}
	c.appendTransfer(s, l.handle, id, tagOf(token), !l.outlet.peekLock, payload)
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

// payloadRoom returns how much payload fits into one frame beside the transfer performative. The
// caller holds the lock.
func (c *conn) payloadRoom() int { return int(c.maxFrame) - 128 }

// appendTransfer cuts the payload into frames. The caller holds the lock.
func (c *conn) appendTransfer(s *session, handle, id uint32, tag []byte, settled bool, payload []byte) {
	room := c.payloadRoom()
	var format uint32
	first := &amqp.Transfer{Handle: handle, DeliveryID: &id, DeliveryTag: tag, MessageFormat: &format, Settled: settled}
	for t := first; ; t = (&amqp.Transfer{Handle: handle}) {
		part := payload[:min(len(payload), room)]
		payload = payload[len(part):]
		t.More = len(payload) > 0
		c.out, _ = amqp.AppendFrame(c.out, amqp.TypeAMQP, s.channel, t, part)
		s.nextOutgoing++
		s.window--
		if !t.More {
			break
		}
	}
	c.closeOnBacklog()
	c.wakeWriter()
}

// end closes the session's links and forgets the session.
func (s *session) end() {
	for _, l := range s.links {
		l.close()
	}
	delete(s.conn.sessions, s.channel)
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stalled = slices.DeleteFunc(c.stalled, func(l *link) bool { return l.session == s })
}
