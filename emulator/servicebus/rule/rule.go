// Package rule decides which messages a subscription gets, and changes its copies. It has the true,
// false, correlation and SQL filters and the SQL actions of Service Bus
// (https://learn.microsoft.com/azure/service-bus-messaging/topic-filters). It refuses what it does
// not support when a filter or an action is created. It needs the standard library only.
//
// Names of properties ignore case, and strings are compared with case. Values have the types nil,
// bool, string, the integers and floats of Go, time.Time, time.Duration and GUID. Operators accept
// no other type.
package rule

import (
	"fmt"
	"strings"
	"time"
)

// GUID is an identifier of 16 bytes, in network byte order. It is a type of its own, because
// Service Bus does not compare it with strings.
type GUID [16]byte

// String returns the form 8-4-4-4-12 in lower case.
func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// Message is what filters and actions see of a message. It is not safe for concurrent use. User must
// not change while it is in use.
type Message struct {
	// System returns a system property by its name in lower case, or nil if it is missing. It may be
	// nil for a message without system properties.
	System func(key string) any
	// User holds the application properties.
	User map[string]any

	changed map[string]any    // the system properties that an action has set; nil removes one
	names   map[string]string // the names in User by their form in lower case, made when first needed
	steps   int               // how many steps of LIKE are left in this evaluation
}

// maxSteps bounds the steps of LIKE in one evaluation, and thus its time. One LIKE needs at most
// the product of the lengths of its operands.
const maxSteps = 5_000_000

// system returns a system property, or nil if it is missing.
func (m *Message) system(key string) any {
	if v, ok := m.changed[key]; ok || m.System == nil {
		return v
	}
	return m.System(key)
}

// user returns an application property and its spelling. found is false if there is none. Of two
// names that differ only in case, the one in the wanted spelling counts.
func (m *Message) user(wanted string) (name string, value any, found bool) {
	if value, found = m.User[wanted]; found {
		return wanted, value, true
	}
	if m.names == nil {
		m.names = make(map[string]string, len(m.User))
		for known := range m.User {
			m.names[strings.ToLower(known)] = known
		}
	}
	name, found = m.names[strings.ToLower(wanted)]
	return name, m.User[name], found
}

// Filter selects messages. It is immutable and safe for concurrent use.
type Filter interface {
	// Match reports whether the filter selects the message. The error says why the filter cannot be
	// evaluated for this message: for example, it divides by zero.
	Match(m *Message) (bool, error)
}

// Rule is a filter with a name, and may have an action.
type Rule struct {
	Name   string
	Filter Filter
	// Action changes the copy of each message that the filter selects. Nil changes nothing.
	Action *Action
	// Created is when the rule was created. It is for display. Zero means now.
	Created time.Time
}

// True selects every message.
type True struct{}

// False selects no message.
type False struct{}

// Match implements Filter.
func (True) Match(*Message) (bool, error) { return true, nil }

// Match implements Filter.
func (False) Match(*Message) (bool, error) { return false, nil }
