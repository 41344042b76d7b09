package servicebus

import (
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What a queue does with message sessions.

var (
	errSessionLockLost = &amqp.Error{
		Condition:   "com.microsoft:session-lock-lost",
		Description: "The session lock has expired on the MessageSession. Accept a new MessageSession.",
	}
	errSessionTaken = &amqp.Error{
		Condition:   "com.microsoft:session-cannot-be-locked",
		Description: "The requested session cannot be accepted. It may be locked by another receiver.",
	}
	errNoSession = &amqp.Error{
		Condition:   "com.microsoft:timeout",
		Description: "The operation did not complete within the allotted timeout: no session with messages is free.",
	}
	errSessionMissing = &amqp.Error{
		Condition:   "amqp:not-allowed",
		Description: "The message has no session id, and the entity requires sessions.",
	}
)

// hasSessions reports whether the entity requires sessions. A dead-letter queue never does.
func (q *queue) hasSessions() bool { return q.requiresSession }

// dispatchSessions grants free sessions to the receivers that wait for one, and sends messages to
// the receivers that hold one.
func (q *queue) dispatchSessions() {
	for {
		w, s, ok := q.sessions.nextGrant()
		if !ok {
			break
		}
		w.granted(s)
	}
	for _, o := range q.outlets.all {
		for o.session != nil && o.ready() {
			m := q.sessions.nextMessage(o.session)
			if m == nil {
				break
			}
			q.deliver(o, m)
		}
	}
}

// lockSession makes the receiver the session's holder until the lock expires.
func (q *queue) lockSession(s *messageSession, o *outlet) {
	s.holder, o.session = o, s
	q.outlets.add(o)
	q.extendSession(s)
}

func (q *queue) extendSession(s *messageSession) {
	s.until = time.Now().Add(q.cfg.LockDuration)
	if s.expiry != nil {
		s.expiry.Stop()
	}
	o := s.holder
	s.expiry = time.AfterFunc(q.cfg.LockDuration, func() { q.expireSession(s, o) })
}

// expireSession ends the holder's lock, unless it was renewed or released in the meantime.
func (q *queue) expireSession(s *messageSession, holder *outlet) {
	q.mu.Lock()
	defer q.unlockAndForward()
	if q.closed || s.holder != holder || time.Now().Before(s.until) {
		return
	}
	q.releaseSession(s, LockExpired)
	if holder.lost != nil {
		holder.lost()
	}
	q.advance()
}

// releaseSession ends the holder's lock and returns the holder's messages to the session. Each of
// them counts as a failed delivery if the lock expired, but not if the holder closed its link.
func (q *queue) releaseSession(s *messageSession, why EventKind) {
	if s.holder == nil {
		return
	}
	q.outlets.remove(s.holder)
	s.holder = nil
	s.expiry.Stop()
	for _, m := range q.sessions.lockedMessages(s) {
		q.locks.remove(m)
		if why == LockExpired {
			q.failDelivery(m, LockExpired)
		} else {
			q.restore(m)
			q.report(m, Released, "")
		}
	}
	q.sessions.forgetIfEmpty(s)
}

// acceptNamedSession locks the session with the id for the receiver, which gets its messages from
// now on.
func (q *queue) acceptNamedSession(id string, o *outlet) (*messageSession, *amqp.Error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s := q.sessions.find(id); s != nil && s.holder != nil {
		return nil, errSessionTaken
	}
	s := q.sessions.get(id)
	q.lockSession(s, o)
	return s, nil
}

// acceptNextSession calls granted with a session as soon as one is free, or expired if none is free
// within the wait. It calls both with the queue locked, and granted possibly before it returns.
func (q *queue) acceptNextSession(o *outlet, wait time.Duration, granted func(*messageSession), expired func()) {
	q.mu.Lock()
	defer q.unlockAndForward()
	w := &sessionWaiter{granted: func(s *messageSession) {
		q.lockSession(s, o)
		granted(s)
	}}
	w.timeout = time.AfterFunc(wait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.sessions.removeWaiter(w) {
			expired()
		}
	})
	q.sessions.waiters = append(q.sessions.waiters, w)
	o.waiter = w
	q.advance()
}

// closeSessionReceiver releases the session that the receiver holds, or stops its wait for one.
func (q *queue) closeSessionReceiver(o *outlet) {
	q.mu.Lock()
	defer q.unlockAndForward()
	if o.waiter != nil {
		q.sessions.removeWaiter(o.waiter)
	}
	if s := o.session; s != nil && s.holder == o {
		q.releaseSession(s, Released)
	}
	q.advance()
}

// heldSession returns the session that a receiver of the connection holds. The error is
// errSessionLockLost if there is no such receiver. The caller holds the lock.
func (q *queue) heldSession(id string, owner *conn) (*messageSession, error) {
	s := q.sessions.find(id)
	if s == nil || s.holder == nil || s.holder.owner != owner {
		return nil, errSessionLockLost
	}
	return s, nil
}

// renewSession extends the session's lock and returns its new end.
func (q *queue) renewSession(id string, owner *conn) (time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, err := q.heldSession(id, owner)
	if err != nil {
		return time.Time{}, err
	}
	q.extendSession(s)
	return s.until, nil
}

// sessionState returns the session's state, or nil if it has none.
func (q *queue) sessionState(id string, owner *conn) ([]byte, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, err := q.heldSession(id, owner)
	if err != nil {
		return nil, err
	}
	return s.state, nil
}

// setSessionState sets the session's state, or clears it if state is empty. It returns errFull if
// the queue has no room for it.
func (q *queue) setSessionState(id string, state []byte, owner *conn) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	s, err := q.heldSession(id, owner)
	if err != nil {
		return err
	}
	if added := int64(len(state) - len(s.state)); added > 0 && q.messages.bytes+added > q.cfg.MaxBytes {
		return errFull
	}
	q.changes++
	return q.sessions.setState(id, state)
}

// sessionIDs lists the sessions with active messages or a state. If since is not zero, it lists the
// sessions whose state was set after that.
func (q *queue) sessionIDs(since time.Time) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sessions.ids(since)
}
