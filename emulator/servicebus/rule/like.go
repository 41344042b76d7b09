package rule

import (
	"fmt"
	"unicode/utf8"
)

// like parses what follows LIKE.
func (p *parser) like(left node) node {
	pattern := p.mustValue(p.sum())
	escape := constant(p.token.at, "")
	if p.word("escape") {
		escape = p.mustValue(p.sum())
		if p.err == nil && escape.constant {
			v, _ := escape.value(nil)
			if t, ok := v.(string); v != nil && (!ok || utf8.RuneCountInString(t) != 1) {
				p.failAt(escape.at, "ESCAPE expects a string of one character")
			}
		}
	}
	column := p.column(left.at)
	if p.err == nil && pattern.constant && escape.constant {
		if parts, err := compileLike(nil, pattern, escape); err == nil {
			return likeNode(left, column, func(*Message) (likePattern, error) { return parts, nil })
		}
	}
	return likeNode(left, column, func(m *Message) (likePattern, error) { return compileLike(m, pattern, escape) })
}

func likeNode(left node, column int, compile func(*Message) (likePattern, error)) node {
	return node{at: left.at, condition: func(m *Message) (truth, error) {
		v, err := left.value(m)
		if err != nil || v == nil {
			return unknown, err
		}
		subject, err := format(v)
		if err == nil && len(subject) > maxText {
			err = fmt.Errorf("LIKE cannot examine a string of %d bytes; at most %d are allowed", len(subject), maxText)
		}
		if err != nil {
			return unknown, atColumn(err, column)
		}
		pattern, err := compile(m)
		if err != nil || pattern == nil {
			return unknown, atColumn(err, column)
		}
		matches, err := pattern.match(subject, &m.steps)
		return truthOf(matches), atColumn(err, column)
	}}
}

// likePattern is a pattern of LIKE. Nil is an unknown one.
type likePattern []likePart

type likePart struct {
	any     bool // % : any characters
	one     bool // _ : one character
	literal rune
}

// compileLike evaluates and reads a pattern.
func compileLike(m *Message, pattern, escape node) (likePattern, error) {
	a, b, err := both(m, pattern, escape)
	if err != nil || a == nil || b == nil {
		return nil, err
	}
	written, okA := a.(string)
	mark, okB := b.(string)
	switch {
	case !okA:
		return nil, fmt.Errorf("the pattern of LIKE must be a string, not a value of type %s", typeName(a))
	case !okB || utf8.RuneCountInString(mark) > 1:
		return nil, fmt.Errorf("ESCAPE expects a string of one character")
	case len(written) > maxText:
		return nil, fmt.Errorf("a pattern of %d bytes; at most %d are allowed", len(written), maxText)
	}
	escaped := false
	parts := likePattern{}
	for _, r := range written {
		switch {
		case escaped:
			parts, escaped = append(parts, likePart{literal: r}), false
		case mark != "" && string(r) == mark:
			escaped = true
		case r == '%':
			parts = append(parts, likePart{any: true})
		case r == '_':
			parts = append(parts, likePart{one: true})
		default:
			parts = append(parts, likePart{literal: r})
		}
	}
	return parts, nil
}

// match compares character by character. After a mismatch it continues from the last %, so that it
// takes at most as many steps as the product of the two lengths. The error says that no steps are
// left.
func (p likePattern) match(subject string, steps *int) (bool, error) {
	at, next := 0, 0
	star, resume := -1, 0
	for at < len(subject) {
		if *steps--; *steps < 0 {
			return false, fmt.Errorf("LIKE takes more than %d steps", maxSteps)
		}
		r, size := utf8.DecodeRuneInString(subject[at:])
		switch {
		case next < len(p) && p[next].any:
			star, resume = next, at
			next++
		case next < len(p) && (p[next].one || p[next].literal == r):
			at, next = at+size, next+1
		case star >= 0:
			_, size := utf8.DecodeRuneInString(subject[resume:])
			resume += size
			at, next = resume, star+1
		default:
			return false, nil
		}
	}
	for next < len(p) && p[next].any {
		next++
	}
	return next == len(p), nil
}
