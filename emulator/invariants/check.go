package invariants

import (
	"fmt"
	"sort"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Expected describes what the records must fit.
type Expected struct {
	// Users returns the object ids of the users whom a message concerns; nobody else may be called.
	// A user whom Graph does not know also has an id here.
	Users func(messageID string) []string
	// MaySupersede reports whether a newer message may supersede an older one at all; nil always
	// allows it.
	MaySupersede func(newer, older Message) bool
	// Window is the worker's deduplication window; 0 leaves the number of calls unchecked.
	Window time.Duration
	// Workers is how many workers ran, one after the other or side by side. With more than one,
	// their calls for a user may overlap, and each has windows of its own.
	Workers int
	// Believed is how long a worker may still rely on a lock that was ended before its time; 0
	// where that does not happen. The message may supersede older ones meanwhile: it is in the
	// queue, and comes again.
	Believed time.Duration
}

// Message identifies a message.
type Message struct {
	Queue, ID string
	Enqueued  time.Time
}

// slack is by how much less than the window two calls may be apart: the window counts from the
// worker's start of an attempt, but the record from the request's arrival.
const slack = 500 * time.Millisecond

// Check compares the records with the guarantees, and returns one sentence for each violation:
//
//   - Each user of a completed message was revoked by a call between its enqueueing and its
//     completion, or a newer message of the user was locked meanwhile. The newer one is checked by
//     itself.
//   - Nobody was called before an event asked for it.
//   - With one worker there are no two calls for a name at once, and there is one successful call
//     in each window.
//
// A message that is still in the queue, or that is dead-lettered with a reason, violates nothing.
// Check is safe for concurrent use.
func (j *Journal) Check(calls []graph.Call, expected Expected) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	c := check{expected: expected, byUser: map[string][]*life{}, revocations: map[string][]graph.Call{}}
	for _, m := range j.order {
		for _, user := range expected.Users(m.id) {
			c.byUser[user] = append(c.byUser[user], m)
		}
	}
	for _, call := range calls {
		if call.Revoked {
			c.revocations[call.UserID] = append(c.revocations[call.UserID], call)
		}
	}
	for _, m := range j.order {
		c.message(m)
	}
	for _, call := range calls {
		c.wanted(call)
	}
	if expected.Workers == 1 {
		c.spacing(calls)
	}
	return c.problems
}

type check struct {
	expected    Expected
	byUser      map[string][]*life      // whom a message concerns
	revocations map[string][]graph.Call // by object id
	problems    []string
}

func (c *check) wrong(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// message checks that the message's end was justified.
func (c *check) message(m *life) {
	switch m.end {
	case servicebus.Completed:
		for _, user := range c.expected.Users(m.id) {
			if !c.revoked(m, user) && !c.superseded(m, user) {
				c.wrong("lost: %s was completed, but no call revoked %s before, and no newer message superseded it", m, user)
			}
		}
	case servicebus.DeadLettered:
		if m.reason == "" {
			c.wrong("%s was dead-lettered without a reason", m)
		}
	case servicebus.Expired:
		c.wrong("lost: %s expired", m)
	}
}

// revoked reports whether a call began after the message was enqueued and revoked the user before
// the message was completed.
func (c *check) revoked(m *life, user string) bool {
	for _, call := range c.revocations[user] {
		if !call.Start.Before(m.enqueued) && !call.End.After(m.ended) {
			return true
		}
	}
	return false
}

// superseded reports whether a newer message of the user was locked at the same time as this one.
func (c *check) superseded(m *life, user string) bool {
	last := m.last()
	last.from = last.from.Add(-c.expected.Believed)
	for _, other := range c.byUser[user] {
		if other.newerThan(m) && other.lockedIn(last) &&
			(c.expected.MaySupersede == nil || c.expected.MaySupersede(other.message(), m.message())) {
			return true
		}
	}
	return false
}

func (m *life) message() Message { return Message{Queue: m.queue, ID: m.id, Enqueued: m.enqueued} }

// wanted checks that an event asked for the call.
func (c *check) wanted(call graph.Call) {
	if call.UserID == "" {
		return // the call was for nobody
	}
	for _, m := range c.byUser[call.UserID] {
		if !m.enqueued.After(call.Start) {
			return
		}
	}
	c.wrong("wrong person: Graph was called for %s, but no event had asked for it", call.Key)
}

// spacing checks the times between calls for one name.
func (c *check) spacing(calls []graph.Call) {
	byName := map[string][]graph.Call{}
	for _, call := range calls {
		byName[call.Key] = append(byName[call.Key], call)
	}
	for name, calls := range byName {
		sort.Slice(calls, func(i, k int) bool { return calls[i].Start.Before(calls[k].Start) })
		var success time.Time
		for i, call := range calls {
			if i > 0 && call.Start.Before(calls[i-1].End) {
				c.wrong("two calls for %s at once, at %s", name, call.Start.Format(time.RFC3339Nano))
			}
			if !call.Revoked || call.Fault {
				continue // after a fault the caller may not know that it succeeded
			}
			if gap := call.Start.Sub(success); !success.IsZero() && gap < c.expected.Window-slack {
				c.wrong("two calls for %s within %s of each other; the window is %s", name, gap, c.expected.Window)
			}
			success = call.Start
		}
	}
}
