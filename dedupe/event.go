// Package dedupe is the ledger: it decides which message supersedes which, and which events of a
// user an attempt has decided. An attempt is one HTTP request that revokes a user's sessions. The
// ledger makes one attempt out of a storm of events about one user. It completes an event only if
// an attempt that started after the event was enqueued has revoked the user, or if a newer message
// of the same user supersedes it.
//
// For each user the ledger knows the pending events, which wait for the next attempt; whether an
// attempt is in flight; and the last verdict, for as long as Config.Remember. When an event is
// added, these decide what it needs:
//
//   - Nothing is known: an attempt is made now.
//   - Events of the user are pending: the newest message supersedes the older ones, which are
//     completed at once. If it may not (see Event), both stay pending, and one attempt decides
//     both.
//   - An attempt is in flight: the event waits beside it. A success covers it if the event was
//     enqueued before the attempt started, by a margin for the clocks. If it was not, or after a
//     final failure, it is parked. After any other failure it waits for the next attempt, together
//     with the events of this one.
//   - The last success covers the event: it is completed without an attempt.
//   - The last verdict is younger than Config.Window: the event is parked. Parked events wait until
//     the window ends; then one attempt decides all that have arrived by then.
//   - The event's message was delivered before, and its lock was lost: the new delivery replaces
//     the old one.
//
// An example: two events about one user arrive, the second while the attempt for the first is in
// flight. That attempt revokes the first event. A second attempt, one window after the start of the
// first, usually revokes the second event.
//
// The package does no I/O and starts no goroutine. It reads the time only with time.Now, so tests
// can run it in a testing/synctest bubble.
package dedupe

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Position identifies a message, and says where it stands in one total order, which is the same in
// every replica: by the time at which the broker enqueued it, then by entity path, then by sequence
// number. The order of arrival never matters.
type Position struct {
	Enqueued time.Time
	// Entity is the path of the queue or subscription; Sequence is unique in it.
	Entity   string
	Sequence int64
}

// Compare returns a negative number when p is older than q, a positive one when it is newer, and 0
// when both are the same message.
func (p Position) Compare(q Position) int {
	return cmp.Or(p.Enqueued.Compare(q.Enqueued), strings.Compare(p.Entity, q.Entity), cmp.Compare(p.Sequence, q.Sequence))
}

// same reports whether both are the same message. A redelivery has the same entity and sequence
// number.
func (p Position) same(q Position) bool {
	return p.Sequence == q.Sequence && p.Entity == q.Entity
}

// Event is one user's event in a message that this process has locked. The caller sets the exported
// fields before Ledger.Add, and does not change them afterwards. The ledger owns the rest until
// Ended is true.
//
// A newer message may supersede an older one of the same user only while it is locked and nobody
// has asked to defer it, if it does not expire earlier than the older one, and if it is at least as
// urgent and of the same Kind. Otherwise the newer one could be gone or wait for longer, and the
// older one would get no attempt, or a late one.
type Event struct {
	Position
	// MessageID is how logs and dead letters name the message.
	MessageID string
	// ExpiresAt is when the message's time to live ends; the zero time means never.
	ExpiresAt time.Time
	// Message is what the event shares with the other events of its message.
	Message *Message
	// Urgency orders the attempts; 0 is the most urgent. Kind is the event's type, by which the
	// volume guard counts.
	Urgency int
	Kind    string
	// Stands reports whether the event still asks for an attempt. It is called just before each one,
	// by whoever makes the attempt, and may take until ctx ends. If it is nil, the event always does.
	// An event that may stop to stand supersedes no other.
	Stands func(ctx context.Context) bool
	// Tag is for the caller's use; the ledger keeps it.
	Tag any

	ended      atomic.Bool // set last: then the caller may read the result
	ledger     *Ledger
	state      state
	tried      bool // an attempt for it has ended without a decision since the message was received
	result     Result
	superseded SupersededMessages
}

// Result is how an event ended.
type Result struct {
	Disposition Disposition
	// By is the message that superseded or replaced the event's own.
	By Position
	// Detail is what the caller gave to Work.Succeeded or Work.Failed. It is nil for dispositions
	// other than Revoked and Failed.
	Detail any
}

