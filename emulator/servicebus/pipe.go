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
	mu          sync.Mutex
	changed     *sync.Cond
	buf         []byte // what nobody has read, at the end of store
	store       []byte // is used again when everything is read
	closed      bool
	read, write deadline
}

func newHalf() *half {
	h := &half{}
	h.changed = sync.NewCond(&h.mu)
	return h
}

// deadline wakes blocked readers or writers. Peers move their deadlines with each frame, so the
// timer stays as it is when a deadline moves to a later time, and looks again when it fires.
type deadline struct {
	at    time.Time // zero is never
	timer *time.Timer
	fires time.Time // when the timer does, zero if it does not
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

type pipeConn struct{ in, out *half }

func (p *pipeConn) Read(b []byte) (int, error) {
	h := p.in
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 {
		switch {
		case h.closed:
			return 0, io.EOF
		case h.read.passed():
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		}
		h.changed.Wait()
	}
	n := copy(b, h.buf)
	h.buf = h.buf[n:]
	if len(h.buf) == 0 {
		h.buf = h.store[:0]
	}
	h.changed.Broadcast()
	return n, nil
}

func (p *pipeConn) Write(b []byte) (n int, err error) {
	h := p.out
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(b) > 0 {
		for len(h.buf) >= pipeBuffer && !h.closed && !h.write.passed() {
			h.changed.Wait()
		}
		switch {
		case h.closed:
			return n, io.ErrClosedPipe
		case h.write.passed():
			return n, os.ErrDeadlineExceeded
		}
		part := b[:min(len(b), pipeBuffer)]
		if h.buf = append(h.buf, part...); cap(h.buf) > cap(h.store) {
			h.store = h.buf
		}
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
		for _, d := range []*deadline{&h.read, &h.write} {
			if d.timer != nil {
				d.timer.Stop()
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
	p.in.setDeadline(&p.in.read, t)
	p.out.setDeadline(&p.out.write, t)
	return nil
}

func (p *pipeConn) SetReadDeadline(t time.Time) error {
	p.in.setDeadline(&p.in.read, t)
	return nil
}

func (p *pipeConn) SetWriteDeadline(t time.Time) error {
	p.out.setDeadline(&p.out.write, t)
	return nil
}

// setDeadline moves one of the deadlines.
func (h *half) setDeadline(d *deadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.at = t
	h.arm(d)
	h.changed.Broadcast()
}

// arm makes sure that d's timer fires at the deadline or before, unless it has passed. The caller
// holds the lock.
func (h *half) arm(d *deadline) {
	if d.at.IsZero() || d.passed() || h.closed || !d.fires.IsZero() && !d.fires.After(d.at) {
		return
	}
	d.fires = d.at
	if d.timer == nil {
		d.timer = time.AfterFunc(time.Until(d.at), func() { h.wake(d) })
		return
	}
	d.timer.Reset(time.Until(d.at))
}

// wake wakes the blocked readers and writers, who look at the deadline.
func (h *half) wake(d *deadline) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.fires = time.Time{}
	if d.passed() {
		h.changed.Broadcast()
	} else {
		h.arm(d)
	}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "memory" }
func (pipeAddr) String() string  { return "memory" }
