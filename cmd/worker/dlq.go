package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/servicebus"
)

func (p *program) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "List, show, replay, purge, export and import dead letters",
		Long: `List, show, replay, purge, export and import the dead letters of the configured
queues and subscriptions. docs/runbook.md has the order in which one needs them.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(p.dlqList(), p.dlqShow(), p.dlqReplay(), p.dlqPurge(), p.dlqExport(), p.dlqImport())
	return cmd
}

// picking are the flags that pick dead letters.
type picking struct {
	reasons, sequences   []string
	user, producer       string
	source, since, until string
	limit                int
	changes              bool // set by commands that change what is picked
	deferred             bool // set by the command that picks deferred messages
	all                  bool
}

func (f *picking) flags(fs *pflag.FlagSet) {
	if f.deferred {
		fs.StringVar(&f.user, "user", "", "only those about this user: object id or user principal name, as in the event")
	} else {
		fs.StringSliceVar(&f.reasons, "reason", nil, "only with this dead-letter reason; repeatable")
		fs.StringVar(&f.user, "user", "", "only those in which this user failed: object id or user principal name, as in the event")
	}
	fs.StringVar(&f.source, "source", "", "only of this queue or subscription (TOPIC/Subscriptions/NAME), if several are configured")
	fs.StringVar(&f.producer, "producer", "", "only with events whose own source contains this")
	fs.StringVar(&f.since, "since", "", "only enqueued since: a time (2026-03-01T12:00:00Z), a day (2026-03-01), or how long ago (90m, 7d)")
	fs.StringVar(&f.until, "until", "", "only enqueued before: the same forms")
	fs.StringSliceVar(&f.sequences, "seq", nil, "only these sequence numbers: 5,7,10-20")
	fs.IntVar(&f.limit, "limit", 0, "at most so many, the oldest first; 0 is no limit")
	if f.changes {
		fs.BoolVar(&f.all, "all", false, "all dead letters")
	}
}

// filter reads the flags.
func (f *picking) filter(now time.Time) (deadletter.Filter, error) {
	filter := deadletter.Filter{Reasons: f.reasons, User: f.user, Producer: f.producer, Limit: f.limit}
	var err error
	if filter.Sequences, err = deadletter.ParseRanges(f.sequences); err != nil {
		return filter, fail(exitUsage, "--seq: %v", err)
	}
	if filter.Since, err = parseTime(f.since, now); err != nil {
		return filter, fail(exitUsage, "--since: %v", err)
	}
	if filter.Until, err = parseTime(f.until, now); err != nil {
		return filter, fail(exitUsage, "--until: %v", err)
	}
	if f.limit < 0 {
		return filter, fail(exitUsage, "--limit: %d is negative", f.limit)
	}
	return filter, nil
}

// needsPicking: what changes something asks for a filter, or for all on purpose.
func (f *picking) needsPicking(filter deadletter.Filter) error {
	switch {
	case f.all && !filter.IsZero():
		return fail(exitUsage, "both --all and a filter are given: keep one")
	case !f.all && filter.IsZero() && f.source == "":
		return fail(exitUsage, "say which dead letters: a filter (--reason, --user, --source, --producer, --since, --until, --seq), or --all")
	}
	return nil
}

// parseTime reads a time, a day (UTC), or how long ago. "" is the zero time.
func parseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 36500 {
			return now.Add(-time.Duration(n * 24 * float64(time.Hour))), nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time (2026-03-01T12:00:00Z), a day (2026-03-01) or a duration (90m, 7d)", text)
}

// queues opens the dead letters of the configured entities, or of the one that --source names; or, if deferred is set, the
// entities themselves.
func (p *program) queues(cfg config.Config, source string, deferred bool) (client *azservicebus.Client, queues []*deadletter.Queue, err error) {
	entities := cfg.ServiceBus.Entities()
	if source != "" {
		i := slices.IndexFunc(entities, func(e string) bool { return strings.EqualFold(e, source) })
		if i < 0 {
			return nil, nil, fail(exitUsage, "--source: %q is not configured; there is %s", source, strings.Join(entities, ", "))
		}
		entities = entities[i : i+1]
	}
	decoder, err := event.NewDecoder(event.Config{Types: cfg.Events.Types, AnyType: true})
	if err != nil {
		return nil, nil, err
	}
	client, guard, err := app.NewServiceBusWithOriginals(cfg)
	if err != nil {
		return nil, nil, err
	}
	for _, entity := range entities {
		open := func() (deadletter.Receiver, error) { return servicebus.NewReceiver(client, entity, !deferred) }
		receiver, err := open()
		if err != nil {
			return nil, nil, err
		}
		queues = append(queues, &deadletter.Queue{Entity: entity, Receiver: receiver, Decoder: decoder, Open: open, Original: guard.Original})
	}
	return client, queues, nil
}

// open reads the flags and opens the dead letters that they can pick from.
func (f *picking) open(p *program, cfg config.Config) (filter deadletter.Filter, client *azservicebus.Client, queues []*deadletter.Queue, err error) {
	if filter, err = f.filter(time.Now()); err == nil && f.changes {
		err = f.needsPicking(filter)
	}
	if err == nil {
		client, queues, err = p.queues(cfg, f.source, f.deferred)
	}
	return filter, client, queues, err
}

// everyFound are the dead letters of all queues that the filter picks, at most its limit together. Errors are explained.
func everyFound(ctx context.Context, queues []*deadletter.Queue, filter deadletter.Filter) iter.Seq2[deadletter.Found, error] {
	return everyOf(ctx, queues, filter, (*deadletter.Queue).Find)
}

// everyOf is everyFound for what find finds.
func everyOf(ctx context.Context, queues []*deadletter.Queue, filter deadletter.Filter, find func(*deadletter.Queue, context.Context, deadletter.Filter) iter.Seq2[deadletter.Found, error]) iter.Seq2[deadletter.Found, error] {
	return func(yield func(deadletter.Found, error) bool) {
		n, each := 0, filter
		each.Limit = 0
		for _, q := range queues {
			for found, err := range find(q, ctx, each) {
				if err != nil {
					err = explain(err, q.Entity)
				}
				if n++; !yield(found, err) || err != nil || n == filter.Limit {
					return
				}
			}
		}
	}
}

// closeTimeout bounds the closing of the connection at the end.
const closeTimeout = 2 * time.Second

func closeClient(client *azservicebus.Client) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	_ = client.Close(ctx)
}

func letterHeader(several bool) table.Row {
	header := table.Row{"ENQUEUED", "USER", "REASON", "ATTEMPTS", "DESCRIPTION", "SEQUENCE NUMBER"}
	if several {
		header = append(header, "SOURCE")
	}
	return header
}

func letterRow(l deadletter.Letter, several bool) table.Row {
	row := table.Row{when(l.Enqueued), listed(l.Users), plain(l.Reason), l.Attempts, short(plain(unread(l)+l.Description), 60), l.SequenceNumber}
	if several {
		row = append(row, l.Source)
	}
	return row
}

// unread says, before a description, that the client library cannot read all of the message.
func unread(l deadletter.Letter) string {
	switch {
	case l.Unreadable != "":
		return "[unreadable] "
	case l.Mended != "":
		return "[partly unreadable] "
	}
	return ""
}

func (p *program) dlqList() *cobra.Command {
	var pick picking
	var group string
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, or count them by reason, user or day",
		Long: `List dead letters, or count them by reason, user or day. It only peeks: nothing is
