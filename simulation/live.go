package simulation

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// life is what became of one message, by Service Bus' records.
type life struct {
	id, queue string
	send      Send
	enqueued  time.Time
	// end is what ended it, "" while it is in the queue; ended is when.
	end    servicebus.EventKind
	ended  time.Time
	reason string
	rank   int // how urgent it is
}

// gone says that the message's time to live had ended by then.
func (m *life) gone(at time.Time) bool {
	return m.send.TTL > 0 && !m.enqueued.Add(m.send.TTL).After(at)
}

// span is a time from an instant to another, both included.
type span struct{ from, to time.Time }

// read sorts the records.
func (c *checker) read() {
	type place struct {
		queue    string
		sequence int64
	}
	at := map[place]*life{}
	for _, r := range c.records {
		p := place{r.Queue, r.SequenceNumber}
		switch r.Event {
		case servicebus.Enqueued:
			at[p] = &life{id: r.MessageID, queue: r.Queue, send: c.sends[r.MessageID], enqueued: r.Time}
			at[p].rank = c.rank(at[p])
			c.lives = append(c.lives, at[p])
		case servicebus.Completed, servicebus.DeadLettered, servicebus.Expired:
			at[p].end, at[p].ended, at[p].reason = r.Event, r.Time, r.Reason
		}
	}
	slices.SortStableFunc(c.calls, func(a, b graph.Call) int { return a.Start.Compare(b.Start) })
	for _, call := range c.calls {
		if seconds, err := strconv.Atoi(call.RetryAfter); err == nil && call.Status == 429 {
			c.asked = append(c.asked, span{call.End, call.End.Add(time.Duration(seconds)*time.Second + unasked)})
		}
	}
	byKey := map[string]int{}
	for i, p := range c.People {
		byKey[strings.ToLower(p.ID)], byKey[strings.ToLower(p.UserPrincipalName)] = i, i
	}
	byPerson := func(calls []graph.Call) map[int][]graph.Call {
		by := map[int][]graph.Call{}
		for _, call := range calls {
			if i, ok := byKey[strings.ToLower(call.Key)]; ok {
				by[i] = append(by[i], call)
			}
		}
		return by
	}
	for _, call := range c.calls {
		if _, person := byKey[strings.ToLower(call.Key)]; !person {
			c.canaries = append(c.canaries, call.Start)
		}
	}
	c.byPerson, c.readsOf = byPerson(c.calls), byPerson(append(slices.Clone(c.calls), c.reads...))
}

// mayStand: who stands for another lives at least as long, and is at least as urgent.
func (c *checker) mayStand(newer, older invariants.Message) bool {
	a, b := c.sends[newer.ID].TTL, c.sends[older.ID].TTL
	switch {
	case newer.Queue != older.Queue && newer.Queue != urgentQueue:
		return false
	case a == 0:
		return true
	}
	return b > 0 && !newer.Enqueued.Add(a+2*time.Millisecond).Before(older.Enqueued.Add(b)) // the broker counts whole ones
}

// What the bound of liveness is made of.
const (
	// recover is how long a worker may take to find out that trouble is over: its longest waits, for Service Bus and for Graph.
	recovery = 45 * time.Second
	// unasked is how much longer than asked a pause may be.
	unasked = 15 * time.Second
	// leftFor is after how long a message is looked after that a process has set aside which is gone.
	leftFor = 100 * time.Second
	// leaseFor is a lease in Redis.
	leaseFor = 35 * time.Second
	// callFor is the longest that a call takes, and oneCall what it takes where nothing is wrong: users who meet 5xx slow first
	// attempts down to ten a second.
	callFor = 30 * time.Second
	oneCall = 100 * time.Millisecond
	// sessionFor is how long a session is held.
	sessionFor = 35 * time.Second
	// reading is how often a release of the guard is looked for.
	reading = 5 * time.Second
)

