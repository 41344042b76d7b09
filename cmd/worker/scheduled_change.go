package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
)

// scheduledChange is one run of scheduled cancel or scheduled now.
type scheduledChange struct {
	*change
	yes  bool
	verb string // what happens to the messages: canceled, or brought forward
	// before, if not nil, is done for each message before it is canceled.
	before func(ctx context.Context, sender *azservicebus.Sender, m scheduledMessage) error
	// check, if not nil, returns why it cannot be done for a message.
	check func(scheduledMessage) error
}

// scheduledOutcome is what a change prints.
type scheduledOutcome struct {
	// Done counts the messages that the change was done for. Gone counts those whose date has come, or
	// that somebody else has canceled in the meantime.
	Done int `json:"done"`
	Gone int `json:"gone,omitempty"`
}

func (p *program) scheduledCancel() *cobra.Command {
	c := &scheduledChange{change: p.newChange("scheduled cancel"), verb: "canceled"}
	cmd := &cobra.Command{
		Use:   "cancel SEQUENCE-NUMBER...",
		Short: "Cancel scheduled messages: their events are never acted on",
		Long: `Cancel scheduled messages. Their events are gone, and nobody is signed out for
them. The HR system knows nothing of this: if it announces a date again, that
one is scheduled. To cancel a message that withdraws lets an older event that
comes late take effect.`,
		Example: `  worker scheduled cancel 4711 --why "leaves a month later, HR-2041"
  worker scheduled cancel 4711 4713-4720 --dry-run`,
	}
	return p.scheduledChange(cmd, c)
}

func (p *program) scheduledNow() *cobra.Command {
	c := &scheduledChange{change: p.newChange("scheduled now"), verb: "brought forward", before: sendNow, check: mayBringForward}
	cmd := &cobra.Command{
		Use:   "now SEQUENCE-NUMBER...",
		Short: "Act on scheduled messages now instead of at their date",
		Long: `Act on scheduled messages now. The command first sends an event about the same
person without a date, and then cancels the scheduled message. So nothing is
lost if it is killed in between: the person is signed out now, and once more at
the date.`,
		Example: `  worker scheduled now 4711 --why "left today"`,
	}
	return p.scheduledChange(cmd, c)
}

// scheduledChange completes the command of a change.
func (p *program) scheduledChange(cmd *cobra.Command, c *scheduledChange) *cobra.Command {
	cmd.Args = cobra.MinimumNArgs(1)
	pick := picking{deferred: true}
	fs := cmd.Flags()
	fs.StringVar(&pick.source, "source", "", "the queue, if several are configured")
	fs.BoolVarP(&c.yes, "yes", "y", false, "do not ask")
	c.flags(fs, "show what would be "+c.verb+", and change nothing")
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) (err error) {
		if _, err := replay.ParseRanges(args); err != nil {
			return fail(exitUsage, "%v", err)
		}
		pick.sequences = args
		from, err := p.openScheduled(&pick, cfg)
		if err != nil {
			return err
		}
		defer from.close()
		if err := c.begin(ctx, cfg); err != nil {
			return err
		}
		defer func() { err = c.end(ctx, err) }()
		return c.run(ctx, from, args)
	})
}

// run does the change, or shows what it would do.
func (c *scheduledChange) run(ctx context.Context, from *picked, numbers []string) error {
	all, err := findScheduled(ctx, from)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return notScheduled(numbers)
	}
	several := from.several()
	list := &rows{output: &output{w: c.stderr, format: asTable, columns: c.columns}, header: scheduledHeader(several)}
	if c.dryRun {
		list.output = c.out
	}
	for _, m := range all {
		if c.check != nil {
			if err := c.check(m.scheduledMessage); err != nil {
				return fail(exitFailed, "%d: %v; nothing was changed", m.SequenceNumber, err)
			}
		}
		if err := list.add(m.scheduledMessage, m.row(several)); err != nil {
			return err
		}
	}
	list.end("")
	var missed error
	missing := notFound(numbers, all)
	if len(missing) > 0 {
		fmt.Fprintf(c.stderr, "Not found: %s\n", strings.Join(missing, ", "))
		missed = notScheduled(missing)
	}
	if c.dryRun {
		fmt.Fprintf(c.stderr, "Would be %s: %s\n", c.verb, count(len(all), "scheduled message"))
		return missed
	}
	q := question{
		text:    fmt.Sprintf("%s will be %s. Continue? [y/N] ", count(len(all), "scheduled message"), c.verb),
		accepts: []string{"y", "yes"}, refusal: "nothing was changed; --yes skips the question",
	}
	if c.yes {
		q.given = "yes"
	}
	if err := c.confirm(ctx, q); err != nil {
		return err
	}
	var outcome scheduledOutcome
	var steps []step
	for _, q := range from.queues {
		if s, some := c.step(from.client, q, all, &outcome); some {
			steps = append(steps, s)
		}
	}
	steps[0].leftOut = len(missing)
	if err := c.announce(ctx, steps...); err != nil {
		return err
	}
	err = c.carryOut(ctx, c.verb, steps...)
	if err == nil && c.before == nil && outcome.Gone > 0 {
		err = fail(exitFailed, "not canceled: %s; if the date has come, the person is being signed out", count(outcome.Gone, "message"))
	}
	return errors.Join(err, c.out.value(outcome, func(w io.Writer) {
		fmt.Fprintf(w, "%s %s\n", count(outcome.Done, "scheduled message"), c.verb)
		printCounts(w, []countOf{{outcome.Gone, "gone in the meantime: the date has come, or somebody else canceled it"}})
	}), missed)
}

