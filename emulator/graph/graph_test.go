package graph_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	ada = graph.User{
		ID: "0A5BD9B6-4a5c-4ee1-9a7e-0d3c5a6b7c01", UserPrincipalName: "Ada@contoso.com", UserType: "Member", AccountEnabled: true,
	}
	svc   = graph.User{ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c02", UserPrincipalName: "$o'neil@contoso.com", UserType: "Member"}
	guest = graph.User{ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c03", UserPrincipalName: "v_x.com#EXT#@contoso.com", UserType: "Guest"}
)

// world is a Server behind an http.Server in memory, and a client with a token.
type world struct {
	*graph.Server
	t      testing.TB
	client *http.Client
	token  string
}

// inBubble runs a scenario in virtual time.
func inBubble(t *testing.T, cfg graph.Config, scenario func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { scenario(t, newWorld(t, cfg)) })
}

func newWorld(t testing.TB, cfg graph.Config) *world {
	t.Helper()
	if cfg.Users == nil {
		cfg.Users = []graph.User{ada, svc, guest}
	}
	if cfg.Apps == nil {
		cfg.Apps = []graph.App{
			{ClientID: "client", Secret: "secret", Roles: []string{"User.RevokeSessions.All", "User.Read.All"}},
			{ClientID: "other", Secret: "s+/=&", Roles: []string{"User.RevokeSessions.All"}},
			{ClientID: "none", Secret: "secret"},
		}
	}
	served, err := bubble.NewGraph(cfg)
	if err != nil {
		t.Fatal(err)
	}
	transport := served.Transport()
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		if err := served.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{Server: served.Server, t: t, client: &http.Client{Transport: transport}}
	w.token = w.signIn("client", "secret")
	return w
}

// ask requests a token and returns the answer.
func (w *world) ask(form url.Values, change func(*http.Request)) (int, map[string]any) {
	w.t.Helper()
	req, _ := http.NewRequest(http.MethodPost, "http://graph.test/tenant/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if change != nil {
		change(req)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, answer
}

func grant(id, secret string) url.Values {
	return url.Values{
		"grant_type": {"client_credentials"}, "client_id": {id}, "client_secret": {secret}, "scope": {"http://graph.test/.default"},
	}
}

func (w *world) signIn(id, secret string) string {
	w.t.Helper()
	_, answer := w.ask(grant(id, secret), nil)
	token, _ := answer["access_token"].(string)
	if token == "" {
		w.t.Fatalf("no token: %v", answer)
	}
	return token
}

// answer is the answer to a call.
type answer struct {
	status int
	header http.Header
	body   string
	err    error
}

// call makes one request with the world's token.
func (w *world) call(method, path string) answer {
	return w.as(context.Background(), w.token, method, path)
}

func (w *world) as(ctx context.Context, token, method, path string) answer {
	w.t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, "http://graph.test"+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("client-request-id", "mine")
	resp, err := w.client.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(body), err}
}

func (w *world) revoke(key string) answer {
	w.t.Helper()
	return w.call(http.MethodPost, "/v1.0/users/"+key+"/revokeSignInSessions")
}

