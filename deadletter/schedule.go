package deadletter

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// Application properties of a message that the worker has scheduled: a copy of another message, for
// one of its events. Each is a string. They hold nothing about the person. A producer who may send
// can write them as well, so whom the message is about, and when it takes effect, is always read
// from the body.
const (
	// PropertyScheduled is the time that the message was scheduled for (RFC 3339).
	PropertyScheduled = "revoker-scheduled-for"
	// PropertyScheduledFrom is the MessageID of the message that it is a copy of.
	PropertyScheduledFrom = "revoker-scheduled-from"
)

// PropertyFirstEnqueued is on a message that was scheduled or replayed: when the message was
// enqueued that the producer sent (RFC 3339).
const PropertyFirstEnqueued = "revoker-first-enqueued"

// aboutSchedule are the properties that a scheduled message always has.
var aboutSchedule = []string{PropertyScheduled, PropertyScheduledFrom, PropertyFirstEnqueued}

// Schedule is what a message says about having been scheduled by the worker.
type Schedule struct {
	// At is the time that it was scheduled for.
	At time.Time
	// From is the MessageID of the message that it is a copy of. It may be empty.
	From string
	// FirstEnqueued is when the producer's message was enqueued.
	FirstEnqueued time.Time
}

// ReadSchedule reads what Schedule.Write has written. ok is false if any part is missing or
// malformed.
func ReadSchedule(m *azservicebus.ReceivedMessage) (s Schedule, ok bool) {
	at, err := time.Parse(time.RFC3339Nano, Property(m, PropertyScheduled))
	if err != nil {
		return Schedule{}, false
	}
	s = Schedule{At: at, From: Property(m, PropertyScheduledFrom), FirstEnqueued: readFirstEnqueued(m)}
	_, hasFrom := m.ApplicationProperties[PropertyScheduledFrom].(string)
	if !hasFrom || len(s.From) > maxID || s.FirstEnqueued.IsZero() {
		return Schedule{}, false
	}
	return s, true
}

// Write adds the schedule to a message that is about to be scheduled, in the form that ReadSchedule
// reads. only is the index of the event that the message is for; it is negative if the body has one
// event alone.
func (s Schedule) Write(m *azservicebus.AMQPAnnotatedMessage, only int) {
	set := m.ApplicationProperties
	set[PropertyScheduled] = s.At.UTC().Format(time.RFC3339Nano)
	set[PropertyScheduledFrom] = Cut(s.From, maxID)
	set[PropertyFirstEnqueued] = s.FirstEnqueued.UTC().Format(time.RFC3339Nano)
	if only >= 0 {
		writeOnly(m, []int{only})
	}
}

// FirstEnqueued returns when the message was enqueued that the producer sent: what a replay or a
// schedule says, if it is well formed and not later than the message's own enqueued time, and
// otherwise that time. It is zero if the message has none.
//
// A producer can claim an earlier time than is true. They gain nothing: they could have left out the
// event's own time, or have given another one.
func FirstEnqueued(m *azservicebus.ReceivedMessage) time.Time {
	var own time.Time
	if m.EnqueuedTime != nil {
		own = m.EnqueuedTime.UTC()
	}
	if Property(m, PropertyFirstEnqueued) == "" {
		return own
	}
	_, scheduled := ReadSchedule(m)
	_, replayed := ReadReplays(m)
	if first := readFirstEnqueued(m); (scheduled || replayed) && !first.IsZero() && first.Before(own) {
		return first
	}
	return own
}

func readFirstEnqueued(m *azservicebus.ReceivedMessage) time.Time {
	first, err := time.Parse(time.RFC3339Nano, Property(m, PropertyFirstEnqueued))
	if err != nil {
		return time.Time{}
	}
	return first.UTC()
}
