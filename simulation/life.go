package simulation

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// life is the history of one message according to Service Bus' records.
type life struct {
	id, queue string
	send      Send
	enqueued  time.Time
	// end is what ended it; "" while it is in the queue. ended is when.
	end    servicebus.EventKind
	ended  time.Time
	reason string
	rank   int // its urgency; 0 is the highest
}

// settledBy reports whether the message had ended by at.
func (m *life) settledBy(at time.Time) bool { return m.end != "" && !m.ended.After(at) }

// gone reports whether the message's time to live had ended by at.
func (m *life) gone(at time.Time) bool {
	return m.send.TTL > 0 && !m.enqueued.Add(m.send.TTL).After(at)
}

// span is the time between two instants, both included.
type span struct{ from, to time.Time }

// read sorts the records.
func (c *checker) read() {
	type place struct {
		queue    string
		sequence int64
	}
	at := map[place]*life{}
	for _, r := range c.records {
		p := place{r.Queue, r.SequenceNumber}
		switch r.Event {
		case servicebus.Enqueued:
			at[p] = &life{id: r.MessageID, queue: r.Queue, send: c.sends[r.MessageID], enqueued: r.Time}
			at[p].rank = c.rank(at[p])
			c.lives = append(c.lives, at[p])
		case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired:
			at[p].end, at[p].ended, at[p].reason = r.Event, r.Time, r.Reason
		}
	}
	slices.SortStableFunc(c.calls, func(a, b graph.Call) int { return a.Start.Compare(b.Start) })
	for _, call := range c.calls {
		if seconds, err := strconv.Atoi(call.RetryAfter); err == nil && call.Status == 429 {
			c.asked = append(c.asked, span{call.End, call.End.Add(time.Duration(seconds)*time.Second + unasked)})
		}
	}
	byKey := map[string]int{}
	for i, p := range c.People {
		byKey[strings.ToLower(p.ID)], byKey[strings.ToLower(p.UserPrincipalName)] = i, i
	}
	byPerson := func(calls []graph.Call) map[int][]graph.Call {
		by := map[int][]graph.Call{}
		for _, call := range calls {
			if i, ok := byKey[strings.ToLower(call.Key)]; ok {
				by[i] = append(by[i], call)
			}
		}
		return by
	}
	for _, call := range c.calls {
		if _, person := byKey[strings.ToLower(call.Key)]; !person {
			c.canaries = append(c.canaries, call.Start)
		}
	}
	c.byPerson, c.readsOf = byPerson(c.calls), byPerson(append(slices.Clone(c.calls), c.reads...))
}

// maySupersede reports whether a newer message may supersede an older one: it must live at least as
// long, and its source must be at least as urgent.
func (c *checker) maySupersede(newer, older invariants.Message) bool {
	a, b := c.sends[newer.ID].TTL, c.sends[older.ID].TTL
	switch {
	case newer.Queue != older.Queue && newer.Queue != urgentQueue:
		return false
	case a == 0:
		return true
	}
	return b > 0 && !newer.Enqueued.Add(a+2*time.Millisecond).Before(older.Enqueued.Add(b)) // the broker counts whole milliseconds
}

// rank is a message's urgency: its source counts first, then its events.
func (c *checker) rank(m *life) int {
	rank := len(types)
	if m.queue == urgentQueue {
		rank = 0
	}
	most := len(types)
	for _, i := range m.send.People {
		most = min(most, slices.Index(types, m.send.kind(c.People[i])))
	}
	return rank + most
}
