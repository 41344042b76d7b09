package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/deadletter"
)

// The output formats.
const (
	asTable  = "table"
	asJSON   = "json"
	asNDJSON = "ndjson"
	// These are formats of single commands (output.others).
	asCSV  = "csv"
	asHTML = "html"
)

// written remembers the first error of a writer. The output of a command is not checked line by
// line, but a command whose output is lost, because the disk is full, must not exit with 0. It is
// safe for concurrent use if w is.
type written struct {
	w     io.Writer
	first atomic.Pointer[error]
}

func (w *written) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		w.first.CompareAndSwap(nil, &err)
	}
	return n, err
}

// err returns the error for the exit code, or nil.
func (w *written) err() error {
	if first := w.first.Load(); first != nil {
		return fail(exitFailed, "the output is incomplete: %v", *first)
	}
	return nil
}

// output is where a command's result goes, and in which format.
type output struct {
	w      io.Writer
	format string
	// columns is the width of the screen; 0 if nobody knows it. Tables that are wider are written as
	// blocks of lines.
	columns int
	others  []string // the formats beside table, json, and ndjson
}

func (o *output) flag(fs *pflag.FlagSet) {
	o.format = asTable
	fs.VarP(o, "output", "o", "format: "+o.formats())
}

// Set implements pflag.Value. An unknown format is an error of the command line.
func (o *output) Set(format string) error {
	if !slices.Contains(o.all(), format) {
		return fmt.Errorf("%q is not %s", format, o.formats())
	}
	o.format = format
	return nil
}

// all returns the formats.
func (o *output) all() []string { return append([]string{asTable, asJSON, asNDJSON}, o.others...) }

// formats lists the formats for people.
func (o *output) formats() string {
	all := o.all()
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

// String implements pflag.Value.
func (o *output) String() string { return o.format }

// Type implements pflag.Value: help shows it as the type of the flag.
func (o *output) Type() string { return "string" }

// value writes one result: v as JSON, or what people prints for people.
func (o *output) value(v any, people func(io.Writer)) error {
	switch o.format {
	case asTable:
		people(o.w)
		return nil
	case asJSON:
		encoder := json.NewEncoder(o.w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(v)
	}
	return json.NewEncoder(o.w).Encode(v)
}

// rows writes many results, one after the other. It holds one page in memory.
type rows struct {
	*output
	header table.Row
	page   []table.Row
	n      int
	tint   func(table.Row) color // of a row whose cells have one line each; nil for none
}

// pageRows is the number of rows of a table that are written at once.
const pageRows = 500

// add writes one result: v as JSON, or row in a table.
func (r *rows) add(v any, row table.Row) error {
	r.n++
	switch r.format {
	case asTable:
		if r.page = append(r.page, row); len(r.page) == pageRows {
			r.flush()
		}
		return nil
	case asJSON:
		before := ",\n  "
		if r.n == 1 {
			before = "[\n  "
		}
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(r.w, "%s%s", before, text)
		return err
	}
	return json.NewEncoder(r.w).Encode(v)
}

// end writes what is left. In a table, it writes none if there were no results.
func (r *rows) end(none string) {
	switch {
	case r.format == asTable && r.n == 0:
		fmt.Fprintln(r.w, none)
	case r.format == asTable:
		r.flush()
	case r.format == asJSON && r.n == 0:
		fmt.Fprintln(r.w, "[]")
	case r.format == asJSON:
		fmt.Fprintln(r.w, "\n]")
	}
}

func (r *rows) flush() {
	if len(r.page) == 0 {
		return
	}
	if r.columns > 0 && tableWidth(r.header, r.page) > r.columns {
		for _, row := range r.page {
			r.print(block(r.header, row, r.columns), row)
		}
	} else {
		t := newTable()
		t.AppendHeader(r.header)
		t.AppendRows(r.page)
		if r.tint == nil {
			fmt.Fprintln(r.w, t.Render())
		} else {
			// The header and the line below it come first. Cells have one line.
			lines := strings.Split(t.Render(), "\n")
			above := len(lines) - len(r.page)
			fmt.Fprintln(r.w, strings.Join(lines[:above], "\n"))
			for i, row := range r.page {
				r.print(lines[above+i], row)
			}
		}
	}
	r.page = nil
}

// print writes a row in its color.
func (r *rows) print(text string, row table.Row) {
	var c color
	if r.tint != nil {
		c = r.tint(row)
	}
	paint(r.w, c, text)
	fmt.Fprintln(r.w)
}

// tableWidth returns the width of a table in columns.
func tableWidth(header table.Row, rows []table.Row) int {
	widths := make([]int, len(header))
	for _, row := range append([]table.Row{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], text.LongestLineLen(fmt.Sprint(cell)))
		}
	}
	total := len(gap) * len(header) // the line below the header has a gap at its end, too
	for _, width := range widths {
		total += width
	}
	return total
}

