package servicebus

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// Sessions of Service Bus: messages with the same group-id, which one receiver at a time may hold
// (https://learn.microsoft.com/azure/service-bus-messaging/message-sessions). The queue's lock guards them.

// maxStates bounds how many sessions of one entity may have a state.
const maxStates = 10_000

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
	errSessionMissing = &amqp.Error{Condition: "amqp:not-allowed", Description: "The message has no session id, and the entity requires sessions."}
)

// messageSession is one session: its messages, its state and who holds it. It is forgotten when it has none of them.
type messageSession struct {
	id string
	// order are the sequence numbers of its messages, ascending, with some of messages that are gone; before order[cursor]
	// nothing is available.
	order  []int64
	cursor int

	state        []byte // nil: none
	stateUpdated time.Time

	holder *outlet
	until  time.Time // of the holder's lock
	expiry *time.Timer
}

// waiter is a receiver that waits for the next session that is free and has messages. granted is called with the queue locked.
type waiter struct {
	granted func(g *messageSession)
	timer   *time.Timer
}

func (q *queue) hasSessions() bool { return q.cfg.RequiresSession && q.kind != deadQueue }

// sessionOf returns the session, which is made if need be.
func (q *queue) sessionOf(id string) *messageSession {
	g := q.sessions[id]
	if g == nil {
		g = &messageSession{id: id}
		if q.sessions == nil {
			q.sessions = map[string]*messageSession{}
		}
		q.sessions[id] = g
	}
	return g
}

// forgetSession drops a session that has nothing any more.
func (q *queue) forgetSession(g *messageSession) {
	g.order = slices.DeleteFunc(g.order, func(seq int64) bool { return q.index[seq] == nil })
	g.cursor = 0
	if len(g.order) == 0 && g.state == nil && g.holder == nil {
		delete(q.sessions, g.id)
	}
}

// sortIn puts a message into its session, or back to where it was.
func (q *queue) sortIn(m *message) {
	g := q.sessionOf(m.session)
	if g.cursor > 64 && g.cursor > len(g.order)/2 {
		g.order = slices.DeleteFunc(g.order, func(seq int64) bool { return q.index[seq] == nil })
		g.cursor = 0
	}
	at, found := slices.BinarySearch(g.order, m.seq)
	if !found {
		g.order = slices.Insert(g.order, at, m.seq)
	}
	g.cursor = min(g.cursor, at)
}

func (q *queue) nextIn(g *messageSession) *message {
	for ; g.cursor < len(g.order); g.cursor++ {
		if m := q.index[g.order[g.cursor]]; m != nil && m.state == available {
			return m
		}
	}
	return nil
}

// readSession finds the message's session id; "" is one.
func (m *message) readSession() (found bool) {
	p, err := amqp.ReadProperties(m.properties)
	if err != nil || p.GroupID == nil {
		return false
	}
	m.session = *p.GroupID
	return true
}

// dispatchSessions gives free sessions to those who wait for one, and messages to those who hold one.
func (q *queue) dispatchSessions() {
	for len(q.waiters) > 0 {
		g := q.nextFree()
		if g == nil {
			break
		}
		w := q.waiters[0]
		q.waiters = q.waiters[1:]
		w.timer.Stop()
		w.granted(g)
	}
	for _, o := range q.outlets {
		for o.group != nil && o.credit > 0 && !o.stalled {
			m := q.nextIn(o.group)
			if m == nil {
				break
			}
			q.deliver(o, m)
		}
	}
}

// nextFree is the session that nobody holds with the oldest message.
func (q *queue) nextFree() *messageSession {
	var best *messageSession
	var oldest int64
	for _, g := range q.sessions {
		if g.holder != nil {
			continue
		}
		if m := q.nextIn(g); m != nil && (best == nil || m.seq < oldest) {
			best, oldest = g, m.seq
		}
	}
	return best
}

// lockSession makes the outlet the session's holder until the lock expires.
func (q *queue) lockSession(g *messageSession, o *outlet) {
	g.holder, o.group = o, g
	q.outlets = append(q.outlets, o)
	q.extend(g)
}

