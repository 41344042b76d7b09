package rule

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// MaxSQL is the maximum length of an expression in bytes, as in Service Bus.
const MaxSQL = 1024

// SQL is a filter in the SQL language of Service Bus
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-sql-filter). It
// supports the comparisons =, <>, !=, <, <=, > and >=, and AND, OR, NOT, IN, IS NULL and EXISTS.
// Operands are strings, numbers, TRUE, FALSE, user properties and sys. properties. The result of a
// comparison with a property that is missing or of another type is unknown. A message matches if
// the result of the expression is true.
type SQL struct {
	text string
	root expression
}

// NewSQL parses an expression. The error says what is wrong and where, or what is not supported:
// LIKE, arithmetic, parameters, and functions other than EXISTS.
func NewSQL(text string) (SQL, error) {
	if len(text) > MaxSQL {
		return SQL{}, fmt.Errorf("a SQL filter of %d characters; at most %d are allowed", len(text), MaxSQL)
	}
	p := parser{lexer: lexer{text: text}}
	p.next()
	root := p.or()
	if p.err == nil && p.token.kind != end {
		p.fail("expected AND, OR or the end")
	}
	if p.err != nil {
		return SQL{}, fmt.Errorf("SQL filter %q: %w", text, p.err)
	}
	return SQL{text, root}, nil
}

// String returns the expression that NewSQL got.
func (s SQL) String() string { return s.text }

// Match implements Filter.
func (s SQL) Match(m Message) bool { return s.root(m) == yes }

// truth is a truth value of SQL: a comparison with NULL is neither true nor false.
type truth int8

const (
	unknown truth = iota
	no
	yes
)

func (t truth) not() truth {
	switch t {
	case yes:
		return no
	case no:
		return yes
	}
	return unknown
}

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// expression evaluates a condition, and operand a value, for a message. A nil value is NULL.
type (
	expression func(Message) truth
	operand    func(Message) any
)

// parser is a recursive-descent parser. After the first error it reads nothing more.
type parser struct {
	lexer
	token token
	depth int
	err   error
}

// maxDepth bounds the nesting of parentheses and NOTs, and thus the stack.
const maxDepth = 64

func (p *parser) next() {
	if p.err != nil {
		p.token = token{kind: end}
		return
	}
	var err error
	if p.token, err = p.scan(); err != nil {
		p.err = err
		p.token = token{kind: end}
	}
}

func (p *parser) fail(problem string) {
	if p.err == nil {
		p.err = fmt.Errorf("%s at character %d", problem, p.token.at+1)
		p.token = token{kind: end}
	}
}

// word reports whether the keyword comes next, and reads it if it does.
func (p *parser) word(keyword string) bool {
	if p.token.kind == name && strings.EqualFold(p.token.text, keyword) {
		p.next()
		return true
	}
	return false
}

// symbol reports whether the symbol comes next, and reads it if it does.
func (p *parser) symbol(s string) bool {
	if p.token.kind == symbol && p.token.text == s {
		p.next()
		return true
	}
	return false
}

func (p *parser) expect(s string) {
	if !p.symbol(s) {
		p.fail("expected " + s)
	}
}

func (p *parser) or() expression {
	left := p.and()
	for p.word("or") {
		a, b := left, p.and()
		left = func(m Message) truth { return max3(a(m), b(m)) }
	}
	return left
}

func (p *parser) and() expression {
	left := p.not()
	for p.word("and") {
		a, b := left, p.not()
		left = func(m Message) truth { return max3(a(m).not(), b(m).not()).not() }
	}
	return left
}

// max3 is OR: yes if either is yes, else unknown if either is unknown.
func max3(a, b truth) truth {
	switch {
	case a == yes || b == yes:
		return yes
	case a == unknown || b == unknown:
		return unknown
	}
	return no
}

func (p *parser) not() expression {
	if p.depth++; p.depth > maxDepth {
		p.fail("nested too deeply")
	}
	defer func() { p.depth-- }()
	if p.word("not") {
		inner := p.not()
		return func(m Message) truth { return inner(m).not() }
	}
	return p.predicate()
}

func (p *parser) predicate() expression {
	if p.symbol("(") {
		inner := p.or()
		p.expect(")")
		return inner
	}
	if p.word("exists") {
		p.expect("(")
		value := p.property()
		p.expect(")")
		return func(m Message) truth { return truthOf(value(m) != nil) }
	}
	left := p.operand()
	switch {
	case p.word("is"):
		negated := p.word("not")
		if !p.word("null") {
			p.fail("expected NULL")
		}
		return func(m Message) truth { return truthOf((left(m) == nil) != negated) }
	case p.word("not"):
		if !p.word("in") {
			p.unsupported()
		}
		in := p.in(left)
		return func(m Message) truth { return in(m).not() }
	case p.word("in"):
		return p.in(left)
	}
	return p.comparison(left)
}

