// Package servicebus is an embedded Azure Service Bus broker for tests and for the sandbox. It is
// an AMQP 1.0 server that speaks the dialect of Service Bus, so that unmodified Azure SDKs work
// with it, over TCP, TLS, WebSocket or a connection in memory. It keeps everything in memory.
//
// The files queue*.go are the entities and their messages, wire*.go is AMQP, and admin*.go is the
// administration API over HTTP.
package servicebus

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// acceptAgain is how long an accept loop waits for files when the process has none left.
const acceptAgain = 50 * time.Millisecond

// Broker is the server. All methods are safe for concurrent use.
type Broker struct {
	keys       map[string]Key
	authorize  func(token string) (Grant, error) // nil: no access tokens
	maxMessage int                               // of entities without their own limit, in bytes
	largest    atomic.Int64                      // the largest limit that an entity ever had
	observe    func(Record)
	partial    atomic.Int64 // bytes of messages that have not arrived completely, on all connections

	entities sync.RWMutex
	queues   map[string]*queue // queues, topics and subscriptions by entityKey

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	running   sync.WaitGroup // connections and accept loops
}

// New returns a running broker that listens on no port. The error says what is wrong with the
// Config.
func New(cfg Config) (*Broker, error) {
	if cfg.Keys == nil {
		cfg.Keys = []Key{DefaultKey}
	}
	if cfg.MaxMessageSize == 0 {
		cfg.MaxMessageSize = standardMessageSize
	}
	if cfg.MaxMessageSize < 0 || cfg.MaxMessageSize > maxMessageSize {
		return nil, fmt.Errorf("servicebus: MaxMessageSize is %d, and must be from 1 to %d bytes", cfg.MaxMessageSize, maxMessageSize)
	}
	b := &Broker{
		keys: map[string]Key{}, queues: map[string]*queue{},
		authorize: cfg.Authorize, maxMessage: cfg.MaxMessageSize, observe: cfg.Observe,
		listeners: map[net.Listener]struct{}{}, conns: map[*conn]struct{}{},
	}
	for _, k := range cfg.Keys {
		if k.Name == "" || k.Value == "" {
			return nil, errors.New("servicebus: a key needs a name and a value")
		}
		b.keys[k.Name] = k
	}
	if cfg.Saved == nil {
		if err := b.declare(cfg); err != nil {
			return nil, fmt.Errorf("servicebus: %w", err)
		}
		return b, nil
	}
	saved, err := readSaved(cfg.Saved)
	if err == nil {
		err = b.declare(saved.addTo(cfg))
	}
	if err == nil {
		err = b.restore(saved)
	}
	if err != nil {
		_ = b.Close()
		return nil, fmt.Errorf("servicebus: %w", err)
	}
	return b, nil
}

// Serve accepts connections on l until Close. It returns nil after Close, and an error if l fails.
// It outlives a shortage of files, which clients can cause. For AMQP over TLS, l is a listener of
// crypto/tls.
func (b *Broker) Serve(l net.Listener) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		_ = l.Close()
		return nil
	}
	b.listeners[l] = struct{}{}
	b.running.Add(1)
	b.mu.Unlock()
	defer b.running.Done()
	for {
		nc, err := l.Accept()
		if errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) {
			time.Sleep(acceptAgain)
			continue
		}
		if err != nil {
			b.mu.Lock()
			defer b.mu.Unlock()
			delete(b.listeners, l)
			if b.closed {
				return nil
			}
			return fmt.Errorf("servicebus: accept: %w", err)
		}
		if c := b.admit(nc); c != nil {
			go c.serve()
		}
	}
}

// NewClientConn returns the client's end of a new connection in memory. It is meant for the
// NewWebSocketConn option of azservicebus. The error is net.ErrClosed after Close, or if there are
// too many connections.
func (b *Broker) NewClientConn() (net.Conn, error) {
	client, server := newPipe()
	c := b.admit(server)
	if c == nil {
		return nil, net.ErrClosed
	}
	go c.serve()
	return client, nil
}

// admit registers a connection, or closes it and returns nil.
func (b *Broker) admit(nc net.Conn) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.conns) >= maxConnections {
		cut(nc)
		return nil
	}
	c := newConn(b, nc)
	b.conns[c] = struct{}{}
	b.running.Add(1)
	return c
}

func (b *Broker) forget(c *conn) {
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	b.running.Done()
}

// CloseConnections cuts every connection without an AMQP close, as a failing network does. Locks
// stay until they expire.
func (b *Broker) CloseConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		cut(c.nc)
	}
}

// DetachLinks detaches every link to a queue, as the service does when it moves a queue to another
// host. Locks stay until they expire. It returns an error if there is no such queue.
func (b *Broker) DetachLinks(name string) error {
	q, err := b.find(name)
	if err != nil {
		return err
	}
	q.detach(allLinks)
	return nil
}

// ExpireLocks ends the lock of every message of a queue early, which the service reserves the right
// to do. The locks of sessions stay. Each lock that ends counts as a failed delivery, and receivers
// can get the message again. It returns an error if there is no such queue.
func (b *Broker) ExpireLocks(name string) error {
	q, err := b.find(name)
	if err != nil {
		return err
	}
	q.expireAllLocks()
	return nil
}

// Inject puts an encoded message into a queue or topic as if a producer had sent it. It is for
// tests with messages that no client library encodes. The sections before the body must be
// well-formed. Body and footer may be anything of the right sizes. The error says what is wrong
// with the message, or that there is no such entity.
func (b *Broker) Inject(name string, encoded []byte) error {
	q, err := b.find(name)
	if err != nil {
		return err
	}
	if q.kind == deadQueue {
		return fmt.Errorf("servicebus: inject: %s is a dead-letter queue, to which nobody can send", q.name)
	}
	m, err := parseMessage(encoded, time.Now())
	if err != nil {
		return fmt.Errorf("servicebus: inject: %w", err)
	}
	_, err = q.enqueue([]*message{m})
	return err
}

// find is entity with an error for callers outside the package.
func (b *Broker) find(name string) (*queue, error) {
	q := b.entity(name)
	if q == nil {
		return nil, fmt.Errorf("servicebus: no queue %q", name)
	}
	return q, nil
}

// Close closes the listeners and connections, stops the timers, and returns when none of the
// broker's goroutines is left. The error is always nil.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	for l := range b.listeners {
		_ = l.Close()
	}
	for c := range b.conns {
		cut(c.nc)
	}
	b.mu.Unlock()
	b.running.Wait()
	for _, q := range b.all() {
		q.closeAll()
	}
	return nil
}
