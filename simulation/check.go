package simulation

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Findings is the result of a scenario according to the servers' records.
type Findings struct {
	// Problems are the broken guarantees, a sentence each; none is good.
	Problems []string
	// Took is the virtual time until everything was settled. Calls counts the requests that Graph
	// saw, Messages what was enqueued, and DeadLetters, by reason, what was dead-lettered of it.
	Took            time.Duration
	Calls, Messages int
	DeadLetters     map[string]int

	timeline func(user int) string
	people   []Person
	about    *int
}

// findings checks the servers' records.
func (w *world) findings(took time.Duration) Findings {
	c := &checker{
		Scenario: w.Scenario, records: w.records, start: w.start, absent: w.absent, problems: w.problems, sends: map[string]Send{},
	}
	var others []graph.Call // without those for the account that is kept for canaries
	c.copies = w.copies
	leavers := w.leaverKeys()
	c.leaving = len(w.leavers())
	for _, call := range w.graph.Calls() {
		if call.Method == http.MethodGet {
			c.reads = append(c.reads, call)
			continue // reading a user revokes nobody
		}
		c.calls = append(c.calls, call)
		if call.Key != canaryAccount.ID && !leavers[strings.ToLower(call.Key)] {
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
	c.announced()
	c.problems = append(c.problems, w.journal.Check(others, invariants.Expected{
		Users: c.users, MaySupersede: c.maySupersede, Window: c.window(), Workers: c.workers(), Believed: c.believed(),
	})...)
	letters := map[string]int{}
	for _, m := range c.lives {
		if m.end == servicebus.DeadLettered {
			letters[m.reason]++
		}
	}
	return Findings{
		Problems: c.problems, Took: took, people: w.People,
		Calls: len(c.calls) + len(c.reads), Messages: len(c.lives), DeadLetters: letters,
		timeline: func(user int) string { return timeline(w.Scenario, c.sends, w.start, user, w.records, c.calls) },
	}
}

// checker verifies the guarantees. It shares no code with the worker.
type checker struct {
	Scenario
	records  []servicebus.Record
	start    time.Time
	absent   []span
	calls    []graph.Call    // by their start
	reads    []graph.Call    // of users
	sends    map[string]Send // by message id, including those that were resubmitted
	copies   map[string]bool // the scheduled messages that became active, by id
	lives    []*life         // of the messages, as enqueued
	canaries []time.Time     // starts of canaries
	asked    []span          // pauses that Graph asked for, beginning with the answer
	leaving  int             // the people whom only reports concern
	byPerson map[int][]graph.Call
	readsOf  map[int][]graph.Call // these calls and the reads
	problems []string
}

func (c *checker) wrong(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// users are the ids of the people whom a message concerns, for the invariants' checker.
func (c *checker) users(id string) []string {
	var users []string
	for _, i := range c.sends[id].People {
		users = append(users, c.People[i].ID)
	}
	return users
}

// workers is the number for the invariants' checker: 2 where calls for one user may overlap or
// repeat. After a restart the new process knows nothing about the old one's calls. While users
// cannot be read, a name counts as another user than its id. And while another replica's calls
// hang, a replica waits no longer than a lease lasts.
func (c *checker) workers() int {
	switch {
	case c.Workers > 1 && (!c.Redis || c.has(RedisAway, RedisHangs, RedisForeign, GraphHangs, GraphSlow, Endless)),
		c.has(Crash, Term, NoPermission):
		return 2
	}
	return 1
}

// window is 0, which leaves the window unchecked, where other rules let users be called early: in a
// small worker only a quarter of the messages in flight may be parked, and everybody has both an id
// and a name; some messages of one user may not supersede each other; and sessions are given up at
// their bound.
func (c *checker) window() time.Duration {
	expires := slices.ContainsFunc(c.Sends, func(s Send) bool { return s.TTL > 0 })
	if c.InFlight < 8*len(c.People) || expires || c.Urgent || c.Sessions > 0 || c.Volume > 0 { // a bound implies events of many types
		return 0
	}
	return c.Window
}

// believed is how long a worker may be wrong about a lock. A message that supersedes another may be
// deferred while the other one is being settled.
//
// A session's lock ends with its link, which the worker notices at the next renewal, and not
// always: for a renewal after a cut the client library takes the session again. Its earlier
// messages are free then, although nobody else can have them, and the worker relies on them until
// it gives the session up. Nothing is lost by that: the newer message is still in the queue.
func (c *checker) believed() time.Duration {
	switch {
	case c.Sessions > 0:
		return c.Lock + sessionFor
	case c.has(LocksExpire):
		return c.Lock
	}
	return time.Second
}

// processes is how many processes ran.
func (c *checker) processes() int { return c.Workers + len(c.absent) }

// settled: after the faults every message is settled.
func (c *checker) settled(active int, took time.Duration) {
	if active > 0 {
		c.wrong("lost: %d messages are still in the queue %s after the start", active, took.Round(time.Second))
	}
}
