package app

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

const (
	identity = "11111111-1111-4111-8111-111111111111"
	tenantID = "22222222-2222-4222-8222-222222222222"
	issuer   = "https://oidc.contoso.com"
	subject  = "system:serviceaccount:session-revoker:session-revoker"
)

// TestMain makes the process trust httptest's certificate through SSL_CERT_FILE, as operators do
// for a worker behind a company's proxy. It must do so before anything reads the system's
// certificates.
func TestMain(m *testing.M) {
	server := httptest.NewTLSServer(nil)
	file, err := os.CreateTemp("", "ca-*.pem")
	if err != nil {
		panic(err)
	}
	err = pem.Encode(file, &pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	server.Close()
	if err := errors.Join(err, file.Close(), os.Setenv("SSL_CERT_FILE", file.Name())); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.Remove(file.Name())
		os.Exit(code)
	}))
}

// directory is a tenant with one app, which may sign in with every kind of credential.
type directory struct {
	*graph.Server
	key     *rsa.PrivateKey // of the app's certificate, and of the cluster that issues tokens
	environ []string
}

// newDirectory makes the tenant. Its access tokens are valid for life; 0 means the default.
func newDirectory(t *testing.T, life time.Duration) *directory {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	server, err := graph.New(graph.Config{
		Tenant: tenantID, TokenLife: life,
		Apps: []graph.App{{
			ClientID: identity, Secret: "very-secret", Roles: []string{"User.RevokeSessions.All"}, Certificate: &key.PublicKey,
			Federated: []graph.Federation{{Issuer: issuer, Subject: subject, Key: &key.PublicKey}}, IdentityHeader: "machine",
			Public: true, Scopes: []string{"User.RevokeSessions.All"},
		}},
		Users: []graph.User{{ID: userID(1), UserPrincipalName: "ada@contoso.com", UserType: "Member"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &directory{Server: server, key: key}
}

// at sets the directory's address in the worker's settings.
func (d *directory) at(root string) {
	d.environ = []string{
		"REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net",
		"REVOKER_GRAPH_ENDPOINT=" + root, "REVOKER_GRAPH_AUTHORITY=" + root, "REVOKER_GRAPH_TENANT_ID=" + tenantID,
	}
}

// pemFile writes a new certificate for the key, and the key, to file.
func (d *directory) pemFile(t *testing.T, file string, key *rsa.PrivateKey) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "worker"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// statement returns the token that the cluster issues for a service account. It is valid for ten
// minutes.
func (d *directory) statement(t *testing.T, subject string) []byte {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, jwt.MapClaims{
		"iss": issuer, "sub": subject, "aud": "api://AzureADTokenExchange", "nbf": time.Now().Unix(),
		"exp": time.Now().Add(10 * time.Minute).Unix(),
	})
	text, err := token.SignedString(d.key)
	if err != nil {
		t.Fatal(err)
	}
	return []byte(text)
}

// write writes text to a file.
func write(t *testing.T, file string, text []byte) {
	t.Helper()
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// ways are the ways to sign in. Each returns the settings for it, and sets the environment
// variables that Azure's credential chain reads.
var ways = map[string]func(t *testing.T, d *directory) []string{
	"client secret": func(*testing.T, *directory) []string {
		return []string{"REVOKER_GRAPH_CLIENT_ID=" + identity, "REVOKER_GRAPH_CLIENT_SECRET=very-secret"}
	},
	"client certificate": func(t *testing.T, d *directory) []string {
		file := filepath.Join(t.TempDir(), "client.pem")
		d.pemFile(t, file, d.key)
		return []string{"REVOKER_GRAPH_CLIENT_ID=" + identity, "REVOKER_GRAPH_CLIENT_CERTIFICATE_FILE=" + file}
	},
	"environment with a certificate": func(t *testing.T, d *directory) []string {
		file := filepath.Join(t.TempDir(), "client.pem")
		d.pemFile(t, file, d.key)
		t.Setenv("AZURE_CLIENT_CERTIFICATE_PATH", file)
		t.Setenv("AZURE_CLIENT_ID", identity)
		t.Setenv("AZURE_TENANT_ID", tenantID)
		return nil
	},
	"workload identity": func(t *testing.T, d *directory) []string {
		file := filepath.Join(t.TempDir(), "token")
		write(t, file, d.statement(t, subject))
		t.Setenv("AZURE_FEDERATED_TOKEN_FILE", file)
		t.Setenv("AZURE_CLIENT_ID", identity)
		t.Setenv("AZURE_TENANT_ID", tenantID)
		return nil
	},
	"managed identity": func(t *testing.T, d *directory) []string {
		t.Setenv("IDENTITY_ENDPOINT", strings.TrimPrefix(d.environ[1], "REVOKER_GRAPH_ENDPOINT=")+"/_identity")
		t.Setenv("IDENTITY_HEADER", "machine")
		t.Setenv("AZURE_CLIENT_ID", identity)
		return nil
	},
}

// revokeAda makes one attempt to revoke Ada's sessions.
func revokeAda(t *testing.T, g *revoker.Revoker) error {
	t.Helper()
	ada, err := event.NewUser("", "ada@contoso.com")
	if err != nil {
		t.Fatal(err)
	}
	_, err = g.Revoke(t.Context(), ada)
	return err
}

func TestCredentialSignsInOverTLS(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, 0)
			server := httptest.NewTLSServer(d)
			defer server.Close()
			d.at(server.URL)
			g, err := NewGraph(load(t, append(d.environ, way(t, d)...)...), GraphOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if err := revokeAda(t, g); err != nil {
				t.Fatal(err)
			}
			if tokens := d.Tokens(); len(tokens) != 1 || tokens[0].ClientID != identity {
				t.Errorf("tokens %+v", tokens)
			}
			if _, revoked := d.Revoked("ada@contoso.com"); !revoked {
				t.Error("not revoked")
			}
		})
	}
}

func TestCredentialOfAPersonWithADeviceCode(t *testing.T) {
	d := newDirectory(t, 0)
	server := httptest.NewTLSServer(d)
	defer server.Close()
	d.at(server.URL)
	plain := httptest.NewServer(d)
	defer plain.Close()
	for name, settings := range map[string][]string{
		"Entra": {"REVOKER_GRAPH_CLIENT_ID=" + identity},
		"sandbox": {
			"REVOKER_GRAPH_ENDPOINT=" + plain.URL, "REVOKER_GRAPH_TOKEN_URL=" + plain.URL + "/" + tenantID + "/oauth2/v2.0/token",
			"REVOKER_GRAPH_CLIENT_ID=" + identity, "REVOKER_GRAPH_CLIENT_SECRET=very-secret", "REVOKER_GRAPH_AUTHORITY=",
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := load(t, append(d.environ, settings...)...)
			before := len(d.Tokens())
			credential, err := DelegatedCredential(cfg, "device-code", func(text string) {
				if err := d.Approve(regexp.MustCompile(`[A-Z2-7]{9}`).FindString(text), "ada@contoso.com"); err != nil {
					t.Errorf("%s: %v", text, err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := SignIn(t.Context(), cfg, credential); err != nil {
				t.Fatal(err)
			}
			g, err := NewGraph(cfg, GraphOptions{Credential: credential})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if _, err := g.RevokeMe(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, revoked := d.Revoked("ada@contoso.com"); !revoked {
				t.Error("not revoked")
			}
			if name == "sandbox" { // Entra needs no person for it, with a refresh token
				if _, err := credential.GetToken(t.Context(), policy.TokenRequestOptions{
					Scopes: []string{cfg.Cloud().Scope()}, Claims: "{}",
				}); err != nil {
					t.Error(err)
				}
			}
			if n := len(d.Tokens()) - before; n != 1 {
				t.Errorf("%d tokens, want one", n)
			}
		})
	}
}

// inProcess answers requests without a network, so that tests can run in a synctest bubble.
type inProcess struct{ http.Handler }

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.TLS, r.Host = &tls.ConnectionState{}, r.URL.Host
	if r.Body == nil {
		r.Body = http.NoBody
	}
	answer := httptest.NewRecorder()
	p.ServeHTTP(answer, r)
	result := answer.Result()
	result.Request = r
	return result, nil
}

// throughTime runs a test in a bubble for each way to sign in.
func throughTime(t *testing.T, life time.Duration, test func(t *testing.T, d *directory, g *revoker.Revoker)) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			// The environment must be set outside of the bubble. The cluster's token must be issued
			// inside, where the time differs.
			d := newDirectory(t, life)
			d.at("https://graph.test")
			settings := way(t, d)
			synctest.Test(t, func(t *testing.T) {
				if file := os.Getenv("AZURE_FEDERATED_TOKEN_FILE"); file != "" {
					write(t, file, d.statement(t, subject))
				}
				g, err := NewGraph(load(t, append(d.environ, settings...)...), GraphOptions{Transport: inProcess{d}})
				if err != nil {
					t.Fatal(err)
				}
				defer g.Close()
				test(t, d, g)
			})
		})
	}
}

