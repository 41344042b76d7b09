package servicebus

import (
	"crypto/tls"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxGathered is how many bytes may wait to be sent before Write waits, too. It is one record of
	// TLS, and little enough for a slow link to send within sendWait.
	maxGathered = 16 << 10
	// sendWait bounds one send. It is go-amqp's default for one frame.
	sendWait = 30 * time.Second
	// lastWait bounds the send of what was written before Close.
	lastWait = time.Second
)

// gatherer is a connection that sends together what is written while it sends. go-amqp writes each
// frame by itself, and the frame of a settlement has 40 bytes: without a gatherer, each would cost a
// system call, a record of TLS, and the same on the other side. An idle gatherer sends at once.
//
// Write returns before its bytes are sent. If that fails, the connection is closed, and the following
// calls of Write and Read return the error.
type gatherer struct {
	net.Conn
	sent chan struct{} // closed when the goroutine that sends has returned

	mu       sync.Mutex
	changed  sync.Cond // of all below; its lock is mu
	next     []byte    // is sent next
	deadline time.Time // of Write while it waits; the zero time is none
	closed   bool
	err      error // why a send failed
}

// gather returns c with a goroutine that sends, until Close.
func gather(c net.Conn) net.Conn {
	g := &gatherer{Conn: c, sent: make(chan struct{})}
	g.changed.L = &g.mu
	go g.send()
	return g
}

// send sends what is written, until Close or an error.
func (g *gatherer) send() {
	defer close(g.sent)
	var sending []byte
	for {
		if sending = g.take(sending); len(sending) == 0 {
			return
		}
		if _, err := g.Conn.Write(sending); err != nil {
			g.fail(err)
			return
		}
	}
}

// take waits for what is to be sent, and bounds the send. free is used for what is written
// meanwhile. It returns nothing after Close, when all is sent.
func (g *gatherer) take(free []byte) (sending []byte) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.next) == 0 && !g.closed {
		g.changed.Wait()
	}
	if !g.closed { // otherwise Close has bounded it
		_ = g.Conn.SetWriteDeadline(time.Now().Add(sendWait)) // if this fails, so does the send
	}
	sending, g.next = g.next, free[:0]
	g.changed.Broadcast()
	return sending
}

// fail ends the connection after an error.
func (g *gatherer) fail(err error) {
	g.mu.Lock()
	g.err = err
	g.changed.Broadcast()
	g.mu.Unlock()
	broken := g.Conn // closing it ends Read
	if encrypted, ok := broken.(*tls.Conn); ok {
		broken = encrypted.NetConn() // without a farewell, for which it would wait
	}
	_ = broken.Close()
}

// Write implements net.Conn. It waits while maxGathered bytes wait to be sent, until the deadline of
// SetWriteDeadline: go-amqp's settlements have no other.
func (g *gatherer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.next) >= maxGathered && g.err == nil && !g.closed {
		if !g.waitUntilDeadline() {
			return 0, os.ErrDeadlineExceeded // nothing of p is sent, so the stream stays whole
		}
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.closed:
		return 0, net.ErrClosed
	}
	g.next = append(g.next, p...)
	g.changed.Broadcast()
	return len(p), nil
}

// waitUntilDeadline waits for a change, and reports whether the deadline has not passed.
func (g *gatherer) waitUntilDeadline() bool {
	if g.deadline.IsZero() {
		g.changed.Wait()
		return true
	}
	left := time.Until(g.deadline)
	if left <= 0 {
		return false
	}
	defer time.AfterFunc(left, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.changed.Broadcast()
	}).Stop()
	g.changed.Wait()
	return true
}

// Read implements net.Conn.
func (g *gatherer) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if err != nil {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.err != nil {
			err = g.err
		}
	}
	return n, err
}

// Close sends what was written before, for at most lastWait, and closes the connection. It returns the
// error of a send that failed.
func (g *gatherer) Close() error {
	g.mu.Lock()
	g.closed = true
	_ = g.Conn.SetWriteDeadline(time.Now().Add(lastWait)) // of a send that lasts
	g.changed.Broadcast()
	g.mu.Unlock()
	<-g.sent
	if g.err != nil {
		return g.err // for which it is closed already
	}
	return g.Conn.Close()
}

// SetWriteDeadline sets until when Write waits. What it has taken is sent within sendWait.
func (g *gatherer) SetWriteDeadline(t time.Time) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deadline = t
	if len(g.next) >= maxGathered {
		g.changed.Broadcast() // to a Write that may wait
	}
	return nil
}

// SetDeadline implements net.Conn.
func (g *gatherer) SetDeadline(t time.Time) error {
	_ = g.SetWriteDeadline(t) // never fails
	return g.SetReadDeadline(t)
}
