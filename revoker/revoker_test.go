package revoker_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	adaID     = "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c8d"
	revokedOK = `{"@odata.context":"https://graph.microsoft.com/v1.0/$metadata#Edm.Boolean","value":true}`
	jsonType  = "application/json;odata.metadata=minimal;charset=utf-8"
)

var ada = mustUser(adaID, "")

func mustUser(id, upn string) event.User {
	user, err := event.NewUser(id, upn)
	if err != nil {
		panic(err)
	}
	return user
}

// graph is a server whose answer each test writes. It keeps the requests.
type graph struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
}

func newGraph(t *testing.T, answer http.HandlerFunc) *graph {
	g := &graph{}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.requests = append(g.requests, r.Clone(context.Background()))
		g.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *graph) seen() []*http.Request {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.requests
}

// says gives every request the same answer; headers come in pairs.
func says(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		if body != "" {
			w.Header().Set("Content-Type", jsonType)
		}
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

func graphError(code string) string {
	return fmt.Sprintf(`{"error":{"code":%q,"message":"something about it"}}`, code)
}

// credential supplies tokens. A request with claims gets a fresh one, as from azidentity's caches.
type credential struct {
	mu     sync.Mutex
	roles  string
	issued int
	err    error
	claims []string
}

func (c *credential) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return azcore.AccessToken{}, c.err
	}
	if o.Claims != "" || c.issued == 0 {
		c.issued++
	}
	if o.Claims != "" {
		c.claims = append(c.claims, o.Claims)
	}
	return azcore.AccessToken{Token: c.token()}, nil
}

func (c *credential) token() string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + enc([]byte(fmt.Sprintf(`{"roles":[%s],"n":%d}`, c.roles, c.issued))) + "."
}

func withRole() *credential { return &credential{roles: `"User.RevokeSessions.All"`} }

