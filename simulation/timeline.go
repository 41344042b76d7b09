package simulation

import (
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// About makes Timeline describe what happened to this person.
func (o *Findings) About(person int) { o.about = &person }

// Timeline describes what happened to the person whom the first problem names; "" if no problem
// names one.
func (o Findings) Timeline(s Scenario) string {
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

// timeline describes what happened to a person.
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
