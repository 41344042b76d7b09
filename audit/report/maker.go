package report

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/schedule"
)

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

// dueWithin is how much earlier than its date an event is acted on at most, with a margin for the
// clocks of the worker and of Service Bus.
const dueWithin = schedule.DueWithin + time.Minute

// newCase returns the case of a decision.
func newCase(line int, d audit.Decision) Case {
	c := Case{
		User: cmp.Or(d.UserID, d.UserPrincipalName, d.LookedUp), EventType: d.EventType, Source: d.Source, Producer: d.EventSource,
		Mapping: d.Mapping, EventTime: d.EventTime, Enqueued: d.Came(),
		Called: d.CallStart, Outcome: d.Outcome, Reason: d.Reason, Error: d.Error, MessageID: d.MessageID,
		SequenceNumber: d.SequenceNumber, Event: d.Event, RequestID: d.RequestID, Replayed: d.ReplayRun != "", Line: line,
	}
	isDue := !d.EffectiveTime.After(d.Time.Add(dueWithin))
	if isDue && d.EffectiveTime.After(firstTime(c.EventTime, c.Enqueued)) { // nobody was to be signed out before
		c.EventTime, c.Enqueued = d.EffectiveTime, laterOf(c.Enqueued, d.EffectiveTime)
	}
	return c
}

// decision reads a decision.
func (m *maker) decision(e audit.Entry, d audit.Decision) {
	c := newCase(e.Line, d)
	if !m.within(d.Came()) {
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
	first := original{d.Came().UnixNano(), key.user, d.EventType}
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
