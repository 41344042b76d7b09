package servicebus

import "testing"

// checkBooks fails unless the parts of a queue are consistent with each other.
func checkBooks(t *testing.T, q *queue) {
	t.Helper()
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	var perState [gone]int
	var bytes int64
	for seq, m := range q.messages.bySeq {
		if m.seq != seq || m.state >= gone {
			t.Errorf("%s: message %d is stored as %d and %s", q.name, m.seq, seq, m.state)
			continue
		}
		perState[m.state]++
		bytes += m.size()
		if m.state == locked && q.locks.find(m.token) != m {
			t.Errorf("%s: message %d is locked without a token", q.name, seq)
		}
	}
	states := 0
	for _, s := range q.sessions.byID {
		bytes += int64(len(s.state))
		if s.state != nil {
			states++
		}
	}
	if perState != q.messages.perState || bytes != q.messages.bytes || states != q.sessions.states {
		t.Errorf("%s: counted %v, %d bytes and %d session states; the queue says %v, %d and %d",
			q.name, perState, bytes, states, q.messages.perState, q.messages.bytes, q.sessions.states)
	}
	if len(q.locks.byToken) != perState[locked] {
		t.Errorf("%s: %d tokens for %d locked messages", q.name, len(q.locks.byToken), perState[locked])
	}
	for _, seq := range q.messages.order.numbers[:q.messages.order.cursor] {
		if m := q.messages.get(seq); m != nil && m.state == available {
			t.Errorf("%s: message %d is available, but before the cursor", q.name, seq)
		}
	}
}

// checkNobodyConnected fails unless a queue has forgotten all its receivers.
func checkNobodyConnected(t *testing.T, q *queue) {
	t.Helper()
	q.mu.Lock()
	defer q.mu.Unlock()
	if links, outlets, waiters := len(q.links.open), len(q.outlets.all), len(q.sessions.waiters); links+outlets+waiters > 0 {
		t.Errorf("%s: %d links, %d receivers and %d waiters after the connection has ended", q.name, links, outlets, waiters)
	}
	for id, s := range q.sessions.byID {
		if s.holder != nil {
			t.Errorf("%s: the session %q is held after the connection has ended", q.name, id)
		}
	}
}
