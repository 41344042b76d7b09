package main

import (
	"context"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest"
)

func (p *program) ingestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ingest",
		Short: "Receive webhooks and shared signals until SIGTERM",
		Long: `Receive webhooks and shared signals, and put them on the queue, until SIGTERM.

This is for senders that can only call a URL. Each one is a source in the
configuration file, with its path and a way to verify it (docs/ingest.md).
A sender gets a success only when Service Bus has the message.

It also polls the transmitters of shared signals, which are the streams in the
configuration file, or takes what they push (docs/shared-signals.md). It
verifies each token, and acknowledges it only when Service Bus has it.

Run it beside worker run, as its own deployment: its identity needs to send
to the queue, and nothing else. It does not call Graph.

On the first SIGTERM or SIGINT, it takes no more requests and finishes those in
flight, for at most consumer.drain_timeout. On the second, it stops at once.

Settings come from flags, environment variables and a YAML file, in this order
of precedence. docs/configuration.md lists them all.`,
		Args: cobra.NoArgs,
	}
	config.Flags(cmd.Flags())
	for _, o := range config.Options() { // the others belong to worker run
		group, _, _ := strings.Cut(o.Key, ".")
		used := slices.Contains([]string{"servicebus", "events", "ingest", "tls", "ops", "log"}, group)
		if !used && o.Key != "consumer.drain_timeout" && o.Flag != "" {
			_ = cmd.Flags().MarkHidden(o.Flag)
		}
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), p.environ)
		if err != nil {
			return err
		}
		server, err := app.NewIngest(cfg, p.log)
		if err != nil {
			return err
		}
		soft, hard, stop := app.Signals(cmd.Context())
		defer stop()
		if err := server.Run(soft, hard); err != nil {
			return fail(exitFailed, "%v", err)
		}
		return nil
	}
	return cmd
}

// checkIngest checks the sources of worker ingest and their secrets.
func checkIngest(cfg config.Config, f *findings) {
	if len(cfg.Ingest.Sources)+len(cfg.Ingest.Streams) == 0 {
		return
	}
	var tokens ingest.Tokens
	if cfg.Events.TransmittersFile != "" {
		verifier, err := app.NewVerifier(cfg, nil)
		if err != nil && len(cfg.Ingest.Streams) > 0 {
			return // checkTransmitters says why
		}
		tokens = verifier
	}
	if err := ingest.Check(cfg.Ingest, tokens); err != nil {
		for line := range strings.Lines(err.Error()) {
			f.fail("ingest.sources", "see docs/ingest.md; with such a source, worker ingest does not start", "%s", strings.TrimSpace(line))
		}
		return
	}
	var what []string
	if n := len(cfg.Ingest.Sources); n > 0 {
		what = append(what, count(n, "source"))
	}
	if n := len(cfg.Ingest.Streams); n > 0 {
		what = append(what, count(n, "stream"))
	}
	f.ok("ingest.sources", "%s; their secrets are readable", strings.Join(what, ", "))
	if cfg.To() == "" {
		f.fail("ingest.destination", "set it: worker ingest does not know where to send", "several queues or subscriptions are configured")
	}
}

// checkIngestDestination checks that this identity may send to where worker ingest sends.
func checkIngestDestination(ctx context.Context, cfg config.Config, client *azservicebus.Client, f *findings) {
	to := cfg.To()
	if len(cfg.Ingest.Sources)+len(cfg.Ingest.Streams) == 0 || to == "" {
		return
	}
	sender, err := client.NewSender(to, nil)
	if err == nil {
		err = tryToSend(ctx, sender)
	}
	if err != nil {
		f.warn("ingest.destination", "give the identity of worker ingest the role 'Azure Service Bus Data Sender' on it; "+
			"if doctor runs as another identity, run it as that of worker ingest", "cannot send to %s: %s", to, detail(err))
		return
	}
	f.ok("ingest.destination", "can send to %s", to)
}
