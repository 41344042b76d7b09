package servicebus

import (
	"fmt"
	"slices"
	"sync/atomic"

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
	ended   bool             // the broker has ended the session, the client not yet

	received atomic.Uint32 // next-incoming-id: the peer's first number plus the transfer frames that arrived

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
	s := &session{
		conn: c, channel: channel, links: map[uint32]*link{}, unsettled: map[uint32]unsettledDelivery{}, window: int64(p.IncomingWindow),
	}
	s.received.Store(p.NextOutgoingID)
	return s
}

// handle acts on one performative of the session. An error ends the connection.
func (s *session) handle(p amqp.Performative, payload []byte) error {
	if _, end := p.(*amqp.End); end {
		s.close()
		delete(s.conn.sessions, s.channel)
		if !s.ended {
			s.conn.put(s.channel, &amqp.End{})
		}
		return nil
	}
	if s.ended {
		return nil
	}
	switch p := p.(type) {
	case *amqp.Attach:
		s.attach(p)
		return s.conn.checkLinks()
	case *amqp.Flow:
		s.flow(p)
	case *amqp.Transfer:
		s.receive(p, payload)
	case *amqp.Disposition:
		s.dispose(p)
	case *amqp.Detach:
		if l := s.links[p.Handle]; l != nil {
			l.close()
			l.detach(nil)
		}
	default:
		return notAllowed("%T inside a session", p)
	}
	return nil
}

// attached returns the link of a frame. It returns nil if the frame must be discarded: the link is
// refused or detached, which the client did not know yet. A handle that no link ever had ends the
// session (part 2, §2.8.17).
func (s *session) attached(handle uint32) *link {
	l := s.links[handle]
	switch {
	case l == nil && handle <= maxHandle:
		s.fail(&amqp.Error{Condition: "amqp:session:unattached-handle", Description: fmt.Sprintf("No link has the handle %d.", handle)})
		return nil
	case l == nil || l.detached.Load():
		return nil
	}
	return l
}

// notAllowed is the error for what a client must not do: a frame out of place, or a use of an entity.
func notAllowed(format string, args ...any) *amqp.Error {
	return &amqp.Error{Condition: "amqp:not-allowed", Description: fmt.Sprintf(format, args...)}
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
	if l == nil || l.detached.Load() {
		return // the frame crossed a detach
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
		delivered, left = l.grantReplies(p)
		drained = p.Drain
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
	return s.stateLocked()
}

// stateLocked is state for a caller that holds the connection's lock.
func (s *session) stateLocked() *amqp.Flow {
	received := s.received.Load()
	return &amqp.Flow{
		NextIncomingID: &received, IncomingWindow: sessionWindow, NextOutgoingID: s.nextOutgoing, OutgoingWindow: sessionWindow,
	}
}

// close closes the session's links.
func (s *session) close() {
	c := s.conn
	c.mu.Lock()
	for _, l := range s.links {
		l.silence()
	}
	c.stalled = slices.DeleteFunc(c.stalled, func(l *link) bool { return l.session == s })
	c.mu.Unlock()
	for _, l := range s.links {
		l.close()
	}
}

// fail ends the session because of an error. Until the client answers, its frames are discarded
// (part 2, §2.5.5).
func (s *session) fail(why *amqp.Error) {
	if s.ended {
		return
	}
	s.close()
	s.ended = true
	s.conn.put(s.channel, &amqp.End{Error: why})
}

func limitExceeded(format string, args ...any) *amqp.Error {
	return &amqp.Error{Condition: "amqp:resource-limit-exceeded", Description: fmt.Sprintf(format, args...)}
}
