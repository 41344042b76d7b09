package simulation

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// leaversHorizon is how far ahead dates may lie, and how long withdrawals are remembered.
const leaversHorizon = 20 * time.Minute

// Report is one message of an HR system, with announcements about one or more people.
type Report struct {
	At            time.Duration
	ID            string
	Announcements []Announcement
}

// Announcement says that a person leaves at a date, or that they do not.
type Announcement struct {
	Person int // index among the people; nothing else concerns them
	// Version orders the announcements about a person: the higher one counts.
	Version   int
	Effective time.Duration
	Withdrawn bool
}

// addLeavers adds people whose departure is announced, corrected and withdrawn, in any order.
func (s *Scenario) addLeavers(r *rand.Rand, long time.Duration) {
	if r.IntN(10) > 0 || s.Sessions > 0 || s.Volume > 0 {
		return
	}
	s.announce(r, pick(r, 1, 5, 20), long)
}

// announce adds reports about so many people.
func (s *Scenario) announce(r *rand.Rand, people int, long time.Duration) {
	var list []Announcement
	for range people {
		person := len(s.People)
		s.People = append(s.People, newPerson(person, Member))
		for version := range 1 + r.IntN(4) {
			a := Announcement{Person: person, Version: version, Withdrawn: r.IntN(3) == 0}
			if !a.Withdrawn {
				a.Effective = 10*time.Minute + time.Duration(r.Int64N(int64(8*time.Minute)))
			}
			list = append(list, a)
		}
	}
	r.Shuffle(len(list), func(i, k int) { list[i], list[k] = list[k], list[i] })
	for len(list) > 0 {
		n := min(len(list), pick(r, 1, 1, 1, 2, 5))
		report := Report{At: time.Duration(r.Int64N(int64(long))), ID: fmt.Sprintf("r%d", len(s.Reports)), Announcements: list[:n]}
		s.Reports = append(s.Reports, report)
		if r.IntN(10) == 0 { // the sender repeats itself
			report.At += time.Duration(r.Int64N(int64(long)))
			s.Reports = append(s.Reports, report)
		}
		list = list[n:]
	}
}

// report sends the reports, each at its time.
func (w *world) report() error {
	ctx := context.Background()
	client, err := w.client()
	if err != nil {
		return err
	}
	defer client.Close(ctx)
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		return err
	}
	reports := slices.Clone(w.Reports)
	slices.SortStableFunc(reports, func(a, b Report) int { return cmp.Compare(a.At, b.At) })
	for _, r := range reports {
		time.Sleep(time.Until(w.start.Add(r.At)))
		if err := sender.SendMessage(ctx, &azservicebus.Message{MessageID: &r.ID, Body: w.reportBody(r)}, nil); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) reportBody(r Report) []byte {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
	var events []string
	for _, a := range r.Announcements {
		p := w.People[a.Person]
		who := fmt.Sprintf(`"userId":%q`, p.ID)
		if a.Person%4 == 0 { // an HR system names a person the same way each time
			who = fmt.Sprintf(`"userPrincipalName":%q`, p.UserPrincipalName)
		}
		written := w.start.Add(time.Duration(a.Version-100) * time.Minute)
		event := fmt.Sprintf(`{"type":"user.offboarded",%s,"time":%q`, who, stamp(written))
		if a.Withdrawn {
			event += `,"withdrawn":true`
		} else {
			event += fmt.Sprintf(`,"effectiveTime":%q`, stamp(w.start.Add(a.Effective)))
		}
		events = append(events, event+"}")
	}
	return []byte("[" + strings.Join(events, ",") + "]")
}

// note notes what the checker must know of a message that a worker has received.
func (w *world) note(m *azservicebus.ReceivedMessage) {
	w.noteAgain(m)
	w.noteCopy(m)
}

// noteCopy notes that a message was scheduled. The checker uses it for dead letters.
func (w *world) noteCopy(m *azservicebus.ReceivedMessage) {
	from, _ := m.ApplicationProperties[deadletter.PropertyScheduledFrom].(string)
	if from == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.copies[m.MessageID] = true
}

// tamperedScheduler is a Scheduler with a place's faults.
type tamperedScheduler struct {
	consumer.Scheduler
	*tampered
}

// ScheduleAMQPAnnotatedMessages loses schedules.
func (t *tamperedScheduler) ScheduleAMQPAnnotatedMessages(ctx context.Context, messages []*azservicebus.AMQPAnnotatedMessage, at time.Time,
	o *azservicebus.ScheduleAMQPAnnotatedMessagesOptions,
) (numbers []int64, err error) {
	err = t.settle(func() (err error) {
		numbers, err = t.Scheduler.ScheduleAMQPAnnotatedMessages(ctx, messages, at, o)
		return err
	})
	return numbers, err
}