// live: whatever other people and messages do, an attempt for each user begins within a bound. Trouble that hits everybody, and what
// the user's own event waits for, is left out: the bound counts from the first instant after which there is none.
func (c *checker) live() {
	troubles := c.troubles()
	for _, m := range c.lives {
		for _, i := range m.send.People {
			answer := c.People[i].Answer
			if answer == Guest || answer == Protected || c.hopeless(m) {
				continue
			}
			if answer != Member && (c.Canary == Deleted || c.Canary == Blocked) {
				// The canary's account fails for a reason of its own. When only people are left for whom Graph answers no better,
				// nothing shows that Graph is well, and they wait for their turn among the probes.
				continue
			}
			from, by := c.bound(m, i, troubles)
			inTime := func(call graph.Call) bool { return !call.Start.Before(m.enqueued) && !call.Start.After(by) }
			if !slices.ContainsFunc(c.attempts(i), inTime) && !m.gone(by) && !c.givenUp(m, i, by) {
				c.wrong("late: no call for %s began between %s and %s, because of %s (well since %s)",
					c.People[i].ID, m.enqueued.Sub(c.start).Round(time.Millisecond), by.Sub(c.start).Round(time.Millisecond), m.id, from.Sub(c.start).Round(time.Millisecond))
			}
		}
	}
}

// givenUp says that the person was given up as hopeless by then, for the message or for one that may have stood for it. Whether
// that was right is proofs' and ends' business.
func (c *checker) givenUp(m *life, person int, by time.Time) bool {
	return slices.ContainsFunc(c.lives, func(o *life) bool {
		return o.end == servicebus.DeadLettered && o.ended.Before(by) && !o.enqueued.Before(m.enqueued) && slices.Contains(o.send.People, person)
	})
}

// attempts are those for a person: nobody calls for somebody who cannot be read, and then the read decides.
func (c *checker) attempts(person int) []graph.Call {
	if c.People[person].Answer != Member {
		return c.readsOf[person]
	}
	return c.byPerson[person]
}

// hopeless says that others in the message's session, ahead of it, concern people who fail: within a session the order is the point,
// and their end is waited for.
func (c *checker) hopeless(m *life) bool {
	if m.queue != queue || c.Sessions == 0 {
		return false
	}
	for _, other := range c.lives {
		if other == m {
			break
		}
		if other.queue == queue && other.send.Session == m.send.Session && (other.end == "" || other.ended.After(m.enqueued)) &&
			slices.ContainsFunc(other.send.People, func(i int) bool { return c.People[i].Answer != Member }) {
			return true
		}
	}
	return false
}

// bound is by when an attempt for a person must have begun because of a message, and from when on nothing hinders it.
func (c *checker) bound(m *life, person int, troubles []span) (from, by time.Time) {
	troubles = append(slices.Clone(troubles), c.tripped(m.send.kind(c.People[person]))...)
	for _, f := range c.Faults {
		if f.Person == person {
			troubles = append(troubles, c.during(f))
		}
	}
	troubles = append(troubles, c.hanging(person)...)
	slices.SortFunc(troubles, func(a, b span) int { return a.from.Compare(b.from) })
	from = m.enqueued
	for again := true; again; {
		again = false
		by = from.Add(c.longest(m, person, from))
		for _, t := range troubles {
			if t.from.Before(by) && t.to.After(from) {
				from, again = t.to, true
				break
			}
		}
	}
	return from, by
}

// hanging is when calls for a person hang that have met a fault: for longer than the fault itself lasts, up to the timeout of calls, and
// no other one begins meanwhile.
func (c *checker) hanging(person int) (hang []span) {
	for _, call := range c.readsOf[person] {
		if !call.Fault {
			continue
		}
		end := call.End
		for _, f := range c.Faults {
			if s := c.during(f); f.Kind == Endless && !call.Start.Before(s.from) && !call.Start.After(s.to) {
				end = call.Start.Add(callFor) // the answer has begun, and never ends
			}
		}
		if end.After(call.Start) {
			hang = append(hang, span{call.Start, end})
		}
	}
	return hang
}

// during is when a fault acts.
func (c *checker) during(f Fault) span {
	at := c.start.Add(f.At)
	return span{at, at.Add(f.For)}
}

// troubles are the times when something is wrong for everybody.
func (c *checker) troubles() (troubles []span) {
	for _, f := range c.Faults {
		if f.Person < 0 && c.concernsAll(f) {
			troubles = append(troubles, c.during(f))
		}
	}
	return append(troubles, c.absent...)
}

// concernsAll says that a fault hinders attempts for everybody.
func (c *checker) concernsAll(f Fault) bool {
	switch f.Kind {
	case WildDate, RedisForeign:
		return false
	case CanaryFails:
		return c.unknownFails(f).Status == 429 // whoever meets a 429, it asks all to pause
	case RedisAway, RedisHangs:
		return c.Redis
	}
	return true
}

// lockFaults are those that leave messages locked by nobody.
var lockFaults = []FaultKind{Cut, BrokerAway, Detach, LocksExpire, Late, Crash, Term, LostSettle, NoRenewal}

