package servicebus

import "github.com/session-revoker/session-revoker/emulator/servicebus/amqp"

// How messages get into a queue.

// enqueue accepts all messages or none and returns their sequence numbers, which are consecutive.
// As the service does, it drops duplicates without an error. Their number in the result is 0.
func (q *queue) enqueue(messages []*message) ([]int64, error) {
	q.mu.Lock()
	defer q.unlockAndForward()
	if err := q.check(messages); err != nil {
		return nil, err
	}
	now := nowMilli()
	numbers := make([]int64, len(messages))
	for i, m := range messages {
		if q.isDuplicate(m, now) {
			q.report(m, Duplicate, "")
			continue
		}
		q.accept(m, now)
		numbers[i] = m.seq
	}
	q.advance()
	return numbers, nil
}

// check returns why the queue cannot accept the messages, and reads their session ids.
func (q *queue) check(messages []*message) error {
	var size int64
	for _, m := range messages {
		size += m.size()
		if q.hasSessions() && !m.readSessionID() {
			return errSessionMissing
		}
	}
	if q.closed {
		return errGone
	}
	if q.cfg.DuplicateWindow > 0 && q.seen.isFull(len(messages), nowMilli()) {
		return errFull
	}
	if q.messages.bytes+q.dead.bytes()+q.transfer.bytes()+size > q.cfg.MaxBytes {
		return errFull
	}
	return nil
}

// bytes returns the size of the queue without its dead letters.
func (q *queue) bytes() int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.messages.bytes
}

// isDuplicate reports whether the queue has seen the message's id within its window.
func (q *queue) isDuplicate(m *message, now int64) bool {
	if q.cfg.DuplicateWindow <= 0 {
		return false
	}
	raw, _ := amqp.RawMessageID(m.properties) // parseMessage has checked it
	return q.seen.check(string(raw), now, q.cfg.DuplicateWindow)
}

// accept stores one message and notes when it becomes active and when it expires.
func (q *queue) accept(m *message, now int64) {
	m.seq = q.messages.nextSeq()
	m.state, m.enqueued = available, now
	if m.visible > now {
		m.state, m.enqueued = scheduled, m.visible
		q.due.add(m.visible, m.seq, &q.messages)
	}
	ttl := q.cfg.DefaultTTL.Milliseconds()
	if m.ttl != nil && (ttl == 0 || int64(*m.ttl) < ttl) {
		ttl = int64(*m.ttl)
	}
	if ttl > 0 {
		if expires := m.enqueued + ttl; m.expires == 0 || expires < m.expires { // a topic's time to live counts too
			m.expires = expires
		}
	}
	if m.expires > 0 {
		q.due.add(m.expires, m.seq, &q.messages)
	}
	q.insert(m)
	q.report(m, Enqueued, "")
}

// enqueueDead accepts a message and dead-letters it at once.
func (q *queue) enqueueDead(m *message, reason, description string) error {
	q.mu.Lock()
	defer q.unlockAndForward()
	if err := q.check([]*message{m}); err != nil {
		return err
	}
	m.seq, m.enqueued = q.messages.nextSeq(), nowMilli()
	q.report(m, Enqueued, "")
	q.bury(m, reason, description)
	return nil
}

// addDeadLetter stores a message that another queue has dead-lettered or could not forward.
func (q *queue) addDeadLetter(m *message) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.state = available
	q.changes++
	q.insert(m)
	q.advance()
}

// cancel removes scheduled messages: all or none.
func (q *queue) cancel(numbers []int64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, seq := range numbers {
		if m := q.messages.get(seq); m == nil || m.state != scheduled {
			return errNoMessage
		}
	}
	for _, seq := range numbers {
		if m := q.messages.get(seq); m != nil { // nil if the client named it twice
			q.setState(m, gone)
			q.report(m, Canceled, "")
		}
	}
	return nil
}
