package rule

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxSQL is the maximum length of an expression in characters
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const MaxSQL = 1024

// maxDepth bounds the nesting of parentheses, NOTs, signs and functions, and thus the stack.
const maxDepth = 64

// node is a parsed part of an expression. It is either a condition or a value. After an error it is
// neither.
type node struct {
	condition func(*Message) (truth, error)
	value     func(*Message) (any, error) // nil is NULL: unknown
	property  bool                        // the value is a property, which IS NULL requires
	constant  bool                        // the value is the same for every message
	at        int                         // where the node begins
}

// parser is a recursive-descent parser. After the first error it reads nothing more.
type parser struct {
	lexer
	token      token
	depth      int
	parameters map[string]any  // by their names in lower case
	used       map[string]bool // the parameters that occur
	err        error
}

// newParser returns a parser that has read the first token.
func newParser(expression string, parameters map[string]any) *parser {
	p := &parser{lexer: lexer{text: expression}, parameters: map[string]any{}, used: map[string]bool{}}
	if length := utf8.RuneCountInString(expression); length > MaxSQL {
		p.err = fmt.Errorf("it has %d characters; at most %d are allowed", length, MaxSQL)
	}
	for name, value := range parameters {
		if !strings.HasPrefix(name, "@") {
			p.err = fmt.Errorf("the name of the parameter %q does not begin with @", name)
		}
		if !usable(value) {
			p.err = fmt.Errorf("the parameter %s has a value of type %s, which expressions cannot use", name, typeName(value))
		}
		p.parameters[strings.ToLower(name)] = value
	}
	p.next()
	return p
}

// done returns the first error, or an error for a parameter that does not occur.
func (p *parser) done() error {
	for name := range p.parameters {
		if p.err == nil && !p.used[name] {
			p.err = fmt.Errorf("the parameter %s does not occur in the expression", name)
		}
	}
	return p.err
}

func (p *parser) next() {
	if p.err == nil {
		p.token, p.err = p.scan()
	}
	if p.err != nil {
		p.token = token{kind: end}
	}
}

// fail notes an error at the next token.
func (p *parser) fail(format string, args ...any) { p.failAt(p.token.at, format, args...) }

func (p *parser) failAt(offset int, format string, args ...any) {
	if p.err == nil {
		p.err = p.errorAt(offset, format, args...)
	}
	p.token = token{kind: end}
}

// deeper counts one level of nesting. The caller must call the result when it leaves the level.
func (p *parser) deeper() (leave func()) {
	if p.depth++; p.depth > maxDepth {
		p.fail("nested more than %d deep", maxDepth)
	}
	return func() { p.depth-- }
}

// isWord reports whether the keyword comes next.
func (p *parser) isWord(keyword string) bool {
	return p.token.kind == name && strings.EqualFold(p.token.text, keyword)
}

// word is isWord, and reads the keyword if it comes next.
func (p *parser) word(keyword string) bool {
	if p.isWord(keyword) {
		p.next()
		return true
	}
	return false
}

// symbol reports whether one of the symbols comes next, and reads it if it does.
func (p *parser) symbol(symbols ...string) (found string, ok bool) {
	for _, s := range symbols {
		if p.token.kind == symbol && p.token.text == s {
			p.next()
			return s, true
		}
	}
	return "", false
}

func (p *parser) expect(s string) {
	if _, ok := p.symbol(s); !ok {
		p.fail("expected %s", s)
	}
}

// mustCondition notes an error unless n is a condition.
func (p *parser) mustCondition(n node) node {
	if p.err == nil && n.condition == nil {
		switch {
		case p.isWord("between"):
			p.fail("BETWEEN is not part of Service Bus' SQL; use >= and <=")
		default:
			p.fail("expected a comparison, LIKE, IN or IS NULL")
		}
	}
	return n
}

// mustValue notes an error unless n is a value.
func (p *parser) mustValue(n node) node {
	if p.err == nil && n.value == nil {
		p.failAt(n.at, "expected a value, not a condition")
	}
	return n
}

// or parses conditions, or what is in parentheses.
func (p *parser) or() node {
	left := p.and()
	for p.isWord("or") {
		a := p.mustCondition(left)
		p.next()
		b := p.mustCondition(p.and())
		left = node{at: a.at, condition: func(m *Message) (truth, error) {
			x, err := a.condition(m)
			if err != nil || x == yes {
				return x, err
			}
			y, err := b.condition(m)
			return max(x, y), err
		}}
	}
	return left
}

