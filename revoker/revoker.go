// Package revoker makes one attempt to revoke one user's sign-in sessions through Microsoft Graph,
// and reports what the answer means. It never repeats a call: other packages decide when to retry,
// how fast to call and when to give up.
package revoker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/internal/deadline"
)

// Config selects the Graph to call and the identity that calls it.
type Config struct {
	// Root is Graph's root URL in the national cloud, without a version:
	// https://graph.microsoft.com. Required.
	Root string
	// Scope is the scope of the token requests. Defaults to Root + "/.default".
	Scope string
	// Credential supplies the tokens. Required.
	Credential azcore.TokenCredential
	// Beta calls revokeSignInSessions of the beta API instead of v1.0
	// (https://learn.microsoft.com/graph/api/user-revokesigninsessions?view=graph-rest-beta).
	Beta bool
	// LegacyBeta calls the older beta method invalidateAllRefreshTokens, for tenants that still
	// need it; Microsoft recommends against it
	// (https://learn.microsoft.com/graph/api/user-invalidateallrefreshtokens). Beta and LegacyBeta
	// exclude each other.
	LegacyBeta bool
	// Timeout bounds one attempt, including its token request. No attempt is cut off before 63/64 of it.
	// Defaults to 30 s.
	Timeout time.Duration
	// Transport carries the requests. Defaults to a transport of the Revoker's own, which uses the
	// proxy from the environment and trusts the system's certificate authorities.
	Transport http.RoundTripper
}

// Revoker calls Graph. It is safe for concurrent use. Close releases its idle connections.
type Revoker struct {
	root      string
	version   string // of the API
	action    string // the method that revokes, after a slash
	within    *deadline.Shared
	tokens    *tokens
	transport transport
	// revocation is the request of revokeSignInSessions.
	revocation revocation
}

// Attempt describes one HTTP request, whether it succeeded or not. Fields are zero where no answer
// came.
type Attempt struct {
	// Start is our clock just before the request was sent. Duration is the time until the answer
	// was read.
	Start    time.Time
	Duration time.Duration
	// Status is the HTTP status. ServerDate is the answer's Date header.
	Status     int
	ServerDate time.Time
	// Usage is the used part of the quota, which Graph reports from 0.8 on; 0 if Graph does not
	// report it (https://learn.microsoft.com/graph/throttling, x-ms-throttle-limit-percentage).
	Usage float64
	// Sent reports whether a connection existed for the request that revokes the sessions. If it
	// did and no answer came, the sessions may be revoked. Sent is false if nobody was called:
	// there was no token or no connection, or reading the account ruled the call out.
	Sent bool
	// RequestID is Graph's id of the call and ClientRequestID is ours. Microsoft's support asks for
	// both.
	RequestID, ClientRequestID string
	// ValidFromBefore and ValidFromAfter are the times from which the user's sessions were valid,
	// before and after the call. Only a Verifying reads them. Unverified says why the effect could
	// not be verified; it is "" if the effect was verified, or if nobody tried.
	ValidFromBefore, ValidFromAfter time.Time
	Unverified                      string
}

// New builds a Revoker. The error names the setting that is missing or wrong.
func New(cfg Config) (*Revoker, error) {
	root, err := url.Parse(strings.TrimRight(cfg.Root, "/"))
	if err != nil || root.Host == "" || (root.Scheme != "https" && root.Scheme != "http") {
		return nil, fmt.Errorf("graph root %q is not an http(s) URL", cfg.Root)
	}
	if cfg.Credential == nil {
		return nil, errors.New("a credential for Graph is required")
	}
	if cfg.Beta && cfg.LegacyBeta {
		return nil, errors.New("the settings Beta and LegacyBeta exclude each other")
	}
	version, action := "v1.0", "/revokeSignInSessions"
	if cfg.Beta || cfg.LegacyBeta {
		version = "beta"
	}
	if cfg.LegacyBeta {
		action = "/invalidateAllRefreshTokens"
	}
	if cfg.Scope == "" {
		cfg.Scope = root.String() + "/.default"
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 30 * time.Second
	}
	if cfg.Transport == nil {
		cfg.Transport = http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http documents the type
	}
	revocation, err := newRevocation()
	if err != nil {
		return nil, err
	}
	return &Revoker{
		root:       root.String(),
		version:    version,
		action:     action,
		within:     deadline.Within(cfg.Timeout),
		tokens:     newTokens(cfg.Credential, cfg.Scope),
		transport:  transport{RoundTripper: cfg.Transport, host: root.Host},
		revocation: revocation,
	}, nil
}

