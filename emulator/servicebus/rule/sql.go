package rule

import (
	"fmt"
	"maps"
)

// SQL is a filter in the SQL language of Service Bus
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-sql-filter). All of
// the documented language is supported. The operators follow C#, as in the service: numbers are
// promoted, integers do not overflow silently, + joins strings, and an operator that C# does not
// have for the types of its operands is an error of the evaluation. An example is a comparison of a
// string with a number. A property that is missing makes the result unknown. A message matches if
// the result is true.
type SQL struct {
	text       string
	parameters map[string]any
	root       node
}

// NewSQL parses an expression. The parameters are the values of the names in the expression that
// begin with @. The error says what is wrong and in which column. It is also an error if the
// expression does not mention a parameter.
func NewSQL(expression string, parameters map[string]any) (SQL, error) {
	p := newParser(expression, parameters)
	root := p.mustCondition(p.or())
	if p.err == nil && p.token.kind != end {
		p.fail("expected AND, OR or the end")
	}
	if err := p.done(); err != nil {
		return SQL{}, fmt.Errorf("the SQL filter %q is not valid: %w", shortened(expression), err)
	}
	return SQL{expression, maps.Clone(parameters), root}, nil
}

// String returns the expression that NewSQL got.
func (s SQL) String() string { return s.text }

// Parameters returns the parameters that NewSQL got. The map is a copy.
func (s SQL) Parameters() map[string]any { return maps.Clone(s.parameters) }

// Match implements Filter.
func (s SQL) Match(m *Message) (bool, error) {
	m.steps = maxSteps
	t, err := s.root.condition(m)
	if err != nil {
		return false, fmt.Errorf("the SQL filter %q failed: %w", shortened(s.text), err)
	}
	return t == yes, nil
}

// shortened returns at most 200 characters of an expression, for errors.
func shortened(expression string) string {
	if characters := []rune(expression); len(characters) > 200 {
		return string(characters[:200]) + "…"
	}
	return expression
}

// truth is a truth value of SQL. AND is the smaller of two, and OR the larger.
type truth int8

const (
	no truth = iota
	unknown
	yes
)

func (t truth) not() truth { return yes - t }

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}
