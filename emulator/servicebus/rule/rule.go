// Package rule decides which messages a subscription gets. It has the true, false, correlation and
// SQL filters of Service Bus
// (https://learn.microsoft.com/azure/service-bus-messaging/topic-filters). It refuses what it does
// not support when a filter is created. It needs the standard library only.
package rule

import (
	"fmt"
	"maps"
	"strings"
)

// Message is what a filter can examine.
type Message struct {
	// System holds the system properties that are present, by their names in System in lower case.
	System map[string]any
	// User holds the application properties.
	User map[string]any
}

// System lists the system properties that filters can name, in the spelling of Service Bus.
var System = []string{
	"ContentType", "CorrelationId", "Label", "MessageId", "ReplyTo", "ReplyToSessionId", "SessionId", "Subject", "To",
}

// Filter selects messages. It is immutable and safe for concurrent use.
type Filter interface {
	// Match reports whether the filter selects the message.
	Match(m Message) bool
}

// Rule is a filter with a name.
type Rule struct {
	Name   string
	Filter Filter
}

// True selects every message.
type True struct{}

// False selects no message.
type False struct{}

// Match implements Filter.
func (True) Match(Message) bool { return true }

// Match implements Filter.
func (False) Match(Message) bool { return false }

// Correlation selects messages whose properties equal all of its own. Strings are compared with
// case.
type Correlation struct {
	// System holds system properties by their names in lower case.
	System map[string]string
	// User holds application properties.
	User map[string]any
}

// NewCorrelation returns a filter that compares the given properties. It ignores system properties
// that are empty. The error says that there is nothing to compare, or names a system property that
// is not in System.
func NewCorrelation(system map[string]string, user map[string]any) (Correlation, error) {
	c := Correlation{System: map[string]string{}, User: maps.Clone(user)}
	for name, value := range system {
		key := strings.ToLower(name)
		if !isSystem(key) {
			return c, fmt.Errorf("a correlation filter cannot compare %q", name)
		}
		if value != "" {
			c.System[key] = value
		}
	}
	if len(c.System) == 0 && len(c.User) == 0 {
		return c, fmt.Errorf("a correlation filter must compare at least one property")
	}
	return c, nil
}

// Match implements Filter.
func (c Correlation) Match(m Message) bool {
	for name, want := range c.System {
		if got, ok := m.System[name].(string); !ok || got != want {
			return false
		}
	}
	for name, want := range c.User {
		got, ok := m.User[name]
		if !ok || equal(got, want) != yes {
			return false
		}
	}
	return true
}

func isSystem(lower string) bool {
	for _, name := range System {
		if strings.ToLower(name) == lower {
			return true
		}
	}
	return false
}

// Property returns what the named system property must equal, or "" if it is not compared. The name
// may be in any case.
func (c Correlation) Property(name string) string { return c.System[strings.ToLower(name)] }
