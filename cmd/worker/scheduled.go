package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/schedule"
)

func (p *program) scheduledCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scheduled",
		Short: "List, show, cancel, or bring forward events with a date",
		Long: `List, show, cancel, or bring forward scheduled messages: copies of events that
take effect later, which Service Bus keeps until then. A message that withdraws
what was announced for a person is kept as well, and signs nobody out.
See docs/scheduling.md, and docs/runbook.md, section 11.`,
	}
	return group(cmd, p.scheduledList(), p.scheduledShow(), p.scheduledCancel(), p.scheduledNow())
}

// scheduledMessage is a scheduled message as it is printed.
type scheduledMessage struct {
	Source         string `json:"source"`
	SequenceNumber int64  `json:"sequenceNumber"`
	// At is when the message becomes active. EffectiveTime is when its event takes effect; it is absent
	// for one that only withdraws.
	At            time.Time `json:"at"`
	EffectiveTime time.Time `json:"effectiveTime,omitzero"`
	Withdrawn     bool      `json:"withdrawn,omitempty"`
	// Version is when the event was announced: of two events about one person the later one counts.
	Version   time.Time `json:"version"`
	Users     []string  `json:"users"`
	Types     []string  `json:"types"`
	Producers []string  `json:"producers,omitempty"`
	Mapping   string    `json:"mapping"`
	MessageID string    `json:"messageId"`
	// OriginalID is the id of the message that this one is a copy of, and FirstEnqueued when that one
	// was enqueued.
	OriginalID    string    `json:"originalMessageId,omitempty"`
	FirstEnqueued time.Time `json:"firstEnqueued"`

	announcement schedule.Announcement
}

// newScheduled reads a message that FindScheduled has found.
func newScheduled(q replay.Decoder, found replay.Found) scheduledMessage {
	a, _ := schedule.Read(found.Message, q)
	from, _ := deadletter.ReadSchedule(found.Message)
	return scheduledMessage{
		Source: found.Source, SequenceNumber: found.SequenceNumber, At: a.At, EffectiveTime: a.Event.TakesEffect,
		Withdrawn: a.Event.Withdrawn, Version: a.Version, Users: found.Users, Types: found.Types, Producers: found.Producers,
		Mapping: a.Event.Mapping, MessageID: found.MessageID, OriginalID: from.From, FirstEnqueued: from.FirstEnqueued,
		announcement: a,
	}
}

func (m scheduledMessage) row(several bool) table.Row {
	effective := when(m.EffectiveTime)
	if m.Withdrawn {
		effective = "withdrawn, kept until " + when(m.At)
	}
	row := table.Row{m.SequenceNumber, effective, listed(m.Users), listed(m.Types), when(m.Version), plain(m.Mapping)}
	if several {
		row = append(row, m.Source)
	}
	return row
}

func scheduledHeader(several bool) table.Row {
	header := table.Row{"NUMBER", "TAKES EFFECT", "USER", "EVENT TYPE", "ANNOUNCED", "MAPPING"}
	if several {
		header = append(header, "SOURCE")
	}
	return header
}

// openScheduled opens the queues that can hold scheduled messages.
func (p *program) openScheduled(pick *picking, cfg config.Config) (*picked, error) {
	pick.deferred = true
	from, err := pick.open(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.ServiceBus.Sessions > 0 {
		fmt.Fprintln(p.stderr, "With servicebus.sessions, nothing is scheduled.")
		from.queues = nil // a peek would need a session
	}
	return from, nil
}

func (p *program) scheduledList() *cobra.Command {
	pick := picking{deferred: true, dates: true}
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List scheduled messages",
		Long: `List the scheduled messages of each queue, in the order of their sequence
numbers. This only peeks: it changes nothing, and the worker keeps running.
Service Bus cannot peek at scheduled messages alone, so the command looks
through all waiting messages. --since and --until pick by the date.`,
		Example: `  worker scheduled list
  worker scheduled list --until 7d
  worker scheduled list --user ada@contoso.com --output ndjson`,
		Args: cobra.NoArgs,
	}
	pick.flags(cmd.Flags())
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) error {
		from, err := p.openScheduled(&pick, cfg)
		if err != nil {
			return err
		}
		defer from.close()
		several := from.several()
		list := &rows{output: out, header: scheduledHeader(several)}
		err = from.eachQueue(func(q *replay.Queue, f replay.Filter) (n int, err error) {
			for found, err := range q.FindScheduled(ctx, f) {
				if err != nil {
					return n, err
				}
				n++
				m := newScheduled(q.Decoder, found)
				if err := list.add(m, m.row(several)); err != nil {
					return n, err
				}
			}
			return n, nil
		})
		if err != nil {
			return err
		}
		none := "No scheduled messages."
		if !from.filter.IsZero() {
			none = "No scheduled message that the filter picks."
		}
		list.end(none)
		return nil
	})
}

