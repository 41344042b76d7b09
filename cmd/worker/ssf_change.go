package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest/ssf"
)

// ssfChange runs a command that changes a stream at its transmitter, and records it in the audit log.
func (p *program) ssfChange(c *change, cmd *cobra.Command, plan func(ctx context.Context, r *remote) (func() error, error)) *cobra.Command {
	because(cmd.Flags(), &c.act, "why")
	c.out.flag(cmd.Flags())
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) (err error) {
		r, err := oneRemote(ctx, cfg, args[0])
		if err != nil {
			return err
		}
		do, err := plan(ctx, r)
		if err != nil || do == nil {
			return err
		}
		if err := c.begin(ctx, cfg); err != nil {
			return err
		}
		about := audit.Operation{Source: r.Name, To: r.Issuer}
		defer func() {
			c.record.done(about, err)
			err = c.end(ctx, err)
		}()
		if err := c.record.start(ctx, about); err != nil {
			return err
		}
		return do()
	})
}

func (p *program) ssfCreate() *cobra.Command {
	c := p.newChange("ssf create")
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a stream at its transmitter",
		Long: `Create a stream at its transmitter, with the delivery and the events of
ingest.streams. If the stream is there already, nothing changes. For delivery by
push, the transmitter gets the address (url) and the secret (secret_file).`,
		Example: `  worker ssf create keycloak --config worker.yaml --why "SEC-311"`,
		Args:    cobra.ExactArgs(1),
	}
	return p.ssfChange(c, cmd, func(ctx context.Context, r *remote) (func() error, error) {
		if r.Delivery == ssf.Push && r.URL == "" {
			return nil, fail(exitUsage, "%s: url: required, the public address to which the transmitter pushes", r.Name)
		}
		s, err := r.client.Find(ctx, r.metadata, r.spec)
		if err == nil {
			shown := r.shown(s)
			return nil, c.out.value(shown, func(w io.Writer) {
				shown.print(w)
				fmt.Fprintf(w, "It is there already: nothing was changed.\nTo do: worker ssf update %s, if its events differ.\n", r.Name)
				if shown.Problem != "" {
					fmt.Fprintln(w, textAudience)
				}
			})
		}
		if !errors.Is(err, ssf.ErrNoStream) {
			return nil, explainSSF(err, r.Name)
		}
		return func() error {
			s, err := r.client.Create(ctx, r.metadata, r.spec)
			if err != nil {
				return explainSSF(err, r.Name)
			}
			shown := r.shown(s)
			return c.out.value(shown, func(w io.Writer) {
				shown.print(w)
				fmt.Fprintln(w, "Created.")
				next(w, r, shown)
			})
		}, nil
	})
}

const textAudience = "To do: correct the audience (Problem), before worker ingest can accept tokens."

// next prints what to do after a stream was created.
func next(w io.Writer, r *remote, shown shownStream) {
	for _, requested := range r.spec.Events {
		if len(shown.Delivered) > 0 && !slices.Contains(shown.Delivered, requested) {
			fmt.Fprintf(w, "Not delivered by this transmitter: %s\n", requested)
		}
	}
	switch {
	case shown.Problem != "":
		fmt.Fprintln(w, textAudience)
	case r.metadata.DefaultSubjects == "NONE":
		fmt.Fprintf(w, "To do: the transmitter sends nothing about anybody before you name them: worker ssf subject add %s\n", r.Name)
	default:
		fmt.Fprintf(w, "To do: start worker ingest, if it does not run, and then: worker ssf verify %s\n", r.Name)
	}
}

func (p *program) ssfUpdate() *cobra.Command {
	c := p.newChange("ssf update")
	cmd := &cobra.Command{
		Use:   "update NAME",
		Short: "Bring the events and the delivery of a stream up to date",
		Long: `Bring the requested events and the delivery of a stream at its transmitter up to
date with ingest.streams. For delivery by push, the transmitter also gets the
secret of secret_file again: run it after a rotation.`,
		Example: `  worker ssf update keycloak --config worker.yaml`,
		Args:    cobra.ExactArgs(1),
	}
	return p.ssfChange(c, cmd, func(ctx context.Context, r *remote) (func() error, error) {
		s, err := r.find(ctx)
		if err != nil {
			return nil, err
		}
		return func() error {
			changed, err := r.client.Update(ctx, r.metadata, s.ID, r.spec)
			if err != nil {
				return explainSSF(err, r.Name)
			}
			if changed.ID == "" {
				changed = s
			}
			shown := r.shown(changed)
			return c.out.value(shown, func(w io.Writer) {
				shown.print(w)
				fmt.Fprintf(w, "The transmitter has accepted the update.\nTo do: worker ssf verify %s\n", r.Name)
			})
		}, nil
	})
}

