package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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

// replaying is one run of dlq replay.
type replaying struct {
	*change
	run        replay.Run
	client     *azservicebus.Client
	to         string
	maxReplays int
	options    replay.Options
	yes        bool
	edited     string // the hash of the body that is sent, if it is another one
	wait       bool

	sent, undone, unreadable int
}

func (p *program) dlqReplay() *cobra.Command {
	pick := picking{changes: true}
	r := &replaying{change: p.newChange("dlq replay")}
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Send dead letters to their queue again",
		Long: `Send dead letters to their queue again: those that are there now and that the
filter picks. The command first sends each one as a new message, and then
removes the dead letter. So nothing is ever lost, and you can simply repeat a
run that was stopped or killed. If a message has several events, only those that
failed are handled again.

A message that cannot be read is never sent, because there is no body to send.
It stays where it is, and the exit code says so. If only a part of a message
cannot be read, the message is sent without that part. docs/runbook.md says what
to do in both cases.

The dead letters of a subscription need --to: their topic would also deliver
them to its other subscriptions.

With --wait, the command then shows how many messages are decided until none
waits, or until Ctrl-C; worker dlq status goes on from there.

To get to messages behind others, the command locks the others for a while. Then
it unlocks them, unchanged except for their delivery count.`,
		Example: `  worker dlq replay --reason RetriesExhausted --dry-run
  worker dlq replay --reason RetriesExhausted
  worker dlq replay --seq 4711 --yes`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	pick.flags(fs)
	fs.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	fs.StringVar(&r.to, "to", "", "queue or topic to send to, instead of the dead letters' own queue")
	fs.StringVar(&r.act.By, "by", "", "who replays, for each message and the audit log (default: you, as user@host)")
	fs.Float64Var(&r.options.Rate, "rate", defaultRate,
		"maximum number of messages per second; 0 means no limit. Graph takes 20 calls per second for each app and tenant")
	fs.IntVar(&r.options.Parallel, "parallel", 4, "number of batches to send at once")
	fs.IntVar(&r.maxReplays, "max-replays", 3, "leave out messages that were replayed this often")
	fs.DurationVar(&r.options.Wait, "lock-wait", 90*time.Second, lockWaitHelp)
	fs.BoolVar(&r.wait, "wait", false, "then wait until each message is decided, and say what became of them")
	r.flags(fs, "show what would be sent, and send nothing")
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) (err error) {
		switch {
		case !isRate(r.options.Rate):
			return fail(exitUsage, "--rate: %v is not a number of messages per second", r.options.Rate)
		case r.options.Parallel < 1 || r.options.Parallel > 64:
			return fail(exitUsage, "--parallel: %d is not between 1 and 64", r.options.Parallel)
		case r.maxReplays < 1:
			return fail(exitUsage, "--max-replays: %d is less than 1", r.maxReplays)
		}
		from, err := pick.open(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		if err := r.knowsWhere(from); err != nil {
			return err
		}
		r.client, r.run = from.client, replay.NewRun(operator(r.act.By))
		r.act.Run = r.run.ID
		if err := r.begin(ctx, cfg); err != nil {
			return err
		}
		err = r.end(ctx, r.replay(ctx, from))
		if r.wait && r.sent > 0 && ctx.Err() == nil {
			return r.await(ctx, cfg, err)
		}
		return err
	})
}

// isRate reports whether a number can be that of --rate: 0 or positive, and finite.
func isRate(rate float64) bool { return rate >= 0 && !math.IsInf(rate, 0) }

// lockWaitHelp is the help text of --lock-wait.
const lockWaitHelp = "how long to wait for messages that are locked by another receiver or by a run that was killed"

// await waits for the end of all messages that were sent, and prints what became of them. It returns
// err, the error of sending, together with its own.
func (r *replaying) await(ctx context.Context, cfg config.Config, err error) error {
	s, waitErr := r.awaitRun(ctx, cfg, r.run.ID, r.sent)
	switch {
	case waitErr != nil:
		return errors.Join(err, waitErr)
	case r.out.format == asTable:
		s.print(r.stdout)
	default:
		waitErr = r.out.value(s, nil)
	}
	if back := s.DeadLetters(); back > 0 && err == nil && waitErr == nil {
		return fail(exitFailed, "%s again: worker dlq list", count(back, "message is a dead letter", "messages are dead letters"))
	}
	return errors.Join(err, waitErr)
}

// replay replays, or shows what it would replay.
func (r *replaying) replay(ctx context.Context, from *picked) error {
	if r.dryRun {
		makePlan := func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error) {
			if _, err := r.sender(ctx, q); err != nil { // show a missing right, too
				return nil, err
			}
			return q.PlanReplay(ctx, f, r.run, r.maxReplays, each)
		}
		return r.show(from, makePlan, "Nothing would be replayed.", func(plan *replay.Plan) string {
			return fmt.Sprintf("Would replay %s of %s to %s%s", summary(plan), plan.Source, r.destination(plan.Source), leftOut(plan))
		})
	}
	err := from.eachQueue(func(q *replay.Queue, f replay.Filter) (int, error) { return r.queue(ctx, q, f) })
	switch {
	case err != nil:
		return err
	case r.undone > 0:
		return fail(exitFailed, "not done: %s; repeat the command to continue", letters(r.undone))
	case r.unreadable > 0:
		return notReplayed(r.unreadable)
	}
	return nil
}

