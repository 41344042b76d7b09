// Package report measures from the audit log how long it took from an event to the revocation of the
// person's sessions, and lists whom it took too long for, and who was not signed out and why.
package report

import (
	"cmp"
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
)

// What bounds the memory of a report, whatever the size of the log: together about 150 MB at most.
const (
	// maxCases is the number of misses that are listed, and maxListed that of exceptions. Others are
	// counted.
	maxCases, maxListed = 1000, 5000
	// maxGroups is the number of types, sources, or producers that are told apart. The others are
	// together.
	maxGroups = 200
	// maxPeople is the number of people that are told apart.
	maxPeople = 1_000_000
	// maxJoined is the number of events that wait for the end of the newer event that they were joined
	// with, and of messages that are not finished.
	maxJoined = 20_000
	// maxDead is the number of dead letters that are recognized when a replay sends them again.
	// Others count once more then.
	maxDead = 100_000
)

// others is the name of the group of those beyond maxGroups.
const others = "(others)"

// Options are what a report is about.
type Options struct {
	// From and To limit the time at which an event was enqueued for the first time. From is
	// inclusive, To is exclusive. Either may be zero.
	From, To time.Time
	// Target is the longest acceptable time from an event to its revocation. It must be positive.
	Target time.Duration
	// Verify is what the log is checked against.
	Verify audit.Options
}

// Report is the result.
type Report struct {
	From          time.Time `json:"from,omitzero"`
	To            time.Time `json:"to,omitzero"`
	TargetSeconds float64   `json:"targetSeconds"`
	// First and Last are the times of the first and last record of the period.
	First time.Time `json:"first,omitzero"`
	Last  time.Time `json:"last,omitzero"`
	// Answer is one sentence.
	Answer string `json:"answer"`
	// Events is the number of events with an end in the log. An event that was replayed counts once,
	// by its last end. People is the number of people whom
	// they name; there are more if ManyPeople is true.
	Events     int  `json:"events"`
	People     int  `json:"people"`
	ManyPeople bool `json:"manyPeople,omitempty"`
	// Outcomes counts the records by their outcome.
	Outcomes map[string]int `json:"outcomes"`
	// Met and Missed count the events that led to a revocation within the target, and later. Failed
	// counts those that should have and did not. Not Asked counts those that were to sign nobody out.
	Met      int `json:"met"`
	Missed   int `json:"missed"`
	Failed   int `json:"failed"`
	NotAsked int `json:"notAsked"`
	// Replayed is the number of them whose message a replay had sent.
	Replayed int `json:"replayed"`
	// Verified is the number of revocations whose effect was read back, and Unverified the number of
	// those for which that failed. GuestUnknown is the number of those by object id alone, which do
	// not show whether the person is a guest.
	Verified     int `json:"verified"`
	Unverified   int `json:"unverified"`
	GuestUnknown int `json:"guestUnknown"`
	// Stages are measured times, from the event to the confirmation by Graph.
	Stages Stages `json:"stages"`
	// Types, Sources, and Producers are the same by the type of the event, by queue or subscription,
	// and by the event's own source.
	Types     []Group `json:"types"`
	Sources   []Group `json:"sources"`
	Producers []Group `json:"producers"`
	// Misses are the events that missed the target, the slowest first.
	Misses Cases `json:"misses"`
	// Exceptions are the events without a revocation, by kind, and events whose times contradict each
	// other.
	Exceptions []Exception `json:"exceptions"`
	// Operators counts what operators' commands began in the period.
	Operators []Action `json:"operators"`
	Warnings  []string `json:"warnings,omitempty"`
	// Log is the result of the check of the whole log.
	Log audit.Report `json:"log"`
}

// Stages are the stages of the way from an event to its revocation. An event that answers another
// one's call has no call of its own; then its end is the time of its record, which is later.
type Stages struct {
	// EventToEnd is from the event's own time, or the date at which it takes effect, to Graph's
	// confirmation. Events without a time are measured from when they were enqueued.
	EventToEnd Times `json:"eventToEnd"`
	// EventToQueue is from the event's own time to when it was enqueued for the first time.
	EventToQueue Times `json:"eventToQueue"`
	// QueueToEnd is from when it was enqueued to Graph's confirmation, QueueToCall to the begin of
	// the call that Graph confirmed, and CallToEnd is the rest.
	QueueToEnd  Times `json:"queueToEnd"`
	QueueToCall Times `json:"queueToCall"`
	CallToEnd   Times `json:"callToEnd"`
}