func TestTokensAreCachedAndRenewedBeforeTheyExpire(t *testing.T) {
	throughTime(t, time.Hour, func(t *testing.T, d *directory, g *revoker.Revoker) {
		for minute := range 180 {
			if file := os.Getenv("AZURE_FEDERATED_TOKEN_FILE"); file != "" && minute%5 == 0 {
				// Kubernetes renews the token long before it expires. The first one would have
				// expired by now.
				write(t, file, d.statement(t, subject))
			}
			if err := revokeAda(t, g); err != nil {
				t.Fatalf("in minute %d: %v", minute, err)
			}
			time.Sleep(time.Minute)
		}
		// Three hours need three tokens, and one or two more if they are renewed early. Graph must
		// never refuse one.
		if n := len(d.Tokens()); n < 3 || n > 6 {
			t.Errorf("%d tokens in three hours", n)
		}
		for _, call := range d.Calls() {
			if call.Status == http.StatusUnauthorized {
				t.Fatalf("a token was used after its end, at %s", call.Start)
			}
		}
	})
}

func TestTokenThatGraphRevokesIsReplacedByOneWithTheDemandedClaims(t *testing.T) {
	throughTime(t, time.Hour, func(t *testing.T, d *directory, g *revoker.Revoker) {
		if err := revokeAda(t, g); err != nil {
			t.Fatal(err)
		}
		d.RevokeTokens()
		var failure *revoker.Error
		if err := revokeAda(t, g); !errors.As(err, &failure) || failure.Kind != revoker.Unauthorized || !failure.Excused() {
			t.Fatalf("with a token that was taken back: %v", err)
		}
		for range 3 {
			if err := revokeAda(t, g); err != nil {
				t.Fatalf("after a claims challenge: %v", err)
			}
		}
		tokens := d.Tokens()
		if len(tokens) != 2 {
			t.Fatalf("%d tokens, want the first and one more", len(tokens))
		}
		if os.Getenv("IDENTITY_ENDPOINT") == "" && !strings.Contains(tokens[1].Claims, `"nbf"`) {
			t.Errorf("asked for a token with the claims %q", tokens[1].Claims)
		}
	})
}

