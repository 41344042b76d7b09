package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

// dlq replay, dlq purge and dlq import take the same steps, which are the methods of change:
//
//  1. begin: open the audit log, unless this is a dry run.
//  2. plan: pick what to act on, at most --limit (in picked.eachQueue). Import reads its file.
//  3. With --dry-run, show: print the plan, and stop.
//  4. confirm: ask the operator. Import does not ask.
//  5. announce: record in the audit log what is about to be done.
//  6. carryOut: do it, show the progress, and record the result.
//  7. end: close the audit log.

// change is one run of a command that changes something.
type change struct {
	*program
	out    *output
	dryRun bool
	act    audit.Operation // what all records of the run have: the command, who and why
	record *operation      // nil in a dry run, or without an audit log
	// watch, if not nil, is told how many messages were just finished, and for how many locked ones
	// the change waits, instead of the terminal. Calls may overlap.
	watch func(done, waiting int)
}

func (p *program) newChange(command string) *change {
	return &change{program: p, out: &output{w: p.stdout, columns: p.columns}, act: audit.Operation{Command: command}}
}

// flags registers the flags of every change. dryRun is the help text of --dry-run.
func (c *change) flags(fs *pflag.FlagSet, dryRun string) {
	fs.BoolVar(&c.dryRun, "dry-run", false, dryRun)
	because(fs, &c.act, "why")
	c.out.flag(fs)
}

// begin opens the audit log. The caller must call end.
func (c *change) begin(ctx context.Context, cfg config.Config) (err error) {
	if !c.dryRun {
		c.record, err = c.program.begin(ctx, cfg, c.act)
	}
	return err
}

// end closes the audit log. It returns err and what could not be recorded.
func (c *change) end(ctx context.Context, err error) error { return c.record.close(ctx, err) }

// planned is what a change does with the dead letters of one queue.
type planned struct {
	*replay.Plan
	queue     *replay.Queue
	sequences []int64
}

// planner makes the plan for a queue. It calls each with each letter that it picks.
type planner func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error)

// of returns the plan for one queue, with the sequence numbers for the audit log.
func (makePlan planner) of(q *replay.Queue, f replay.Filter) (planned, error) {
	one := planned{queue: q}
	var err error
	one.Plan, err = makePlan(q, f, func(l replay.Letter) { one.sequences = append(one.sequences, l.SequenceNumber) })
	return one, err
}

// show prints what a dry run would do: the letters, or none if there are none, and a summary of
// each plan.
func (c *change) show(from *picked, makePlan planner, none string, summary func(*replay.Plan) string) error {
	list := &rows{output: c.out, header: letterHeader(from.several())}
	var plans []*replay.Plan
	err := from.eachQueue(func(q *replay.Queue, f replay.Filter) (int, error) {
		var listErr error
		plan, err := makePlan(q, f, func(l replay.Letter) {
			if listErr == nil {
				listErr = list.add(l, letterRow(l, from.several()))
			}
		})
		if err != nil {
			return 0, err
		}
		plans = append(plans, plan)
		return plan.Selected, listErr
	})
	if err != nil {
		return err
	}
	list.end(none)
	for _, plan := range plans {
		fmt.Fprintln(c.stderr, summary(plan))
		printSkipped(c.stderr, plan)
	}
	return nil
}

// question is what the operator must confirm before anything changes.
type question struct {
	text    string
	given   string   // the answer, if the command line has it
	accepts []string // the answers that confirm, in lower case
	refusal string   // what any other answer means
}

// confirm returns an error unless the operator confirms.
func (c *change) confirm(ctx context.Context, q question) error {
	answer := q.given
	if answer == "" {
		var err error
		if answer, err = c.ask(ctx, q.text); err != nil {
			return err
		}
	}
	if slices.Contains(q.accepts, strings.ToLower(answer)) {
		return nil
	}
	return fail(exitFailed, "not confirmed, because the answer %q is not %s: %s", answer, q.accepts[0], q.refusal)
}

