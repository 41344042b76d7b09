package servicebus

import "github.com/session-revoker/session-revoker/emulator/servicebus/amqp"

// How receivers get a queue's messages.

// dispatch delivers or forwards available messages while there is somebody to get them.
func (q *queue) dispatch() {
	if q.forwarding.enabled() {
		q.dispatchForward()
		return
	}
	if q.hasSessions() {
		q.dispatchSessions()
		return
	}
	for {
		o := q.outlets.next()
		if o == nil {
			return
		}
		m := q.messages.nextAvailable()
		if m == nil {
			return
		}
		q.deliver(o, m)
	}
}

// deliver sends a message to a receiver. If the connection accepts nothing at the moment, the
// message stays available and the receiver is stalled.
func (q *queue) deliver(o *outlet, m *message) {
	if o.peekLock {
		q.lock(m)
	}
	if !o.send(m) {
		if o.peekLock {
			q.locks.remove(m)
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

// lock gives a message a lock with a new token.
func (q *queue) lock(m *message) {
	q.setState(m, locked)
	if q.hasSessions() {
		q.locks.addInSession(m, q.sessions.get(m.sessionID).until.UnixMilli())
		return
	}
	q.locks.add(m, nowMilli()+q.cfg.LockDuration.Milliseconds())
	q.alarm.set(m.until)
}

// subscribe adds a receiver.
func (q *queue) subscribe(o *outlet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.outlets.add(o)
}

// unsubscribe removes a receiver. As in the service, its messages stay locked.
func (q *queue) unsubscribe(o *outlet) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.outlets.remove(o)
}

// wake makes a stalled receiver get messages again.
func (q *queue) wake(o *outlet) {
	q.mu.Lock()
	defer q.unlockAndForward()
	o.stalled = false
	q.advance()
}

// grant sets a receiver's credit from a flow frame, and uses it up at once if drain is set. It
// returns the delivery count and the credit that is left.
func (q *queue) grant(o *outlet, deliveryCount *uint32, credit uint32, drain bool) (delivered, left uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var counted uint32
	if deliveryCount != nil {
		counted = *deliveryCount
	}
	o.setCredit(counted, credit)
	q.advance()
	if drain {
		o.drain()
	}
	return o.delivered, o.credit
}

// receivedDeferred is a deferred message that was received by its sequence number.
type receivedDeferred struct {
	encoded []byte
	token   amqp.UUID
}

// maxAnswer is the size of the messages that one request can receive, in bytes. One message may be
// larger.
const maxAnswer = 16 << 20

// receiveDeferred receives deferred messages by sequence number: all or none. With peekLock it
// locks them, without it removes them.
func (q *queue) receiveDeferred(numbers []int64, peekLock bool) ([]receivedDeferred, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var size int64
	for i, seq := range numbers {
		m := q.messages.get(seq)
		if m == nil || m.state != deferred {
			return nil, errNoMessage
		}
		if size += m.size(); size > maxAnswer && i > 0 {
			return nil, errAnswer
		}
		if q.hasSessions() && q.sessions.get(m.sessionID).holder == nil {
			return nil, errSessionLockLost
		}
	}
	list := make([]receivedDeferred, 0, len(numbers))
	for _, seq := range numbers {
		m := q.messages.get(seq)
		if m == nil || m.state != deferred {
			continue // the client named it twice
		}
		if peekLock {
			q.lock(m)
		}
		list = append(list, receivedDeferred{m.encode(nil, view{locked: peekLock}), m.token})
		q.report(m, Delivered, "")
		if !peekLock {
			q.setState(m, gone)
			q.report(m, Completed, "")
		}
	}
	q.setAlarm()
	return list, nil
}
