package servicebus

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipeBuffer is how many bytes one direction holds before a writer blocks.
const pipeBuffer = 256 << 10

// newPipe returns the two ends of a connection in memory. Unlike net.Pipe it has a buffer, so that
// a writer does not wait for the reader.
func newPipe() (client, server net.Conn) {
	a, b := newHalf(), newHalf()
	return &pipeConn{in: a, out: b}, &pipeConn{in: b, out: a}
}

// half is one direction of a pipe.
type half struct {
	mu                sync.Mutex
	changed           *sync.Cond
	buf               []byte
	closed            bool
	readBy, writeBy   time.Time
	readTimer, writeT *time.Timer
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

type pipeConn struct{ in, out *half }

func expired(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (p *pipeConn) Read(b []byte) (int, error) {
	h := p.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 {
		switch {
		case h.closed:
			return 0, io.EOF
		case expired(h.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		}
		h.changed.Wait()
	}
	n := copy(b, h.buf)
	h.buf = h.buf[n:]
	if len(h.buf) == 0 {
		h.buf = nil
	}
	h.changed.Broadcast()
	return n, nil
}

func (p *pipeConn) Write(b []byte) (n int, err error) {
	h := p.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(b) > 0 {
		for len(h.buf) >= pipeBuffer && !h.closed && !expired(h.writeBy) {
			h.changed.Wait()
		}
		switch {
		case h.closed:
			return n, io.ErrClosedPipe
		case expired(h.writeBy):
			return n, os.ErrDeadlineExceeded
		}
		part := b[:min(len(b), pipeBuffer)]
		h.buf = append(h.buf, part...)
		n, b = n+len(part), b[len(part):]
		h.changed.Broadcast()
	}
	return n, nil
}

// Close closes both directions. The peer can still read what was written.
func (p *pipeConn) Close() error {
	for _, h := range []*half{p.in, p.out} {
		h.mu.Lock()
		h.closed = true
		for _, t := range []*time.Timer{h.readTimer, h.writeT} {
			if t != nil {
				t.Stop()
			}
		}
		h.changed.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

func (p *pipeConn) LocalAddr() net.Addr  { return pipeAddr{} }
func (p *pipeConn) RemoteAddr() net.Addr { return pipeAddr{} }

func (p *pipeConn) SetDeadline(t time.Time) error {
	p.in.setDeadline(&p.in.readBy, &p.in.readTimer, t)
	p.out.setDeadline(&p.out.writeBy, &p.out.writeT, t)
	return nil
}

func (p *pipeConn) SetReadDeadline(t time.Time) error {
	p.in.setDeadline(&p.in.readBy, &p.in.readTimer, t)
	return nil
}

func (p *pipeConn) SetWriteDeadline(t time.Time) error {
	p.out.setDeadline(&p.out.writeBy, &p.out.writeT, t)
	return nil
}

// setDeadline sets a deadline, and a timer that wakes the blocked readers and writers at that time.
func (h *half) setDeadline(by *time.Time, timer **time.Timer, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*by = t
	if *timer != nil {
		(*timer).Stop()
		*timer = nil
	}
	if !t.IsZero() && !h.closed {
		*timer = time.AfterFunc(time.Until(t), h.wakeAll)
	}
	h.changed.Broadcast()
}

func (h *half) wakeAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.changed.Broadcast()
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "memory" }
func (pipeAddr) String() string  { return "memory" }