// Group is the events of one type, source, or producer.
type Group struct {
	Name       string `json:"name"`
	EventToEnd Times  `json:"eventToEnd"`
	Failed     int    `json:"failed"`
}

// Cases are events that are listed, and the number of all of them.
type Cases struct {
	Count int    `json:"count"`
	List  []Case `json:"list"`
}

// Exception is a kind of events without a revocation: a reason of a dead letter, or another kind.
type Exception struct {
	Kind    string `json:"kind"`
	Meaning string `json:"meaning"`
	// Failed reports whether the person should have been signed out.
	Failed bool `json:"failed"`
	Cases
}

// Case is one event. Texts from outside in it are not cleaned.
type Case struct {
	User      string `json:"user"`
	EventType string `json:"eventType"`
	Source    string `json:"source"`
	Producer  string `json:"producer,omitempty"`
	Mapping   string `json:"mapping,omitempty"`
	// EventTime is the event's own time, or the date at which it takes effect, if that is later.
	EventTime time.Time `json:"eventTime,omitzero"`
	Enqueued  time.Time `json:"enqueued,omitzero"`
	Called    time.Time `json:"called,omitzero"`
	End       time.Time `json:"end,omitzero"`
	// Seconds is from EventTime, or else Enqueued, to End. It is 0 if there was no revocation.
	Seconds        float64 `json:"seconds,omitempty"`
	Outcome        string  `json:"outcome"`
	Reason         string  `json:"reason,omitempty"`
	Error          string  `json:"error,omitempty"`
	MessageID      string  `json:"messageId,omitempty"`
	SequenceNumber int64   `json:"sequenceNumber"`
	Event          int     `json:"event"`
	RequestID      string  `json:"requestId,omitempty"`
	Replayed       bool    `json:"replayed,omitempty"`
	Line           int     `json:"line"`
}

// Action counts what one operator did with one command.
type Action struct {
	Command string `json:"command"`
	By      string `json:"by"`
	Runs    int    `json:"runs"`
	Count   int    `json:"count"` // messages or people
}

// The kinds of exceptions that are not reasons of dead letters.
const (
	kindNoEnd    = "no end"
	kindJoined   = "joined without an end"
	kindNewer    = "replaced"
	kindWithdraw = "withdrawn"
	kindClock    = "clocks disagree"
	kindUnknown  = "unknown outcome"
	kindChanged  = "changed record"
)

var meanings = map[string]string{
	kindNoEnd:    "A message was given back, and this log has no end of it: it waits, or another replica has the record.",
	kindJoined:   "A newer event about the same person stands for this one, and this log has no end of that one.",
	kindNewer:    "A newer announcement about the same person holds instead.",
	kindWithdraw: "What was announced for the person was taken back.",
	kindClock:    "The event claims a time after its own revocation, or a clock was wrong. It is measured from when it was enqueued.",
	kindChanged:  "The record was changed after it was written, so nothing in it counts.",
	kindUnknown:  "The record has an outcome that this version does not know.",
}

// Make reads an audit log once and makes the report. Its memory is bounded, whatever the size of the
// log. The error is one of reading.
func Make(ctx context.Context, log io.Reader, o Options) (Report, error) {
	m := newMaker(o)
	o.Verify.Each = m.entry
	checked, err := audit.Verify(audit.UntilDone(ctx, log), o.Verify)
	if err != nil {
		return Report{}, err
	}
	return m.report(checked), nil
}

// maker makes a report.
type maker struct {
	Options
	r      Report
	seed   maphash.Seed
	people map[uint64]struct{}

	eventToEnd, eventToQueue, queueToEnd, queueToCall, callToEnd series
	types, sources, producers                                    groups
	exceptions                                                   map[string]*Exception
	actions                                                      map[[2]string]*Action
	// open are messages that were given back and have no end yet. joined are events that wait for the
	// end of a newer one, and ends the ends of recent ones, by event.
	open    map[eventKey]Case
	joined  map[eventKey][]Case
	waiting int // the number of events in joined
	ends    recent
	listed  int // exceptions that are listed
	// dead are dead letters, which a replay may send again.
	dead   map[original]exceptionOf
	lost   int // events that are not in open or joined, because there were too many
	back   int // records whose clock jumped back
	clocks map[string]time.Time
}