// String describes the result in words, without the Detail.
func (r Result) String() string {
	switch r.Disposition {
	case Superseded, Replaced:
		return fmt.Sprintf("%s by message %d of %s", r.Disposition, r.By.Sequence, r.By.Entity)
	}
	return r.Disposition.String()
}

// Disposition is how an event ended for the ledger.
type Disposition int

// The dispositions.
const (
	// Undecided: the event was removed before it was decided.
	Undecided Disposition = iota
	// Revoked: an attempt that was started for this event succeeded.
	Revoked
	// Covered: an attempt for other events succeeded that started after this event was enqueued.
	Covered
	// Superseded: a newer message of the same user, which this process has locked, is decided
	// instead.
	Superseded
	// Failed: the failure is final.
	Failed
	// Replaced: the message was delivered again, and the new delivery has replaced this one.
	Replaced
)

// String returns the disposition as one lower-case word.
func (d Disposition) String() string {
	switch d {
	case Undecided:
		return "undecided"
	case Revoked:
		return "revoked"
	case Covered:
		return "covered"
	case Superseded:
		return "superseded"
	case Failed:
		return "failed"
	case Replaced:
		return "replaced"
	}
	return "Disposition(" + strconv.Itoa(int(d)) + ")"
}

// SupersededMessages names the messages that one message has superseded.
type SupersededMessages struct {
	// Count is how many there are; MessageIDs are the first MaxNamed of them.
	Count      int
	MessageIDs []string
}

// MaxNamed bounds how many ids of superseded messages are kept for one message.
const MaxNamed = 32

// Ended reports whether the event is decided or removed. Message.Changed is signaled then.
func (e *Event) Ended() bool { return e.ended.Load() }

// Result returns how the event ended. It may be called when Ended is true.
func (e *Event) Result() Result { return e.result }

// Superseded returns the messages that this one has superseded. It may be called when Ended
// is true.
func (e *Event) Superseded() SupersededMessages { return e.superseded }

// finish ends the event.
func (e *Event) finish(r Result) {
	e.ledger.setState(e, absent)
	e.result = r
	e.ended.Store(true)
	e.Message.signal()
}

// supersede adds the older event's message to the messages that e has superseded, and those that
// the older event had superseded.
func (e *Event) supersede(older *Event) {
	count := e.superseded.Count + older.superseded.Count + 1
	names, more := older.superseded.MessageIDs, append(e.superseded.MessageIDs, older.MessageID)
	names = append(names, more...)
	e.superseded = SupersededMessages{Count: count, MessageIDs: names[:min(len(names), MaxNamed)]}
}

// maySupersede reports whether e may supersede the older event. Event has the conditions. The end
// of the lock is checked, too, because nobody may have noticed yet that the lock is lost. If the
// clock runs ahead, both events stay, which is safe.
func (e *Event) maySupersede(older *Event, now time.Time) bool {
	switch {
	case e.same(older.Position), e.Compare(older.Position) <= 0:
		return false
	case !e.Message.Lock.valid(now), e.Message.deferring.Load(), e.Stands != nil:
		return false
	case e.Message.Source > older.Message.Source, e.Urgency > older.Urgency, e.Kind != older.Kind:
		return false
	case e.ExpiresAt.IsZero():
		return true
	}
	return !older.ExpiresAt.IsZero() && !e.ExpiresAt.Before(older.ExpiresAt)
}

// group holds the events of one user that one attempt is to decide: the newest event, and those
// that it may not supersede.
type group []*Event

// takeOver replaces an older delivery of the same message by a new one, with its new lock. It
// reports whether there was an older one. The new delivery supersedes nothing.
func (g group) takeOver(e *Event) bool {
	for i, older := range g {
		if older.same(e.Position) {
			e.superseded = older.superseded
			e.ledger.setState(e, older.state)
			g[i] = e
			older.finish(Result{Disposition: Replaced, By: e.Position})
			return true
		}
	}
	return false
}

// add adds an event to the group. Whichever arrived first, the newest event supersedes those that
// it may supersede.
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

// from returns how many of the events are in messages of the source.
func (g group) from(source int) (n int) {
	for _, e := range g {
		if e.Message.Source == source {
			n++
		}
	}
	return n
}

// remove removes the event, and reports whether it was in the group.
func (g group) remove(e *Event) (group, bool) {
	for i, older := range g {
		if older == e {
			return append(g[:i:i], g[i+1:]...), true
		}
	}
	return g, false
}
