// Package servicebus is an embedded Azure Service Bus broker for tests and for the sandbox: an AMQP 1.0 server that speaks
// Service Bus' dialect, so that unmodified Azure SDKs work with it, over TCP or over a connection in memory. It keeps
// everything in memory and uses the standard library alone.
package servicebus

import (
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// Limits that are not configurable.
const (
	maxFrameSize   = 64 << 10 // as Service Bus offers
	maxConnections = 1000
	maxSessions    = 1024 // per connection
	maxLinks       = 256  // per session
	maxBatch       = 5000 // messages in one batch, and in one answer to a peek
	// maxBuffered is how many bytes wait for a slow reader before its deliveries pause, or for the credit of a receiver of
	// answers before requests are refused. At maxBacklog the connection is cut off, whichever way the bytes go.
	maxBuffered = 4 << 20
	maxBacklog  = 64 << 20
	// writeTimeout cuts off a reader that takes nothing at all.
	writeTimeout = 30 * time.Second
)

// DefaultKey is the official emulator's key, with every claim.
var DefaultKey = Key{Name: "RootManageSharedAccessKey", Value: "SAS_KEY_VALUE", Listen: true, Send: true, Manage: true}

// Config declares what the broker holds.
type Config struct {
	// Queues and Topics are declared at start; at least one.
	Queues []QueueConfig
	Topics []TopicConfig
	// Keys may sign in. Defaults to DefaultKey.
	Keys []Key
	// MaxMessageSize is in bytes. Defaults to 256 KiB, as on the Standard tier.
	MaxMessageSize int
	// Observe, if set, is told each change of a message's state, in order for each queue, while the queue is locked: it must
	// return quickly and must not call the Broker.
	Observe func(Record)
}

// QueueConfig declares a queue and its dead-letter queue. Zero values mean the defaults of Service Bus.
type QueueConfig struct {
	Name string
	// LockDuration defaults to 1 minute.
	LockDuration time.Duration
	// MaxDeliveryCount defaults to 10.
	MaxDeliveryCount int
	// DefaultTTL bounds every message's time to live; 0 is for ever. DeadLetterOnExpiration keeps expired messages as dead
	// letters; else they are dropped.
	DefaultTTL             time.Duration
	DeadLetterOnExpiration bool
	// RequiresSession makes every message belong to a session, and every receiver hold one.
	RequiresSession bool
	// DuplicateWindow is how long message ids are remembered; 0 turns duplicate detection off.
	DuplicateWindow time.Duration
	// MaxBytes bounds the queue and its dead letters together. Defaults to 1 GiB.
	MaxBytes int64
	// Status defaults to Active.
	Status Status
	// ForwardTo is a queue or topic that every message goes on to, ForwardDeadLettersTo one for every dead letter. What cannot
	// be forwarded is kept in NAME/$Transfer/$DeadLetterQueue.
	ForwardTo, ForwardDeadLettersTo string

	kept kept
}

// Key is a shared access key and what it allows. Manage includes the other two.
type Key struct {
	Name, Value          string
	Listen, Send, Manage bool
}

// ParseKey reads a key from NAME=VALUE:CLAIM,CLAIM,… with the claims Listen, Send and Manage, in any case.
func ParseKey(text string) (Key, error) {
	name, rest, named := strings.Cut(text, "=")
	at := strings.LastIndexByte(rest, ':')
	if !named || name == "" || at <= 0 {
		return Key{}, fmt.Errorf("a key must be given as NAME=VALUE:Listen,Send,Manage")
	}
	key := Key{Name: name, Value: rest[:at]}
	for claim := range strings.SplitSeq(rest[at+1:], ",") {
		switch strings.ToLower(strings.TrimSpace(claim)) {
		case "listen":
			key.Listen = true
		case "send":
			key.Send = true
		case "manage":
			key.Manage = true
		default:
			return Key{}, fmt.Errorf("the key %s: the claim %q is none of Listen, Send and Manage", name, claim)
		}
	}
	return key, nil
}

// Broker is the server. All methods are safe for concurrent use.
type Broker struct {
	keys       map[string]Key
	maxMessage int
	observe    func(Record)

	entities sync.RWMutex
	queues   map[string]*queue // queues, topics and subscriptions by lower-case path

	mu        sync.Mutex
	closed    bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	running   sync.WaitGroup // connections and accept loops
}

// New returns a running broker without a port. The error names what is wrong with the Config.
func New(cfg Config) (*Broker, error) {
	if len(cfg.Queues)+len(cfg.Topics) == 0 {
		return nil, errors.New("servicebus: declare at least one queue or topic")
	}
	if cfg.Keys == nil {
		cfg.Keys = []Key{DefaultKey}
	}
	if cfg.MaxMessageSize == 0 {
		cfg.MaxMessageSize = 256 << 10
	}
	b := &Broker{
		keys: map[string]Key{}, queues: map[string]*queue{}, maxMessage: cfg.MaxMessageSize, observe: cfg.Observe,
		listeners: map[net.Listener]struct{}{}, conns: map[*conn]struct{}{},
	}
	for _, k := range cfg.Keys {
		if k.Name == "" || k.Value == "" {
			return nil, errors.New("servicebus: a key needs a name and a value")
		}
		b.keys[k.Name] = k
	}
	if err := b.declare(cfg); err != nil {
		return nil, fmt.Errorf("servicebus: %w", err)
	}
	return b, nil
}

// ConnectionString is what a client needs to reach the broker at addr (host:port) with a key.
func ConnectionString(addr string, key Key) string {
	return fmt.Sprintf("Endpoint=sb://%s;SharedAccessKeyName=%s;SharedAccessKey=%s;UseDevelopmentEmulator=true;", addr, key.Name, key.Value)
}

// Serve accepts connections on l until Close, which makes it return nil.
func (b *Broker) Serve(l net.Listener) error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return errors.Join(net.ErrClosed, l.Close())
	}
	b.listeners[l] = struct{}{}
	b.running.Add(1)
	b.mu.Unlock()
	defer b.running.Done()
	for {
		nc, err := l.Accept()
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

// NewClientConn returns the client's end of a new connection in memory, for the NewWebSocketConn option of azservicebus.
func (b *Broker) NewClientConn() (net.Conn, error) {
	client, server := newPipe()
	c := b.admit(server)
	if c == nil {
		return nil, net.ErrClosed
	}
	go c.serve()
	return client, nil
}

// admit counts a connection in, or closes it and returns nil.
func (b *Broker) admit(nc net.Conn) *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || len(b.conns) >= maxConnections {
		_ = nc.Close()
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

// CloseConnections cuts every connection without a word, as a network does. Locks stay until they expire.
func (b *Broker) CloseConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.conns {
		_ = c.nc.Close()
	}
}

// DetachLinks detaches every link to a queue, as the service does when it moves a queue to another host. Locks stay until they expire. The error says
// that there is no such queue.
func (b *Broker) DetachLinks(name string) error {
	q, err := b.find(name)
	if err != nil {
		return err
	}
	q.detachAll()
	return nil
}

// ExpireLocks ends the lock of every message of a queue before its time, which the service reserves the right to do; those of sessions stay. Each counts as
// a failed delivery, and the message can be received again. The error says that there is no such queue.
func (b *Broker) ExpireLocks(name string) error {
	q, err := b.find(name)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.release()
	q.expireLocks(math.MaxInt64)
	q.dispatch()
	q.arm()
	return nil
}

// Inject puts an encoded message into a queue or topic as if a producer had sent it, for tests of what no client library
// encodes: the sections before the body must be well-formed, body and footer may be anything of the right sizes. The error
// says what is wrong with the message, or that there is no such entity.
func (b *Broker) Inject(name string, encoded []byte) error {
	q, err := b.find(name)
	if err != nil {
		return err
	}
	m, err := parseMessage(encoded, time.Now())
	if err != nil {
		return fmt.Errorf("servicebus: inject: %w", err)
	}
	_, err = q.enqueue([]*message{m})
	return err
}

// find is entity for callers from outside; the error says that there is no such queue.
func (b *Broker) find(name string) (*queue, error) {
	q := b.entity(name)
	if q == nil {
		return nil, fmt.Errorf("servicebus: no queue %q", name)
	}
	return q, nil
}

// Close ends the listeners, the connections and the timers, and returns when none of their goroutines is left.
func (b *Broker) Close() error {
	b.mu.Lock()
	b.closed = true
	for l := range b.listeners {
		_ = l.Close()
	}
	for c := range b.conns {
		_ = c.nc.Close()
	}
	b.mu.Unlock()
	b.running.Wait()
	for _, q := range b.all() {
		q.closeAll()
	}
	return nil
}

// Counts is what a queue holds.
type Counts struct {
	// Active includes Locked, the messages that somebody holds.
	Active, Locked, Scheduled, Deferred, DeadLetter int
	// Bytes is the size of all of them.
	Bytes int64
}

// Counts returns what the queue holds; the error says that there is no such queue.
func (b *Broker) Counts(name string) (Counts, error) {
	q, err := b.find(name)
	if err != nil {
		return Counts{}, err
	}
	return q.count(), nil
}

// PeekedMessage is a message as a checker wants to see it.
type PeekedMessage struct {
	SequenceNumber int64
	MessageID      string
	EnqueuedTime   time.Time
	// DeliveryCount is the number of failed deliveries.
	DeliveryCount         uint32
	State                 string // active, locked, deferred or scheduled
	ApplicationProperties map[string]any
	DeadLetterReason      string
	DeadLetterDescription string
	// Body is the content of the body's data sections, joined; nil for other bodies.
	Body []byte
}

// Peek returns up to limit messages of a queue, or of "NAME/$DeadLetterQueue", from a sequence number on.
func (b *Broker) Peek(name string, from int64, limit int) ([]PeekedMessage, error) {
	q, err := b.find(name)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []PeekedMessage
	for _, m := range q.from(from, limit) {
		p := PeekedMessage{
			SequenceNumber: m.seq, MessageID: m.id(), EnqueuedTime: time.UnixMilli(m.enqueued).UTC(), DeliveryCount: m.failures,
			State: m.state.String(), ApplicationProperties: map[string]any{},
		}
		properties, err := amqp.ReadMapSection(m.appProperties)
		if err != nil {
			return nil, err
		}
		for _, pair := range properties {
			p.ApplicationProperties[fmt.Sprint(pair.Key)] = pair.Value
		}
		p.DeadLetterReason, _ = p.ApplicationProperties[propertyReason].(string)
		p.DeadLetterDescription, _ = p.ApplicationProperties[propertyDescription].(string)
		_ = amqp.DataSections(m.bodySections(), func(payload []byte) error {
			p.Body = append(p.Body, payload...)
			return nil
		})
		list = append(list, p)
	}
	return list, nil
}

// EventKind says what happened to a message.
type EventKind string

// The kinds of Record.
const (
	Enqueued     EventKind = "enqueued"
	Duplicate    EventKind = "duplicate"
	Delivered    EventKind = "delivered"
	Renewed      EventKind = "renewed"
	Completed    EventKind = "completed"
	Abandoned    EventKind = "abandoned"
	Released     EventKind = "released"
	Deferred     EventKind = "deferred"
	DeadLettered EventKind = "dead_lettered"
	LockExpired  EventKind = "lock_expired"
	Expired      EventKind = "expired"
	Canceled     EventKind = "canceled"
	Forwarded    EventKind = "forwarded" // from a topic to its subscriptions too
)

// Record is one change of a message's state.
type Record struct {
	Time           time.Time
	Queue          string
	SequenceNumber int64
	MessageID      string
	Event          EventKind
	// Failures is the number of failed deliveries after the change.
	Failures uint32
	// Reason is a dead letter's.
	Reason string
}
