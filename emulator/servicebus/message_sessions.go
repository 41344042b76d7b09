package servicebus

import (
	"slices"
	"strings"
	"time"
)

// A message session of Service Bus is the messages with the same group-id. One receiver at a time
// may hold it (https://learn.microsoft.com/azure/service-bus-messaging/message-sessions). The
// sessions of AMQP, of which one connection has several, are the type session.

// maxStates bounds how many sessions of one entity may have a state.
const maxStates = 10_000

// messageSession is one session: its messages, its state and its holder. The table forgets a
// session that has none of them.
type messageSession struct {
	id    string
	order sequence // of its messages

	state        []byte // nil if it has none
	stateUpdated time.Time

	holder *outlet
	until  time.Time // when the holder's lock expires
	expiry *time.Timer
}

// sessionWaiter is a receiver that waits for the next session that is free and has messages.
// granted is called with the queue locked.
type sessionWaiter struct {
	granted func(s *messageSession)
	timeout *time.Timer
}

// sessionTable holds a queue's sessions and the receivers that wait for one.
type sessionTable struct {
	messages *store // the queue's
	byID     map[string]*messageSession
	waiters  []*sessionWaiter // the first is served first
	states   int              // how many sessions have a state
	sweepAt  int              // the size of byID at which sweep works
}

// find returns the session, or nil if there is none.
func (t *sessionTable) find(id string) *messageSession { return t.byID[id] }

// get returns the session, and creates it if there is none.
func (t *sessionTable) get(id string) *messageSession {
	s := t.byID[id]
	if s == nil {
		t.sweep()
		s = &messageSession{id: id}
		if t.byID == nil {
			t.byID = map[string]*messageSession{}
		}
		t.byID[id] = s
	}
	return s
}

// forgetIfEmpty drops a session without messages, state and holder.
func (t *sessionTable) forgetIfEmpty(s *messageSession) {
	s.order.sweep(t.messages)
	if len(s.order.numbers) == 0 && s.state == nil && s.holder == nil {
		delete(t.byID, s.id)
	}
}

// sweep drops the sessions whose messages have expired.
func (t *sessionTable) sweep() {
	if len(t.byID) < t.sweepAt {
		return
	}
	for _, s := range t.byID {
		t.forgetIfEmpty(s)
	}
	t.sweepAt = 2*len(t.byID) + 1000
}

// add puts a message into its session, or makes the session look at it again.
func (t *sessionTable) add(m *message) {
	s := t.get(m.sessionID)
	if s.order.cursor > 64 && s.order.cursor > len(s.order.numbers)/2 {
		s.order.sweep(t.messages)
	}
	s.order.add(m.seq)
}

// nextMessage returns the session's first available message, or nil if there is none.
func (t *sessionTable) nextMessage(s *messageSession) *message { return s.order.next(t.messages) }

// lockedMessages returns the session's messages that its holder has locked.
func (t *sessionTable) lockedMessages(s *messageSession) []*message {
	var list []*message
	for _, seq := range s.order.numbers {
		if m := t.messages.get(seq); m != nil && m.state == locked {
			list = append(list, m)
		}
	}
	return list
}

// nextFree returns, of the sessions without a holder, the one with the oldest available message.
// It returns nil if there is none.
func (t *sessionTable) nextFree() *messageSession {
	var best *messageSession
	var oldest int64
	for _, s := range t.byID {
		if s.holder != nil {
			continue
		}
		if m := t.nextMessage(s); m != nil && (best == nil || m.seq < oldest) {
			best, oldest = s, m.seq
		}
	}
	return best
}

// nextGrant removes the first waiter if a session is free, and returns both. ok is false if nobody
// waits or no session is free.
func (t *sessionTable) nextGrant() (w *sessionWaiter, s *messageSession, ok bool) {
	if len(t.waiters) == 0 {
		return nil, nil, false
	}
	if s = t.nextFree(); s == nil {
		return nil, nil, false
	}
	w = t.waiters[0]
	t.waiters = t.waiters[1:]
	w.timeout.Stop()
	return w, s, true
}

// removeWaiter reports whether the receiver was waiting.
func (t *sessionTable) removeWaiter(w *sessionWaiter) bool {
	at := slices.Index(t.waiters, w)
	if at < 0 {
		return false
	}
	w.timeout.Stop()
	t.waiters = slices.Delete(t.waiters, at, at+1)
	return true
}

// setState sets a session's state, or clears it if state is empty. It returns errFull if too many
// sessions have a state.
func (t *sessionTable) setState(id string, state []byte) error {
	s := t.get(id)
	if s.state == nil && len(state) > 0 && t.states >= maxStates {
		return errFull
	}
	t.messages.bytes += int64(len(state) - len(s.state))
	if s.state != nil {
		t.states--
	}
	s.state, s.stateUpdated = nil, time.Now()
	if len(state) > 0 {
		s.state = slices.Clone(state)
		t.states++
	}
	t.forgetIfEmpty(s)
	return nil
}

// ids lists the sessions with active messages or a state. If since is not zero, it lists the
// sessions whose state was set after that.
func (t *sessionTable) ids(since time.Time) []string {
	var ids []string
	for id, s := range t.byID {
		listed := s.state != nil && s.stateUpdated.After(since)
		if since.IsZero() {
			listed = s.state != nil || t.hasActive(s)
		}
		if listed {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, strings.Compare)
	return ids
}

func (t *sessionTable) hasActive(s *messageSession) bool {
	return slices.ContainsFunc(s.order.numbers, func(seq int64) bool {
		m := t.messages.get(seq)
		return m != nil && (m.state == available || m.state == locked)
	})
}

// stop stops the timers for good.
func (t *sessionTable) stop() {
	for _, w := range t.waiters {
		w.timeout.Stop()
	}
	for _, s := range t.byID {
		if s.expiry != nil {
			s.expiry.Stop()
		}
	}
}
