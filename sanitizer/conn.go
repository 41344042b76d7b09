package sanitizer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
)

const (
	frameHeader = 8
	// readBuffer is the size of one read from the connection. go-amqp reads 512 bytes.
	readBuffer = 64 << 10
	// maxFrame bounds the size of a frame. go-amqp announces 65,536 bytes, and Service Bus
	// complies.
	maxFrame = 1 << 20
	// maxAnswer bounds the bytes of a $management node's answer that are read. A larger answer ends
	// with its last complete message: the client continues a peek from there.
	maxAnswer = 32 << 20
)

// Descriptor codes of the performatives that matter here (AMQP 1.0 part 2, §2.7).
const (
	performAttach   = 0x12
	performTransfer = 0x14
	performDetach   = 0x16
	performEnd      = 0x17
	performClose    = 0x18
)

var errFrame = errors.New("sanitizer: Service Bus sent an invalid frame")

// conn examines what comes in. Only Read's caller touches its state; writes bypass it.
type conn struct {
	net.Conn
	s *Sanitizer

	buf      []byte // received bytes; the first at bytes of them are done
	at       int
	ready    []byte // passed on next; aliases buf or is its own
	sessions map[uint16]*session
	err      error
}

// session is one AMQP session. Service Bus numbers them by channel.
type session struct {
	links map[uint32]*link
	// held has all frames of the session while a delivery of several frames is not complete: a flow
	// that overtook them would give the client wrong numbers.
	held   []byte
	frames []frame
	open   int // incomplete deliveries
}

// link is a link to the client.
type link struct {
	address  string   // of its source, in lower case
	delivery delivery // in progress
}

// delivery is a delivery whose last frame has not come.
type delivery struct {
	open   bool
	size   int
	cutOff bool // more came than is read; the rest is dropped
}

// frame is a frame in held.
type frame struct {
	at, payload, end int   // payload and what follows belong to of
	of               *link // nil for other frames
}

// Wrap returns a connection on which every incoming message of c is readable. Close closes c.
func (s *Sanitizer) Wrap(c net.Conn) net.Conn {
	return &conn{Conn: c, s: s, sessions: map[uint16]*session{}}
}

// Read reads what has come and can be passed on. It returns 0 bytes if something has come, but
// nothing can be passed on yet: the client then extends its deadline.
func (c *conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.ready) == 0 {
		c.advance()
	}
	if len(c.ready) == 0 && c.err == nil {
		c.fill()
		c.advance()
	}
	n := copy(p, c.ready)
	c.ready = c.ready[n:]
	if n > 0 {
		return n, nil
	}
	err := c.err
	c.err = nil // a deadline may pass and be extended; every other error comes again
	return 0, err
}

// fill reads from the connection.
func (c *conn) fill() {
	if c.at > 0 {
		c.buf = c.buf[:copy(c.buf, c.buf[c.at:])]
		c.at = 0
	}
	switch {
	case c.buf == nil:
		c.buf = make([]byte, 0, readBuffer)
	case len(c.buf) == cap(c.buf):
		c.buf = append(c.buf, make([]byte, len(c.buf))...)[:len(c.buf)]
	}
	n, err := c.Conn.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	c.err = err
}

// advance examines the frames that have come completely, until something is ready.
func (c *conn) advance() {
	start := c.at
	for {
		b, err := c.next()
		if b == nil || err != nil {
			if err != nil {
				c.err = err
			}
			c.ready = c.buf[start:c.at]
			return
		}
		out, passes, err := c.frame(b)
		if err != nil {
			c.err = err
			c.ready = c.buf[start:c.at]
			return
		}
		before := c.buf[start:c.at]
		c.at += len(b)
		if passes {
			continue
		}
		switch {
		case len(out) == 0:
			c.ready = before
		case len(before) == 0:
			c.ready = out
		default:
			c.ready = append(append(make([]byte, 0, len(before)+len(out)), before...), out...)
		}
		if len(c.ready) > 0 {
			return
		}
		start = c.at
	}
}

// next returns the next frame; nil if it is not complete.
func (c *conn) next() ([]byte, error) {
	left := c.buf[c.at:]
	if len(left) < frameHeader {
		return nil, nil
	}
	size := binary.BigEndian.Uint32(left)
	if isProtocol(left) {
		size = frameHeader
	}
	if size < frameHeader || size > maxFrame {
		return nil, errFrame
	}
	if uint32(len(left)) < size {
		return nil, nil
	}
	return left[:size], nil
}