// Close releases the idle connections.
func (r *Revoker) Close() {
	r.transport.closeIdle()
}

// Revoke makes one HTTP request to revoke the user's sign-in sessions. A nil error means that Graph
// answered 2xx, and that the body is empty or a JSON object whose value is not false and that holds
// no error. Tokens stop working within a few minutes after that. Any error is an *Error. If ctx
// ends before the answer is read, the error is of kind Unreachable, and the sessions may or may not
// be revoked; calling again is harmless.
func (r *Revoker) Revoke(ctx context.Context, user event.User) (Attempt, error) {
	if user.IsZero() {
		return Attempt{}, &Error{Kind: Rejected, Err: errors.New("no user: refusing to call Graph without an id or user principal name")}
	}
	if err := refuseLookup(user); err != nil {
		return Attempt{}, err
	}
	return r.attempt(ctx, http.MethodPost, r.path(r.version, user, r.action), nil)
}

// RevokeMe is Revoke for the signed-in person, whom a delegated token identifies.
func (r *Revoker) RevokeMe(ctx context.Context) (Attempt, error) {
	return r.attempt(ctx, http.MethodPost, r.root+"/"+r.version+"/me"+r.action, nil)
}

// Canary makes an attempt that tests whether Graph accepts attempts. It calls for the given user,
// an account kept for canaries, or, for the zero User, for a random object id. It uses the method,
// version and token of real attempts.
//
// A nil error means that Graph is well. For an account this is a success. For a random id it is a
// 404 with the code of an unknown user: Graph accepts the token and the permission, but writes may
// still fail. A Throttled error is no verdict. Any other *Error means that Graph is not well.
func (r *Revoker) Canary(ctx context.Context, user event.User) (Attempt, error) {
	if !user.IsZero() {
		return r.Revoke(ctx, user)
	}
	nobody, err := event.NewUser(uuid.NewString(), "")
	if err != nil {
		return Attempt{}, &Error{Kind: Rejected, Err: err}
	}
	attempt, err := r.Revoke(ctx, nobody)
	var failure *Error
	switch {
	case err == nil:
		return attempt, &Error{Kind: Unavailable, Attempt: attempt, Err: errors.New("success for a user that nobody is")}
	case errors.As(err, &failure) && failure.Kind == NotFound && failure.Code == unknownUser:
		return attempt, nil
	}
	return attempt, err
}

// unknownUser is the code of Graph's 404 for an unknown user. Other 404s (a wrong path, a gateway)
// have other codes.
const unknownUser = "Request_ResourceNotFound"

// ValidFrom reads the user's signInSessionsValidFromDateTime. No session from before that time is
// valid. The zero User is the signed-in person. It needs a permission to read users
// (User.Read.All). Any error is an *Error.
func (r *Revoker) ValidFrom(ctx context.Context, user event.User) (time.Time, error) {
	if err := refuseLookup(user); err != nil {
		return time.Time{}, err
	}
	path := r.root + "/v1.0/me"
	if !user.IsZero() {
		path = r.path("v1.0", user, "")
	}
	var answer struct {
		ValidFrom time.Time `json:"signInSessionsValidFromDateTime"`
	}
	attempt, err := r.attempt(ctx, http.MethodGet, path+"?$select=signInSessionsValidFromDateTime", &answer)
	if err != nil {
		return time.Time{}, err
	}
	if answer.ValidFrom.IsZero() {
		return time.Time{}, &Error{
			Kind: Unavailable, Attempt: attempt, Err: errors.New("the answer has no signInSessionsValidFromDateTime"),
		}
	}
	return answer.ValidFrom, nil
}