// original identifies an event about a person over replays: by when it was enqueued for the first time.
type original struct {
	enqueued   int64
	user, kind string
}

// exceptionOf is how a dead letter was counted.
type exceptionOf struct {
	kind   string
	failed bool
	line   int
}

// eventKey identifies an event about a person.
type eventKey struct {
	source   string
	sequence int64
	user     string
}

func newMaker(o Options) *maker {
	return &maker{
		Options: o, seed: maphash.MakeSeed(), people: map[uint64]struct{}{},
		r: Report{
			From: o.From, To: o.To, TargetSeconds: o.Target.Seconds(), Outcomes: map[string]int{}, Misses: Cases{List: []Case{}},
			Exceptions: []Exception{}, Operators: []Action{},
		},
		types: groups{}, sources: groups{}, producers: groups{}, exceptions: map[string]*Exception{}, actions: map[[2]string]*Action{},
		open: map[eventKey]Case{}, joined: map[eventKey][]Case{}, dead: map[original]exceptionOf{}, clocks: map[string]time.Time{},
	}
}

// entry reads one record.
func (m *maker) entry(e audit.Entry) {
	switch {
	case e.Decision != nil:
		m.clock(e, e.Decision.Time)
		m.decision(e, *e.Decision)
	case e.Operation != nil:
		m.clock(e, e.Operation.Time)
		m.operation(*e.Operation)
	}
	if e.End {
		delete(m.clocks, e.Chain)
	}
}

// clockJump is by how much the times of a chain may go back before it is a clock that jumped.
const clockJump = 2 * time.Second

func (m *maker) clock(e audit.Entry, now time.Time) {
	if m.clocks[e.Chain].Sub(now) > clockJump {
		m.back++
	}
	m.clocks[e.Chain] = now
}

// within reports whether a time is in the period, and notes the first and last one.
func (m *maker) within(t time.Time) bool {
	if !m.From.IsZero() && t.Before(m.From) || !m.To.IsZero() && !t.Before(m.To) {
		return false
	}
	if m.r.First.IsZero() || t.Before(m.r.First) {
		m.r.First = t
	}
	if t.After(m.r.Last) {
		m.r.Last = t
	}
	return true
}

// newCase returns the case of a decision.
func newCase(line int, d audit.Decision) Case {
	c := Case{
		User: cmp.Or(d.UserID, d.UserPrincipalName, d.LookedUp), EventType: d.EventType, Source: d.Source, Producer: d.EventSource,
		Mapping: d.Mapping, EventTime: d.EventTime, Enqueued: firstTime(d.FirstEnqueued, d.Enqueued, d.Time),
		Called: d.CallStart, Outcome: d.Outcome, Reason: d.Reason, Error: d.Error, MessageID: d.MessageID,
		SequenceNumber: d.SequenceNumber, Event: d.Event, RequestID: d.RequestID, Replayed: d.ReplayRun != "", Line: line,
	}
	if d.EffectiveTime.After(firstTime(c.EventTime, c.Enqueued)) { // nobody was to be signed out before
		c.EventTime, c.Enqueued = d.EffectiveTime, laterOf(c.Enqueued, d.EffectiveTime)
	}
	return c
}

