// Package dedupe is the ledger that decides which message stands for which user: "newest stands for all". It makes one
// call out of a storm of events about one user, and never lets an event go whose user was not revoked by an attempt that
// started after the event was enqueued.
//
// It does no I/O and starts no goroutine. Its time is time.Now, so that tests run in a testing/synctest bubble.
package dedupe

import (
	"cmp"
	"strings"
	"time"
)

// Position is a message's identity and its place in one total order, the same in every replica: by enqueued time, the
// broker's; entity path and sequence number only break ties. Arrival never decides.
type Position struct {
	Enqueued time.Time
	// Entity is the path of the queue or subscription, Sequence the number that is unique in it.
	Entity   string
	Sequence int64
}

// Compare is negative when p is older than q, 0 when it is the same message.
func (p Position) Compare(q Position) int {
	return cmp.Or(p.Enqueued.Compare(q.Enqueued), strings.Compare(p.Entity, q.Entity), cmp.Compare(p.Sequence, q.Sequence))
}

// same says that both are one message: a redelivery has the same entity and sequence number.
func (p Position) same(q Position) bool {
	return p.Sequence == q.Sequence && p.Entity == q.Entity
}

// Event is one user's event in a message that is held locked. Its exported fields are set before Enter and not changed
// afterwards; the ledger owns the rest until Done is closed.
type Event struct {
	Position
	// MessageID is how logs and dead letters name the message.
	MessageID string
	// ExpiresAt is when the message's time to live ends; zero is never.
	ExpiresAt time.Time
	// Message is the one that the event stands in; its events share it.
	Message *Message
	// Urgency orders the attempts: 0 is the most urgent. Kind is the event's type, by which the volume guard counts.
	Urgency int
	Kind    string
	// Tag is the caller's own; the ledger keeps it.
	Tag any

	done       chan struct{}
	ledger     *Ledger
	state      state
	tried      bool // an attempt has ended without a decision since the message was received
	result     Result
	superseded SupersededMessages
}

// Result is what became of an event.
type Result struct {
	Disposition Disposition
	// By is the message that superseded or replaced this one's.
	By Position
	// Detail is what was given to Succeeded or Failed; nil for the other fates and for Covered.
	Detail any
}

// Disposition is how an event ended for the ledger.
type Disposition int

// The fates.
const (
	// Undecided: the event left before anything was decided (Leave).
	Undecided Disposition = iota
	// Revoked: an attempt that was started for this event succeeded.
	Revoked
	// Covered: an attempt succeeded that started after this event was enqueued.
	Covered
	// Superseded: a newer message of the same user, which is held locked, stands for both.
	Superseded
	// Failed: the failure is final.
	Failed
	// Replaced: the message was delivered again, and the new delivery has taken this one's place.
	Replaced
)

// Superseded names the messages that were superseded in favor of one.
type SupersededMessages struct {
	// Count is how many; MessageIDs are the first MaxNamed of them.
	Count      int
	MessageIDs []string
}

// MaxNamed bounds how many message ids are kept of those that one message stands for.
const MaxNamed = 32

// Done is closed when the event's end is decided. Valid after Enter.
func (e *Event) Done() <-chan struct{} { return e.done }

// Result is what became of the event, and Superseded which messages it stood for; both may be read when Done is closed, or
// after Leave.
func (e *Event) Result() Result { return e.result }

// Superseded names the messages that this one superseded.
func (e *Event) Superseded() SupersededMessages { return e.superseded }

func (e *Event) finish(end Result) {
	e.ledger.mark(e, absent)
	e.result = end
	close(e.done)
	select {
	case e.Message.ended <- struct{}{}:
	default:
	}
}

// supersede makes e answer for the older event and for all that stood behind that one.
func (e *Event) supersede(older *Event) {
	count := e.superseded.Count + older.superseded.Count + 1
	names, more := older.superseded.MessageIDs, append(e.superseded.MessageIDs, older.MessageID)
	names = append(names, more...)
	e.superseded = SupersededMessages{Count: count, MessageIDs: names[:min(len(names), MaxNamed)]}
}

// maySupersede says whether newer may stand for older. Only a different message that is newer and that we hold locked
// and keep may, and only one that does not expire earlier and is at least as urgent, by its source and by its type: otherwise
// the older one's right to a call could end with a message that goes away, or that waits for others, or for a release of the
// volume guard. The clock is asked for the lock because its loss may not have been noticed yet; a clock that runs ahead only
// keeps both.
func (e *Event) maySupersede(older *Event, now time.Time) bool {
	switch {
	case e.same(older.Position), e.Compare(older.Position) <= 0:
		return false
	case !e.Message.Lock.valid(now), e.Message.leaving, e.Message.Source > older.Message.Source, e.Urgency > older.Urgency, e.Kind != older.Kind:
		return false
	case e.ExpiresAt.IsZero():
		return true
	}
	return !older.ExpiresAt.IsZero() && !e.ExpiresAt.Before(older.ExpiresAt)
}

// group is the events of one user that wait for the same attempt: the newest, and those that it may not supersede.
type group []*Event

// takeOver gives a held copy's place to a redelivery of the same message, with its new lock. It supersedes nobody.
func (g group) takeOver(e *Event) bool {
	for i, older := range g {
		if older.same(e.Position) {
			e.superseded = older.superseded
			e.ledger.mark(e, older.state)
			g[i] = e
			older.finish(Result{Disposition: Replaced, By: e.Position})
			return true
		}
	}
	return false
}

// add lets the newest stand for all that it may stand for; arrival does not decide which one that is.
func (g group) add(e *Event, now time.Time) group {
	kept := g[:0]
	for _, older := range g {
		if e.maySupersede(older, now) {
			e.supersede(older)
			older.finish(Result{Disposition: Superseded, By: e.Position})
			continue
		}
		kept = append(kept, older)
	}
	clear(g[len(kept):])
	for _, older := range kept {
		if older.maySupersede(e, now) {
			older.supersede(e)
			e.finish(Result{Disposition: Superseded, By: older.Position})
			return kept
		}
	}
	return append(kept, e)
}

// from is how many of the events stand in messages of the source.
func (g group) from(source int) (n int) {
	for _, e := range g {
		if e.Message.Source == source {
			n++
		}
	}
	return n
}

func (g group) remove(e *Event) (group, bool) {
	for i, older := range g {
		if older == e {
			return append(g[:i:i], g[i+1:]...), true
		}
	}
	return g, false
}
