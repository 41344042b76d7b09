package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/event/mapping"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/ingest"
)

func (p *program) eventCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "event",
		Short: "Show how the worker understands producers' messages",
		Long: `Show how the worker understands producers' messages: which mapping reads a
message, whom it is about, and what would happen. docs/mappings.md shows how to
write a mapping.`,
	}
	return group(cmd, p.eventTest(), p.eventExplain())
}

// keysWithin bounds how long fetching the keys of transmitters takes.
const keysWithin = 15 * time.Second

func (p *program) eventTest() *cobra.Command {
	var properties map[string]string
	var contentType, subject, source string
	var trials []string
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "test [FILE…]",
		Short: "Show what a message would be understood as, and what would happen",
		Long: `Show what a message would be understood as: which mapping reads it, whom it is
about, why and when, and what the worker would do. Each file, or standard input,
is the body of one message. Nothing is sent, and no service is asked: whether an
account exists is not known. Only the keys that verify a Security Event Token
are fetched. The command needs no settings, and follows those that it finds.

It exits with 0 if the worker would act on every event, and with 1 if it would
dead-letter one, or cannot judge it yet.`,
		Example: `  worker event test okta-hook.json
  worker event test --mapping my-mdm.yaml lost.json wiped.xml
  worker event test --subject lost --content-type application/json body.json`,
	}
	fs := cmd.Flags()
	fs.StringToStringVar(&properties, "property", nil, "application property of the message, as NAME=VALUE; repeatable")
	fs.StringVar(&contentType, "content-type", "", "content type of the message")
	fs.StringVar(&source, "source", "", "name of the source of worker ingest that the message comes from")
	fs.StringVar(&subject, "subject", "", "subject (label) of the message")
	fs.StringSliceVar(&trials, "mapping", nil, "file with mappings to try before all others; repeatable")
	out.flag(fs)
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		tokens, decoder, outlook, err := outlookOf(cfg, trials)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		message := event.Message{ContentType: contentType, Subject: subject, Properties: map[string]any{}}
		if source != "" {
			message.Properties[ingest.PropertySource] = source
		}
		for name, value := range properties {
			message.Properties[name] = value
		}
		if len(args) == 0 {
			args = []string{"-"}
		}
		var all []understood
		for _, name := range args {
			if message.Body, err = p.readInput(name); err != nil {
				return err
			}
			if tokens.IsToken(message) && cfg.Events.TransmittersFile != "" {
				fetching, cancel := context.WithTimeout(ctx, keysWithin)
				tokens.Refresh(fetching) // the result of the event says what went wrong
				cancel()
			}
			all = append(all, understand(decoder, outlook, message, name)...)
		}
		return showUnderstood(out, all)
	})
}

// outlookOf returns what decides how the worker understands a message, and what it does then.
func outlookOf(cfg config.Config, trials []string) (*secevent.Verifier, *mapping.Decoder, consumer.Outlook, error) {
	tokens, err := app.NewVerifier(cfg, nil)
	if err != nil {
		return nil, nil, consumer.Outlook{}, err
	}
	decoder, err := app.NewDecoder(cfg, app.DecoderOptions{Tokens: tokens, Trials: trials})
	if err != nil {
		return nil, nil, consumer.Outlook{}, err
	}
	protected, err := app.NewProtected(cfg)
	if err != nil {
		return nil, nil, consumer.Outlook{}, err
	}
	return tokens, decoder, consumer.Outlook{
		Protected: protected, Horizon: cfg.Events.Horizon, MaxAge: cfg.Events.MaxAge, Now: time.Now(),
	}, nil
}

// understood is how the worker understands one event.
type understood struct {
	File    string `json:"file"`
	Index   int    `json:"index"`
	Mapping string `json:"mapping"`
	Type    string `json:"type"`
	User    struct {
		ID                string `json:"id"`
		UserPrincipalName string `json:"userPrincipalName"`
		// LookUp is how Graph would be asked who the user is: the way and the value.
		LookUp string `json:"lookUp,omitempty"`
	} `json:"user"`
	Device      string     `json:"device"`
	Time        *time.Time `json:"time"`
	TimeUnread  bool       `json:"timeUnread,omitempty"`
	TakesEffect *time.Time `json:"takesEffect,omitempty"`
	ID          string     `json:"id,omitempty"`
	Source      string     `json:"source,omitempty"`
	Outcome     string     `json:"outcome"`
	// Reason is why the event would be dead-lettered, or the producer's reason.
	Reason           string            `json:"reason"`
	DeadLetterReason deadletter.Reason `json:"deadLetterReason,omitempty"`
	Field            string            `json:"field"`
}

