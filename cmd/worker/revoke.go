package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

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

// entraRoles are those with which a signed-in person may revoke
// (https://learn.microsoft.com/graph/api/user-revokesigninsessions, "Permissions").
const entraRoles = "Helpdesk, Authentication, Privileged Authentication or User Administrator, or Directory Writers; " +
	"and none of these may revoke every administrator"

// revokeRow is one user's end, as it is printed.
type revokeRow struct {
	User            string     `json:"user"`
	Result          string     `json:"result"`
	Reason          string     `json:"reason,omitempty"`
	Status          int        `json:"status,omitempty"`
	Calls           int        `json:"calls"`
	RequestID       string     `json:"requestId,omitempty"`
	ClientRequestID string     `json:"clientRequestId,omitempty"`
	Before          *time.Time `json:"validFromBefore,omitempty"`
	After           *time.Time `json:"validFromAfter,omitempty"`
	Proof           string     `json:"proof,omitempty"`
	Error           string     `json:"error,omitempty"`
}

// me is how the signed-in person is called.
const me = "me"

func (p *program) revokeCommand() *cobra.Command {
	var dryRun, verify, legacy bool
	var delegated string
	var most int
	var giveUp time.Duration
	out := &output{w: p.stdout}
	cmd := &cobra.Command{
		Use:   "revoke USER… | -",
		Short: "Revoke the sessions of users by hand, through Graph and past the queue",
		Long: `Revoke the sessions of users by hand, through Graph and past the queue, with the
worker's guard, pace and retries. A user is an object id or a user principal name;
- reads them from standard input, one to a line.

It signs in as the application, or with --delegated as you: then "me" is allowed, and
your Entra role decides whom you may revoke: ` + entraRoles + `.

Tokens stop working within a few minutes; until then --verify tells whether the call
took effect. A guest's sessions belong to another tenant and are not revoked.`,
		Example: `  worker revoke ada@contoso.com
  worker revoke --verify 0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c8d
  worker revoke --max 500 - < users.txt
  worker revoke --delegated=device-code me`,
		Args: cobra.MinimumNArgs(1),
	}
	fs := cmd.Flags()
	fs.BoolVar(&dryRun, "dry-run", false, "show who would be revoked, and call nobody")
	fs.BoolVar(&verify, "verify", false, "read signInSessionsValidFromDateTime before and after: two more calls for each user, and a permission to read users")
	fs.BoolVar(&legacy, "legacy-beta", false, "call beta's invalidateAllRefreshTokens, for tenants that still need it")
	fs.StringVar(&delegated, "delegated", "", "sign in as yourself: cli (az login) or device-code")
	fs.Lookup("delegated").NoOptDefVal = "cli"
	fs.IntVar(&most, "max", 50, "refuse more users than this, against accidents")
	fs.DurationVar(&giveUp, "give-up-after", 2*time.Minute, "how long faults of Graph's are waited for before they count")
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
			return fail(exitUsage, "%d users are more than --max %d: nobody was revoked; raise it if you mean it", len(users), most)
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
		options := app.GraphOptions{LegacyBeta: legacy}
		if delegated != "" {
			if options.Credential, err = app.DelegatedCredential(cfg, delegated, func(text string) { fmt.Fprintln(p.stderr, text) }); err != nil {
				return fail(exitUsage, "--delegated: %v", err)
			}
		}
		graph, err := app.NewGraph(cfg, options)
		if err != nil {
			return fail(exitUsage, "%v", err)
		}
		defer graph.Close()
		hand := &dispatch.ManualRevocation{
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
			hand.ValidFrom = graph.ValidFrom
		}
		record, err := p.begin(ctx, cfg, act)
		if err != nil {
			return err
		}
		if err := record.start(ctx, callList(users)...); err != nil {
			return record.close(ctx, err)
		}
		err = p.revoke(ctx, hand, users, out, verify, delegated != "", record)
		return record.close(ctx, err)
	})
}

