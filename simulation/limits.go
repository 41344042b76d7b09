package simulation

import (
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// pauses: no call begins while Graph asks for a pause. Only a single process that is not replaced
// knows about all pauses.
func (c *checker) pauses() {
	if c.Workers > 1 || c.has(Crash, Term) || c.ReadUsers { // with a read before it, a call begins later than its attempt
		return
	}
	calls := c.calls
	var until, asked time.Time
	// Sorted by their end: a pause begins when its answer has come.
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
			c.wrong("throttling made worse: a call began %s after Graph asked for a pause of %s", call.Start.Sub(asked), until.Sub(asked))
			return
		}
	}
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

// reaches returns when most people may have been signed out for events of a type. ok is false if
// that never happened.
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

// hasEvent reports whether an event of the type may have been the reason for a call.
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

// volume: before an operator releases a type of events, no more people are signed out for it than
// its bound allows.
func (c *checker) volume() {
	if c.Volume == 0 {
		return
	}
	for _, kind := range types {
		release := c.releasedAt(kind)
		names := map[string]bool{}
		for _, call := range c.calls {
			if call.Revoked && call.Start.Before(release) && c.hasEvent(call, kind) &&
				!slices.ContainsFunc(types, func(other string) bool { return other != kind && c.hasEvent(call, other) }) {
				names[call.UserID] = true
			}
		}
		if len(names) > c.Volume*c.processes() {
			c.wrong("by accident: %d people were signed out for %s, but the bound is %d in each of %d processes",
				len(names), kind, c.Volume, c.processes())
		}
	}
}

// renewals: no worker renews more than 20 locks a second.
func (c *checker) renewals() {
	most := 20 + 2
	if c.has(lockFaults...) {
		most *= 2 // renewals that waited for a connection arrive together
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

// deliveries: a message's delivery count rises only if a fault ends its lock early or keeps the
// worker from settling it: a fault during the delivery, or just before it.
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
				c.wrong("delivery count wasted: %s was %s at %s, and no fault explains it",
					r.MessageID, r.Event, r.Time.Sub(c.start).Round(time.Millisecond))
				return
			}
		}
	}
}
