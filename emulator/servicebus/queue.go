package servicebus

import (
	"errors"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// queue is an entity that holds messages: a queue, topic, subscription or dead-letter queue. It is
// made of parts that each own one aspect and do no locking: mu guards all of them, and the messages
// too. The lock is held only while memory is touched. The order of locks is: a queue's, its
// dead-letter queue's, a connection's.
type queue struct {
	// These do not change once the broker has registered the entity.
	name            string
	kind            kind
	requiresSession bool
	created         time.Time
	observe         func(Record)
	dead            *queue // its dead letters; nil for a dead-letter queue
	transfer        *queue // messages that could not be forwarded; nil only for the transfer queue itself
	rules           *rules // of a subscription

	mu      sync.Mutex
	changes uint64 // counts what Save would notice
	closed  bool
	cfg     QueueConfig
	updated time.Time
	links   linkSet
	// subscriptions are a topic's. The slice is replaced, never changed.
	subscriptions []*queue

	messages   store
	locks      lockTable
	outlets    outletList
	sessions   sessionTable
	seen       seenIDs
	due        dueTimes
	alarm      alarm // for the next lock or due time
	forwarding forwarding
}

func newQueue(cfg QueueConfig, observe func(Record)) *queue {
	cfg = cfg.withDefaults()
	q := emptyQueue(cfg.Name, cfg, observe)
	// Dead letters never expire, and there is no limit on their deliveries.
	dead := QueueConfig{LockDuration: cfg.LockDuration}
	q.dead = emptyQueue(cfg.Name+"/$DeadLetterQueue", dead, observe)
	q.transfer = emptyQueue(cfg.Name+"/$Transfer/$DeadLetterQueue", dead, observe)
	q.dead.kind, q.transfer.kind, q.dead.transfer = deadQueue, deadQueue, q.transfer
	return q
}

func emptyQueue(name string, cfg QueueConfig, observe func(Record)) *queue {
	now := time.Now()
	q := &queue{
		name: name, cfg: cfg, requiresSession: cfg.RequiresSession, observe: observe, created: now, updated: now,
		messages: store{bySeq: map[int64]*message{}},
	}
	q.locks.init()
	q.sessions.messages = &q.messages
	q.alarm.fire = q.tick
	return q
}

// Errors that clients get, except errNoMessage, which each operation translates.
var (
	errFull = &amqp.Error{
		Condition:   "amqp:resource-limit-exceeded",
		Description: "The entity has reached its maximum size.",
	}
	errLockLost = &amqp.Error{
		Condition:   "com.microsoft:message-lock-lost",
		Description: "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue.",
	}
	errDeadLettered = &amqp.Error{
		Condition:   "amqp:not-allowed",
		Description: "A message of a dead-letter queue cannot be dead-lettered.",
	}
	errProperties = &amqp.Error{
		Condition:   "amqp:not-allowed",
		Description: "The settlement would add properties that do not fit: a message has at most 64 KB of them.",
	}
	errAnswer = &amqp.Error{
		Condition:   "amqp:resource-limit-exceeded",
		Description: "The messages are too large for one answer: receive fewer at once.",
	}
	errNoMessage = errors.New("no such message")
)

// maxProperties is up to which size, in bytes, settlements can extend the application properties of
// a message
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const maxProperties = 64 << 10

func nowMilli() int64 { return time.Now().UnixMilli() }

// report passes a change of a message's state to the observer.
func (q *queue) report(m *message, kind EventKind, reason string) {
	q.changes++
	if q.observe != nil {
		q.observe(Record{
			Time: time.Now(), Queue: q.name, SequenceNumber: m.seq, MessageID: m.id(), Event: kind, Failures: m.failures,
			Reason: reason,
		})
	}
}

// unlockAndForward unlocks the queue, and then forwards the messages of the queue and of its
// dead-letter queue that leave. It holds no lock while it forwards, because forwarding may go in a
// circle.
func (q *queue) unlockAndForward() {
	leaving, to := q.forwarding.take()
	q.mu.Unlock()
	for _, m := range leaving {
		q.forward(m, to)
	}
	if q.dead != nil {
		q.dead.mu.Lock()
		q.dead.unlockAndForward()
	}
}

// advance delivers what can be delivered, and sets the alarm for what comes next.
func (q *queue) advance() {
	q.dispatch()
	q.setAlarm()
}

// setState changes a message's state. The state gone removes the message.
func (q *queue) setState(m *message, to state) {
	q.messages.setState(m, to)
	if to == available && q.hasSessions() {
		q.sessions.add(m)
	}
}

// insert stores a message that has its sequence number.
func (q *queue) insert(m *message) {
	q.messages.add(m)
	if q.hasSessions() {
		q.sessions.add(m)
	}
}

// counts returns what the queue and its dead-letter queue hold.
func (q *queue) counts() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.messages.counts()
	if q.dead != nil {
		dead := q.dead.counts()
		c.DeadLetter, c.Bytes = dead.Active+dead.Deferred, c.Bytes+dead.Bytes
	}
	return c
}

// peek returns encoded messages whose sequence numbers are seq or higher: at most limit of them,
// and about maxBuffered bytes. With a session, it returns only that session's messages.
func (q *queue) peek(seq int64, limit int, session *string) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list [][]byte
	total := 0
	searched := limit
	if session != nil {
		searched = len(q.messages.bySeq)
	}
	for _, m := range q.messages.from(seq, searched) {
		if session != nil && (m.sessionID != *session || len(list) >= limit) {
			continue
		}
		encoded := m.encode(nil, view{peeked: true})
		if total += len(encoded); total > maxBuffered && len(list) > 0 {
			break
		}
		list = append(list, encoded)
	}
	return list
}

// close stops the queue's timers for good. Nobody can use a closed queue.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.sessions.stop()
	q.alarm.stop()
}

// closeAll closes the queue, its dead-letter queue and its transfer queue.
func (q *queue) closeAll() {
	q.close()
	q.dead.close()
	q.transfer.close()
}
