package rule

import (
	"fmt"
	"maps"
	"strings"
	"unicode/utf8"
)

// maxStatements is how many statements an action may have
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const maxStatements = 32

// Action changes the properties of a message in the SQL language of Service Bus
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-sql-rule-action).
// It is immutable and safe for concurrent use.
type Action struct {
	text       string
	parameters map[string]any
	statements []statement
}

// statement is a SET, or a REMOVE if it has no value.
type statement struct {
	target property
	value  func(*Message) (any, error)
	column int
}

// Change is one change of a message.
type Change struct {
	// System says whether Name is the key of a system property or the name of an application
	// property. The application property has the spelling of the message, if it exists.
	System bool
	Name   string
	// Value is the new value. Nil with Removed unset sets an application property to null.
	Value   any
	Removed bool
}

// NewAction parses statements like NewSQL parses an expression. The statements are SET PROPERTY =
// EXPRESSION and REMOVE PROPERTY. A semicolon or a comma may separate them.
func NewAction(statements string, parameters map[string]any) (*Action, error) {
	p := newParser(statements, parameters)
	a := &Action{text: statements, parameters: maps.Clone(parameters)}
	for p.err == nil && (len(a.statements) == 0 || p.token.kind != end) {
		if len(a.statements) == maxStatements {
			p.fail("more than %d statements", maxStatements)
		}
		a.statements = append(a.statements, p.statement())
		p.symbol(";", ",")
	}
	if err := p.done(); err != nil {
		return nil, fmt.Errorf("the SQL action %q is not valid: %w", shortened(statements), err)
	}
	return a, nil
}

func (p *parser) statement() (s statement) {
	s.column = p.column(p.token.at)
	set := p.word("set")
	if !set && !p.word("remove") {
		p.fail("expected SET or REMOVE")
	}
	at := p.token.at
	target, ok := p.propertyName()
	switch {
	case !ok:
		p.fail("expected the name of a property")
	case target.system && !systemByName[target.name].settable:
		p.failAt(at, "the system property sys.%s cannot be changed", systemByName[target.name].name)
	}
	s.target = target
	if set {
		p.expect("=")
		s.value = p.mustValue(p.sum()).value
	}
	return s
}

// String returns the statements that NewAction got.
func (a *Action) String() string { return a.text }

// Parameters returns the parameters that NewAction got. The map is a copy.
func (a *Action) Parameters() map[string]any { return maps.Clone(a.parameters) }

// Apply returns what the action changes in a message, in order. Each statement sees the changes of
// those before it. m stays as it is. The error says why the action cannot be applied to this
// message.
func (a *Action) Apply(m *Message) ([]Change, error) {
	changed := &Message{System: m.System, User: maps.Clone(m.User), changed: map[string]any{}}
	if changed.User == nil {
		changed.User = map[string]any{}
	}
	changes := make([]Change, 0, len(a.statements))
	for _, s := range a.statements {
		c, err := s.apply(changed)
		if err != nil {
			return nil, fmt.Errorf("the SQL action %q failed: %w", shortened(a.text), err)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

func (s statement) apply(m *Message) (Change, error) {
	c := Change{System: s.target.system, Name: s.target.name, Removed: s.value == nil}
	if s.value != nil {
		var err error
		if c.Value, err = s.value(m); err != nil {
			return c, err
		}
	}
	if c.System {
		return c, atColumn(c.toSystem(m), s.column)
	}
	return c, atColumn(c.toUser(m), s.column)
}

// toSystem makes the change to a system property.
func (c *Change) toSystem(m *Message) error {
	known := systemByName[c.Name]
	if c.Value == nil {
		if known.name == "MessageId" || known.name == "TimeToLive" {
			return fmt.Errorf("sys.%s cannot be missing", known.name)
		}
		c.Removed = true
		m.changed[c.Name] = nil
		return nil
	}
	v, err := convert(c.Value, known.like)
	if err != nil {
		return fmt.Errorf("sys.%s: %w", known.name, err)
	}
	if t, ok := v.(string); ok && known.limit > 0 && utf8.RuneCountInString(t) > known.limit {
		return fmt.Errorf("sys.%s may have at most %d characters", known.name, known.limit)
	}
	c.Value, m.changed[c.Name] = v, v
	return nil
}

// toUser makes the change to an application property. The new value gets the type of the old one.
func (c *Change) toUser(m *Message) error {
	name, old, found := m.user(c.Name)
	if found {
		c.Name = name
	}
	if c.Removed {
		delete(m.User, c.Name)
		delete(m.names, strings.ToLower(c.Name))
		return nil
	}
	if found && old != nil {
		v, err := convert(c.Value, old)
		if err != nil {
			return fmt.Errorf("%s: %w", c.Name, err)
		}
		c.Value = v
	}
	if t, ok := c.Value.(string); ok && len(t) > maxText {
		return fmt.Errorf("%s: a string of %d bytes; at most %d are allowed", c.Name, len(t), maxText)
	}
	m.User[c.Name] = c.Value
	if m.names != nil {
		m.names[strings.ToLower(c.Name)] = c.Name
	}
	return nil
}