func (q *queue) extend(g *messageSession) {
	g.until = time.Now().Add(q.cfg.LockDuration)
	if g.expiry != nil {
		g.expiry.Stop()
	}
	o := g.holder
	g.expiry = time.AfterFunc(q.cfg.LockDuration, func() {
		q.mu.Lock()
		defer q.release()
		if q.closed || g.holder != o || time.Now().Before(g.until) {
			return
		}
		q.releaseSession(g, LockExpired)
		if o.lost != nil {
			o.lost()
		}
		q.dispatch()
		q.arm()
	})
}

// releaseSession ends the holder's lock: what it holds is available again. An expired lock is a failed delivery, a closed link is none.
func (q *queue) releaseSession(g *messageSession, why EventKind) {
	o := g.holder
	if o == nil {
		return
	}
	g.holder = nil
	g.expiry.Stop()
	q.outlets = slices.DeleteFunc(q.outlets, func(other *outlet) bool { return other == o })
	for _, seq := range slices.Clone(g.order) {
		m := q.index[seq]
		if m == nil || m.state != locked {
			continue
		}
		q.unlock(m)
		if why == LockExpired {
			q.fail(m, LockExpired)
		} else {
			q.giveBack(m)
			q.report(m, Released, "")
		}
	}
	q.forgetSession(g)
}

// acceptNamed takes a session by its id; the outlet gets its messages from now on.
func (q *queue) acceptNamed(id string, o *outlet) (*messageSession, *amqp.Error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g := q.sessions[id]; g != nil && g.holder != nil {
		return nil, errSessionTaken
	}
	g := q.sessionOf(id)
	q.lockSession(g, o)
	return g, nil
}

// acceptNext calls granted with a session, now or later, or expired. Both are called with the queue locked.
func (q *queue) acceptNext(o *outlet, wait time.Duration, granted func(*messageSession), expired func()) {
	q.mu.Lock()
	defer q.release()
	w := &waiter{granted: func(g *messageSession) {
		q.lockSession(g, o)
		granted(g)
	}}
	w.timer = time.AfterFunc(wait, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if at := slices.Index(q.waiters, w); at >= 0 {
			q.waiters = slices.Delete(q.waiters, at, at+1)
			expired()
		}
	})
	q.waiters = append(q.waiters, w)
	o.waits = w
	q.dispatch()
	q.arm()
}

// leave ends what a receiver of sessions has or waits for.
func (q *queue) leave(o *outlet) {
	q.mu.Lock()
	defer q.release()
	if at := slices.Index(q.waiters, o.waits); o.waits != nil && at >= 0 {
		o.waits.timer.Stop()
		q.waiters = slices.Delete(q.waiters, at, at+1)
	}
	if g := o.group; g != nil && g.holder == o {
		q.releaseSession(g, Released)
	}
	q.dispatch()
	q.arm()
}

func (q *queue) renewSession(id string) (time.Time, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.sessions[id]
	if g == nil || g.holder == nil {
		return time.Time{}, errSessionLockLost
	}
	q.extend(g)
	return g.until, nil
}

func (q *queue) sessionState(id string) []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if g := q.sessions[id]; g != nil {
		return g.state
	}
	return nil
}

// setSessionState sets or, with nil, clears it.
func (q *queue) setSessionState(id string, state []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.sessionOf(id)
	if g.state == nil && len(state) > 0 && q.states >= maxStates {
		return errFull
	}
	q.bytes += int64(len(state) - len(g.state))
	if g.state != nil {
		q.states--
	}
	g.state, g.stateUpdated = nil, time.Now()
	if len(state) > 0 {
		g.state = slices.Clone(state)
		q.states++
	}
	q.forgetSession(g)
	return nil
}

// sessionIDs lists the sessions with active messages or a state, or those whose state was set after a time.
func (q *queue) sessionIDs(since time.Time) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var ids []string
	for id, g := range q.sessions {
		switch {
		case !since.IsZero():
			if g.state == nil || !g.stateUpdated.After(since) {
				continue
			}
		case g.state == nil && !slices.ContainsFunc(g.order, func(seq int64) bool {
			m := q.index[seq]
			return m != nil && (m.state == available || m.state == locked)
		}):
			continue
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, strings.Compare)
	return ids
}

// endSessions stops the timers for good.
func (q *queue) endSessions() {
	for _, w := range q.waiters {
		w.timer.Stop()
	}
	for g := range maps.Values(q.sessions) {
		if g.expiry != nil {
			g.expiry.Stop()
		}
	}
}