// isProtocol reports whether b is a protocol header and not a frame.
func isProtocol(b []byte) bool { return string(b[:4]) == "AMQP" }

// frame examines one frame. Either it passes unchanged, or out replaces it; out is empty if the
// frame has to wait.
func (c *conn) frame(b []byte) (out []byte, passes bool, err error) {
	const amqp = 0
	if len(b) < frameHeader+3 || b[5] != amqp || b[8] != codeDescribed || b[9] != codeSmallUlong {
		return nil, true, nil
	}
	channel := binary.BigEndian.Uint16(b[6:])
	s := c.sessions[channel]
	body := b[frameHeader+3:]
	switch b[10] {
	case performClose:
		for _, other := range slices.Sorted(maps.Keys(c.sessions)) { // the same bytes each time
			out = append(out, c.sessions[other].release()...)
		}
		if out == nil {
			return nil, true, nil
		}
		return append(out, b...), false, nil
	case performAttach:
		if s == nil {
			s = &session{links: map[uint32]*link{}}
			c.sessions[channel] = s
		}
		if err := s.attach(body); err != nil {
			return nil, false, err
		}
	case performTransfer:
		if s == nil {
			return nil, false, fmt.Errorf("%w: a transfer outside a session", errFrame)
		}
		return s.transfer(c.s, b)
	}
	if s == nil {
		return nil, true, nil
	}
	switch b[10] {
	case performDetach:
		if handle, ok := handleOf(body, 0); ok {
			s.forget(handle)
		}
	case performEnd:
		delete(c.sessions, channel)
		s.open = 0
	}
	if len(s.frames) == 0 {
		return nil, true, nil
	}
	s.hold(b, len(b), nil)
	if s.open == 0 {
		out = s.release()
	}
	return out, false, nil
}

// fieldsOf opens the list of a performative.
func fieldsOf(body []byte) (n int, items, rest []byte, err error) {
	if n, items, rest, err = listOf(body); err != nil {
		return 0, nil, nil, fmt.Errorf("%w: %w", errFrame, err)
	}
	return n, items, rest, nil
}

// handleOf reads a uint field of a performative. ok is false if it is absent or of another type.
func handleOf(body []byte, field int) (uint32, bool) {
	n, items, _, err := fieldsOf(body)
	if err != nil || n <= field {
		return 0, false
	}
	for range field {
		if _, items, err = cut(items); err != nil {
			return 0, false
		}
	}
	return uintOf(items)
}

func uintOf(b []byte) (uint32, bool) {
	switch {
	case len(b) >= 1 && b[0] == codeUint0:
		return 0, true
	case len(b) >= 2 && b[0] == 0x52:
		return uint32(b[1]), true
	case len(b) >= 5 && b[0] == 0x70:
		return binary.BigEndian.Uint32(b[1:]), true
	}
	return 0, false
}

// attach notes the source of a link's messages (AMQP 1.0 part 2, §2.7.3: handle is field 1, source
// field 5, whose first field is its address).
func (s *session) attach(body []byte) error {
	handle, ok := handleOf(body, 1)
	if !ok {
		return fmt.Errorf("%w: an attach without a handle", errFrame)
	}
	s.forget(handle)
	l := &link{}
	s.links[handle] = l
	n, items, _, _ := fieldsOf(body)
	if n <= 5 {
		return nil
	}
	for range 5 {
		var err error
		if _, items, err = cut(items); err != nil {
			return fmt.Errorf("%w: %w", errFrame, err)
		}
	}
	if len(items) < 3 || items[0] != codeDescribed || items[1] != codeSmallUlong {
		return nil // no source: the link is refused, or it is for sending
	}
	if n, fields, _, err := listOf(items[3:]); err == nil && n > 0 {
		l.address = normal(string(text(fields)))
	}
	return nil
}

// forget drops a link and its delivery in progress.
func (s *session) forget(handle uint32) {
	l := s.links[handle]
	if l == nil {
		return
	}
	if l.delivery.open {
		s.open--
	}
	delete(s.links, handle)
}

