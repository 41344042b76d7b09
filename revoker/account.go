package revoker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

// Account is what Graph knows of a user.
type Account struct {
	// ID and UPN are the user's own, whichever of them was asked for.
	ID, UPN string
	// External says that the sessions belong to another tenant: a guest, or somebody of a multi-tenant organization.
	External bool
	// ValidFrom is signInSessionsValidFromDateTime, in whole seconds: no session from before is valid.
	ValidFrom time.Time
}

// Account reads a user. It needs a permission to read users (User.Read.All). Any error is an *Error.
func (r *Revoker) Account(ctx context.Context, user event.User) (Account, error) {
	var answer struct {
		ID        string    `json:"id"`
		UPN       string    `json:"userPrincipalName"`
		Type      string    `json:"userType"`
		ValidFrom time.Time `json:"signInSessionsValidFromDateTime"`
	}
	attempt, err := r.attempt(ctx, http.MethodGet, r.path("v1.0", user)+"?$select=id,userPrincipalName,userType,signInSessionsValidFromDateTime", &answer)
	if err != nil {
		return Account{}, err
	}
	if answer.ID == "" {
		return Account{}, &Error{Kind: Unavailable, Attempt: attempt, Err: errors.New("the answer names no user")}
	}
	return Account{
		ID: answer.ID, UPN: answer.UPN, ValidFrom: answer.ValidFrom,
		External: strings.EqualFold(answer.Type, "Guest") || strings.Contains(strings.ToUpper(answer.UPN), "#EXT#"),
	}, nil
}

// Verifying revokes as a Revoker does, and looks before and after: the user is read, so that somebody of another tenant is recognized even by
// an id alone, and the call goes to the id that the name has now; with ProofFor set, the effect is read back after the
// call. Each is one more call to Graph, of the quota for reading.
type Verifying struct {
	*Revoker
	// VerifyTimeout is how long the effect may take to be readable, since the directory's replicas need some seconds; 0 does not look
	// for it.
	VerifyTimeout time.Duration
	// Protected says who is never called, by id or by name; an event may have given only the one that is not on the list. nil is nobody.
	Protected func(event.User) bool
	// ByAccount says that nobody is called who is given by a name alone: once the account is read, the error is of kind Named and names it. So the caller
	// can find out what else is being done, or was just done, about the same person.
	ByAccount bool
}

// verifyEvery is how often the effect is looked for.
const verifyEvery = 2 * time.Second

// Revoke makes one attempt. Somebody of another tenant is an error of kind External, somebody protected one of kind Protected, and neither is
// called; an effect that did not show is one of kind NotRevoked. When users may not be read, the call is made all the same, and the attempt says so.
func (c *Verifying) Revoke(ctx context.Context, user event.User) (Attempt, error) {
	begun := Attempt{Start: time.Now()} // for what ends before a call
	account, err := c.Account(ctx, user)
	var failure *Error
	switch {
	case errors.As(err, &failure) && (failure.Kind == Forbidden || failure.Kind == MissingPermission):
		attempt, err := c.Revoker.Revoke(ctx, user)
		attempt.Unverified = "users cannot be read: " + failure.Brief()
		return attempt, err
	case failure != nil && !failure.Start.IsZero():
		attempt := failure.Attempt
		attempt.Sent = false // only the account was to be read
		return attempt, err
	case err != nil:
		return begun, err
	case account.External:
		return begun, &Error{Kind: External, Attempt: begun}
	case c.protects(account):
		return begun, &Error{Kind: Protected, Attempt: begun}
	}
	called := user
	if resolved, err := event.NewUser(account.ID, ""); err == nil {
		called = resolved
		if c.ByAccount && user.ID() == "" {
			return begun, &Error{Kind: Named, Attempt: begun, Account: resolved}
		}
	}
	attempt, err := c.Revoker.Revoke(ctx, called)
	attempt.ValidFromBefore = account.ValidFrom
	if err != nil || c.VerifyTimeout == 0 {
		return attempt, err
	}
	read := func(ctx context.Context) (time.Time, error) { return c.ValidFrom(ctx, called) }
	attempt.ValidFromAfter, attempt.Unverified = VerifyEffect(ctx, read, account.ValidFrom, attempt.ServerDate, c.VerifyTimeout)
	if attempt.Unverified == NotAdvanced {
		return attempt, &Error{Kind: NotRevoked, Attempt: attempt, Err: fmt.Errorf("%s within %s of a call that Graph answered well", NotAdvanced, c.VerifyTimeout)}
	}
	return attempt, nil
}

// protects says that the account is protected by its id or by its name.
func (c *Verifying) protects(a Account) bool {
	if c.Protected == nil {
		return false
	}
	byID, err := event.NewUser(a.ID, "")
	if err == nil && c.Protected(byID) {
		return true
	}
	byName, err := event.NewUser("", a.UPN)
	return err == nil && c.Protected(byName)
}

// NotAdvanced is what Prove says of an effect that does not show.
const NotAdvanced = "signInSessionsValidFromDateTime has not advanced"

// VerifyEffect reads from when on the sessions are valid until that has advanced, for at most limit; problem is "" then. It has whole seconds: when
// somebody else has just revoked, it may be the same after the call, whose answer was dated called. What cannot be read proves
// nothing, neither way.
func VerifyEffect(ctx context.Context, read func(context.Context) (time.Time, error), before, called time.Time, limit time.Duration) (after time.Time, problem string) {
	for deadline := time.Now().Add(limit); ; {
		after, err := read(ctx)
		switch {
		case err == nil && (after.After(before) || !called.IsZero() && !after.Before(called.Add(-2*time.Second))):
			return after, ""
		case err == nil:
			problem = NotAdvanced
		default:
			problem = Unreadable(err)
		}
		if time.Now().Add(verifyEvery).After(deadline) {
			return after, problem
		}
		select {
		case <-time.After(verifyEvery):
		case <-ctx.Done():
			return after, problem
		}
	}
}

// Unreadable says, without naming the user, why a time could not be read.
func Unreadable(err error) string {
	var failure *Error
	if !errors.As(err, &failure) {
		return "the effect cannot be read"
	}
	return "the effect cannot be read (the permission User.Read.All?): " + failure.Brief()
}
