package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit/report"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

func (p *program) auditReport() *cobra.Command {
	var files logFiles
	var from, to string
	var target time.Duration
	out := &output{w: p.stdout, columns: p.columns, others: []string{asCSV, asHTML}}
	cmd := &cobra.Command{
		Use:   "report [FILE…]",
		Short: "Measure how long revocations took, and list every exception",
		Long: `Measure from the audit log how long it took from each event to the revocation,
against a target, and list who missed the target and who was not signed out and
why. The log is also checked, as worker audit verify does.

Time is measured from the event's own time, or the date at which it takes
effect, to Graph's confirmation; an event without a time is measured from when
it came into the queue. An event that another one's call has answered ends with
the record of this. An event that was replayed counts once, by its last end.
Tokens stop working a few minutes after the confirmation.

The period is about when events came into the queue for the first time: --from
is inclusive, --to is exclusive.

` + logFilesHelp + `

The log is read once, as a stream. Memory is bounded to about 150 MB, whatever
its size: at most 1,000 misses and 5,000 exceptions are listed, and all are
counted. Percentiles are at most 1 % too high. Output csv has the lists only;
html is one page that can be printed.

The exit code does not depend on what the report says.`,
		Example: `  worker audit report --from 2026-11-01 --to 2026-12-01
  worker audit report --target 24h --output html audit.ndjson > report.html
  worker audit report --from 30d --output csv > exceptions.csv`,
	}
	fs := cmd.Flags()
	fs.StringVar(&from, "from", "", "only events from then on: a time (2026-03-01T12:00:00Z), a day (2026-03-01), or an age (90m, 7d)")
	fs.StringVar(&to, "to", "", "only events before: the same forms")
	fs.DurationVar(&target, "target", time.Hour, "the longest acceptable time from an event to its revocation")
	files.flags(fs)
	out.flag(fs)
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		now := time.Now()
		o := report.Options{Target: target}
		var err error
		if o.From, err = replay.ParseTime(from, now); err != nil {
			return fail(exitUsage, "--from: %v", err)
		}
		if o.To, err = replay.ParseTime(to, now); err != nil {
			return fail(exitUsage, "--to: %v", err)
		}
		switch {
		case target <= 0:
			return fail(exitUsage, "--target: %s is not a positive duration such as 1h", target)
		case !o.From.IsZero() && !o.To.IsZero() && !o.From.Before(o.To):
			return fail(exitUsage, "--from is not before --to: the period is empty")
		}
		log, options, err := files.open(p, cfg, args)
		if err != nil {
			return err
		}
		defer log.close()
		o.Verify = options
		r, err := report.Make(ctx, log.reader(), o)
		if err != nil {
			return explainReading(err)
		}
		switch out.format {
		case asCSV:
			if more := r.NotListed(); more > 0 {
				p.notice("%d more misses and exceptions are not listed: choose a shorter period.", more)
			}
			return r.WriteCSV(p.stdout)
		case asHTML:
			return r.WriteHTML(p.stdout, now)
		}
		return out.value(r, func(w io.Writer) { printAuditReport(w, r) })
	})
}

// printedCases is the number of cases of each kind that a table for the terminal lists.
const printedCases = 10

func printAuditReport(w io.Writer, r report.Report) {
	fmt.Fprintln(w, wrapText(plain(r.Answer), help.Width))
	fmt.Fprintf(w, "%s; target %s.\n", r.Period(), report.Duration(time.Duration(r.TargetSeconds*float64(time.Second))))
	for _, warning := range r.Warnings {
		printHanging(w, "Note:", len("Note: "), plain(warning)+".")
	}
	fmt.Fprintln(w)
	for _, row := range r.Summary() {
		if row[1] != "0" {
			fmt.Fprintf(w, "%8s  %s\n", row[1], row[0])
		}
	}
	printTable(w, table.Row{"TIME", "EVENTS", "WITHIN", "P50", "P90", "P99", "MAX"}, r.StageRows())
	for _, part := range []struct {
		title  string
		groups []report.Group
	}{{"TYPE", r.Types}, {"SOURCE", r.Sources}, {"PRODUCER", r.Producers}} {
		printTable(w, table.Row{part.title, "EVENTS", "WITHIN", "P50", "P90", "P99", "MAX", "FAILED"}, report.GroupRows(part.groups))
	}
	printCases(w, "Missed the target", "", r.Misses)
	for _, e := range r.Exceptions {
		printCases(w, e.Kind, e.Meaning, e.Cases)
	}
	if len(r.Operators) > 0 {
		fmt.Fprintln(w, "\nOperators:")
		for _, a := range r.Operators {
			fmt.Fprintf(w, "  %s by %s: %s, %s\n", plain(a.Command), short(plain(a.By), 40), count(a.Runs, "record"),
				count(a.Count, "person or message", "people or messages"))
		}
	}
	fmt.Fprintf(w, "\nThe log: %s in %s, %d without an end; %s.\n", count(r.Log.Records, "record"), count(r.Log.Chains, "chain"),
		len(r.Log.Open), count(r.Log.ProblemCount, "problem"))
	for _, problem := range r.Log.Problems[:min(5, len(r.Log.Problems))] {
		printHanging(w, " ", 2, plain(problem))
	}
	if r.Log.ProblemCount == 0 {
		fmt.Fprintln(w, wrapText(r.Log.Claim+".", help.Width))
	}
}

// nameWidth is the width of the first column of a table of times.
const nameWidth = 20

// printTable prints times. The first column holds texts from outside.
func printTable(w io.Writer, header table.Row, rows [][]string) {
	if len(rows) == 0 {
		return
	}
	t := newTable()
	t.AppendHeader(header)
	var columns []table.ColumnConfig
	for i := 2; i <= len(header); i++ {
		columns = append(columns, table.ColumnConfig{Number: i, Align: rightAlign, AlignHeader: rightAlign})
	}
	t.SetColumnConfigs(columns)
	for _, row := range rows {
		cells := table.Row{short(plain(row[0]), nameWidth)}
		for _, cell := range row[1:] {
			cells = append(cells, cell)
		}
		t.AppendRow(cells)
	}
	fmt.Fprintf(w, "\n%s\n", t.Render())
}

func printCases(w io.Writer, title, meaning string, cases report.Cases) {
	if cases.Count == 0 {
		return
	}
	fmt.Fprintf(w, "\n%s: %d\n", plain(title), cases.Count)
	if meaning != "" {
		printHanging(w, " ", 2, meaning)
	}
	for _, c := range cases.List[:min(printedCases, len(cases.List))] {
		text := c.User
		if text == "" {
			text = "nobody"
		}
		text += ", " + c.EventType
		if c.Seconds > 0 {
			text += ", took " + report.Duration(time.Duration(c.Seconds*float64(time.Second)))
		}
		if c.Error != "" {
			text += ": " + short(c.Error, 160)
		}
		at := c.Enqueued
		if !c.EventTime.IsZero() {
			at = c.EventTime
		}
		printHanging(w, "  "+when(at), timeColumn+2, plain(text))
	}
	if more := cases.Count - printedCases; more > 0 {
		fmt.Fprintln(w, "  "+strconv.Itoa(more)+" more; see --output csv, html or json")
	}
}
