// Package event decodes and validates messages: whom an event is about, what happened, and when. It
// does no I/O.
package event

import (
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
	// ID, Source, and Type are the producer's. Only Type is always present.
	ID, Source, Type string
	// Time is when it happened. It is zero if the event does not contain it.
	Time time.Time
	User User
	// Urgency is the index of Type on the allow-list. 0 is the most urgent.
	Urgency int
}

// Message holds the parts of a Service Bus message that the decoder needs.
type Message struct {
	ContentType string
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

// Kind classifies why an event is refused.
type Kind int

// The kinds.
const (
	// Invalid means that the event cannot be decoded, or names no user in an accepted form.
	Invalid Kind = iota
	// UnknownType means that the type is missing or not on the allow-list.
	UnknownType
)

// Error names the field that is not acceptable, and the problem with it. It quotes at most 64
// characters of the message.
type Error struct {
	Kind           Kind
	Field, Problem string
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
