package servicebus

import (
	"cmp"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// queue is the state of a queue or of a dead-letter queue. Its lock guards everything in it, its messages included, and is
// held only while memory is touched. Order of locks: a queue's, then its dead-letter queue's, then a connection's.
type queue struct {
	name     string
	cfg      QueueConfig
	kind     kind
	dead     *queue // of a queue, topic or subscription: its dead letters
	rules    *rules // of a subscription
	created  time.Time
	observe  func(Record)
	transfer *queue // keeps what could not be forwarded

	mu       sync.Mutex
	closed   bool
	updated  time.Time
	accessed time.Time          // when a link was attached last
	links    map[*link]struct{} // to the entity or its $management node
	// subscriptions are a topic's; the slice is replaced, never changed.
	subscriptions []*queue
	lastSeq       int64
	bytes         int64
	// index holds the messages; order their sequence numbers, ascending, with those of messages that are gone until they are
	// swept. Before order[cursor] nothing is available.
	index     map[int64]*message
	order     []int64
	cursor    int
	counts    [gone]int // by state
	outlets   []*outlet // the receivers, in turn
	turn      int
	byToken   map[amqp.UUID]*message
	lockOrder message // ring of the locked messages, the next to expire first: all locks last equally long
	sessions  map[string]*messageSession
	waiters   []*waiter
	states    int // sessions with a state
	// forward takes the messages that become available; nil keeps them here. leaving are those that it gets when the lock is
	// released.
	forward func(*message) error
	leaving []*message
	due     dueHeap
	seen    seenIDs
	timer   *time.Timer
	armed   int64 // when the timer fires; 0: it does not
}

// outlet is a receiver's link, as its queue sees it: how many messages it may still get. The queue's lock guards it.
type outlet struct {
	credit, delivered uint32
	peekLock          bool
	group             *messageSession // the session that it holds, where the entity has sessions
	waits             *waiter         // while it waits for one
	lost              func()          // is called when it has lost its session, with the queue locked
	stalled           bool            // the connection takes nothing at the moment
	// send puts the message on the wire without waiting; false means not now. It is called with the queue locked.
	send func(m *message) bool
}

func newQueue(cfg QueueConfig, observe func(Record)) *queue {
	cfg.LockDuration = cmp.Or(cfg.LockDuration, time.Minute)
	cfg.MaxDeliveryCount = cmp.Or(cfg.MaxDeliveryCount, 10)
	cfg.MaxBytes = cmp.Or(cfg.MaxBytes, 1<<30)
	q := emptyQueue(cfg.Name, cfg, observe)
	// Dead letters expire never and are delivered as often as anybody likes.
	q.dead = emptyQueue(cfg.Name+"/$DeadLetterQueue", QueueConfig{LockDuration: cfg.LockDuration}, observe)
	q.transfer = emptyQueue(cfg.Name+"/$Transfer/$DeadLetterQueue", QueueConfig{LockDuration: cfg.LockDuration}, observe)
	q.dead.kind, q.transfer.kind, q.dead.transfer = deadQueue, deadQueue, q.transfer
	return q
}

func emptyQueue(name string, cfg QueueConfig, observe func(Record)) *queue {
	now := time.Now()
	q := &queue{name: name, cfg: cfg, observe: observe, created: now, updated: now, index: map[int64]*message{}, byToken: map[amqp.UUID]*message{}}
	q.lockOrder.prev, q.lockOrder.next = &q.lockOrder, &q.lockOrder
	return q
}

// errFull and errLockLost are what clients are told.
var (
	errFull     = &amqp.Error{Condition: "amqp:resource-limit-exceeded", Description: "The entity has reached its maximum size."}
	errLockLost = &amqp.Error{
		Condition:   "com.microsoft:message-lock-lost",
		Description: "The lock supplied is invalid. Either the lock expired, or the message has already been removed from the queue.",
	}
	errNoMessage = errors.New("no such message")
)

func nowMilli() int64 { return time.Now().UnixMilli() }

func (q *queue) report(m *message, kind EventKind, reason string) {
	if q.observe != nil {
		q.observe(Record{
			Time: time.Now(), Queue: q.name, SequenceNumber: m.seq, MessageID: m.id(), Event: kind, Failures: m.failures, Reason: reason,
		})
	}
}

// enqueue takes all messages or none, gives them consecutive sequence numbers, and returns those. Duplicates are dropped
// in silence, as the service does.
func (q *queue) enqueue(messages []*message) ([]int64, error) {
	q.mu.Lock()
	defer q.release()
	var size int64
	for _, m := range messages {
		size += m.size()
		if q.hasSessions() && !m.readSession() {
			return nil, errSessionMissing
		}
	}
	if q.closed {
		return nil, errGone
	}
	if q.bytes+q.dead.locked()+size > q.cfg.MaxBytes {
		return nil, errFull
	}
	now := nowMilli()
	numbers := make([]int64, len(messages))
	for i, m := range messages {
		if q.cfg.DuplicateWindow > 0 {
			raw, _ := amqp.RawMessageID(m.properties) // read when it was parsed
			if q.seen.before(string(raw), now, q.cfg.DuplicateWindow) {
				q.report(m, Duplicate, "")
				continue
			}
		}
		q.lastSeq++
		m.seq, numbers[i] = q.lastSeq, q.lastSeq
		m.state, m.enqueued = available, now
		if m.visible > now {
			m.state, m.enqueued = scheduled, m.visible
			q.schedule(m.visible, m.seq)
		}
		ttl := q.cfg.DefaultTTL.Milliseconds()
		if m.ttl != nil && (ttl == 0 || int64(*m.ttl) < ttl) {
			ttl = int64(*m.ttl)
		}
		if ttl > 0 {
			if expires := m.enqueued + ttl; m.expires == 0 || expires < m.expires { // the topic's bounds it too
				m.expires = expires
			}
		}
		if m.expires > 0 {
			q.schedule(m.expires, m.seq)
		}
		q.insert(m)
		q.report(m, Enqueued, "")
	}
	q.dispatch()
	q.arm()
	return numbers, nil
}

func (q *queue) locked() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// insert adds a message with its sequence number; dead letters come in any order.
func (q *queue) insert(m *message) {
	q.index[m.seq] = m
	q.counts[m.state]++
	q.bytes += m.size()
	at := len(q.order)
	if at > 0 && q.order[at-1] > m.seq {
		at, _ = slices.BinarySearch(q.order, m.seq)
		q.order = slices.Insert(q.order, at, m.seq)
	} else {
		q.order = append(q.order, m.seq)
	}
	q.cursor = min(q.cursor, at)
	if q.hasSessions() {
		q.sortIn(m)
	}
}

// setState changes a message's state.
func (q *queue) setState(m *message, s state) {
	q.counts[m.state]--
	m.state = s
	if s != gone {
		q.counts[s]++
		if s == available {
			at, _ := slices.BinarySearch(q.order, m.seq)
			q.cursor = min(q.cursor, at)
			if q.hasSessions() {
				q.sortIn(m)
			}
		}
		return
	}
	delete(q.index, m.seq)
	q.bytes -= m.size()
	if len(q.order) > 2*len(q.index)+1024 {
		// Sweep: what is before the cursor and still there stays before it.
		before := 0
		kept := q.order[:0]
		for i, seq := range q.order {
			if q.index[seq] == nil {
				continue
			}
			if i < q.cursor {
				before++
			}
			kept = append(kept, seq)
		}
		q.order, q.cursor = slices.Clip(kept), before
		if cap(kept) > 4*len(kept)+4096 {
			q.order = slices.Clone(kept)
		}
	}
}

// dispatch hands out messages while there are any and somebody wants them.
func (q *queue) dispatch() {
	if q.forward != nil {
		for m := q.nextAvailable(); m != nil; m = q.nextAvailable() {
			q.setState(m, gone)
			q.report(m, Forwarded, "")
			q.leaving = append(q.leaving, m)
		}
		return
	}
	if q.hasSessions() {
		q.dispatchSessions()
		return
	}
	for {
		o := q.nextOutlet()
		if o == nil {
			return
		}
		m := q.nextAvailable()
		if m == nil {
			return
		}
		q.deliver(o, m)
	}
}

// deliver sends a message to a receiver, or notes that it takes nothing at the moment.
func (q *queue) deliver(o *outlet, m *message) {
	if o.peekLock {
		q.lock(m)
	}
	if !o.send(m) {
		if o.peekLock {
			q.unlock(m)
			q.setState(m, available)
		}
		o.stalled = true
		return
	}
	o.credit--
	o.delivered++
	q.report(m, Delivered, "")
	if !o.peekLock {
		q.setState(m, gone)
		q.report(m, Completed, "")
	}
}

// nextOutlet picks the receivers in turn.
func (q *queue) nextOutlet() *outlet {
	for range q.outlets {
		q.turn++
		if o := q.outlets[q.turn%len(q.outlets)]; o.credit > 0 && !o.stalled {
			return o
		}
	}
	return nil
}

func (q *queue) nextAvailable() *message {
	for ; q.cursor < len(q.order); q.cursor++ {
		if m := q.index[q.order[q.cursor]]; m != nil && m.state == available {
			return m
		}
	}
	return nil
}

// lock and unlock tie a message to a token; the caller sets the state after unlock.
func (q *queue) lock(m *message) {
	q.setState(m, locked)
	m.token, m.until = newToken(), nowMilli()+q.cfg.LockDuration.Milliseconds()
	q.byToken[m.token] = m
	if q.hasSessions() {
		m.until = q.sessionOf(m.session).until.UnixMilli() // its session's lock is its own
		return
	}
	q.linkLast(m)
	q.armFor(m.until)
}

func (q *queue) linkLast(m *message) {
	m.prev, m.next = q.lockOrder.prev, &q.lockOrder
	m.prev.next, m.next.prev = m, m
}

func (q *queue) unlock(m *message) {
	delete(q.byToken, m.token)
	if m.next == nil {
		return
	}
	m.prev.next, m.next.prev = m.next, m.prev
	m.prev, m.next = nil, nil
}

// subscribe adds a receiver, unsubscribe removes it: what it holds stays locked, as in the service.
func (q *queue) subscribe(o *outlet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.outlets = append(q.outlets, o)
}

func (q *queue) unsubscribe(o *outlet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.outlets = slices.DeleteFunc(q.outlets, func(other *outlet) bool { return other == o })
}

// wake lets a stalled receiver have messages again.
func (q *queue) wake(o *outlet) {
	q.mu.Lock()
	defer q.release()
	o.stalled = false
	q.dispatch()
	q.arm()
}

// grant sets a receiver's credit by its flow frame (AMQP 1.0 part 2, §2.6.7), and uses it up at once when it drains. It
// returns the delivery count and the credit that remain.
func (q *queue) grant(o *outlet, deliveryCount *uint32, credit uint32, drain bool) (delivered, left uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var counted uint32
	if deliveryCount != nil {
		counted = *deliveryCount
	}
	o.credit = counted + credit - o.delivered
	if int32(o.credit) < 0 {
		o.credit = 0
	}
	q.dispatch()
	q.arm()
	if drain {
		o.delivered += o.credit
		o.credit = 0
	}
	return o.delivered, o.credit
}

// renew extends the locks and returns until when; all or none.
func (q *queue) renew(tokens []amqp.UUID) ([]time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range tokens {
		if q.byToken[t] == nil || q.hasSessions() {
			return nil, errLockLost
		}
	}
	until := make([]time.Time, len(tokens))
	for i, t := range tokens {
		m := q.byToken[t]
		m.until = nowMilli() + q.cfg.LockDuration.Milliseconds()
		until[i] = time.UnixMilli(m.until).UTC()
		m.prev.next, m.next.prev = m.next, m.prev
		q.linkLast(m)
		q.report(m, Renewed, "")
	}
	return until, nil
}

// settlement is what a client wants done with a message that it holds.
type settlement struct {
	kind                EventKind // Completed, Abandoned, Released, Deferred or DeadLettered
	reason, description string
	modify              amqp.Map
}

// settle ends the lock; errLockLost if there is none.
func (q *queue) settle(token amqp.UUID, s settlement) error {
	q.mu.Lock()
	defer q.release()
	m := q.byToken[token]
	switch {
	case m == nil && q.hasSessions():
		return errSessionLockLost
	case m == nil:
		return errLockLost
	}
	q.unlock(m)
	before := m.size()
	m.modify(s.modify)
	q.bytes += m.size() - before
	switch s.kind {
	case Completed:
		q.setState(m, gone)
		q.report(m, Completed, "")
	case Deferred:
		m.wasDeferred = true
		q.setState(m, deferred)
		q.report(m, Deferred, "")
	case DeadLettered:
		q.deadLetter(m, s.reason, s.description)
	case Released:
		q.giveBack(m)
		q.report(m, Released, "")
	default:
		q.fail(m, Abandoned)
	}
	q.dispatch()
	q.arm()
	return nil
}

// giveBack makes an unlocked message what it was before it was delivered.
func (q *queue) giveBack(m *message) {
	if m.wasDeferred {
		q.setState(m, deferred)
		return
	}
	q.setState(m, available)
}

// fail counts a failed delivery, and buries the message when there were too many. A dead-letter queue counts none.
func (q *queue) fail(m *message, kind EventKind) {
	if q.kind == deadQueue {
		q.giveBack(m)
		q.report(m, kind, "")
		return
	}
	m.failures++
	q.giveBack(m)
	q.report(m, kind, "")
	if int(m.failures) >= q.cfg.MaxDeliveryCount {
		q.deadLetter(m, "MaxDeliveryCountExceeded", "Message could not be consumed after the maximum number of delivery attempts.")
	}
}

// deadLetter moves an unlocked message to the dead-letter queue; within it, the message stays.
func (q *queue) deadLetter(m *message, reason, description string) {
	if q.kind == deadQueue {
		q.setState(m, available)
		return
	}
	q.setState(m, gone)
	m.modify(amqp.Map{{Key: propertyReason, Value: reason}, {Key: propertyDescription, Value: description}})
	m.wasDeferred, m.expires, m.deadSource = false, 0, q.name
	q.report(m, DeadLettered, reason)
	q.dead.receiveDead(m)
}

func (q *queue) receiveDead(m *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.state = available
	q.insert(m)
	q.dispatch()
	q.arm()
}

// from returns up to limit messages in order of their sequence numbers. The caller holds the lock.
func (q *queue) from(seq int64, limit int) []*message {
	at, _ := slices.BinarySearch(q.order, seq)
	var list []*message
	for _, number := range q.order[at:] {
		if len(list) >= limit {
			break
		}
		if m := q.index[number]; m != nil {
			list = append(list, m)
		}
	}
	return list
}

// peek returns encoded messages from a sequence number on, at most limit and about maxBuffered bytes of them.
//
// With a session, only of that one.
func (q *queue) peek(seq int64, limit int, session *string) [][]byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list [][]byte
	total := 0
	within := limit
	if session != nil {
		within = len(q.index)
	}
	for _, m := range q.from(seq, within) {
		if session != nil && (m.session != *session || len(list) >= limit) {
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

// receivedDeferred is a deferred message that was received by its number.
type receivedDeferred struct {
	encoded []byte
	token   amqp.UUID
}

// receiveDeferred receives deferred messages by sequence number, all or none; without peekLock they are gone.
func (q *queue) receiveDeferred(numbers []int64, peekLock bool) ([]receivedDeferred, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, seq := range numbers {
		m := q.index[seq]
		if m == nil || m.state != deferred {
			return nil, errNoMessage
		}
		if q.hasSessions() && q.sessionOf(m.session).holder == nil {
			return nil, errSessionLockLost
		}
	}
	list := make([]receivedDeferred, len(numbers))
	for i, seq := range numbers {
		m := q.index[seq]
		if m == nil || m.state != deferred {
			continue // named twice
		}
		if peekLock {
			q.lock(m)
		}
		list[i] = receivedDeferred{m.encode(nil, view{locked: peekLock}), m.token}
		q.report(m, Delivered, "")
		if !peekLock {
			q.setState(m, gone)
			q.report(m, Completed, "")
		}
	}
	q.arm()
	return slices.DeleteFunc(list, func(t receivedDeferred) bool { return t.encoded == nil }), nil
}

// cancel removes scheduled messages, all or none.
func (q *queue) cancel(numbers []int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, seq := range numbers {
		if m := q.index[seq]; m == nil || m.state != scheduled {
			return errNoMessage
		}
	}
	for _, seq := range numbers {
		if m := q.index[seq]; m != nil {
			q.setState(m, gone)
			q.report(m, Canceled, "")
		}
	}
	return nil
}

func (q *queue) count() Counts {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := Counts{
		Active: q.counts[available] + q.counts[locked], Locked: q.counts[locked],
		Scheduled: q.counts[scheduled], Deferred: q.counts[deferred], Bytes: q.bytes,
	}
	if q.dead != nil {
		dead := q.dead.count()
		c.DeadLetter, c.Bytes = dead.Active+dead.Deferred, c.Bytes+dead.Bytes
	}
	return c
}
