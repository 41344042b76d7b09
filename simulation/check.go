package simulation

import (
	"fmt"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/audit"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Outcome is what came of a scenario, by the servers' records.
type Outcome struct {
	// Problems are the promises that were broken, a sentence each; none is good.
	Problems []string
	// Took is the virtual time until everything was settled, Calls how many requests Graph saw.
	Took  time.Duration
	Calls int

	timeline func(user int) string
	people   []Person
}

// outcome reads the servers' records.
func (w *world) outcome(took time.Duration) Outcome {
	var calls []graph.Call
	for _, call := range w.graph.Calls() {
		if call.Method != http.MethodGet { // reading a user revokes nobody
			calls = append(calls, call)
		}
	}
	c := &checker{Scenario: w.Scenario, calls: calls, problems: w.problems, sends: map[string]Send{}}
	for _, s := range w.Sends {
		c.sends[s.ID] = s
	}
	c.settled(w.active, took)
	c.ends(w.records)
	c.prompt(w.records)
	c.untouchable()
	c.pauses()
	c.problems = append(c.problems, w.journal.Check(calls, audit.Expected{
		Users: c.users, Window: c.window(), Workers: c.workers(), Believed: c.believed(),
	})...)
	return Outcome{
		Problems: c.problems, Took: took, Calls: len(calls), people: w.People,
		timeline: func(user int) string { return timeline(w.Scenario, w.start, user, w.records, calls) },
	}
}

// checker verifies the promises. It shares no code with the worker.
type checker struct {
	Scenario
	calls    []graph.Call
	sends    map[string]Send
	problems []string
}

func (c *checker) wrong(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// users are whom a message concerns, as the audit knows them.
func (c *checker) users(id string) []string {
	var users []string
	for _, i := range c.sends[id].People {
		users = append(users, c.People[i].ID)
	}
	return users
}

// workers is how many the audit counts: with restarts a new process knows nothing of the old one's calls; and where users are read, a name is
// another user than its id while they cannot be.
func (c *checker) workers() int {
	// Three sick people in a row open the breaker, as an outage does.
	smooth := len(c.Faults) == 0 && !slices.ContainsFunc(c.People, func(p Person) bool { return p.Fate == Sick })
	switch {
	case c.Workers > 1 && (!c.Redis || !smooth), c.has(Crash, Term), c.ReadUsers && !smooth:
		return 2
	}
	return 1
}

// window is unchecked where little room makes parked promises be called early.
func (c *checker) window() time.Duration {
	if c.InHand < 4*len(c.People) { // half of the hand may wait, and everybody has an id and a name
		return 0
	}
	return c.Window
}

// believed is how long a worker may err about a lock.
func (c *checker) believed() time.Duration {
	if c.has(LocksExpire) {
		return c.Lock
	}
	return 0
}

// settled: after the faults everything comes to its end.
func (c *checker) settled(active int, took time.Duration) {
	if active > 0 {
		c.wrong("lost: %d messages are still in the queue %s after the start", active, took.Round(time.Second))
	}
}

// prompt: where nothing fails and nobody has to wait for room, members are signed out within a window.
func (c *checker) prompt(records []servicebus.Record) {
	fails := func(p Person) bool { return p.Fate == Sick || p.Fate == Cursed }
	if len(c.Faults) > 0 || c.Quota.Limit > 0 || c.InHand < len(c.Sends) || slices.ContainsFunc(c.People, fails) {
		return
	}
	revoked := map[string][]time.Time{}
	for _, call := range c.calls {
		if call.Revoked {
			revoked[call.UserID] = append(revoked[call.UserID], call.Start)
		}
	}
	for _, r := range records {
		if r.Event != servicebus.Enqueued {
			continue
		}
		for _, i := range c.sends[r.MessageID].People {
			p := c.People[i]
			inTime := func(at time.Time) bool { return !at.Before(r.Time) && at.Sub(r.Time) <= c.Window+time.Second }
			if p.Fate == Member && !slices.ContainsFunc(revoked[p.ID], inTime) {
				c.wrong("late: nothing failed, and %s was not signed out within %s of %s", p.ID, c.Window, r.MessageID)
			}
		}
	}
}

// ends: each message is dead-lettered only for what is its own fault, and with the reason for it.
func (c *checker) ends(records []servicebus.Record) {
	for _, r := range records {
		if r.Event != servicebus.Completed && r.Event != servicebus.DeadLettered {
			continue
		}
		id, s := r.MessageID, c.sends[r.MessageID]
		allowed := map[string]bool{}
		must := "" // be dead-lettered, since nobody can stand for it
		if s.Bad {
			allowed["InvalidEvent"], must = true, "InvalidEvent"
		}
		for _, i := range s.People {
			fate := c.People[i].Fate
			if fate == Member {
				continue
			}
			allowed[reasons[fate]] = true
			if fate == Guest || fate == Protected {
				must = reasons[fate]
			}
		}
		switch {
		case r.Event == servicebus.DeadLettered && !allowed[r.Reason]:
			c.wrong("not the message's fault: %s was dead-lettered as %s", id, r.Reason)
		case r.Event == servicebus.Completed && must != "":
			c.wrong("false success: %s was completed, and must be dead-lettered as %s", id, must)
		}
	}
}

// untouchable: guests and protected people are never called.
func (c *checker) untouchable() {
	byKey := map[string]Fate{}
	for _, p := range c.People {
		byKey[strings.ToLower(p.ID)], byKey[strings.ToLower(p.UserPrincipalName)] = p.Fate, p.Fate
	}
	for _, call := range c.calls {
		if fate := byKey[strings.ToLower(call.Key)]; fate == Guest || fate == Protected {
			c.wrong("wrong person: Graph was called for %s, who is %s", call.Key, fate)
		}
	}
}

// pauses: while Graph asks for a pause, no call begins. A single process that lives on knows.
func (c *checker) pauses() {
	if c.Workers > 1 || c.has(Crash, Term) || c.ReadUsers { // with a read before it, a call begins later than its attempt
		return
	}
	calls := slices.Clone(c.calls)
	sort.Slice(calls, func(i, k int) bool { return calls[i].Start.Before(calls[k].Start) })
	var until, asked time.Time
	// In order of the answers: a pause begins when its answer has come.
	answers := slices.Clone(calls)
	sort.Slice(answers, func(i, k int) bool { return answers[i].End.Before(answers[k].End) })
	next := 0
	for _, call := range calls {
		for ; next < len(answers) && answers[next].End.Before(call.Start); next++ {
			seconds, err := strconv.Atoi(answers[next].RetryAfter)
			if answers[next].Status != 429 || err != nil {
				continue
			}
			if end := answers[next].End.Add(time.Duration(seconds) * time.Second); end.After(until) {
				until, asked = end, answers[next].End
			}
		}
		if call.Start.Before(until) {
			c.wrong("throttling made worse: a call began %s after Graph had asked for a pause of %s", call.Start.Sub(asked), until.Sub(asked))
			return
		}
	}
}

// timeline tells what happened to a person.
func timeline(s Scenario, start time.Time, user int, records []servicebus.Record, calls []graph.Call) string {
	type entry struct {
		at   time.Time
		text string
	}
	var entries []entry
	about := map[string]bool{}
	for _, send := range s.Sends {
		if slices.Contains(send.People, user) {
			about[send.ID] = true
		}
	}
	for _, r := range records {
		if about[r.MessageID] {
			entries = append(entries, entry{r.Time, fmt.Sprintf("%s %s %s", r.MessageID, r.Event, r.Reason)})
		}
	}
	p := s.People[user]
	for _, call := range calls {
		if strings.EqualFold(call.Key, p.ID) || strings.EqualFold(call.Key, p.UserPrincipalName) {
			entries = append(entries, entry{call.Start, fmt.Sprintf("    call begins (%s)", call.Key)},
				entry{call.End, fmt.Sprintf("    call ends: %d, revoked %v", call.Status, call.Revoked)})
		}
	}
	for _, f := range s.Faults {
		entries = append(entries, entry{start.Add(f.At), fmt.Sprintf("        fault: %s for %s", f.Kind, f.For)})
	}
	sort.SliceStable(entries, func(i, k int) bool { return entries[i].at.Before(entries[k].at) })
	var b strings.Builder
	fmt.Fprintf(&b, "what happened to user %d (%s, %s):\n", user, p.ID, p.Fate)
	for _, e := range entries {
		fmt.Fprintf(&b, "  %12s  %s\n", e.at.Sub(start).Round(time.Millisecond), e.text)
	}
	return b.String()
}

// Timeline tells what happened to whom the problem is about, as far as it names somebody.
func (o Outcome) Timeline(s Scenario) string {
	for _, problem := range o.Problems {
		for i, p := range o.people {
			if strings.Contains(problem, p.ID) || strings.Contains(problem, p.UserPrincipalName) {
				return o.timeline(i)
			}
		}
		for _, send := range s.Sends {
			if len(send.People) > 0 && slices.Contains(strings.Fields(problem), send.ID) {
				return o.timeline(send.People[0])
			}
		}
	}
	return ""
}
