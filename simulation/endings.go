package simulation

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// ends: each message is dead-lettered only for its own fault, and with the reason for it.
func (c *checker) ends() {
	for _, m := range c.lives {
		if m.end != servicebus.Completed && m.end != servicebus.DeadLettered && m.end != servicebus.Expired {
			continue
		}
		allowed, must := c.reasonsOf(m.send)
		if c.copies[m.id] && c.has(UsersFail) && c.Canary == Well {
			allowed["RetriesExhausted"] = true
		}
		switch {
		case m.end == servicebus.Expired, m.reason == "TTLExpiredException":
			if m.send.ID == "" {
				continue // it was resubmitted, and nobody has received it: its content and time to live are unknown
			}
			if m.send.TTL == 0 || m.ended.Before(m.enqueued.Add(m.send.TTL-2*time.Millisecond)) { // the broker counts whole milliseconds
				c.wrong("lost: %s expired before its time", m.id)
			}
		case m.end == servicebus.DeadLettered && !allowed[m.reason]:
			c.wrong("not the message's fault: %s was dead-lettered as %s", m.id, m.reason)
		case m.end == servicebus.Completed && must != "":
			c.wrong("false success: %s was completed, but must be dead-lettered as %s", m.id, must)
		}
	}
}

// reasonsOf returns the reasons with which a message may be dead-lettered, and the one with which
// it must be, because no other message can supersede it.
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
		answer := c.People[i].Answer
		allowed[reasons[answer]] = true
		switch {
		case answer == Guest, answer == Protected:
			must = reasons[answer]
		case answer == Unknown && c.has(CanaryFails):
			allowed["Forbidden"], allowed["RetriesExhausted"] = true, true
		case c.has(UsersFail) && c.Canary == Well: // the failures look like the user's own
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
		if answer := byKey[strings.ToLower(call.Key)]; answer == Guest || answer == Protected {
			c.wrong("wrong person: Graph was called for %s, who is %s", call.Key, answer)
		}
	}
}

// budgets are the counted failures that each reason needs.
var budgets = map[string]int{"Forbidden": 2, "RetriesExhausted": 8, "NotRevoked": 8}

// proofs: nobody is given up before another user's success has shown, after a failure, that Graph
// is well; or before retry.max_age.
func (c *checker) proofs() {
	given := map[int]bool{}
	for _, m := range slices.SortedStableFunc(slices.Values(c.lives), func(a, b *life) int { return a.ended.Compare(b.ended) }) {
		need, proved := budgets[m.reason]
		if m.end != servicebus.DeadLettered || !proved || len(m.send.People) != 1 || given[m.send.People[0]] {
			continue
		}
		person := m.send.People[0]
		given[person] = true // later dead letters of this person cannot be told apart from this one
		if n, first := c.counted(person, m.ended); n < need && m.ended.Sub(first) < maxAge {
			c.wrong("without proof: %s was dead-lettered as %s after %d failures that others' successes prove to be %s's own, need %d",
				m.id, m.reason, n, c.People[person].ID, need)
		}
	}
}

// counted returns how many failures of a person, up to until, other users' successes prove to be
// the person's own; and when the first attempt began.
func (c *checker) counted(person int, until time.Time) (n int, first time.Time) {
	byKey := map[string]time.Time{}            // the end of the last failure
	for _, failed := range c.readsOf[person] { // a person who cannot be read fails, too
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