// decision reads a decision.
func (m *maker) decision(e audit.Entry, d audit.Decision) {
	c := newCase(e.Line, d)
	if !m.within(firstTime(d.FirstEnqueued, d.Enqueued, d.Time)) {
		return
	}
	m.r.Outcomes[d.Outcome]++
	key := eventKey{c.Source, c.SequenceNumber, strings.ToLower(c.User)}
	switch d.Outcome {
	case "unfinished":
		if len(m.open) < maxJoined {
			m.open[key] = c
		} else {
			m.lost++
		}
		return
	case "scheduled":
		return // the scheduled message gets a record of its own
	}
	delete(m.open, key)
	m.r.Events++
	m.person(c.User)
	first := original{firstTime(d.FirstEnqueued, d.Enqueued, d.Time).UnixNano(), key.user, d.EventType}
	if c.Replayed {
		m.r.Replayed++
		m.forget(first, c)
	}
	if e.Changed {
		m.except(kindChanged, true, c)
		return
	}
	switch d.Outcome {
	case "revoked":
		c.End = firstTime(d.CallEnd, d.Time)
		m.effect(d)
		m.end(key, c)
	case "covered":
		c.End = d.Time
		m.end(key, c)
	case "dead_lettered":
		m.end(key, c)
		if len(m.dead) < maxDead {
			m.dead[first] = exceptionOf{cmp.Or(c.Reason, "no reason"), asked(c.Reason), c.Line}
		}
	case "superseded":
		m.join(c, eventKey{c.Source, d.SupersededBy, key.user}, key)
	case "outdated":
		m.except(kindNewer, false, c)
	case "withdrawn":
		m.except(kindWithdraw, false, c)
	default:
		m.except(kindUnknown, true, c)
	}
}

// join keeps an event until the newer one has its end. Those that wait for it wait for the newer one,
// too.
func (m *maker) join(c Case, newer, key eventKey) {
	waiting := append(m.joined[key], c)
	m.waiting -= len(waiting) - 1
	delete(m.joined, key)
	if by, ok := m.ends.get(newer); ok {
		for _, w := range waiting {
			m.settle(w, by)
		}
		return
	}
	if m.waiting+len(waiting) > maxJoined {
		m.lost += len(waiting)
		return
	}
	m.waiting += len(waiting)
	m.joined[newer] = append(m.joined[newer], waiting...)
}

// end is how an event ended: by a call, or with the reason of a dead letter.
type end struct {
	called, end       time.Time
	reason, requestID string
}

// end counts an event that has its end, and those that were joined with it.
func (m *maker) end(key eventKey, c Case) {
	by := end{c.Called, c.End, c.Reason, c.RequestID}
	m.settle(c, by)
	for _, w := range m.joined[key] {
		m.settle(w, by)
	}
	m.waiting -= len(m.joined[key])
	delete(m.joined, key)
	m.ends.put(key, by)
}

// settle counts an event by its end.
func (m *maker) settle(c Case, by end) {
	if by.end.IsZero() {
		c.Reason = by.reason
		m.except(cmp.Or(by.reason, "no reason"), asked(by.reason), c)
		return
	}
	c.Called, c.End, c.RequestID = by.called, by.end, by.requestID
	start := firstTime(c.EventTime, c.Enqueued)
	if !c.EventTime.IsZero() && c.EventTime.After(c.End) {
		m.contradiction(c)
		start = c.Enqueued
	}
	took := max(0, c.End.Sub(start))
	m.measure(c, took)
	if c.Seconds = took.Seconds(); took <= m.Target {
		m.r.Met++
		return
	}
	m.r.Missed++
	m.r.Misses.Count++
	m.r.Misses.List = append(m.r.Misses.List, c)
	if len(m.r.Misses.List) >= 2*maxCases {
		m.cutMisses()
	}
}

// cutMisses keeps the slowest.
func (m *maker) cutMisses() {
	slices.SortStableFunc(m.r.Misses.List, func(a, b Case) int {
		switch {
		case a.Seconds > b.Seconds:
			return -1
		case a.Seconds < b.Seconds:
			return 1
		}
		return 0
	})
	m.r.Misses.List = m.r.Misses.List[:min(len(m.r.Misses.List), maxCases)]
}

// measure adds the times of an event that has led to a revocation.
func (m *maker) measure(c Case, took time.Duration) {
	m.eventToEnd.add(took, m.Target)
	m.types.of(c.EventType).times.add(took, m.Target)
	m.sources.of(c.Source).times.add(took, m.Target)
	m.producers.of(c.Producer).times.add(took, m.Target)
	between := func(s *series, from, to time.Time) {
		if d := to.Sub(from); !from.IsZero() && !to.IsZero() && d >= 0 {
			s.add(d, m.Target)
		}
	}
	between(&m.eventToQueue, c.EventTime, c.Enqueued)
	between(&m.queueToEnd, c.Enqueued, c.End)
	between(&m.queueToCall, c.Enqueued, c.Called)
	between(&m.callToEnd, c.Called, c.End)
}

