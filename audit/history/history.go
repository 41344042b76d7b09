// Package history tells from the audit log what happened about one person: which events named them,
// which calls were made, what they achieved, and what operators did.
package history

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/event"
)

const (
	// maxSteps is the maximum number of steps of a history. Older ones are counted only.
	maxSteps = 5_000
	// maxLinks is the maximum number of names, ids, messages, and runs that belong to one person.
	maxLinks = 10_000
	// maxPasses is how often the log is read at most. It is read again when a record has shown
	// another name of the person, because records before that one may have the name.
	maxPasses = 6
	// clockJump is by how much the times of a chain may go back before it is a clock that jumped.
	// Records of one chain wait for each other for moments only.
	clockJump = 2 * time.Second
	// overdueAfter is how long after the date of a scheduled message its record may be missing. Service
	// Bus delivers such a message within moments.
	overdueAfter = 10 * time.Minute
	// renumbered is how much earlier a scheduled message must have been canceled than another one with
	// its number was scheduled, in a queue that was made again. By less, the clocks differ.
	renumbered = time.Hour
	// clocksDiffer is by how much the clocks of an operator and of a worker may differ.
	clocksDiffer = time.Minute
	// maxAnnounced is the maximum number of announcements that count: a few sources, and a few names.
	maxAnnounced = 500
)

// State is the answer to the question whether a person is signed out.
type State string

// The states.
const (
	// SignedOut means that Graph confirmed a revocation after the last event that asked for one.
	SignedOut State = "signed_out"
	// NotSignedOut means that the last event that asked for a revocation was not followed by one.
	NotSignedOut State = "not_signed_out"
	// Scheduled means that the person is to be signed out at a later date.
	Scheduled State = "scheduled"
	// NotAsked means that there are records about the person, and none asks for a revocation.
	NotAsked State = "not_asked"
	// NoRecord means that no record names the person.
	NoRecord State = "no_record"
)

// History is what the audit log says about one person.
type History struct {
	// User is whom the question was about. IDs and Names are the object ids and user principal
	// names of the person, in lower case, User among them.
	User  string   `json:"user"`
	IDs   []string `json:"ids"`
	Names []string `json:"names"`
	State State    `json:"state"`
	// Answer is one sentence: whether the person is signed out, and since when.
	Answer string `json:"answer"`
	// Revoked is when Graph confirmed the last revocation, or when an event was answered by one that
	// another log has. It is zero if there was none.
	Revoked time.Time `json:"revoked,omitzero"`
	// Steps are in the order of their times. Omitted is the number of older ones that are left out.
	Steps   []Step `json:"steps"`
	Omitted int    `json:"omitted,omitempty"`
	// Warnings say what makes the history uncertain.
	Warnings []string `json:"warnings,omitempty"`
	// Log is the result of the check of the whole log.
	Log audit.Report `json:"log"`
}

// Kind is what happened in a step.
type Kind string

// The kinds.
const (
	Reported      Kind = "reported"        // an event named the person
	Called        Kind = "called"          // Graph was called
	Revoked       Kind = "revoked"         // Graph confirmed
	Effect        Kind = "effect"          // the effect was read back, or could not be
	Covered       Kind = "covered"         // another call answers the event
	Waiting       Kind = "waiting"         // not finished: the message comes again
	Planned       Kind = "planned"         // scheduled for a date
	Withdrawn     Kind = "withdrawn"       // what was announced does not happen
	Canceled      Kind = "canceled"        // an operator canceled a scheduled message
	Advanced      Kind = "advanced"        // an operator brought a scheduled message forward
	DeadLettered  Kind = "dead_lettered"   // refused or failed, with the reason
	Replayed      Kind = "replayed"        // an operator sent a dead letter again
	Purged        Kind = "purged"          // an operator removed a dead letter
	ByHand        Kind = "by_hand"         // an operator began a manual revocation
	RevokedByHand Kind = "revoked_by_hand" // Graph confirmed it
	FailedByHand  Kind = "failed_by_hand"  // it failed, or was refused
	Other         Kind = "other"           // of a later version
)