// gap is what is between two columns.
const gap = "  "

// timeLayout is how times are printed.
const timeLayout = "2006-01-02 15:04:05Z"

// block returns a row as lines that are not longer than width, beginning with its first cell. Numbers
// after the first cell have their header, and so has each time but the first.
func block(header, row table.Row, width int) string {
	var lines []string
	line, times := "", 0
	for i, cell := range row {
		words := strings.ReplaceAll(fmt.Sprint(cell), "\n", ", ")
		_, notTime := time.Parse(timeLayout, words)
		if notTime == nil {
			times++
		}
		if _, isText := cell.(string); i > 0 && (!isText || notTime == nil && times > 1) {
			words = strings.ToLower(fmt.Sprint(header[i])) + " " + words
		}
		if words == "" || words == "–" && i > 0 {
			continue
		}
		if line != "" && text.StringWidth(line)+len(gap)+text.StringWidth(words) > width {
			lines, line = append(lines, line), ""
		}
		switch {
		case line != "":
			line += gap + words
		case len(lines) == 0:
			line = words
		default:
			wrapped := strings.Split(wrapText(words, width-len(gap)), "\n")
			for _, part := range wrapped[:len(wrapped)-1] {
				lines = append(lines, gap+part)
			}
			line = gap + wrapped[len(wrapped)-1]
		}
	}
	return strings.Join(append(lines, line), "\n")
}

// columnsOf returns the width of the terminal that a writer is, or what the variable COLUMNS says. It
// is 0 for anything else, such as a pipe.
func columnsOf(w io.Writer, environ []string) int {
	const narrowest = 40
	for _, variable := range environ {
		if value, ok := strings.CutPrefix(variable, "COLUMNS="); ok {
			if n, err := strconv.Atoi(value); err == nil && n >= narrowest {
				return n
			}
		}
	}
	if file, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(file.Fd())); err == nil && n > 0 {
			return max(n, narrowest)
		}
	}
	return 0
}

// rightAlign is how columns of numbers are aligned.
const rightAlign = text.AlignRight

func newTable() table.Writer {
	t := table.NewWriter()
	style := table.StyleLight
	style.Options = table.Options{SeparateHeader: true}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", gap
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	return t
}

// plain prepares text from outside for a field of a line. It replaces characters that would end the
// line, are invisible, or would disturb the width of the column. All output also goes through safe.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if deadletter.Hidden(c) {
			return '·'
		}
		return c
	}, s)
}

// short cuts text to at most n characters.
func short(s string, n int) string {
	runes := []rune(s)
	if len(runes) <= n {
		return s
	}
	return string(runes[:n-1]) + "…"
}

// when formats a time for people.
func when(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format(timeLayout)
}

// count returns a number with its noun: "1 chain", "2 chains". many is the plural, if it is not the
// noun with an s.
func count(n int, one string, many ...string) string {
	switch {
	case n == 1:
		return "1 " + one
	case len(many) > 0:
		return fmt.Sprintf("%d %s", n, many[0])
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// listed returns the first item and the number of others.
func listed(items []string) string {
	switch len(items) {
	case 0:
		return "–"
	case 1:
		return plain(items[0])
	}
	return fmt.Sprintf("%s +%d", plain(items[0]), len(items)-1)
}

// notice prints a sentence for people to standard error.
func (p *program) notice(format string, args ...any) {
	fmt.Fprintln(p.stderr, wrapText(plain(fmt.Sprintf(format, args...)), help.Width))
}
