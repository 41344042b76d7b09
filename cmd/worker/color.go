package main

import (
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// color is how a terminal begins a color (ECMA-48, SGR). "" is none.
type color string

const (
	red    color = "\x1b[31m"
	green  color = "\x1b[32m"
	yellow color = "\x1b[33m"
	// noColor ends a color.
	noColor = "\x1b[0m"
)

// colored is a safe writer to a terminal that shows colors. Only paint writes colors.
type colored struct{ safe }

// newStdout returns what the commands print to. terminal is the file that to writes to, if it is one.
// https://no-color.org and TERM=dumb switch colors off.
func newStdout(to, terminal io.Writer, environ []string) io.Writer {
	file, ok := terminal.(*os.File)
	plain := slices.ContainsFunc(environ, func(variable string) bool {
		value, isNoColor := strings.CutPrefix(variable, "NO_COLOR=")
		return isNoColor && value != "" || variable == "TERM=dumb"
	})
	if ok && !plain && term.IsTerminal(int(file.Fd())) {
		return colored{safe{to}}
	}
	return safe{to}
}

// paint writes text in a color, if w shows colors.
func paint(w io.Writer, c color, text string) {
	to, ok := w.(colored)
	if !ok || c == "" {
		_, _ = io.WriteString(w, text) // written remembers an error
		return
	}
	_, _ = io.WriteString(to.w, string(c))
	_, _ = io.WriteString(to, text)
	_, _ = io.WriteString(to.w, noColor)
}