// longest is how long it may take from an instant on until a person is called for because of a message.
func (c *checker) longest(m *life, person int, from time.Time) time.Duration {
	bound := recovery + c.hold(from)
	if c.has(lockFaults...) {
		bound += max(c.Lock, leftFor)
	}
	if c.Redis {
		bound += leaseFor
	}
	for _, call := range c.attempts(person) {
		if call.Start.Before(m.enqueued) && call.End.After(m.enqueued.Add(-c.Window)) { // decided a window ago, or just being decided
			bound += c.Window + callFor
			break
		}
	}
	if m.queue == queue && c.Sessions > 0 {
		sessions := map[string]bool{}
		for _, s := range c.Sends {
			sessions[s.Session] = true
		}
		bound += sessionFor * time.Duration((len(sessions)+c.Sessions-1)/c.Sessions)
	}
	ahead := 0
	for _, other := range c.lives {
		urgent := other.rank < m.rank && other.enqueued.Before(from.Add(bound))
		if !other.enqueued.After(m.enqueued) && other.rank <= m.rank || urgent {
			if other.end == "" || other.ended.After(m.enqueued) {
				ahead += len(other.send.People)
			}
		}
	}
	n := int(2.04*float64(ahead)) + 1
	bound += time.Duration((n+c.Concurrency-1)/c.Concurrency) * max(oneCall, oneCall*time.Duration(c.Concurrency))
	if c.Quota.Limit > 0 {
		usable := 0.8 * float64(c.Quota.Limit) // of a window
		if c.Workers > 1 && !c.Redis {
			usable /= 2 // replicas that share nothing divide the quota by what each sees of it: one may get half of its part
		}
		// Canaries are attempts of the same quota: as many as were asked until then are ahead, too.
		until := from.Add(bound + c.Quota.Per*time.Duration(int(float64(n)/usable)))
		for _, at := range c.canaries {
			if at.After(from) && at.Before(until) {
				n++
			}
		}
		bound += c.Quota.Per * time.Duration(1+int(float64(n)/usable)+1)
	}
	return bound
}

// rank is how urgent a message is: its source first, then its events.
func (c *checker) rank(m *life) int {
	rank := len(types)
	if m.queue == urgentQueue {
		rank = 0
	}
	most := len(types)
	for _, i := range m.send.People {
		most = min(most, slices.Index(types, m.send.kind(c.People[i])))
	}
	return rank + most
}

// hold is how much longer than an instant Graph has asked for a pause.
func (c *checker) hold(at time.Time) (left time.Duration) {
	for _, pause := range c.asked {
		if !pause.from.After(at) {
			left = max(left, pause.to.Sub(at))
		}
	}
	return left
}

// releasedAt is when the operator releases a type of events.
func (c *checker) releasedAt(kind string) time.Time {
	if kind == types[0] {
		return c.start.Add(c.Released)
	}
	return c.start.Add(c.Released + allReleased)
}

// tripped is when the guard may stop events of a type.
func (c *checker) tripped(kind string) []span {
	if c.Volume == 0 {
		return nil
	}
	from, ok := c.reaches(kind, c.Volume)
	release := c.releasedAt(kind).Add(reading)
	if !ok || from.After(release) {
		return nil
	}
	return []span{{from, release}}
}

// reaches is when so many may have been signed out for events of a type.
func (c *checker) reaches(kind string, most int) (at time.Time, ok bool) {
	names := map[string]bool{}
	for _, call := range c.calls {
		counts := call.Revoked || call.Status == 0
		if !counts || names[call.Key] || !c.hasEvent(call, kind) {
			continue
		}
		if names[call.Key] = true; len(names) >= most {
			return call.Start, true
		}
	}
	return time.Time{}, false
}

// hasEvent says that an event of the type may have been the reason for a call.
func (c *checker) hasEvent(call graph.Call, kind string) bool {
	for _, m := range c.lives {
		if m.enqueued.After(call.Start) {
			break
		}
		for _, i := range m.send.People {
			p := c.People[i]
			if m.send.kind(p) == kind && (strings.EqualFold(p.ID, call.Key) || strings.EqualFold(p.UserPrincipalName, call.Key)) {
				return true
			}
		}
	}
	return false
}

// processes is how many there were.
func (c *checker) processes() int { return c.Workers + len(c.absent) }