// asked reports whether a dead letter with this reason means that somebody should have been signed
// out.
func asked(reason string) bool {
	switch deadletter.Reason(reason) {
	case deadletter.NoTrigger, deadletter.UnknownEvent, deadletter.ProtectedUser, deadletter.TooOld, deadletter.TooFarAhead,
		deadletter.ForeignDomain:
		return false
	}
	return true
}

// except counts an exception.
func (m *maker) except(kind string, failed bool, c Case) {
	if failed {
		m.r.Failed++
		m.types.of(c.EventType).failed++
		m.sources.of(c.Source).failed++
		m.producers.of(c.Producer).failed++
	} else {
		m.r.NotAsked++
	}
	m.list(kind, failed, c)
}

// forget takes back a dead letter that a replay has sent again: the event counts once, by its last
// end.
func (m *maker) forget(first original, c Case) {
	before, ok := m.dead[first]
	if !ok {
		return
	}
	delete(m.dead, first)
	m.r.Events--
	if before.failed {
		m.r.Failed--
		m.types.of(c.EventType).failed--
		m.sources.of(c.Source).failed--
		m.producers.of(c.Producer).failed--
	} else {
		m.r.NotAsked--
	}
	e := m.exceptions[before.kind]
	if e == nil {
		e = m.exceptions[others]
	}
	e.Count--
	kept := slices.DeleteFunc(e.List, func(listed Case) bool { return listed.Line == before.line })
	m.listed -= len(e.List) - len(kept)
	e.List = kept
}

// contradiction lists an event whose times contradict each other.
func (m *maker) contradiction(c Case) { m.list(kindClock, false, c) }

func (m *maker) list(kind string, failed bool, c Case) {
	if m.exceptions[kind] == nil && len(m.exceptions) >= maxGroups {
		kind = others
	}
	e := m.exceptions[kind]
	if e == nil {
		meaning, own := meanings[kind]
		if !own {
			meaning = strings.ReplaceAll(deadletter.GuideTo(kind).Meaning, "`", "")
		}
		e = &Exception{Kind: kind, Meaning: meaning, Failed: failed}
		m.exceptions[kind] = e
	}
	if e.Count++; m.listed < maxListed {
		m.listed++
		e.List = append(e.List, c)
	}
}

// effect counts what is known about the effect of a revocation.
func (m *maker) effect(d audit.Decision) {
	switch {
	case d.Unverified != "":
		m.r.Unverified++
	case !d.ValidFromAfter.IsZero():
		m.r.Verified++
	case d.UserPrincipalName == "":
		m.r.GuestUnknown++
	}
}

func (m *maker) person(user string) {
	if user == "" {
		return
	}
	if len(m.people) >= maxPeople {
		m.r.ManyPeople = true
		return
	}
	m.people[maphash.String(m.seed, strings.ToLower(user))] = struct{}{}
}

// operation counts what an operator began.
func (m *maker) operation(o audit.Operation) {
	if o.Outcome != audit.Started || !m.within(o.Time) {
		return
	}
	key := [2]string{o.Command, cmp.Or(o.By, o.Account)}
	if m.actions[key] == nil {
		if len(m.actions) >= maxGroups {
			key = [2]string{o.Command, others}
		}
		if m.actions[key] == nil {
			m.actions[key] = &Action{Command: key[0], By: key[1]}
		}
	}
	m.actions[key].Runs++
	m.actions[key].Count += o.Count
}

// report completes the report.
func (m *maker) report(checked audit.Report) Report {
	for _, c := range m.open {
		m.r.Events++
		m.except(kindNoEnd, true, c)
	}
	for _, waiting := range m.joined {
		for _, c := range waiting {
			m.except(kindJoined, true, c)
		}
	}
	m.cutMisses()
	r := m.r
	r.Log, r.People = checked, len(m.people)
	r.Stages = Stages{
		m.eventToEnd.times(), m.eventToQueue.times(), m.queueToEnd.times(), m.queueToCall.times(), m.callToEnd.times(),
	}
	r.Types, r.Sources, r.Producers = m.types.all(), m.sources.all(), m.producers.all()
	for _, e := range m.exceptions {
		if e.Count == 0 {
			continue // replays have sent them all
		}
		sortCases(e.List)
		r.Exceptions = append(r.Exceptions, *e)
	}
	slices.SortFunc(r.Exceptions, func(a, b Exception) int {
		switch {
		case a.Failed != b.Failed && a.Failed:
			return -1
		case a.Failed != b.Failed:
			return 1
		case a.Count != b.Count:
			return b.Count - a.Count
		}
		return strings.Compare(a.Kind, b.Kind)
	})
	for _, a := range m.actions {
		r.Operators = append(r.Operators, *a)
	}
	slices.SortFunc(r.Operators, func(a, b Action) int {
		return strings.Compare(a.Command+"\x00"+a.By, b.Command+"\x00"+b.By)
	})
	r.Warnings = m.warnings(checked)
	r.Answer = r.answer(m.Target)
	return r
}

