package history

import (
	"fmt"
	"time"
)

// confirmation is a call that Graph confirmed.
type confirmation struct {
	start, end   time.Time
	by           string // the operator of a manual revocation
	elsewhere    bool   // the record of the call is in another log
	unverified   string
	guestUnknown bool // nothing shows whether the person is a guest
}

// demand is an event that asks for a revocation and has not led to one itself.
type demand struct {
	event reported
	at    time.Time // when it was enqueued, or takes effect
	text  string    // why it has not
}

// plan is a scheduled message, which asks for a revocation at its date.
type plan struct {
	at      time.Time // the date
	decided time.Time // when it was scheduled
}

// date is a date that an event of a source has named.
type date struct {
	source string
	at     int64 // in Unix nanoseconds
}

// account is what the answer follows from.
type account struct {
	confirmed confirmation // the last one
	elsewhere confirmation // the last one that an event was answered by, whether it is here or not
	open      demand       // the latest one
	plans     map[message]plan
	canceled  map[message]bool   // scheduled messages that were canceled
	acted     map[date]time.Time // when an event with this date was last acted on
	last      time.Time          // of all records of the log, also those about others
	unknown   int                // records with an outcome of a later version
}

func newAccount() account {
	return account{plans: map[message]plan{}, canceled: map[message]bool{}, acted: map[date]time.Time{}}
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

// ask notes a demand.
func (a *account) ask(d demand) {
	if !d.at.Before(a.open.at) {
		a.open = d
	}
}

// next returns the earliest date at which the person is still to be signed out, or zero.
func (a *account) next() (at time.Time) {
	for m, p := range a.plans {
		if a.canceled[m] || !p.at.After(a.confirmed.start) || !a.acted[date{m.source, p.at.UnixNano()}].Before(p.decided) {
			continue
		}
		if at.IsZero() || p.at.Before(at) {
			at = p.at
		}
	}
	return at
}

// settle takes back what an event asked for before.
func (a *account) settle(event reported) {
	if a.open.event == event {
		a.open = demand{}
	}
}

// answer returns the state, and one sentence.
func (f *finder) answer(who string) (State, string) {
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
	next := a.next()
	switch open := a.open; {
	case open.at.After(a.confirmed.start) && signedOut == "":
		return NotSignedOut, fmt.Sprintf("No: %s was not signed out: %s (event of %s).", who, open.text, clock(open.at))
	case open.at.After(a.confirmed.start):
		return NotSignedOut, fmt.Sprintf("Not after the last event: %s, but not since the event of %s: %s.", signedOut, clock(open.at),
			open.text)
	case !next.IsZero() && a.last.Sub(next) > overdue && signedOut != "":
		return NotSignedOut, fmt.Sprintf("Not at the last date: %s, but was to be on %s, and nothing in this log says that it was done.",
			signedOut, clock(next))
	case !next.IsZero() && a.last.Sub(next) > overdue:
		return NotSignedOut, fmt.Sprintf("No: %s was to be signed out on %s, and nothing in this log says that it was done.",
			who, clock(next))
	case !next.IsZero() && signedOut != "":
		return Scheduled, fmt.Sprintf("Yes, and again later: %s, and is to be signed out on %s.", signedOut, clock(next))
	case !next.IsZero():
		return Scheduled, fmt.Sprintf("Not yet: %s is to be signed out on %s.", who, clock(next))
	case a.confirmed.elsewhere:
		return SignedOut, fmt.Sprintf("Yes: %s at the latest; the record of the call is in another log.", signedOut)
	case signedOut != "" && a.confirmed.unverified != "":
		return SignedOut, fmt.Sprintf("Yes, as far as Graph says: %s; the effect is not verified: %s.", signedOut, a.confirmed.unverified)
	case signedOut != "":
		return SignedOut, fmt.Sprintf("Yes: %s; Graph confirmed it.", signedOut)
	case len(f.steps) > 0:
		return NotAsked, fmt.Sprintf("No: no event in this log asks to sign %s out.", who)
	}
	return NoRecord, fmt.Sprintf("Not known: no record in this log names %s.", who)
}
