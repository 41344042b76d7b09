package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/pkg/browser"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/console"
)

// consoleOptions are the flags of worker console.
type consoleOptions struct {
	address, by, to, exports       string
	workers, ingests               []string
	proxies, hosts, logs           []string
	header                         string
	allowChanges, readOnly, noOpen bool
	rate                           float64
	maxReplays                     int
	keys                           logFiles
}

func (p *program) consoleCommand() *cobra.Command {
	var o consoleOptions
	cmd := &cobra.Command{
		Use:   "console",
		Short: "Serve a web page for operators, until SIGTERM",
		Long: `Serve a web page for operators, until SIGTERM: whether people are being signed
out, dead letters and what to do about them, one person's history, and a report.
Changes go the same way as those of the commands: a preview, a confirmation, the
audit log.

On this machine, the command prints a link and opens it in the browser. The link
works once, for 15 minutes; press Enter for another one. A session ends after an
hour without use, or after twelve.

Behind a sign-in proxy, name with --trust-header the header in which the proxy
gives the user, with --trusted-proxy the proxy's addresses, and with --host the
name by which browsers reach it. Then the console only shows, unless you set
--allow-changes: whoever the proxy lets in may act.

The console acts with its own identity, like the commands, and reads the audit
log from audit.file, or from the files of --audit.`,
		Example: `  worker console --worker 10.0.0.5:9090 --worker 10.0.0.6:9090
  worker console --address :8080 --trust-header X-Forwarded-User \
    --trusted-proxy 10.1.0.0/16 --host console.contoso.com`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	fs.StringVar(&o.address, "address", "127.0.0.1:9095",
		"where to listen; only loopback, except behind a proxy. Port 0 takes any free one")
	fs.StringSliceVar(&o.workers, "worker", nil, "operations port of a worker: HOST:PORT or a URL; repeatable (default: ops.workers)")
	fs.StringSliceVar(&o.ingests, "ingest", nil,
		"operations port of a worker ingest, which knows when each sender was last heard; repeatable")
	fs.StringVar(&o.header, "trust-header", "", "header in which a sign-in proxy names the user, for example X-Forwarded-User")
	fs.StringSliceVar(&o.proxies, "trusted-proxy", nil, "address or network (10.1.0.0/16) of the sign-in proxy; repeatable")
	fs.StringSliceVar(&o.hosts, "host", nil, "name by which browsers reach the sign-in proxy; repeatable")
	fs.BoolVar(&o.allowChanges, "allow-changes", false, "let everybody whom the sign-in proxy lets in make changes")
	fs.BoolVar(&o.readOnly, "read-only", false, "only show, also on this machine")
	fs.StringVar(&o.by, "by", "", "who, for the audit log (default: you, as user@host); behind a proxy, it is whom the proxy names")
	fs.StringVar(&o.to, "to", "", "where to replay the dead letters of subscriptions, as for dlq replay")
	fs.Float64Var(&o.rate, "rate", defaultRate, "maximum number of replayed messages per second; 0 means no limit")
	fs.IntVar(&o.maxReplays, "max-replays", 3, "leave out messages that were replayed this often")
	fs.StringVar(&o.exports, "exports", ".", "directory for the files of purged dead letters")
	fs.StringArrayVar(&o.logs, "audit", nil, "file of the audit log to read; repeatable, rotated files oldest first")
	fs.BoolVar(&o.noOpen, "no-browser", false, "do not open the browser")
	o.keys.flags(fs)
	return p.operate(cmd, func(ctx context.Context, cfg config.Config, _ []string) error {
		settings, err := o.settings(p, cfg)
		if err != nil {
			return err
		}
		operations := newOperations(p, cfg, o)
		defer operations.close()
		settings.Operations = operations
		page, err := console.New(settings)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		l, err := o.listen(ctx)
		if err != nil {
			return err
		}
		p.announceConsole(page, l.Addr(), o)
		if err := page.Serve(ctx, l); err != nil {
			return fail(exitFailed, "%v", err)
		}
		return nil
	})
}

// settings returns the console's settings, without its operations.
func (o consoleOptions) settings(p *program, cfg config.Config) (console.Config, error) {
	c := console.Config{
		Access:   console.Access{By: operator(o.by), TrustHeader: o.header, Hosts: o.hosts},
		Ingests:  o.ingests,
		ReadOnly: o.readOnly || o.header != "" && !o.allowChanges,
		Version:  app.Version,
	}
	switch {
	case o.rate < 0:
		return c, fail(exitUsage, "--rate: %v is negative", o.rate)
	case o.maxReplays < 1:
		return c, fail(exitUsage, "--max-replays: %d is less than 1", o.maxReplays)
	case o.header == "" && o.allowChanges:
		return c, fail(exitUsage, "--allow-changes is for --trust-header; on this machine, changes are allowed unless --read-only is set")
	}
	for _, text := range o.proxies {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			var address netip.Addr
			if address, err = netip.ParseAddr(text); err == nil {
				prefix = netip.PrefixFrom(address, address.BitLen())
			}
		}
		if err != nil {
			return c, fail(exitUsage, "--trusted-proxy: %q is no address, such as 10.1.2.3, and no network, such as 10.1.0.0/16", text)
		}
		if prefix.Bits() == 0 {
			return c, fail(exitUsage, "--trusted-proxy: %s is every address, so anybody could name themselves in the header", text)
		}
		c.Access.TrustedProxies = append(c.Access.TrustedProxies, prefix.Masked())
	}
	var err error
	named := len(o.workers)+len(cfg.Ops.Workers) > 0
	if named || cfg.Ops.Address != "" && !strings.HasSuffix(cfg.Ops.Address, ":0") { // port 0 is any free one
		if c.Replicas, err = workerAddresses(o.workers, cfg); err != nil {
			return c, err
		}
	}
	c.Client, err = opsClient(cfg)
	if err != nil {
		return c, fail(exitUsage, "%v", err)
	}
	return c, nil
}

