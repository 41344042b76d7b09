// Package event decodes and validates messages: whom an event is about, what happened, and when. It
// does no I/O.
package event

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"
)

// Bounds of one message.
const (
	// MaxEvents is the maximum number of events in one message.
	MaxEvents = 1000
	// MaxBodyBytes is the size of the largest body that is decoded.
	MaxBodyBytes = 1 << 20
	// MaxDepth is the maximum nesting of JSON.
	MaxDepth = 32
)

// Event is one event about one user.
type Event struct {
	// ID, Source, and Type are the producer's. Only Type is always present. A mapping may derive
	// Type.
	ID, Source, Type string
	// Time is when it happened. It is zero if the event does not contain it.
	Time time.Time
	// TimeUnread means that the event contains a time in none of the forms that its mapping reads. It
	// is treated like an event without one.
	TimeUnread bool
	// TakesEffect is when the event must be acted on: an HR system announces the end of an
	// employment in advance. Zero means at once.
	TakesEffect time.Time
	// Withdrawn means that what was announced for this person does not happen: they were hired
	// again, or the date was withdrawn. Nobody is signed out for it.
	Withdrawn bool
	User      User
	// Urgency is the index of Type on the allow-list. 0 is the most urgent.
	Urgency int

	// Mapping is the name of the mapping that understood the event: Native for the project's own
	// forms.
	Mapping string
	// Field is the path of the field that named the user, such as body.target[0].alternateId.
	Field string
	// Device names the device that the event is about, for people: a name, an id, or a serial
	// number. It may be empty.
	Device string
	// Reason is the producer's reason in a few words. It may be empty.
	Reason string
}

// Native is the Mapping of an event in one of the forms of docs/events.md.
const Native = "native"

// Message holds the parts of a Service Bus message that the decoder needs.
type Message struct {
	ContentType string
	// Subject is the message's subject, also called its label.
	Subject string
	// Properties are the application properties.
	Properties map[string]any
	Body       []byte
	// BodyKind is the AMQP section of the body: "" or "data", "value", or "sequence". Only data can
	// be decoded.
	BodyKind string
}

// Item is one event of a message, or the reason why it is refused.
type Item struct {
	// Index is the index of the event in the message, from 0.
	Index int
	// Event is complete if Err is nil. Otherwise it holds what could be decoded, and no User.
	Event Event
	// Err is an *Error or nil.
	Err error
}

// Named returns whom the event names, for records and filters alone: its user, or the one whose domain
// is not allowed. Nobody may be called for the latter.
func (i Item) Named() User {
	if err, ok := errors.AsType[*Error](i.Err); ok && !err.User.IsZero() {
		return err.User
	}
	return i.Event.User
}

// Kind classifies why an event is refused.
type Kind int

// The kinds.
const (
	// Invalid means that the event cannot be decoded, or names no user in an accepted form.
	Invalid Kind = iota
	// UnknownType means that the type is missing or not on the allow-list, or that no mapping
	// understands the message.
	UnknownType
	// NoTrigger means that a mapping understands the event, and that it must sign nobody out, such
	// as an ordinary logout.
	NoTrigger
	// OwnerUnclear means that the event names nobody whose sessions can be revoked: only a device,
	// or several people.
	OwnerUnclear
	// ForeignDomain means that the domain of the user's name is not on the list of allowed domains.
	ForeignDomain
	// TooOld means that the event happened longer ago than the worker accepts.
	TooOld
	// TooFarAhead means that the event takes effect later than the worker can schedule it.
	TooFarAhead
	// NotYet means that the event cannot be judged now, for a reason that passes: the keys that
	// verify it cannot be fetched. It must be tried again, and never be dead-lettered.
	NotYet
)

// Error names the field that is not acceptable, and the problem with it. It quotes at most 64
// characters of the message.
type Error struct {
	Kind           Kind
	Field, Problem string
	// User is the user whose domain is not allowed (ForeignDomain), and nobody for all other kinds.
	User User
}

func (e *Error) Error() string { return e.Field + ": " + e.Problem }

func invalid(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Problem: fmt.Sprintf(format, args...)}
}

// quote quotes text of a message, cut to 64 characters.
func quote(s string) string {
	const limit = 64
	if utf8.RuneCountInString(s) > limit {
		return fmt.Sprintf("%q…", string([]rune(s[:min(len(s), 4*limit)])[:limit]))
	}
	return fmt.Sprintf("%q", s)
}
