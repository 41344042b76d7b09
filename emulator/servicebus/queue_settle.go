package servicebus

import (
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// How locks are renewed and end.

// settlement is what a client wants done with a message that it has locked.
type settlement struct {
	kind                EventKind // Completed, Abandoned, Released, Deferred or DeadLettered
	reason, description string
	modify              amqp.Map // merged into the application properties
}

// settle ends the lock. It returns errLockLost or errSessionLockLost if there is none, and
// errDeadLettered for what a dead-letter queue does not do. With errProperties, because the message
// would get too many properties, it stays locked.
func (q *queue) settle(token amqp.UUID, s settlement) error {
	q.mu.Lock()
	defer q.unlockAndForward()
	m := q.locks.find(token)
	switch {
	case m == nil && q.hasSessions():
		return errSessionLockLost
	case m == nil:
		return errLockLost
	}
	if !q.messages.modify(m, s.modify) {
		return errProperties
	}
	q.locks.remove(m)
	switch s.kind {
	case Completed:
		q.setState(m, gone)
		q.report(m, Completed, "")
	case Deferred:
		m.wasDeferred = true
		if q.kind != deadQueue && !q.cfg.FreeDeferrals { // a dead-letter queue counts no delivery
			m.deferrals++
		}
		q.setState(m, deferred)
		q.report(m, Deferred, "")
		q.endDeliveries(m)
	case DeadLettered:
		q.deadLetter(m, s.reason, s.description)
		if q.kind == deadQueue {
			q.advance()
			return errDeadLettered
		}
	case Released:
		q.restore(m)
		q.report(m, Released, "")
		q.expire(m, nowMilli())
	default:
		q.failDelivery(m, Abandoned)
	}
	q.advance()
	return nil
}

// renew extends the locks, all or none, and returns their new ends. The locks of sessions are
// renewed by renewSession.
func (q *queue) renew(tokens []amqp.UUID) ([]time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, t := range tokens {
		if q.locks.find(t) == nil || q.hasSessions() {
			return nil, errLockLost
		}
	}
	until := make([]time.Time, len(tokens))
	for i, t := range tokens {
		m := q.locks.find(t)
		q.locks.renew(m, nowMilli()+q.cfg.LockDuration.Milliseconds())
		until[i] = time.UnixMilli(m.until).UTC()
		q.report(m, Renewed, "")
	}
	return until, nil
}

// restore gives a message that is no longer locked the state that it had before its delivery.
func (q *queue) restore(m *message) {
	if m.wasDeferred {
		q.setState(m, deferred)
		return
	}
	q.setState(m, available)
}

// failDelivery counts a failed delivery of a message that is no longer locked, and dead-letters
// the message if there were too many. A dead-letter queue counts none.
func (q *queue) failDelivery(m *message, kind EventKind) {
	if q.kind == deadQueue {
		q.restore(m)
		q.report(m, kind, "")
		return
	}
	m.failures++
	q.restore(m)
	q.report(m, kind, "")
	if !q.endDeliveries(m) {
		q.expire(m, nowMilli())
	}
}

// endDeliveries dead-letters a message that was delivered as often as its queue allows, and reports
// whether it did.
func (q *queue) endDeliveries(m *message) bool {
	if q.kind == deadQueue || int(m.deliveries()) < q.cfg.MaxDeliveryCount {
		return false
	}
	q.deadLetter(m, "MaxDeliveryCountExceeded", "Message could not be consumed after the maximum number of delivery attempts.")
	return true
}

// deadLetter moves a message that is not locked to the dead-letter queue. A message of a
// dead-letter queue stays there.
func (q *queue) deadLetter(m *message, reason, description string) {
	if q.kind == deadQueue {
		q.setState(m, available)
		return
	}
	q.setState(m, gone)
	q.bury(m, reason, description)
}

// bury adds a message that is not in the queue to the dead-letter queue.
func (q *queue) bury(m *message, reason, description string) {
	m.modify(amqp.Map{{Key: propertyReason, Value: reason}, {Key: propertyDescription, Value: description}})
	m.wasDeferred, m.expires, m.deadSource = false, 0, q.name
	q.report(m, DeadLettered, reason)
	q.dead.addDeadLetter(m)
}
