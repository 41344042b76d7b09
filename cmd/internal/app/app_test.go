package app

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/spf13/pflag"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event"
)

func newFlags() *pflag.FlagSet {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs)
	return fs
}

func load(t *testing.T, environ ...string) config.Config {
	t.Helper()
	cfg, err := config.Load(newFlags(), append(environ, "REVOKER_SERVICEBUS_QUEUE=q", "REVOKER_OPS_ADDRESS="))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

func TestCredentialFollowsTheConfiguration(t *testing.T) {
	namespace := "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net"
	secret := []string{namespace, "REVOKER_GRAPH_CLIENT_ID=c", "REVOKER_GRAPH_CLIENT_SECRET=s"}
	for name, c := range map[string]struct {
		environ []string
		fits    func(any) bool
	}{
		"by default": {[]string{namespace}, func(v any) bool { _, ok := v.(*azidentity.DefaultAzureCredential); return ok }},
		"with a client secret": {
			append(secret, "REVOKER_GRAPH_TENANT_ID=t"),
			func(v any) bool { _, ok := v.(*azidentity.ClientSecretCredential); return ok },
		},
		"in the sandbox": {
			append(secret, "REVOKER_GRAPH_ENDPOINT=http://127.0.0.1:1", "REVOKER_GRAPH_TOKEN_URL=http://127.0.0.1:1/t"),
			func(v any) bool { _, ok := v.(*oauthCredential); return ok },
		},
	} {
		credential, err := graphCredential(load(t, c.environ...), nil)
		if err != nil || !c.fits(credential) {
			t.Errorf("%s: %T, %v", name, credential, err)
		}
	}
}

func TestCredentialAuthorityFollowsTheCloud(t *testing.T) {
	cfg := load(t, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.chinacloudapi.cn", "REVOKER_GRAPH_CLOUD=china")
	options := azureOptions(cfg, nil)
	if host := options.Cloud.ActiveDirectoryAuthorityHost; host != "https://login.chinacloudapi.cn/" || options.Retry.MaxRetries != -1 {
		t.Errorf("authority %q, %d retries of the SDK's own", host, options.Retry.MaxRetries)
	}
}

// scopes is a credential that records the scopes of the tokens that it is asked for.
type scopes []string

func (s *scopes) GetToken(_ context.Context, o policy.TokenRequestOptions) (azcore.AccessToken, error) {
	*s = append(*s, o.Scopes...)
	return azcore.AccessToken{Token: "t", ExpiresOn: time.Now().Add(time.Hour)}, nil
}

// roundTrip answers as Graph does, and records the URLs of the requests.
type roundTrip []string

func (r *roundTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	*r = append(*r, req.URL.String())
	return &http.Response{StatusCode: http.StatusNoContent, Body: http.NoBody, Header: http.Header{}, Request: req}, nil
}

func TestGraphURLAndScopeFollowTheCloud(t *testing.T) {
	user, err := event.NewUser("", "ada@contoso.com")
	if err != nil {
		t.Fatal(err)
	}
	for cloud, want := range map[string]struct{ root, authority, bus, foreign string }{
		"global": {
			"https://graph.microsoft.com", "https://login.microsoftonline.com/", "servicebus.windows.net",
			"servicebus.usgovcloudapi.net",
		},
		"usgov-l4": {
			"https://graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net",
			"servicebus.windows.net",
		},
		"usgov-dod": {
			"https://dod-graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net",
			"servicebus.chinacloudapi.cn",
		},
		"china": {
			"https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn/", "servicebus.chinacloudapi.cn",
			"servicebus.windows.net",
		},
	} {
		cfg := load(t, "REVOKER_GRAPH_CLOUD="+cloud, "REVOKER_SERVICEBUS_NAMESPACE=contoso."+want.bus)
		var asked scopes
		var called roundTrip
		graph, err := NewGraph(cfg, GraphOptions{Credential: &asked, Transport: &called})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := graph.Revoke(t.Context(), user); err != nil {
			t.Fatal(err)
		}
		graph.Close()
		if len(called) != 1 || called[0] != want.root+"/v1.0/users/ada@contoso.com/revokeSignInSessions" ||
			asked[0] != want.root+"/.default" {
			t.Errorf("%s: called %v with a token for %v", cloud, called, asked)
		}
		if host := azureOptions(cfg, nil).Cloud.ActiveDirectoryAuthorityHost; host != want.authority {
			t.Errorf("%s: signs in at %s", cloud, host)
		}
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		config.Flags(fs)
		if _, err := config.Load(fs,
			[]string{
				"REVOKER_SERVICEBUS_QUEUE=q", "REVOKER_GRAPH_CLOUD=" + cloud,
				"REVOKER_SERVICEBUS_NAMESPACE=contoso." + want.foreign,
			}); err == nil {
			t.Errorf("%s with a namespace in %s was accepted", cloud, want.foreign)
		}
	}
}

func TestOAuthCredentialCachesTokensUntilTheyEndOrClaimsAskForAnother(t *testing.T) {
	issued, life := 0, "3600"
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		issued++
		if r.FormValue("scope") != "root/.default" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token":"t","token_type":"Bearer","expires_in":`+life+`}`)
	}))
	defer server.Close()
	c := applicationCredential(nil, clientcredentials.Config{ClientID: "c", ClientSecret: "very-secret", TokenURL: server.URL})
	get := func(claims string) {
		t.Helper()
		token, err := c.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"root/.default"}, Claims: claims})
		if err != nil || token.Token != "t" {
			t.Fatalf("%v, %v", token, err)
		}
	}
	get("")
	get("")
	if issued != 1 {
		t.Errorf("%d tokens, want the first one twice", issued)
	}
	life = "30"
	get("{}")
	get("")
	if issued != 3 {
		t.Errorf("%d tokens, want one for the claims and one because the last one ends within a minute", issued)
	}
	if _, err := c.GetToken(t.Context(),
		policy.TokenRequestOptions{Scopes: []string{"x"}}); err == nil || strings.Contains(err.Error(), "very-secret") {
		t.Errorf("a refusal: %v", err)
	}
}