// request is one HTTP request. An answer's body is decoded into into, unless that is nil. by is the
// way of a look-up.
type request struct {
	method, target string
	into           any
	by             event.Lookup
}

// attempt sends a request that is no look-up.
func (r *Revoker) attempt(ctx context.Context, method, target string, into any) (Attempt, error) {
	return r.send(ctx, request{method: method, target: target, into: into})
}

// send makes one HTTP request.
func (r *Revoker) send(ctx context.Context, rq request) (Attempt, error) {
	caller := ctx
	ctx = r.within.Of(ctx)
	if rq.by != event.NoLookup {
		r.tokens.freshen(ctx)
	}
	authorized, forced, err := r.tokens.get(ctx)
	if err != nil {
		failure := &Error{Kind: NoToken, Attempt: Attempt{Start: time.Now()}, By: rq.by, Err: err}
		if caller.Err() != nil {
			failure.Kind = Unreachable // the caller ran out of time, which says nothing about the token
		}
		return failure.Attempt, failure
	}
	ex := &exchange{authorization: authorized, clientRequestID: uuid.NewString(), start: time.Now(), reads: rq.into != nil, by: rq.by}
	if strings.HasSuffix(rq.target, "/revokeSignInSessions") {
		err = ex.send(ctx, r.transport, r.revocation.method, rq.target, r.revocation.header)
	} else {
		err = ex.plain(ctx, r.transport, rq)
	}
	attempt := ex.attempt()
	failure := ex.verdict(err)
	if failure == nil {
		return attempt, nil
	}
	failure.Attempt = attempt
	switch {
	case failure.Kind == Unauthorized:
		failure.Renewed = forced
		r.tokens.refuse(ex.token(), demanded(ex.header.Values("WWW-Authenticate")))
	case failure.Kind == MissingPermission && rq.by != event.NoLookup:
		r.tokens.outdate()
	case failure.Kind == MissingPermission:
		r.tokens.refuse(ex.token(), "") // the credential would keep it for an hour after the permission is granted
	case failure.Status == http.StatusServiceUnavailable:
		// After a 503 Graph asks for a retry on a new connection, which usually leads to another
		// server.
		r.transport.closeIdle()
	case failure.Kind == Unreachable:
		// A firewall or proxy that has forgotten one connection may have forgotten all of them, and
		// each would cost the next attempt its time.
		r.transport.closeIdle()
	}
	return attempt, failure
}

// Check gets a token and examines its permissions, without calling Graph. Any error is an *Error of
// kind NoToken or MissingPermission. A token that cannot be read passes, since only Graph can judge
// it.
func (r *Revoker) Check(ctx context.Context) error {
	ctx = r.within.Of(ctx)
	authorized, _, err := r.tokens.get(ctx)
	if err != nil {
		return &Error{Kind: NoToken, Err: err}
	}
	token := authorized.token()
	if lacksPermission(token) {
		r.tokens.refuse(token, "") // the credential would keep it for an hour after the permission is granted
		return &Error{Kind: MissingPermission}
	}
	return nil
}

// path is the user's URL, followed by rest. Ids and names were validated before; they are still escaped here, where
// the URL is made. A name that begins with $ needs the form ('name') without a slash before it,
// with quotes doubled (https://learn.microsoft.com/graph/api/user-get, "Users whose
// userPrincipalName begins with $").
func (r *Revoker) path(version string, user event.User, rest string) string {
	if name := user.Name(); strings.HasPrefix(name, "$") {
		return r.root + "/" + version + "/users('" + url.PathEscape(strings.ReplaceAll(name, "'", "''")) + "')" + rest
	}
	return r.root + "/" + version + "/users/" + url.PathEscape(user.Name()) + rest
}
