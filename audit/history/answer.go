package history

import (
	"fmt"
	"slices"
	"time"

	"github.com/session-revoker/session-revoker/schedule"
)

// confirmation is a call that Graph confirmed.
type confirmation struct {
	start, end   time.Time
	by           string // the operator of a manual revocation
	elsewhere    bool   // the record of the call is in another log
	unverified   string
	guestUnknown bool // nothing shows whether the person is a guest
}

// demand is what asks for a revocation and has not led to one itself.
type demand struct {
	at       time.Time // when the event was enqueued, or takes effect: a call before that does not answer it
	came     time.Time // when the event was enqueued
	recorded time.Time
	text     string // why it has not
}

// announcement is an event that names a date for the person, or takes one back, with what its latest
// record says.
type announcement struct {
	schedule.Announcement
	source   string
	enqueued time.Time // when its message was
	recorded time.Time
	planned  bool
	copied   int64  // the scheduled message, or the mark of a withdrawal; 0 if there is none
	open     demand // zero if it asks for nothing any more
}

// account is what the answer follows from.
type account struct {
	confirmed confirmation // the last one
	elsewhere confirmation // the last one that an event was answered by, whether it is here or not
	failed    demand       // the latest one that nothing but a call can answer
	// waiting are the events that were given back, and decided is when events were decided. The record
	// that decides an event can be in a file that is read before that of the other record.
	waiting map[reported]demand
	decided map[reported]time.Time
	// announced has the announcements that no later record has replaced.
	announced []announcement
	// forward has the demands of operators who began to bring a date forward.
	forward  map[part]demand
	canceled map[message]time.Time // scheduled messages that were canceled, and when
	// unsure has the scheduled messages that an operator began to cancel, and who. Nothing says whether
	// they were canceled.
	unsure  map[message]string
	last    time.Time // of all records of the log, also those about others
	unknown int       // records with an outcome of a later version
}

func newAccount() account {
	return account{
		waiting: map[reported]demand{}, decided: map[reported]time.Time{}, forward: map[part]demand{},
		canceled: map[message]time.Time{}, unsure: map[message]string{},
	}
}

// confirm notes a confirmed call. One that is elsewhere counts only if no later one is here.
func (a *account) confirm(c confirmation) {
	if c.elsewhere {
		if c.start.After(a.elsewhere.start) {
			a.elsewhere = c
		}
		return
	}
	if !c.start.Before(a.confirmed.start) {
		a.confirmed = c
	}
}

// ask notes a demand that nothing but a call can answer.
func (a *account) ask(d demand) {
	if !d.at.Before(a.failed.at) {
		a.failed = d
	}
}

// wait notes an event that was given back.
func (a *account) wait(event reported, d demand) {
	switch {
	case !a.decided[event].Before(d.recorded):
	case len(a.waiting) >= maxLinks:
		a.ask(d)
	default:
		a.waiting[event] = d
	}
}

// decide notes that an event was decided.
func (a *account) decide(event reported, recorded time.Time) {
	put(a.decided, event, later(a.decided[event], recorded))
	if w, ok := a.waiting[event]; ok && !w.recorded.After(recorded) {
		delete(a.waiting, event)
	}
}

// announce notes an announcement, and forgets those that it replaces.
func (a *account) announce(n announcement) {
	for _, other := range a.announced {
		if other.replaces(n) {
			return
		}
	}
	a.announced = slices.DeleteFunc(a.announced, n.replaces)
	if len(a.announced) >= maxAnnounced { // those that ask for nothing tell little
		a.announced = slices.DeleteFunc(a.announced, func(other announcement) bool { return !other.planned && other.open.text == "" })
	}
	if len(a.announced) >= maxAnnounced {
		a.ask(demand{n.Event.TakesEffect, n.recorded, n.recorded, "there are too many announcements to follow"})
		return
	}
	a.announced = append(a.announced, n)
}

// replaces reports whether n counts instead of an older announcement, by the worker's own order. It does
// not replace one that came later: the worker knows only what still waits, and judges that one anew.
// Later records of the same announcement replace those before them.
func (n announcement) replaces(other announcement) bool {
	if n.source != other.source || !schedule.SamePerson(n.User, other.User) {
		return false
	}
	switch newer := n.Compare(other.Announcement); {
	case newer == 0:
		return n.recorded.After(other.recorded)
	case newer > 0:
		return other.recorded.Before(n.enqueued)
	}
	return false
}

// cancel notes that a scheduled message was canceled.
func (a *account) cancel(m message, at time.Time) { put(a.canceled, m, later(a.canceled[m], at)) }