// listen opens the port. Without a sign-in proxy, it must be one that only this machine can reach.
func (o consoleOptions) listen(ctx context.Context) (net.Listener, error) {
	host, _, err := net.SplitHostPort(o.address)
	if err != nil {
		return nil, fail(exitUsage, "--address: %q is not HOST:PORT", o.address)
	}
	address, err := netip.ParseAddr(host)
	if o.header == "" && (err != nil || !address.IsLoopback()) && host != "localhost" {
		return nil, fail(exitUsage, "--address: %s can be reached from other machines, and there is no sign-in: "+
			"use 127.0.0.1, or put a sign-in proxy before it and name its header with --trust-header", o.address)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.address)
	if err != nil {
		return nil, fail(exitFailed, "--address: %v", err)
	}
	return l, nil
}

// announceConsole prints how to reach the console, and opens the browser on a desktop. Each line
// that is read from a terminal asks for another link.
func (p *program) announceConsole(page *console.Console, address net.Addr, o consoleOptions) {
	if o.header != "" {
		fmt.Fprintf(p.stdout, "console: listening on %s for the sign-in proxy\n", address)
		return
	}
	link := page.Link(address)
	fmt.Fprintf(p.stdout, "console: %s\n", link)
	if !isTerminal(p.stdin) {
		return
	}
	fmt.Fprintln(p.stdout, "The link works once. Press Enter for another one, Ctrl-C to stop.")
	if !o.noOpen && onDesktop() {
		browser.Stdout, browser.Stderr = io.Discard, io.Discard
		go func() { _ = browser.OpenURL(link) }() // it waits for the program that it starts
	}
	go func() { // it waits for a line until the program exits, as ask does
		for lines := bufio.NewScanner(p.stdin); lines.Scan(); {
			fmt.Fprintf(p.stdout, "console: %s\n", page.Link(address))
		}
	}()
}

func isTerminal(r io.Reader) bool {
	file, ok := r.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// onDesktop reports whether a browser that is started here can be seen by the operator.
func onDesktop() bool {
	switch {
	case os.Getenv("SSH_CONNECTION") != "":
		return false
	case runtime.GOOS == "windows" || runtime.GOOS == "darwin":
		return true
	}
	return os.Getenv("DISPLAY") != "" || os.Getenv("WAYLAND_DISPLAY") != ""
}

// consoleTimeout limits a preview, which peeks at all dead letters.
const consoleTimeout = 10 * time.Minute