// notFound returns the numbers that name none of the messages. Ranges may have gaps.
func notFound(numbers []string, all []foundScheduled) (missing []string) {
	for _, number := range numbers {
		n, err := strconv.ParseInt(number, 10, 64)
		if err == nil && !slices.ContainsFunc(all, func(m foundScheduled) bool { return m.SequenceNumber == n }) {
			missing = append(missing, number)
		}
	}
	return missing
}

// step returns the change of one queue's messages; some is false if it has none.
func (c *scheduledChange) step(
	client *azservicebus.Client, q *replay.Queue, all []foundScheduled, outcome *scheduledOutcome,
) (s step, some bool) {
	var mine []scheduledMessage
	var numbers []int64
	for _, m := range all {
		if m.queue == q {
			mine, numbers = append(mine, m.scheduledMessage), append(numbers, m.SequenceNumber)
		}
	}
	var canceled []int64
	s = step{
		about: audit.Operation{Source: q.Entity}, sequences: numbers, total: len(mine), finished: []string{"canceled"},
		changed: func() []int64 { return canceled },
	}
	if c.before != nil { // what came at its date in the meantime is acted on as well
		s.finished = append(s.finished, "gone")
	}
	s.do = func(ctx context.Context, progress func(int)) (map[string]int, error) {
		counts := map[string]int{}
		sender, err := openSender(ctx, client, q.Entity)
		if err != nil {
			return counts, err
		}
		for _, m := range mine {
			if c.before != nil {
				if err := c.before(ctx, sender, m); err != nil {
					return counts, err
				}
				counts["sent"]++
			}
			_, err := within(ctx, func(ctx context.Context) (bool, error) {
				return true, sender.CancelScheduledMessages(ctx, []int64{m.SequenceNumber}, nil)
			})
			var answer *azservicebus.Error
			switch {
			case err == nil:
				counts["canceled"]++
				canceled = append(canceled, m.SequenceNumber)
				outcome.Done++
			case errors.As(err, &answer) && answer.Code == azservicebus.CodeNotFound:
				counts["gone"]++
				outcome.Gone++
			default:
				return counts, err
			}
			progress(1)
		}
		return counts, nil
	}
	return s, len(mine) > 0
}

// mayBringForward returns why a message cannot be acted on now.
func mayBringForward(m scheduledMessage) error {
	switch by, _ := m.announcement.User.Lookup(); {
	case m.Withdrawn:
		return errors.New("the message withdraws what was announced, and there is nobody to sign out")
	case by != event.NoLookup:
		return errors.New("the event names the person neither by id nor by user principal name: " +
			"use worker revoke, and then scheduled cancel")
	}
	return nil
}

// sendNow sends an event about the person of a scheduled message, without a date. It is a new event
// of the project's own form: no property could tell the worker to act early, because a producer could
// write the same property.
func sendNow(ctx context.Context, sender *azservicebus.Sender, m scheduledMessage) error {
	e := m.announcement.Event
	body, err := json.Marshal(struct {
		Type   string `json:"type"`
		ID     string `json:"id,omitempty"`
		Source string `json:"source,omitempty"`
		UserID string `json:"userId,omitempty"`
		UPN    string `json:"userPrincipalName,omitempty"`
	}{e.Type, e.ID, e.Source, e.User.ID(), e.User.UPN()})
	if err != nil {
		return err
	}
	_, err = within(ctx, func(ctx context.Context) (bool, error) {
		return true, sender.SendMessage(ctx, &azservicebus.Message{MessageID: new(uuid.NewString()), Body: body}, nil)
	})
	return err
}