func newRevoker(t *testing.T, root string, cred azcore.TokenCredential) *revoker.Revoker {
	r, err := revoker.New(revoker.Config{Root: root, Credential: cred, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// attempt makes one call to a server that answers with handler.
func attempt(t *testing.T, cred azcore.TokenCredential, handler http.HandlerFunc) (*graph, revoker.Attempt, *revoker.Error) {
	g := newGraph(t, handler)
	a, err := newRevoker(t, g.URL, cred).Revoke(t.Context(), ada)
	var failure *revoker.Error
	if err != nil && !errors.As(err, &failure) {
		t.Fatalf("error of type %T, want *revoker.Error: %v", err, err)
	}
	return g, a, failure
}

func TestAnswerKinds(t *testing.T) {
	html := "<html><body>Access denied by your proxy</body></html>"
	cases := []struct {
		name   string
		answer http.HandlerFunc
		want   revoker.Kind // "" is success
	}{
		{"200 true", says(200, revokedOK), ""},
		{"200 without a body", says(200, ""), ""},
		{"201 true", says(201, revokedOK), ""},
		{"204", says(204, ""), ""},
		{"200 without a value", says(200, `{}`), ""},
		{"200 false is not success", says(200, `{"value":false}`), revoker.NotRevoked},
		{"200 false with a type in another case", says(200, `{"value":false}`, "Content-Type", "Application/JSON"), revoker.NotRevoked},
		{"200 HTML is a portal's page", says(200, html, "Content-Type", "text/html"), revoker.Unavailable},
		{"200 with broken JSON", says(200, `{"value":`), revoker.Unavailable},
		{"200 null value", says(200, `{"value":null}`), ""},
		{"200 with members that nobody reads", says(200, `{"@odata.context":1,"x":[{"error":1,"value":false}],"value":true}`), ""},
		{"200 with spaces around", says(200, " \r\n{\"value\" : true}\n"), ""},
		{"200 false beside others", says(200, `{"a":{},"value":false,"b":[]}`), revoker.NotRevoked},
		{"200 false in another case", says(200, `{"Value":false}`), revoker.NotRevoked},
		{"200 false by an escape", says(200, `{"\u0076alue":false}`), revoker.NotRevoked},
		{"200 null", says(200, `null`), revoker.Unavailable},
		{"200 true alone", says(200, `true`), revoker.Unavailable},
		{"200 a string", says(200, `"value"`), revoker.Unavailable},
		{"200 a list", says(200, `[]`), revoker.Unavailable},
		{"200 a list of answers", says(200, `[{"value":true}]`), revoker.Unavailable},
		{"200 with an error", says(200, graphError("serviceNotAvailable")), revoker.Unavailable},
		{"200 with an error in another case", says(200, `{"value":true,"ERROR":{}}`), revoker.Unavailable},
		{"200 with an error that is null", says(200, `{"value":true,"error":null}`), revoker.Unavailable},
		{"200 false with an error", says(200, `{"value":false,"error":{}}`), revoker.Unavailable},
		{"200 \"false\"", says(200, `{"value":"false"}`), revoker.Unavailable},
		{"200 \"true\"", says(200, `{"value":"true"}`), revoker.Unavailable},
		{"200 0", says(200, `{"value":0}`), revoker.Unavailable},
		{"200 an object as value", says(200, `{"value":{}}`), revoker.Unavailable},
		{"200 two answers", says(200, `{"value":true}{"value":true}`), revoker.Unavailable},
		{"200 an answer and more", says(200, `{"value":true} x`), revoker.Unavailable},
		{"200 value twice", says(200, `{"value":true,"value":true}`), revoker.Unavailable},
		{"200 value twice, false first", says(200, `{"value":false,"value":true}`), revoker.Unavailable},
		{"200 value twice in another case", says(200, `{"value":true,"VALUE":false}`), revoker.Unavailable},
		{"200 half an answer", says(200, revokedOK[:len(revokedOK)/2]), revoker.Unavailable},
		{"200 an answer without its end", says(200, `{"value":true`), revoker.Unavailable},
		{"200 spaces alone", says(200, "  \n"), revoker.Unavailable},
		{"200 nested without end", says(200, `{"value":`+strings.Repeat("[", 60_000)), revoker.Unavailable},
		{"206 true", says(206, revokedOK), ""},
		{"200 an answer of another type", says(200, revokedOK, "Content-Type", "text/plain"), revoker.Unavailable},
		{"200 with a body that breaks off", says(200, revokedOK, "Content-Length", "5000"), revoker.Unreachable},
		{"200 with an endless body", says(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), revoker.Unreachable},
		{"302", says(302, "", "Location", "https://login.example.com/"), revoker.Unavailable},
		{"400", says(400, graphError("BadRequest")), revoker.Rejected},
		{"401", says(401, graphError("InvalidAuthenticationToken")), revoker.Unauthorized},
		{"403 of one user", says(403, graphError("Authorization_RequestDenied")), revoker.Forbidden},
		{
			"403 JSON of another type is a proxy's", says(403, graphError("Authorization_RequestDenied"), "Content-Type", "text/plain"),
			revoker.Unavailable,
		},
		{"404 JSON without an error is a proxy's", says(404, `{"message":"no route"}`), revoker.Unavailable},
		{"403 HTML is a proxy's", says(403, html, "Content-Type", "text/html"), revoker.Unavailable},
		{"404", says(404, graphError("Request_ResourceNotFound")), revoker.NotFound},
		{"404 HTML is a proxy's", says(404, html, "Content-Type", "text/html"), revoker.Unavailable},
		{"404 without a body", says(404, ""), revoker.Unavailable},
		{"408", says(408, ""), revoker.Unavailable},
		{"409", says(409, graphError("Conflict")), revoker.Rejected},
		{"429", says(429, graphError("TooManyRequests")), revoker.Throttled},
		{"429 without a body", says(429, ""), revoker.Throttled},
		{"500", says(500, graphError("InternalServerError")), revoker.Unavailable},
		{"502 HTML", says(502, html, "Content-Type", "text/html"), revoker.Unavailable},
		{"503", says(503, graphError("serviceNotAvailable")), revoker.Unavailable},
		{"504", says(504, ""), revoker.Unavailable},
		{"509", says(509, ""), revoker.Unavailable},
		{"dropped", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, revoker.Unreachable},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			g, _, failure := attempt(t, withRole(), c.answer)
			if got := kindOf(failure); got != c.want {
				t.Errorf("kind %q, want %q (%v)", got, c.want, failure)
			}
			// The SDK's own retries would hide throttling and multiply calls.
			if n := len(g.seen()); n != 1 {
				t.Errorf("%d requests, want one per attempt", n)
			}
		})
	}
}

func kindOf(failure *revoker.Error) revoker.Kind {
	if failure == nil {
		return ""
	}
	return failure.Kind
}

func TestSDKTrapODataErrorWithoutMessagePanics(t *testing.T) {
	for _, body := range []string{`{"error":{}}`, `{"error":{"code":"X"}}`, `{"error":null}`, `{}`, `[]`, `null`, `"x"`} {
		_, _, failure := attempt(t, withRole(), says(400, body))
		if failure == nil || failure.Error() == "" {
			t.Errorf("%s: no error", body)
		}
	}
}

func TestSDKTrapRetriesByItself(t *testing.T) {
	for _, status := range []int{429, 503, 504} {
		g, _, failure := attempt(t, withRole(), says(status, "", "Retry-After", "0"))
		if failure == nil || failure.Status != status || len(g.seen()) != 1 {
			t.Errorf("%d: %v after %d requests; want to see it after one", status, failure, len(g.seen()))
		}
	}
}

func TestSDKTrapAdapterHasNoSerializers(t *testing.T) {
	if _, _, failure := attempt(t, withRole(), says(200, revokedOK)); failure != nil {
		t.Errorf("the user is revoked, but the attempt fails: %v", failure)
	}
	if _, _, failure := attempt(t, withRole(), says(200, `{"value":false}`)); kindOf(failure) != revoker.NotRevoked {
		t.Errorf("value false was not read: %v", failure)
	}
}

func TestSDKTrapHTMLPageHidesStatus(t *testing.T) {
	_, a, failure := attempt(t, withRole(), says(403, "<html>blocked</html>", "Content-Type", "text/html"))
	if kindOf(failure) != revoker.Unavailable || failure.Status != 403 || a.Status != 403 || !failure.Shared() {
		t.Errorf("%v; a proxy's 403 says nothing about the user, and the error must hold its status", failure)
	}
}

func TestSDKTrapEmptyAnswersAndRedirectsLookAlike(t *testing.T) {
	if _, _, failure := attempt(t, withRole(), says(204, "")); failure != nil {
		t.Errorf("204: %v", failure)
	}
	if _, _, failure := attempt(t, withRole(), says(302, "", "Location", "/login")); kindOf(failure) != revoker.Unavailable {
		t.Errorf("302: %v", failure)
	}
}

func TestAnswerRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	cases := []struct {
		name, value string
		want        time.Duration
	}{
		{"seconds", "17", 17 * time.Second},
		{"a date is measured against the answer's own clock", now.Add(90 * time.Second).Format(http.TimeFormat), 90 * time.Second},
		{"a date in the past", now.Add(-time.Hour).Format(http.TimeFormat), 0},
		{"absent", "", 0},
		{"rubbish", "soon", 0},
		{"negative", "-5", 0},
		{"too large", "99999999999999999999", 0},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, _, failure := attempt(t, withRole(), says(429, "", "Retry-After", c.value, "Date", now.Format(http.TimeFormat)))
			if failure.RetryAfter() != c.want {
				t.Errorf("%q: %v, want %v", c.value, failure.RetryAfter(), c.want)
			}
		})
	}
}

