// Command worker signs people out. It receives "device lost", "device stolen" and offboarding
// events from Azure Service Bus and revokes the sign-in sessions of each affected user through
// Microsoft Graph. Its other commands are for operators: they handle dead letters, revoke manually,
// send events, and check a deployment.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/config"
)

func main() {
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdin, os.Stdout, os.Stderr))
}

// program is what the commands have in common.
type program struct {
	environ        []string
	stdin          io.Reader
	stdout, stderr io.Writer // of type safe, or colored
	log            io.Writer // where the worker itself writes its log, unescaped
	columns        int       // the width of the terminal that stdout is; 0 if it is none
	// settings has the flags of the worker's settings for the operators' commands. They share it, since
	// only one of them runs: making the flags for each command would take half of the process's start.
	settings *pflag.FlagSet
}

// run runs the program and returns its exit code.
func run(ctx context.Context, args, environ []string, stdin io.Reader, stdout, stderr io.Writer) int {
	out := &written{w: stdout}
	p := &program{
		environ: environ, stdin: stdin, stdout: newStdout(out, stdout, environ), stderr: safe{stderr}, log: stdout,
		columns: columnsOf(stdout, environ),
	}
	root := p.rootCommand()
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if _, classed := errors.AsType[*exitError](err); !classed && out.err() != nil {
		err = out.err()
	}
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
		Version:           fmt.Sprintf("%s (%s)", app.Version, app.Commit),
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
		DisableAutoGenTag: true,
	}
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	show := root.HelpFunc()
	root.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help.WrapFlags(cmd.Flags())
		show(cmd, args)
	})
	root.AddCommand(
		p.runCommand(), p.ingestCommand(), p.dlqCommand(), p.deferredCommand(), p.scheduledCommand(), p.revokeCommand(), p.sendCommand(),
		p.eventCommand(), p.ssfCommand(), p.doctorCommand(), p.auditCommand(), p.guardCommand(), p.historyCommand(),
		p.statusCommand(), p.consoleCommand(), versionCommand(),
	)
	completeKnown(root)
	sayUsage(root)
	return root
}

func (p *program) runCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Receive events and revoke sessions until SIGTERM",
		Long: `Receive events and revoke sessions until SIGTERM.

On the first SIGTERM or SIGINT, the worker stops receiving and finishes what is
in flight, for at most consumer.drain_timeout. On the second, it stops at once.
In both cases, nothing is lost: what is not finished stays in the queue.

Settings come from flags, environment variables and a YAML file, in this order
of precedence. docs/configuration.md lists them all. Secrets have no flag.`,
		Args: cobra.NoArgs,
	}
	config.Flags(cmd.Flags())
	dryRun := cmd.Flags().Bool("dry-run", false, "only peek at the messages, and log what would happen to each event (consumer.dry_run)")
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

// limitMemory lets the garbage collector run seldom while the heap is small, and more often when it is
// large.
//
// The heap of a worker is a few megabytes. By default, the collector would run whenever it has
// doubled, and scan the stacks of all messages in flight each time; at 400 % it runs when the heap has
// grown fivefold. The memory limit is what a busy worker needs: 80 bytes for each remembered user and
// 8 KiB for each message in flight. It is soft: a worker that needs more gets more, and collects more
// often.
//
// GOGC and GOMEMLIMIT take precedence. The pages of the program itself are extra: with 100,000 users,
// both together stay below 48 MB (go run ./bench --only memory).
func limitMemory(cfg config.Config, environ []string) {
	isSet := func(name string) bool {
		return slices.ContainsFunc(environ, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}
	if !isSet("GOGC") {
		debug.SetGCPercent(400)
	}
	if isSet("GOMEMLIMIT") {
		return
	}
	inFlight := cfg.Consumer.MaxInFlight * len(cfg.ServiceBus.Entities())
	debug.SetMemoryLimit(18<<20 + 80*int64(cfg.Dedupe.MaxUsers) + int64(inFlight)<<13)
}

// action is what an operator's command does with the settings and the arguments.
type action func(ctx context.Context, cfg config.Config, args []string) error

// operate completes an operator's command. The command takes the worker's settings. The first
// signal cancels its context, and the second one kills it.
func (p *program) operate(cmd *cobra.Command, do action) *cobra.Command {
	return p.operateWith(cmd, config.Load, do)
}

// operateGraph is operate for a command that does not need the settings of Service Bus.
func (p *program) operateGraph(cmd *cobra.Command, do action) *cobra.Command {
	return p.operateWith(cmd, config.LoadForGraph, do)
}

const settingsHelp = `The settings are those of worker run: --config FILE, environment variables, and
a flag for each setting (docs/configuration.md).`

// loader reads the settings from flags and environment.
type loader func(flags *pflag.FlagSet, environ []string) (config.Config, error)

func (p *program) operateWith(cmd *cobra.Command, load loader, do action) *cobra.Command {
	cmd.Long += "\n\n" + settingsHelp
	if cmd.Name() != "doctor" {
		cmd.Long += "\n\n" + exitCodes
	}
	own := cmd.Flags()
	if p.settings == nil {
		p.settings = pflag.NewFlagSet("settings", pflag.ContinueOnError)
		config.Flags(p.settings)
		for _, o := range config.Options() {
			if o.Flag != "" {
				_ = p.settings.MarkHidden(o.Flag) // there are forty, the same for every command
			}
		}
	}
	own.AddFlagSet(p.settings)
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
			fmt.Fprintf(cmd.OutOrStdout(), "session-revoker %s\n", cmd.Root().Version)
		},
	}
}
