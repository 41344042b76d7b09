package simulation

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Outcome is what came of a scenario, by the servers' records.
type Outcome struct {
	// Problems are the promises that were broken, a sentence each; none is good.
	Problems []string
	// Took is the virtual time until everything was settled, Calls how many requests Graph saw, Records how many
	// changes of messages Service Bus.
	Took           time.Duration
	Calls, Records int

	timeline func(user int) string
	people   []Person
	about    *int
}

// About lets Timeline tell about a person.
func (o *Outcome) About(person int) { o.about = &person }

// outcome reads the servers' records.
func (w *world) outcome(took time.Duration) Outcome {
	c := &checker{Scenario: w.Scenario, records: w.records, start: w.start, absent: w.absent, problems: w.problems, sends: map[string]Send{}}
	var others []graph.Call // all but those for the account that is kept for canaries
	for _, call := range w.graph.Calls() {
		if call.Method == http.MethodGet {
			c.reads = append(c.reads, call)
			continue // reading a user revokes nobody
		}
		c.calls = append(c.calls, call)
		if call.Key != canaryAccount.ID {
			others = append(others, call)
		}
	}
	for _, s := range w.Sends {
		c.sends[s.ID] = s
	}
	maps.Copy(c.sends, w.again)
	c.read()
	c.settled(w.active, took)
	c.ends()
	c.proofs()
	c.prompt()
	c.live()
	c.untouchable()
	c.pauses()
	c.renewals()
	c.deliveries()
	c.volume()
	c.problems = append(c.problems, w.journal.Check(others, invariants.Expected{
		Users: c.users, MayStand: c.mayStand, Window: c.window(), Workers: c.workers(), Believed: c.believed(),
	})...)
	return Outcome{
		Problems: c.problems, Took: took, Calls: len(c.calls), Records: len(w.records), people: w.People,
		timeline: func(user int) string { return timeline(w.Scenario, c.sends, w.start, user, w.records, c.calls) },
	}
}

