package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest"
	"github.com/session-revoker/session-revoker/ingest/ssf"
)

func (p *program) ssfCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssf",
		Short: "Create, show, and delete streams of shared signals",
		Long: `Create, show, and delete streams of shared signals (SSF, CAEP, RISC) at their
transmitters. NAME is a stream of ingest.streams in the configuration file. The
commands speak with the transmitter only. worker ingest receives the tokens.
See docs/shared-signals.md.`,
	}
	return group(cmd, p.ssfCreate(), p.ssfShow(), p.ssfUpdate(), p.ssfStatus(), p.ssfVerify(), p.ssfSubject(), p.ssfDelete())
}

// remote is a stream of the settings, and what speaks with its transmitter.
type remote struct {
	config.IngestStream
	client   *ssf.Client
	tokens   ingest.Tokens
	metadata ssf.Metadata
	spec     ssf.Spec
}

// shownStream is a stream as it is printed.
type shownStream struct {
	Name      string   `json:"name"`
	Issuer    string   `json:"issuer"`
	Delivery  string   `json:"delivery"`
	Metadata  string   `json:"metadata,omitempty"`
	ID        string   `json:"streamId,omitempty"`
	Status    string   `json:"status,omitempty"`
	Reason    string   `json:"reason,omitempty"`
	Audience  []string `json:"audience,omitempty"`
	Endpoint  string   `json:"endpoint,omitempty"`
	Requested []string `json:"eventsRequested,omitempty"`
	Delivered []string `json:"eventsDelivered,omitempty"`
	Heartbeat string   `json:"heartbeatEvery,omitempty"`
	Problem   string   `json:"problem,omitempty"`
}

// remotes returns the streams with these names, or all of them.
func remotes(cfg config.Config, names ...string) ([]*remote, error) {
	if len(cfg.Ingest.Streams) == 0 {
		return nil, fail(exitUsage, "no streams are configured: list them in ingest.streams of the file that --config names "+
			"(docs/shared-signals.md)")
	}
	tokens, err := app.NewVerifier(cfg, nil)
	if err == nil {
		err = ingest.Check(cfg.Ingest, tokens)
	}
	if err != nil {
		return nil, fail(exitUsage, "%v", err)
	}
	own, err := app.NewNetwork(cfg)
	if err != nil {
		return nil, err
	}
	transport := app.Explaining(own.Transport())
	var list []*remote
	var known []string
	for _, c := range cfg.Ingest.Streams {
		c.Delivery = cmp.Or(c.Delivery, ssf.Poll)
		c.VerifyEvery = cmp.Or(c.VerifyEvery, ingest.DefaultVerifyEvery)
		known = append(known, c.Name)
		if len(names) > 0 && c.Name != names[0] {
			continue
		}
		r := &remote{IngestStream: c, tokens: tokens}
		if r.client, err = ingest.NewStreamClient(c, transport); err != nil {
			return nil, fail(exitUsage, "%s: %v", c.Name, err)
		}
		if r.spec, err = ingest.StreamSpec(c); err != nil {
			return nil, fail(exitUsage, "%s: %v", c.Name, err)
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, fail(exitUsage, "%q is no stream of ingest.streams; there are: %s", names[0], strings.Join(known, ", "))
	}
	return list, nil
}

// oneRemote returns the stream with a name, and its transmitter's metadata.
func oneRemote(ctx context.Context, cfg config.Config, name string) (*remote, error) {
	list, err := remotes(cfg, name)
	if err != nil {
		return nil, err
	}
	r := list[0]
	if r.PollURL != "" {
		return nil, fail(exitUsage, "%s has poll_url: its transmitter has no API for streams", r.Name)
	}
	if r.metadata, err = r.client.Discover(ctx); err != nil {
		return nil, explainSSF(err, r.Name)
	}
	return r, nil
}

// find returns the stream at the transmitter.
func (r *remote) find(ctx context.Context) (ssf.Stream, error) {
	s, err := r.client.Find(ctx, r.metadata, r.spec)
	return s, explainSSF(err, r.Name)
}

// shown returns the stream as it is printed.
func (r *remote) shown(s ssf.Stream) shownStream {
	shown := shownStream{
		Name: r.Name, Issuer: r.Issuer, Delivery: r.Delivery, Metadata: r.metadata.Found, ID: s.ID, Audience: s.Audience,
		Endpoint: s.Delivery.Endpoint, Requested: s.Requested, Delivered: s.Delivered,
	}
	if r.metadata.Verification != "" && s.ID != "" {
		shown.Heartbeat = s.VerifyEvery(r.VerifyEvery).String()
	}
	if err := ingest.Audience(r.tokens, s, r.Issuer); err != nil {
		shown.Problem = err.Error()
	}
	return shown
}

// print prints the stream for people.
func (s shownStream) print(w io.Writer) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-12s%s\n", name, plain(short(value, 200)))
		}
	}
	line("Stream", s.Name)
	line("Issuer", s.Issuer)
	line("Delivery", s.Delivery)
	line("Metadata", s.Metadata)
	line("Stream ID", s.ID)
	line("Status", s.Status)
	line("Reason", s.Reason)
	line("Audience", strings.Join(s.Audience, " "))
	line("Endpoint", s.Endpoint)
	line("Heartbeats", s.Heartbeat)
	for i, uri := range s.Requested[:min(len(s.Requested), maxShown)] {
		line([]string{"Requested", ""}[min(i, 1)], uri)
	}
	for i, uri := range s.Delivered[:min(len(s.Delivered), maxShown)] {
		line([]string{"Delivered", ""}[min(i, 1)], uri)
	}
	line("Problem", s.Problem)
}