// transfer examines a frame of a delivery (§2.7.5: handle is field 0, more field 5, aborted field
// 9).
func (s *session) transfer(of *Sanitizer, b []byte) (out []byte, passes bool, err error) {
	n, items, payload, err := fieldsOf(b[frameHeader+3:])
	if err != nil {
		return nil, false, err
	}
	handle, ok := uintOf(items)
	if !ok {
		return nil, false, fmt.Errorf("%w: a transfer without a handle", errFrame)
	}
	var more, aborted bool
	for i := range n {
		if len(items) == 0 {
			return nil, false, errFrame
		}
		value, rest, err := cut(items)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", errFrame, err)
		}
		isTrue := value[0] == 0x41 || value[0] == 0x56 && value[1] != 0
		switch i {
		case 5:
			more = isTrue
		case 9:
			aborted = isTrue
		}
		items = rest
	}
	if len(items) > 0 {
		return nil, false, errFrame // go-amqp would see a different payload
	}
	l := s.links[handle]
	if l == nil {
		l = &link{}
		s.links[handle] = l
	}
	at := len(b) - len(payload)
	if len(s.frames) == 0 && !more {
		if aborted {
			return nil, true, nil
		}
		fixed := l.judge(of, payload, false)
		if fixed == nil {
			return nil, true, nil
		}
		return resized(append(append(make([]byte, 0, at+len(fixed)), b[:at]...), fixed...)), false, nil
	}
	return s.part(of, l, b, at, more, aborted), false, nil
}

// resized corrects a frame's size.
func resized(frame []byte) []byte {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)))
	return frame
}

// part adds one frame of a delivery while its session's frames wait.
func (s *session) part(of *Sanitizer, l *link, b []byte, payload int, more, aborted bool) (out []byte) {
	d := &l.delivery
	if !d.open {
		d.open = true
		s.open++
	}
	d.cutOff = d.cutOff || d.size+len(b)-payload > l.limit(of)
	if d.cutOff {
		b = resized(append([]byte(nil), b[:payload]...))
	}
	d.size += len(b) - payload
	s.hold(b, payload, l)
	if more && !aborted {
		return nil
	}
	if !aborted {
		s.finish(of, l)
	}
	for i := range s.frames {
		if s.frames[i].of == l {
			s.frames[i].of = nil
		}
	}
	l.delivery = delivery{}
	if s.open--; s.open > 0 {
		return nil
	}
	return s.release()
}

// hold makes a frame wait.
func (s *session) hold(b []byte, payload int, of *link) {
	at := len(s.held)
	s.held = append(s.held, b...)
	s.frames = append(s.frames, frame{at, at + payload, len(s.held), of})
}

// release returns the waiting frames.
func (s *session) release() []byte {
	out := s.held
	s.held, s.frames, s.open = nil, nil, 0
	return out
}

// finish examines a complete delivery. The number of its frames and their performatives stay the
// same: fewer frames would shrink the session's window for good.
func (s *session) finish(of *Sanitizer, l *link) {
	encoded := make([]byte, 0, l.delivery.size)
	last := 0
	for i, f := range s.frames {
		if f.of == l {
			encoded = append(encoded, s.held[f.payload:f.end]...)
			last = i
		}
	}
	fixed := l.judge(of, encoded, l.delivery.cutOff)
	if fixed == nil {
		return
	}
	held := make([]byte, 0, len(s.held)+maxNote)
	for i, f := range s.frames {
		at := len(held)
		end := f.end
		if f.of == l {
			end = f.payload
		}
		held = append(held, s.held[f.at:end]...)
		if f.of == l {
			n := len(fixed)
			if i != last {
				n = min(n, f.end-f.payload)
			}
			held = append(held, fixed[:n]...)
			fixed = fixed[n:]
			resized(held[at:])
		}
		s.frames[i] = frame{at, at + f.payload - f.at, len(held), f.of}
	}
	s.held = held
}

const management = "/$management"

func (l *link) isManagement() bool { return strings.HasSuffix(l.address, management) }

// limit is how many bytes of a delivery are read.
func (l *link) limit(of *Sanitizer) int {
	if l.isManagement() {
		return maxAnswer
	}
	return of.maxMessage
}

// judge returns what replaces an encoded message; nil if it passes unchanged.
func (l *link) judge(of *Sanitizer, encoded []byte, cutOff bool) []byte {
	if l.isManagement() {
		return answer(encoded, cutOff, of.maxMessage, func(original []byte, sequence int64) {
			of.keep(strings.TrimSuffix(l.address, management), sequence, original)
		})
	}
	if l.address == "$cbs" {
		return nil // answers about tokens
	}
	broken := ""
	if cutOff {
		broken = tooLarge
	} else if s := (scanner{left: maxValues}); s.message(encoded) == nil {
		return nil
	}
	fixed := repair(encoded, broken)
	if fixed.changed && !cutOff {
		of.keep(l.address, fixed.sequence, encoded)
	}
	return fixed.encoded
}
