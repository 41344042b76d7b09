package rule

import (
	"fmt"
	"maps"
	"slices"
)

// correlated are the system properties that a correlation filter can compare, by their keys.
var correlated = []string{"contenttype", "correlationid", "label", "messageid", "replyto", "replytosessionid", "sessionid", "to"}

// Correlation selects messages whose properties equal all of its own. Strings are compared with
// case, and numbers by their values. A property of another type does not match.
type Correlation struct {
	system map[string]string // by the keys that Message.System gets
	user   map[string]any
}

// NewCorrelation returns a filter that compares the given properties. It ignores system properties
// that are empty. The error says that there is nothing to compare, names a system property that
// correlation filters cannot compare, or names an application property without a value that can be
// compared.
func NewCorrelation(system map[string]string, user map[string]any) (Correlation, error) {
	c := Correlation{system: map[string]string{}, user: maps.Clone(user)}
	for name, value := range system {
		key := systemKey(name)
		if !slices.Contains(correlated, key) {
			return c, fmt.Errorf("a correlation filter cannot compare %q", name)
		}
		if value != "" {
			c.system[key] = value
		}
	}
	for name, value := range user {
		if !usable(value) {
			return c, fmt.Errorf("a correlation filter cannot compare the property %q with a value of type %s", name, typeName(value))
		}
	}
	if len(c.system) == 0 && len(c.user) == 0 {
		return c, fmt.Errorf("a correlation filter must compare at least one property")
	}
	return c, nil
}

// Match implements Filter. The error is always nil.
func (c Correlation) Match(m *Message) (bool, error) {
	for name, want := range c.system {
		if got, ok := m.system(name).(string); !ok || got != want {
			return false, nil
		}
	}
	for name, want := range c.user {
		_, got, found := m.user(name)
		if order, ok := compare(got, want); !found || !ok || order != equal {
			return false, nil
		}
	}
	return true, nil
}

// Property returns what the named system property must equal, or "" if it is not compared. The name
// may be in any case.
func (c Correlation) Property(name string) string { return c.system[systemKey(name)] }

// User returns what the application properties must equal. The map is a copy.
func (c Correlation) User() map[string]any { return maps.Clone(c.user) }
