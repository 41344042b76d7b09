package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

// defaultRate leaves the worker a quarter of Graph's quota of 20 calls per second
// (https://learn.microsoft.com/graph/throttling-limits, identity and access).
const defaultRate = 15

// replayOutcome is what a replay prints.
type replayOutcome struct {
	RunID string `json:"runId"`
	To    string `json:"to"`
	*replay.Plan
	DryRun bool `json:"dryRun,omitempty"`
	replay.Result
}

func (p *program) dlqReplay() *cobra.Command {
	pick := picking{changes: true}
	var dryRun, yes bool
	var to, by string
	var maxReplays int
	options := replay.Options{}
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Send dead letters to their queue again",
		Long: `Send dead letters to their queue again: those that are there now and that the
filter picks. Each is sent first, as a new message, and its dead letter completed
after that; so nothing is ever lost, and a run that is stopped or killed can simply
be repeated. Of a message with several events only those that failed act again.

A message that cannot be read is never sent: there is no body to send. It stays
where it is, and the exit code says so. One of which only a part cannot be read
is sent without that part. docs/runbook.md has what to do with both.

The dead letters of a subscription are sent where --to says: their topic would give
them to its other subscriptions too.

To get behind others, those are locked for a while and given back unchanged, but for
their delivery count.`,
		Example: `  worker dlq replay --reason RetriesExhausted --dry-run
  worker dlq replay --reason RetriesExhausted
  worker dlq replay --seq 4711 --yes`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	pick.flags(fs)
	fs.BoolVar(&dryRun, "dry-run", false, "show what would be sent, and send nothing")
	fs.BoolVarP(&yes, "yes", "y", false, "do not ask")
	fs.StringVar(&to, "to", "", "queue or topic to send to instead of the dead letters' own queue")
	fs.StringVar(&by, "by", "", "who replays, for the record in each message and the audit log (default: you, as user@host)")
	fs.Float64Var(&options.Rate, "rate", defaultRate, "messages per second at most; 0 is no limit. Graph takes 20 calls per second from the whole app and tenant")
	fs.IntVar(&options.Parallel, "parallel", 4, "batches sent at once")
	fs.IntVar(&maxReplays, "max-replays", 3, "leave out messages that were replayed so often already")
	fs.DurationVar(&options.Wait, "wait", 90*time.Second, "how long to wait for messages that another receiver, or a run that was killed, holds locked")
	act := audit.Operation{Command: "dlq replay"}
	because(fs, &act, "why")
	out.flag(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) (err error) {
		switch {
		case options.Rate < 0:
			return fail(exitUsage, "--rate: %v is negative", options.Rate)
		case options.Parallel < 1 || options.Parallel > 64:
			return fail(exitUsage, "--parallel: %d is not between 1 and 64", options.Parallel)
		case maxReplays < 1:
			return fail(exitUsage, "--max-replays: %d is below 1", maxReplays)
		}
		filter, client, queues, err := pick.open(p, cfg)
		if err != nil {
			return err
		}
		defer closeClient(client)
		for _, q := range queues {
			if _, _, ok := config.SplitSubscription(q.Entity); ok && to == "" {
				return fail(exitUsage, "%s is a subscription: say by --to where to send its dead letters, a queue or the topic; the topic would give them to all its subscriptions", q.Entity)
			}
		}
		run := replay.NewRun(operator(by))
		var record *operation
		if !dryRun {
			act.By, act.Run = by, run.ID
			if record, err = p.begin(ctx, cfg, act); err != nil {
				return err
			}
			defer func() { err = record.close(ctx, err) }()
		}
		undone, unreadable := 0, 0
		for _, q := range queues {
			r := &replaying{program: p, queue: q, client: client, run: run, to: to, maxReplays: maxReplays, options: options, filter: filter, yes: yes, dryRun: dryRun, out: out, several: len(queues) > 1, record: record}
			outcome, err := r.do(ctx)
			if err != nil {
				return explain(err, q.Entity)
			}
			undone += outcome.Failed + outcome.Left + outcome.Twice
			unreadable += outcome.Unreadable
			if filter.Limit > 0 {
				if filter.Limit -= outcome.Selected; filter.Limit <= 0 {
					break
				}
			}
		}
		switch {
		case undone > 0:
			return fail(exitFailed, "not done: %s; repeat the command to go on", letters(undone))
		case unreadable > 0 && !dryRun:
			return fail(exitFailed, "not replayed: %s that cannot be read; docs/runbook.md, section 9, says what to do", letters(unreadable))
		}
		return nil
	})
}

// replaying is the replay of one queue's dead letters.
type replaying struct {
	*program
	queue       *replay.Queue
	client      *azservicebus.Client
	run         replay.Run
	to          string
	maxReplays  int
	options     replay.Options
	filter      replay.Filter
	yes, dryRun bool
	several     bool
	out         *output
	record      *operation
}

