package servicebus

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// firstBeat is how often a peer hears something that has not said how often it must.
const firstBeat = 15 * time.Second

// conn is one client's connection. Its reader goroutine handles every frame and owns sessions, links and claims; its writer
// goroutine sends what others have put into out. The lock guards what both, and deliveries from queues, touch.
type conn struct {
	b      *Broker
	nc     net.Conn
	frames *amqp.FrameReader

	sessions map[uint16]*session
	claims   map[string]claim // by lower-case entity path
	parts    int              // bytes of messages that have not come whole yet

	mu       sync.Mutex
	out      []byte
	maxFrame uint32        // the peer's
	beat     time.Duration // how often the peer must hear something
	closed   bool          // nothing more is written
	stalled  []*link       // receivers that wait for room in out or in their session's window
	wake     chan struct{}
}

// session is an AMQP session, which has its own numbering of deliveries and its own windows (part 2, §2.5.6).
type session struct {
	conn    *conn
	channel uint16
	links   map[uint32]*link // by the client's handle, which is ours as well

	received uint32 // transfer frames that came, on top of the peer's first number: next-incoming-id

	// The connection's lock guards these.
	nextOutgoing uint32
	window       int64 // transfer frames that the peer takes
	nextDelivery uint32
	unsettled    map[uint32]held
	sweepAt      int // how many unsettled there are when the next sweep is due
}

// held is a delivery that waits for its settlement.
type held struct {
	link  *link
	token amqp.UUID
}

func newConn(b *Broker, nc net.Conn) *conn {
	return &conn{
		b: b, nc: nc, frames: amqp.NewFrameReader(nc, maxFrameSize), sessions: map[uint16]*session{}, claims: map[string]claim{},
		maxFrame: 512, beat: firstBeat, wake: make(chan struct{}, 1),
	}
}

// serve runs the connection until it ends, and leaves nothing behind but the locks of its messages.
func (c *conn) serve() {
	defer c.b.forget(c)
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	if err := c.read(); err != nil && !errors.Is(err, io.EOF) {
		// The peer should know what it did wrong, if it still listens.
		c.put(0, &amqp.Close{Error: &amqp.Error{Condition: "amqp:connection:framing-error", Description: err.Error()}})
	}
	for _, s := range c.sessions {
		s.end()
	}
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.poke()
	<-written
	_ = c.nc.Close()
}

// read is the reader goroutine: handshake, then frames until the end. It returns nil after an orderly close.
func (c *conn) read() error {
	if err := c.handshake(); err != nil {
		return err
	}
	for {
		frame, err := c.readFrame()
		if err != nil {
			return err
		}
		if frame.Type != amqp.TypeAMQP {
			return fmt.Errorf("a frame of type %d after the handshake", frame.Type)
		}
		if len(frame.Body) == 0 {
			continue // a keep-alive
		}
		p, payload, err := amqp.ReadPerformative(frame.Body)
		if err != nil {
			return err
		}
		switch p := p.(type) {
		case *amqp.Begin:
			err = c.begin(frame.Channel, p)
		case *amqp.Close:
			c.put(0, &amqp.Close{})
			return nil
		default:
			s := c.sessions[frame.Channel]
			if s == nil {
				return fmt.Errorf("%T on channel %d, which has no session", p, frame.Channel)
			}
			err = s.handle(p, payload)
		}
		if err != nil {
			return err
		}
	}
}

func (c *conn) readFrame() (amqp.Frame, error) {
	// A client of Service Bus is heard from at least every minute: it was told an idle time-out of two.
	if err := c.nc.SetReadDeadline(time.Now().Add(4 * time.Minute)); err != nil {
		return amqp.Frame{}, err
	}
	return c.frames.ReadFrame()
}

// handshake is SASL with ANONYMOUS, which is what the SDKs choose, then open. Claims come later, over $cbs.
func (c *conn) handshake() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	header, err := c.frames.ReadProtocolHeader()
	if err != nil {
		return err
	}
	if header == amqp.HeaderSASL {
		c.putBytes(amqp.HeaderSASL[:])
		c.putFrame(amqp.TypeSASL, 0, &amqp.SASLMechanisms{Mechanisms: []amqp.Symbol{"MSSBCBS", "ANONYMOUS", "EXTERNAL"}})
		frame, err := c.frames.ReadFrame()
		if err != nil {
			return err
		}
		p, _, err := amqp.ReadPerformative(frame.Body)
		if err != nil {
			return err
		}
		if _, ok := p.(*amqp.SASLInit); !ok {
			return fmt.Errorf("%T in place of sasl-init", p)
		}
		c.putFrame(amqp.TypeSASL, 0, &amqp.SASLOutcome{Code: 0})
		if header, err = c.frames.ReadProtocolHeader(); err != nil {
			return err
		}
	}
	if header != amqp.HeaderAMQP {
		c.putBytes(amqp.HeaderAMQP[:]) // which protocol would be spoken here (part 2, §2.2)
		return errors.New("not AMQP 1.0")
	}
	c.putBytes(amqp.HeaderAMQP[:])
	frame, err := c.frames.ReadFrame()
	if err != nil {
		return err
	}
	p, _, err := amqp.ReadPerformative(frame.Body)
	if err != nil {
		return err
	}
	open, ok := p.(*amqp.Open)
	if !ok {
		return fmt.Errorf("%T in place of open", p)
	}
	c.mu.Lock()
	c.maxFrame = maxFrameSize
	if open.MaxFrameSize > 0 {
		c.maxFrame = min(max(open.MaxFrameSize, 512), maxFrameSize)
	}
	if open.IdleTimeout > 0 {
		c.beat = min(c.beat, max(time.Duration(open.IdleTimeout)*time.Millisecond/2, 100*time.Millisecond))
	}
	c.mu.Unlock()
	c.put(0, &amqp.Open{ContainerID: "session-revoker-emulator", MaxFrameSize: maxFrameSize, ChannelMax: 4999, IdleTimeout: 120_000})
	return nil
}