func (p *parser) unsupported() {
	if p.token.kind == name && strings.EqualFold(p.token.text, "like") {
		p.fail("LIKE is not supported by this emulator")
		return
	}
	p.fail("expected a comparison, IN or IS NULL")
}

func (p *parser) in(left operand) expression {
	p.expect("(")
	var values []operand
	for {
		values = append(values, p.operand())
		if !p.symbol(",") {
			break
		}
	}
	p.expect(")")
	return func(m Message) truth {
		result := no
		for _, v := range values {
			result = max3(result, equal(left(m), v(m)))
		}
		return result
	}
}

// comparisons are the comparison operators. Each reports whether it holds for an order as of
// cmp.Compare.
var comparisons = map[string]func(order int) bool{
	"=":  func(o int) bool { return o == 0 },
	"<>": func(o int) bool { return o != 0 },
	"!=": func(o int) bool { return o != 0 },
	"<":  func(o int) bool { return o < 0 },
	"<=": func(o int) bool { return o <= 0 },
	">":  func(o int) bool { return o > 0 },
	">=": func(o int) bool { return o >= 0 },
}

func (p *parser) comparison(left operand) expression {
	holds, ok := comparisons[p.token.text]
	if p.token.kind != symbol || !ok {
		p.unsupported()
		return nil
	}
	p.next()
	right := p.operand()
	return func(m Message) truth {
		order, ok := compare(left(m), right(m))
		if !ok {
			return unknown
		}
		return truthOf(holds(order))
	}
}

func (p *parser) operand() operand {
	t := p.token
	switch t.kind {
	case text, number:
		p.next()
		return func(Message) any { return t.value }
	case name:
		switch strings.ToLower(t.text) {
		case "true", "false":
			p.next()
			value := strings.EqualFold(t.text, "true")
			return func(Message) any { return value }
		case "null":
			p.next()
			return func(Message) any { return nil }
		}
	}
	return p.property()
}

// property reads name, sys.name or user.name. The names of user properties ignore case.
func (p *parser) property() operand {
	t := p.token
	if t.kind != name && t.kind != quoted {
		p.fail("expected a property or a value")
		return nil
	}
	if t.kind == name && reserved[strings.ToLower(t.text)] {
		p.fail(fmt.Sprintf("expected a property or a value, not %s,", strings.ToUpper(t.text)))
		return nil
	}
	p.next()
	scope := "user"
	if p.symbol(".") {
		scope, t = strings.ToLower(t.text), p.token
		if t.kind != name && t.kind != quoted {
			p.fail("expected a property's name")
			return nil
		}
		p.next()
	}
	if p.token.kind == symbol && p.token.text == "(" {
		p.fail("functions other than EXISTS are not supported by this emulator")
		return nil
	}
	key := strings.ToLower(t.text)
	switch {
	case scope == "user":
		return func(m Message) any { return lookup(m.User, t.text) }
	case scope != "sys":
		p.fail("the scope of a property must be sys or user")
	case !isSystem(key):
		p.fail(fmt.Sprintf("the system property sys.%s is not supported by this emulator", t.text))
	}
	return func(m Message) any { return m.System[key] }
}

// reserved are the keywords that cannot name a property without brackets.
var reserved = map[string]bool{"and": true, "or": true, "not": true, "in": true, "is": true, "like": true, "exists": true, "escape": true}

func lookup(properties map[string]any, name string) any {
	if v, ok := properties[name]; ok {
		return v
	}
	for key, v := range properties {
		if strings.EqualFold(key, name) {
			return v
		}
	}
	return nil
}

func equal(a, b any) truth {
	order, ok := compare(a, b)
	if !ok {
		return unknown
	}
	return truthOf(order == 0)
}

// compare orders two strings, two numbers, two times or two booleans. ok is false for anything
// else. For booleans that differ, order is only not 0.
func compare(a, b any) (order int, ok bool) {
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return cmp.Compare(a, b), ok
	case bool:
		b, ok := b.(bool)
		if a == b {
			return 0, ok
		}
		return 1, ok
	case time.Time:
		b, ok := b.(time.Time)
		return a.Compare(b), ok
	}
	if x, ok := integer(a); ok {
		if y, ok := integer(b); ok {
			return cmp.Compare(x, y), true
		}
	}
	x, okX := float(a)
	y, okY := float(b)
	return cmp.Compare(x, y), okX && okY && x == x && y == y
}

func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case int8:
		return int64(v), true
	case int16:
		return int64(v), true
	case int32:
		return int64(v), true
	case int64:
		return v, true
	case int:
		return int64(v), true
	case uint8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint64:
		return int64(v), v < 1<<63
	}
	return 0, false
}

func float(v any) (float64, bool) {
	switch v := v.(type) {
	case float32:
		return float64(v), true
	case float64:
		return v, true
	}
	i, ok := integer(v)
	return float64(i), ok
}

var errUnterminated = errors.New("the string or name is not terminated")