func TestAnswerMissingPermissionDiffersFromForbidden(t *testing.T) {
	denied := says(403, graphError("Authorization_RequestDenied"))
	for roles, want := range map[string]revoker.Kind{
		``:                             revoker.MissingPermission,
		`"User.Read.All"`:              revoker.MissingPermission,
		`"User.RevokeSessions.All"`:    revoker.Forbidden,
		`"User.ReadWrite.All"`:         revoker.Forbidden,
		`"Directory.ReadWrite.All"`:    revoker.Forbidden,
		`"X","Directory.Read.All"`:     revoker.MissingPermission,
		`"user.revokesessions.all"`:    revoker.MissingPermission,
		`"X","User.ReadWrite.All","Y"`: revoker.Forbidden,
	} {
		_, _, failure := attempt(t, &credential{roles: roles}, denied)
		if failure.Kind != want || failure.Systemic() != (want == revoker.MissingPermission) {
			t.Errorf("roles [%s]: %q (systemic %v), want %q", roles, failure.Kind, failure.Systemic(), want)
		}
	}
}

// TestSDKTrapAnswersClaimsChallenges also shows that a 401 forces exactly one new token.
func TestSDKTrapAnswersClaimsChallenges(t *testing.T) {
	var first string
	g := newGraph(t, func(w http.ResponseWriter, r *http.Request) {
		if first == "" {
			first = r.Header.Get("Authorization")
		}
		if r.Header.Get("Authorization") == first {
			// A claims challenge makes the SDK repeat the request by itself; a malformed one makes
			// it panic.
			says(401, graphError("InvalidAuthenticationToken"), "WWW-Authenticate", `Bearer realm="", claims=x`)(w, r)
			return
		}
		says(200, revokedOK)(w, r)
	})
	cred := withRole()
	r := newRevoker(t, g.URL, cred)
	if _, err := r.Revoke(t.Context(), ada); err == nil || len(g.seen()) != 1 {
		t.Fatalf("error %v after %d requests, want a 401 after one", err, len(g.seen()))
	}
	for range 3 {
		if _, err := r.Revoke(t.Context(), ada); err != nil {
			t.Fatalf("with a new token: %v", err)
		}
	}
	if len(cred.claims) != 1 {
		t.Errorf("%d forced renewals, want 1: %v", len(cred.claims), cred.claims)
	}
}