// maxShown bounds how many events of a transmitter's list are printed.
const maxShown = 40

func (p *program) ssfShow() *cobra.Command {
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "show [NAME]",
		Short: "Show a stream, or all of them",
		Long: `Show a stream as its transmitter describes it, or all streams. When a token last
came, only the running worker ingest knows: worker doctor --ingest.`,
		Example: `  worker ssf show --config worker.yaml
  worker ssf show keycloak --config worker.yaml --output json`,
		Args: cobra.MaximumNArgs(1),
	}
	out.flag(cmd.Flags())
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		list, err := remotes(cfg, args...)
		if err != nil {
			return err
		}
		if len(args) == 1 {
			shown, err := list[0].look(ctx)
			if err != nil {
				return err
			}
			if err := out.value(shown, shown.print); err != nil || shown.Problem == "" {
				return err
			}
			return &exitError{code: exitFailed} // the output has said why
		}
		all := &rows{output: out, header: table.Row{"NAME", "DELIVERY", "STATUS", "STREAM ID"}}
		var problems []string
		for _, r := range list {
			shown, err := r.look(ctx)
			if err != nil {
				shown = r.shown(ssf.Stream{})
				shown.Problem = strings.TrimPrefix(err.Error(), r.Name+": ")
			}
			if shown.Problem != "" {
				problems = append(problems, shown.Name+": "+shown.Problem)
			}
			status, id := cmp.Or(shown.Status, "–"), cmp.Or(shown.ID, "–")
			row := table.Row{shown.Name, shown.Delivery, plain(short(status, 10)), plain(short(id, 24))}
			if err := all.add(shown, row); err != nil {
				return err
			}
		}
		all.end("")
		if len(problems) > 0 {
			return fail(exitFailed, "%s", strings.Join(problems, "\nworker: "))
		}
		return nil
	})
}

// look returns the stream with its status.
func (r *remote) look(ctx context.Context) (shownStream, error) {
	if r.PollURL != "" {
		shown := r.shown(ssf.Stream{})
		shown.Endpoint = r.PollURL
		return shown, nil
	}
	var err error
	if r.metadata, err = r.client.Discover(ctx); err != nil {
		return shownStream{}, explainSSF(err, r.Name)
	}
	s, err := r.find(ctx)
	if err != nil {
		return shownStream{}, err
	}
	shown := r.shown(s)
	if r.metadata.Status != "" {
		status, err := r.client.Status(ctx, r.metadata, s.ID)
		if err != nil {
			return shownStream{}, explainSSF(err, r.Name)
		}
		shown.Status, shown.Reason = status.Status, status.Reason
	}
	return shown, nil
}

// explainSSF turns an error about a transmitter into one with an exit code.
func explainSSF(err error, name string) error {
	if err == nil {
		return nil
	}
	if _, done := errors.AsType[*exitError](err); done {
		return err
	}
	code := exitFailed
	refused, answered := errors.AsType[*ssf.Error](err)
	_, unreachable := errors.AsType[net.Error](err)
	switch {
	case errors.Is(err, ssf.ErrNoStream):
		return fail(exitNotFound, "%s: %v: create it with worker ssf create %s", name, err, name)
	case errors.Is(err, context.Canceled):
		return fail(exitFailed, "stopped")
	case answered && (refused.Status == http.StatusUnauthorized || refused.Status == http.StatusForbidden):
		code = exitUnauthorized
	case unreachable, errors.Is(err, context.DeadlineExceeded):
		code = exitUnreachable
	}
	return fail(code, "%s: %s", name, plain(firstLine(err)))
}

func (p *program) ssfVerify() *cobra.Command {
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "verify NAME",
		Short: "Ask the transmitter for a heartbeat, to see that tokens come",
		Long: `Ask the transmitter for a verification event. It comes on the stream: worker
ingest takes note of it, and writes a log line ("heartbeat of the stream"). It
does not go onto the queue. worker ingest asks by itself, too (verify_every).`,
		Example: `  worker ssf verify keycloak --config worker.yaml`,
		Args:    cobra.ExactArgs(1),
	}
	out.flag(cmd.Flags())
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		r, err := oneRemote(ctx, cfg, args[0])
		if err != nil {
			return err
		}
		s, err := r.find(ctx)
		if err != nil {
			return err
		}
		asked := struct {
			Name  string    `json:"name"`
			ID    string    `json:"streamId"`
			State string    `json:"state"`
			At    time.Time `json:"at"`
		}{r.Name, s.ID, fmt.Sprintf("operator-%d", time.Now().UnixNano()), time.Now().UTC()}
		if err := r.client.Verify(ctx, r.metadata, s.ID, asked.State); err != nil {
			return explainSSF(err, r.Name)
		}
		return out.value(asked, func(w io.Writer) {
			fmt.Fprintf(w, "The transmitter of %s has accepted the request for a verification event.\n", r.Name)
			fmt.Fprintln(w, `To do: look for "heartbeat of the stream" in the log of worker ingest.`)
		})
	})
}