func (p *parser) and() node {
	left := p.not()
	for p.isWord("and") {
		a := p.mustCondition(left)
		p.next()
		b := p.mustCondition(p.not())
		left = node{at: a.at, condition: func(m *Message) (truth, error) {
			x, err := a.condition(m)
			if err != nil || x == no {
				return x, err
			}
			y, err := b.condition(m)
			return min(x, y), err
		}}
	}
	return left
}

func (p *parser) not() node {
	defer p.deeper()()
	at := p.token.at
	if !p.word("not") {
		return p.predicate()
	}
	return negated(at, p.mustCondition(p.not()))
}

func negated(at int, n node) node {
	return node{at: at, condition: func(m *Message) (truth, error) {
		t, err := n.condition(m)
		return t.not(), err
	}}
}

// predicate parses a comparison, LIKE, IN, IS NULL, EXISTS, or only a value.
func (p *parser) predicate() node {
	if p.isWord("exists") {
		return p.exists()
	}
	left := p.sum()
	at := left.at
	if operator, ok := p.symbol("=", "<>", "!=", "<=", ">=", "<", ">"); ok {
		return p.comparison(operator, p.mustValue(left))
	}
	negate := p.isWord("not")
	var n node
	switch {
	case p.isWord("is"):
		return p.isNull(left)
	case negate:
		p.next()
		fallthrough
	case p.isWord("in"), p.isWord("like"):
		switch p.mustValue(left); {
		case p.word("in"):
			n = p.in(left)
		case p.word("like"):
			n = p.like(left)
		default:
			p.fail("expected IN or LIKE after NOT")
		}
	default:
		return left
	}
	if negate {
		return negated(at, n)
	}
	return n
}

func (p *parser) exists() node {
	at := p.token.at
	p.next()
	p.expect("(")
	name, ok := p.propertyName()
	if !ok {
		p.fail("EXISTS expects the name of a property")
	}
	p.expect(")")
	return node{at: at, condition: func(m *Message) (truth, error) {
		if name.system {
			return truthOf(m.system(name.name) != nil), nil
		}
		_, _, found := m.user(name.name)
		return truthOf(found), nil
	}}
}

func (p *parser) isNull(left node) node {
	p.next()
	negate := p.word("not")
	if !p.word("null") {
		p.fail("expected NULL")
	}
	if p.err == nil && !left.property {
		p.failAt(left.at, "IS NULL expects a property")
	}
	return node{at: left.at, condition: func(m *Message) (truth, error) {
		v, err := left.value(m)
		return truthOf((v == nil) != negate), err
	}}
}

func (p *parser) comparison(operator string, left node) node {
	right := p.mustValue(p.sum())
	column := p.column(left.at)
	return node{at: left.at, condition: func(m *Message) (truth, error) {
		a, b, err := both(m, left, right)
		if err != nil || a == nil || b == nil {
			return unknown, err
		}
		t, err := relate(operator, a, b)
		return t, atColumn(err, column)
	}}
}

// both evaluates two values.
func both(m *Message, left, right node) (a, b any, err error) {
	if a, err = left.value(m); err != nil {
		return nil, nil, err
	}
	b, err = right.value(m)
	return a, b, err
}

// atColumn adds where an error occurred.
func atColumn(err error, column int) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("column %d: %w", column, err)
}

func (p *parser) in(left node) node {
	column := p.column(left.at)
	p.expect("(")
	var values []node
	for p.err == nil {
		values = append(values, p.mustValue(p.sum()))
		if _, more := p.symbol(","); !more {
			break
		}
	}
	p.expect(")")
	return node{at: left.at, condition: func(m *Message) (truth, error) {
		a, err := left.value(m)
		if err != nil || a == nil {
			return unknown, err
		}
		result := no
		for _, v := range values {
			b, err := v.value(m)
			if err != nil {
				return unknown, err
			}
			t := unknown
			if b != nil {
				if t, err = relate("=", a, b); err != nil {
					return unknown, atColumn(err, column)
				}
			}
			if result = max(result, t); result == yes {
				break
			}
		}
		return result, nil
	}}
}
