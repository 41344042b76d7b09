package revoker_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
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

// graph is a server whose answer each test writes, and what it was asked.
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

// says answers every request alike; headers come in pairs.
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

// credential hands out tokens; a request with claims gets a fresh one, as azidentity's caches do.
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
	r, err := revoker.New(revoker.Config{Root: root, Credential: cred, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// attempt makes one call against a server that answers with handler.
func attempt(t *testing.T, cred azcore.TokenCredential, handler http.HandlerFunc) (*graph, revoker.Attempt, *revoker.Error) {
	g := newGraph(t, handler)
	a, err := newRevoker(t, g.URL, cred).Revoke(t.Context(), ada)
	var failure *revoker.Error
	if err != nil && !errors.As(err, &failure) {
		t.Fatalf("error of type %T, want *revoker.Error: %v", err, err)
	}
	return g, a, failure
}

func TestWhatAnAnswerMeans(t *testing.T) {
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
		{"200 false with a type in other letters", says(200, `{"value":false}`, "Content-Type", "Application/JSON"), revoker.NotRevoked},
		{"200 HTML is a portal's page", says(200, html, "Content-Type", "text/html"), revoker.Unavailable},
		{"200 with broken JSON", says(200, `{"value":`), revoker.Unavailable},
		{"200 with a body that breaks off", says(200, revokedOK, "Content-Length", "5000"), revoker.Unreachable},
		{"200 with an endless body", says(200, `{"a":"`+strings.Repeat("x", 1<<20)+`"}`), revoker.Unreachable},
		{"302", says(302, "", "Location", "https://login.example.com/"), revoker.Unavailable},
		{"400", says(400, graphError("BadRequest")), revoker.Rejected},
		{"401", says(401, graphError("InvalidAuthenticationToken")), revoker.Unauthorized},
		{"403 of one user", says(403, graphError("Authorization_RequestDenied")), revoker.Forbidden},
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

func TestTrapODataErrorsWithoutAMessagePanic(t *testing.T) {
	for _, body := range []string{`{"error":{}}`, `{"error":{"code":"X"}}`, `{"error":null}`, `{}`, `[]`, `null`, `"x"`} {
		_, _, failure := attempt(t, withRole(), says(400, body))
		if failure == nil || failure.Error() == "" {
			t.Errorf("%s: no error", body)
		}
	}
}

func TestTrapTheSDKRetriesByItself(t *testing.T) {
	for _, status := range []int{429, 503, 504} {
		g, _, failure := attempt(t, withRole(), says(status, "", "Retry-After", "0"))
		if failure == nil || failure.Status != status || len(g.seen()) != 1 {
			t.Errorf("%d: %v after %d requests; want to see it after one", status, failure, len(g.seen()))
		}
	}
}

func TestTrapTheAdapterHasNoSerializers(t *testing.T) {
	if _, _, failure := attempt(t, withRole(), says(200, revokedOK)); failure != nil {
		t.Errorf("the user is revoked, and yet: %v", failure)
	}
	if _, _, failure := attempt(t, withRole(), says(200, `{"value":false}`)); kindOf(failure) != revoker.NotRevoked {
		t.Errorf("value false was not read: %v", failure)
	}
}

func TestTrapAnHTMLPageHidesItsStatus(t *testing.T) {
	_, a, failure := attempt(t, withRole(), says(403, "<html>blocked</html>", "Content-Type", "text/html"))
	if kindOf(failure) != revoker.Unavailable || failure.Status != 403 || a.Status != 403 || !failure.Shared() {
		t.Errorf("%v; a proxy's 403 is nobody's verdict about the user, and its status must be told", failure)
	}
}

func TestTrapEmptyAnswersAndRedirectsLookAlikeToTheSDK(t *testing.T) {
	if _, _, failure := attempt(t, withRole(), says(204, "")); failure != nil {
		t.Errorf("204: %v", failure)
	}
	if _, _, failure := attempt(t, withRole(), says(302, "", "Location", "/login")); kindOf(failure) != revoker.Unavailable {
		t.Errorf("302: %v", failure)
	}
}

func TestRetryAfter(t *testing.T) {
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
		{"beyond all bounds", "99999999999999999999", 0},
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

func TestMissingPermissionIsToldFromOneUsersOwn403(t *testing.T) {
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

// TestTrapTheSDKAnswersClaimsChallengesItself also shows that a 401 forces one new token, and one only.
func TestTrapTheSDKAnswersClaimsChallengesItself(t *testing.T) {
	var first string
	g := newGraph(t, func(w http.ResponseWriter, r *http.Request) {
		if first == "" {
			first = r.Header.Get("Authorization")
		}
		if r.Header.Get("Authorization") == first {
			// A claims challenge makes the SDK repeat the request by itself; a malformed one makes it panic.
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

func TestAClaimsChallengeIsAnsweredByATokenWithThoseClaims(t *testing.T) {
	const demand = `{"access_token":{"nbf":{"essential":true,"value":"1800000000"}}}`
	std, url := base64.StdEncoding.EncodeToString([]byte(demand)), base64.RawURLEncoding.EncodeToString([]byte(demand))
	for name, c := range map[string]struct{ challenge, want string }{
		"standard": {`Bearer realm="", authorization_uri="https://login.microsoftonline.com/common/oauth2/authorize", error="insufficient_claims", claims="` + std + `"`, demand},
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
			if len(cred.claims) != 1 || c.want != "" && cred.claims[0] != c.want || c.want == "" && !strings.Contains(cred.claims[0], "nbf") {
				t.Errorf("asked for a token with %q, want %q", cred.claims, c.want)
			}
		})
	}
}

func TestNoTokenCallsNobody(t *testing.T) {
	g, _, failure := attempt(t, &credential{err: errors.New("identity service down")}, says(200, revokedOK))
	if kindOf(failure) != revoker.NoToken || !failure.Systemic() || len(g.seen()) != 0 {
		t.Errorf("%v after %d requests", failure, len(g.seen()))
	}
}

// TestTheRequest covers two traps: the SDK adds a client-request-id of its own, and leaves the token out for a bare host:port.
func TestTheRequest(t *testing.T) {
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

func TestPaths(t *testing.T) {
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

func TestTrapAnEmptyUserIsNeverCalled(t *testing.T) {
	g := newGraph(t, says(204, ""))
	_, err := newRevoker(t, g.URL, withRole()).Revoke(t.Context(), event.User{})
	var failure *revoker.Error
	if !errors.As(err, &failure) || !failure.Permanent() || len(g.seen()) != 0 {
		t.Errorf("error %v after %d requests", err, len(g.seen()))
	}
}

func TestTrapRedirectsAreNotFollowed(t *testing.T) {
	other := newGraph(t, says(204, ""))
	_, _, failure := attempt(t, withRole(), says(307, "", "Location", other.URL))
	if failure == nil || len(other.seen()) != 0 {
		t.Errorf("error %v; the redirect was followed %d times", failure, len(other.seen()))
	}
}

func TestASlowAnswerEndsWithTheTimeout(t *testing.T) {
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

func TestErrorsNeverHoldTheToken(t *testing.T) {
	cred := withRole()
	for _, answer := range []http.HandlerFunc{
		says(401, graphError("InvalidAuthenticationToken")),
		func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		says(200, "{"),
	} {
		_, _, failure := attempt(t, cred, answer)
		if strings.Contains(failure.Error(), cred.token()) {
			t.Errorf("the error holds the token: %v", failure)
		}
	}
}

func TestCheckTellsBeforeTheFirstCall(t *testing.T) {
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

func TestNewNamesWhatIsWrong(t *testing.T) {
	for _, cfg := range []revoker.Config{
		{Root: "graph.microsoft.com", Credential: withRole()},
		{Root: "ftp://graph.microsoft.com", Credential: withRole()},
		{Root: "https://graph.microsoft.com"},
	} {
		if _, err := revoker.New(cfg); err == nil {
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

func TestTheSignedInPersonAndTheOlderMethod(t *testing.T) {
	g := newGraph(t, says(200, revokedOK))
	if _, err := newRevoker(t, g.URL, withRole()).RevokeMe(t.Context()); err != nil || g.seen()[0].RequestURI != "/v1.0/me/revokeSignInSessions" {
		t.Errorf("%v, called %s", err, g.seen()[0].RequestURI)
	}
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   revoker.Kind
	}{
		"204":   {says(204, ""), ""},
		"true":  {says(200, `{"value":true}`), ""},
		"false": {says(200, `{"value":false}`), revoker.NotRevoked},
		"404":   {says(404, graphError("Request_ResourceNotFound")), revoker.NotFound},
	} {
		g := newGraph(t, c.answer)
		r, err := revoker.New(revoker.Config{Root: g.URL, Credential: withRole(), LegacyBeta: true})
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Revoke(t.Context(), ada)
		r.Close()
		var failure *revoker.Error
		errors.As(err, &failure)
		if got := g.seen()[0]; kindOf(failure) != c.want || got.RequestURI != "/beta/users/"+adaID+"/invalidateAllRefreshTokens" || got.Method != http.MethodPost {
			t.Errorf("%s: %v, called %s %s", name, err, got.Method, got.RequestURI)
		}
	}
}

func TestAProbeNamesNobody(t *testing.T) {
	for status, ok := range map[int]bool{404: true, 403: false, 401: false, 500: false, 200: true} {
		g := newGraph(t, says(status, graphError("x")))
		_, err := newRevoker(t, g.URL, withRole()).Probe(t.Context())
		if (err == nil) != ok {
			t.Errorf("%d: %v", status, err)
		}
		if uri := g.seen()[0].RequestURI; strings.Contains(uri, adaID) || len(uri) != len("/v1.0/users/"+adaID+"/revokeSignInSessions") {
			t.Errorf("called %s", uri)
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
	if seen := g.seen(); seen[0].RequestURI != "/v1.0/users/"+adaID+query || seen[1].RequestURI != "/v1.0/me"+query || seen[0].Method != http.MethodGet {
		t.Errorf("called %s and %s", seen[0].RequestURI, seen[1].RequestURI)
	}
	for name, answer := range map[string]http.HandlerFunc{
		"refused": says(403, graphError("x")), "without the time": says(200, `{}`), "no JSON": says(200, `{`), "a page": says(200, "<html>", "Content-Type", "text/html"),
	} {
		if at, err := newRevoker(t, newGraph(t, answer).URL, withRole()).ValidFrom(t.Context(), ada); err == nil {
			t.Errorf("%s: %v", name, at)
		}
	}
}

func TestClaimsOfTokens(t *testing.T) {
	enc := base64.RawURLEncoding.EncodeToString
	token := func(payload string) string {
		return enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(payload)) + "."
	}
	c, err := revoker.ReadClaims(token(`{"aud":"https://graph.microsoft.com","roles":["A"],"scp":"B C","tid":"t","appid":"a","exp":1772366400}`))
	if err != nil || c.Audience[0] != "https://graph.microsoft.com" || c.Roles[0] != "A" || len(c.Scopes) != 2 || c.Tenant != "t" || c.AppID != "a" || c.Expires.Year() != 2026 {
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