func (r *replaying) do(ctx context.Context) (replayOutcome, error) {
	outcome := replayOutcome{RunID: r.run.ID, To: r.to, DryRun: r.dryRun}
	if outcome.To == "" {
		outcome.To = r.queue.Entity
	}
	sender, err := openSender(ctx, r.client, outcome.To)
	if err != nil {
		return outcome, err
	}
	list := &rows{output: r.out, header: letterHeader(r.several)}
	var listed error
	var sequences []int64
	each := func(l replay.Letter) { sequences = append(sequences, l.SequenceNumber) }
	if r.dryRun {
		each = func(l replay.Letter) {
			if listed == nil {
				listed = list.add(l, letterRow(l, r.several))
			}
		}
	}
	plan, err := r.queue.PlanReplay(ctx, r.filter, r.run, r.maxReplays, each)
	if err != nil {
		return outcome, err
	}
	outcome.Plan = plan
	if r.dryRun {
		list.end("Nothing would be replayed.")
		fmt.Fprintf(r.stderr, "%s would go from the dead letters of %s to %s%s\n", counted(plan), r.queue.Entity, outcome.To, leftOut(plan))
		printSkipped(r.stderr, plan)
		return outcome, listed
	}
	if plan.Selected > 0 && !r.yes {
		question := fmt.Sprintf("Replay %s of %s to %s%s%s? [y/N] ", counted(plan), r.queue.Entity, outcome.To, leftOut(plan), lasting(plan.Selected, r.options.Rate))
		if answer := strings.ToLower(r.ask(question)); answer != "y" && answer != "yes" {
			return outcome, fail(exitFailed, "not confirmed: nothing was replayed (--yes does not ask)")
		}
	}
	if plan.Selected > 0 {
		act := audit.Operation{Source: r.queue.Entity, To: outcome.To}
		if err := r.record.start(ctx, listing(act, sequences)...); err != nil {
			return outcome, err
		}
		bar := r.newBar("replaying", plan.Selected)
		r.options.Progress = bar.add
		r.options.Waiting = r.waiting(r.queue.Entity)
		outcome.Result, err = r.queue.Replay(ctx, sender, r.run, plan, r.options)
		bar.end()
		act.Count = plan.Selected
		act.Counts = map[string]int{"replayed": outcome.Replayed, "sentButNotCompleted": outcome.Twice, "failed": outcome.Failed, "gone": outcome.Gone, "left": outcome.Left}
		r.record.done(act, err)
	}
	if printed := r.out.value(outcome, func(w io.Writer) { printReplay(w, outcome) }); err == nil {
		err = printed
	}
	return outcome, err
}

func printReplay(w io.Writer, o replayOutcome) {
	fmt.Fprintf(w, "%s: %d of %s replayed to %s%s (run %s)\n", o.Source, o.Replayed, letters(o.Selected), o.To, leftOut(o.Plan), o.RunID)
	for _, also := range []struct {
		n    int
		text string
	}{
		{o.Twice, "were sent, but not removed here: each costs a repeated call at most"},
		{o.Failed, "could not be sent, and stay dead letters"},
		{o.Gone, "were taken away by somebody else meanwhile"},
		{o.Left, "are still there: the run was stopped, or another receiver holds them locked"},
	} {
		if also.n > 0 {
			fmt.Fprintf(w, "  %d %s\n", also.n, also.text)
		}
	}
	for _, problem := range o.Problems {
		fmt.Fprintf(w, "  %s\n", plain(problem))
	}
	printSkipped(w, o.Plan)
}

// printSkipped says of the first few letters that are left out, why.
func printSkipped(w io.Writer, plan *replay.Plan) {
	for _, skipped := range plan.Skipped {
		fmt.Fprintf(w, "  left out: %s\n", plain(skipped))
	}
}

// waiting tells of messages that somebody else holds.
func (p *program) waiting(entity string) func(int) {
	return func(n int) {
		fmt.Fprintf(p.stderr, "%s: waiting for %s that another receiver holds locked, or that a killed run has left so\n", entity, letters(n))
	}
}

// counted says how many, by reason.
func counted(plan *replay.Plan) string {
	if len(plan.Reasons) == 0 {
		return letters(0)
	}
	reasons := slices.SortedFunc(maps.Keys(plan.Reasons), func(a, b string) int { return plan.Reasons[b] - plan.Reasons[a] })
	texts := make([]string, 0, len(reasons))
	for _, reason := range reasons {
		texts = append(texts, fmt.Sprintf("%d %s", plan.Reasons[reason], plain(reason)))
	}
	return fmt.Sprintf("%s (%s)", letters(plan.Selected), strings.Join(texts, ", "))
}

func letters(n int) string {
	if n == 1 {
		return "1 dead letter"
	}
	return fmt.Sprintf("%d dead letters", n)
}

// leftOut says how many are left out, and of how many a part is.
func leftOut(plan *replay.Plan) string {
	var text strings.Builder
	for _, also := range []struct {
		n    int
		text string
	}{
		{plan.TooOften, "left out that were replayed too often already (--max-replays)"},
		{plan.Unreadable, "left out that cannot be read"},
		{plan.Mended, "without a property or another part that cannot be read (worker dlq show names it)"},
	} {
		if also.n > 0 {
			text.WriteString(fmt.Sprintf("; %d %s", also.n, also.text))
		}
	}
	return text.String()
}

// lasting says how long it will take.
func lasting(n int, rate float64) string {
	if rate <= 0 || float64(n) < rate {
		return ""
	}
	return fmt.Sprintf(" at %v per second, about %s", rate, time.Duration(float64(n)/rate*float64(time.Second)).Round(time.Second))
}

// openSender makes a sender and opens its link: a missing queue or right shows now, and not after the confirmation.
func openSender(ctx context.Context, client *azservicebus.Client, to string) (*azservicebus.Sender, error) {
	sender, err := client.NewSender(to, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 12*time.Second)
	defer cancel()
	if _, err := sender.NewMessageBatch(ctx, nil); err != nil {
		return nil, explain(err, "sending to "+to)
	}
	return sender, nil
}
