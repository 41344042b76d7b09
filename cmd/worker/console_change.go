package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/console"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/replay"
)

// The console's changes take the steps of change: it makes the plan, and the console asks. Then the
// change goes on with the same plan: with the letters that were there, and no later ones.

// previewed is a plan for each queue.
type previewed struct {
	plans []planned
	total int
	first []replay.Letter
	pick  picking
}

// preview makes a plan for each queue that is picked. It calls before with the open queues.
func (o *operations) preview(ctx context.Context, p console.Pick, before func(*picked) error,
	makePlan func(context.Context) planner,
) (previewed, error) {
	ctx, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	v := previewed{pick: picking{source: p.Source}}
	from, err := v.pick.openFor(o.cfg, p.Filter)
	if err != nil {
		return v, err
	}
	defer from.close()
	if err := before(from); err != nil {
		return v, err
	}
	plan := makePlan(ctx)
	err = from.eachQueue(func(q *replay.Queue, f replay.Filter) (int, error) {
		one, err := planner(func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error) {
			return plan(q, f, func(l replay.Letter) {
				each(l)
				if len(v.first) < console.MaxFirst {
					v.first = append(v.first, l)
				}
			})
		}).of(q, f)
		if err != nil {
			return 0, err
		}
		v.plans = append(v.plans, one)
		v.total += one.Selected
		return one.Selected, nil
	})
	return v, err
}

// reopen opens the queues again, to make what is planned.
func (v *previewed) reopen(cfg config.Config) (*picked, error) {
	from, err := v.pick.openFor(cfg, replay.Filter{})
	if err != nil {
		return nil, err
	}
	for i := range v.plans {
		v.plans[i].queue = from.queues[i] // in the order of the settings, both times
	}
	return from, nil
}

// change returns what the console shows of a plan.
func (v *previewed) change(kind console.Kind) *console.Change {
	c := &console.Change{
		Kind: kind, Total: v.total, Confirm: strconv.Itoa(v.total), First: v.first, Reasons: map[string]int{},
	}
	for _, plan := range v.plans {
		for reason, n := range plan.Reasons {
			c.Reasons[reason] += n
		}
		if left := leftOut(plan.Plan); left != "" {
			c.Notes = append(c.Notes, plan.Source+left)
		}
		c.Notes = append(c.Notes, plan.Skipped...)
	}
	return c
}

// begun tells a change who makes it and why, and whom to tell how far it is.
func begun(c *change, why string, progress func(console.Progress)) {
	c.act.Why = why
	c.watch = func(done, waiting int) { progress(console.Progress{Done: done, Waiting: waiting}) }
}

// PlanReplay implements console.Operations.
func (o *operations) PlanReplay(ctx context.Context, by string, p console.Pick) (*console.Change, error) {
	return o.planReplay(ctx, by, p, nil)
}

// planReplay plans a replay, or the sending of edited messages.
func (o *operations) planReplay(
	ctx context.Context, by string, p console.Pick, edit *edit,
) (*console.Change, error) {
	r := &replaying{change: o.newChange("dlq replay"), to: o.to, maxReplays: o.maxReplays, run: replay.NewRun(by)}
	r.options.Rate, r.options.Parallel = o.rate, 4
	r.act.By, r.act.Run = by, r.run.ID
	if edit != nil {
		r.act.Command, r.edited = "dlq edit", edit.hash()
		r.options.Message = func(found replay.Found) (*azservicebus.AMQPAnnotatedMessage, error) {
			return edit.message(r.run, found)
		}
	}
	v, err := o.preview(ctx, p, func(from *picked) error {
		if err := r.knowsWhere(from); err != nil {
			return err
		}
		r.client = from.client
		for _, q := range from.queues { // show a missing right now
			if _, err := r.sender(ctx, q); err != nil {
				return err
			}
		}
		return nil
	}, func(ctx context.Context) planner {
		return func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error) {
			return q.PlanReplay(ctx, f, r.run, r.maxReplays, each)
		}
	})
	if err != nil {
		return nil, err
	}
	c := v.change(console.Replay)
	var parts []string
	for _, plan := range v.plans {
		if plan.Selected > 0 {
			parts = append(parts, fmt.Sprintf("%s of %s will be sent to %s again%s", letters(plan.Selected), plan.Source,
				r.destination(plan.Source), lasting(plan.Selected, o.rate)))
		}
	}
	c.Summary = sentenceOf(parts, "There is nothing to replay: "+strings.Join(append(c.Notes,
		"no dead letter that can be sent matches"), "; "))
	c.Make = func(ctx context.Context, why string, progress func(console.Progress)) console.Outcome {
		begun(r.change, why, progress)
		return r.all(ctx, o.cfg, &v)
	}
	return c, nil
}

