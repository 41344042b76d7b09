// Command servicebus-emulator runs the embedded Service Bus on its own: AMQP over TCP, TLS and
// WebSocket, the administration API, and, if wanted, a sign-in endpoint like that of Entra.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "0.1.0-unreleased"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options holds the flags. An empty address means that the port is not opened.
type options struct {
	amqp, amqps, admin, https, entra string

	cert, certKey, caOut string
	hosts                []string

	config         string
	queues, topics []string
	maxMessageSize string
	data           string

	keys         []string
	noDefaultKey bool
	entraClients []string
}

// run runs the program until ctx is done and returns its exit code: 0 for success, 1 for a failure,
// 2 for a wrong command line.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var o options
	code := 2 // until the command line is read
	cmd := &cobra.Command{
		Use:   "servicebus-emulator",
		Short: "Run an Azure Service Bus for development and tests on this machine",
		Long: `Run an Azure Service Bus for development and tests on this machine.

The only line on standard output is the connection string. What else listens is
on standard error. Stop with Ctrl-C.

  servicebus-emulator --queue orders --topic prices/billing

Clients connect with the connection string, as they do to Microsoft's emulator.
Clients that insist on TLS, or that are in a network that lets only HTTPS out:

  servicebus-emulator --queue orders --amqps 127.0.0.1:5671 \
    --https 127.0.0.1:443 --ca-out ca.pem

It is a tool for development: do not open its ports to a network that you do not
trust.`,
		Version:       version,
		Args:          noArguments,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := o.brokerConfig()
			if err != nil {
				return err
			}
			code = 1
			return serve(cmd.Context(), o, cfg, stdout, stderr)
		},
	}
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.amqp, "amqp", "127.0.0.1:5672", "`ADDR` for AMQP over plain TCP; port 0 for any free one, empty for none")
	f.StringVar(&o.amqps, "amqps", "", "`ADDR` for AMQP over TLS; the service's port is 5671")
	f.StringVar(&o.admin, "admin", "127.0.0.1:5300", "`ADDR` for the administration API over http, and for /health; empty for none")
	f.StringVar(&o.https, "https", "",
		"`ADDR` for the administration API and AMQP over WebSocket, both over https; the service's port is 443")
	f.StringArrayVar(&o.queues, "queue", nil, "`NAME` of a queue; repeatable")
	f.StringArrayVar(&o.topics, "topic", nil, "`NAME` of a topic, or TOPIC/SUBSCRIPTION for one with a subscription; repeatable")
	f.StringVar(&o.config, "config", "", "`FILE` that declares entities, in the format of config.json of Microsoft's emulator")
	f.StringVar(&o.maxMessageSize, "max-message-size", "256KiB",
		"`SIZE` of the largest message that is accepted, from 256KiB (Standard) to 100MiB (the largest of Premium)")
	f.StringVar(&o.data, "data", "", "`FILE` that keeps entities and messages over a restart; without it they are kept in memory only")
	f.StringArrayVar(&o.keys, "key", nil, "one more shared access `KEY`, as NAME=VALUE:Listen,Send,Manage with its claims; repeatable")
	f.BoolVar(&o.noDefaultKey, "no-default-key", false, "refuse RootManageSharedAccessKey, the key of Microsoft's emulator")
	f.StringVar(&o.cert, "cert", "",
		"certificate for TLS in a PEM `FILE`, with its intermediates; without it one is generated at each start")
	f.StringVar(&o.certKey, "cert-key", "", "private key of --cert, in a PEM `FILE`")
	f.StringVar(&o.caOut, "ca-out", "", "`FILE` to write the authority of the generated certificate to, so that clients can trust it")
	f.StringArrayVar(&o.hosts, "host", nil,
		"one more `NAME` or IP address for the generated certificate, and that --admin answers to; localhost is always there; repeatable")
	f.StringVar(&o.entra, "entra", "", "`ADDR` for a sign-in endpoint like Entra's, over https; access tokens are accepted then")
	f.StringArrayVar(&o.entraClients, "entra-client", nil,
		"an `APP` that can sign in, as ID=SECRET:Listen,Send,Manage with its rights; repeatable (default client=secret:Manage)")
	cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages", ".FlagUsagesWrapped 80")) // columns
	cmd.MarkFlagsRequiredTogether("cert", "cert-key")
	cmd.MarkFlagsMutuallyExclusive("cert", "ca-out")
	cmd.MarkFlagsMutuallyExclusive("cert", "host")
	if err := cmd.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(stderr, "servicebus-emulator: %v\n", err)
		return code
	}
	return 0
}

// noArguments refuses arguments that are no flags.
func noArguments(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("%q is not a flag: declare a queue with --queue NAME; see --help", args[0])
	}
	return nil
}
