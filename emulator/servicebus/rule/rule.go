// Package rule decides which messages a subscription takes: true, false, correlation and SQL filters, as Service Bus has
// them (https://learn.microsoft.com/azure/service-bus-messaging/topic-filters). What Service Bus knows and this package
// does not is refused when the rule is made. It uses the standard library alone.
package rule

import (
	"fmt"
	"maps"
	"strings"
)

// Message is what a filter may look at.
type Message struct {
	// System properties by their lower-case names (System); absent ones are missing.
	System map[string]any
	// User are the application properties.
	User map[string]any
}

// System lists the system properties that filters may name, as Service Bus spells them.
var System = []string{
	"ContentType", "CorrelationId", "Label", "MessageId", "ReplyTo", "ReplyToSessionId", "SessionId", "Subject", "To",
}

// Filter says yes or no to a message. It is immutable and safe for concurrent use.
type Filter interface {
	Match(m Message) bool
}

// Rule is a filter with a name.
type Rule struct {
	Name   string
	Filter Filter
}

// True takes every message.
type True struct{}

// False takes none.
type False struct{}

// Match implements Filter.
func (True) Match(Message) bool { return true }

// Match implements Filter.
func (False) Match(Message) bool { return false }

// Correlation takes messages whose properties all equal these; strings are compared with case. An empty string among the
// System properties is not compared.
type Correlation struct {
	// System properties by their lower-case names.
	System map[string]string
	User   map[string]any
}

// NewCorrelation checks the names. The error says that nothing is compared, or names a property that is not in System.
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

// Property is what a system property must equal, by its name in any case; "" when it is not compared.
func (c Correlation) Property(name string) string { return c.System[strings.ToLower(name)] }