// volume: before an operator releases it, no more people are signed out for a type of events than may be.
func (c *checker) volume() {
	if c.Volume == 0 {
		return
	}
	for _, kind := range types {
		release := c.releasedAt(kind)
		names := map[string]bool{}
		for _, call := range c.calls {
			if call.Revoked && call.Start.Before(release) && c.hasEvent(call, kind) && !slices.ContainsFunc(types, func(other string) bool { return other != kind && c.hasEvent(call, other) }) {
				names[call.UserID] = true
			}
		}
		if len(names) > c.Volume*c.processes() {
			c.wrong("by accident: %d people were signed out for %s, and %d may be in each of %d processes", len(names), kind, c.Volume, c.processes())
		}
	}
}

// budgets are how many counted failures each reason needs.
var budgets = map[string]int{"Forbidden": 2, "RetriesExhausted": 8, "NotRevoked": 8}

// proofs: nobody is given up as hopeless before somebody else's success has shown, after a failure, that Graph is well; or before
// retry.max_age.
func (c *checker) proofs() {
	given := map[int]bool{}
	for _, m := range slices.SortedStableFunc(slices.Values(c.lives), func(a, b *life) int { return a.ended.Compare(b.ended) }) {
		need, proved := budgets[m.reason]
		if m.end != servicebus.DeadLettered || !proved || len(m.send.People) != 1 || given[m.send.People[0]] {
			continue
		}
		person := m.send.People[0]
		given[person] = true // what later letters are about is mixed up with this one
		if n, first := c.counted(person, m.ended); n < need && m.ended.Sub(first) < maxAge {
			c.wrong("without proof: %s was dead-lettered as %s after %d failures that others' successes prove to be %s's own, %d are needed",
				m.id, m.reason, n, c.People[person].ID, need)
		}
	}
}

// counted is how many failures of a person, up to an instant, others' successes prove to be their own; and when the first attempt was.
func (c *checker) counted(person int, until time.Time) (n int, first time.Time) {
	byKey := map[string]time.Time{}            // the last failure
	for _, failed := range c.readsOf[person] { // who cannot be read fails, too
		if wasRead := failed.Method == http.MethodGet && failed.Status == http.StatusOK && !failed.Fault; wasRead {
			continue
		}
		if failed.Revoked || failed.End.After(until) || failed.End.IsZero() {
			continue
		}
		if first.IsZero() {
			first = failed.Start
		}
		since, ok := byKey[failed.Key]
		if !ok {
			since = failed.Start
		}
		if slices.ContainsFunc(c.calls, func(other graph.Call) bool {
			return other.Revoked && other.Key != failed.Key && !other.Start.Before(since) && !other.End.After(failed.End.Add(time.Second))
		}) {
			n++
		}
		byKey[failed.Key] = failed.End
	}
	return n, first
}

// renewals: no worker renews more than 20 locks a second.
func (c *checker) renewals() {
	most := 20 + 2
	if c.has(lockFaults...) {
		most *= 2 // those that have waited for a connection arrive together
	}
	var lately []time.Time
	for _, r := range c.records {
		if r.Event != servicebus.Renewed {
			continue
		}
		for len(lately) > 0 && r.Time.Sub(lately[0]) >= time.Second {
			lately = lately[1:]
		}
		if lately = append(lately, r.Time); len(lately) > most*c.processes() {
			c.wrong("costly: %d locks were renewed within a second by %d processes", len(lately), c.processes())
			return
		}
	}
}

// deliveries: a message's failed deliveries rise only by what ends locks before their time, or keeps who holds it from settling: a
// fault during the delivery, or just before it.
func (c *checker) deliveries() {
	var excused []span
	for _, f := range c.Faults {
		if slices.Contains(lockFaults, f.Kind) {
			s := c.during(f)
			excused = append(excused, span{s.from, s.to.Add(c.Lock + lateBy)})
		}
	}
	excused = append(excused, c.absent...)
	type place struct {
		queue    string
		sequence int64
	}
	delivered := map[place]time.Time{}
	for _, r := range c.records {
		at := place{r.Queue, r.SequenceNumber}
		switch r.Event {
		case servicebus.Delivered:
			delivered[at] = r.Time
		case servicebus.LockExpired, servicebus.Abandoned:
			if !slices.ContainsFunc(excused, func(s span) bool { return !s.from.After(r.Time) && !s.to.Before(delivered[at]) }) {
				c.wrong("burnt: %s was %s at %s, and no fault excuses it", r.MessageID, r.Event, r.Time.Sub(c.start).Round(time.Millisecond))
				return
			}
		}
	}
}
