package history

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
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
	enqueued := firstOf(d.FirstEnqueued, d.Enqueued, d.Time)
	asked := later(enqueued, d.EffectiveTime) // an earlier call does not answer the event
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
			link(f, f.runs, d.ReplayRun)
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
		link(f, f.letters, message{d.Source, d.SequenceNumber})
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
	if d.Outcome == "unfinished" {
		f.wait(event, open)
		return
	}
	if e.Changed {
		f.ask(open)
		return
	}
	f.decide(event, d.Time)
	if d.ScheduledAs != 0 {
		link(f, f.copies, message{d.Source, d.ScheduledAs})
	}
	for _, sequence := range d.Canceled {
		f.cancel(message{d.Source, sequence}, d.Time)
	}
	if !isAnnouncement(d) {
		f.ask(open)
		return
	}
	f.announce(announcement{
		Announcement: announcementOf(d), source: d.Source, recorded: d.Time,
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
	a := schedule.Announcement{
		Event:   event.Event{TakesEffect: d.EffectiveTime, Withdrawn: d.Outcome == "withdrawn"},
		Version: firstOf(d.FirstEnqueued, d.Enqueued, d.Time),
	}
	if !d.EventTime.IsZero() && d.EventTime.Before(a.Version) {
		a.Version = d.EventTime
	}
	if user, err := event.NewUser(d.UserID, d.UserPrincipalName); err == nil {
		a.User = user
	}
	return a
}

// notBelieved is why a record of a revocation counts for nothing.
const notBelieved = "the record that says so was changed"

// reportText says which event named the person.
func reportText(d audit.Decision, enqueued time.Time) string {
	var text strings.Builder
	text.WriteString(because(d.EventType, "an event without a type"))
	if d.EventSource != "" {
		fmt.Fprintf(&text, " by %s", d.EventSource)
	}
	if d.Mapping != "" {
		fmt.Fprintf(&text, " (mapping %s)", d.Mapping)
	}
	if d.LookedUp != "" {
		fmt.Fprintf(&text, "; it named %s", d.LookedUp)
		if d.UserID == "" && d.UserPrincipalName == "" {
			text.WriteString(", and nobody was found for that")
		}
	}
	if t := d.EventTime; !t.IsZero() && t.Sub(enqueued).Abs() >= time.Minute {
		fmt.Fprintf(&text, "; it is said to have happened on %s", clock(t))
	}
	if !d.EffectiveTime.IsZero() {
		fmt.Fprintf(&text, "; it takes effect on %s", clock(d.EffectiveTime))
	}
	return text.String()
}

// callText says which call was made.
func callText(d audit.Decision) string {
	text := "Called Graph to revoke all sessions"
	if d.Calls > 1 {
		text += fmt.Sprintf(", for the last time of %d", d.Calls)
	}
	if d.Outcome != "revoked" {
		text += "; it answered " + statusText(d.Status)
	}
	if d.RequestID != "" {
		text += " (request " + d.RequestID + ")"
	}
	return text + "."
}

func statusText(status int) string {
	if status == 0 {
		return "nothing"
	}
	return "with HTTP " + strconv.Itoa(status)
}

// effectText says what is known about the effect of a confirmed call.
func effectText(d audit.Decision, end time.Time) string {
	switch {
	case !d.ValidFromAfter.IsZero() && d.Unverified == "":
		return "Effect verified: sessions that began before " + clock(d.ValidFromAfter) + " are not valid any more."
	case d.Unverified != "":
		return "Effect not verified: " + d.Unverified + "."
	}
	return fmt.Sprintf("Effect expected within a few minutes. Apps without continuous access evaluation can accept a token until about %s.",
		clock(end.Add(time.Hour)))
}

// deadText says why the person was not signed out.
func deadText(d audit.Decision) string {
	if d.Reason == string(deadletter.NoTrigger) {
		return "Nobody was to be signed out: " + because(d.Error, d.Reason) + "."
	}
	text := "Not signed out, dead-lettered: " + inWords(d.Reason) + "."
	if d.Error != "" {
		text += " The worker's words: " + strings.TrimRight(d.Error, ". ") + "."
	}
	return text
}

// inWords returns the reason of a dead letter with what it means.
func inWords(reason string) string {
	if reason == "" {
		return "for no reason that the record gives"
	}
	meaning, _, _ := strings.Cut(strings.ReplaceAll(deadletter.GuideTo(reason).Meaning, "`", ""), ". ")
	return reason + " (" + strings.TrimSuffix(meaning, ".") + ")"
}

// operation adds the steps of an operator's command about the person.
func (f *finder) operation(e audit.Entry, o audit.Operation) {
	by := because(o.By, o.Account)
	if o.Account != "" && o.Account != by {
		by += " (" + o.Account + ")"
	}
	why := ""
	if o.Why != "" {
		why = "; why: " + o.Why
	}
	add := func(kind Kind, format string, args ...any) {
		if e.Changed {
			f.changed++
		}
		f.add(e, Step{
			Time: o.Time, Kind: kind, Text: fmt.Sprintf(format, args...) + ".", By: by, Source: o.Source, Reason: o.Reason,
			RequestID: o.RequestID, Run: o.Run,
		})
	}
	switch {
	case o.Command == "revoke" && o.Outcome == audit.Started && slices.ContainsFunc(o.Users, f.isOne):
		add(ByHand, "%s began to sign them out by hand%s", by, why)
	case o.Outcome == audit.Revoked && f.isAbout(o.UserID, o.UserPrincipalName, ""):
		text := "Signed out by hand by %s: Graph confirmed that it revoked all sessions%s"
		if o.Unverified != "" {
			text += "; effect not verified: " + strings.ReplaceAll(o.Unverified, "%", "%%")
		}
		add(RevokedByHand, text, by, why)
		if e.Changed {
			f.ask(demand{o.Time, o.Time, o.Time, notBelieved})
			break
		}
		f.confirm(confirmation{
			start: o.Time, end: o.Time, by: by, unverified: o.Unverified, guestUnknown: o.UserPrincipalName == "",
		})
	case o.Outcome == audit.NotRevoked && f.isAbout(o.UserID, o.UserPrincipalName, ""):
		add(FailedByHand, "%s could not sign them out by hand: %s%s", by, because(o.Error, o.Reason), why)
		f.ask(demand{o.Time, o.Time, o.Time, "a manual revocation failed"})
	case o.Command == "scheduled cancel" || o.Command == "scheduled now":
		f.scheduledChange(e, o, by, why, add)
	case o.Command == "dlq replay" && o.Outcome == audit.Started && f.hasLetter(o):
		add(Replayed, "%s replayed the dead letter (run %s)%s", by, o.Run, why)
	case o.Command == "dlq edit" && o.Outcome == audit.Started && f.hasLetter(o):
		add(Replayed, "%s sent the dead letter again with an edited body (run %s)%s", by, o.Run, why)
	case o.Command == "dlq import" && o.Outcome == audit.Started && f.runs[o.Run]:
		add(Replayed, "%s sent the message again from the file %s (run %s)%s", by, o.File, o.Run, why)
	case o.Command == "dlq purge" && o.Outcome == audit.Started && f.hasLetter(o):
		add(Purged, "%s began to remove the dead letter%s", by, why)
	}
}

// isOne reports whether a name in a list of users is the person's.
func (f *finder) isOne(user string) bool {
	user = strings.ToLower(user)
	return f.ids[user] || f.names[user]
}

// scheduledChange adds the steps of scheduled cancel and scheduled now. The record at the end lists the
// messages that were canceled.
func (f *finder) scheduledChange(e audit.Entry, o audit.Operation, by, why string, add func(Kind, string, ...any)) {
	kind, doing, sent := Canceled, "cancel", ""
	if o.Command == "scheduled now" {
		kind, doing, sent = Advanced, "bring forward", ", and had sent its event without a date before"
	}
	found := among(o, f.copies)
	run := part{o.Run, o.Source}
	if o.Outcome == audit.Started {
		for _, m := range found {
			add(kind, "%s began to %s the scheduled message %d%s", by, doing, m.sequence, why)
			put(f.begun, run, true)
		}
		if kind == Advanced && len(found) > 0 {
			// The call may begin at once, and the clocks may differ.
			f.ask(demand{o.Time.Add(-clockJump), o.Time, o.Time, by + " began to bring the date forward, and no call followed"})
		}
		return
	}
	for _, m := range found {
		add(kind, "%s canceled the scheduled message %d%s", by, m.sequence, sent)
		if !e.Changed {
			f.cancel(m, o.Time)
		}
	}
	if o.Outcome == audit.Failed && f.begun[run] {
		add(kind, "%s could not %s all of what they began with: %s", by, doing, because(o.Error, "for no reason that the record gives"))
	}
}

// hasLetter reports whether the messages of an operation contain a dead letter of the person.
func (f *finder) hasLetter(o audit.Operation) bool { return len(among(o, f.letters)) > 0 }

// among returns those of the messages that an operation lists, in order.
func among(o audit.Operation, messages map[message]bool) (found []message) {
	if len(messages) == 0 {
		return nil
	}
	ranges := parseRanges(o.Messages)
	for m := range messages {
		if m.source == o.Source && slices.ContainsFunc(ranges, func(r [2]int64) bool {
			return r[0] <= m.sequence && m.sequence <= r[1]
		}) {
			found = append(found, m)
		}
	}
	slices.SortFunc(found, func(a, b message) int { return cmp.Compare(a.sequence, b.sequence) })
	return found
}

// put sets a value, unless there are too many already.
func put[K comparable, V any](known map[K]V, key K, value V) {
	if _, ok := known[key]; ok || len(known) < maxLinks {
		known[key] = value
	}
}

// parseRanges reads a list of sequence numbers such as 5,7,10-20. It leaves out what it cannot read.
func parseRanges(list string) [][2]int64 {
	var ranges [][2]int64
	for part := range strings.SplitSeq(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		low, err := strconv.ParseInt(from, 10, 64)
		high := low
		if err == nil && isRange {
			high, err = strconv.ParseInt(to, 10, 64)
		}
		if err == nil {
			ranges = append(ranges, [2]int64{low, high})
		}
	}
	return ranges
}

// because returns the text, or another one if it is empty.
func because(text, otherwise string) string {
	if text = strings.TrimRight(text, ". "); text != "" {
		return text
	}
	return otherwise
}

func byMessage(sequence int64) string {
	if sequence == 0 {
		return ""
	}
	return fmt.Sprintf(" (message %d)", sequence)
}

// instead names the scheduled messages that were canceled for a decision.
func instead(canceled []int64) string {
	switch len(canceled) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("; the scheduled message %d was canceled", canceled[0])
	}
	return fmt.Sprintf("; %d scheduled messages were canceled", len(canceled))
}

// clock formats a time for people.
func clock(t time.Time) string {
	if t.IsZero() {
		return "an unknown date"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// firstOf returns the first time that is not zero.
func firstOf(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
