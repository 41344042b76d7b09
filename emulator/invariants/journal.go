// Package invariants checks a worker's guarantees by the embedded servers' records: the history of
// each message, and each call to Graph. It shares no code with the worker, and does not rely on
// anything that the worker reports.
package invariants

import (
	"cmp"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Journal keeps the history of every message of a broker. Its method Observe fits
// servicebus.Config. It grows with each message. It is safe for concurrent use, and its zero value
// is ready to use.
type Journal struct {
	mu    sync.Mutex
	lives map[position]*life
	order []*life // as enqueued
}

type position struct {
	queue    string
	sequence int64
}

// life is the history of one message.
type life struct {
	position
	id       string
	enqueued time.Time
	locked   []span // the times when it was locked, in order
	// end is what ended it; "" while it is in the queue. ended is when.
	end    servicebus.EventKind
	ended  time.Time
	reason string
}

// span is a period of time; to is zero while it lasts.
type span struct{ from, to time.Time }

// Observe adds one change of a message's state. It ignores dead-letter queues: messages in them
// have ended.
func (j *Journal) Observe(r servicebus.Record) {
	if strings.HasSuffix(r.Queue, "/$DeadLetterQueue") {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	at := position{r.Queue, r.SequenceNumber}
	m := j.lives[at]
	switch r.Event {
	case servicebus.Enqueued:
		if j.lives == nil {
			j.lives = map[position]*life{}
		}
		m = &life{position: at, id: r.MessageID, enqueued: r.Time}
		j.lives[at] = m
		j.order = append(j.order, m)
	case servicebus.Delivered:
		m.locked = append(m.locked, span{from: r.Time})
	case servicebus.Abandoned, servicebus.Released, servicebus.Deferred, servicebus.LockExpired:
		m.unlocked(r.Time)
	case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired:
		m.unlocked(r.Time)
		m.end, m.ended, m.reason = r.Event, r.Time, r.Reason
	case servicebus.Forwarded: // it continues elsewhere, as another message
		m.end, m.ended = r.Event, r.Time
	case servicebus.Renewed, servicebus.Duplicate, servicebus.Canceled:
	}
}

func (m *life) unlocked(at time.Time) {
	if n := len(m.locked); n > 0 && m.locked[n-1].to.IsZero() {
		m.locked[n-1].to = at
	}
}

// lockedIn reports whether the message was locked at some instant of the span.
func (m *life) lockedIn(s span) bool {
	for _, locked := range m.locked {
		if !locked.from.After(s.to) && (locked.to.IsZero() || !locked.to.Before(s.from)) {
			return true
		}
	}
	return false
}

// last is the last period in which the message was locked.
func (m *life) last() span {
	if n := len(m.locked); n > 0 {
		return m.locked[n-1]
	}
	return span{m.ended, m.ended}
}

// newerThan reports whether the message is newer. The queue's name and then the sequence number
// break ties, since Service Bus gives times in whole milliseconds.
func (m *life) newerThan(other *life) bool {
	return cmp.Or(
		m.enqueued.Truncate(time.Millisecond).Compare(other.enqueued.Truncate(time.Millisecond)),
		strings.Compare(m.queue, other.queue), cmp.Compare(m.sequence, other.sequence),
	) > 0
}

// String identifies the message in a problem.
func (m *life) String() string { return m.id }
