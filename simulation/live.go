package simulation

import (
	"slices"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// The parts of the bound of liveness.
const (
	// recovery is how long a worker may take to notice the end of trouble: its longest waits, for
	// Service Bus and for Graph.
	recovery = 45 * time.Second
	// unasked is how much longer a pause may last than Graph asked for.
	unasked = 15 * time.Second
	// leftFor is how long a deferred message may wait if the process is gone that deferred it.
	leftFor = 100 * time.Second
	// leaseFor is the duration of a lease in Redis.
	leaseFor = 35 * time.Second
	// callFor is the longest duration of a call. oneCall is its duration where nothing is wrong:
	// users who meet 5xx slow first attempts down to ten a second.
	callFor = 30 * time.Second
	oneCall = 100 * time.Millisecond
	// sessionFor is how long a session is held.
	sessionFor = 35 * time.Second
	// probeEvery is the longest time between two probes while the breaker is open.
	probeEvery = 13 * time.Second
	// reading is the time between two checks for a release of the guard.
	reading = 5 * time.Second
)

// live: an attempt for each user begins within a bound, whatever other people and messages do.
// Times of trouble for everybody, and times when the user's own event has to wait, do not count:
// the bound starts at the first instant after which there are none.
func (c *checker) live() {
	troubles := c.troubles()
	trips := map[string][]span{}
	for _, kind := range types {
		trips[kind] = c.tripped(kind)
	}
	for _, m := range c.lives {
		for _, i := range m.send.People {
			answer := c.People[i].Answer
			if answer == Guest || answer == Protected || c.hopeless(m) {
				continue
			}
			if answer != Member && c.canaryFails() {
				// The canary fails for a reason of its own. When only people are left for whom Graph
				// answers no better, nothing shows that Graph is well, and they wait for their turn
				// among the probes.
				continue
			}
			from, by := c.bound(m, i, slices.Concat(troubles, trips[m.send.kind(c.People[i])]))
			inTime := func(call graph.Call) bool { return !call.Start.Before(m.enqueued) && !call.Start.After(by) }
			if !slices.ContainsFunc(c.attempts(i), inTime) && !m.gone(by) && !c.givenUp(m, i, by) {
				c.wrong("late: no call for %s began between %s and %s, because of %s (well since %s)",
					c.People[i].ID, m.enqueued.Sub(c.start).Round(time.Millisecond), by.Sub(c.start).Round(time.Millisecond),
					m.id, from.Sub(c.start).Round(time.Millisecond))
			}
		}
	}
}

// canaryFails reports whether the canary shows at no time, or not at all times, that Graph is well.
func (c *checker) canaryFails() bool {
	return c.Canary == Deleted || c.Canary == Blocked || c.has(CanaryFails)
}

// failing returns how many people with unsettled messages at a time fail for a reason of their own.
func (c *checker) failing(at time.Time) int {
	people := map[int]bool{}
	for _, m := range c.lives {
		if m.settledBy(at) {
			continue
		}
		for _, i := range m.send.People {
			if c.People[i].Answer != Member {
				people[i] = true
			}
		}
	}
	return len(people)
}

// givenUp reports whether the person was given up by then, for this message or for one that may
// supersede it. proofs and ends check whether that was right.
func (c *checker) givenUp(m *life, person int, by time.Time) bool {
	return slices.ContainsFunc(c.lives, func(o *life) bool {
		return o.end == servicebus.DeadLettered && o.ended.Before(by) && !o.enqueued.Before(m.enqueued) &&
			slices.Contains(o.send.People, person)
	})
}

// attempts are the attempts for a person. A person who cannot be read is not called; then the reads
// count.
func (c *checker) attempts(person int) []graph.Call {
	if c.People[person].Answer != Member {
		return c.readsOf[person]
	}
	return c.byPerson[person]
}

// hopeless reports whether messages ahead of it in the same session concern people who fail: a
// session keeps its order, and so the message waits for their end.
func (c *checker) hopeless(m *life) bool {
	if m.queue != queue || c.Sessions == 0 {
		return false
	}
	for _, other := range c.lives {
		if other == m {
			break
		}
		if other.queue == queue && other.send.Session == m.send.Session && !other.settledBy(m.enqueued) &&
			slices.ContainsFunc(other.send.People, func(i int) bool { return c.People[i].Answer != Member }) {
			return true
		}
	}
	return false
}

// bound returns by when an attempt for a person must have begun because of a message, and from when
// on nothing hinders it. troubles are what hinders everybody with such events; bound changes the slice.
func (c *checker) bound(m *life, person int, troubles []span) (from, by time.Time) {
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

// hanging is when calls for a person hang because they met a fault. A call can hang longer than the
// fault lasts, up to the timeout of calls, and no other call for the person begins meanwhile.
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

// concernsAll reports whether a fault hinders attempts for everybody.
func (c *checker) concernsAll(f Fault) bool {
	switch f.Kind {
	case WildDate, RedisForeign:
		return false
	case CanaryFails:
		return c.unknownFails(f).Status == 429 // a 429 makes everybody pause, whoever meets it
	case RedisAway, RedisHangs:
		return c.Redis
	}
	return true
}

// lockFaults are the faults that leave messages locked by nobody.
var lockFaults = []FaultKind{Cut, BrokerAway, Detach, LocksExpire, Late, Crash, Term, LostSettle, NoRenewal}

// longest returns how long after from the attempt for a person may begin, because of a message.
func (c *checker) longest(m *life, person int, from time.Time) time.Duration {
	bound := recovery + c.pauseLeft(from)
	if c.has(lockFaults...) {
		bound += max(c.Lock, leftFor)
	}
	if c.Redis {
		bound += leaseFor
	}
	if c.canaryFails() { // then only people show that Graph is well again, and probes may go to all who fail first
		bound += probeEvery * time.Duration(c.failing(from))
	}
	for _, call := range c.attempts(person) {
		if call.Start.Before(m.enqueued) && call.End.After(m.enqueued.Add(-c.Window)) { // decided a window ago, or being decided
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
	ahead := len(c.Reports) + c.leaving
	for _, other := range c.lives {
		urgent := other.rank < m.rank && other.enqueued.Before(from.Add(bound))
		if !other.enqueued.After(m.enqueued) && other.rank <= m.rank || urgent {
			if !other.settledBy(m.enqueued) {
				ahead += len(other.send.People)
			}
		}
	}
	n := int(2.04*float64(ahead)) + 1
	bound += time.Duration((n+c.Concurrency-1)/c.Concurrency) * max(oneCall, oneCall*time.Duration(c.Concurrency))
	if c.Quota.Limit > 0 {
		usable := 0.8 * float64(c.Quota.Limit) // in a window
		if c.Workers > 1 && !c.Redis {
			usable /= 2 // replicas that share nothing divide the quota by what each sees of it: one may get half of its part
		}
		// Canaries use the same quota: those until then are ahead, too.
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

// pauseLeft returns how long after at the pause lasts that Graph has asked for.
func (c *checker) pauseLeft(at time.Time) (left time.Duration) {
	for _, pause := range c.asked {
		if !pause.from.After(at) {
			left = max(left, pause.to.Sub(at))
		}
	}
	return left
}

// prompt: where nothing fails and nobody has to wait for room, members are signed out within a
// window.
func (c *checker) prompt() {
	fails := func(p Person) bool { return p.Answer == Unavailable || p.Answer == NeverRevoked || p.Answer == Refused }
	if len(c.Faults) > 0 || c.Quota.Limit > 0 || c.Volume > 0 || c.Sessions > 0 || c.InFlight < len(c.Sends)+len(c.Reports) ||
		slices.ContainsFunc(c.People, fails) {
		return
	}
	for _, m := range c.lives {
		for _, i := range m.send.People {
			inTime := func(call graph.Call) bool {
				return call.Revoked && !call.Start.Before(m.enqueued) && call.Start.Sub(m.enqueued) <= c.Window+time.Second
			}
			if c.People[i].Answer == Member && !slices.ContainsFunc(c.byPerson[i], inTime) && !m.gone(m.enqueued.Add(c.Window)) {
				c.wrong("late: nothing failed, but %s was not signed out within %s of %s", c.People[i].ID, c.Window, m.id)
			}
		}
	}
}