func notReplayed(unreadable int) error {
	return fail(exitFailed, "not replayed: %s with an unreadable body; see docs/runbook.md, section 9", letters(unreadable))
}

// queue replays the dead letters of one queue, and returns how many it has planned.
func (r *replaying) queue(ctx context.Context, q *replay.Queue, f replay.Filter) (selected int, err error) {
	sender, err := r.sender(ctx, q)
	if err != nil {
		return 0, err
	}
	plan, err := planner(func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error) {
		return q.PlanReplay(ctx, f, r.run, r.maxReplays, each)
	}).of(q, f)
	if err != nil {
		return 0, err
	}
	outcome := replayOutcome{RunID: r.run.ID, To: r.destination(q.Entity), Plan: plan.Plan}
	if plan.Selected > 0 {
		if err := r.confirmPlan(ctx, plan.Plan); err != nil {
			return 0, err
		}
		one := r.step(plan, sender, &outcome)
		if err := r.announce(ctx, one); err != nil {
			return 0, err
		}
		err = r.carryOut(ctx, "replaying", one)
	}
	r.sent += outcome.Replayed + outcome.Twice
	r.undone += outcome.Failed + outcome.Left + outcome.Twice
	r.unreadable += outcome.Unreadable
	if printed := r.out.value(outcome, outcome.print); err == nil {
		err = printed
	}
	return plan.Selected, err
}

// step returns the replay of what is planned for one queue. It sets the outcome's result.
func (r *replaying) step(plan planned, sender replay.Sender, outcome *replayOutcome) step {
	return step{
		about: audit.Operation{Source: plan.Source, To: outcome.To, FileSHA256: r.edited}, sequences: plan.sequences, total: plan.Selected,
		leftOut: plan.Unreadable, finished: []string{"replayed", "gone"},
		do: func(ctx context.Context, progress func(int)) (map[string]int, error) {
			options := r.options
			options.Progress, options.Waiting = progress, r.waiting(plan.Source)
			var err error
			outcome.Result, err = plan.queue.Replay(ctx, sender, r.run, plan.Plan, options)
			return map[string]int{
				"replayed": outcome.Replayed, "sentButNotCompleted": outcome.Twice,
				"failed": outcome.Failed, "gone": outcome.Gone, "left": outcome.Left,
			}, err
		},
	}
}

// confirmPlan asks whether to replay what is planned.
func (r *replaying) confirmPlan(ctx context.Context, plan *replay.Plan) error {
	q := question{
		text: fmt.Sprintf("Replay %s of %s to %s%s%s? [y/N] ",
			summary(plan), plan.Source, r.destination(plan.Source), leftOut(plan), lasting(plan.Selected, r.options.Rate)),
		accepts: []string{"y", "yes"},
		refusal: "nothing was replayed from " + plan.Source + "; --yes skips the question",
	}
	if r.yes {
		q.given = "yes"
	}
	return r.confirm(ctx, q)
}

// knowsWhere returns an error if nobody said where the dead letters of a subscription are to be
// sent.
func (r *replaying) knowsWhere(from *picked) error {
	for _, q := range from.queues {
		if _, _, ok := config.SplitSubscription(q.Entity); ok && r.to == "" {
			return fail(exitUsage, "%s is a subscription: name with --to where to send its dead letters, a queue or the topic; "+
				"the topic delivers them to all its subscriptions", q.Entity)
		}
	}
	return nil
}

// counts are what happened to the messages, in words.
func (o replayOutcome) counts() []countOf {
	return []countOf{
		{o.Twice, "sent, but not removed from the dead letters: at most one extra call each"},
		{o.Failed, "not sent, and still a dead letter"},
		{o.Gone, textGone},
		{o.Left, textLeft},
	}
}

// destination returns where the dead letters of an entity are sent.
func (r *replaying) destination(entity string) string {
	if r.to != "" {
		return r.to
	}
	return entity
}

// sender opens a sender for the dead letters of a queue.
func (r *replaying) sender(ctx context.Context, q *replay.Queue) (*azservicebus.Sender, error) {
	return openSender(ctx, r.client, r.destination(q.Entity))
}

func (o replayOutcome) print(w io.Writer) {
	fmt.Fprintf(w, "%s: %d of %s replayed to %s%s (run %s)\n", o.Source, o.Replayed, letters(o.Selected), o.To, leftOut(o.Plan), o.RunID)
	printCounts(w, o.counts())
	for _, problem := range o.Problems {
		fmt.Fprintf(w, "  %s\n", plain(problem))
	}
	printSkipped(w, o.Plan)
}

// leftOut says how many letters are left out completely or in part.
func leftOut(plan *replay.Plan) string {
	var text strings.Builder
	for _, c := range []countOf{
		{plan.TooOften, "left out because of --max-replays"},
		{plan.Unreadable, "left out because of an unreadable body"},
		{plan.Mended, "without a part that cannot be read (worker dlq show names it)"},
	} {
		if c.n > 0 {
			fmt.Fprintf(&text, "; %d %s", c.n, c.text)
		}
	}
	return text.String()
}

// lasting says how long a replay takes. It is empty if the rate does not matter.
func lasting(n int, rate float64) string {
	if rate <= 0 || float64(n) < rate {
		return ""
	}
	return fmt.Sprintf(" at %v per second, about %s", rate, time.Duration(float64(n)/rate*float64(time.Second)).Round(time.Second))
}
