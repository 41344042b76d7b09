package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
)

func (p *program) historyCommand() *cobra.Command {
	var files logFiles
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "history USER [FILE…]",
		Short: "Show what happened about one person, and if they are signed out",
		Long: `Show from the audit log what happened about one person, in order of time: which
events named them, which calls were made, what Graph answered, which dead
letters there were, and what operators did. The last line says whether the
person is signed out, and since when.

USER is an object id or a user principal name. Records with one of them are
found by the other if a record has both.

` + logFilesHelp + `

Lines that cannot be read or were changed are counted and shown. An exit code of
5 means that no record names the person.`,
		Example: `  worker history ada@contoso.com
  worker history ada@contoso.com audit.ndjson.1 audit.ndjson \
    audit-operators.ndjson
  zcat audit-2026-*.gz | worker history ada@contoso.com -`,
		Args: cobra.MinimumNArgs(1),
	}
	files.flags(cmd.Flags())
	out.flag(cmd.Flags())
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		user, err := readUser(args[0], false)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		log, options, err := files.open(p, cfg, args[1:])
		if err != nil {
			return err
		}
		defer log.close()
		h, err := history.Of(ctx, log.open, user, time.Now(), options)
		if err != nil {
			return explainReading(err)
		}
		if err := out.value(h, func(w io.Writer) { printHistory(w, h) }); err != nil {
			return err
		}
		if h.State == history.NoRecord {
			return fail(exitNotFound, "")
		}
		return nil
	})
}

// explainReading explains an error of reading the audit log.
func explainReading(err error) error {
	if errors.Is(err, context.Canceled) {
		return fail(exitFailed, "stopped")
	}
	return fail(exitFailed, "the audit log cannot be read: %v", err)
}

// timeColumn is the width of a time and the space after it.
const timeColumn = len("2006-01-02 15:04:05Z") + 2

func printHistory(w io.Writer, h history.History) {
	if h.Omitted > 0 {
		fmt.Fprintf(w, "%s before these are left out.\n\n", count(h.Omitted, "step"))
	}
	for _, s := range h.Steps {
		text := s.Text
		if s.Changed {
			text = "[record changed] " + text
		}
		printHanging(w, when(s.Time), timeColumn, plain(text))
	}
	if len(h.Steps) > 0 {
		fmt.Fprintln(w)
	}
	printWho(w, h)
	for _, warning := range h.Warnings {
		printHanging(w, "Note:", len("Note: "), plain(warning)+".")
	}
	for _, problem := range h.Log.Problems[:min(5, len(h.Log.Problems))] {
		printHanging(w, "", len("Note: "), plain(problem))
	}
	fmt.Fprintln(w, wrapText(plain(h.Answer), help.Width))
}

// printWho says whom the history is about, if they have several names.
func printWho(w io.Writer, h history.History) {
	const most = 5
	names := append(append([]string{}, h.IDs...), h.Names...)
	if len(names) < 2 {
		return
	}
	text := plain(strings.Join(names[:min(most, len(names))], ", "))
	if more := len(names) - most; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	printHanging(w, "One person:", len("One person: "), text)
}

// printHanging prints a text that is wrapped beside what begins its first line.
func printHanging(w io.Writer, first string, column int, text string) {
	for i, line := range strings.Split(wrapText(text, help.Width-column), "\n") {
		if i > 0 {
			first = ""
		}
		fmt.Fprintf(w, "%-*s%s\n", column, first, line)
	}
}

// wrapText breaks a text into lines of at most width characters, also inside words that are longer.
func wrapText(text string, width int) string {
	var words []string
	for word := range strings.FieldsSeq(text) {
		runes := []rune(word)
		for len(runes) > width {
			words = append(words, string(runes[:width]))
			runes = runes[width:]
		}
		words = append(words, string(runes))
	}
	return strings.TrimRight(help.Wrap(strings.Join(words, " "), width, ""), "\n ")
}
