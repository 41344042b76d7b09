package consumer

import (
	"errors"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/schedule"
)

// These are the outcomes in the log of a dry run, and of commands that only look. They differ from
// the other outcomes, so a search for what the worker has done does not find them.
const (
	// WouldRevoke means that the worker would revoke the user's sessions.
	WouldRevoke = "would_revoke"
	// WouldResolve means that it would look up who the user is, and then revoke their sessions.
	WouldResolve = "would_resolve"
	// WouldSchedule means that it would wait until the event takes effect.
	WouldSchedule = "would_schedule"
	// WouldWithdraw means that it would sign out nobody, and forget what is scheduled for the person.
	WouldWithdraw = "would_withdraw"
	// WouldDefer means that it cannot judge the event yet, and would try again.
	WouldDefer = "would_defer"
	// WouldDeadLetter means that it would dead-letter the event.
	WouldDeadLetter = "would_dead_letter"
)

// Prospect is what a worker would do about an event, as far as that is known without Service Bus and
// Graph.
type Prospect struct {
	// Outcome is one of the constants above.
	Outcome string
	// Reason and Err say why the event would be dead-lettered, and Err alone why it would be deferred.
	// They are zero otherwise.
	Reason deadletter.Reason
	Err    error
}

// Outlook is what a Prospect depends on, besides the event.
type Outlook struct {
	Protected *guard.Protected
	// Horizon and MaxAge are those of Config.
	Horizon, MaxAge time.Duration
	// Now is when the message is enqueued and received.
	Now time.Time
}

// ProspectOf returns what a worker would do about an event in a queue without sessions.
func ProspectOf(item event.Item, o Outlook) Prospect {
	if item.Err == nil {
		item.Err = tooOld(item.Event, o.Now, o.MaxAge)
	}
	if at := item.Event.TakesEffect; item.Err == nil && !item.Event.Withdrawn && at.After(o.Now.Add(max(o.Horizon, schedule.DueWithin))) {
		item = tooFarAhead(item, beyondHorizon(at, o.Horizon))
	}
	if refused, ok := errors.AsType[*event.Error](item.Err); ok && refused.Kind == event.NotYet {
		return Prospect{Outcome: WouldDefer, Err: item.Err}
	}
	if item.Err != nil {
		return Prospect{WouldDeadLetter, rejected(item).reason, item.Err}
	}
	if err := dispatch.Refuse(o.Protected, item.Event.User); err != nil {
		return Prospect{WouldDeadLetter, dispatch.ReasonOf(err), err}
	}
	return Prospect{Outcome: wouldDo(item.Event, o.Now)}
}

// wouldDo returns what a worker would do about an event that nothing forbids.
func wouldDo(e event.Event, now time.Time) string {
	by, _ := e.User.Lookup()
	switch {
	case e.Withdrawn:
		return WouldWithdraw
	case e.TakesEffect.After(now):
		return WouldSchedule
	case by != event.NoLookup:
		return WouldResolve
	}
	return WouldRevoke
}
