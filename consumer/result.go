package consumer

import (
	"errors"
	"fmt"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// outcome is how an event ended, as logs, metrics and the audit log name it.
type outcome string

const (
	// revoked: an attempt for the event's user has succeeded.
	revoked outcome = "revoked"
	// covered: an attempt that started after the event was enqueued has revoked its user.
	covered outcome = "covered"
	// superseded: a newer message of the same user is in flight. What decides that one decides
	// both.
	superseded   outcome = "superseded"
	deadLettered outcome = "dead_lettered"
	// scheduled: a copy of the message waits in Service Bus for the date of the event.
	scheduled outcome = "scheduled"
	// withdrawn: the event says that what was announced for the person does not happen.
	withdrawn outcome = "withdrawn"
	// outdated: a newer announcement about the person says otherwise, so nobody was called for this
	// one.
	outdated outcome = "outdated"
	// unfinished: the lock was lost, the worker had to stop, the message is deferred, or the event
	// cannot be judged yet. The message comes again.
	unfinished outcome = "unfinished"
)

// line returns the text of the log line for an event that ended so.
func (o outcome) line() string {
	switch o { // the usual ones, without allocation
	case revoked:
		return "event revoked"
	case covered:
		return "event covered"
	case superseded:
		return "event superseded"
	}
	return "event " + string(o)
}

// result is the result of one event of a message.
type result struct {
	item          event.Item
	key           string        // the user's key in the ledger
	account       event.User    // whom the event's name, device, or mail address means; zero if it was not looked up
	event         *dedupe.Event // nil if the event was not added to the ledger
	decidedBefore bool          // when the message was in flight before
	outcome       outcome
	reason        deadletter.Reason // of a dead letter
	err           error             // why the event is dead-lettered or unfinished
	calls         int               // attempts
	attempt       revoker.Attempt   // the last one
	standing      *standing         // of an event with a date; nil for all others
	by            int64             // the sequence number of the announcement that makes it outdated
	scheduledAs   int64             // the scheduled message that is its copy; 0 if there is none
	copiedNow     bool              // the copy was scheduled for this result, and not before
	canceled      []int64           // the scheduled messages that were canceled for it
}

// fromLedger takes the result from the ledger. It reports whether the ledger knows that the
// message's lock is lost. cause is why the wait for the event ended early, or nil if it did not.
func (r *result) fromLedger(cause error) (lockLost bool) {
	end := r.event.Result()
	if d, ok := end.Detail.(*dispatch.Attempts); ok {
		r.calls, r.attempt, r.err = d.Count, d.Last, d.Err
	}
	switch end.Disposition {
	case dedupe.Revoked:
		r.outcome = revoked
	case dedupe.Covered:
		r.outcome = covered
	case dedupe.Superseded:
		r.outcome = superseded
	case dedupe.Failed:
		if _, named := dispatch.AccountOf(r.err); named { // and the event was not added again, so nothing is decided
			r.outcome, r.err = unfinished, cause
			return false
		}
		r.outcome, r.reason = deadLettered, dispatch.ReasonOf(r.err)
	case dedupe.Replaced:
		r.outcome, r.err = unfinished, errDeliveredAgain
		return true
	case dedupe.Undecided:
		r.outcome, r.err = unfinished, cause
		if cause == nil && r.standing != nil {
			r.outcome, r.by, r.err = r.standing.outcome()
		}
	}
	return false
}

// supersededBy returns the sequence number of the message that stands for this one, or 0.
func (r *result) supersededBy() int64 {
	if r.outcome == superseded {
		return r.event.Result().By.Sequence
	}
	return r.by
}

// reasons are the dead-letter reasons for events that are refused when they are decoded.
var reasons = map[event.Kind]deadletter.Reason{
	event.Invalid:       deadletter.InvalidEvent,
	event.UnknownType:   deadletter.UnknownEvent,
	event.NoTrigger:     deadletter.NoTrigger,
	event.OwnerUnclear:  deadletter.OwnerUnclear,
	event.ForeignDomain: deadletter.ForeignDomain,
	event.TooOld:        deadletter.TooOld,
	event.TooFarAhead:   deadletter.TooFarAhead,
}

// rejected is the result of an event that cannot be read, cannot be judged yet, or must not be acted
// on.
func rejected(item event.Item) result {
	r := result{item: item, outcome: deadLettered, reason: deadletter.InvalidEvent, err: item.Err}
	if r.isNotYet() {
		r.outcome, r.reason = unfinished, ""
		return r
	}
	if refused, ok := errors.AsType[*event.Error](item.Err); ok {
		if reason, known := reasons[refused.Kind]; known {
			r.reason = reason
		}
	}
	return r
}

// isNotYet reports whether the event cannot be judged yet, because the keys that verify it cannot be
// had. Then it must be decoded again later.
func (r *result) isNotYet() bool {
	refused, ok := errors.AsType[*event.Error](r.err)
	return ok && refused.Kind == event.NotYet
}

// String returns the reason and the error of a dead letter.
func (r *result) String() string {
	return fmt.Sprintf("%s: %v", r.reason, r.err)
}
