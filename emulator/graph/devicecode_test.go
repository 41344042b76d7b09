package graph_test

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// people are a directory in which two people may sign in with a device code.
func people() graph.Config {
	helper := graph.User{
		ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c04", UserPrincipalName: "help@contoso.com", UserType: "Member",
		Roles: []string{"Helpdesk Administrator"},
	}
	return graph.Config{
		Users: []graph.User{ada, svc, guest, helper},
		Apps: []graph.App{
			{ClientID: "client", Secret: "secret", Roles: []string{"User.RevokeSessions.All", "User.Read.All"}},
			{ClientID: "public", Public: true, Scopes: []string{"User.RevokeSessions.All", "User.Read"}},
			{ClientID: "scopeless", Public: true, Scopes: []string{"User.Read"}},
		},
	}
}

// post posts a form and returns the answer.
func (w *world) post(path string, form url.Values) (int, map[string]any) {
	w.t.Helper()
	return w.ask(form, func(r *http.Request) { r.URL.Path = path })
}

// deviceCode asks for a code.
func (w *world) deviceCode(app string) (device, user string) {
	w.t.Helper()
	status, answer := w.post("/tenant/oauth2/v2.0/devicecode",
		url.Values{"client_id": {app}, "scope": {"http://graph.test/.default openid offline_access profile"}})
	device, _ = answer["device_code"].(string)
	user, _ = answer["user_code"].(string)
	if status != http.StatusOK || device == "" || len(user) != 9 || answer["verification_uri"] != "http://graph.test/_emulator/devicecode" {
		w.t.Fatalf("no code: %d %v", status, answer)
	}
	return device, user
}

// poll asks for the token of a code. It returns the token, or the error.
func (w *world) poll(app, device string) (token, problem string) {
	w.t.Helper()
	_, answer := w.ask(url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "client_id": {app}, "device_code": {device},
	}, nil)
	token, _ = answer["access_token"].(string)
	problem, _ = answer["error"].(string)
	return token, problem
}

// signInAs signs a person in.
func (w *world) signInAs(app, name string) (token string) {
	w.t.Helper()
	device, user := w.deviceCode(app)
	if err := w.Approve(user, name); err != nil {
		w.t.Fatal(err)
	}
	token, problem := w.poll(app, device)
	if problem != "" {
		w.t.Fatal(problem)
	}
	return token
}

func TestDeviceCode(t *testing.T) {
	inBubble(t, people(), func(t *testing.T, w *world) {
		device, user := w.deviceCode("public")
		if _, problem := w.poll("public", device); problem != "authorization_pending" {
			t.Errorf("before the approval: %q", problem)
		}
		if err := w.Approve(user, "nobody@contoso.com"); err == nil {
			t.Error("an unknown person was signed in")
		}
		if err := w.Approve(" "+strings.ToLower(user), "ada@contoso.com"); err != nil {
			t.Error(err)
		}
		if w.Approve(user, "ada@contoso.com") == nil || w.Decline(user) == nil {
			t.Error("a code was answered twice")
		}
		if _, problem := w.poll("scopeless", device); problem != "bad_verification_code" {
			t.Errorf("another app: %q", problem)
		}
		if token, problem := w.poll("public", device); token == "" {
			t.Errorf("after the approval: %q", problem)
		}
		if _, problem := w.poll("public", device); problem != "bad_verification_code" {
			t.Errorf("a second time: %q", problem)
		}

		device, user = w.deviceCode("public")
		if err := w.Decline(user); err != nil {
			t.Error(err)
		}
		if _, problem := w.poll("public", device); problem != "authorization_declined" {
			t.Errorf("declined: %q", problem)
		}

		device, user = w.deviceCode("public")
		time.Sleep(15 * time.Minute)
		if _, problem := w.poll("public", device); problem != "expired_token" || w.Approve(user, ada.ID) == nil {
			t.Errorf("expired: %q", problem)
		}

		device, user = w.deviceCode("public")
		if err := w.Approve(user, ada.ID); err != nil {
			t.Error(err)
		}
		w.RemoveUser(ada.ID)
		if _, problem := w.poll("public", device); problem != "invalid_grant" {
			t.Errorf("a person who is gone: %q", problem)
		}
	})
}

