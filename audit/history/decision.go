package history

import (
	"fmt"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/schedule"
)

// decision adds the steps of a decision about an event of the person.
func (f *finder) decision(e audit.Entry, d audit.Decision) {
	if e.Changed {
		f.changed++
	}
	enqueued := d.Came()
	asked := enqueued // an earlier call does not answer the event
	if !d.EffectiveTime.IsZero() {
		asked = later(enqueued, d.EffectiveTime.Add(-schedule.DueWithin))
	}
	base := Step{
		Source: d.Source, SequenceNumber: d.SequenceNumber, EventType: d.EventType, RequestID: d.RequestID, Run: d.ReplayRun,
	}
	add := func(t time.Time, kind Kind, format string, args ...any) {
		s := base
		s.Time, s.Kind, s.Text = t, kind, fmt.Sprintf(format, args...)
		if kind == DeadLettered {
			s.Reason = d.Reason
		}
		f.add(e, s)
	}
	key := reported{message{d.Source, d.SequenceNumber}, d.Event}
	if !f.reported[key] {
		if len(f.reported) >= maxLinks {
			clear(f.reported) // then a message that comes again is shown as reported again
		}
		f.reported[key] = true
		switch {
		case d.ReplayRun != "":
			link(f, f.runs, d.ReplayRun, true)
			add(firstOf(d.Enqueued, d.Time), Reported, "Back in the queue: replay %s had sent the message again.", d.ReplayRun)
		case !d.FirstEnqueued.IsZero():
			add(firstOf(d.Enqueued, d.Time), Reported, "Delivered at its date: %s.", reportText(d, enqueued))
		default:
			add(enqueued, Reported, "Reported: %s.", reportText(d, enqueued))
		}
	}
	if d.Calls > 0 && !d.CallStart.IsZero() {
		add(d.CallStart, Called, "%s", callText(d))
	}
	var open demand // what the event still asks for
	ask := func(text string) { open = demand{asked, enqueued, d.Time, text} }
	switch d.Outcome {
	case "revoked":
		end := firstOf(d.CallEnd, d.Time)
		if e.Changed {
			add(end, Revoked, "Signed out, says a record that was changed.")
			ask(notBelieved)
			break
		}
		add(end, Revoked, "Signed out: Graph confirmed that it revoked all sessions.")
		add(end, Effect, "%s", effectText(d, end))
		f.confirm(confirmation{
			start: firstOf(d.CallStart, end), end: end,
			guestUnknown: d.UserPrincipalName == "" && d.ValidFromAfter.IsZero(),
			unverified:   d.Unverified,
		})
	case "covered":
		add(d.Time, Covered, "Answered by a call that began after the event had arrived.")
		if !e.Changed {
			f.confirm(confirmation{start: asked, end: d.Time, elsewhere: true})
		}
	case "superseded":
		add(d.Time, Covered, "Joined with the newer message %d about the same person.", d.SupersededBy)
		ask("a newer event that it was joined with has no result in this log")
	case "outdated":
		add(d.Time, Withdrawn, "A newer announcement about the same person holds instead%s.", byMessage(d.SupersededBy))
	case "scheduled":
		add(d.Time, Planned, "To be signed out on %s%s.", clock(d.EffectiveTime), instead(d.Canceled))
	case "withdrawn":
		add(d.Time, Withdrawn, "What was announced was taken back%s.", instead(d.Canceled))
	case "dead_lettered":
		link(f, f.letters, message{d.Source, d.SequenceNumber}, true)
		add(d.Time, DeadLettered, "%s", deadText(d))
		if d.Reason != string(deadletter.NoTrigger) {
			ask("the event was dead-lettered, " + inWords(d.Reason))
		}
	case "unfinished":
		add(d.Time, Waiting, "Not finished: %s. The message comes again.", because(d.Error, "the worker had to let it go"))
		ask("the event is not finished")
	default:
		f.unknown++
		add(d.Time, Other, "Outcome %q, which this version does not know.", d.Outcome)
	}
	f.conclude(e, d, key, open)
}

// conclude notes what the answer needs to know of a decision: what the event still asks for, and which
// demands and plans it ends. A record that was changed ends none.
func (f *finder) conclude(e audit.Entry, d audit.Decision, event reported, open demand) {
	switch {
	case d.Outcome == "unfinished" && d.Withdrawn: // nobody is to be signed out for it
		return
	case d.Outcome == "unfinished":
		f.wait(event, open)
		return
	case e.Changed:
		f.ask(open)
		return
	}
	f.decide(event, d.Time)
	if copied, date := (message{d.Source, d.ScheduledAs}), d.EffectiveTime; copied.sequence != 0 {
		if d.Withdrawn {
			date = time.Time{} // the end of a mark is not known
		}
		link(f, f.copies, copied, later(f.copies[copied], date))
	}
	for _, sequence := range d.Canceled {
		f.cancel(message{d.Source, sequence}, d.Time)
	}
	if !isAnnouncement(d) {
		f.ask(open)
		return
	}
	f.announce(announcement{
		Announcement: announcementOf(d), source: d.Source, enqueued: firstOf(d.Enqueued, d.Time), recorded: d.Time,
		planned: d.Outcome == "scheduled", copied: d.ScheduledAs, open: open,
	})
}

// isAnnouncement reports whether the worker has compared the event with what was announced before. It
// refuses some before that.
func isAnnouncement(d audit.Decision) bool {
	switch d.Outcome {
	case "scheduled", "withdrawn", "outdated":
		return true
	case "dead_lettered":
		switch deadletter.Reason(d.Reason) {
		case deadletter.InvalidEvent, deadletter.UnknownEvent, deadletter.NoTrigger, deadletter.OwnerUnclear, deadletter.ForeignDomain,
			deadletter.TooOld, deadletter.ProtectedUser, deadletter.ExternalUser:
			return false
		}
	}
	return !d.EffectiveTime.IsZero()
}

// announcementOf returns the announcement of a decision, with what the worker orders announcements by.
func announcementOf(d audit.Decision) schedule.Announcement {
	return schedule.Announcement{
		Event: event.Event{TakesEffect: d.EffectiveTime, Withdrawn: d.Withdrawn}, User: userOf(d),
		Version: schedule.VersionOf(d.EventTime, d.Came()),
	}
}

// userOf returns the user as the worker compares them: by what was looked up, or else by id and name.
func userOf(d audit.Decision) event.User {
	way, value, _ := strings.Cut(d.LookedUp, ":")
	if user, err := event.NewLookup(event.LookupOf(way), value); err == nil {
		return user
	}
	user, _ := event.NewUser(d.UserID, d.UserPrincipalName) // it is nobody if the record was forged
	return user
}
