// Command worker signs people out: it receives "device lost", "device stolen" and offboarding events from Azure Service
// Bus and revokes the sign-in sessions of each affected user through Microsoft Graph.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
)

// ballast is counted by the garbage collector and never touched, so that it takes no memory: without it a worker, whose heap
// is small, would collect after every few megabytes, and look through the stacks of all messages in hand each time.
var ballast = make([]byte, 10<<20)

func main() {
	runtime.KeepAlive(ballast) // nothing else would keep the linker from leaving it out
	os.Exit(run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is the program: 0 is success, 1 a failure, 2 a wrong command line or configuration.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	code := 0
	root := &cobra.Command{
		Use:           "worker",
		Short:         "Revoke the sign-in sessions of people whose device is lost or who leave",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.AddCommand(runCommand(environ, stdout, &code), versionCommand())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "worker: %v\n", err)
		return max(code, 2)
	}
	return code
}

func runCommand(environ []string, stdout io.Writer, code *int) *cobra.Command {
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
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := config.Load(cmd.Flags(), environ)
		if err != nil {
			return err
		}
		worker, err := app.New(cfg, stdout)
		if err != nil {
			return err
		}
		soft, hard, stop := app.Signals(cmd.Context())
		defer stop()
		if err := worker.Run(soft, hard); err != nil {
			*code = 1
			return err
		}
		return nil
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