// understand returns how the worker understands a message.
func understand(decoder *mapping.Decoder, outlook consumer.Outlook, m event.Message, file string) []understood {
	items, err := decoder.Decode(m)
	if err != nil {
		items = []event.Item{{Err: err}}
	}
	all := make([]understood, len(items))
	for i, item := range items {
		e, u := item.Event, &all[i]
		prospect := consumer.ProspectOf(item, outlook)
		*u = understood{
			File: file, Index: item.Index, Mapping: e.Mapping, Type: e.Type, Device: e.Device, ID: e.ID, Source: e.Source,
			Outcome: prospect.Outcome, Reason: e.Reason, DeadLetterReason: prospect.Reason, Field: e.Field,
		}
		u.User.ID, u.User.UserPrincipalName = e.User.ID(), e.User.UPN()
		if by, _ := e.User.Lookup(); by != event.NoLookup {
			u.User.LookUp = e.User.Name()
		}
		u.TimeUnread = e.TimeUnread
		if !e.Time.IsZero() {
			u.Time = &e.Time
		}
		if !e.TakesEffect.IsZero() {
			u.TakesEffect = &e.TakesEffect
		}
		switch {
		case prospect.Reason != "":
			u.Reason = fmt.Sprintf("%s: %v", prospect.Reason, prospect.Err)
		case prospect.Err != nil:
			u.Reason = prospect.Err.Error()
		}
	}
	return all
}

// showUnderstood prints how the worker understands events. The error says whether it would not act on
// one.
func showUnderstood(out *output, all []understood) error {
	refused := 0
	for _, u := range all {
		if u.Outcome == consumer.WouldDeadLetter || u.Outcome == consumer.WouldDefer {
			refused++
		}
	}
	var err error
	switch out.format {
	case asNDJSON:
		for _, u := range all {
			if err == nil {
				err = out.value(u, nil)
			}
		}
	default:
		err = out.value(all, func(w io.Writer) {
			for i, u := range all {
				if i > 0 {
					fmt.Fprintln(w)
				}
				u.print(w)
			}
		})
	}
	if err == nil && refused > 0 {
		return fail(exitFailed, "%d of %s would be dead-lettered", refused, count(len(all), "event"))
	}
	return err
}

// print prints one event for people.
func (u understood) print(w io.Writer) {
	t := newTable()
	t.SetColumnConfigs([]table.ColumnConfig{{Number: 2, WidthMax: help.Width - len("Takes effect") - 2, WidthMaxEnforcer: wrapHard}})
	line := func(name, value string) {
		if value != "" {
			t.AppendRow(table.Row{name, plain(value)})
		}
	}
	name := u.File
	if name == "-" {
		name = "standard input"
	}
	fmt.Fprintf(w, "%s, event %d: %s\n", plain(name), u.Index, u.Outcome)
	line("Mapping", u.Mapping)
	line("Type", u.Type)
	line("User", strings.TrimSpace(u.User.ID+" "+u.User.UserPrincipalName))
	line("Look-up", u.User.LookUp)
	line("Field", u.Field)
	line("Device", u.Device)
	if u.Time != nil {
		line("Time", when(*u.Time))
	}
	if u.TimeUnread {
		line("Time", "in none of the forms that the mapping reads (time_format); the event counts as new")
	}
	if u.TakesEffect != nil {
		line("Takes effect", when(*u.TakesEffect))
	}
	line("Event id", u.ID)
	line("Source", u.Source)
	line("Reason", u.Reason)
	fmt.Fprintln(w, t.Render())
}

// wrapHard breaks text into lines of at most width characters.
func wrapHard(text string, width int) string {
	var lines []string
	for line := range strings.SplitSeq(help.Wrap(text, width, ""), "\n") {
		for runes := []rune(line); len(runes) > width; runes = []rune(line) {
			lines = append(lines, string(runes[:width]))
			line = string(runes[width:])
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func (p *program) eventExplain() *cobra.Command {
	var preset string
	var trials []string
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "List the mappings in the order in which they are tried",
		Long: `List the mappings in the order in which they are tried. The first one that
matches a message decodes it. Messages in one of the worker's own forms
(docs/events.md) come before all of them.`,
		Example: `  worker event explain
  worker event explain --preset okta > my-okta.yaml`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&preset, "preset", "", "print the file of this preset instead, for example to change a copy of it")
	cmd.Flags().StringSliceVar(&trials, "mapping", nil, "file with mappings to try before all others; repeatable")
	out.flag(cmd.Flags())
	return p.operateGraph(cmd, func(_ context.Context, cfg config.Config, _ []string) error {
		if preset != "" {
			file, ok := mapping.Preset(preset)
			if !ok {
				return fail(exitUsage, "--preset: %q is none of %s", preset, strings.Join(mapping.Presets(), ", "))
			}
			_, err := p.stdout.Write(file.Text)
			return err
		}
		decoder, err := app.NewDecoder(cfg, app.DecoderOptions{Trials: trials})
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		list := &rows{output: out, header: table.Row{"MAPPING", "PRESET OR FILE", "VERSION", "EVENT TYPES"}}
		native := mapping.Info{Name: event.Native, Doc: "docs/events.md", Types: cfg.Events.Types}
		for _, m := range append([]mapping.Info{native}, decoder.Mappings()...) {
			from, version := m.File, "–"
			switch {
			case m.Preset != "":
				from = m.Preset
			case m.Name == event.Native:
				from = "built in"
			}
			if m.Version > 0 {
				version = fmt.Sprint(m.Version)
			}
			if err := list.add(m, table.Row{m.Name, plain(from), version, listedTypes(m)}); err != nil {
				return err
			}
		}
		list.end("")
		return nil
	})
}

// listedTypes returns the event types of a mapping in lines that are short enough for a terminal.
func listedTypes(m mapping.Info) string {
	if len(m.Types) == 0 {
		return "–"
	}
	return strings.Join(m.Types, "\n")
}