func TestServerRoutes(t *testing.T) {
	w := newWorld(t, graph.Config{})
	for path, c := range map[string]struct {
		status int
		body   string // a part of it
		who    graph.User
	}{
		"POST /v1.0/users/" + ada.ID + "/revokeSignInSessions":                         {200, `"value":true`, ada},
		"POST /beta/users/" + strings.ToLower(ada.ID) + "/revokeSignInSessions":        {200, `$metadata#Edm.Boolean`, ada},
		"POST /v1.0/users/ADA@CONTOSO.COM/revokeSignInSessions":                        {200, `true`, ada},
		"POST /v1.0/users('" + ada.ID + "')/revokeSignInSessions":                      {200, `true`, ada},
		"POST /v1.0/users(%27ada@contoso.com%27)/microsoft.graph.revokeSignInSessions": {200, `true`, ada},
		"POST /v1.0/users%28'ada@contoso.com'%29/revokeSignInSessions":                 {200, `true`, ada},
		"POST /beta/users/ada@contoso.com/invalidateAllRefreshTokens":                  {204, ``, ada},
		"POST /v1.0/users('$o''neil@contoso.com')/revokeSignInSessions":                {200, `true`, svc},
		"POST /v1.0/users('%24o%27%27neil@contoso.com')/revokeSignInSessions":          {200, `true`, svc},
		"POST /v1.0/users/$o'neil@contoso.com/revokeSignInSessions":                    {400, `begins with $`, graph.User{}},
		"POST /v1.0/users/ada@contoso.com/invalidateAllRefreshTokens": {
			400, `Resource not found for the segment`,
			graph.User{},
		},
		"POST /v1.0/users/nobody@contoso.com/revokeSignInSessions": {404, `Request_ResourceNotFound`, graph.User{}},
		"POST /v1.0/users//revokeSignInSessions":                   {400, `BadRequest`, graph.User{}},
		"POST /v1.0/me/revokeSignInSessions":                       {400, `BadRequest`, graph.User{}},
		"POST /v1.0/users/ada@contoso.com/memberOf":                {400, `memberOf`, graph.User{}},
		"GET /v1.0/users/ada@contoso.com/revokeSignInSessions":     {405, `method`, graph.User{}},
		"DELETE /v1.0/users/ada@contoso.com":                       {405, `method`, graph.User{}},
		"GET /v2.0/users/ada@contoso.com":                          {404, ``, graph.User{}},
		"GET /tenant/v2.0/.well-known/openid-configuration":        {200, `"jwks_uri"`, graph.User{}}, // @azure/identity insists on it
		"GET /tenant/discovery/v2.0/keys":                          {200, `{"keys":[]}`, graph.User{}},
	} {
		for _, u := range []graph.User{ada, svc} { // forget what the call has revoked
			w.RemoveUser(u.ID)
			if err := w.AddUser(u); err != nil {
				t.Fatal(err)
			}
		}
		method, target, _ := strings.Cut(path, " ")
		a := w.call(method, target)
		if a.status != c.status || !strings.Contains(a.body, c.body) {
			t.Errorf("%s: %d %s, want %d with %q", path, a.status, a.body, c.status, c.body)
		}
		for _, u := range []graph.User{ada, svc} {
			if _, revoked := w.Revoked(u.ID); revoked != (u.ID == c.who.ID) {
				t.Errorf("%s: %s revoked: %v", path, u.UserPrincipalName, revoked)
			}
		}
	}
}

func TestRevokeGuestAnswersSuccessAndChangesNothing(t *testing.T) {
	w := newWorld(t, graph.Config{})
	a := w.revoke("v_x.com%23EXT%23@contoso.com")
	_, revoked := w.Revoked(guest.ID)
	if a.status != 200 || !strings.Contains(a.body, "true") || revoked {
		t.Errorf("%d %s, revoked: %v", a.status, a.body, revoked)
	}
	if calls := w.CallsFor(guest.UserPrincipalName); len(calls) != 1 || calls[0].Revoked || calls[0].UserID != guest.ID {
		t.Errorf("recorded as %+v", calls)
	}
}

func TestServerReadsUser(t *testing.T) {
	inBubble(t, graph.Config{}, func(t *testing.T, w *world) {
		read := func(query string) map[string]any {
			var user map[string]any
			a := w.call(http.MethodGet, "/v1.0/users/"+ada.ID+query)
			if err := json.Unmarshal([]byte(a.body), &user); a.status != 200 || err != nil {
				t.Fatalf("%d %s", a.status, a.body)
			}
			return user
		}
		if u := read(""); u["id"] != ada.ID || u["signInSessionsValidFromDateTime"] != nil {
			t.Errorf("without $select: %v", u)
		}
		const all = "?$select=id,userPrincipalName,userType,accountEnabled,signInSessionsValidFromDateTime"
		before := read(all)["signInSessionsValidFromDateTime"]
		time.Sleep(30 * time.Minute)
		w.revoke(ada.ID)
		u := read(all)
		if after := u["signInSessionsValidFromDateTime"]; after == before || after != time.Now().UTC().Format(time.RFC3339) ||
			u["userType"] != "Member" || u["accountEnabled"] != true {
			t.Errorf("before %v, after %v: %v", before, after, u)
		}
		if a := w.call(http.MethodGet, "/v1.0/users/"+ada.ID+"?$select=shoeSize"); a.status != 400 {
			t.Errorf("an unknown property: %d", a.status)
		}
		if a := w.as(t.Context(), w.signIn("other", "s+/=&"), http.MethodGet, "/v1.0/users/"+ada.ID); a.status != 403 ||
			!strings.Contains(a.body, "Insufficient privileges") {
			t.Errorf("without a role that reads: %d %s", a.status, a.body)
		}
	})
}