func (c *conn) begin(channel uint16, p *amqp.Begin) error {
	switch {
	case c.sessions[channel] != nil:
		return fmt.Errorf("channel %d has a session already", channel)
	case len(c.sessions) >= maxSessions:
		return fmt.Errorf("more than %d sessions on one connection", maxSessions)
	}
	c.sessions[channel] = &session{
		conn: c, channel: channel, links: map[uint32]*link{}, unsettled: map[uint32]held{},
		received: p.NextOutgoingID, window: int64(p.IncomingWindow),
	}
	c.put(channel, &amqp.Begin{RemoteChannel: &channel, IncomingWindow: ourWindow, OutgoingWindow: ourWindow, HandleMax: 1<<32 - 2})
	return nil
}

// put queues a frame for the writer. It never waits.
func (c *conn) put(channel uint16, p amqp.Performative) { c.putFrame(amqp.TypeAMQP, channel, p) }

func (c *conn) putFrame(frameType uint8, channel uint16, p amqp.Performative) {
	c.mu.Lock()
	// What is encoded here is ours and has types.
	c.out, _ = amqp.AppendFrame(c.out, frameType, channel, p)
	c.bound()
	c.mu.Unlock()
	c.poke()
}

// bound cuts off a peer that asks for more and more and reads nothing. The caller holds the lock.
func (c *conn) bound() {
	if len(c.out) > maxBacklog {
		c.out = nil
		_ = c.nc.Close()
	}
}

func (c *conn) putBytes(b []byte) {
	c.mu.Lock()
	c.out = append(c.out, b...)
	c.mu.Unlock()
	c.poke()
}

func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write is the writer goroutine: it sends what is queued, and a keep-alive when that is nothing for a while. It ends when
// the reader has ended and everything is sent, or when the peer takes nothing any more.
func (c *conn) write() {
	interval := firstBeat
	beat := time.NewTicker(interval)
	defer beat.Stop()
	defer c.nc.Close() // ends the reader too
	var sending []byte
	var deadline time.Time
	for {
		c.mu.Lock()
		sending, c.out = c.out, sending[:0]
		closed := c.closed
		if c.beat != interval {
			interval = c.beat // the peer has said what it wants
			beat.Reset(interval)
		}
		waiting := c.stalled
		c.stalled = nil
		c.mu.Unlock()
		for _, l := range waiting {
			l.queue.wake(l.outlet)
		}
		if len(sending) == 0 {
			if closed {
				return
			}
			select {
			case <-c.wake:
			case <-beat.C:
				c.putFrame(amqp.TypeAMQP, 0, nil)
			}
			continue
		}
		// Setting a deadline costs more than a small write: one serves for a while.
		if now := time.Now(); deadline.Sub(now) < writeTimeout/2 {
			deadline = now.Add(writeTimeout)
			if c.nc.SetWriteDeadline(deadline) != nil {
				return
			}
		}
		if _, err := c.nc.Write(sending); err != nil {
			return
		}
		if cap(sending) > 4*maxBuffered {
			sending = nil
		}
	}
}

// transfer puts a message on the wire, in as many frames as it takes, unless the connection or the session's window has
// no room now; then the link is woken later. It is called with the queue locked, and never waits.
func (s *session) transfer(l *link, m *message) bool {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	payload := m.encode(nil, view{locked: l.outlet.peekLock})
	room := int(c.maxFrame) - 128 // the transfer itself takes less
	frames := int64((len(payload) + room - 1) / room)
	if len(c.out) > maxBuffered || s.window < frames && s.window < ourWindow {
		c.stalled = append(c.stalled, l)
		return false
	}
	id := s.nextDelivery
	s.nextDelivery++
	token := m.token
	if l.outlet.peekLock {
		s.unsettled[id] = held{l, token}
		s.sweep(l.queue)
	} else {
		token = newToken() // a tag must not be null
	}
	c.appendTransfer(s, l.handle, id, tagOf(token), !l.outlet.peekLock, payload)
	return true
}

// sweep forgets deliveries of the queue whose locks are gone: nobody need ever settle them. The caller holds both locks.
func (s *session) sweep(q *queue) {
	if len(s.unsettled) < s.sweepAt {
		return
	}
	for id, h := range s.unsettled {
		if h.link.queue == q && q.byToken[h.token] == nil {
			delete(s.unsettled, id)
		}
	}
	s.sweepAt = 2*len(s.unsettled) + 1000
}

// appendTransfer cuts the payload into frames. The caller holds the lock.
func (c *conn) appendTransfer(s *session, handle, id uint32, tag []byte, settled bool, payload []byte) {
	room := int(c.maxFrame) - 128
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
	c.bound()
	c.poke()
}

// end forgets the session; its receivers get nothing more.
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
