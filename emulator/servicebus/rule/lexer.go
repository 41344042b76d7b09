package rule

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// kind is the kind of a token.
type kind int

const (
	end    kind = iota
	name        // a keyword or a plain name
	quoted      // a name in brackets or double quotes
	text        // a string
	number
	symbol
)

type token struct {
	kind  kind
	text  string
	value any // of a text or number: string, int64 or float64
	at    int // offset in bytes
}

type lexer struct {
	text string
	pos  int
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
	first, _ := utf8.DecodeRuneInString(rest)
	switch {
	case first == '\'':
		return l.delimited(text, '\'')
	case first == '"':
		return l.delimited(quoted, '"')
	case first == '[':
		return l.delimited(quoted, ']')
	case first >= '0' && first <= '9', first == '-' && len(rest) > 1 && rest[1] >= '0' && rest[1] <= '9':
		return l.number()
	case first == '_' || unicode.IsLetter(first):
		length := strings.IndexFunc(rest, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if length < 0 {
			length = len(rest)
		}
		l.pos += length
		return token{kind: name, text: rest[:length], at: start}, nil
	}
	for _, s := range []string{"<>", "!=", "<=", ">=", "=", "<", ">", "(", ")", ",", "."} {
		if strings.HasPrefix(rest, s) {
			l.pos += len(s)
			return token{kind: symbol, text: s, at: start}, nil
		}
	}
	return token{}, fmt.Errorf("%q is not supported by this emulator, at character %d", first, start+1)
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
		return token{kind: k, text: content.String(), value: content.String(), at: start}, nil
	}
	return token{}, fmt.Errorf("%w: it begins at character %d", errUnterminated, start+1)
}

func (l *lexer) number() (token, error) {
	start := l.pos
	length := 1 + strings.IndexFunc(l.text[start+1:]+" ", func(r rune) bool {
		return r != '.' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
	written := l.text[start : start+length]
	l.pos += length
	if i, err := strconv.ParseInt(written, 10, 64); err == nil {
		return token{kind: number, text: written, value: i, at: start}, nil
	}
	f, err := strconv.ParseFloat(written, 64)
	if err != nil || strings.ContainsAny(written, "xXpP_iInN") {
		return token{}, fmt.Errorf("%q is not a number, at character %d", written, start+1)
	}
	return token{kind: number, text: written, value: f, at: start}, nil
}
