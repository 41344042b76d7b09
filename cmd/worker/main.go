// Command worker signs people out: it receives "device lost", "device stolen" and offboarding events from Azure Service
// Bus and revokes the sign-in sessions of each affected user through Microsoft Graph. Its other commands are the operators':
// dead letters, revoking by hand, sending events, and checking a deployment.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
)

// ballast is counted by the garbage collector and never touched, so that it takes no memory: without it a worker, whose heap
// is small, would collect after every few megabytes, and look through the stacks of all messages in hand each time.
var ballast = make([]byte, 10<<20)

func main() {
	runtime.KeepAlive(ballast) // nothing else would keep the linker from leaving it out
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// program is what the commands share.
type program struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer // safe ones
	log            io.Writer // where the worker itself writes its log, as it is
}

// run is the program; the result is its exit code.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	p := &program{environ: environ, stdin: stdin, stdout: safe{stdout}, stderr: safe{stderr}, log: stdout}
	root := p.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if err.Error() != "" {
		fmt.Fprintf(p.stderr, "worker: %v\n", err)
	}
	if known, ok := errors.AsType[*exitError](err); ok {
		return known.code
	}
	return exitUsage
}

func (p *program) rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:               "worker",
		Short:             "Revoke the sign-in sessions of people whose device is lost or who leave",
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		DisableAutoGenTag: true,
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.AddCommand(p.runCommand(), p.dlqCommand(), p.deferredCommand(), p.revokeCommand(), p.sendCommand(), p.doctorCommand(), p.auditCommand(), p.guardCommand(), versionCommand())
	return root
}

func (p *program) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Receive events and revoke sessions until SIGTERM",
		Long: `Receive events and revoke sessions until SIGTERM.

The first SIGTERM or SIGINT stops receiving and finishes what is in hand, for at
most consumer.drain_timeout; a second one stops at once. Either way nothing is
lost: what is not finished stays in the queue.

Settings come from flags, environment variables and a YAML file, in this order
of precedence; docs/configuration.md lists them all. Secrets have no flag.`,
		Args: cobra.NoArgs,
	}
	config.Flags(cmd.Flags())
	dryRun := cmd.Flags().Bool("dry-run", false, "only peek at the messages, and log what would become of each event (consumer.dry_run)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), p.environ)
		if err != nil {
			return err
		}
		cfg.Consumer.DryRun = cfg.Consumer.DryRun || *dryRun
		limitMemory(cfg, p.environ)
		worker, err := app.New(cfg, p.log)
		if err != nil {
			return err
		}
		soft, hard, stop := app.Signals(cmd.Context())
		defer stop()
		if err := worker.Run(soft, hard); err != nil {
			return fail(exitFailed, "%v", err)
		}
		return nil
	}
	return cmd
}

// limitMemory lets the garbage collector run more often when the heap is large, instead of letting it double: at most what the ballast and a busy
// worker need, 160 bytes for each remembered user and 8 KiB for each message in hand. It is soft: a worker that needs more gets more, at the price of
// more collecting. GOMEMLIMIT goes before it. The program's own pages, some 23 MB, come on top: with 100,000 users both stay below 64 MB.
func limitMemory(cfg config.Config, environ []string) {
	if slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, "GOMEMLIMIT=") }) {
		return
	}
	inFlight := cfg.Consumer.MaxInFlight * len(cfg.ServiceBus.Entities())
	debug.SetMemoryLimit(33<<20 + 160*int64(cfg.Dedupe.MaxUsers) + int64(inFlight)<<13)
}

// action is what an operator's command does.
type action func(ctx context.Context, cfg config.Config, args []string) error

// operate makes a command of an operator's: it takes the worker's settings, and ends at the first signal; the second one kills.
func (p *program) operate(cmd *cobra.Command, do action) *cobra.Command {
	return p.operateWith(cmd, config.Load, do)
}

// operateGraph is operate for a command that has nothing to do with Service Bus.
func (p *program) operateGraph(cmd *cobra.Command, do action) *cobra.Command {
	return p.operateWith(cmd, config.LoadForGraph, do)
}

func (p *program) operateWith(cmd *cobra.Command, load func(*pflag.FlagSet, []string) (config.Config, error), do action) *cobra.Command {
	cmd.Long += "\n\nSettings are those of worker run: --config FILE, environment variables, and a flag\nfor each (docs/configuration.md)."
	if cmd.Name() != "doctor" {
		cmd.Long += "\n\n" + exitCodes
	}
	own := cmd.Flags()
	config.Flags(own)
	for _, o := range config.Options() {
		if o.Flag != "" {
			_ = own.MarkHidden(o.Flag) // they are the same everywhere, and forty
		}
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := load(own, p.environ)
		if err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		context.AfterFunc(ctx, stop)
		return do(ctx, cfg, args)
	}
	return cmd
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "session-revoker %s (%s)\n", app.Version, app.Commit)
		},
	}
}
