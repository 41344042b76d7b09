package main

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// helpWidth is the width of help texts in columns.
const helpWidth = 80

// wrapFlags wraps the help texts of the visible flags, so that they fit in helpWidth. Package pflag
// indents the second and later lines.
func wrapFlags(fs *pflag.FlagSet) {
	column := 0 // where the texts begin
	fs.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			name, _ := pflag.UnquoteUsage(f)
			if f.NoOptDefVal != "" && f.Value.Type() == "string" {
				name += fmt.Sprintf("[=%q]", f.NoOptDefVal)
			}
			column = max(column, len("      --")+len(f.Name)+len(" ")+len(name)+len("   "))
		}
	})
	fs.VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			f.Usage = wrap(f.Usage, max(helpWidth-column, 30), defaultText(f))
		}
	})
}

// defaultText returns what pflag appends to the help text of a flag, or more.
func defaultText(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "0", "0s", "false", "[]":
		return ""
	}
	return fmt.Sprintf("(default %q)", f.DefValue)
}

// wrap breaks a text into lines of at most width characters. end follows the text, in the last line
// or in a line of its own.
func wrap(text string, width int, end string) string {
	var wrapped strings.Builder
	length := 0
	words := strings.Fields(text)
	for i, word := range append(words, end) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case length+1+n > width:
			wrapped.WriteByte('\n')
			length = 0
		case i < len(words):
			wrapped.WriteByte(' ')
			length++
		}
		if i < len(words) {
			wrapped.WriteString(word)
		}
		length += n
	}
	return wrapped.String()
}
