package rule

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is the kind of a token.
type kind int

const (
	end       kind = iota
	name           // a keyword, a plain name or a function
	quoted         // a name in brackets or double quotes
	text           // a string
	integer        // a number without a point and an exponent
	decimal        // another number
	parameter      // a name that begins with @
	symbol
)

type token struct {
	kind kind
	text string // without its delimiters
	at   int    // offset in bytes
}

type lexer struct {
	text string
	pos  int
}

// column returns the column of an offset, counted in characters from 1.
func (l *lexer) column(offset int) int { return utf8.RuneCountInString(l.text[:offset]) + 1 }

func (l *lexer) errorAt(offset int, format string, args ...any) error {
	return fmt.Errorf("column %d: %s", l.column(offset), fmt.Sprintf(format, args...))
}

// scan returns the next token.
func (l *lexer) scan() (token, error) {
	for l.pos < len(l.text) && strings.IndexByte(" \t\r\n", l.text[l.pos]) >= 0 {
		l.pos++
	}
	start := l.pos
	if start == len(l.text) {
		return token{kind: end, at: start}, nil
	}
	rest := l.text[start:]
	first, size := utf8.DecodeRuneInString(rest)
	switch {
	case first == '\'':
		return l.delimited(text, '\'')
	case first == '"':
		return l.delimited(quoted, '"')
	case first == '[':
		return l.delimited(quoted, ']')
	case first >= '0' && first <= '9':
		return l.number()
	case unicode.IsLetter(first):
		l.pos += nameLength(rest)
		return token{kind: name, text: rest[:nameLength(rest)], at: start}, nil
	case first == '@':
		if l.pos += size + nameLength(rest[size:]); l.pos == start+size {
			return token{}, l.errorAt(start, "expected the name of a parameter after @")
		}
		return token{kind: parameter, text: l.text[start:l.pos], at: start}, nil
	}
	for _, s := range []string{"<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ",", ".", "+", "-", "*", "/", "%", ";"} {
		if strings.HasPrefix(rest, s) {
			l.pos += len(s)
			return token{kind: symbol, text: s, at: start}, nil
		}
	}
	if first == '_' {
		return token{}, l.errorAt(start, "a name must begin with a letter; put other names in brackets")
	}
	return token{}, l.errorAt(start, "unexpected %q", first)
}

// nameLength returns the length of the letters, digits and underscores at the beginning of s.
func nameLength(s string) int {
	length := strings.IndexFunc(s, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if length < 0 {
		return len(s)
	}
	return length
}

// delimited reads up to the closing mark. Two marks in a row are one mark of the content.
func (l *lexer) delimited(k kind, mark byte) (token, error) {
	start := l.pos
	var content strings.Builder
	for i := start + 1; i < len(l.text); i++ {
		if l.text[i] != mark {
			content.WriteByte(l.text[i])
			continue
		}
		if i+1 < len(l.text) && l.text[i+1] == mark {
			content.WriteByte(mark)
			i++
			continue
		}
		l.pos = i + 1
		return token{kind: k, text: content.String(), at: start}, nil
	}
	return token{}, l.errorAt(start, "the string or name that begins here has no end")
}

// number reads digits, which may be followed by a point and digits, and by an exponent.
func (l *lexer) number() (token, error) {
	start := l.pos
	digits := func() bool {
		before := l.pos
		for l.pos < len(l.text) && l.text[l.pos] >= '0' && l.text[l.pos] <= '9' {
			l.pos++
		}
		return l.pos > before
	}
	next := func(set string) bool {
		if l.pos < len(l.text) && strings.IndexByte(set, l.text[l.pos]) >= 0 {
			l.pos++
			return true
		}
		return false
	}
	k, ok := integer, digits()
	if next(".") {
		k, ok = decimal, digits()
	}
	if ok && next("eE") {
		next("+-")
		k, ok = decimal, digits()
	}
	if !ok || nameLength(l.text[l.pos:]) > 0 || next(".") {
		return token{}, l.errorAt(start, "a number is malformed")
	}
	return token{kind: k, text: l.text[start:l.pos], at: start}, nil
}