// revoke revokes, and prints each user's end in the order in which they were given.
func (p *program) revoke(ctx context.Context, hand *dispatch.ManualRevocation, users []event.User, out *output, verify, delegated bool, record *operation) error {
	results := map[event.User]dispatch.ManualResult{}
	counts := map[string]int{}
	bar := p.newBar("revoking", len(users))
	hand.Revoke(ctx, users, func(r dispatch.ManualResult) {
		results[r.User] = r
		one := manualRevocation(r)
		counts[one.Outcome]++
		record.add(one)
		bar.add(1)
	})
	bar.end()
	record.done(audit.Operation{Count: len(users), Counts: counts}, nil)
	header := table.Row{"USER", "RESULT", "STATUS", "CALLS", "REQUEST ID", "WHY"}
	if verify {
		header = table.Row{"USER", "RESULT", "STATUS", "CALLS", "REQUEST ID", "VALID FROM, BEFORE", "AFTER", "WHY"}
	}
	list := &rows{output: out, header: header}
	undone := 0
	var first error
	for _, user := range users {
		r := results[user]
		row := newRevokeRow(r, delegated)
		if row.Result != "revoked" || row.Proof == revoker.NotAdvanced {
			undone++
		}
		if first == nil {
			first = r.Err
		}
		status := "–"
		if row.Status != 0 {
			status = fmt.Sprint(row.Status)
		}
		cells := table.Row{row.User, row.Result, status, row.Calls, row.RequestID}
		if verify {
			cells = append(cells, when(r.Attempt.ValidFromBefore), when(r.Attempt.ValidFromAfter))
		}
		cells = append(cells, short(plain(strings.TrimSpace(row.Error+" "+row.Proof)), 160))
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
	return fail(code, "%d of %d users are not revoked, or not for sure", undone, len(users))
}

func newRevokeRow(r dispatch.ManualResult, delegated bool) revokeRow {
	row := revokeRow{
		User: nameOf(r.User), Result: "revoked", Status: r.Attempt.Status, Calls: r.Calls, Reason: string(r.Reason),
		RequestID: r.Attempt.RequestID, ClientRequestID: r.Attempt.ClientRequestID, Proof: r.Attempt.Unverified,
	}
	for to, t := range map[**time.Time]time.Time{&row.Before: r.Attempt.ValidFromBefore, &row.After: r.Attempt.ValidFromAfter} {
		if !t.IsZero() {
			*to = &t
		}
	}
	if !r.Revoked {
		row.Result = "not revoked"
		if errors.Is(r.Err, context.Canceled) {
			row.Error = "stopped before it was called"
		} else if r.Err != nil {
			row.Error = r.Err.Error()
		}
		var failure *revoker.Error
		if delegated && errors.As(r.Err, &failure) && (failure.Kind == revoker.Forbidden || failure.Kind == revoker.MissingPermission) {
			row.Error += "; signed in as yourself, you need the scope User.RevokeSessions.All and one of the roles " + entraRoles
		}
	}
	return row
}

// callList are the records of who is about to be called.
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

// manualRevocation is the record of one user's result.
func manualRevocation(r dispatch.ManualResult) audit.Operation {
	o := audit.Operation{
		Outcome: audit.Revoked, Count: 1, UserID: r.User.ID(), UserPrincipalName: r.User.UPN(), Reason: string(r.Reason),
		Calls: r.Calls, Status: r.Attempt.Status, RequestID: deadletter.Cut(r.Attempt.RequestID, 128), ClientRequestID: r.Attempt.ClientRequestID, Proof: r.Attempt.Unverified,
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

func nameOf(user event.User) string {
	if user.IsZero() {
		return me
	}
	return user.Name()
}

func (p *program) wouldRevoke(out *output, users []event.User, protected *guard.Protected) error {
	list := &rows{output: out, header: table.Row{"USER", "WOULD BE"}}
	for _, user := range users {
		row := revokeRow{User: nameOf(user), Result: "revoked"}
		switch {
		case protected.Has(user):
			row.Result = "refused: on the list of protected users"
		case user.External():
			row.Result = "refused: a guest's sessions belong to another tenant"
		}
		if err := list.add(row, table.Row{row.User, row.Result}); err != nil {
			return err
		}
	}
	list.end("")
	return nil
}

// readUsers reads the arguments, or the lines of standard input, each user once.
func (p *program) readUsers(args []string, delegated bool) ([]event.User, error) {
	if slices.Equal(args, []string{"-"}) {
		text, err := p.readInput("-")
		if err != nil {
			return nil, err
		}
		args = strings.Split(string(text), "\n")
	}
	var users []event.User
	var problems []error
	seen := map[string]bool{}
	for _, arg := range args {
		name := strings.TrimSpace(arg)
		if name == "" {
			continue
		}
		var user event.User
		var err error
		switch {
		case name == me && delegated:
		case name == me:
			err = errors.New(`"me" is allowed with --delegated only: the application is nobody`)
		case strings.Contains(name, "@"):
			user, err = event.NewUser("", name)
		default:
			user, err = event.NewUser(name, "")
		}
		if err != nil {
			problems = append(problems, err)
		} else if !seen[user.Key()] {
			seen[user.Key()] = true
			users = append(users, user)
		}
	}
	if len(problems) > 0 {
		return nil, fail(exitUsage, "nobody was revoked:\n%v", errors.Join(problems[:min(10, len(problems))]...))
	}
	if len(users) == 0 {
		return nil, fail(exitUsage, "no users are given")
	}
	return users, nil
}