func TestTokenAnswersClaimsChallenge(t *testing.T) {
	const demand = `{"access_token":{"nbf":{"essential":true,"value":"1800000000"}}}`
	std, url := base64.StdEncoding.EncodeToString([]byte(demand)), base64.RawURLEncoding.EncodeToString([]byte(demand))
	for name, c := range map[string]struct{ challenge, want string }{
		"standard": {`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", ` +
			`error="insufficient_claims", claims="` + std + `"`, demand},
		"for URLs": {`Bearer claims="` + url + `", realm=""`, demand},
		// Any new token will do then.
		"not Base64":  {`Bearer claims="%%%"`, ""},
		"not JSON":    {`Bearer claims="` + base64.StdEncoding.EncodeToString([]byte("hello")) + `"`, ""},
		"other words": {`Bearer xclaims="` + std + `"`, ""},
		"no end":      {`Bearer claims="` + std, ""},
		"too long":    {`Bearer claims="` + strings.Repeat("a", 9000) + `"`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			calls := 0
			g := newGraph(t, func(w http.ResponseWriter, r *http.Request) {
				if calls++; calls == 1 {
					says(401, graphError("InvalidAuthenticationToken"), "WWW-Authenticate", c.challenge)(w, r)
					return
				}
				says(200, revokedOK)(w, r)
			})
			cred := withRole()
			r := newRevoker(t, g.URL, cred)
			_, _ = r.Revoke(t.Context(), ada)
			if _, err := r.Revoke(t.Context(), ada); err != nil {
				t.Fatal(err)
			}
			if len(cred.claims) != 1 || c.want != "" && cred.claims[0] != c.want ||
				c.want == "" && !strings.Contains(cred.claims[0], "nbf") {
				t.Errorf("asked for a token with %q, want %q", cred.claims, c.want)
			}
		})
	}
}

func TestTokenMissingCallsNobody(t *testing.T) {
	g, _, failure := attempt(t, &credential{err: errors.New("identity service down")}, says(200, revokedOK))
	if kindOf(failure) != revoker.NoToken || !failure.Systemic() || len(g.seen()) != 0 {
		t.Errorf("%v after %d requests", failure, len(g.seen()))
	}
}

// TestRequest covers two traps: the SDK adds a client-request-id of its own, and omits the token
// for a bare host:port.
func TestRequest(t *testing.T) {
	g, a, failure := attempt(t, withRole(), says(200, revokedOK, "request-id", "graph-1", "Date", "Sun, 01 Mar 2026 12:00:00 GMT"))
	if failure != nil {
		t.Fatal(failure)
	}
	r := g.seen()[0]
	if r.Method != http.MethodPost || r.ContentLength > 0 {
		t.Errorf("%s with a body of %d bytes, want POST without one", r.Method, r.ContentLength)
	}
	if auth := r.Header.Get("Authorization"); auth != "Bearer "+(&credential{roles: `"User.RevokeSessions.All"`, issued: 1}).token() {
		t.Errorf("Authorization %q: the token must reach a bare host:port too", auth)
	}
	if ids := r.Header.Values("client-request-id"); len(ids) != 1 || ids[0] != a.ClientRequestID || len(ids[0]) != 36 {
		t.Errorf("client-request-id %q, want exactly the attempt's %q", ids, a.ClientRequestID)
	}
	if a.RequestID != "graph-1" || a.Status != 200 || a.Duration <= 0 || a.Start.IsZero() || a.ServerDate.Hour() != 12 {
		t.Errorf("attempt %+v", a)
	}
}

func TestRequestPaths(t *testing.T) {
	for name, want := range map[string]string{
		"ada@contoso.com":                       "/v1.0/users/ada@contoso.com/revokeSignInSessions",
		"o'neil@contoso.com":                    "/v1.0/users/o%27neil@contoso.com/revokeSignInSessions",
		"a_fabrikam.com#EXT#@c.onmicrosoft.com": "/v1.0/users/a_fabrikam.com%23EXT%23@c.onmicrosoft.com/revokeSignInSessions",
		"a^b~c!@contoso.com":                    "/v1.0/users/a%5Eb~c%21@contoso.com/revokeSignInSessions",
		"$svc@contoso.com":                      "/v1.0/users('$svc@contoso.com')/revokeSignInSessions",
		"$o'neil@contoso.com":                   "/v1.0/users('$o%27%27neil@contoso.com')/revokeSignInSessions",
	} {
		g := newGraph(t, says(204, ""))
		if _, err := newRevoker(t, g.URL+"/", withRole()).Revoke(t.Context(), mustUser("", name)); err != nil {
			t.Fatal(err)
		}
		if got := g.seen()[0].RequestURI; got != want {
			t.Errorf("%s: called %s, want %s", name, got, want)
		}
	}
	g := newGraph(t, says(204, ""))
	if _, err := newRevoker(t, g.URL, withRole()).Revoke(t.Context(), mustUser(strings.ToUpper(adaID), "ada@contoso.com")); err != nil {
		t.Fatal(err)
	}
	if got := g.seen()[0].RequestURI; got != "/v1.0/users/"+adaID+"/revokeSignInSessions" {
		t.Errorf("with id and name the id is called, got %s", got)
	}
}