// Step is one thing that happened. Texts from outside in it are not cleaned.
type Step struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"kind"`
	// Text says in words what happened.
	Text string `json:"text"`
	// By is the operator of an operator's step.
	By string `json:"by,omitempty"`
	// Source and SequenceNumber name the message of a step about an event.
	Source         string `json:"source,omitempty"`
	SequenceNumber int64  `json:"sequenceNumber,omitempty"`
	EventType      string `json:"eventType,omitempty"`
	Reason         string `json:"reason,omitempty"`
	RequestID      string `json:"requestId,omitempty"`
	// Run is the run of a command, or the replay that sent the message.
	Run string `json:"run,omitempty"`
	// Line is the line of the record. Changed reports whether its hash or MAC is wrong.
	Line    int  `json:"line"`
	Changed bool `json:"changed,omitempty"`
}

// Open opens the audit log from its beginning. Of reads it several times.
type Open func() (io.ReadCloser, error)

// Of reads the history of a person from the audit log. user is known by ID or by name.
//
// A record with an object id is about the person with this id. A record with a name alone is about
// the person whose id other records have beside the name. If several ids have had the name, the
// history is about all of them, and a warning says so.
//
// now is the time of the question: a date that has passed without a record is not kept.
//
// Of holds the person's steps in memory, at most 10,000 while it reads and 5,000 at the end, and what package audit holds. The error is
// one of reading.
func Of(ctx context.Context, open Open, user event.User, now time.Time, options audit.Options) (History, error) {
	f := &finder{
		names: map[string]bool{}, ids: map[string]bool{}, letters: map[message]bool{}, copies: map[message]time.Time{},
		runs: map[string]bool{},
	}
	if user.ID() != "" {
		f.ids[user.ID()] = true
		f.asked = user.ID()
	} else {
		f.names[strings.ToLower(user.UPN())] = true
		f.asked, f.askedByName = strings.ToLower(user.UPN()), true
	}
	var report audit.Report
	for pass := 1; ; pass++ {
		f.reset()
		log, err := open()
		if err != nil {
			return History{}, err
		}
		options.Each = f.entry
		report, err = audit.Verify(audit.UntilDone(ctx, log), options)
		if err = errors.Join(err, log.Close()); err != nil {
			return History{}, err
		}
		if !f.grew || pass == maxPasses {
			break
		}
	}
	h := f.history(report, now)
	h.User = user.Name()
	return h, nil
}

// message identifies a message, a dead letter, or a scheduled message.
type message struct {
	source   string
	sequence int64
}

// finder picks the records about a person.
type finder struct {
	asked       string
	askedByName bool
	// What belongs to the person. It grows from pass to pass. letters are their dead letters, copies
	// their scheduled messages, and runs the replays that sent their messages.
	names, ids map[string]bool
	letters    map[message]bool
	copies     map[message]time.Time // and their dates
	runs       map[string]bool
	grew       bool

	steps    []Step
	omitted  int
	reported map[reported]bool
	changed  int
	clocks   map[string]time.Time // the last time of each chain
	jumps    int
	jump     time.Duration     // the largest
	others   map[string]string // ids of other people that have had one of the names
	begun    map[part]bool     // the commands that were about to change their scheduled messages
	account
}

// reported identifies an event of a message.
type reported struct {
	message
	event int
}

// part is what a run of a command does in one source.
type part struct{ run, source string }

// reset forgets what the last pass has found, but not what belongs to the person.
func (f *finder) reset() {
	f.grew, f.steps, f.omitted, f.changed, f.jumps, f.jump = false, nil, 0, 0, 0, 0
	f.reported, f.clocks, f.others = map[reported]bool{}, map[string]time.Time{}, map[string]string{}
	f.begun = map[part]bool{}
	f.account = newAccount()
}

// link adds something that belongs to the person, and notes whether it is new.
func link[K comparable, V any](f *finder, known map[K]V, key K, value V) {
	before := len(known)
	put(known, key, value)
	f.grew = f.grew || len(known) > before
}

// put sets a value, unless there are too many already.
func put[K comparable, V any](known map[K]V, key K, value V) {
	if _, ok := known[key]; ok || len(known) < maxLinks {
		known[key] = value
	}
}

// entry reads one record.
func (f *finder) entry(e audit.Entry) {
	switch {
	case e.Decision != nil:
		f.clock(e, e.Decision.Time)
		if f.isAbout(e.Decision.UserID, e.Decision.UserPrincipalName, e.Decision.LookedUp) {
			f.decision(e, *e.Decision)
		}
	case e.Operation != nil:
		f.clock(e, e.Operation.Time)
		f.operation(e, *e.Operation)
	}
}

// clock notes when the clock of a process jumps back.
func (f *finder) clock(e audit.Entry, now time.Time) {
	if back := f.clocks[e.Chain].Sub(now); back > clockJump {
		f.jumps++
		f.jump = max(f.jump, back)
	}
	f.clocks[e.Chain] = now
	if !e.Changed {
		f.last = later(f.last, now)
	}
	if e.End {
		delete(f.clocks, e.Chain)
	}
}

// isAbout reports whether a record with this id and name is about the person, and links both.
func (f *finder) isAbout(id, name, lookedUp string) bool {
	id, name = strings.ToLower(id), strings.ToLower(name)
	switch {
	case id == "" && name == "": // the look-up of a mail address found nobody
		mail, ok := strings.CutPrefix(strings.ToLower(lookedUp), "mail:")
		return ok && f.names[mail]
	case id == "":
		return f.names[name]
	case name != "" && f.askedByName && name == f.asked:
		link(f, f.ids, id, true)
		return true
	case !f.ids[id]:
		if name != "" && f.names[name] && len(f.others) < maxLinks {
			f.others[id] = name
		}
		return false
	case name != "":
		link(f, f.names, name, true)
	}
	return true
}

// add adds a step.
func (f *finder) add(e audit.Entry, s Step) {
	if len(f.steps) >= 2*maxSteps { // forget the older half
		sortSteps(f.steps)
		f.omitted += len(f.steps) - maxSteps
		f.steps = append(f.steps[:0], f.steps[len(f.steps)-maxSteps:]...)
	}
	s.Line, s.Changed = e.Line, e.Changed
	f.steps = append(f.steps, s)
}

// sortSteps sorts by time, and steps of the same time by their order in the log.
func sortSteps(steps []Step) {
	slices.SortStableFunc(steps, func(a, b Step) int { return a.Time.Compare(b.Time) })
}

// history completes the history after the last pass.
func (f *finder) history(report audit.Report, now time.Time) History {
	h := History{Log: report, Steps: append([]Step{}, f.steps...), IDs: sorted(f.ids), Names: sorted(f.names), Omitted: f.omitted}
	sortSteps(h.Steps)
	if extra := len(h.Steps) - maxSteps; extra > 0 {
		h.Steps, h.Omitted = h.Steps[extra:], h.Omitted+extra
	}
	h.State, h.Answer = f.answer(cmp.Or(f.asked, "they"), now)
	if h.Revoked = f.confirmed.end; f.elsewhere.start.After(f.confirmed.start) {
		h.Revoked = f.elsewhere.end
	}
	warn := func(format string, args ...any) { h.Warnings = append(h.Warnings, fmt.Sprintf(format, args...)) }
	if f.askedByName && len(f.ids) > 1 {
		warn("object ids that have had the name %s: %d; the history is about all of them; ask again by one id", f.asked, len(f.ids))
	}
	for i, id := range sorted(f.others) {
		if i == 10 {
			warn("other ids that have had one of the names: %d", len(f.others)-i)
			break
		}
		warn("%s has had the name %s, too; their records are left out", id, f.others[id])
	}
	if f.confirmed.guestUnknown && len(f.names) == 0 {
		warn("the records have the object id alone, so they do not show whether this is a guest, " +
			"for whom Graph confirms and revokes nothing")
	}
	if f.unknown > 0 {
		warn("records with an outcome that this version does not know: %d; use a newer one", f.unknown)
	}
	if f.jumps > 0 {
		warn("times that the clock of a writer jumped back: %d, by up to %s; the order of steps may be wrong there", f.jumps,
			f.jump.Round(time.Second))
	}
	if f.grew {
		warn("more names or messages belong to this person than could be followed: steps may be missing")
	}
	if f.changed > 0 {
		warn("records about this person that were changed: %d; they are marked", f.changed)
	}
	if report.Unreadable > 0 {
		warn("lines of the log that cannot be read: %d; steps may be missing", report.Unreadable)
	}
	if more := report.ProblemCount - report.Unreadable; more > 0 {
		warn("other problems of the log: %d; records were changed, added, or removed (worker audit verify lists them)", more)
	}
	return h
}

// sorted returns the keys of a map in order.
func sorted[V any](set map[string]V) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
