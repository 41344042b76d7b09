package servicebus

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// How a connection begins: SASL, and then open.

// mechanisms are offered in the order of Service Bus. EXTERNAL is not: it would need certificates of
// clients.
var mechanisms = []amqp.Symbol{"MSSBCBS", "PLAIN", "ANONYMOUS"}

// errSignIn means that the client has its sasl-outcome, and gets no more frames.
var errSignIn = errors.New("the client could not sign in")

// noEnd is the end of a grant that lasts as long as its connection.
var noEnd = time.Unix(1<<40, 0)

// handshake is SASL, if the client wants it, and then open. With the mechanisms ANONYMOUS and
// MSSBCBS, which the SDKs choose, clients authenticate later, over $cbs.
func (c *conn) handshake() error {
	if err := c.nc.SetReadDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return err
	}
	header, err := c.frames.ReadProtocolHeader()
	if err != nil {
		return err
	}
	if header == amqp.HeaderSASL {
		if header, err = c.handshakeSASL(); err != nil {
			return err
		}
	}
	// If the peer speaks another protocol, it learns from this header which one it should speak
	// (part 2, §2.2).
	c.putBytes(amqp.HeaderAMQP[:])
	if header != amqp.HeaderAMQP {
		return errors.New("not AMQP 1.0")
	}
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
	c.open(open)
	return nil
}

// handshakeSASL returns the protocol header that follows the SASL exchange (part 5, §5.3.2).
func (c *conn) handshakeSASL() (next [8]byte, err error) {
	c.putBytes(amqp.HeaderSASL[:])
	c.putFrame(amqp.TypeSASL, 0, &amqp.SASLMechanisms{Mechanisms: mechanisms})
	frame, err := c.frames.ReadFrame()
	if err != nil {
		return next, err
	}
	p, _, err := amqp.ReadPerformative(frame.Body)
	if err != nil {
		return next, err
	}
	init, ok := p.(*amqp.SASLInit)
	if !ok {
		return next, fmt.Errorf("%T in place of sasl-init", p)
	}
	if !c.signIn(init) {
		const auth = 1 // the code for wrong credentials (part 5, §5.3.3.6)
		c.putFrame(amqp.TypeSASL, 0, &amqp.SASLOutcome{Code: auth})
		return next, errSignIn
	}
	c.putFrame(amqp.TypeSASL, 0, &amqp.SASLOutcome{Code: 0})
	return c.frames.ReadProtocolHeader()
}

// signIn reports whether the client may go on. After PLAIN with the name and the value of a key it
// needs no token: what the key allows holds for every entity.
func (c *conn) signIn(init *amqp.SASLInit) bool {
	switch init.Mechanism {
	case "ANONYMOUS", "MSSBCBS":
		return true
	case "PLAIN":
		parts := bytes.Split(init.Response, []byte{0}) // the identity to act as, the name, the password (RFC 4616)
		if len(parts) != 3 {
			return false
		}
		key, known := c.b.keys[string(parts[1])]
		if subtle.ConstantTimeCompare(parts[2], []byte(key.Value)) != 1 || !known {
			return false
		}
		c.claims[""] = key.grant(noEnd)
		c.signed()
		return true
	}
	return false
}

// open adopts the peer's limits and answers with the broker's.
func (c *conn) open(p *amqp.Open) {
	c.mu.Lock()
	c.maxFrame = maxFrameSize
	if p.MaxFrameSize > 0 {
		c.maxFrame = min(max(p.MaxFrameSize, minFrameSize), maxFrameSize)
	}
	if p.IdleTimeout > 0 {
		c.keepAlive = min(c.keepAlive, max(time.Duration(p.IdleTimeout)*time.Millisecond/2, 100*time.Millisecond))
	}
	c.mu.Unlock()
	c.put(0, &amqp.Open{
		ContainerID: "session-revoker-emulator", MaxFrameSize: maxFrameSize, ChannelMax: maxChannel,
		IdleTimeout: uint32(idleTimeout / time.Millisecond),
	})
}
