package graph_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// FuzzServer sends any request with a good token. Its property: the server always answers, and a
// user is revoked only by a POST that succeeds and whose recorded call names that user.
func FuzzServer(f *testing.F) {
	for _, path := range []string{
		"/v1.0/users/ada@contoso.com/revokeSignInSessions",
		"/v1.0/users('$o''neil@contoso.com')/microsoft.graph.revokeSignInSessions",
		"/beta/users/ada@contoso.com/invalidateAllRefreshTokens",
		"/v1.0/users/%61da@contoso.com?$select=id",
		"/v1.0/users%28%27x%27%29/revokeSignInSessions",
		"/v1.0/me/revokeSignInSessions", "/tenant/oauth2/v2.0/devicecode",
		"/v1.0/me", "/_identity?resource=x", "/_emulator/calls", "/tenant/oauth2/v2.0/token", "/", "//", "/v1.0/users//",
	} {
		f.Add(http.MethodPost, path, "")
		f.Add(http.MethodGet, path, `{"id":"x"}`)
	}
	f.Fuzz(func(t *testing.T, method, path, body string) {
		target, err := url.ParseRequestURI(path)
		if err != nil || strings.HasPrefix(target.Path, "/_emulator/") {
			return // the administration may do anything
		}
		server, err := graph.New(graph.Config{Users: []graph.User{ada, svc, guest}})
		if err != nil {
			t.Fatal(err)
		}
		request := httptest.NewRequest(http.MethodPost, "http://graph.test/", strings.NewReader(body))
		request.Method, request.URL, request.RequestURI = method, target, path
		request.Header.Set("Authorization", "Bearer "+tokenOf(t, server))
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, request)
		if recorder.Code < 200 || recorder.Code > 599 {
			t.Fatalf("status %d", recorder.Code)
		}
		for _, u := range []graph.User{ada, svc, guest} {
			_, revoked := server.Revoked(u.ID)
			calls := server.CallsFor(u.ID)
			if revoked && (method != http.MethodPost || recorder.Code/100 != 2 || len(calls) != 1 || !calls[0].Revoked) {
				t.Fatalf("%s %s answered %d and revoked %s; its calls: %+v", method, path, recorder.Code, u.ID, calls)
			}
		}
	})
}

// tokenOf gets a token for the default app.
func tokenOf(t *testing.T, server *graph.Server) string {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"secret"}, "scope": {"http://graph.test/.default"},
	}
	request := httptest.NewRequest(http.MethodPost, "http://graph.test/tenant/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	recorder := httptest.NewRecorder()
	server.ServeHTTP(recorder, request)
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.AccessToken == "" {
		t.Fatalf("no token: %d %s", recorder.Code, recorder.Body)
	}
	return answer.AccessToken
}