func TestServerErrorsAndHeadersLookLikeGraphs(t *testing.T) {
	w := newWorld(t, graph.Config{ClockOffset: -time.Hour})
	a := w.revoke("nobody@contoso.com")
	var body struct {
		Error struct {
			Code, Message string
			InnerError    map[string]string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil || body.Error.Code == "" || body.Error.Message == "" ||
		body.Error.InnerError["request-id"] != a.header.Get("request-id") || body.Error.InnerError["client-request-id"] != "mine" {
		t.Errorf("%s, %v", a.body, err)
	}
	if !strings.HasPrefix(a.header.Get("Content-Type"), "application/json;") || len(a.header.Get("request-id")) != 36 ||
		a.header.Get("client-request-id") != "mine" {
		t.Errorf("headers %v", a.header)
	}
	if date, err := http.ParseTime(a.header.Get("Date")); err != nil || time.Since(date) < 59*time.Minute {
		t.Errorf("Date %q with a clock that is an hour late", a.header.Get("Date"))
	}
}

func TestTokens(t *testing.T) {
	inBubble(t, graph.Config{}, func(t *testing.T, w *world) {
		try := func(token string) int {
			return w.as(t.Context(), token, http.MethodPost, "/v1.0/users/"+ada.ID+"/revokeSignInSessions").status
		}
		if try(w.token) != 200 {
			t.Error("a good token is refused")
		}
		parts := strings.Split(w.token, ".")
		for name, token := range map[string]string{
			"none": "", "garbage": "x.y.z", "tampered": parts[0] + "." + parts[1] + "x." + parts[2],
			"unsigned": parts[0] + "." + parts[1] + ".",
		} {
			if status := try(token); status != 401 {
				t.Errorf("%s: %d", name, status)
			}
		}
		if a := w.as(t.Context(), "x", http.MethodGet, "/v1.0/users/x"); !strings.Contains(a.header.Get("WWW-Authenticate"), "Bearer") ||
			!strings.Contains(a.body, "InvalidAuthenticationToken") {
			t.Errorf("%v %s", a.header, a.body)
		}
		foreign := newWorld(t, graph.Config{})
		if status := try(foreign.token); status != 401 {
			t.Errorf("another server's token: %d", status)
		}
		a := w.as(t.Context(), w.signIn("none", "secret"), http.MethodPost, "/v1.0/users/"+ada.ID+"/revokeSignInSessions")
		if a.status != 403 || !strings.Contains(a.body, "Access to invalidate refresh tokens operation is denied.") {
			t.Errorf("without the role: %d %s", a.status, a.body)
		}
		w.SetRoles("client", nil)
		if try(w.token) != 200 {
			t.Error("a token loses the roles it was issued with")
		}
		if try(w.signIn("client", "secret")) != 403 {
			t.Error("a new token has the old roles")
		}
		w.RevokeTokens()
		if try(w.token) != 401 {
			t.Error("revoked tokens work")
		}
		w.SetRoles("client", []string{"Directory.ReadWrite.All"})
		fresh := w.signIn("client", "secret")
		if try(fresh) != 200 {
			t.Error("a new token does not work")
		}
		time.Sleep(time.Hour)
		if try(fresh) != 401 {
			t.Error("an expired token works")
		}
	})
}

func TestTokenEndpointErrors(t *testing.T) {
	w := newWorld(t, graph.Config{})
	for name, c := range map[string]struct {
		form   url.Values
		change func(*http.Request)
		status int
		code   string
	}{
		"wrong secret": {grant("client", "guess"), nil, 401, "invalid_client"},
		"unknown app":  {grant("nobody", "secret"), nil, 400, "unauthorized_client"},
		"wrong grant":  {url.Values{"grant_type": {"password"}, "client_id": {"client"}}, nil, 400, "unsupported_grant_type"},
		"wrong scope": {url.Values{
			"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"secret"}, "scope": {"User.Read"},
		}, nil, 400, "invalid_scope"},
		"basic": {url.Values{"grant_type": {"client_credentials"}, "scope": {"http://graph.test/.default"}}, func(r *http.Request) {
			r.SetBasicAuth("other", url.QueryEscape("s+/=&"))
		}, 200, ""},
	} {
		status, answer := w.ask(c.form, c.change)
		if code, _ := answer["error"].(string); status != c.status || code != c.code {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
	other := grant("client", "secret")
	other.Set("scope", "http://elsewhere/.default")
	_, answer := w.ask(other, nil)
	if a := w.as(t.Context(), answer["access_token"].(string), http.MethodPost, "/v1.0/users/x/revokeSignInSessions"); a.status != 401 {
		t.Errorf("a token for another audience: %d", a.status)
	}
	w.Inject(graph.Fault{Token: true, Count: 1, Status: 503})
	if status, _ := w.ask(grant("client", "secret"), nil); status != 503 {
		t.Errorf("a fault of the token endpoint: %d", status)
	}
	if status, _ := w.ask(grant("client", "secret"), nil); status != 200 {
		t.Errorf("after the fault: %d", status)
	}
}

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		fault   graph.Fault
		status  int // 0: no complete answer
		body    string
		revoked bool
	}{
		"status":                {graph.Fault{Status: 500}, 500, `"code":"InternalServerError"`, false},
		"status with a body":    {graph.Fault{Status: 502, ContentType: "text/html", Body: "<html>"}, 502, "<html>", false},
		"status with a JSON":    {graph.Fault{Status: 403, Body: `{"error":{}}`}, 403, `{"error":{}}`, false},
		"value false":           {graph.Fault{ValueFalse: true}, 200, `"value":false`, false},
		"empty":                 {graph.Fault{EmptyBody: true}, 200, "", true},
		"truncated":             {graph.Fault{Truncate: true}, 0, "", true},
		"dropped before":        {graph.Fault{Drop: true}, 0, "", false},
		"dropped after":         {graph.Fault{DropAfter: true}, 0, "", true},
		"delayed, then revoked": {graph.Fault{Delay: 30 * time.Minute}, 200, "true", true},
		"of this user by name":  {graph.Fault{User: "ADA@contoso.com", Status: 500}, 500, "", false},
		"of this user by id":    {graph.Fault{User: ada.ID, Status: 500}, 500, "", false},
		"of another user":       {graph.Fault{User: guest.ID, Status: 500}, 200, "true", true},
		"of the tokens":         {graph.Fault{Token: true, Status: 500}, 200, "true", true},
		"of revoking":           {graph.Fault{Method: http.MethodPost, Status: 500}, 500, "", false},
		"of reading":            {graph.Fault{Method: http.MethodGet, Status: 500}, 200, "true", true},
		"of unknown users":      {graph.Fault{Unknown: true, Status: 500}, 200, "true", true},
		"well, with an error":   {graph.Fault{Status: 200, Body: `{"error":{"code":"x"}}`}, 200, `{"error":{"code":"x"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, graph.Config{}, func(t *testing.T, w *world) {
				remove := w.Inject(c.fault)
				start := time.Now()
				a := w.revoke(ada.ID)
				if c.status == 0 && a.err == nil ||
					c.status != 0 && (a.err != nil || a.status != c.status || !strings.Contains(a.body, c.body)) {
					t.Errorf("%+v", a)
				}
				if _, revoked := w.Revoked(ada.ID); revoked != c.revoked {
					t.Errorf("revoked: %v", revoked)
				}
				if time.Since(start) != c.fault.Delay {
					t.Errorf("took %v", time.Since(start))
				}
				remove()
				if a := w.revoke(ada.ID); a.status != 200 || a.err != nil {
					t.Errorf("after the fault was removed: %+v", a)
				}
			})
		})
	}
}

func TestFaultsAreCountedAndOrdered(t *testing.T) {
	w := newWorld(t, graph.Config{})
	w.Inject(graph.Fault{Count: 2, Status: 500, RetryAfter: "7"})
	w.Inject(graph.Fault{User: ada.ID, Count: 1, Status: 404})
	for i, want := range []int{500, 500, 404, 200} {
		a := w.revoke(ada.ID)
		if a.status != want || want == 500 && a.header.Get("Retry-After") != "7" {
			t.Errorf("call %d: %d, want %d, %v", i, a.status, want, a.header)
		}
	}
}

func TestFaultDate(t *testing.T) {
	w := newWorld(t, graph.Config{})
	for date, want := range map[string]string{
		"none": "", "soon": "soon", "Mon, 01 Jan 1601 00:00:00 GMT": "Mon, 01 Jan 1601 00:00:00 GMT",
	} {
		for _, status := range []int{0, 503} {
			w.Inject(graph.Fault{User: ada.ID, Count: 1, Date: date, Status: status})
			if a := w.revoke(ada.ID); a.header.Get("Date") != want || a.status != cmp.Or(status, 200) {
				t.Errorf("%q: %d with Date %q", date, a.status, a.header.Get("Date"))
			}
		}
	}
	if a := w.revoke(ada.ID); a.header.Get("Date") == "" {
		t.Error("no Date after the faults")
	}
}

// A canary for nobody has a random id, which the directory does not contain.
func TestFaultUnknownConcernsCanaries(t *testing.T) {
	const nobody = "99999999-4a5c-4ee1-9a7e-0d3c5a6b7c01"
	w := newWorld(t, graph.Config{})
	if a := w.revoke(nobody); a.status != 404 || !strings.Contains(a.body, `"code":"Request_ResourceNotFound"`) {
		t.Errorf("with the permission: %+v", a)
	}
	path := "/v1.0/users/" + nobody + "/revokeSignInSessions"
	if a := w.as(t.Context(), w.signIn("none", "secret"), http.MethodPost, path); a.status != 403 {
		t.Errorf("without the permission: %d", a.status)
	}
	w.Inject(graph.Fault{Unknown: true, Status: 429, RetryAfter: "7"})
	if a := w.revoke(nobody); a.status != 429 || a.header.Get("Retry-After") != "7" {
		t.Errorf("throttled canaries: %+v", a)
	}
	if a := w.revoke(ada.ID); a.status != 200 {
		t.Errorf("a user: %+v", a)
	}
}

func TestFaultsOfManyUsers(t *testing.T) {
	w := newWorld(t, graph.Config{})
	var remove []func()
	for i := range 10_000 {
		remove = append(remove, w.Inject(graph.Fault{User: fmt.Sprintf("User%d@contoso.com", i), Status: 403}))
	}
	w.Inject(graph.Fault{User: "user7@contoso.com", Status: 500}) // the first fault acts
	for i := range 1_000 {
		if a := w.revoke(fmt.Sprintf("user%d@contoso.com", i)); a.status != 403 {
			t.Fatalf("user %d: %d", i, a.status)
		}
	}
	for _, r := range remove {
		r()
		r() // a second removal does no harm
	}
	for i, want := range map[int]int{6: 404, 7: 500} {
		if a := w.revoke(fmt.Sprintf("user%d@contoso.com", i)); a.status != want {
			t.Errorf("user %d: %d, want %d", i, a.status, want)
		}
	}
}

func TestFaultDelayEndsWithTheCaller(t *testing.T) {
	inBubble(t, graph.Config{}, func(t *testing.T, w *world) {
		w.Inject(graph.Fault{Delay: time.Hour})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if a := w.as(ctx, w.token, http.MethodPost, "/v1.0/users/"+ada.ID+"/revokeSignInSessions"); a.err == nil {
			t.Errorf("%+v", a)
		}
		synctest.Wait()
		if calls := w.Calls(); len(calls) != 1 || calls[0].End.Sub(calls[0].Start) != time.Second || calls[0].Status != 0 {
			t.Errorf("%+v", calls)
		}
	})
}

func TestFaultEndlessEndsWithTheCaller(t *testing.T) {
	inBubble(t, graph.Config{}, func(t *testing.T, w *world) {
		w.Inject(graph.Fault{Endless: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		a := w.as(ctx, w.token, http.MethodPost, "/v1.0/users/"+ada.ID+"/revokeSignInSessions")
		if a.status != 200 || !errors.Is(a.err, context.DeadlineExceeded) || strings.Count(a.body, " ") < 59 {
			t.Errorf("%+v", a)
		}
		if _, revoked := w.Revoked(ada.ID); !revoked {
			t.Error("not revoked")
		}
	})
}

func TestQuotaModels(t *testing.T) {
	const limit, per = 10, 15 * time.Second
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		t.Run(string(model), func(t *testing.T) {
			quota := graph.Quota{Model: model, Limit: limit, Per: per, Headers: true}
			inBubble(t, graph.Config{Quota: quota}, func(t *testing.T, w *world) {
				for i := range limit {
					a := w.revoke(ada.ID)
					percent, _ := strconv.ParseFloat(a.header.Get("x-ms-throttle-limit-percentage"), 64)
					if a.status != 200 || (percent >= 0.8) != (i+1 >= 8) {
						t.Errorf("call %d: %d, %v of the limit", i+1, a.status, percent)
					}
				}
				a := w.revoke(ada.ID)
				if a.status != 429 || !strings.Contains(a.body, "TooManyRequests") ||
					!strings.Contains(a.header.Get("x-ms-throttle-scope"), "Tenant_Application/Write/client/") {
					t.Fatalf("beyond the limit: %+v", a)
				}
				want := "15"
				if model == graph.TokenBucket {
					want = "2" // 1.5 s for a token
				}
				if got := a.header.Get("Retry-After"); got != want {
					t.Errorf("Retry-After %s, want %s", got, want)
				}
				a = w.as(t.Context(), w.signIn("other", "s+/=&"), http.MethodPost, "/v1.0/users/"+ada.ID+"/revokeSignInSessions")
				if a.status != 200 {
					t.Errorf("another app is throttled too: %d", a.status)
				}
				seconds, _ := strconv.Atoi(want)
				time.Sleep(time.Duration(seconds) * time.Second)
				if a := w.revoke(ada.ID); a.status != 200 {
					t.Errorf("after Retry-After: %d", a.status)
				}
			})
			// A caller that obeys Retry-After exactly reaches the least time, up to its whole
			// seconds.
			inBubble(t, graph.Config{Quota: quota}, func(t *testing.T, w *world) {
				const n = 35
				start := time.Now()
				for done := 0; done < n; {
					a := w.revoke(ada.ID)
					if a.status == 200 {
						done++
						continue
					}
					seconds, _ := strconv.Atoi(a.header.Get("Retry-After"))
					time.Sleep(time.Duration(seconds) * time.Second)
				}
				least := quota.CheapestDone(n)
				if took := time.Since(start); took < least || took > least*3/2+time.Second {
					t.Errorf("%d calls took %v, the least is %v", n, took, least)
				}
			})
		})
	}
}

func TestQuotaSlidingWindowCountsThrottledCalls(t *testing.T) {
	inBubble(t, graph.Config{Quota: graph.Quota{Model: graph.SlidingWindow, Limit: 5, Per: 10 * time.Second}},
		func(t *testing.T, w *world) {
			for range 60 { // twice a second: it never succeeds again
				w.revoke(ada.ID)
				time.Sleep(500 * time.Millisecond)
			}
			successes := 0
			for _, c := range w.Calls() {
				if c.Status == 200 {
					successes++
				}
			}
			if successes >= 15 {
				t.Errorf("%d successes in 30 s of hammering: a patient caller gets no more than 15", successes)
			}
		})
}

func TestQuotaRetryAfter(t *testing.T) {
	for name, c := range map[string]struct {
		quota graph.Quota
		check func(string) bool
	}{
		"not at all": {graph.Quota{NoRetryAfter: true}, func(v string) bool { return v == "" }},
		"as a date": {graph.Quota{RetryAfterDate: true}, func(v string) bool {
			at, err := http.ParseTime(v)
			return err == nil && time.Until(at) >= time.Minute-time.Second
		}},
		"in seconds": {graph.Quota{}, func(v string) bool { return v == "60" }},
	} {
		c.quota.Model, c.quota.Limit, c.quota.Per = graph.FixedWindow, 1, time.Minute
		inBubble(t, graph.Config{Quota: c.quota}, func(t *testing.T, w *world) {
			w.revoke(ada.ID)
			a := w.revoke(ada.ID)
			if v := a.header.Get("Retry-After"); a.status != 429 || !c.check(v) || a.header.Get("x-ms-throttle-scope") != "" {
				t.Errorf("%s: %d with %q, %v", name, a.status, v, a.header)
			}
		})
	}
	if err := newWorld(t, graph.Config{}).SetQuota(graph.Quota{Model: "strange"}); err == nil {
		t.Error("an unknown model was accepted")
	}
}

func TestServerRecordsCallsInOrderAndBounded(t *testing.T) {
	w := newWorld(t, graph.Config{MaxCalls: 10})
	for i := range 25 {
		w.revoke(fmt.Sprintf("user%d@contoso.com", i))
	}
	calls := w.Calls()
	if len(calls) == 0 || len(calls) > 10 || calls[len(calls)-1].Key != "user24@contoso.com" {
		t.Fatalf("%d calls are remembered, the last %+v", len(calls), calls)
	}
	last := calls[len(calls)-1]
	if last.Status != 404 || last.AppID != "client" || last.ClientRequestID != "mine" || len(last.RequestID) != 36 ||
		last.End.Before(last.Start) || last.Method != http.MethodPost {
		t.Errorf("%+v", last)
	}
}

func TestAdminEndpoints(t *testing.T) {
	w := newWorld(t, graph.Config{})
	order := func(method, path, body string) (int, string) {
		req, _ := http.NewRequest(method, "http://graph.test/_emulator/"+path, bytes.NewBufferString(body))
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	for _, o := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "users", `{"id":"0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c99","userPrincipalName":"new@contoso.com"}`, 204},
		{"POST", "users", `{"id":"0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c99","userPrincipalName":"new@contoso.com"}`, 400},
		{"POST", "devices", `{"managedId":"m1","serialNumber":"s1","userId":"0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c99"}`, 204},
		{"POST", "devices", `{"serialNumber":"s1"}`, 400},
		{"POST", "faults", `{"user":"new@contoso.com","count":1,"status":500}`, 204},
		{"POST", "faults", `{"staus":500}`, 400},
		{"PUT", "quota", `{"model":"fixed","limit":2,"per":60000000000}`, 204},
		{"PUT", "quota", `{"model":"fixed"}`, 400},
		{"GET", "nothing", ``, 404},
	} {
		if status, text := order(o.method, o.path, o.body); status != o.status {
			t.Errorf("%s %s %s: %d %s", o.method, o.path, o.body, status, text)
		}
	}
	for i, want := range []int{500, 200, 200, 429} {
		if a := w.revoke("new@contoso.com"); a.status != want {
			t.Errorf("call %d: %d, want %d", i, a.status, want)
		}
	}
	var calls []graph.Call
	if _, text := order("GET", "calls?user=new@contoso.com", ""); json.Unmarshal([]byte(text), &calls) != nil || len(calls) != 4 {
		t.Errorf("calls: %s", text)
	}
	if _, text := order("GET", "calls?user=nobody@contoso.com", ""); strings.TrimSpace(text) != "[]" {
		t.Errorf("no calls: %s", text)
	}
	if _, text := order("GET", "users", ""); !strings.Contains(text, `"revokedAt":"`) || !strings.Contains(text, `"revokedAt":null`) {
		t.Errorf("users: %s", text)
	}
	order("POST", "faults", `{"status":500}`)
	if status, _ := order("DELETE", "faults", ""); status != 204 {
		t.Errorf("delete: %d", status)
	}
	if err := w.SetQuota(graph.Quota{}); err != nil {
		t.Fatal(err)
	}
	if a := w.revoke(ada.ID); a.status != 200 {
		t.Errorf("after the faults are removed: %d", a.status)
	}
}

func TestServerIsSafeForConcurrentUse(t *testing.T) {
	w := newWorld(t, graph.Config{Quota: graph.Quota{Model: graph.FixedWindow, Limit: 100, Per: time.Hour}})
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 25 {
				w.revoke(ada.ID)
				w.Calls()
			}
		})
	}
	callers.Wait()
	statuses := map[int]int{}
	for _, c := range w.Calls() {
		statuses[c.Status]++
	}
	if statuses[200] != 100 || statuses[429] != 100 {
		t.Errorf("%v, want exactly the quota of 100 and as many refused", statuses)
	}
}

func TestNewRejectsIncompleteUsers(t *testing.T) {
	for name, users := range map[string][]graph.User{
		"no id":         {{UserPrincipalName: "a@b.c"}},
		"no name":       {{ID: "1"}},
		"the same id":   {{ID: "1", UserPrincipalName: "a"}, {ID: "1", UserPrincipalName: "b"}},
		"the same name": {{ID: "1", UserPrincipalName: "a"}, {ID: "2", UserPrincipalName: "A"}},
	} {
		if _, err := graph.New(graph.Config{Users: users}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
