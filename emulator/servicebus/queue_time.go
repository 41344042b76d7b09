package servicebus

import "math"

// What a queue does as time passes.

// setAlarm sets the alarm for the next lock that expires and the next due time.
func (q *queue) setAlarm() {
	if first := q.locks.first(); first != nil {
		q.alarm.set(first.until)
	}
	if at, ok := q.due.first(); ok {
		q.alarm.set(at)
	}
}

// tick does what is due. The alarm calls it.
func (q *queue) tick() {
	q.mu.Lock()
	defer q.unlockAndForward()
	if q.closed {
		return
	}
	q.alarm.fired()
	now := nowMilli()
	q.expireLocks(now)
	for seq, ok := q.due.pop(now); ok; seq, ok = q.due.pop(now) {
		if m := q.messages.get(seq); m != nil {
			q.handleDue(m, now)
		}
	}
	q.advance()
}

// expireAllLocks ends the locks of all messages, but not those of sessions.
func (q *queue) expireAllLocks() {
	q.mu.Lock()
	defer q.unlockAndForward()
	q.expireLocks(math.MaxInt64)
	q.advance()
}

// expireLocks ends the locks that last until the given time or less.
func (q *queue) expireLocks(until int64) {
	for m := q.locks.first(); m != nil && m.until <= until; m = q.locks.first() {
		q.locks.remove(m)
		q.failDelivery(m, LockExpired)
	}
}

// handleDue activates a scheduled message, or ends a message whose time to live is over.
func (q *queue) handleDue(m *message, now int64) {
	if m.state == scheduled && m.visible <= now {
		q.activate(m)
	}
	q.expire(m, now)
}

// activate appends a scheduled message to the queue as if it were sent now, with a new sequence
// number
// (https://learn.microsoft.com/azure/service-bus-messaging/message-sequencing#scheduled-messages).
func (q *queue) activate(m *message) {
	q.setState(m, gone)
	q.report(m, Forwarded, "")
	m.seq, m.state = q.messages.nextSeq(), available
	if m.expires > 0 {
		q.due.add(m.expires, m.seq, &q.messages)
	}
	q.insert(m)
	q.report(m, Enqueued, "")
}

// expire ends a message whose time to live is over. A locked message stays with its holder, and
// expire looks at it again when the lock has ended. A deferred message does not expire
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-dead-letter-queues#time-to-live).
func (q *queue) expire(m *message, now int64) {
	switch {
	case m.expires == 0 || m.expires > now || m.state == deferred:
	case m.state == locked:
		q.due.add(max(q.lockedUntil(m), now+1), m.seq, &q.messages)
	case q.cfg.DeadLetterOnExpiration:
		q.deadLetter(m, "TTLExpiredException", "The message expired and was dead lettered.")
	default:
		q.setState(m, gone)
		q.report(m, Expired, "")
	}
}

// lockedUntil returns when the message's lock ends, which in a session is the session's lock.
func (q *queue) lockedUntil(m *message) int64 {
	if q.hasSessions() {
		if s := q.sessions.find(m.sessionID); s != nil {
			return s.until.UnixMilli()
		}
	}
	return m.until
}