// step is a part of a change that has its own records: a queue or a file.
type step struct {
	about     audit.Operation // the queue, the file, or both
	sequences []int64         // the dead letters to act on, if it is a queue
	total     int             // the number of messages to act on
	leftOut   int             // the number of those that were asked for and cannot be acted on
	// do acts. It calls progress with the number of messages that were just finished, and returns
	// counts of what happened. These are valid even if err != nil. Those named in finished are
	// messages that need nothing more.
	do       func(ctx context.Context, progress func(n int)) (counts map[string]int, err error)
	finished []string
	// changed, if not nil, returns the messages that were changed, for the record at the end.
	changed func() []int64
}

// recordEnd records the result of a step.
func (c *change) recordEnd(s step, counts map[string]int, err error) {
	if err == nil {
		done := 0
		for _, name := range s.finished {
			done += counts[name]
		}
		if err = notDone(done, s.total); err == nil && s.leftOut > 0 {
			err = fmt.Errorf("left out: %d", s.leftOut)
		}
	}
	s.about.Count = s.total
	ends := []audit.Operation{s.about}
	if s.changed != nil {
		ends = listing(s.about, s.changed())
	}
	ends[len(ends)-1].Counts = counts
	for _, end := range ends {
		c.record.done(end, err)
	}
}

// announce records what is about to be done. If it fails, nothing may be done.
func (c *change) announce(ctx context.Context, steps ...step) error {
	var records []audit.Operation
	for _, s := range steps {
		if s.sequences != nil {
			records = append(records, listing(s.about, s.sequences)...)
			continue
		}
		s.about.Count = s.total
		records = append(records, s.about)
	}
	return c.record.start(ctx, records...)
}

// carryOut takes the steps that were announced and records what happened. The first error ends it.
// doing names the activity in the progress bar.
func (c *change) carryOut(ctx context.Context, doing string, steps ...step) error {
	total := 0
	for _, s := range steps {
		total += s.total
	}
	var bar *bar
	progress := func(n int) { bar.add(n) }
	if c.watch != nil {
		progress = func(n int) { c.watch(n, 0) }
	} else {
		bar = c.newBar(doing, total)
	}
	defer func() { bar.end() }()
	for _, s := range steps {
		counts, err := s.do(ctx, progress)
		c.recordEnd(s, counts, err)
		if err != nil {
			return explain(err, cmp.Or(s.about.Source, s.about.To))
		}
	}
	return nil
}

// summary says how many dead letters a plan has, by reason.
func summary(plan *replay.Plan) string {
	if len(plan.Reasons) == 0 {
		return letters(0)
	}
	texts := make([]string, 0, len(plan.Reasons))
	for _, reason := range byCount(plan.Reasons) {
		texts = append(texts, fmt.Sprintf("%d %s", plan.Reasons[reason], plain(reason)))
	}
	return fmt.Sprintf("%s (%s)", letters(plan.Selected), strings.Join(texts, ", "))
}

// byCount returns the keys by their counts, the largest first.
func byCount(counts map[string]int) []string {
	return slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b))
	})
}

func letters(n int) string { return count(n, "dead letter") }

// printSkipped prints why the first few letters are left out.
func printSkipped(w io.Writer, plan *replay.Plan) {
	for _, skipped := range plan.Skipped {
		fmt.Fprintf(w, "  left out: %s\n", plain(skipped))
	}
}

// printCounts prints a line for each count that is not 0.
func printCounts(w io.Writer, counts []countOf) {
	for _, c := range counts {
		if c.n > 0 {
			fmt.Fprintf(w, "  %d %s\n", c.n, c.text)
		}
	}
}

// countOf is a number of messages, and a text without a verb, which is right for one and for many.
type countOf struct {
	n    int
	text string
}

const (
	textGone = "removed by someone else in the meantime"
	textLeft = "still there, because the run was stopped or another receiver has the lock"
)

// waiting returns a function that reports for how many locked messages a run waits.
func (c *change) waiting(entity string) func(int) {
	return func(n int) {
		if c.watch != nil {
			c.watch(0, n)
			return
		}
		fmt.Fprintf(c.stderr, "%s: waiting for %s, locked by another receiver or by a run that was killed\n", entity, letters(n))
	}
}
