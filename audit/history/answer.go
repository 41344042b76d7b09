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
	event   reported
	at      time.Time // when it was enqueued, or takes effect
	text    string    // why it has not
	planned bool
	decided time.Time // when it was planned
}

// account is what the answer follows from.
type account struct {
	confirmed confirmation // the last one
	elsewhere confirmation // the last one that an event was answered by, whether it is here or not
	open      demand       // the latest of those that are not planned
	planned   demand       // the latest of those that are
	withdrawn time.Time
	unknown   int // records with an outcome of a later version
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
	switch {
	case d.planned && !d.at.Before(a.planned.at):
		a.planned = d
	case !d.planned && !d.at.Before(a.open.at):
		a.open = d
	}
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
	planned := !a.planned.at.IsZero() && a.planned.at.After(a.confirmed.start) && a.planned.decided.After(a.withdrawn)
	switch open := a.open; {
	case open.at.After(a.confirmed.start) && signedOut == "":
		return NotSignedOut, fmt.Sprintf("No: %s was not signed out: %s (event of %s).", who, open.text, clock(open.at))
	case open.at.After(a.confirmed.start):
		return NotSignedOut, fmt.Sprintf("Not after the last event: %s, but not since the event of %s: %s.", signedOut, clock(open.at),
			open.text)
	case planned && signedOut != "":
		return Scheduled, fmt.Sprintf("Yes, and again later: %s, and is to be signed out on %s.", signedOut, clock(a.planned.at))
	case planned:
		return Scheduled, fmt.Sprintf("Not yet: %s is to be signed out on %s.", who, clock(a.planned.at))
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