// all replays what is planned for all queues.
func (r *replaying) all(ctx context.Context, cfg config.Config, v *previewed) (o console.Outcome) {
	o.Run = r.run.ID
	outcomes := make([]replayOutcome, len(v.plans))
	o.Err = func() (err error) {
		from, err := v.reopen(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		r.client = from.client
		if err := r.begin(ctx, cfg); err != nil {
			return err
		}
		defer func() { err = r.end(ctx, err) }()
		var steps []step
		for i, plan := range v.plans {
			outcomes[i] = replayOutcome{RunID: r.run.ID, To: r.destination(plan.Source), Plan: plan.Plan}
			if plan.Selected == 0 {
				continue
			}
			sender, err := r.sender(ctx, plan.queue)
			if err != nil {
				return err
			}
			steps = append(steps, r.step(plan, sender, &outcomes[i]))
		}
		if err := r.announce(ctx, steps...); err != nil {
			return err
		}
		return r.carryOut(ctx, "replaying", steps...)
	}()
	var sum replayOutcome
	unreadable := 0
	for _, one := range outcomes {
		sum.Replayed += one.Replayed
		sum.Twice += one.Twice
		sum.Failed += one.Failed
		sum.Gone += one.Gone
		sum.Left += one.Left
		o.Problems = append(o.Problems, one.Problems...)
		if one.Plan != nil {
			unreadable += one.Unreadable
		}
	}
	o.Counts = counted(countOf{sum.Replayed, "sent again"}, sum.counts())
	if undone := sum.Failed + sum.Left + sum.Twice; o.Err == nil && undone > 0 {
		o.Err = fail(exitFailed, "not done: %s; preview again to continue", letters(undone))
	}
	if o.Err == nil && unreadable > 0 {
		o.Err = notReplayed(unreadable)
	}
	return o
}

// counted returns counts in the console's form.
func counted(first countOf, others []countOf) []console.Count {
	var list []console.Count
	for _, c := range append([]countOf{first}, others...) {
		list = append(list, console.Count{N: c.n, Text: c.text})
	}
	return list
}

// sentenceOf joins parts to a sentence. Without parts, it returns none.
func sentenceOf(parts []string, none string) string {
	if len(parts) == 0 {
		return none + "."
	}
	return strings.Join(parts, "; ") + "."
}

// PlanPurge implements console.Operations.
func (o *operations) PlanPurge(ctx context.Context, by string, p console.Pick) (*console.Change, error) {
	u := &purging{change: o.newChange("dlq purge")}
	u.act.By = by
	v, err := o.preview(ctx, p, func(*picked) error { return nil }, func(ctx context.Context) planner {
		return func(q *replay.Queue, f replay.Filter, each func(replay.Letter)) (*replay.Plan, error) {
			return q.PlanPurge(ctx, f, each)
		}
	})
	if err != nil {
		return nil, err
	}
	c := v.change(console.Purge)
	var parts []string
	for _, plan := range v.plans {
		if plan.Selected > 0 {
			parts = append(parts, fmt.Sprintf("%s of %s will be removed permanently, after each is written to a file",
				letters(plan.Selected),
				plan.Source))
		}
	}
	c.Summary = sentenceOf(parts, "There is nothing to remove: no dead letter matches")
	c.Make = func(ctx context.Context, why string, progress func(console.Progress)) (out console.Outcome) {
		begun(u.change, why, progress)
		u.export = filepath.Join(o.exports, "deadletters-"+time.Now().UTC().Format("20060102T150405.000Z")+".ndjson")
		var outcome *purgeOutcome
		out.Err = func() (err error) {
			from, err := v.reopen(o.cfg)
			if err != nil {
				return err
			}
			defer from.close()
			if err := u.begin(ctx, o.cfg); err != nil {
				return err
			}
			defer func() { err = u.end(ctx, err) }()
			outcome, err = u.removeAll(ctx, v.plans)
			if err == nil {
				err = outcome.undone()
			}
			return err
		}()
		if outcome != nil {
			out.Counts = counted(countOf{outcome.Purged, "removed"}, outcome.counts())
			out.Problems, out.File = outcome.Problems, outcome.Export
		}
		return out
	}
	return c, nil
}

// edit is another body for one dead letter.
type edit struct {
	of   replay.Found // as it was when it was edited
	body string
}

// hash identifies the new body in the audit log.
func (e *edit) hash() string {
	sum := sha256.Sum256([]byte(e.body))
	return hex.EncodeToString(sum[:])
}

// message returns the message to send for the dead letter, if it is still the one that was edited.
func (e *edit) message(run replay.Run, now replay.Found) (*azservicebus.AMQPAnnotatedMessage, error) {
	if now.MessageID != e.of.MessageID || !bytes.Equal(deadletter.Content(now.Message).Body, deadletter.Content(e.of.Message).Body) {
		return nil, errChanged
	}
	record, err := replay.NewRecord(now)
	if err != nil {
		return nil, err
	}
	record.Body, record.BodyText, record.OnlyEvents = nil, &e.body, nil // another body has other events
	return record.Message(run)
}

// errChanged means that a letter is not the one that was edited.
var errChanged = errors.New("this is not the message that was edited: the queue was created again meanwhile")

// PlanEdit implements console.Operations. The audit log has the change as dlq edit, with the hash of
// the new body.
func (o *operations) PlanEdit(ctx context.Context, by, source string, sequence int64, body string) (*console.Change, error) {
	var found replay.Found
	err := o.reading.use(o.cfg, func(from *picked) (err error) {
		found, err = findLetter(ctx, from, source, sequence)
		return err
	})
	if err != nil {
		return nil, err
	}
	before, err := replay.NewRecord(found)
	if err != nil {
		return nil, fail(exitFailed, "%v", err)
	}
	if before.Body == nil && before.BodyText == nil {
		return nil, fail(exitUsage, "the body is no text, so it cannot be edited here: worker dlq export writes it to a file")
	}
	sent := &edit{found, editedBody(before, body)}
	c, err := o.planReplay(ctx, by, console.Pick{Source: source, Filter: oneLetter(sequence)}, sent)
	if err != nil || c.Total == 0 {
		return c, err
	}
	c.Kind, c.Confirm = console.Edit, strconv.FormatInt(sequence, 10)
	c.Summary = "The message will be sent with the edited body, and then the dead letter is removed."
	c.Before, c.After = console.BodyText(before), body
	if json.Valid([]byte(body)) && before.Body != nil { // the difference is not about white space
		var pretty bytes.Buffer
		_ = json.Indent(&pretty, []byte(body), "", "  ")
		c.After = pretty.String()
	}
	if err := o.addProspects(c, found, sent.body); err != nil {
		return nil, fail(exitFailed, "%v", err)
	}
	return c, nil
}

// editedBody returns the body to send. Between its elements, JSON has the white space that it had.
func editedBody(before replay.Record, edited string) string {
	var compact bytes.Buffer
	if json.Compact(&compact, before.Body) == nil && bytes.Equal(compact.Bytes(), before.Body) {
		compact.Reset()
		if json.Compact(&compact, []byte(edited)) == nil {
			return compact.String()
		}
	}
	return edited
}

// addProspects adds to an edit what the worker would do with the message, as worker event test says
// it.
func (o *operations) addProspects(c *console.Change, found replay.Found, body string) error {
	_, decoder, outlook, err := outlookOf(o.cfg, nil)
	if err != nil {
		return err
	}
	message := deadletter.Content(found.Message)
	message.Body = []byte(body)
	all := understand(decoder, outlook, message, "")
	for i, u := range all {
		if i == console.MaxFirst {
			c.Notes = append(c.Notes, fmt.Sprintf("and %s more", count(len(all)-i, "event")))
			break
		}
		who := strings.TrimSpace(u.User.ID + " " + u.User.UserPrincipalName + " " + u.User.LookUp)
		switch u.Outcome {
		case consumer.WouldDeadLetter, consumer.WouldDefer:
			c.Warnings = append(c.Warnings, fmt.Sprintf("With this body, event %d signs nobody out: %s", u.Index, u.Reason))
		default:
			c.Notes = append(c.Notes, fmt.Sprintf("With this body, the outcome of event %d is %s: %s (%s)", u.Index, u.Outcome, who,
				u.Type))
		}
	}
	return nil
}

// PlanRelease implements console.Operations.
func (o *operations) PlanRelease(_ context.Context, by string, r guard.Release) (*console.Change, error) {
	r.By = by
	if err := r.Check(time.Now()); err != nil {
		return nil, err
	}
	kind := "each type"
	if r.Type != "" {
		kind = r.Type
	}
	c := &console.Change{
		Kind: console.Release, Total: r.MaxUsers, Confirm: strconv.Itoa(r.MaxUsers),
		Summary: fmt.Sprintf("Up to %s may be signed out for %s until %s.", count(r.MaxUsers, "person", "people"), kind, when(r.Until)),
	}
	file := o.cfg.Guard.ReleaseFile
	if file != "" {
		c.Notes = []string{
			"The release is written to " + file + ", from which the workers read it. A release without a type replaces all others.",
		}
	} else {
		c.Notes = []string{"guard.release_file of the console's settings names no file: the console shows what to apply to the ConfigMap."}
	}
	c.Make = func(ctx context.Context, why string, _ func(console.Progress)) console.Outcome {
		if why == "" {
			why = r.Reason
		}
		text, err := o.release(ctx, o.cfg, r, file, why)
		out := console.Outcome{File: file, Err: err}
		if err != nil {
			out.File = ""
		} else if file == "" {
			out.Text = string(text)
		}
		return out
	}
	return c, nil
}