locked or changed, and the worker goes on meanwhile.`,
		Example: `  worker dlq list --group-by reason
  worker dlq list --reason RetriesExhausted --since 12h
  worker dlq list --user ada@contoso.com --output ndjson`,
		Args: cobra.NoArgs,
	}
	pick.flags(cmd.Flags())
	cmd.Flags().StringVar(&group, "group-by", "", "count by reason, user or day (UTC) instead")
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) error {
		groups := &deadletter.Groups{By: deadletter.GroupKey(group)}
		if group != "" && !slices.Contains([]deadletter.GroupKey{deadletter.ByReason, deadletter.ByUser, deadletter.ByDay}, groups.By) {
			return fail(exitUsage, "--group-by: %q is not reason, user or day", group)
		}
		filter, client, queues, err := pick.open(p, cfg)
		if err != nil {
			return err
		}
		defer closeClient(client)
		several := len(queues) > 1
		list := &rows{output: out, header: letterHeader(several)}
		for found, err := range everyFound(ctx, queues, filter) {
			if err != nil {
				return err
			}
			if group != "" {
				groups.Add(found.Letter)
			} else if err := list.add(found.Letter, letterRow(found.Letter, several)); err != nil {
				return err
			}
		}
		if group != "" {
			list.header = table.Row{strings.ToUpper(group), "COUNT", "OLDEST", "NEWEST"}
			for _, g := range groups.All() {
				key := plain(g.Key)
				if key == "" {
					key = "–"
				}
				if err := list.add(g, table.Row{key, g.Count, when(g.Oldest), when(g.Newest)}); err != nil {
					return err
				}
			}
		}
		list.end("No dead letters.")
		return nil
	})
}

func (p *program) dlqShow() *cobra.Command {
	var source string
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:     "show SEQUENCE-NUMBER",
		Short:   "Show everything about one dead letter, and what to do about it",
		Long:    `Show everything about one dead letter: its body and properties, why it failed, what Graph answered, which messages it stood for, and what to do about it. It only peeks.`,
		Example: `  worker dlq show 4711`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&source, "source", "", "the queue or subscription, if several are configured")
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		ranges, err := deadletter.ParseRanges(args)
		if err != nil || ranges[0].From != ranges[0].To {
			return fail(exitUsage, "%q is not a sequence number", args[0])
		}
		client, queues, err := p.queues(cfg, source, false)
		if err != nil {
			return err
		}
		defer closeClient(client)
		var all []deadletter.Found
		for found, err := range everyFound(ctx, queues, deadletter.Filter{Sequences: ranges}) {
			if err != nil {
				return err
			}
			all = append(all, found)
		}
		switch len(all) {
		case 0:
			return fail(exitNotFound, "there is no dead letter with the sequence number %d: it was replayed or purged, or --source is another one", ranges[0].From)
		case 1:
		default:
			return fail(exitUsage, "%s and %s both have a dead letter with this number: choose by --source", all[0].Source, all[1].Source)
		}
		record, err := deadletter.NewRecord(all[0])
		if err != nil && !errors.Is(err, deadletter.ErrNoOriginal) { // what is known can be shown all the same
			return fail(exitFailed, "%v", err)
		}
		guide := deadletter.GuideTo(all[0].Reason)
		shown := struct {
			deadletter.Record
			Meaning string `json:"meaning"`
			Action  string `json:"action"`
		}{record, guide.Meaning, guide.Action}
		return out.value(shown, func(w io.Writer) { showLetter(w, all[0], record, guide) })
	})
}
