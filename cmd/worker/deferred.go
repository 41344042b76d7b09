package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/replay"
)

func (p *program) deferredCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "deferred",
		Short: "List messages that the worker has deferred",
		Long: `List deferred messages: those that the worker leaves in Service Bus for a while,
because too many users fail at once. The worker receives them again by itself.
See docs/runbook.md, section 10.`,
	}
	return group(cmd, p.deferredList())
}

// deferredMessage is a deferred message as it is printed.
type deferredMessage struct {
	Source         string    `json:"source"`
	SequenceNumber int64     `json:"sequenceNumber"`
	Enqueued       time.Time `json:"enqueued"`
	AgeSeconds     int64     `json:"ageSeconds"`
	MessageID      string    `json:"messageId"`
	Users          []string  `json:"users,omitempty"`
	Types          []string  `json:"types,omitempty"`
	Producers      []string  `json:"producers,omitempty"`
	// Replays counts the replays of the message. Run identifies the last one.
	Replays    int    `json:"replays,omitempty"`
	Run        string `json:"run,omitempty"`
	Unreadable string `json:"unreadable,omitempty"`
	Mended     string `json:"mended,omitempty"`
}

func newDeferred(l replay.Letter, now time.Time) deferredMessage {
	age := time.Duration(0)
	if !l.Enqueued.IsZero() {
		age = max(0, now.Sub(l.Enqueued)) // this machine's clock may be behind the broker's
	}
	return deferredMessage{
		Source: l.Source, SequenceNumber: l.SequenceNumber, Enqueued: l.Enqueued, AgeSeconds: int64(age / time.Second),
		MessageID: l.MessageID,
		Users:     l.Users, Types: l.Types, Producers: l.Producers, Replays: l.Replays, Run: l.Run, Unreadable: l.Unreadable,
		Mended: l.Mended,
	}
}

func (m deferredMessage) row(several bool) table.Row {
	age, types := time.Duration(m.AgeSeconds)*time.Second, listed(m.Types)
	if m.Unreadable != "" {
		types = "[unreadable]"
	}
	row := table.Row{m.SequenceNumber, when(m.Enqueued), age.String(), listed(m.Users), types, short(plain(m.MessageID), 40)}
	if several {
		row = append(row, m.Source)
	}
	return row
}

func (p *program) deferredList() *cobra.Command {
	pick := picking{deferred: true}
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List deferred messages, oldest first",
		Long: `List the deferred messages of each queue or subscription, oldest first. This
only peeks: it locks and changes nothing, and the worker keeps running. Service
Bus cannot peek at deferred messages alone, so the command looks through all
waiting messages. With servicebus.sessions, there are no deferred messages.`,
		Example: `  worker deferred list
  worker deferred list --until 1h
  worker deferred list --user ada@contoso.com --output ndjson`,
		Args: cobra.NoArgs,
	}
	pick.flags(cmd.Flags())
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) error {
		from, err := pick.open(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		several := from.several()
		list := &rows{output: out, header: table.Row{"NUMBER", "ENQUEUED", "AGE", "USER", "EVENT TYPE", "MESSAGE ID"}}
		if several {
			list.header = append(list.header, "SOURCE")
		}
		if cfg.ServiceBus.Sessions > 0 {
			fmt.Fprintln(p.stderr, "With servicebus.sessions, the worker defers nothing. It releases a message together with its session.")
			from.queues = nil // a peek would need a session
		}
		now := time.Now()
		err = from.each(ctx, (*replay.Queue).FindDeferred, func(found replay.Found) error {
			m := newDeferred(found.Letter, now)
			return list.add(m, m.row(several))
		})
		if err != nil {
			return err
		}
		none := "No deferred messages."
		if !from.filter.IsZero() {
			none = "No deferred message that the filter picks."
		}
		list.end(none)
		return nil
	})
}
