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

// Account is a user as Graph knows them.
type Account struct {
	// ID and UPN are the user's own, whichever of them the request named.
	ID, UPN string
	// External reports whether the sessions belong to another tenant: the user is a guest, or a
	// member of a multi-tenant organization.
	External bool
	// ValidFrom is signInSessionsValidFromDateTime, in whole seconds. No session from before is
	// valid.
	ValidFrom time.Time
}

// Account reads a user. It needs a permission to read users (User.Read.All). Any error is an
// *Error.
func (r *Revoker) Account(ctx context.Context, user event.User) (Account, error) {
	if err := refuseLookup(user); err != nil {
		return Account{}, err
	}
	var answer struct {
		ID        string    `json:"id"`
		UPN       string    `json:"userPrincipalName"`
		Type      string    `json:"userType"`
		ValidFrom time.Time `json:"signInSessionsValidFromDateTime"`
	}
	const query = "?$select=id,userPrincipalName,userType,signInSessionsValidFromDateTime"
	attempt, err := r.attempt(ctx, http.MethodGet, r.path("v1.0", user, query), &answer)
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

// Verifying revokes like a Revoker, and checks before and after the call. It reads the account
// first: that reveals a user of another tenant even if the event gives only an id, and the call
// goes to the id that the name has now. With VerifyTimeout set, it also reads the effect back after
// the call. Each check is one more call to Graph, counted against the quota for reads. It is safe
// for concurrent use.
type Verifying struct {
	*Revoker
	// VerifyTimeout is how long the effect may take to become readable, since the directory's
	// replicas need some seconds. 0 does not verify the effect.
	VerifyTimeout time.Duration
	// Protected reports whether a user must never be called. It gets the account's id and its name
	// one by one, since an event may have given only the one that is not on the list. nil protects
	// nobody.
	Protected func(event.User) bool
	// ByAccount makes no call for a user who is given by name alone. Instead, once the account is
	// read, the error is of kind Named and holds it. The caller can then find out what else is
	// being done, or was just done, for the same person.
	ByAccount bool
}

// verifyEvery is the time between two reads of the effect.
const verifyEvery = 2 * time.Second

// Revoke makes one attempt. It calls nobody for a user of another tenant (an error of kind
// External) and for a protected user (kind Protected). An effect that does not show is an error of
// kind NotRevoked. If users cannot be read, it still makes the call, and the attempt's Unverified
// says so.
func (v *Verifying) Revoke(ctx context.Context, user event.User) (Attempt, error) {
	begun := Attempt{Start: time.Now()} // for results without a call
	account, err := v.Account(ctx, user)
	var failure *Error
	switch {
	case errors.As(err, &failure) && failure.Denied():
		attempt, err := v.Revoker.Revoke(ctx, user)
		attempt.Unverified = "users cannot be read: " + failure.Brief()
		return attempt, err
	case failure != nil && !failure.Start.IsZero():
		attempt := failure.Attempt
		attempt.Sent = false // the request was only for the account
		return attempt, err
	case err != nil:
		return begun, err
	case account.External:
		return begun, &Error{Kind: External, Attempt: begun}
	case v.protects(account):
		return begun, &Error{Kind: Protected, Attempt: begun}
	}
	called := user
	if resolved, err := event.NewUser(account.ID, ""); err == nil {
		called = resolved
		if v.ByAccount && user.ID() == "" {
			return begun, &Error{Kind: Named, Attempt: begun, Account: resolved}
		}
	}
	attempt, err := v.Revoker.Revoke(ctx, called)
	attempt.ValidFromBefore = account.ValidFrom
	if err != nil || v.VerifyTimeout == 0 {
		return attempt, err
	}
	read := func(ctx context.Context) (time.Time, error) { return v.ValidFrom(ctx, called) }
	attempt.ValidFromAfter, attempt.Unverified = VerifyEffect(ctx, read, account.ValidFrom, attempt.ServerDate, v.VerifyTimeout)
	if attempt.Unverified == NotAdvanced {
		return attempt, &Error{
			Kind: NotRevoked, Attempt: attempt,
			Err: fmt.Errorf("%s within %s of a successful call", NotAdvanced, v.VerifyTimeout),
		}
	}
	return attempt, nil
}

// protects reports whether the account is protected by its id or by its name.
func (v *Verifying) protects(a Account) bool {
	if v.Protected == nil {
		return false
	}
	byID, err := event.NewUser(a.ID, "")
	if err == nil && v.Protected(byID) {
		return true
	}
	byName, err := event.NewUser("", a.UPN)
	return err == nil && v.Protected(byName)
}

// NotAdvanced is the problem that VerifyEffect returns if the effect does not show.
const NotAdvanced = "signInSessionsValidFromDateTime has not advanced"

// VerifyEffect reads the time from which sessions are valid until it has advanced beyond before,
// for at most limit; then problem is "". The time has whole seconds: if somebody else has just
// revoked, it may not change. So a time close to called, the Date of the answer to our call, counts
// as well. A time that cannot be read proves nothing either way, and problem says so. If ctx ends,
// VerifyEffect returns what it knows.
func VerifyEffect(
	ctx context.Context, read func(context.Context) (time.Time, error), before, called time.Time, limit time.Duration,
) (after time.Time, problem string) {
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

// Unreadable describes, without naming the user, why a time could not be read.
func Unreadable(err error) string {
	failure, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		return "the effect cannot be read"
	case failure.Denied():
		return "the effect cannot be read (the permission User.Read.All?): " + failure.Brief()
	}
	return "the effect cannot be read: " + failure.Brief()
}
