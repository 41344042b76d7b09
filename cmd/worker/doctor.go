package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jedib0t/go-pretty/v6/text"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/revoker"
)

// The statuses of a check.
const (
	checkOK   = "OK"
	checkWarn = "WARN"
	checkFail = "FAIL"
)

// check is the result of one check: a line of the output.
type check struct {
	Status string `json:"status"`
	Name   string `json:"check"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// findings collects the checks of one part, in order. It must not be used concurrently.
type findings struct{ checks []check }

func (f *findings) ok(name, format string, args ...any) {
	f.checks = append(f.checks, check{checkOK, name, fmt.Sprintf(format, args...), ""})
}

func (f *findings) warn(name, fix, format string, args ...any) {
	f.checks = append(f.checks, check{checkWarn, name, fmt.Sprintf(format, args...), fix})
}

func (f *findings) fail(name, fix, format string, args ...any) {
	f.checks = append(f.checks, check{checkFail, name, fmt.Sprintf(format, args...), fix})
}

// together makes parts of the checks at the same time, and adds their findings in the given order.
func (f *findings) together(parts ...func(*findings)) {
	found := make([]findings, len(parts))
	var all sync.WaitGroup
	for i, part := range parts {
		all.Go(func() { part(&found[i]) })
	}
	all.Wait()
	for _, part := range found {
		f.checks = append(f.checks, part.checks...)
	}
}

// askTimeout limits one request.
const askTimeout = 10 * time.Second

func (p *program) doctorCommand() *cobra.Command {
	var strict bool
	var delegated string
	var replicas []string
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check a deployment before it matters",
		Long: `Check a deployment before it matters. This prints one line for each check, with
OK, WARN or FAIL, and what to do. It revokes no sessions, and locks and sends no
messages: it asks Graph to revoke the sessions of a user that does not exist,
peeks at the queues, and opens a link for sending.

The checks called "network" try the way to each server: DNS, TCP, the proxy, TLS
with the issuer of the server's certificate, and the WebSocket. They say which
step fails, and which host and port to open. If Service Bus cannot be reached by
the configured transport, doctor tries the other one.

With events.transmitters_file it fetches the keys of each transmitter. With
--ingest it says when each source of worker ingest was last heard. With
ingest.streams it asks each transmitter for the stream and its status.

To check the settings of queues and subscriptions, it needs the administration
API, and so the Manage claim or the role 'Azure Service Bus Data Owner'. Without
them, a WARN says that the settings were not checked.

Exit codes of doctor: 0 no FAIL; 1 a WARN, with --strict; 2 a FAIL.`,
		Example: `  worker doctor
  worker doctor --strict --output json`,
		Args: cobra.NoArgs,
	}
	fs := cmd.Flags()
	fs.BoolVar(&strict, "strict", false, "exit with 1 if there is a WARN")
	fs.StringVar(&delegated, "delegated", "", "check Graph as yourself: cli (az login) or device-code")
	fs.Lookup("delegated").NoOptDefVal = "cli"
	fs.StringSliceVar(&replicas, "ingest", nil, "operations port of each replica of worker ingest, as HOST:PORT or a URL; repeatable")
	out.flag(fs)
	show := func(all []check) error {
		list := &rows{output: out}
		for _, c := range all {
			if out.format == asTable {
				printCheck(p.stdout, c, p.columns)
			} else if err := list.add(c, nil); err != nil {
				return err
			}
		}
		if out.format != asTable {
			list.end("")
		}
		return nil
	}
	load := func(fs *pflag.FlagSet, environ []string) (config.Config, error) {
		cfg, err := config.Load(fs, environ)
		var problems config.Problems
		if !errors.As(err, &problems) {
			return cfg, err
		}
		var f findings
		for _, problem := range problems {
			f.fail("configuration", "see docs/configuration.md", "%s", problem)
		}
		return cfg, errors.Join(show(f.checks), &exitError{code: exitUsage})
	}
	return p.operateWith(cmd, load, func(ctx context.Context, cfg config.Config, _ []string) error {
		var all findings
		checkSettings(cfg, &all)
		all.together(
			func(f *findings) { checkNetwork(ctx, cfg, f) },
			func(f *findings) { p.checkGraph(ctx, cfg, delegated, f) },
			func(f *findings) { checkServiceBus(ctx, cfg, f) },
			func(f *findings) { checkRedis(ctx, cfg, f) },
			func(f *findings) { checkMappings(cfg, f) },
			func(f *findings) { checkTransmitters(ctx, cfg, f) },
			func(f *findings) { checkLastHeard(ctx, cfg, replicas, f) },
			func(f *findings) { checkStreams(ctx, cfg, f) },
		)
		worst := 0
		for _, c := range all.checks {
			switch c.Status {
			case checkFail:
				worst = exitUsage
			case checkWarn:
				if strict {
					worst = max(worst, exitFailed)
				}
			}
		}
		if err := show(all.checks); err != nil {
			return err
		}
		if worst > 0 {
			return &exitError{code: worst} // the lines have said everything
		}
		return nil
	})
}

// checkColors are the colors of the results.
var checkColors = map[string]color{checkOK: green, checkWarn: yellow, checkFail: red}

// printCheck prints a check for a terminal of this many columns, or for none. What is too long is below
// the name and not below the detail, where 80 columns leave too little.
func printCheck(w io.Writer, c check, columns int) {
	const indent = 6
	below := func(words string) {
		if columns > 0 {
			words = wrapText(words, columns-indent)
		}
		for line := range strings.SplitSeq(words, "\n") {
			fmt.Fprintf(w, "%*s%s\n", indent, "", line)
		}
	}
	paint(w, checkColors[c.Status], fmt.Sprintf("%-4s", c.Status))
	line, detail := fmt.Sprintf("  %-34s  ", c.Name), plain(c.Detail)
	if columns > 0 && 4+text.StringWidth(line+detail) > columns {
		fmt.Fprintf(w, "  %s\n", c.Name)
		below(detail)
	} else {
		fmt.Fprintln(w, line+detail)
	}
	if c.Fix != "" {
		below("→ " + c.Fix)
	}
}

func checkSettings(cfg config.Config, f *findings) {
	f.ok("configuration", "valid; cloud %s, %s", cfg.Cloud().Name, strings.Join(cfg.ServiceBus.Entities(), ", "))
	if cfg.Audit.KeyFile != "" {
		if _, err := audit.ReadKey(cfg.Audit.KeyFile); err != nil {
			f.fail("audit.key_file",
				"mount a key of at least 32 bytes, made with openssl rand -base64 48; without it, the worker does not start", "%v", err)
		} else {
			f.ok("audit.key_file", "readable: audit records carry a MAC")
		}
	}
	checkIngest(cfg, f)
	protected, err := app.NewProtected(cfg)
	switch {
	case err != nil:
		f.fail("protected users", "correct the entries; with wrong ones, the worker does not start", "%v", err)
	case protected.Len() > 0:
		f.ok("protected users", "%s", count(protected.Len(), "entry", "entries"))
	default:
		f.warn("protected users", "list your break-glass accounts in guard.protected_users, by object id and by user principal name",
			"none: no one is protected from being signed out")
	}
}

// graphID is Microsoft Graph's application id, which a token may have as its audience
// (https://learn.microsoft.com/troubleshoot/entra/entra-id/governance/verify-first-party-apps-sign-in).
const graphID = "00000003-0000-0000-c000-000000000000"

const consent = "grant the app the application permission User.RevokeSessions.All and give admin consent: Entra admin center, " +
	"App registrations, API permissions, Grant admin consent; then wait for a new token (up to an hour)"

// checkGraph checks the token, its permission, a call, reading users, and the clock.
func (p *program) checkGraph(ctx context.Context, cfg config.Config, delegated string, f *findings) {
	options := app.GraphOptions{}
	if delegated != "" {
		credential, err := p.signIn(ctx, cfg, delegated)
		if err != nil {
			f.fail("Graph: token", "use --delegated=cli or --delegated=device-code, and sign in before the code expires", "%v", err)
			return
		}
		options.Credential = credential
	}
	graph, err := app.NewGraph(cfg, options)
	if err != nil {
		f.fail("Graph: token", "correct the settings graph.*", "%v", err)
		return
	}
	defer graph.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	claims, err := within(ctx, graph.Claims)
	if err != nil {
		f.fail("Graph: token", "check graph.tenant_id, graph.client_id and the secret or workload identity, "+
			"and that the sign-in authority of graph.cloud is reachable", "%s", firstLine(err))
		return
	}
	f.ok("Graph: token", "for app %s in tenant %s, until %s", claims.AppID, claims.Tenant, when(claims.Expires))
	checkClaims(cfg, claims, delegated != "", f)
	attempt := checkCall(ctx, cfg, graph, delegated != "", f)
	asWorker := delegated == "" // nobody reads or looks up for revoke --delegated
	if cfg.Graph.ReadUsers && asWorker {
		checkReading(ctx, graph, f)
	}
	if cfg.Events.ResolveDevices && asWorker {
		checkLookups(ctx, graph, f)
	}
	if !attempt.ServerDate.IsZero() {
		checkClock(cfg, "Graph: clock", attempt.ServerDate, attempt.Start, attempt.Start.Add(attempt.Duration), f)
	}
}

// checkCall tries to revoke the sessions of a user that does not exist.
func checkCall(ctx context.Context, cfg config.Config, graph *revoker.Revoker, delegated bool, f *findings) revoker.Attempt {
	attempt, err := within(ctx, func(ctx context.Context) (revoker.Attempt, error) { return graph.Canary(ctx, event.User{}) })
	var failure *revoker.Error
	switch {
	case err == nil:
		f.ok("Graph: call", "allowed: Graph answers that it does not know the user of the test (request-id %s)", attempt.RequestID)
	case errors.As(err, &failure) && failure.Denied():
		fix := consent
		if delegated {
			fix = "sign in with one of the Entra roles " + entraRoles
		}
		f.fail("Graph: call", fix, "%s", firstLine(err))
	case errors.As(err, &failure) && failure.Kind == revoker.Unauthorized:
		f.fail("Graph: call", "check graph.cloud and the tenant, and that the app is not disabled", "%s", firstLine(err))
	case errors.As(err, &failure) && failure.Kind == revoker.Throttled:
		f.warn("Graph: call", "find out what else uses the quota of this app; then run doctor again", "%s", firstLine(err))
	default:
		f.fail("Graph: call", "check that "+cfg.Cloud().GraphRoot+" is reachable from here, and any proxy on the way", "%s",
			firstLine(err))
	}
	return attempt
}

// checkReading tries to read a user that does not exist.
func checkReading(ctx context.Context, graph *revoker.Revoker, f *findings) {
	nobody, err := event.NewUser(uuid.NewString(), "")
	if err == nil {
		_, err = within(ctx, func(ctx context.Context) (revoker.Account, error) { return graph.Account(ctx, nobody) })
	}
	var failure *revoker.Error
	if errors.As(err, &failure) && failure.Kind == revoker.NotFound {
		f.ok("Graph: reading users", "allowed")
		return
	}
	f.fail("Graph: reading users", "grant the application permission User.Read.All with admin consent, or set graph.read_users to false",
		"graph.read_users is set, but users cannot be read: %s", firstLine(err))
}

// checkLookups tries to look up devices that do not exist: one in Intune, and one in Entra.
func checkLookups(ctx context.Context, graph *revoker.Revoker, f *findings) {
	works := 0
	var failed findings
	for _, by := range []event.Lookup{event.ByManagedDevice, event.ByEntraDevice} {
		device := "devices by their Intune ID or serial number"
		if by == event.ByEntraDevice {
			device = "devices by their Entra device ID"
		}
		nobody, err := event.NewLookup(by, uuid.NewString())
		if err == nil {
			_, err = within(ctx, func(ctx context.Context) (event.User, error) {
				user, _, err := graph.LookUp(ctx, nobody)
				return user, err
			})
		}
		failure, _ := errors.AsType[*revoker.Error](err)
		if failure != nil && failure.Kind == revoker.OwnerUnclear {
			works++
			f.ok("Graph: looking up "+by.String(), "allowed")
			continue
		}
		if failure != nil && !failure.Denied() {
			f.fail("Graph: looking up "+by.String(), "run doctor again when Graph answers", "%s", firstLine(err))
			continue
		}
		failed.warn("Graph: looking up "+by.String(), "grant the permission if events name "+device+"; until then, such events wait",
			"%s", firstLine(err))
	}
	for _, c := range failed.checks {
		if works == 0 {
			c.Status, c.Fix = checkFail, "grant the permission with admin consent, or set events.resolve_devices to false"
		}
		f.checks = append(f.checks, c)
	}
}

// checkRedis takes a lease for a user that does not exist.
func checkRedis(ctx context.Context, cfg config.Config, f *findings) {
	if !cfg.Redis.Used() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	if err := app.CheckRedis(ctx, cfg); err != nil {
		f.fail("Redis", "check redis.addresses, the password, TLS and the ACL (docs/install.md); "+
			"until Redis answers, the replicas do not coordinate", "%s", firstLine(err))
		return
	}
	f.ok("Redis", "%s: the replicas can coordinate", strings.Join(cfg.Redis.Addresses, ", "))
}

// checkMappings compiles the mappings.
func checkMappings(cfg config.Config, f *findings) {
	decoder, err := app.NewDecoder(cfg, app.DecoderOptions{})
	if err != nil {
		f.fail("mappings", "correct them (docs/mappings.md); with a wrong one, the worker does not start", "%v", err)
		return
	}
	unknown := false
	for _, m := range decoder.Mappings() {
		for _, kind := range m.Types {
			// A preset may know more types than are wanted. In a mapping of their own it is rather a slip.
			if m.Preset == "" && !slices.Contains(cfg.Events.Types, kind) {
				unknown = true
				f.warn("mappings", "correct the type, or add it to events.types",
					"%s: the mapping %s yields %q, which is not in events.types: its events would be dead-lettered as UnknownEvent",
					m.File, m.Name, kind)
			}
		}
	}
	if len(cfg.Events.Mappings) > 0 && !unknown {
		f.ok("mappings", "%s and presets are usable", count(len(cfg.Events.Mappings), "file"))
	}
}

// checkTransmitters reads the file of transmitters, and fetches their keys.
func checkTransmitters(ctx context.Context, cfg config.Config, f *findings) {
	if cfg.Events.TransmittersFile == "" {
		return
	}
	verifier, err := app.NewVerifier(cfg, nil)
	if err != nil {
		f.fail("transmitters", "correct the file (docs/producers/shared-signals.md); with a wrong one, the worker does not start",
			"%v", err)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	for _, keys := range verifier.Refresh(ctx) {
		name := "transmitter " + keys.Transmitter
		if keys.Err != nil {
			what, fix := network.SplitFix(firstLine(keys.Err))
			if fix == "" {
				fix = "jwks_url must be the address of a JSON Web Key Set"
			}
			f.fail(name, fix+"; until the keys can be read, tokens of this transmitter wait", "%s", what)
			continue
		}
		f.ok(name, "%s", count(keys.Keys, "key", "keys"))
	}
}

// within calls ask with a limit of askTimeout.
func within[T any](ctx context.Context, ask func(context.Context) (T, error)) (T, error) {
	return withinTime(ctx, askTimeout, ask)
}

func withinTime[T any](ctx context.Context, limit time.Duration, ask func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return ask(ctx)
}

// checkClaims checks that the token is for this cloud and tenant, and what it allows.
func checkClaims(cfg config.Config, claims revoker.Claims, delegated bool, f *findings) {
	root := cfg.Cloud().GraphRoot
	fits := false
	for _, audience := range claims.Audience {
		fits = fits || strings.TrimRight(audience, "/") == root || audience == graphID
	}
	if !fits {
		f.fail("Graph: audience", "set graph.cloud to the cloud of the tenant: global, usgov-l4, usgov-dod or china",
			"the token is for %s, not for %s", strings.Join(claims.Audience, ", "), root)
	} else {
		f.ok("Graph: audience", "%s", strings.Join(claims.Audience, ", "))
	}
	if want := cfg.Graph.TenantID; len(want) == 36 && claims.Tenant != "" && !strings.EqualFold(want, claims.Tenant) {
		f.fail("Graph: tenant", "set graph.tenant_id to the tenant of the users",
			"the token is for tenant %s, but graph.tenant_id is %s", claims.Tenant, want)
	}
	permissions, kind := claims.Roles, "roles"
	if delegated {
		permissions, kind = claims.Scopes, "scp"
	}
	switch may, broader := claims.MayRevoke(); {
	case !may && delegated:
		f.fail("Graph: permission", "sign in through an app that has the delegated permission User.RevokeSessions.All "+
			"(graph.client_id with --delegated=device-code)",
			"the token's scp has no permission for the call: %s", strings.Join(permissions, " "))
	case !may:
		f.fail("Graph: permission", consent, "the token's %s have no permission for the call: [%s]", kind, strings.Join(permissions, " "))
	case broader:
		f.warn("Graph: permission", "User.RevokeSessions.All is enough; remove the broader one",
			"works, but allows more than needed: %s", strings.Join(permissions, " "))
	default:
		f.ok("Graph: permission", "%s: %s", kind, strings.Join(permissions, " "))
	}
}

// checkClock compares a server's Date, in whole seconds, with our clock between sending and
// receiving.
func checkClock(cfg config.Config, name string, date, sent, received time.Time, f *findings) {
	var off time.Duration
	switch {
	case date.Add(time.Second).Before(sent):
		off = -sent.Sub(date.Add(time.Second))
	case date.After(received):
		off = date.Sub(received)
	}
	if off.Abs() > cfg.Dedupe.SkewMargin {
		f.fail(name, "set this machine's clock with NTP: dedupe.skew_margin is "+cfg.Dedupe.SkewMargin.String()+
			", and the worker could complete events as covered by an earlier call", "differs by %s", off.Round(time.Millisecond))
		return
	}
	f.ok(name, "differs by less than %s", max(time.Second, (off.Abs()+time.Second).Truncate(time.Second)))
}