func TestOperationsPortThatIsOccupiedIsAClearError(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := load(t, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net")
	cfg.Ops.Address = l.Addr().String()
	if _, err := New(cfg, io.Discard); err == nil || !strings.Contains(err.Error(), "ops.address") {
		t.Errorf("got %v", err)
	}
}

func TestOperationsPortIsLoggedWithWhoReachesIt(t *testing.T) {
	for address, want := range map[string]string{
		"127.0.0.1:9090": "this machine", "[::1]:9090": "this machine",
		"0.0.0.0:9090": "every interface", "[::]:9090": "every interface", "10.0.0.1:9090": "whoever can route",
	} {
		tcp, err := net.ResolveTCPAddr("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		if got := reach(tcp); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", address, got, want)
		}
	}
}

func TestSignalsFirstIsSoftSecondIsHard(t *testing.T) {
	soft, hard, stop := Signals(context.Background())
	defer stop()
	signal := func(ended context.Context) {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case <-ended.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the signal changed nothing")
		}
	}
	signal(soft)
	if hard.Err() != nil {
		t.Error("the first signal is hard")
	}
	signal(hard)
}

func TestCanaryUserIsNotProtected(t *testing.T) {
	const id = "22222222-3333-4444-5555-666666666666"
	file := t.TempDir() + "/protected"
	if err := os.WriteFile(file, []byte("glass@contoso.com\nadmin-*@contoso.com\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[string]struct{ name, problem string }{
		"":                      {},
		id:                      {name: id},
		"Canary@contoso.com":    {name: "Canary@contoso.com"},
		"GLASS@contoso.com":     {problem: "protected"},
		"Admin-one@contoso.com": {problem: "protected"},
		"a..b@contoso.com":      {problem: "graph.canary_user"},
	} {
		cfg := load(t, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", "REVOKER_GRAPH_CANARY_USER="+user,
			"REVOKER_GUARD_PROTECTED_FILE="+file)
		protected, err := NewProtected(cfg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := CanaryUser(cfg, protected)
		if got.Name() != want.name || (err == nil) != (want.problem == "") || err != nil && !strings.Contains(err.Error(), want.problem) {
			t.Errorf("%q: %v, %v", user, got, err)
		}
		if want.problem != "" {
			if _, err := New(cfg, io.Discard); err == nil {
				t.Errorf("%q: the worker starts", user)
			}
		}
	}
}