func TestDeviceCodeIsRefused(t *testing.T) {
	w := newWorld(t, people())
	const scope = "http://graph.test/.default"
	for name, c := range map[string]struct {
		form url.Values
		want string
	}{
		"no such app":   {url.Values{"client_id": {"nobody"}, "scope": {scope}}, "unauthorized_client"},
		"not public":    {url.Values{"client_id": {"client"}, "scope": {scope}}, "invalid_client"},
		"no scope":      {url.Values{"client_id": {"public"}}, "invalid_scope"},
		"another scope": {url.Values{"client_id": {"public"}, "scope": {"User.Read"}}, "invalid_scope"},
	} {
		if status, answer := w.post("/tenant/oauth2/v2.0/devicecode", c.form); status/100 != 4 || answer["error"] != c.want {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
}

func TestDeviceCodesAreBounded(t *testing.T) {
	w := newWorld(t, people())
	first, _ := w.deviceCode("public")
	for range 1000 {
		w.deviceCode("public")
	}
	if _, problem := w.poll("public", first); problem != "bad_verification_code" {
		t.Errorf("the oldest code is remembered: %q", problem)
	}
}

func TestDeviceCodeIsApprovedFromAnotherProcess(t *testing.T) {
	w := newWorld(t, people())
	send := func(method, form string) (int, string) {
		req, _ := http.NewRequest(method, "http://graph.test/_emulator/devicecode", strings.NewReader(form))
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := w.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	if status, page := send(http.MethodGet, ""); status != http.StatusOK || !strings.Contains(page, `name="user_code"`) {
		t.Errorf("the page: %d %s", status, page)
	}
	if status, _ := send(http.MethodPost, "user_code=x&user=ada@contoso.com"); status != http.StatusBadRequest {
		t.Errorf("a wrong code: %d", status)
	}
	device, user := w.deviceCode("public")
	if status, text := send(http.MethodPost, "user=ada@contoso.com&user_code="+user); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	if token, problem := w.poll("public", device); token == "" {
		t.Error(problem)
	}
	device, user = w.deviceCode("public")
	send(http.MethodPost, "user_code="+user)
	if _, problem := w.poll("public", device); problem != "authorization_declined" {
		t.Errorf("declined: %q", problem)
	}
}

func TestRevokeForPeople(t *testing.T) {
	w := newWorld(t, people())
	adasToken, scopeless := w.signInAs("public", "ada@contoso.com"), w.signInAs("scopeless", "ada@contoso.com")
	helpers := w.signInAs("public", "help@contoso.com")
	if _, _, err := w.Verify(helpers, "http://graph.test"); err == nil {
		t.Error("a person's token was taken for an application's")
	}
	for name, c := range map[string]struct {
		token, path string
		status      int
		revoked     string
	}{
		"the application":         {w.token, "/v1.0/me/revokeSignInSessions", http.StatusBadRequest, ""},
		"the application, beta":   {w.token, "/beta/me/revokeSignInSessions", http.StatusBadRequest, ""},
		"oneself":                 {adasToken, "/v1.0/me/revokeSignInSessions", http.StatusOK, ada.ID},
		"oneself, beta":           {adasToken, "/beta/me/revokeSignInSessions", http.StatusOK, ada.ID},
		"oneself, older method":   {adasToken, "/beta/me/invalidateAllRefreshTokens", http.StatusNoContent, ada.ID},
		"oneself by name":         {adasToken, "/v1.0/users/ada@contoso.com/revokeSignInSessions", http.StatusOK, ada.ID},
		"oneself without a scope": {scopeless, "/v1.0/me/revokeSignInSessions", http.StatusForbidden, ""},
		"no such method":          {adasToken, "/v1.0/me/revoke", http.StatusBadRequest, ""},
		"another without a role":  {adasToken, "/v1.0/users('$o''neil@contoso.com')/revokeSignInSessions", http.StatusForbidden, ""},
		"nobody without a role":   {adasToken, "/v1.0/users/nobody/revokeSignInSessions", http.StatusForbidden, ""},
		"another with a role":     {helpers, "/v1.0/users('$o''neil@contoso.com')/revokeSignInSessions", http.StatusOK, svc.ID},
		"nobody with a role":      {helpers, "/v1.0/users/nobody/revokeSignInSessions", http.StatusNotFound, ""},
		"oneself, no method":      {adasToken, "/v1.0/me/", http.StatusMethodNotAllowed, ""},
	} {
		for _, u := range []graph.User{ada, svc} { // forget what was revoked
			w.RemoveUser(u.ID)
			if err := w.AddUser(u); err != nil {
				t.Fatal(err)
			}
		}
		a := w.as(t.Context(), c.token, http.MethodPost, c.path)
		if a.status != c.status {
			t.Errorf("%s: %d %s, want %d", name, a.status, a.body, c.status)
		}
		for _, u := range []graph.User{ada, svc} {
			if _, revoked := w.Revoked(u.ID); revoked != (u.ID == c.revoked) {
				t.Errorf("%s: %s revoked: %v", name, u.UserPrincipalName, revoked)
			}
		}
	}
	if a := w.as(t.Context(), adasToken, http.MethodGet, "/v1.0/me?$select=id"); !strings.Contains(a.body, ada.ID) {
		t.Errorf("reading oneself: %d %s", a.status, a.body)
	}
	if a := w.as(t.Context(), adasToken, http.MethodGet, "/v1.0/users/help@contoso.com"); a.status != http.StatusForbidden {
		t.Errorf("reading another: %d %s", a.status, a.body)
	}
	w.Inject(graph.Fault{User: "ada@contoso.com", Count: 1, Status: http.StatusServiceUnavailable})
	if a := w.as(t.Context(), adasToken, http.MethodPost, "/v1.0/me/revokeSignInSessions"); a.status != http.StatusServiceUnavailable {
		t.Errorf("a fault of the person: %d %s", a.status, a.body)
	}
	calls := w.CallsFor("ada@contoso.com")
	if last := calls[len(calls)-1]; last.UserID != ada.ID || last.AppID != "" && last.AppID != "public" {
		t.Errorf("%+v", last)
	}
}