func TestRequestForEmptyUserIsRefused(t *testing.T) {
	g := newGraph(t, says(204, ""))
	_, err := newRevoker(t, g.URL, withRole()).Revoke(t.Context(), event.User{})
	var failure *revoker.Error
	if !errors.As(err, &failure) || !failure.Permanent() || len(g.seen()) != 0 {
		t.Errorf("error %v after %d requests", err, len(g.seen()))
	}
}

func TestAnswerRedirectIsNotFollowed(t *testing.T) {
	other := newGraph(t, says(204, ""))
	_, _, failure := attempt(t, withRole(), says(307, "", "Location", other.URL))
	if failure == nil || len(other.seen()) != 0 {
		t.Errorf("error %v; the redirect was followed %d times", failure, len(other.seen()))
	}
}

func TestAnswerSlowEndsWithTimeout(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	g := newGraph(t, func(http.ResponseWriter, *http.Request) { <-release })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := newRevoker(t, g.URL, withRole()).Revoke(ctx, ada)
	var failure *revoker.Error
	if !errors.As(err, &failure) || failure.Kind != revoker.Unreachable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestErrorNeverContainsToken(t *testing.T) {
	cred := withRole()
	for _, answer := range []http.HandlerFunc{
		says(401, graphError("InvalidAuthenticationToken")),
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		says(200, "{"),
	} {
		_, _, failure := attempt(t, cred, answer)
		if strings.Contains(failure.Error(), cred.token()) {
			t.Errorf("the error contains the token: %v", failure)
		}
	}
}

func TestCheckFindsFaultsBeforeTheFirstCall(t *testing.T) {
	for name, c := range map[string]struct {
		cred *credential
		want revoker.Kind
	}{
		"permission": {withRole(), ""},
		"none":       {&credential{roles: `"User.Read.All"`}, revoker.MissingPermission},
		"no token":   {&credential{err: errors.New("down")}, revoker.NoToken},
	} {
		err := newRevoker(t, "http://127.0.0.1:1", c.cred).Check(t.Context())
		var failure *revoker.Error
		errors.As(err, &failure)
		if kindOf(failure) != c.want {
			t.Errorf("%s: %v, want kind %q", name, err, c.want)
		}
	}
}

// grantedLater is a credential whose permission is granted after its first token, which it keeps.
type grantedLater struct{ *credential }

func (c grantedLater) GetToken(ctx context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	if o.Claims != "" {
		c.roles = `"User.RevokeSessions.All"`
	}
	return c.credential.GetToken(ctx, o)
}

// The credential keeps a token without the permission for an hour or more. Only a new token shows
// that the permission was granted since.
func TestTokenNoticesGrantedPermissionAtOnce(t *testing.T) {
	cred := grantedLater{&credential{}}
	r := newRevoker(t, "http://127.0.0.1:1", cred)
	if err := r.Check(t.Context()); err == nil {
		t.Fatal("a token without a permission passes")
	}
	if err := r.Check(t.Context()); err != nil || len(cred.claims) != 1 {
		t.Errorf("the first token is believed forever: %v", err)
	}
	calls := 0
	g := newGraph(t, func(w http.ResponseWriter, r *http.Request) {
		if calls++; calls == 1 {
			says(403, graphError("Authorization_RequestDenied"))(w, r)
			return
		}
		says(200, revokedOK)(w, r)
	})
	cred = grantedLater{&credential{}}
	r = newRevoker(t, g.URL, cred)
	if _, err := r.Revoke(t.Context(), ada); err == nil {
		t.Fatal("not refused")
	}
	if _, err := r.Revoke(t.Context(), ada); err != nil || len(cred.claims) != 1 {
		t.Errorf("%v after %d new tokens, want one", err, len(cred.claims))
	}
}

func TestNewNamesWrongSetting(t *testing.T) {
	for _, cfg := range []revoker.Config{
		{Root: "graph.microsoft.com", Credential: withRole()},
		{Root: "ftp://graph.microsoft.com", Credential: withRole()},
		{Root: "https://graph.microsoft.com"},
		{Root: "https://graph.microsoft.com", Credential: withRole(), Beta: true, LegacyBeta: true},
	} {
		if _, err := revoker.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestRequestForSignedInPersonAndOlderMethod(t *testing.T) {
	g := newGraph(t, says(200, revokedOK))
	if _, err := newRevoker(t, g.URL, withRole()).RevokeMe(t.Context()); err != nil ||
		g.seen()[0].RequestURI != "/v1.0/me/revokeSignInSessions" {
		t.Errorf("%v, called %s", err, g.seen()[0].RequestURI)
	}
	older := revoker.Config{LegacyBeta: true}
	beta := revoker.Config{Beta: true}
	for name, c := range map[string]struct {
		cfg    revoker.Config
		path   string // after /beta/users/ID, and after /beta/me
		answer http.HandlerFunc
		want   revoker.Kind
	}{
		"beta, 204":   {beta, "/revokeSignInSessions", says(204, ""), ""},
		"beta, true":  {beta, "/revokeSignInSessions", says(200, revokedOK), ""},
		"beta, false": {beta, "/revokeSignInSessions", says(200, `{"value":false}`), revoker.NotRevoked},
		"204":         {older, "/invalidateAllRefreshTokens", says(204, ""), ""},
		"true":        {older, "/invalidateAllRefreshTokens", says(200, `{"value":true}`), ""},
		"false":       {older, "/invalidateAllRefreshTokens", says(200, `{"value":false}`), revoker.NotRevoked},
		"404":         {older, "/invalidateAllRefreshTokens", says(404, graphError("Request_ResourceNotFound")), revoker.NotFound},
	} {
		g := newGraph(t, c.answer)
		c.cfg.Root, c.cfg.Credential = g.URL, withRole()
		r, err := revoker.New(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Revoke(t.Context(), ada)
		if _, _ = r.RevokeMe(t.Context()); g.seen()[1].RequestURI != "/beta/me"+c.path {
			t.Errorf("%s: me called %s", name, g.seen()[1].RequestURI)
		}
		r.Close()
		var failure *revoker.Error
		errors.As(err, &failure)
		if got := g.seen()[0]; kindOf(failure) != c.want || got.RequestURI != "/beta/users/"+adaID+c.path ||
			got.Method != http.MethodPost {
			t.Errorf("%s: %v, called %s %s", name, err, got.Method, got.RequestURI)
		}
	}
}

func TestCanaryForRandomID(t *testing.T) {
	const notFound = "Request_ResourceNotFound"
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   revoker.Kind // "" is well
	}{
		"unknown":                     {says(404, graphError(notFound)), ""},
		"unknown, with another code":  {says(404, graphError("ResourceNotFound")), revoker.NotFound},
		"unknown, says a proxy":       {says(404, graphError(notFound), "Content-Type", "text/html"), revoker.Unavailable},
		"the code of a bad request":   {says(400, graphError(notFound)), revoker.Rejected},
		"nobody is revoked":           {says(200, revokedOK), revoker.Unavailable},
		"nobody is revoked, bodiless": {says(204, ""), revoker.Unavailable},
		"value false":                 {says(200, `{"value":false}`), revoker.NotRevoked},
		"refused":                     {says(403, graphError("x")), revoker.Forbidden},
		"a refused token":             {says(401, graphError("x")), revoker.Unauthorized},
		"throttled is no verdict":     {says(429, ""), revoker.Throttled},
		"unavailable":                 {says(503, ""), revoker.Unavailable},
	} {
		for _, legacy := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, legacy %v", name, legacy), func(t *testing.T) {
				g := newGraph(t, c.answer)
				r, err := revoker.New(revoker.Config{Root: g.URL, Credential: withRole(), LegacyBeta: legacy})
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				var uris []string
				for range 2 {
					a, err := r.Canary(t.Context(), event.User{})
					var failure *revoker.Error
					if errors.As(err, &failure); kindOf(failure) != c.want || a.Status == 0 || (err == nil) != (c.want == "") {
						t.Errorf("%v, want %q", err, c.want)
					}
					seen := g.seen()
					uris = append(uris, seen[len(seen)-1].Method+" "+seen[len(seen)-1].RequestURI)
				}
				before, after := "POST /v1.0/users/", "/revokeSignInSessions"
				if legacy {
					before, after = "POST /beta/users/", "/invalidateAllRefreshTokens"
				}
				for _, uri := range uris {
					if !strings.HasPrefix(uri, before) || !strings.HasSuffix(uri, after) || len(uri) != len(before+adaID+after) {
						t.Errorf("called %s, want the method of real attempts", uri)
					}
				}
				if uris[0] == uris[1] {
					t.Errorf("the same id twice: %s", uris[0])
				}
			})
		}
	}
}

