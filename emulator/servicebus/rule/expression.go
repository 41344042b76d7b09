package rule

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The part of the grammar that parses values.

// sum parses sums and everything that binds more tightly.
func (p *parser) sum() node { return p.operation(p.product, "+", "-") }

func (p *parser) product() node { return p.operation(p.signed, "*", "/", "%") }

// operation parses operands that are joined by the operators, from left to right.
func (p *parser) operation(operand func() node, operators ...string) node {
	left := operand()
	for {
		at := p.token.at
		operator, ok := p.symbol(operators...)
		if !ok {
			return left
		}
		a, b := p.mustValue(left), p.mustValue(operand())
		column := p.column(at)
		left = node{at: a.at, constant: a.constant && b.constant, value: func(m *Message) (any, error) {
			x, y, err := both(m, a, b)
			if err != nil || x == nil || y == nil {
				return nil, err
			}
			v, err := calculate(operator, x, y)
			return v, atColumn(err, column)
		}}
	}
}

// signed parses a value that may have signs.
func (p *parser) signed() node {
	defer p.deeper()()
	at := p.token.at
	sign, ok := p.symbol("-", "+")
	if !ok {
		return p.primary()
	}
	if sign == "-" && p.token.kind == integer {
		return p.integer(at, "-"+p.token.text) // the smallest integer is not the negative of an integer
	}
	column := p.column(at)
	n := p.mustValue(p.signed())
	return node{at: at, constant: n.constant, value: func(m *Message) (any, error) {
		v, err := n.value(m)
		if err != nil || v == nil {
			return nil, err
		}
		v, err = withSign(sign, v)
		return v, atColumn(err, column)
	}}
}

func (p *parser) integer(at int, digits string) node {
	i, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		p.failAt(at, "an integer must be from -9223372036854775808 to 9223372036854775807")
	}
	p.next()
	return constant(at, i)
}

func constant(at int, v any) node {
	return node{at: at, constant: true, value: func(*Message) (any, error) { return v, nil }}
}

// primary parses a constant, a parameter, a function, a property, or what is in parentheses.
func (p *parser) primary() node {
	t := p.token
	switch t.kind {
	case text:
		p.next()
		return constant(t.at, t.text)
	case integer:
		return p.integer(t.at, t.text)
	case decimal:
		f, err := strconv.ParseFloat(t.text, 64)
		if err != nil {
			p.fail("a number is too large")
		}
		p.next()
		return constant(t.at, f)
	case parameter:
		return p.parameter()
	case symbol:
		if _, ok := p.symbol("("); ok {
			defer p.deeper()()
			n := p.or()
			p.expect(")")
			n.at = t.at
			return n
		}
	case name:
		switch strings.ToLower(t.text) {
		case "true", "false":
			p.next()
			return constant(t.at, strings.EqualFold(t.text, "true"))
		case "null":
			p.next()
			return constant(t.at, nil)
		}
	}
	property, ok := p.propertyName()
	if !ok {
		p.fail("expected a property or a value")
		return node{}
	}
	if _, call := p.symbol("("); call {
		return p.function(t)
	}
	return node{at: t.at, property: true, value: property.of}
}

func (p *parser) parameter() node {
	t := p.token
	key := strings.ToLower(t.text)
	value, ok := p.parameters[key]
	if !ok {
		p.fail("the parameter %s has no value", t.text)
	}
	p.used[key] = true
	p.next()
	return constant(t.at, value)
}

// function parses the arguments of a function.
func (p *parser) function(t token) node {
	defer p.deeper()()
	lower := strings.ToLower(t.text)
	switch {
	case t.kind == name && lower == "newid":
		p.expect(")")
		return node{at: t.at, value: func(*Message) (any, error) { return newGUID(), nil }}
	case t.kind == name && (lower == "property" || lower == "p"):
		argument := p.mustValue(p.sum())
		p.expect(")")
		column := p.column(t.at)
		return node{at: t.at, property: true, value: func(m *Message) (any, error) {
			v, err := argument.value(m)
			if err != nil || v == nil {
				return nil, err
			}
			wanted, isText := v.(string)
			if !isText {
				return nil, atColumn(fmt.Errorf("the name of a property must be a string, not a value of type %s", typeName(v)), column)
			}
			_, v, _ = m.user(wanted)
			return v, nil
		}}
	}
	p.failAt(t.at, "there is no function %q; the functions are newid(), property(name) and p(name)", t.text)
	return node{}
}

func newGUID() (g GUID) {
	_, _ = rand.Read(g[:]) // never fails
	g[6], g[8] = g[6]&0x0f|0x40, g[8]&0x3f|0x80
	return g
}

// property is the name of a property.
type property struct {
	system bool
	name   string // a key for Message.System, or as written
}

func (n property) of(m *Message) (any, error) {
	if n.system {
		return m.system(n.name), nil
	}
	_, v, _ := m.user(n.name)
	return v, nil
}

// reserved are the keywords that cannot name a property without brackets.
var reserved = []string{
	"and", "between", "escape", "exists", "false", "in", "is", "like", "not", "null", "or", "remove", "set", "true",
}

// propertyName reads name, user.name or sys.name. ok is false if no name comes next.
func (p *parser) propertyName() (n property, ok bool) {
	t := p.token
	if t.kind != name && t.kind != quoted {
		return n, false
	}
	if t.kind == name && slices.Contains(reserved, strings.ToLower(t.text)) {
		p.fail("expected a property or a value, not %s; put it in brackets if it is the name of a property", strings.ToUpper(t.text))
		return n, true
	}
	p.next()
	if _, qualified := p.symbol("."); !qualified {
		return property{name: t.text}, true
	}
	scope, member := strings.ToLower(t.text), p.token
	if member.kind != name && member.kind != quoted {
		p.fail("expected the name of a property")
		return n, true
	}
	switch scope {
	case "sys":
		n = property{system: true, name: systemKey(member.text)}
		if _, known := systemByName[n.name]; !known {
			p.fail("there is no system property sys.%s, or this emulator does not support it", member.text)
		}
	case "user":
		n = property{name: member.text}
	default:
		p.failAt(t.at, "the scope of a property must be sys or user; put a name with a point in brackets: [%s.%s]", t.text, member.text)
	}
	p.next()
	return n, true
}