func (p *program) scheduledShow() *cobra.Command {
	pick := picking{deferred: true}
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:     "show SEQUENCE-NUMBER",
		Short:   "Show everything about one scheduled message",
		Long:    `Show everything about one scheduled message, and its body. This only peeks.`,
		Example: `  worker scheduled show 4711`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&pick.source, "source", "", "the queue, if several are configured")
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		if _, err := pick.one(args[0]); err != nil {
			return err
		}
		from, err := p.openScheduled(&pick, cfg)
		if err != nil {
			return err
		}
		defer from.close()
		all, err := findScheduled(ctx, from)
		switch {
		case err != nil:
			return err
		case len(all) == 0:
			return notScheduled(args)
		case len(all) > 1:
			return fail(exitUsage, "%s and %s both have a scheduled message with this number: choose one with --source",
				all[0].Source, all[1].Source)
		}
		record, err := replay.NewRecord(all[0].found)
		if err != nil {
			return fail(exitFailed, "%v", err)
		}
		shown := struct {
			scheduledMessage
			Body replay.Record `json:"message"`
		}{all[0].scheduledMessage, record}
		return out.value(shown, func(w io.Writer) { showScheduled(w, all[0].scheduledMessage, record) })
	})
}

// foundScheduled is a scheduled message with the queue that holds it.
type foundScheduled struct {
	scheduledMessage
	found replay.Found
	queue *replay.Queue
}

// findScheduled returns the scheduled messages that were picked by their numbers.
func findScheduled(ctx context.Context, from *picked) (all []foundScheduled, err error) {
	err = from.eachQueue(func(q *replay.Queue, f replay.Filter) (n int, err error) {
		for found, err := range q.FindScheduled(ctx, f) {
			if err != nil {
				return n, err
			}
			n++
			all = append(all, foundScheduled{newScheduled(q.Decoder, found), found, q})
		}
		return n, nil
	})
	return all, err
}

func notScheduled(numbers []string) error {
	return fail(exitNotFound, "there is no scheduled message with the sequence number %s: it was canceled, its date has come, "+
		"or it is in another --source", strings.Join(numbers, ", "))
}

func showScheduled(w io.Writer, m scheduledMessage, record replay.Record) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-18s %s\n", name, plain(value))
		}
	}
	line("Sequence number", fmt.Sprint(m.SequenceNumber))
	line("Source", m.Source)
	line("Users", strings.Join(m.Users, ", "))
	line("Event types", strings.Join(m.Types, ", "))
	line("Events' sources", strings.Join(m.Producers, ", "))
	line("Mapping", m.Mapping)
	if m.Withdrawn {
		line("Withdrawn", "what was announced before for this person does not happen; nobody is signed out for this message")
	}
	if !m.EffectiveTime.IsZero() {
		line("Takes effect", when(m.EffectiveTime))
	}
	line("Becomes active", when(m.At))
	line("Announced", when(m.Version))
	line("First enqueued", when(m.FirstEnqueued))
	line("Message id", m.MessageID)
	line("First message id", m.OriginalID)
	showProperties(w, "Properties set by the producer", record.Properties)
	fmt.Fprintln(w, "\nBody")
	fmt.Fprintln(w, body(record))
}
