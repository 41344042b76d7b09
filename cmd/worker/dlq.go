package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

func (p *program) dlqCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "dlq",
		Short: "List, show, replay, purge, export and import dead letters",
		Long: `List, show, replay, purge, export and import the dead letters of the configured
queues and subscriptions. docs/runbook.md shows in which order to use these
commands.`,
	}
	return group(cmd, p.dlqList(), p.dlqShow(), p.dlqReplay(), p.dlqStatus(), p.dlqPurge(), p.dlqExport(), p.dlqImport())
}

func (p *program) dlqList() *cobra.Command {
	var pick picking
	var group string
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List dead letters, or count them by reason, user, hour or day",
		Long: `List dead letters, or count them by reason, user, hour or day. This only peeks:
it locks and changes nothing, and the worker keeps running.`,
		Example: `  worker dlq list --group-by reason
  worker dlq list --reason RetriesExhausted --since 12h
  worker dlq list --user ada@contoso.com --output ndjson`,
		Args: cobra.NoArgs,
	}
	pick.flags(cmd.Flags())
	cmd.Flags().StringVar(&group, "group-by", "", "count by reason, user, hour or day (UTC) instead")
	complete(cmd, "group-by", func() (values []string) {
		for _, key := range replay.GroupKeys() {
			values = append(values, string(key))
		}
		return values
	})
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) error {
		by := replay.GroupKey(group)
		if group != "" && !slices.Contains(replay.GroupKeys(), by) {
			return fail(exitUsage, "--group-by: %q is not reason, user, hour or day", group)
		}
		from, err := pick.open(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		if group != "" {
			return countLetters(ctx, from, by, out)
		}
		list := &rows{output: out, header: letterHeader(from.several())}
		err = from.each(ctx, (*replay.Queue).Find, func(found replay.Found) error {
			return list.add(found.Letter, letterRow(found.Letter, from.several()))
		})
		if err != nil {
			return err
		}
		list.end(noLetters(from.filter))
		return nil
	})
}

// noLetters is what is printed if no dead letter was found.
func noLetters(f replay.Filter) string {
	if f.IsZero() {
		return "No dead letters."
	}
	return "No dead letter that the filter picks."
}

// countLetters prints how many dead letters there are by reason, user, hour or day.
func countLetters(ctx context.Context, from *picked, by replay.GroupKey, out *output) error {
	groups := &replay.Groups{By: by}
	err := from.each(ctx, (*replay.Queue).Find, func(found replay.Found) error {
		groups.Add(found.Letter)
		return nil
	})
	if err != nil {
		return err
	}
	list := &rows{output: out, header: table.Row{strings.ToUpper(string(by)), "COUNT", "OLDEST", "NEWEST"}}
	for _, g := range groups.All() {
		key := plain(g.Key)
		if key == "" {
			key = "–"
		}
		if err := list.add(g, table.Row{key, g.Count, when(g.Oldest), when(g.Newest)}); err != nil {
			return err
		}
	}
	list.end(noLetters(from.filter))
	return nil
}

func (p *program) dlqShow() *cobra.Command {
	var pick picking
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "show SEQUENCE-NUMBER",
		Short: "Show everything about one dead letter, and what to do about it",
		Long: `Show everything about one dead letter: its body and properties, why it failed,
what Graph answered, which messages it superseded, and what to do about it. This
only peeks.`,
		Example: `  worker dlq show 4711`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&pick.source, "source", "", "the queue or subscription, if several are configured")
	out.flag(cmd.Flags())
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		number, err := pick.one(args[0])
		if err != nil {
			return err
		}
		from, err := pick.open(cfg)
		if err != nil {
			return err
		}
		defer from.close()
		var all []replay.Found
		err = from.each(ctx, (*replay.Queue).Find, func(found replay.Found) error {
			all = append(all, found)
			return nil
		})
		switch {
		case err != nil:
			return err
		case len(all) == 0:
			return fail(exitNotFound, "there is no dead letter with the sequence number %d: "+
				"it was replayed or purged, or it is in another --source", number)
		case len(all) > 1:
			return fail(exitUsage, "%s and %s both have a dead letter with this number: choose one with --source", all[0].Source,
				all[1].Source)
		}
		record, err := replay.NewRecord(all[0])
		if err != nil && !errors.Is(err, replay.ErrNoOriginal) { // show what is known
			return fail(exitFailed, "%v", err)
		}
		guide := deadletter.GuideTo(all[0].Reason)
		shown := struct {
			replay.Record
			Meaning string `json:"meaning"`
			Action  string `json:"action"`
		}{record, guide.Meaning, guide.Action}
		return out.value(shown, func(w io.Writer) { showLetter(w, p.columns > 0, all[0], record, guide) })
	})
}

func letterHeader(several bool) table.Row {
	header := table.Row{"NUMBER", "ENQUEUED", "USER", "REASON", "ATTEMPTS", "DESCRIPTION"}
	if several {
		header = append(header, "SOURCE")
	}
	return header
}

func letterRow(l replay.Letter, several bool) table.Row {
	description := short(plain(l.Summary()), 60)
	row := table.Row{l.SequenceNumber, when(l.Enqueued), listed(l.Users), plain(l.Reason), l.Attempts, description}
	if several {
		row = append(row, l.Source)
	}
	return row
}