func (p *program) ssfStatus() *cobra.Command {
	c := p.newChange("ssf status")
	var set, reason string
	cmd := &cobra.Command{
		Use:   "status NAME",
		Short: "Show or set the status of a stream: enabled, paused, or disabled",
		Long: `Show the status of a stream, or set it. The transmitter keeps the events of a
paused stream, as long as it can. Those of a disabled one are lost.`,
		Example: `  worker ssf status keycloak --config worker.yaml
  worker ssf status keycloak --config worker.yaml --set enabled`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&set, "set", "", "new status: enabled, paused, or disabled")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the transmitter")
	return p.ssfChange(c, cmd, func(ctx context.Context, r *remote) (func() error, error) {
		if set != "" && !slices.Contains([]string{ssf.Enabled, ssf.Paused, ssf.Disabled}, set) {
			return nil, fail(exitUsage, "--set: %q is not enabled, paused, or disabled", set)
		}
		s, err := r.find(ctx)
		if err != nil {
			return nil, err
		}
		show := func(status ssf.Status) error {
			return c.out.value(status, func(w io.Writer) {
				fmt.Fprintf(w, "%s is %s", r.Name, plain(short(status.Status, 40)))
				if status.Reason != "" {
					fmt.Fprintf(w, ": %s", plain(short(status.Reason, 200)))
				}
				fmt.Fprintln(w)
			})
		}
		if set == "" {
			status, err := r.client.Status(ctx, r.metadata, s.ID)
			if err != nil {
				return nil, explainSSF(err, r.Name)
			}
			return nil, show(status)
		}
		return func() error {
			status, err := r.client.SetStatus(ctx, r.metadata, ssf.Status{ID: s.ID, Status: set, Reason: reason})
			if err != nil {
				return explainSSF(err, r.Name)
			}
			if status.Status == "" {
				fmt.Fprintln(p.stderr, "The transmitter has accepted the request, and carries it out later.")
				fmt.Fprintf(p.stderr, "To do: worker ssf status %s\n", r.Name)
				return nil
			}
			return show(status)
		}, nil
	})
}

func (p *program) ssfDelete() *cobra.Command {
	c := p.newChange("ssf delete")
	var yes bool
	cmd := &cobra.Command{
		Use:   "delete NAME",
		Short: "Delete a stream at its transmitter",
		Long: `Delete a stream at its transmitter. What the transmitter still holds for it is
lost, and no event comes any more: nobody is signed out because of them. Stop
worker ingest first, or remove the stream from its settings.`,
		Example: `  worker ssf delete keycloak --config worker.yaml --why "moved to Okta"`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return p.ssfChange(c, cmd, func(ctx context.Context, r *remote) (func() error, error) {
		s, err := r.find(ctx)
		if err != nil {
			return nil, err
		}
		q := question{
			text: fmt.Sprintf("The stream %s (%s) of %s will be deleted, with what it holds. Continue? [y/N] ", r.Name,
				plain(short(s.ID, 40)), r.Issuer),
			accepts: []string{"y", "yes"}, refusal: "nothing was changed; --yes skips the question",
		}
		if yes {
			q.given = "yes"
		}
		if err := c.confirm(ctx, q); err != nil {
			return nil, err
		}
		return func() error {
			if err := r.client.Delete(ctx, r.metadata, s.ID); err != nil {
				return explainSSF(err, r.Name)
			}
			shown := r.shown(s)
			return c.out.value(shown, func(w io.Writer) {
				fmt.Fprintf(w, "Deleted: the stream %s of %s.\n", plain(short(s.ID, 40)), r.Issuer)
				fmt.Fprintf(w, "To do: remove %s from ingest.streams.\n", r.Name)
			})
		}, nil
	})
}

func (p *program) ssfSubject() *cobra.Command {
	return group(&cobra.Command{Use: "subject", Short: "Say about whom a transmitter sends events"},
		p.ssfSubjectChange("add", "Let a transmitter send events about somebody",
			`Let a transmitter send events about somebody. This is needed if it sends none
before it is told about whom (default_subjects NONE).`, false),
		p.ssfSubjectChange("remove", "Let a transmitter send no more events about somebody",
			`Let a transmitter send no more events about somebody: they are then not signed
out because of it.`, true))
}

func (p *program) ssfSubjectChange(verb, short, long string, remove bool) *cobra.Command {
	c := p.newChange("ssf subject " + verb)
	var address, given string
	cmd := &cobra.Command{
		Use: verb + " NAME", Short: short, Long: long,
		Example: `  worker ssf subject ` + verb + ` keycloak --config worker.yaml \
    --email ada@contoso.com
  worker ssf subject ` + verb + ` keycloak --config worker.yaml \
    --subject '{"format":"iss_sub","iss":"https://idp","sub":"248289"}'`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().StringVar(&address, "email", "", "their email address")
	cmd.Flags().StringVar(&given, "subject", "", "any identifier of RFC 9493, as JSON")
	return p.ssfChange(c, cmd, func(ctx context.Context, r *remote) (func() error, error) {
		var subject map[string]any
		switch {
		case (address == "") == (given == ""):
			return nil, fail(exitUsage, "give one of --email and --subject")
		case address != "":
			subject = map[string]any{"format": "email", "email": address}
		case json.Unmarshal([]byte(given), &subject) != nil || subject["format"] == nil:
			return nil, fail(exitUsage, `--subject: not a JSON object with a format, such as {"format":"email","email":"ada@contoso.com"}`)
		}
		s, err := r.find(ctx)
		if err != nil {
			return nil, err
		}
		return func() error {
			if err := r.client.Subject(ctx, r.metadata, s.ID, subject, remove); err != nil {
				return explainSSF(err, r.Name)
			}
			done := map[string]any{"name": r.Name, "streamId": s.ID, "subject": subject}
			return c.out.value(done, func(w io.Writer) {
				text := "The transmitter now sends events about them on %s.\n"
				if remove {
					text = "The transmitter sends no more events about them on %s.\n"
				}
				fmt.Fprintf(w, text, r.Name)
			})
		}, nil
	})
}
