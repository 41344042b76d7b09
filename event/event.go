// Package event decodes and validates what arrives: who, what, when. It does no I/O.
package event

import (
	"fmt"
	"time"
	"unicode/utf8"
)

// Bounds of one message.
const (
	// MaxEvents is how many events one message may hold.
	MaxEvents = 1000
	// MaxBodyBytes is the largest body that is read.
	MaxBodyBytes = 1 << 20
	// MaxDepth is how deep JSON may be nested.
	MaxDepth = 32
)

// Event is one event about one person.
type Event struct {
	// ID, Source and Type are the producer's; only Type is always present.
	ID, Source, Type string
	// Time is when it happened; zero when the producer did not say.
	Time time.Time
	User User
	// Urgency is the place of Type on the allow-list, from 0, the most urgent.
	Urgency int
}

// Message is what the decoder needs of a Service Bus message.
type Message struct {
	ContentType string
	// Properties are the application properties.
	Properties map[string]any
	Body       []byte
	// BodyKind is the AMQP section that holds the body: "" or "data", "value", "sequence". Only data can be read.
	BodyKind string
}

// Item is one event of a message, or why it is not accepted.
type Item struct {
	// Index is the event's place in the message, from 0.
	Index int
	// Event is as complete as could be read when Err is set; its User is then nobody.
	Event Event
	// Err is an *Error or nil.
	Err error
}

// Kind says why an event is not accepted.
type Kind int

// The kinds.
const (
	// Invalid: not readable, or without a user in an accepted form.
	Invalid Kind = iota
	// UnknownType: the type is missing or not on the allow-list.
	UnknownType
)

// Error says which field is not acceptable and why. It quotes at most 64 characters of foreign text.
type Error struct {
	Kind           Kind
	Field, Problem string
}

func (e *Error) Error() string { return e.Field + ": " + e.Problem }

func invalid(field, format string, args ...any) *Error {
	return &Error{Kind: Invalid, Field: field, Problem: fmt.Sprintf(format, args...)}
}

// quote shows foreign text, cut to 64 characters.
func quote(s string) string {
	const limit = 64
	if utf8.RuneCountInString(s) > limit {
		return fmt.Sprintf("%q…", string([]rune(s[:min(len(s), 4*limit)])[:limit]))
	}
	return fmt.Sprintf("%q", s)
}
