// Package help wraps the help texts of the programs.
package help

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/spf13/pflag"
)

// Width is the width of help texts in columns.
const Width = 80

// least is the least width of the texts beside long names of flags.
const least = 28

// WrapFlags wraps the help texts of the visible flags, so that they fit in Width. Package pflag
// indents the second and later lines. Only a word can be wider, if the names of flags are long. It
// must be called once, after the flags are parsed.
func WrapFlags(fs *pflag.FlagSet) {
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
			width := max(Width-column, least)
			end := defaultText(f)
			if len(end) > width {
				f.Usage += " " + strings.ReplaceAll(end, ",", ", ")
				f.DefValue, end = "", ""
			}
			f.Usage = Wrap(f.Usage, width, end)
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

// Wrap breaks a text into lines of at most width characters. end follows the text, in the last line
// or in a line of its own.
func Wrap(text string, width int, end string) string {
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