func TestCanaryForAccount(t *testing.T) {
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   revoker.Kind // "" is well
	}{
		"revoked":     {says(200, revokedOK), ""},
		"bodiless":    {says(204, ""), ""},
		"value false": {says(200, `{"value":false}`), revoker.NotRevoked},
		"unknown":     {says(404, graphError("Request_ResourceNotFound")), revoker.NotFound},
		"throttled":   {says(429, ""), revoker.Throttled},
		"refused":     {says(403, graphError("x")), revoker.Forbidden},
	} {
		g := newGraph(t, c.answer)
		a, err := newRevoker(t, g.URL, withRole()).Canary(t.Context(), ada)
		var failure *revoker.Error
		if errors.As(err, &failure); kindOf(failure) != c.want || a.Status == 0 {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if uri := g.seen()[0].RequestURI; uri != "/v1.0/users/"+adaID+"/revokeSignInSessions" {
			t.Errorf("called %s", uri)
		}
	}
}

// waiting is a credential whose identity service does not answer.
type waiting struct{}

func (waiting) GetToken(ctx context.Context, _ policy.TokenRequestOptions) (azcore.AccessToken, error) {
	<-ctx.Done()
	return azcore.AccessToken{}, ctx.Err()
}

// A caller may wait for less than graph.timeout. A canceled request says nothing about the token.
func TestAttemptCutOffByCallerIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hanging := roundTrip(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		for name, c := range map[string]struct {
			cred     azcore.TokenCredential
			patience time.Duration
			want     revoker.Kind
			after    time.Duration
		}{
			"Graph hangs":                                {withRole(), 5 * time.Second, revoker.Unreachable, 5 * time.Second},
			"Graph hangs, and the caller waits":          {withRole(), time.Hour, revoker.Unreachable, 30 * time.Second},
			"the identity service":                       {waiting{}, 5 * time.Second, revoker.Unreachable, 5 * time.Second},
			"the identity service, and the caller waits": {waiting{}, time.Hour, revoker.NoToken, 30 * time.Second},
		} {
			r, err := revoker.New(revoker.Config{
				Root: "https://graph.example", Credential: c.cred, Transport: hanging, Timeout: 30 * time.Second,
			})
			if err != nil {
				t.Fatal(err)
			}
			for user, call := range map[string]func(context.Context) (revoker.Attempt, error){
				"ada":    func(ctx context.Context) (revoker.Attempt, error) { return r.Revoke(ctx, ada) },
				"canary": func(ctx context.Context) (revoker.Attempt, error) { return r.Canary(ctx, event.User{}) },
			} {
				begun := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				a, err := call(ctx)
				cancel()
				var failure *revoker.Error
				if !errors.As(err, &failure) || failure.Kind != c.want || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("%s, %s: %v", name, user, err)
				}
				if took := time.Since(begun); took != c.after || a.Start.IsZero() {
					t.Errorf("%s, %s: took %s, started %s", name, user, took, a.Start)
				}
			}
		}
	})
}

