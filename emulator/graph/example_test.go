package graph_test

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// A test serves a directory with one user, lets the first call fail, and then asks the server which
// calls came.
func Example() {
	server, err := graph.New(graph.Config{
		Users: []graph.User{{ID: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01", UserPrincipalName: "ada@contoso.com", UserType: "Member"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	web := httptest.NewServer(server)
	defer web.Close()

	server.Inject(graph.Fault{User: "ada@contoso.com", Count: 1, Status: http.StatusServiceUnavailable, RetryAfter: "5"})

	token := signIn(web.URL)
	for range 2 {
		request, err := http.NewRequest(http.MethodPost, web.URL+"/v1.0/users/ada@contoso.com/revokeSignInSessions", nil)
		if err != nil {
			log.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			log.Fatal(err)
		}
		_ = response.Body.Close()
		fmt.Printf("%d, Retry-After %q\n", response.StatusCode, response.Header.Get("Retry-After"))
	}

	for _, call := range server.CallsFor("ada@contoso.com") {
		fmt.Printf("%s: status %d, fault %v, revoked %v\n", call.Key, call.Status, call.Fault, call.Revoked)
	}
	_, revoked := server.Revoked("ada@contoso.com")
	fmt.Println("revoked:", revoked)
	// Output:
	// 503, Retry-After "5"
	// 200, Retry-After ""
	// ada@contoso.com: status 503, fault true, revoked false
	// ada@contoso.com: status 200, fault false, revoked true
	// revoked: true
}

// signIn gets a token for the default app.
func signIn(root string) string {
	response, err := http.PostForm(root+"/tenant/oauth2/v2.0/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"secret"}, "scope": {root + "/.default"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		log.Fatal(err)
	}
	return answer.AccessToken
}