// open returns the latest demand.
func (a *account) open(now time.Time) demand {
	latest := a.failed
	consider := func(d demand) {
		if d.at.After(latest.at) {
			latest = d
		}
	}
	for _, d := range a.waiting {
		if !d.at.After(now) {
			consider(d)
		}
	}
	for _, d := range a.forward {
		consider(d)
	}
	for _, n := range a.announced {
		consider(n.open)
	}
	return latest
}

// next returns the earliest date at which the person is still to be signed out, or zero. by is the
// operator who may have canceled it.
func (a *account) next(now time.Time) (at time.Time, by string) {
	consider := func(date time.Time, who string) {
		if date.After(a.confirmed.start) && (at.IsZero() || date.Before(at)) {
			at, by = date, who
		}
	}
	for _, d := range a.waiting {
		if d.at.After(now) {
			consider(d.at.Add(schedule.DueWithin), "")
		}
	}
	for _, n := range a.announced {
		if n.planned && a.whenCanceled(n).IsZero() {
			consider(n.Event.TakesEffect, a.unsure[message{n.source, n.copied}])
		}
	}
	return at, by
}

// whenCanceled returns when the scheduled message of an announcement was canceled, or zero.
func (a *account) whenCanceled(n announcement) time.Time {
	canceled := a.canceled[message{n.source, n.copied}]
	if canceled.Before(n.recorded.Add(-renumbered)) { // that was another message with this number
		return time.Time{}
	}
	return canceled
}

// takenBack returns why the latest announcement does not ask for anything any more, or "".
func (a *account) takenBack() (why string) {
	var latest time.Time
	for _, n := range a.announced {
		canceled := a.whenCanceled(n)
		switch {
		case n.recorded.Before(latest):
		case n.Event.Withdrawn:
			latest, why = n.recorded, "what was announced was taken back at "+clock(n.recorded)
		case n.planned && !canceled.IsZero():
			latest, why = n.recorded, fmt.Sprintf("the scheduled message %d was canceled at %s", n.copied, clock(canceled))
		}
	}
	return why
}

// answer returns the state at a time, and one sentence.
func (f *finder) answer(who string, now time.Time) (State, string) {
	a := f.account
	if a.elsewhere.start.After(a.confirmed.start) {
		a.confirmed = a.elsewhere
	}
	signedOut := ""
	if !a.confirmed.end.IsZero() {
		signedOut = fmt.Sprintf("%s was signed out at %s", who, clock(a.confirmed.end))
		if a.confirmed.by != "" {
			signedOut += " by hand by " + a.confirmed.by
		}
	}
	next, by := a.next(now)
	unsure := ""
	if by != "" {
		unsure = "; " + by + " began to cancel it, and nothing says that it was canceled"
	}
	overdue := !next.IsZero() && now.Sub(next) > overdueAfter
	notDone := fmt.Sprintf("on %s, and nothing in this log, which ends at %s, says that it was done%s",
		clock(next), clock(a.last), unsure)
	switch open := a.open(now); {
	case open.at.After(a.confirmed.start) && signedOut == "":
		return NotSignedOut, fmt.Sprintf("No: %s was not signed out: %s (event of %s).", who, open.text, clock(open.came))
	case open.at.After(a.confirmed.start):
		return NotSignedOut, fmt.Sprintf("Not after the last event: %s, but not since the event of %s: %s.", signedOut, clock(open.came),
			open.text)
	case overdue && signedOut != "":
		return NotSignedOut, fmt.Sprintf("Not at the last date: %s, but was to be %s.", signedOut, notDone)
	case overdue:
		return NotSignedOut, fmt.Sprintf("No: %s was to be signed out %s.", who, notDone)
	case !next.IsZero() && signedOut != "":
		return Scheduled, fmt.Sprintf("Yes, and again later: %s, and is to be signed out on %s%s.", signedOut, clock(next), unsure)
	case !next.IsZero():
		return Scheduled, fmt.Sprintf("Not yet: %s is to be signed out on %s%s.", who, clock(next), unsure)
	case a.confirmed.elsewhere:
		return SignedOut, fmt.Sprintf("Yes: %s at the latest; the record of the call is in another log.", signedOut)
	case signedOut != "" && a.confirmed.unverified != "":
		return SignedOut, fmt.Sprintf("Yes, as far as Graph says: %s; the effect is not verified: %s.", signedOut, a.confirmed.unverified)
	case signedOut != "":
		return SignedOut, fmt.Sprintf("Yes: %s; Graph confirmed it.", signedOut)
	case a.takenBack() != "":
		return NotAsked, fmt.Sprintf("No: %s is not to be signed out: %s.", who, a.takenBack())
	case len(f.steps) > 0:
		return NotAsked, fmt.Sprintf("No: no event in this log asks to sign %s out.", who)
	}
	return NoRecord, fmt.Sprintf("Not known: no record in this log names %s.", who)
}
