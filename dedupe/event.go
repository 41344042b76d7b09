// Package dedupe is the ledger that decides which message stands for which user: "newest stands for all". It makes one
// call out of a storm of events about one user, and never lets an event go whose user was not revoked by an attempt that
// started after the event was enqueued.
//
// It does no I/O and starts no goroutine. Its time is time.Now, so that tests run in a testing/synctest bubble.
package dedupe

import (
	"cmp"
	"strings"
	"sync/atomic"
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

// Lock is until when a message's lock is known to be ours. Its owner moves it with each renewal; it is safe for concurrent
// use.
type Lock struct{ until atomic.Int64 }

// Renewed says that the lock lasts until then.
func (l *Lock) Renewed(until time.Time) { l.until.Store(until.UnixNano()) }

// Until is the time of the last Renewed; before the first one it lies in the past.
func (l *Lock) Until() time.Time { return time.Unix(0, l.until.Load()) }

func (l *Lock) held(now time.Time) bool { return now.UnixNano() < l.until.Load() }

// Event is one user's event in a message that is held locked. Its exported fields are set before Enter and not changed
// afterwards; the ledger owns the rest until Done is closed.
type Event struct {
	Position
	// MessageID is how logs and dead letters name the message.
	MessageID string
	// ExpiresAt is when the message's time to live ends; zero is never.
	ExpiresAt time.Time
	// Source is the rank of the message's source; 0 is the most urgent.
	Source int
	// Urgency orders the calls: 0 is the most urgent.
	Urgency int
	// Lock is the message's, shared by its events.
	Lock *Lock
	// Tag is the caller's own; the ledger keeps it.
	Tag any

	done     chan struct{}
	end      End
	stoodFor StoodFor
}

// End is what became of an event.
type End struct {
	Fate Fate
	// By is the message that superseded or replaced this one's.
	By Position
	// Detail is what was given to Succeeded or Failed; nil for the other fates and for Covered.
	Detail any
}

// Fate is how an event ended for the ledger.
type Fate int

// The fates.
const (
	// Undecided: the event left before anything was decided (Leave).
	Undecided Fate = iota
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

// StoodFor names the messages that were superseded in favour of one.
type StoodFor struct {
	// Count is how many; MessageIDs are the first MaxNamed of them.
	Count      int
	MessageIDs []string
}

// MaxNamed bounds how many message ids are kept of those that one message stands for.
const MaxNamed = 32

// Done is closed when the event's end is decided. Valid after Enter.
func (e *Event) Done() <-chan struct{} { return e.done }

// End is what became of the event, and StoodFor which messages it stood for; both may be read when Done is closed, or
// after Leave.
func (e *Event) End() End { return e.end }

// StoodFor names the messages that this one superseded.
func (e *Event) StoodFor() StoodFor { return e.stoodFor }

func (e *Event) finish(end End) {
	e.end = end
	close(e.done)
}

// standFor makes e answer for the older event and for all that stood behind that one.
func (e *Event) standFor(older *Event) {
	count := e.stoodFor.Count + older.stoodFor.Count + 1
	names, more := older.stoodFor.MessageIDs, append(e.stoodFor.MessageIDs, older.MessageID)
	names = append(names, more...)
	e.stoodFor = StoodFor{Count: count, MessageIDs: names[:min(len(names), MaxNamed)]}
}

// maySupersede says whether newer may stand for older. Only a different message that is newer and that we hold locked
// may, and only one that does not expire earlier and whose source is at least as urgent: otherwise the older one's right to
// a call could end with a message that goes away, or that waits for others. The clock is asked for the lock because its loss may not have been noticed yet; a clock that
// runs ahead only keeps both.
func (e *Event) maySupersede(older *Event, now time.Time) bool {
	switch {
	case e.same(older.Position), e.Compare(older.Position) <= 0:
		return false
	case !e.Lock.held(now), e.Source > older.Source:
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
	for i, held := range g {
		if held.same(e.Position) {
			e.stoodFor = held.stoodFor
			g[i] = e
			held.finish(End{Fate: Replaced, By: e.Position})
			return true
		}
	}
	return false
}

// add lets the newest stand for all that it may stand for; arrival does not decide which one that is.
func (g group) add(e *Event, now time.Time) group {
	kept := g[:0]
	for _, held := range g {
		if e.maySupersede(held, now) {
			e.standFor(held)
			held.finish(End{Fate: Superseded, By: e.Position})
			continue
		}
		kept = append(kept, held)
	}
	clear(g[len(kept):])
	for _, held := range kept {
		if held.maySupersede(e, now) {
			held.standFor(e)
			e.finish(End{Fate: Superseded, By: held.Position})
			return kept
		}
	}
	return append(kept, e)
}

func (g group) remove(e *Event) (group, bool) {
	for i, held := range g {
		if held == e {
			return append(g[:i:i], g[i+1:]...), true
		}
	}
	return g, false
}
