// Command sandbox runs the worker with its whole cloud on one machine: an embedded Service Bus, an
// embedded Graph, and the same worker code that runs in production. It publishes a realistic sample
// of events.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/cmd/internal/help"
)

func main() {
	if to := os.Getenv(copyTo); to != "" && len(os.Args) == 2 {
		if err := copyProgram(os.Args[1], to); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox:", err)
			os.Exit(1)
		}
		return
	}
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// options holds the flags.
type options struct {
	amqp, graph, ops string
	ingest           string
	admin, adminTLS  string
	amqps, graphTLS  string
	adminCert        string
	maxMessageSize   string
	noWorker, drain  bool
	entities         string
	keys             []string
	leavers          int
	replicas         int
	redis            string
	timeout          time.Duration
	log              string
	console          string
	auditFile        string // for the console's pages about people and the report
}

// maxReplicas is the maximum number of workers.
const maxReplicas = 16

// asOne returns the number of workers that may each call Graph for the same user. Replicas that
// share a Redis count as one.
func (o options) asOne() int {
	if o.redis != "" {
		return 1
	}
	return o.replicas
}

// errProblems means that the check found problems.
var errProblems = errors.New("the outcome is not what the sample demands")

// run runs the program and returns its exit code: 0 for success, 1 for a failure or a failed check,
// 2 for a wrong command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	started := false
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run the worker with an embedded Service Bus and Graph on this machine",
		Long: `Run the worker with an embedded Service Bus and Graph on this machine.

Without flags it publishes a sample of events: messages as Intune, Okta, Jamf
Pro, Workspace ONE, Fleet, Sentinel, Workday and Entra ID send them, duplicates,
storms about one user, an unknown user, a guest, a protected user, malformed
messages, a throttled spell, and a mass offboarding. It shows what becomes of
each, and goes on until Ctrl-C. Some of them come as webhooks, to worker ingest,
which runs beside the worker: a file that the sandbox names has a curl line for
each kind of sender, to paste into a shell.

--drain    ends when everything is settled, checks each message and each call
           against the guarantees by the servers' own records, prints a JSON
           summary, and exits 0 or 1.
--no-worker starts the two servers only and prints how to reach them; any
           program, the official SDKs included, can use them. --entities and
           --key add queues, topics and shared access keys.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.replicas < 1 || o.replicas > maxReplicas {
				return fmt.Errorf("--replicas %d: from 1 to %d", o.replicas, maxReplicas)
			}
			started = true
			soft, hard, stop := app.Signals(cmd.Context())
			defer stop()
			return sandbox(soft, hard, o, stdout, stderr)
		},
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	show := cmd.HelpFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help.WrapFlags(cmd.Flags())
		show(cmd, args)
	})
	f := cmd.Flags()
	f.StringVar(&o.amqp, "amqp", "127.0.0.1:5672", "address of the embedded Service Bus; port 0 for any free one")
	f.StringVar(&o.graph, "graph", "127.0.0.1:8081", "address of the embedded Graph and its token endpoint; port 0 for any free one")
	f.StringVar(&o.ops, "ops", "127.0.0.1:9090", "address of the worker's /healthz, /readyz and /metrics; port 0 for any free one")
	f.StringVar(&o.ingest, "ingest", "127.0.0.1:8088", "address of worker ingest, for webhooks; port 0 for any free one; empty for none")
	f.StringVar(&o.admin, "admin", "127.0.0.1:5300", "address of Service Bus' administration API over http; empty for none")
	f.StringVar(&o.adminTLS, "admin-tls", "127.0.0.1:5301",
		"address of the same over https, which its clients require, and of AMQP over WebSocket; empty for none")
	f.StringVar(&o.amqps, "amqps", "", "address of the embedded Service Bus over TLS; empty for none")
	f.StringVar(&o.graphTLS, "graph-tls", "", "address of --graph over https, which the Azure SDKs require to sign in; empty for none")
	f.StringVar(&o.adminCert, "admin-cert", "",
		"file to write the authority of the certificate of --admin-tls, --amqps and --graph-tls to, so that clients can trust it")
	f.StringVar(&o.maxMessageSize, "max-message-size", "256KiB", "largest message that Service Bus accepts, up to 100MiB")
	f.BoolVar(&o.noWorker, "no-worker", false, "start the two servers only, and print how to reach them")
	f.BoolVar(&o.drain, "drain", false, "publish the sample, wait until all is settled, check, print a JSON summary and exit")
	f.IntVar(&o.leavers, "leavers", 40, "number of users in the sample's mass offboarding")
	f.IntVar(&o.replicas, "replicas", 1, "number of workers")
	f.StringVar(&o.redis, "redis", "",
		"address of a Redis that coordinates them, for example 127.0.0.1:6379; without it each works on its own")
	f.DurationVar(&o.timeout, "timeout", 2*time.Minute, "how long --drain waits for everything to be settled")
	f.StringVar(&o.log, "log", "", "file for the worker's own log (JSON lines); without it decisions are shown as they are made")
	f.StringVar(&o.console, "console", "127.0.0.1:9095",
		"address of worker console, the operators' web page, beside the view on a terminal; port 0 for any free one, empty for none")
	f.StringVar(&o.entities, "entities", "",
		"file that declares more queues and topics, in the format of the official emulator's config.json")
	f.StringArrayVar(&o.keys, "key", nil,
		"one more shared access key, as NAME=VALUE:Listen,Send,Manage with its claims; repeatable")
	cmd.MarkFlagsMutuallyExclusive("no-worker", "drain")
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "sandbox: %v\n", err)
		if started {
			return 1
		}
		return 2
	}
	return 0
}

// sandbox starts what the options ask for. It returns when everything is stopped.
func sandbox(soft, hard context.Context, o options, stdout, stderr io.Writer) (err error) {
	s := newSample(o.leavers)
	servers, err := startServers(o, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, servers.stop()) }()

	if o.noWorker {
		servers.describe(stdout)
		<-soft.Done()
		return nil
	}
	screen := newView(stdout, servers, s.people, isTerminal(stdout))
	if o.drain { // standard output is for the summary alone
		screen = newView(stderr, servers, s.people, false)
	}
	logTo, closeLog, err := openLog(o.log, screen)
	if err != nil {
		return err
	}
	defer closeLog()
	showsConsole := o.console != "" && screen.live
	if showsConsole {
		dir, err := os.MkdirTemp("", "sandbox-*")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.auditFile = filepath.Join(dir, "audit.ndjson")
	}
	workers, err := startWorkers(hard, servers, o, logTo)
	if err != nil {
		return err
	}
	if o.ingest != "" {
		if servers.webhooks, err = startWebhooks(hard, servers, o, logTo); err != nil {
			return errors.Join(err, workers.stop())
		}
	}
	screen.start(workers)
	if showsConsole {
		stop := startConsole(soft, servers, workers, o, screen)
		defer stop()
	}
	screen.say(fmt.Sprintf("the deduplication window is %s here (dedupe.window; in production 1 m), and retries are quicker", dedupeWindow))
	err = play(soft, servers, s, o)
	if err == nil && !o.drain {
		screen.say("everything is settled; send your own events, or stop with Ctrl-C")
		<-soft.Done()
	}
	if servers.webhooks != nil {
		err = errors.Join(err, servers.webhooks.stop())
	}
	err = errors.Join(err, workers.stop())
	screen.stop()
	if err != nil || !o.drain {
		return ignoreEnd(soft, err)
	}
	return report(stdout, check(servers, s, o.asOne()))
}

// ignoreEnd ignores an error that Ctrl-C caused, which is the normal way to end the sandbox.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// openLog returns the writer for the worker's log: the screen, which shows decisions, and the file
// if there is one.
func openLog(name string, screen *view) (w io.Writer, done func(), err error) {
	if name == "" {
		return screen, func() {}, nil
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600) //nolint:gosec // the user names the file
	if err != nil {
		return nil, nil, fmt.Errorf("open --log: %w", err)
	}
	return io.MultiWriter(f, screen), func() { _ = f.Close() }, nil
}
