package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

// purging is one run of dlq purge.
type purging struct {
	*change
	export, confirmed string
	options           replay.PurgeOptions
}

func (p *program) dlqPurge() *cobra.Command {
	pick := picking{changes: true}
	u := &purging{change: p.newChange("dlq purge")}
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove dead letters, after writing them to a file",
		Long: `Remove dead letters: those that are there now and that the filter picks. Before
it removes a dead letter, the command writes it to a file, which worker dlq
import can send again. It asks you to type the number of dead letters; --confirm
answers in advance.

If a message cannot be read, the file gets its original bytes. If these are no
longer in memory, because there were too many, the message stays where it is.`,
		Example: `  worker dlq purge --reason UserNotFound --dry-run
  worker dlq purge --reason UserNotFound --export gone.ndjson`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	pick.flags(fs)
	fs.StringVar(&u.export, "export", "", "file to write to, which must not exist (default deadletters-TIME.ndjson)")
	fs.StringVar(&u.confirmed, "confirm", "", "the number of dead letters to remove; any other number removes nothing")
	fs.DurationVar(&u.options.Wait, "lock-wait", 90*time.Second, lockWaitHelp)
	u.flags(fs, "show what would be removed, and remove nothing")
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) (err error) {
		from, err := pick.open(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		if err := u.begin(ctx, cfg); err != nil {
			return err
		}
		defer func() { err = u.end(ctx, err) }()
		return u.purge(ctx, from)
	})
}

// purge removes the dead letters, or shows what it would remove.
func (u *purging) purge(ctx context.Context, from *picked) error {
	makePlan := planner(func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error) {
		return q.PlanPurge(ctx, f, each)
	})
	if u.dryRun {
		return u.show(from, makePlan, "Nothing would be removed.", func(plan *replay.Plan) string {
			return fmt.Sprintf("Would remove %s of %s", summary(plan), plan.Source)
		})
	}
	if _, err := os.Lstat(u.export); err == nil {
		return errExists(u.export) // before anybody is asked
	}
	var plans []planned
	total := 0
	err := from.eachQueue(func(q *replay.Queue, f replay.Filter) (int, error) {
		plan, err := makePlan.of(q, f)
		if err != nil {
			return 0, err
		}
		plans = append(plans, plan)
		total += plan.Selected
		return plan.Selected, nil
	})
	if err != nil {
		return err
	}
	if total == 0 {
		return u.out.value(purgeOutcome{}, func(w io.Writer) { fmt.Fprintln(w, "No dead letters to remove.") })
	}
	for _, plan := range plans {
		fmt.Fprintf(u.stderr, "%s: %s\n", plan.Source, summary(plan.Plan))
	}
	err = u.confirm(ctx, question{
		text:  fmt.Sprintf("This removes them permanently. Type how many to confirm (%d): ", total),
		given: u.confirmed, accepts: []string{strconv.Itoa(total)}, refusal: "nothing was removed",
	})
	if err != nil {
		return err
	}
	return u.remove(ctx, plans)
}

// remove removes what is planned and confirmed, and prints what happened.
func (u *purging) remove(ctx context.Context, plans []planned) error {
	outcome, err := u.removeAll(ctx, plans)
	if outcome == nil {
		return err
	}
	if err := errors.Join(err, u.out.value(outcome, outcome.print)); err != nil {
		return err
	}
	return outcome.undone()
}

// removeAll removes what is planned and confirmed. It returns no outcome if nothing was begun.
func (u *purging) removeAll(ctx context.Context, plans []planned) (*purgeOutcome, error) {
	if u.export == "" {
		u.export = "deadletters-" + time.Now().UTC().Format("20060102T150405Z") + ".ndjson"
	}
	file, err := createExport(u.export)
	if err != nil {
		return nil, err
	}
	outcome := &purgeOutcome{Export: u.export}
	var steps []step
	for _, plan := range plans {
		if plan.Selected > 0 {
			steps = append(steps, u.step(plan, file, outcome))
		}
	}
	if err := u.announce(ctx, steps...); err != nil {
		return nil, errors.Join(err, file.discard())
	}
	err = u.carryOut(ctx, "purging", steps...)
	if file.records == 0 {
		outcome.Export = ""
		return outcome, errors.Join(err, file.discard())
	}
	return outcome, errors.Join(err, file.close())
}

// step returns the removal of one queue's dead letters. It adds to the outcome what happened.
func (u *purging) step(plan planned, file *exportFile, outcome *purgeOutcome) step {
	record := func(found []replay.Found) error {
		if err := file.write(found); err != nil {
			return fail(exitFailed, "%v; what was not written is not removed", err)
		}
		return nil
	}
	return step{
		about: audit.Operation{Source: plan.Source, File: u.export}, sequences: plan.sequences, total: plan.Selected,
		finished: []string{"purged", "gone"},
		do: func(ctx context.Context, progress func(int)) (map[string]int, error) {
			options := u.options
			options.Progress, options.Waiting = progress, u.waiting(plan.Source)
			result, err := plan.queue.Purge(ctx, plan.Plan, record, options)
			outcome.Purged += result.Purged
			outcome.Gone += result.Gone
			outcome.Left += result.Left
			outcome.Refused += result.Refused
			outcome.Problems = append(outcome.Problems, result.Problems...)
			return map[string]int{"purged": result.Purged, "gone": result.Gone, "left": result.Left, "refused": result.Refused}, err
		},
	}
}

// purgeOutcome is what a purge prints.
type purgeOutcome struct {
	Export string `json:"export"` // empty if there is no file, because nothing was removed
	replay.PurgeResult
}

// undone returns an error if something was not removed.
func (o purgeOutcome) undone() error {
	switch {
	case o.Left > 0 && o.Export == "":
		return fail(exitFailed, "not done: %s; repeat the command", letters(o.Left))
	case o.Left > 0:
		return fail(exitFailed, "not done: %s; repeat the command with another --export to continue", letters(o.Left))
	case o.Refused > 0:
		return fail(exitFailed, "not removed: %s that cannot be exported completely; see docs/runbook.md, section 9",
			letters(o.Refused))
	}
	return nil
}

// counts are what happened to the messages that were not removed, in words.
func (o purgeOutcome) counts() []countOf {
	return []countOf{
		{o.Gone, textGone},
		{o.Left, textLeft},
		{o.Refused, "not removed, because the export would not be complete"},
	}
}

func (o purgeOutcome) print(w io.Writer) {
	if o.Export == "" {
		fmt.Fprintln(w, "No dead letters were removed, and no file was written.")
	} else {
		fmt.Fprintf(w, "%s removed and written to %s\n", letters(o.Purged), o.Export)
	}
	printCounts(w, o.counts())
	for _, problem := range o.Problems {
		fmt.Fprintf(w, "  %s\n", plain(problem))
	}
}