// sortCases sorts by the time at which the events were enqueued.
func sortCases(list []Case) {
	slices.SortStableFunc(list, func(a, b Case) int { return a.Enqueued.Compare(b.Enqueued) })
}

func (m *maker) warnings(checked audit.Report) (list []string) {
	warn := func(n int, format string, args ...any) {
		if n > 0 {
			list = append(list, fmt.Sprintf(format, args...))
		}
	}
	warn(checked.Unreadable, "lines of the log that cannot be read: %d; events may be missing", checked.Unreadable)
	other := checked.ProblemCount - checked.Unreadable
	warn(other, "other problems of the log: %d; records were changed, added, or removed", other)
	warn(len(checked.Open), "chains without an end: %d; their processes run, were killed, or the end was cut off", len(checked.Open))
	warn(m.back, "times that the clock of a writer jumped back: %d; what was measured around them may be wrong", m.back)
	warn(m.lost, "events that could not be followed to the end of another one: %d; they are in no other number than "+
		"events and outcomes", m.lost)
	warn(m.r.GuestUnknown, "revocations by object id alone that were not verified: %d; the log does not show whether these people "+
		"are guests, for whom Graph confirms and revokes nothing", m.r.GuestUnknown)
	return list
}

// NotListed returns the number of misses and exceptions that are counted and not listed.
func (r Report) NotListed() int {
	n := r.Misses.Count - len(r.Misses.List)
	for _, e := range r.Exceptions {
		n += e.Count - len(e.List)
	}
	return n
}

// answer returns the report in one sentence.
func (r Report) answer(target time.Duration) string {
	measured := r.Met + r.Missed
	switch {
	case measured+r.Failed == 0:
		return "No event in this period asked to sign anybody out."
	case r.Missed+r.Failed == 0:
		return fmt.Sprintf("Every event led to a revocation within %s (%d of %d).", Duration(target), r.Met, measured)
	}
	return fmt.Sprintf("%d of %d events led to a revocation within %s; took longer: %d; led to none: %d.",
		r.Met, measured+r.Failed, Duration(target), r.Missed, r.Failed)
}

// Duration formats a duration for people, such as 1h or 1m 30s.
func Duration(d time.Duration) string {
	text := d.Round(time.Millisecond).String()
	if d >= time.Minute {
		text = d.Round(time.Second).String()
	}
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// groups are groups by name.
type groups map[string]*group

type group struct {
	times  series
	failed int
}

// of returns the group of a name.
func (g groups) of(name string) *group {
	if g[name] == nil {
		if len(g) >= maxGroups {
			name = others
		}
		if g[name] == nil {
			g[name] = &group{}
		}
	}
	return g[name]
}

// all returns the groups, the largest first.
func (g groups) all() []Group {
	list := make([]Group, 0, len(g))
	for name, one := range g {
		list = append(list, Group{name, one.times.times(), one.failed})
	}
	slices.SortFunc(list, func(a, b Group) int {
		if n := b.EventToEnd.Count + b.Failed - a.EventToEnd.Count - a.Failed; n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	return list
}

// recent keeps the ends of the last events, between maxJoined and twice as many.
type recent struct{ young, old map[eventKey]end }

func (r *recent) put(key eventKey, by end) {
	if r.young == nil || len(r.young) >= maxJoined {
		r.old, r.young = r.young, map[eventKey]end{}
	}
	r.young[key] = by
}

func (r *recent) get(key eventKey) (end, bool) {
	if c, ok := r.young[key]; ok {
		return c, true
	}
	c, ok := r.old[key]
	return c, ok
}

func firstTime(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