// checker verifies the promises. It shares no code with the worker.
type checker struct {
	Scenario
	records  []servicebus.Record
	start    time.Time
	absent   []span
	calls    []graph.Call    // in the order in which they began
	reads    []graph.Call    // of users
	sends    map[string]Send // by message id, those that were sent again too
	lives    []*life         // of the messages, as enqueued
	canaries []time.Time     // when they were asked
	asked    []span          // pauses that Graph asked for, from the answer on
	byPerson map[int][]graph.Call
	readsOf  map[int][]graph.Call // those and the reads
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
// another user than its id while they cannot be. A replica waits for no longer than a lease lasts while another's calls hang.
func (c *checker) workers() int {
	switch {
	case c.Workers > 1 && (!c.Redis || c.has(RedisAway, RedisHangs, RedisForeign, GraphHangs, GraphSlow, Endless)), c.has(Crash, Term, NoPermission):
		return 2
	}
	return 1
}

// window is unchecked where little room makes parked users be called early: a quarter of the messages in flight may be parked, and
// everybody has an id and a name. So it is where the messages of one user may not stand for each other, and where a session is given up.
func (c *checker) window() time.Duration {
	expires := slices.ContainsFunc(c.Sends, func(s Send) bool { return s.TTL > 0 })
	if c.InFlight < 8*len(c.People) || expires || c.Urgent || c.Sessions > 0 || c.Volume > 0 { // with a bound there are events of many types
		return 0
	}
	return c.Window
}

// believed is how long a worker may err about a lock. A session's ends with its link, which shows at the next renewal; and a
// message that stands for another may be set aside while that one is being settled.
func (c *checker) believed() time.Duration {
	if c.has(LocksExpire) || c.Sessions > 0 {
		return c.Lock
	}
	return time.Second
}

// settled: after the faults everything comes to its end.
func (c *checker) settled(active int, took time.Duration) {
	if active > 0 {
		c.wrong("lost: %d messages are still in the queue %s after the start", active, took.Round(time.Second))
	}
}

// prompt: where nothing fails and nobody has to wait for room, members are signed out within a window.
func (c *checker) prompt() {
	fails := func(p Person) bool { return p.Answer == Unavailable || p.Answer == NeverRevoked || p.Answer == Refused }
	if len(c.Faults) > 0 || c.Quota.Limit > 0 || c.Volume > 0 || c.Sessions > 0 || c.InFlight < len(c.Sends) || slices.ContainsFunc(c.People, fails) {
		return
	}
	for _, m := range c.lives {
		for _, i := range m.send.People {
			inTime := func(call graph.Call) bool {
				return call.Revoked && !call.Start.Before(m.enqueued) && call.Start.Sub(m.enqueued) <= c.Window+time.Second
			}
			if c.People[i].Answer == Member && !slices.ContainsFunc(c.byPerson[i], inTime) && !m.gone(m.enqueued.Add(c.Window)) {
				c.wrong("late: nothing failed, and %s was not signed out within %s of %s", c.People[i].ID, c.Window, m.id)
			}
		}
	}
}

// ends: each message is dead-lettered only for what is its own fault, and with the reason for it.
func (c *checker) ends() {
	for _, m := range c.lives {
		if m.end != servicebus.Completed && m.end != servicebus.DeadLettered && m.end != servicebus.Expired {
			continue
		}
		allowed, must := c.reasonsOf(m.send)
		switch {
		case m.end == servicebus.Expired, m.reason == "TTLExpiredException":
			if m.send.ID == "" {
				continue // it was sent again, and nobody has seen it: what it is about, and how long it may live, is not known
			}
			if m.send.TTL == 0 || m.ended.Before(m.enqueued.Add(m.send.TTL-2*time.Millisecond)) { // the broker counts whole ones
				c.wrong("lost: %s expired before its time", m.id)
			}
		case m.end == servicebus.DeadLettered && !allowed[m.reason]:
			c.wrong("not the message's fault: %s was dead-lettered as %s", m.id, m.reason)
		case m.end == servicebus.Completed && must != "":
			c.wrong("false success: %s was completed, and must be dead-lettered as %s", m.id, must)
		}
	}
}

// reasonsOf are those with which a message may be dead-lettered, and with which it must be, since nobody can stand for it.
func (c *checker) reasonsOf(s Send) (allowed map[string]bool, must string) {
	allowed = map[string]bool{}
	switch {
	case s.Bad:
		must = "InvalidEvent"
	case s.Poison == Char, s.Poison == BadKey:
		must = "UnreadableMessage"
	}
	if must != "" {
		return map[string]bool{must: true}, must
	}
	for _, i := range s.People {
		fate := c.People[i].Answer
		allowed[reasons[fate]] = true
		switch {
		case fate == Guest, fate == Protected:
			must = reasons[fate]
		case fate == Unknown && c.has(CanaryFails):
			allowed["Forbidden"], allowed["RetriesExhausted"] = true, true
		case c.has(UsersFail) && c.Canary == Well: // to all appearance it is theirs
			allowed["RetriesExhausted"] = true
		}
	}
	return allowed, must
}

// untouchable: guests and protected people are never called.
func (c *checker) untouchable() {
	byKey := map[string]Answer{}
	for _, p := range c.People {
		byKey[strings.ToLower(p.ID)], byKey[strings.ToLower(p.UserPrincipalName)] = p.Answer, p.Answer
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
	calls := c.calls
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
func timeline(s Scenario, sends map[string]Send, start time.Time, user int, records []servicebus.Record, calls []graph.Call) string {
	type entry struct {
		at   time.Time
		text string
	}
	var entries []entry
	about := map[string]bool{}
	for _, send := range sends {
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
	fmt.Fprintf(&b, "what happened to user %d (%s, %s):\n", user, p.ID, p.Answer)
	for _, e := range entries {
		fmt.Fprintf(&b, "  %12s  %s\n", e.at.Sub(start).Round(time.Millisecond), e.text)
	}
	return b.String()
}

// Timeline tells what happened to whom the problem is about, as far as it names somebody.
func (o Outcome) Timeline(s Scenario) string {
	if o.about != nil {
		return o.timeline(*o.about)
	}
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
