// Package schedule knows the announcements that wait in Service Bus for their date. An announcement
// is an event that takes effect at a date, such as the end of an employment, or that withdraws what
// was announced for a person. The worker schedules a copy of it, a message of the broker that becomes
// active at the date. The package orders announcements about one person, and finds those that are
// scheduled. It decides and changes nothing.
package schedule

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
)

// Decoder decodes messages; *event.Decoder and *mapping.Decoder are such.
type Decoder interface {
	Decode(message event.Message) ([]event.Item, error)
}

// Announcement is what one event announces about one person.
type Announcement struct {
	// Event is the event, as it was decoded from the body.
	Event event.Event
	// User is the event's user. It has the account's ID as well, if somebody has looked it up.
	User event.User
	// Version is when the announcement was made: the event's time, or, if it has none, when the
	// producer's message was enqueued. It is never later than that: a clock that is ahead must not
	// win against all later announcements.
	Version time.Time
	// Sequence is the sequence number of the message.
	Sequence int64
	// At is when the scheduled message becomes active; zero for a message that is not scheduled.
	At time.Time
}

// DueWithin is how long before its date the worker acts on an announcement.
const DueWithin = time.Minute

// VersionOf returns when an announcement was made (Announcement.Version). said is the event's time, and
// enqueued is when the producer's message was enqueued. Either may be zero.
func VersionOf(said, enqueued time.Time) time.Time {
	if !said.IsZero() && (enqueued.IsZero() || said.Before(enqueued)) {
		return said
	}
	return enqueued
}

// Is reports whether an event is an announcement.
func Is(e event.Event) bool { return e.Withdrawn || !e.TakesEffect.IsZero() }

// New returns the announcement of an event of a message.
func New(e event.Event, m *azservicebus.ReceivedMessage) Announcement {
	a := Announcement{Event: e, User: e.User, Version: VersionOf(e.Time, deadletter.FirstEnqueued(m))}
	if m.SequenceNumber != nil {
		a.Sequence = *m.SequenceNumber
	}
	if m.ScheduledEnqueueTime != nil {
		a.At = m.ScheduledEnqueueTime.UTC()
	}
	return a
}

// Compare orders the announcements about one person, the same way in every replica and whatever the
// order of arrival: it returns a positive number if a counts and b does not any more. The later
// version counts. Of two announcements of the same version the safer one counts, which keeps
// somebody signed in: one that withdraws before one with a date, and a later date before an earlier
// one. 0 means that both say the same.
func (a Announcement) Compare(b Announcement) int {
	withdrawn := func(x Announcement) int {
		if x.Event.Withdrawn {
			return 1
		}
		return 0
	}
	return cmp.Or(
		a.Version.Compare(b.Version),
		cmp.Compare(withdrawn(a), withdrawn(b)),
		a.Event.TakesEffect.Compare(b.Event.TakesEffect),
	)
}

// SamePerson reports whether two events name the same person: by ID if both have one, and otherwise
// by user principal name, or by the same value to look up. A person whom one event names only by ID
// and another only by name counts as two.
func SamePerson(a, b event.User) bool {
	if a.ID() != "" && b.ID() != "" {
		return a.ID() == b.ID()
	}
	if a.UPN() != "" && b.UPN() != "" {
		return strings.EqualFold(a.UPN(), b.UPN())
	}
	return a.Key() == b.Key()
}

// keys are the keys under which a user's announcements are found. Those of the same person share at
// least one.
func keys(u event.User) []string {
	if by, _ := u.Lookup(); by != event.NoLookup {
		return []string{u.Key()}
	}
	var list []string
	for _, key := range []string{u.ID(), strings.ToLower(u.UPN())} {
		if key != "" {
			list = append(list, key)
		}
	}
	return list
}

// clockBehind is how far our clock may be behind the broker's.
const clockBehind = time.Hour

// Read returns the announcement for which the worker has scheduled a message that was peeked at. ok
// is false for every other message. Whom it is about and what it says is read from the body: who may
// send can write properties that look like ours, and gains nothing by it.
func Read(m *azservicebus.ReceivedMessage, decoder Decoder) (a Announcement, ok bool) {
	if m.State != azservicebus.MessageStateScheduled || m.SequenceNumber == nil {
		return Announcement{}, false
	}
	// What counts as the version must not lie in the future: it would win against all that is announced
	// until then. The message's own enqueued time does, since it is the date.
	if s, ours := deadletter.ReadSchedule(m); !ours || s.FirstEnqueued.After(time.Now().Add(clockBehind)) {
		return Announcement{}, false
	}
	items, err := decoder.Decode(deadletter.Content(m))
	if err != nil {
		return Announcement{}, false
	}
	only := deadletter.Only(m)
	items = slices.DeleteFunc(items, func(i event.Item) bool { return len(only) > 0 && !slices.Contains(only, i.Index) })
	if len(items) != 1 || items[0].Err != nil || !Is(items[0].Event) {
		return Announcement{}, false // the worker schedules a message for one event
	}
	return New(items[0].Event, m), true
}
