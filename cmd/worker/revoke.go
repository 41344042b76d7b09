package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/spf13/cobra"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// entraRoles are the roles with which a signed-in person may revoke sessions
// (https://learn.microsoft.com/graph/api/user-revokesigninsessions, "Permissions").
const entraRoles = "Helpdesk, Authentication, Privileged Authentication or User Administrator, or Directory Writers; " +
	"none of these may revoke the sessions of every administrator"

// revokeRow is the result for one user, as it is printed.
type revokeRow struct {
	User    string `json:"user"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	Status  int    `json:"status,omitempty"`
	// Result is what Graph's last answer says: whether it revoked the sessions. It is nil if that
	// answer does not say so, as an error, or if there was none.
	Result          *bool      `json:"result,omitempty"`
	Calls           int        `json:"calls"`
	RequestID       string     `json:"requestId,omitempty"`
	ClientRequestID string     `json:"clientRequestId,omitempty"`
	Before          *time.Time `json:"validFromBefore,omitempty"`
	After           *time.Time `json:"validFromAfter,omitempty"`
	Unverified      string     `json:"unverified,omitempty"`
	Error           string     `json:"error,omitempty"`
}

// me is the name of the signed-in person.
const me = "me"

func (p *program) revokeCommand() *cobra.Command {
	var dryRun, verify, beta, legacy bool
	var delegated string
	var most int
	var giveUp time.Duration
	out := &output{w: p.stdout, columns: p.columns}
	cmd := &cobra.Command{
		Use:   "revoke USER… | -",
		Short: "Revoke the sessions of users manually, without the queue",
		Long: `Revoke the sessions of users manually. The command calls Graph directly, without
the queue, and uses the worker's list of protected users, rate limiter and
retries. A user is an object id or a user principal name; - reads them from
standard input, one per line.

The command signs in as the application, or, with --delegated, as you. Then "me"
is allowed, and your Entra role decides whose sessions you may revoke. You need
one of Helpdesk, Authentication, Privileged Authentication or User
Administrator, or Directory Writers; none of these may revoke the sessions of
every administrator. With device-code, it shows a code to enter in a browser.

Tokens stop working within a few minutes. --verify checks at once whether the
call took effect. A guest's sessions belong to another tenant and are not
revoked.

With --output json, "outcome" is "revoked", "not revoked", or, with --dry-run,
what would happen. "status" is the HTTP status of Graph's last answer, and
"result" what that answer says: true if Graph revoked the sessions (a 204 or an
empty answer means true as well), false if it says that it did not. There is no
"result" if Graph answered with an error or not at all.`,
		Example: `  worker revoke ada@contoso.com
  worker revoke --verify 0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c8d
  worker revoke --max 500 - < users.txt
  worker revoke --delegated=device-code me`,
		Args: cobra.MinimumNArgs(1),
	}
	fs := cmd.Flags()
	fs.BoolVar(&dryRun, "dry-run", false, "show whose sessions would be revoked, and call nothing")
	fs.BoolVar(&verify, "verify", false,
		"read signInSessionsValidFromDateTime before and after: needs two more calls per user, and a permission to read users")
	fs.BoolVar(&beta, "beta", false, "call revokeSignInSessions of the beta API instead of v1.0")
	fs.BoolVar(&legacy, "legacy-beta", false, "call invalidateAllRefreshTokens of the beta API, for tenants that still need it")
	fs.StringVar(&delegated, "delegated", "", "sign in as yourself: cli (az login) or device-code")
	fs.Lookup("delegated").NoOptDefVal = "cli"
	cmd.MarkFlagsMutuallyExclusive("beta", "legacy-beta")
	fs.IntVar(&most, "max", 50, "maximum number of users, as a protection against accidents")
	fs.DurationVar(&giveUp, "give-up-after", 2*time.Minute, "how long to keep trying, for each user: the first failure after that is final")
	act := audit.Operation{Command: "revoke"}
	because(fs, &act, "reason")
	out.flag(fs)
	return p.operateGraph(cmd, func(ctx context.Context, cfg config.Config, args []string) error {
		users, err := p.readUsers(args, delegated != "")
		if err != nil {
			return err
		}
		switch {
		case len(users) > most:
			return fail(exitUsage, "%d users are more than --max %d: no sessions were revoked; raise --max if this is intended",
				len(users), most)
		case giveUp <= 0:
			return fail(exitUsage, "--give-up-after: %v is not positive", giveUp)
		}
		protected, err := app.NewProtected(cfg)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		if dryRun {
			return p.wouldRevoke(out, users, protected)
		}
		options := app.GraphOptions{Beta: beta, LegacyBeta: legacy}
		if delegated != "" {
			if options.Credential, err = p.signIn(ctx, cfg, delegated); err != nil {
				return err
			}
		}
		graph, err := app.NewGraph(cfg, options)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		defer graph.Close()
		manual := &dispatch.ManualRevocation{
			Protected: protected, Concurrency: cfg.Consumer.Concurrency,
			Retrier: retry.New(retry.Policy{
				MaxAttempts: cfg.Retry.MaxAttempts, InitialInterval: cfg.Retry.InitialInterval, MaxInterval: cfg.Retry.MaxInterval,
				MaxAge: giveUp, LaggingFor: min(cfg.Retry.NotFoundFor, giveUp),
			}),
			Call: func(ctx context.Context, user event.User) (revoker.Attempt, error) {
				if user.IsZero() {
					return graph.RevokeMe(ctx)
				}
				return graph.Revoke(ctx, user)
			},
		}
		if verify {
			manual.ValidFrom = graph.ValidFrom
		}
		record, err := p.begin(ctx, cfg, act)
		if err != nil {
			return err
		}
		if err := record.start(ctx, callList(users)...); err != nil {
			return record.close(ctx, err)
		}
		err = p.revoke(ctx, manual, users, out, verify, delegated != "", record)
		return record.close(ctx, err)
	})
}

// signIn signs the operator in. how is the value of --delegated.
func (p *program) signIn(ctx context.Context, cfg config.Config, how string) (azcore.TokenCredential, error) {
	credential, err := app.DelegatedCredential(cfg, how, func(text string) { fmt.Fprintln(p.stderr, plain(text)) })
	switch {
	case err != nil:
		return nil, fail(exitUsage, "--delegated: %v", err)
	case how != "device-code":
		return credential, nil // it answers at once
	}
	if err := app.SignIn(ctx, cfg, credential); err != nil {
		return nil, fail(exitUnauthorized, "--delegated=device-code: nobody has signed in: %s", firstLine(err))
	}
	return credential, nil
}

// revoke revokes, and prints the result for each user in the order of users.
func (p *program) revoke(
	ctx context.Context, manual *dispatch.ManualRevocation, users []event.User, out *output, verify, delegated bool, record *operation,
) error {
	results := map[event.User]dispatch.ManualResult{}
	counts := map[string]int{}
	bar := p.newBar("revoking", len(users))
	manual.Revoke(ctx, users, func(r dispatch.ManualResult) {
		results[r.User] = r
		one := manualRevocation(r)
		counts[one.Outcome]++
		record.add(one)
		bar.add(1)
	})
	bar.end()
	record.done(audit.Operation{Count: len(users), Counts: counts}, notDone(counts[audit.Revoked], len(users)))
	header := table.Row{"USER", "OUTCOME", "STATUS", "CALLS", "REQUEST ID", "WHY"}
	if verify {
		header = table.Row{"USER", "OUTCOME", "STATUS", "CALLS", "REQUEST ID", "VALID FROM, BEFORE", "AFTER", "WHY"}
	}
	list := &rows{output: out, header: header, tint: func(row table.Row) color {
		if row[1] != "revoked" {
			return red
		}
		return green
	}}
	undone := 0
	var first error
	for _, user := range users {
		r := results[user]
		row := newRevokeRow(r, delegated)
		if row.Outcome != "revoked" || row.Unverified == revoker.NotAdvanced {
			undone++
		}
		if first == nil {
			first = r.Err
		}
		status := "–"
		if row.Status != 0 {
			status = fmt.Sprint(row.Status)
		}
		cells := table.Row{row.User, row.Outcome, status, row.Calls, row.RequestID}
		if verify {
			cells = append(cells, when(r.Attempt.ValidFromBefore), when(r.Attempt.ValidFromAfter))
		}
		cells = append(cells, plain(strings.TrimSpace(row.Error+" "+row.Unverified)))
		if err := list.add(row, cells); err != nil {
			return err
		}
	}
	list.end("")
	if undone == 0 {
		return nil
	}
	code := exitFailed
	var failure *revoker.Error
	var classed *exitError
	if undone == len(users) && errors.As(first, &failure) && errors.As(explainGraph(failure), &classed) {
		code = classed.code
	}
	return fail(code, "sessions not revoked, or not verified: %d of %s", undone, count(len(users), "user"))
}

func newRevokeRow(r dispatch.ManualResult, delegated bool) revokeRow {
	row := revokeRow{
		User: nameOf(r.User), Outcome: "revoked", Result: graphSays(r), Status: r.Attempt.Status, Calls: r.Calls, Reason: string(r.Reason),
		RequestID: r.Attempt.RequestID, ClientRequestID: r.Attempt.ClientRequestID, Unverified: r.Attempt.Unverified,
	}
	for to, t := range map[**time.Time]time.Time{&row.Before: r.Attempt.ValidFromBefore, &row.After: r.Attempt.ValidFromAfter} {
		if !t.IsZero() {
			*to = &t
		}
	}
	if !r.Revoked {
		row.Outcome = "not revoked"
		switch {
		case errors.Is(r.Err, context.Canceled) && r.Calls > 0:
			row.Error = "stopped after " + count(r.Calls, "call")
			if r.Last != nil {
				row.Error += ": " + r.Last.Error()
			}
		case errors.Is(r.Err, context.Canceled):
			row.Error = "stopped before the call"
		case r.Err != nil:
			row.Error = r.Err.Error()
		}
		if strings.Contains(row.Error, "AzureCLICredential: ") {
			row.Error += "; without the Azure CLI, sign in with --delegated=device-code"
		}
		var failure *revoker.Error
		if delegated && errors.As(r.Err, &failure) && failure.Denied() {
			row.Error += "; with --delegated, you need the scope User.RevokeSessions.All and one of the roles " + entraRoles
		}
	}
	return row
}

// graphSays returns whether Graph's last answer says that it revoked the sessions; nil if it does not
// say so.
func graphSays(r dispatch.ManualResult) *bool {
	failure, failed := errors.AsType[*revoker.Error](r.Last)
	switch {
	case r.Revoked:
		return new(true)
	case failed && failure.Kind == revoker.NotRevoked:
		return new(false)
	}
	return nil
}

// callList returns the records of whose sessions are about to be revoked.
func callList(users []event.User) []audit.Operation {
	var records []audit.Operation
	for some := range slices.Chunk(users, maxUsers) {
		r := audit.Operation{Count: len(some)}
		for _, user := range some {
			r.Users = append(r.Users, nameOf(user))
		}
		records = append(records, r)
	}
	return records
}

// manualRevocation returns the record of the result for one user.
func manualRevocation(r dispatch.ManualResult) audit.Operation {
	o := audit.Operation{
		Outcome: audit.Revoked, Count: 1, UserID: r.User.ID(), UserPrincipalName: r.User.UPN(), Reason: string(r.Reason),
		Calls: r.Calls, Status: r.Attempt.Status, Unverified: r.Attempt.Unverified,
		RequestID: deadletter.Cut(r.Attempt.RequestID, 128), ClientRequestID: r.Attempt.ClientRequestID,
	}
	if r.User.IsZero() {
		o.UserPrincipalName = me
	}
	if !r.Revoked {
		o.Outcome = audit.NotRevoked
	}
	if r.Err != nil {
		o.Error = deadletter.Cut(r.Err.Error(), deadletter.MaxDescription)
	}
	return o
}

// nameOf returns the name of a user, or "me" for the signed-in person.
func nameOf(user event.User) string {
	if user.IsZero() {
		return me
	}
	return user.Name()
}

// wouldRevoke prints what would happen to each user.
func (p *program) wouldRevoke(out *output, users []event.User, protected *guard.Protected) error {
	list := &rows{output: out, header: table.Row{"USER", "OUTCOME OF A REAL RUN"}}
	for _, user := range users {
		row := revokeRow{User: nameOf(user), Outcome: "would be revoked"}
		switch {
		case protected.Has(user):
			row.Outcome = "would be refused: protected user"
		case user.External():
			row.Outcome = "would be refused: guest, whose sessions belong to another tenant"
		}
		if err := list.add(row, table.Row{row.User, row.Outcome}); err != nil {
			return err
		}
	}
	list.end("")
	return nil
}

// readUsers returns the users of the arguments, or of the lines of standard input, each once. In the
// lines, everything from a # at the start or after a space is a comment; a # inside a name is part
// of it, as in #EXT#.
func (p *program) readUsers(args []string, delegated bool) ([]event.User, error) {
	lines := slices.Equal(args, []string{"-"})
	if lines {
		text, err := p.readInput("-")
		if err != nil {
			return nil, err
		}
		args = strings.Split(string(text), "\n")
	}
	var users []event.User
	var problems []error
	seen := map[string]bool{}
	for i, arg := range args {
		name := strings.TrimSpace(arg)
		if lines {
			name = withoutComment(name)
		}
		if name == "" {
			continue
		}
		user, err := readUser(name, delegated)
		switch {
		case err != nil && lines:
			problems = append(problems, fmt.Errorf("line %d: %w", i+1, err))
		case err != nil:
			problems = append(problems, err)
		case !seen[user.Key()]:
			seen[user.Key()] = true
			users = append(users, user)
		}
	}
	const most = 10
	if more := len(problems) - most; more > 0 {
		problems = append(problems[:most], fmt.Errorf("and %d more", more))
	}
	if len(problems) > 0 {
		return nil, fail(exitUsage, "no sessions were revoked:\n%v", errors.Join(problems...))
	}
	if len(users) == 0 {
		return nil, fail(exitUsage, "there are no users")
	}
	return users, nil
}

func withoutComment(line string) string {
	for i := range line {
		if line[i] == '#' && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t') {
			return strings.TrimSpace(line[:i])
		}
	}
	return line
}

// readUser returns the user whom a name means.
func readUser(name string, delegated bool) (event.User, error) {
	switch {
	case name == me && delegated:
		return event.User{}, nil
	case name == me:
		return event.User{}, errors.New(`"me" is allowed only with --delegated, because the application is not a user`)
	case strings.Contains(name, "@"):
		return event.NewUser("", name)
	}
	user, err := event.NewUser(name, "")
	if err != nil {
		return user, fmt.Errorf("%q is neither an object id (00000000-0000-0000-0000-000000000000) nor a user principal name (name@domain)",
			deadletter.Cut(name, 100))
	}
	return user, nil
}