func TestTokenIsRefusedToAServiceAccountThatIsNotFederated(t *testing.T) {
	d := newDirectory(t, 0)
	d.at("https://graph.test")
	settings := ways["workload identity"](t, d)
	write(t, os.Getenv("AZURE_FEDERATED_TOKEN_FILE"), d.statement(t, "system:serviceaccount:default:default"))
	g, err := NewGraph(load(t, append(d.environ, settings...)...), GraphOptions{Transport: inProcess{d}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var failure *revoker.Error
	if err := revokeAda(t, g); !errors.As(err,
		&failure) || failure.Kind != revoker.NoToken || !failure.Systemic() || !strings.Contains(err.Error(), "AADSTS70021") {
		t.Errorf("%v", err)
	}
	if len(d.Calls()) != 0 {
		t.Error("Graph was called without a token")
	}
}

func TestCertificateIsReadAgainAfterItsRenewal(t *testing.T) {
	d := newDirectory(t, 0)
	d.at("https://graph.test")
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "client.pem")
	d.pemFile(t, file, other) // this key is not registered
	cfg := load(t, append(d.environ, "REVOKER_GRAPH_CLIENT_ID="+identity, "REVOKER_GRAPH_CLIENT_CERTIFICATE_FILE="+file)...)
	g, err := NewGraph(cfg, GraphOptions{Transport: inProcess{d}})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var failure *revoker.Error
	if err := revokeAda(t, g); !errors.As(err, &failure) || failure.Kind != revoker.NoToken {
		t.Fatalf("with a certificate that is not the app's: %v", err)
	}
	later := time.Now().Add(time.Minute)
	replace := func(write func()) {
		write()
		later = later.Add(time.Minute)
		if err := os.Chtimes(file, later, later); err != nil {
			t.Fatal(err)
		}
	}
	replace(func() { d.pemFile(t, file, d.key) })
	if err := revokeAda(t, g); err != nil {
		t.Fatalf("after the file was replaced: %v", err)
	}
	// While the file is half written, the worker keeps the last good certificate.
	replace(func() { write(t, file, []byte("-----BEGIN CERT")) })
	d.RevokeTokens()
	_ = revokeAda(t, g)
	if err := revokeAda(t, g); err != nil {
		t.Errorf("with half a file: %v", err)
	}
	if _, err := newCertificateCredential(cfg, nil); err == nil || !strings.Contains(err.Error(), "graph.client_certificate_file") {
		t.Errorf("half a file at the start: %v", err)
	}
}

func TestAuthorityIsForEmulatorsOnly(t *testing.T) {
	for _, environ := range [][]string{
		{"REVOKER_GRAPH_AUTHORITY=https://127.0.0.1:1"},
		{"REVOKER_GRAPH_AUTHORITY=http://127.0.0.1:1", "REVOKER_GRAPH_ENDPOINT=https://127.0.0.1:1"},
		{"REVOKER_GRAPH_CLIENT_CERTIFICATE_FILE=x"},
		{
			"REVOKER_GRAPH_CLIENT_CERTIFICATE_FILE=x", "REVOKER_GRAPH_CLIENT_SECRET=s", "REVOKER_GRAPH_TENANT_ID=t",
			"REVOKER_GRAPH_CLIENT_ID=c",
		},
	} {
		fs := newFlags()
		if _, err := config.Load(fs,
			append(environ, "REVOKER_SERVICEBUS_QUEUE=q", "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net")); err == nil {
			t.Errorf("%v was accepted", environ)
		}
	}
}