// The volume guard counts everybody who may have been signed out, but not those for whom there was
// no connection.
func TestAttemptReportsWhetherItWasSent(t *testing.T) {
	for name, c := range map[string]struct {
		dial func() (net.Conn, error)
		cred azcore.TokenCredential
	}{
		"no token":      {cred: &credential{err: errors.New("no secret")}},
		"no connection": {cred: withRole(), dial: func() (net.Conn, error) { return nil, errors.New("connection refused") }},
		"no TLS": {cred: withRole(), dial: func() (net.Conn, error) {
			here, there := net.Pipe()
			_ = there.Close()
			return here, nil
		}},
	} {
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return c.dial() }}
		r, err := revoker.New(revoker.Config{Root: "https://graph.example", Credential: c.cred, Transport: transport})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := r.Revoke(t.Context(), ada); err == nil || a.Sent {
			t.Errorf("%s: %v, sent %v", name, err, a.Sent)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	defer server.Close()
	r, err := revoker.New(revoker.Config{Root: server.URL, Credential: withRole()})
	if err != nil {
		t.Fatal(err)
	}
	if a, err := r.Revoke(t.Context(), ada); err == nil || !a.Sent || a.Status != 0 {
		t.Errorf("a request that was not answered: %v, sent %v", err, a.Sent)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// The rest of the worker handles a failure by these answers alone.
func TestErrorKinds(t *testing.T) {
	type meaning struct {
		permanent, systemic, throttled, shared, lagging, suspicious bool
		failures                                                    int
	}
	for kind, want := range map[revoker.Kind]meaning{
		revoker.NotRevoked:        {shared: true},
		revoker.NotFound:          {lagging: true},
		revoker.External:          {permanent: true},
		revoker.Protected:         {permanent: true},
		revoker.Rejected:          {permanent: true},
		revoker.Forbidden:         {shared: true, suspicious: true, failures: 2},
		revoker.MissingPermission: {systemic: true},
		revoker.Unauthorized:      {},
		revoker.NoToken:           {systemic: true},
		revoker.Throttled:         {throttled: true},
		revoker.Unavailable:       {shared: true, suspicious: true},
		revoker.Unreachable:       {shared: true, suspicious: true},
	} {
		e := &revoker.Error{Kind: kind}
		got := meaning{e.Permanent(), e.Systemic(), e.Throttled(), e.Shared(), e.Lagging(), e.Suspicious(), e.MaxFailures()}
		if got != want {
			t.Errorf("%s: %+v, want %+v", kind, got, want)
		}
	}
}

func TestErrorCutsCodeAndMessage(t *testing.T) {
	for _, length := range []int{128, 129, 10_000} {
		body := fmt.Sprintf(`{"error":{"code":%q,"message":%q}}`, strings.Repeat("c", length), strings.Repeat("m", 2*length))
		_, _, failure := attempt(t, withRole(), says(400, body))
		code, message := strings.Repeat("c", 128), strings.Repeat("m", 256)
		if length > 128 {
			code, message = code+"…", message+"…"
		}
		if failure.Code != code || failure.Message != message {
			t.Errorf("%d: a code of %d bytes and a message of %d", length, len(failure.Code), len(failure.Message))
		}
	}
}

func TestValidFrom(t *testing.T) {
	g := newGraph(t, says(200, `{"signInSessionsValidFromDateTime":"2026-03-01T12:00:00Z"}`))
	r := newRevoker(t, g.URL, withRole())
	at, err := r.ValidFrom(t.Context(), ada)
	if err != nil || !at.Equal(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)) {
		t.Errorf("%v, %v", at, err)
	}
	if _, err := r.ValidFrom(t.Context(), event.User{}); err != nil {
		t.Error(err)
	}
	const query = "?$select=signInSessionsValidFromDateTime"
	if seen := g.seen(); seen[0].RequestURI != "/v1.0/users/"+adaID+query || seen[1].RequestURI != "/v1.0/me"+query ||
		seen[0].Method != http.MethodGet {
		t.Errorf("called %s and %s", seen[0].RequestURI, seen[1].RequestURI)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"refused": says(403, graphError("x")), "without the time": says(200, `{}`), "no JSON": says(200, `{`),
		"a page": says(200, "<html>", "Content-Type", "text/html"),
	} {
		if at, err := newRevoker(t, newGraph(t, answer).URL, withRole()).ValidFrom(t.Context(), ada); err == nil {
			t.Errorf("%s: %v", name, at)
		}
	}
}

func TestTokenClaims(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	token := func(payload string) string {
		return enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(payload)) + "."
	}
	const all = `{"aud":"https://graph.microsoft.com","roles":["A"],"scp":"B C","tid":"t","appid":"a","exp":1772366400}`
	c, err := revoker.ReadClaims(token(all))
	if err != nil || c.Audience[0] != "https://graph.microsoft.com" || c.Roles[0] != "A" || len(c.Scopes) != 2 || c.Tenant != "t" ||
		c.AppID != "a" || c.Expires.Year() != 2026 {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := revoker.ReadClaims("opaque"); err == nil || strings.Contains(err.Error(), "opaque") {
		t.Errorf("an opaque token: %v", err)
	}
	for claims, want := range map[string][2]bool{
		`{"roles":["User.RevokeSessions.All"]}`:                      {true, false},
		`{"scp":"User.RevokeSessions.All"}`:                          {true, false},
		`{"roles":["User.ReadWrite.All"]}`:                           {true, true},
		`{"roles":["User.ReadWrite.All","User.RevokeSessions.All"]}`: {true, false},
		`{"roles":["User.Read.All"]}`:                                {false, false},
	} {
		c, err := revoker.ReadClaims(token(claims))
		if may, broader := c.MayRevoke(); err != nil || may != want[0] || broader != want[1] {
			t.Errorf("%s: may %v, broader %v, %v", claims, may, broader, err)
		}
	}
}

func TestRevokeConnectsAgainAfterA503(t *testing.T) {
	var connections atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	r, err := revoker.New(revoker.Config{Root: server.URL, Credential: withRole()})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for range 2 {
		if _, err := r.Revoke(t.Context(), ada); err == nil {
			t.Fatal("a 503 is success")
		}
	}
	if n := connections.Load(); n != 2 {
		t.Errorf("%d connections, want another one after the 503", n)
	}
}
