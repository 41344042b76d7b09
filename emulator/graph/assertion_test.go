package graph_test

import (
	"crypto/rand"
	"crypto/rsa"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

func TestTokenAssertions(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, graph.Config{Apps: []graph.App{
		{ClientID: "client", Secret: "secret", Roles: []string{"User.RevokeSessions.All"}},
		{
			ClientID: "app", Certificate: &key.PublicKey,
			Federated: []graph.Federation{{Issuer: "https://cluster", Subject: "worker", Key: &key.PublicKey}},
		},
		{ClientID: "bare"},
	}})
	const endpoint, exchange = "http://graph.test/tenant/oauth2/v2.0/token", "api://AzureADTokenExchange"
	sign := func(method jwt.SigningMethod, key any, iss, sub, aud string, expires time.Duration) string {
		text, err := jwt.NewWithClaims(method, jwt.MapClaims{
			"iss": iss, "sub": sub, "aud": aud, "nbf": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(expires).Unix(),
		}).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for name, c := range map[string]struct{ app, statement, says string }{
		"certificate, PS256": {"app", sign(jwt.SigningMethodPS256, key, "app", "app", endpoint, time.Minute), ""},
		"certificate, RS256": {"app", sign(jwt.SigningMethodRS256, key, "app", "app", endpoint, time.Minute), ""},
		"federated":          {"app", sign(jwt.SigningMethodRS256, key, "https://cluster", "worker", exchange, time.Minute), ""},
		"another key":        {"app", sign(jwt.SigningMethodRS256, other, "app", "app", endpoint, time.Minute), "AADSTS700027"},
		"another algorithm":  {"app", sign(jwt.SigningMethodHS256, []byte("k"), "app", "app", endpoint, time.Minute), "AADSTS700027"},
		"another endpoint":   {"app", sign(jwt.SigningMethodRS256, key, "app", "app", "https://elsewhere", time.Minute), "AADSTS700212"},
		"another issuer": {
			"app", sign(jwt.SigningMethodRS256, key, "https://elsewhere", "worker", exchange, time.Minute),
			"AADSTS70021",
		},
		"another subject": {
			"app", sign(jwt.SigningMethodRS256, key, "https://cluster", "other", exchange, time.Minute),
			"AADSTS70021",
		},
		"for somebody else": {
			"app", sign(jwt.SigningMethodRS256, key, "https://cluster", "worker", "https://kubernetes", time.Minute),
			"AADSTS700212",
		},
		"expired":              {"app", sign(jwt.SigningMethodRS256, key, "app", "app", endpoint, -time.Second), "AADSTS700024"},
		"an app without a key": {"bare", sign(jwt.SigningMethodRS256, key, "bare", "bare", endpoint, time.Minute), "AADSTS700027"},
		"no JWT":               {"app", "hello", "not a JWT"},
		"half a JWT":           {"app", "a.b.c", "cannot be read"},
	} {
		status, answer := w.ask(url.Values{
			"grant_type": {"client_credentials"}, "client_id": {c.app}, "scope": {"http://graph.test/.default openid"},
			"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}, "client_assertion": {c.statement},
		}, nil)
		said, _ := answer["error_description"].(string)
		if c.says == "" && status != 200 || c.says != "" && (status != 401 || !strings.Contains(said, c.says)) {
			t.Errorf("%s: %d %v", name, status, answer)
		}
	}
	if status, answer := w.ask(grant("bare", ""), nil); status != 401 {
		t.Errorf("an app without a secret signs in with none: %d %v", status, answer)
	}
}
