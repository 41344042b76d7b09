package main

import (
	"fmt"
	"io"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// hidden says that a character may move the cursor, change colors, turn the direction of writing or simply not be seen:
// control characters (C0 and C1, of which U+009B begins terminal commands), format characters (Cf: U+202E and its like), and
// the separators of lines and paragraphs.
func hidden(c rune) bool {
	return unicode.In(c, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// safe is a writer to a terminal, or to whatever reads an operator's command: everything that the commands print goes through
// it, so that no text from outside can play with a terminal, whichever way it came. Hidden characters are written as \uXXXX,
// which inside JSON means the same text; bytes that are no UTF-8 as U+FFFD, since a terminal may take a lone 0x9B for a
// command, too. Line feeds and tabs pass: within one field, plain has replaced them.
type safe struct{ w io.Writer }

// Write takes whole characters: each caller writes whole texts.
func (s safe) Write(text []byte) (int, error) {
	clean := 0 // bytes at the beginning that can stay, nearly always all
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
		case c > 0xffff: // JSON knows such a character as two
			high, low := utf16.EncodeRune(c)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default: // U+FFFD for what is no UTF-8
			escaped = fmt.Appendf(escaped, `\u%04x`, c)
		}
		rest = rest[size:]
	}
	if _, err := s.w.Write(escaped); err != nil {
		return 0, err
	}
	return len(text), nil
}

func mustEscape(c rune, size int) bool {
	if c == utf8.RuneError && size == 1 {
		return true
	}
	return c >= 0x7f && hidden(c) || c < ' ' && c != '\n' && c != '\t'
}