// CancelScheduledMessages loses cancellations.
func (t *tamperedScheduler) CancelScheduledMessages(
	ctx context.Context, numbers []int64, o *azservicebus.CancelScheduledMessagesOptions,
) error {
	return t.settle(func() error { return t.Scheduler.CancelScheduledMessages(ctx, numbers, o) })
}

const (
	// early is how long before its date somebody may be called, with the clocks' differences.
	early = 65 * time.Second
	// underway is how long a call may take to begin after the worker has looked whether its date
	// stands: it may wait for a token.
	underway = time.Minute
)

// leaver is a person whose departure was announced.
type leaver struct {
	person        int
	announcements []Announcement // the one that counts last
}

func (s Scenario) leavers() (all []leaver) {
	at := map[int]int{}
	for _, r := range s.Reports {
		for _, a := range r.Announcements {
			i, ok := at[a.Person]
			if !ok {
				i = len(all)
				at[a.Person] = i
				all = append(all, leaver{person: a.Person})
			}
			all[i].announcements = append(all[i].announcements, a)
		}
	}
	for _, l := range all {
		slices.SortFunc(l.announcements, func(a, b Announcement) int { return cmp.Compare(a.Version, b.Version) })
	}
	return all
}

// leaverKeys are the ids and names, in lower case, of the people whom only reports concern.
func (s Scenario) leaverKeys() map[string]bool {
	keys := map[string]bool{}
	for _, l := range s.leavers() {
		p := s.People[l.person]
		keys[strings.ToLower(p.ID)], keys[strings.ToLower(p.UserPrincipalName)] = true, true
	}
	return keys
}

// announced: nobody is called before their date, or for a date that was withdrawn or corrected once
// the worker has handled that; and everybody is called at the date that stands.
func (c *checker) announced() {
	handled := map[int]map[int]time.Time{} // when the worker has completed an announcement first, by person and version
	for _, m := range c.lives {
		if m.end != servicebus.Completed {
			continue
		}
		i := slices.IndexFunc(c.Reports, func(r Report) bool { return r.ID == m.id })
		if i < 0 {
			continue
		}
		for _, a := range c.Reports[i].Announcements {
			if handled[a.Person] == nil {
				handled[a.Person] = map[int]time.Time{}
			}
			if at, ok := handled[a.Person][a.Version]; !ok || m.ended.Before(at) {
				handled[a.Person][a.Version] = m.ended
			}
		}
	}
	for _, l := range c.leavers() {
		for _, call := range c.byPerson[l.person] {
			if !c.justified(l, call, handled[l.person]) {
				c.wrong("by accident: Graph was called for %s at %s, and no date stood: %+v", c.People[l.person].ID,
					call.Start.Sub(c.start).Round(time.Millisecond), l.announcements)
			}
		}
		c.called(l)
	}
}

// justified reports whether an announcement asks for the call that no newer one contradicts.
func (c *checker) justified(l leaver, call graph.Call, handled map[int]time.Time) bool {
	due := func(a Announcement) bool { return !a.Withdrawn && !c.start.Add(a.Effective-early).After(call.Start) }
	return slices.ContainsFunc(l.announcements, func(a Announcement) bool {
		return due(a) && !slices.ContainsFunc(l.announcements, func(newer Announcement) bool {
			at, ok := handled[newer.Version]
			return newer.Version > a.Version && !due(newer) && ok && at.Before(call.Start.Add(-underway))
		})
	})
}

// called: where a date stands, an attempt begins within the bound of liveness after it.
func (c *checker) called(l leaver) {
	last := l.announcements[len(l.announcements)-1]
	if last.Withdrawn {
		return
	}
	date := c.start.Add(last.Effective)
	m := &life{queue: queue, send: Send{People: []int{l.person}, Type: types[3]}, enqueued: date}
	m.rank = c.rank(m)
	_, by := c.bound(m, l.person, append(c.troubles(), c.tripped(m.send.kind(c.People[l.person]))...))
	for _, call := range c.byPerson[l.person] {
		if !call.Start.Before(date.Add(-early)) && !call.Start.After(by) {
			return
		}
	}
	c.wrong("late: %s leaves at %s, and no call began until %s", c.People[l.person].ID, last.Effective.Round(time.Millisecond),
		by.Sub(c.start).Round(time.Millisecond))
}
