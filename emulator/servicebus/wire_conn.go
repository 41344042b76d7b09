package servicebus

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// Limits that are not configurable.
const (
	maxFrameSize   = 64 << 10 // as Service Bus offers
	minFrameSize   = 512      // AMQP 1.0 part 2, §2.8.19
	maxConnections = 1000
	maxChannel     = 1023 // the highest channel, so 1,024 sessions on a connection
	maxHandle      = 255  // the highest handle, so 256 links in a session, as in Service Bus
	maxBatch       = 5000 // messages in one batch, and in one answer to a peek
	// maxBuffered bounds the bytes that wait for a slow reader: above it, deliveries pause. It also
	// bounds the answers that wait for a receiver's credit: above it, requests are refused.
	maxBuffered = 4 << 20
	// maxBacklog is when the connection is closed because of answers that the peer does not read. The
	// largest message that may be on its way comes on top.
	maxBacklog = 64 << 20
	// writeTimeout is when the connection is closed because the peer reads nothing at all. It is the
	// time for each writeSize bytes, so that a large message may take longer.
	writeTimeout = 30 * time.Second
	writeSize    = 1 << 20
	// A connection without a token may have only so many bytes of answers that it does not read, and
	// only so many links, and ends after a time. The service gives it 20 seconds
	// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-protocol-guide); here
	// people may be stopped in a debugger.
	unsignedBacklog = 1 << 20
	unsignedLinks   = 64
	unsignedTimeout = time.Minute
	// maxLinkNames bounds the names and addresses of one link together, in bytes.
	maxLinkNames = 4096
	// handshakeTimeout bounds the whole handshake.
	handshakeTimeout = 30 * time.Second
	// idleTimeout is what the open frame announces. readTimeout leaves as much again for the
	// network.
	idleTimeout = 2 * time.Minute
	readTimeout = 4 * time.Minute
	// defaultKeepAlive is how often a peer gets a frame that announces no idle time-out.
	defaultKeepAlive = 15 * time.Second
)

// conn is one client's connection. Its reader goroutine handles every frame and owns the sessions,
// links and claims. Its writer goroutine sends the bytes that others put into out. The lock guards
// what both goroutines, or deliveries from queues, touch.
type conn struct {
	b      *Broker
	nc     net.Conn
	frames *amqp.FrameReader

	sessions map[uint16]*session    // by channel
	claims   map[string]Grant       // of tokens, by entityKey; "" is the whole namespace
	expiries map[string]*time.Timer // of claims
	partial  int64                  // bytes of messages that have not arrived completely
	began    time.Time

	mu        sync.Mutex
	out       []byte
	replies   int           // bytes of answers that wait for the credit of their receivers
	signedIn  bool          // it has had a token; only the reader writes it
	maxFrame  uint32        // the peer's
	keepAlive time.Duration // how often the peer must get a frame
	closed    bool          // nothing more is written
	stalled   []*link       // receivers that wait for room in out or in their session's window
	wake      chan struct{}
}

func newConn(b *Broker, nc net.Conn) *conn {
	return &conn{
		b: b, nc: nc, frames: amqp.NewFrameReader(nc, maxFrameSize), sessions: map[uint16]*session{}, claims: map[string]Grant{},
		expiries: map[string]*time.Timer{}, maxFrame: minFrameSize, keepAlive: defaultKeepAlive, wake: make(chan struct{}, 1),
		began: time.Now(),
	}
}

// serve runs the connection until it ends. Only the locks of its messages remain.
func (c *conn) serve() {
	defer c.b.forget(c)
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	if err := c.read(); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, errSignIn) {
		// The peer should learn what it did wrong, if it still reads.
		var why *amqp.Error
		if !errors.As(err, &why) {
			why = &amqp.Error{Condition: "amqp:connection:framing-error", Description: err.Error()}
		}
		c.put(0, &amqp.Close{Error: why})
	}
	for _, s := range c.sessions {
		s.close()
	}
	c.stopExpiries()
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.wakeWriter()
	<-written
	_ = c.nc.Close()
}

// read is the reader goroutine. It does the handshake and handles frames until the end. It returns
// nil after an orderly close. An error is one of the connection as a whole: what concerns only a
// session or a link ends only that.
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
			return &amqp.Error{Condition: "amqp:decode-error", Description: err.Error()}
		}
		switch p := p.(type) {
		case *amqp.Begin:
			c.begin(frame.Channel, p)
		case *amqp.Close:
			c.put(0, &amqp.Close{})
			return nil
		default:
			s := c.sessions[frame.Channel]
			if s == nil && isEnd(p) {
				continue
			}
			if s == nil {
				return notAllowed("%T on channel %d, which has no session", p, frame.Channel)
			}
			if err := s.handle(p, payload); err != nil {
				return err
			}
		}
	}
}

