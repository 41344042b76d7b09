// Package audit checks a worker's promises by what the embedded servers recorded: what became of each message, and each
// call to Graph. It shares no code with the worker, and believes nothing that the worker says.
package invariants

import (
	"cmp"
	"strings"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Journal keeps the life of every message of a broker. Its Observe is made for servicebus.Config. It grows with each
// message, and is safe for concurrent use. The zero Journal is ready.
type Journal struct {
	mu    sync.Mutex
	lives map[place]*life
	order []*life // as enqueued
}

type place struct {
	queue    string
	sequence int64
}

// life is what happened to one message.
type life struct {
	place
	id       string
	enqueued time.Time
	held     []span // each time that it was locked, in order
	// end is what ended it; "" while it is in the queue.
	end    servicebus.EventKind
	ended  time.Time
	reason string
}

// span is a time; to is zero while it lasts.
type span struct{ from, to time.Time }

// Observe takes one change of a message's state. Dead-letter queues are left out: what is there has ended.
func (j *Journal) Observe(r servicebus.Record) {
	if strings.HasSuffix(r.Queue, "/$DeadLetterQueue") {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	at := place{r.Queue, r.SequenceNumber}
	m := j.lives[at]
	switch r.Event {
	case servicebus.Enqueued:
		if j.lives == nil {
			j.lives = map[place]*life{}
		}
		m = &life{place: at, id: r.MessageID, enqueued: r.Time}
		j.lives[at] = m
		j.order = append(j.order, m)
	case servicebus.Delivered:
		m.held = append(m.held, span{from: r.Time})
	case servicebus.Abandoned, servicebus.Released, servicebus.Deferred, servicebus.LockExpired:
		m.released(r.Time)
	case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired:
		m.released(r.Time)
		m.end, m.ended, m.reason = r.Event, r.Time, r.Reason
	case servicebus.Forwarded: // its life goes on elsewhere, as another message
		m.end, m.ended = r.Event, r.Time
	case servicebus.Renewed, servicebus.Duplicate, servicebus.Canceled:
	}
}

func (m *life) released(at time.Time) {
	if n := len(m.held); n > 0 && m.held[n-1].to.IsZero() {
		m.held[n-1].to = at
	}
}

// lockedIn says whether the message was locked at some instant of the span.
func (m *life) lockedIn(s span) bool {
	for _, held := range m.held {
		if !held.from.After(s.to) && (held.to.IsZero() || !held.to.Before(s.from)) {
			return true
		}
	}
	return false
}

// last is the time that the message was locked before its end.
func (m *life) last() span {
	if n := len(m.held); n > 0 {
		return m.held[n-1]
	}
	return span{m.ended, m.ended}
}

// newerThan is the order of messages: the queue's name and then the sequence number break ties. Service Bus tells times in whole
// milliseconds.
func (m *life) newerThan(other *life) bool {
	return cmp.Or(
		m.enqueued.Truncate(time.Millisecond).Compare(other.enqueued.Truncate(time.Millisecond)),
		strings.Compare(m.queue, other.queue), cmp.Compare(m.sequence, other.sequence),
	) > 0
}

// String names the message in a problem.
func (m *life) String() string { return m.id }
