package main

import (
	"fmt"
	"io"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/deadletter"
)

// safe is a writer to a terminal, or to whatever reads a command's output. Everything that the
// commands print goes through it, so that no text from outside can control a terminal.
//
// It writes hidden characters as \uXXXX, which means the same text inside JSON. It writes bytes
// that are not UTF-8 as U+FFFD, because a terminal may also take a single byte 0x9B for a command.
// Line feeds and tabs pass; plain has replaced them inside a field.
type safe struct{ w io.Writer }

// Write implements io.Writer. A character must not be split over two calls.
func (s safe) Write(text []byte) (int, error) {
	clean := 0 // bytes at the beginning that can stay; nearly always all of them
	for clean < len(text) {
		c, size := utf8.DecodeRune(text[clean:])
		if mustEscape(c, size) {
			break
		}
		clean += size
	}
	if clean == len(text) {
		return s.w.Write(text)
	}
	escaped := append(make([]byte, 0, len(text)+64), text[:clean]...)
	for rest := text[clean:]; len(rest) > 0; {
		c, size := utf8.DecodeRune(rest)
		switch {
		case !mustEscape(c, size):
			escaped = append(escaped, rest[:size]...)
		case c > 0xffff: // JSON needs a pair of surrogates
			high, low := utf16.EncodeRune(c)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default: // U+FFFD for a byte that is not UTF-8
			escaped = fmt.Appendf(escaped, `\u%04x`, c)
		}
		rest = rest[size:]
	}
	if _, err := s.w.Write(escaped); err != nil {
		return 0, err
	}
	return len(text), nil
}

// mustEscape reports whether safe escapes a character of this size in bytes.
func mustEscape(c rune, size int) bool {
	if c == utf8.RuneError && size == 1 {
		return true
	}
	return c >= 0x7f && deadletter.Hidden(c) || c < ' ' && c != '\n' && c != '\t'
}