// isEnd reports whether a performative ends something. Microsoft's AMQP library for .NET ignores it on
// a channel without a session (azure-amqp, AmqpConnection.OnReceiveSessionFrame). go-amqp sometimes ends
// a session twice.
func isEnd(p amqp.Performative) bool {
	switch p.(type) {
	case *amqp.End, *amqp.Detach:
		return true
	}
	return false
}

func (c *conn) readFrame() (amqp.Frame, error) {
	deadline := time.Now().Add(readTimeout)
	if !c.signedIn {
		deadline = c.began.Add(unsignedTimeout)
	}
	if err := c.nc.SetReadDeadline(deadline); err != nil {
		return amqp.Frame{}, err
	}
	frame, err := c.frames.ReadFrame()
	if !c.signedIn && errors.Is(err, os.ErrDeadlineExceeded) {
		return frame, unsigned("no token was presented within %s", unsignedTimeout)
	}
	return frame, err
}

// unsigned is the error that ends a connection without a token.
func unsigned(format string, args ...any) *amqp.Error {
	return &amqp.Error{Condition: "amqp:unauthorized-access", Description: fmt.Sprintf(format, args...) + ": present one over $cbs first"}
}

// checkLinks returns an error if a connection without a token has too many links.
func (c *conn) checkLinks() error {
	if c.signedIn {
		return nil
	}
	links := 0
	for _, s := range c.sessions {
		links += len(s.links)
	}
	if links > unsignedLinks {
		return unsigned("more than %d links without a token", unsignedLinks)
	}
	return nil
}

// signed notes that the connection has a token.
func (c *conn) signed() {
	c.mu.Lock()
	c.signedIn = true
	c.mu.Unlock()
}

// begin opens a session. A session above the limit is opened and ended at once, with the reason.
func (c *conn) begin(channel uint16, p *amqp.Begin) {
	if s := c.sessions[channel]; s != nil {
		s.fail(notAllowed("Channel %d has a session already.", channel))
		return
	}
	s := newSession(c, channel, p)
	c.sessions[channel] = s
	c.put(channel, &amqp.Begin{RemoteChannel: &channel, IncomingWindow: sessionWindow, OutgoingWindow: sessionWindow, HandleMax: maxHandle})
	if channel > maxChannel {
		s.fail(limitExceeded("Channel %d is above the channel-max of %d: end sessions, or open another connection.", channel, maxChannel))
	}
}

// put queues a frame for the writer. It does not block.
func (c *conn) put(channel uint16, p amqp.Performative) { c.putFrame(amqp.TypeAMQP, channel, p) }

func (c *conn) putFrame(frameType uint8, channel uint16, p amqp.Performative) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.putLocked(frameType, channel, p)
}

// putLocked is putFrame for a caller that holds the lock.
func (c *conn) putLocked(frameType uint8, channel uint16, p amqp.Performative) {
	// The error is always nil, because the broker's own performatives can be encoded.
	c.out, _ = amqp.AppendFrame(c.out, frameType, channel, p)
	c.closeOnBacklog()
	c.wakeWriter()
}

// closeOnBacklog closes the connection to a peer that requests more and more and reads nothing. The
// caller holds the lock.
func (c *conn) closeOnBacklog() {
	most := maxBacklog + 2*c.b.largestMessage()
	if !c.signedIn {
		most = unsignedBacklog
	}
	if len(c.out) > most {
		c.out = nil
		cut(c.nc)
	}
}

func (c *conn) putBytes(b []byte) {
	c.mu.Lock()
	c.out = append(c.out, b...)
	c.mu.Unlock()
	c.wakeWriter()
}

func (c *conn) wakeWriter() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write is the writer goroutine. It sends what is queued, and a keep-alive when nothing is queued
// for a while. It ends when the reader has ended and everything is sent, or when a write fails.
func (c *conn) write() {
	interval := defaultKeepAlive
	keepAlive := time.NewTicker(interval)
	defer keepAlive.Stop()
	defer c.nc.Close() // ends the reader too
	var sending []byte
	var deadline time.Time
	for {
		c.mu.Lock()
		sending, c.out = c.out, sending[:0]
		closed := c.closed
		if c.keepAlive != interval { // the peer's open frame has arrived
			interval = c.keepAlive
			keepAlive.Reset(interval)
		}
		stalled := c.stalled
		c.stalled = nil
		c.mu.Unlock()
		for _, l := range stalled {
			l.resume()
		}
		if len(sending) == 0 {
			if closed {
				return
			}
			select {
			case <-c.wake:
			case <-keepAlive.C:
				c.putFrame(amqp.TypeAMQP, 0, nil)
			}
			continue
		}
		for part := range slices.Chunk(sending, writeSize) {
			// Setting a deadline costs more than a small write, so one deadline serves several writes.
			if now := time.Now(); deadline.Sub(now) < writeTimeout/2 {
				deadline = now.Add(writeTimeout)
				if c.nc.SetWriteDeadline(deadline) != nil {
					return
				}
			}
			if _, err := c.nc.Write(part); err != nil {
				return
			}
		}
		if cap(sending) > 4*maxBuffered {
			sending = nil // frees the large array
		}
	}
}
