package servicebus

import (
	"container/heap"
	"slices"
	"time"
)

// due says that something may be done with a message at a time: its schedule or its time to live ends. What is true then
// is looked up then.
type due struct {
	at  int64 // milliseconds of Unix time
	seq int64
}

// dueHeap has the earliest first.
type dueHeap []due

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(due)) }
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}

// schedule has the message looked at when the time comes. Entries of messages that are gone are swept now and then.
func (q *queue) schedule(at, seq int64) {
	if len(q.due) > 2*len(q.index)+1024 {
		q.due = slices.DeleteFunc(q.due, func(d due) bool { return q.index[d.seq] == nil })
		heap.Init(&q.due)
	}
	heap.Push(&q.due, due{at, seq})
}

// seenIDs remembers message ids for duplicate detection, the oldest first.
type seenIDs struct {
	until map[string]int64
	order []seenID
}

type seenID struct {
	id    string
	until int64
}

// before says whether the id was seen within the window, and remembers it if not.
func (s *seenIDs) before(id string, now int64, window time.Duration) bool {
	for len(s.order) > 0 && s.order[0].until <= now {
		delete(s.until, s.order[0].id)
		s.order = s.order[1:]
	}
	if _, ok := s.until[id]; ok {
		return true
	}
	if s.until == nil {
		s.until = map[string]int64{}
	}
	until := now + window.Milliseconds()
	s.until[id] = until
	s.order = append(s.order, seenID{id, until})
	return false
}

// arm sets the queue's one timer for the next due time. The caller holds the lock.
func (q *queue) arm() {
	if first := q.lockOrder.next; first != &q.lockOrder {
		q.armFor(first.until)
	}
	if len(q.due) > 0 {
		q.armFor(q.due[0].at)
	}
}

// armFor makes sure that the timer fires at that time or before; a firing that finds nothing due arms it again.
func (q *queue) armFor(at int64) {
	if q.closed || q.armed != 0 && q.armed <= at {
		return
	}
	q.armed = at
	wait := time.Until(time.UnixMilli(at))
	if q.timer == nil {
		q.timer = time.AfterFunc(wait, q.tick)
		return
	}
	q.timer.Reset(wait)
}

// tick does what is due.
func (q *queue) tick() {
	q.mu.Lock()
	defer q.release()
	if q.closed {
		return
	}
	q.armed = 0
	now := nowMilli()
	q.expireLocks(now)
	for len(q.due) > 0 && q.due[0].at <= now {
		d := heap.Pop(&q.due).(due)
		if m := q.index[d.seq]; m != nil {
			q.ripen(m, now)
		}
	}
	q.dispatch()
	q.arm()
}

// expireLocks ends the locks that last until a time at most.
func (q *queue) expireLocks(until int64) {
	for m := q.lockOrder.next; m != &q.lockOrder && m.until <= until; m = q.lockOrder.next {
		q.unlock(m)
		q.fail(m, LockExpired)
	}
}

// ripen activates a scheduled message, or ends one whose time to live is over. A locked message is left to its holder;
// it is looked at again when its lock has ended.
func (q *queue) ripen(m *message, now int64) {
	if m.state == scheduled && m.visible <= now {
		q.setState(m, available)
	}
	if m.expires == 0 || m.expires > now {
		return
	}
	switch {
	case m.state == locked:
		until := m.until
		if g := q.sessions[m.session]; g != nil && q.hasSessions() { // it has no lock of its own
			until = g.until.UnixMilli()
		}
		q.schedule(max(until, now+1), m.seq)
	case q.cfg.DeadLetterOnExpiration:
		q.deadLetter(m, "TTLExpiredException", "The message expired and was dead lettered.")
	default:
		q.setState(m, gone)
		q.report(m, Expired, "")
	}
}

// close stops the timer for good.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.endSessions()
	if q.timer != nil {
		q.timer.Stop()
	}
}
