package ingest_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/session-revoker/session-revoker/config"
)

const (
	tenant   = "11111111-2222-3333-4444-555555555555"
	audience = "api://session-revoker"
	caller   = "66666666-7777-8888-9999-000000000000"
)

// authority is the sign-in authority: it serves keys, and can be away.
type authority struct {
	mu      sync.Mutex
	keys    map[string]*rsa.PrivateKey
	away    bool
	fetches int
}

// key makes a key of 2,048 bits once for all tests, since that takes time.
var key = sync.OnceValue(func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
})

func (a *authority) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.away {
		return nil, errors.New("away")
	}
	var body any
	switch r.URL.String() {
	case "https://login.microsoftonline.com/" + tenant + "/v2.0/.well-known/openid-configuration":
		body = map[string]string{"jwks_uri": "https://login.microsoftonline.com/" + tenant + "/discovery/v2.0/keys"}
	case "https://login.microsoftonline.com/" + tenant + "/discovery/v2.0/keys":
		a.fetches++
		list := []any{map[string]string{"kty": "unheard-of", "kid": "x"}}
		for id, k := range a.keys {
			list = append(list, jose.JSONWebKey{Key: k.Public(), KeyID: id, Use: "sig"})
		}
		body = map[string]any{"keys": list}
	default:
		return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody, Request: r}, nil
	}
	text, err := json.Marshal(body)
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(text)), Request: r}, err
}

func (a *authority) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

// token signs the claims of a right token, after a change.
func token(t *testing.T, alg jose.SignatureAlgorithm, signer any, kid string, change func(claims map[string]any)) string {
	t.Helper()
	claims := map[string]any{
		"iss": "https://sts.windows.net/" + tenant + "/", "aud": audience, "tid": tenant, "appid": caller,
		"roles": []string{"Events.Send"}, "nbf": time.Now().Unix(), "exp": time.Now().Add(time.Hour).Unix(),
	}
	if change != nil {
		change(claims)
	}
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: signer}, options)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := s.Sign(text)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := signed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func TestEntraTokensAreChecked(t *testing.T) {
	entra := &authority{keys: map[string]*rsa.PrivateKey{"k1": key()}}
	source := config.IngestSource{
		Name: "flow", Path: "/flow", Verify: "logic-apps", Tenant: tenant, Audience: audience, Caller: caller, AppRole: "Events.Send",
	}
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	inWorld(t, settings{sources: []config.IngestSource{source}, transport: entra}, func(w *world) {
		right := func(change func(map[string]any)) string { return token(t, jose.RS256, key(), "k1", change) }
		set := func(name string, value any) string { return right(func(c map[string]any) { c[name] = value }) }
		unsigned := right(nil)
		unsigned = "eyJhbGciOiJub25lIiwia2lkIjoiazEifQ" + unsigned[strings.Index(unsigned, "."):strings.LastIndex(unsigned, ".")+1]
		accepted := 0
		for what, c := range map[string]struct {
			token  string
			status int
		}{
			"version 1": {right(nil), 200},
			"version 2": {right(func(c map[string]any) {
				c["iss"], c["azp"] = "https://login.microsoftonline.com/"+tenant+"/v2.0", caller
				delete(c, "appid")
			}), 200},
			"several audiences":     {set("aud", []string{"x", audience}), 200},
			"the clock is behind":   {set("nbf", time.Now().Add(4*time.Minute).Unix()), 200},
			"another audience":      {set("aud", "https://graph.microsoft.com"), 401},
			"another tenant":        {set("tid", "99999999-2222-3333-4444-555555555555"), 401},
			"another issuer":        {set("iss", "https://sts.windows.net/common/"), 401},
			"another caller":        {set("appid", tenant), 401},
			"azp beside appid":      {right(func(c map[string]any) { c["appid"], c["azp"] = tenant, caller }), 401},
			"no role":               {set("roles", []string{}), 401},
			"expired":               {set("exp", time.Now().Add(-6*time.Minute).Unix()), 401},
			"no expiry":             {right(func(c map[string]any) { delete(c, "exp") }), 401},
			"not yet valid":         {set("nbf", time.Now().Add(time.Hour).Unix()), 401},
			"of another key":        {token(t, jose.RS256, other, "k1", nil), 401},
			"with another RSA hash": {token(t, jose.RS512, key(), "k1", nil), 401},
			"without a key ID":      {token(t, jose.RS256, key(), "", nil), 401},
			"unsigned":              {unsigned, 401},
			"a shared secret":       {token(t, jose.HS256, []byte(strings.Repeat("k", 32)), "k1", nil), 401},
			"rubbish":               {"a.b.c", 401},
			"nothing":               {"", 401},
		} {
			if c.status == 200 {
				accepted++
			}
			got := w.post("/flow", event, "Authorization", "Bearer "+c.token)
			w.want(what, got, c.status)
			if c.status == 401 && !strings.HasPrefix(got.Header().Get("WWW-Authenticate"), "Bearer ") {
				t.Errorf("%s: WWW-Authenticate: %q", what, got.Header().Get("WWW-Authenticate"))
			}
		}
		w.wantQueued("right tokens", accepted)
		if entra.fetches != 1 {
			t.Errorf("%d fetches of keys, want 1", entra.fetches)
		}
	})
}

func TestEntraKeysThatCannotBeFetchedLoseNoEvent(t *testing.T) {
	entra := &authority{keys: map[string]*rsa.PrivateKey{"k1": key()}, away: true}
	source := config.IngestSource{Name: "flow", Path: "/flow", Verify: "entra", Tenant: tenant, Audience: audience, Caller: caller}
	inWorld(t, settings{sources: []config.IngestSource{source}, transport: entra}, func(w *world) {
		send := func(kid string) int {
			return w.post("/flow", event, "Authorization", "Bearer "+token(t, jose.RS256, key(), kid, nil)).Code
		}
		if got := send("k1"); got != 503 {
			t.Errorf("no keys yet: %d, want 503: senders drop the event after 401", got)
		}
		entra.set(func() { entra.away = false })
		time.Sleep(6 * time.Second)
		if got := send("k1"); got != 200 {
			t.Errorf("the authority is back: %d", got)
		}
		// A new key is fetched when a token names it, but not for each token.
		if got := send("k2"); got != 503 {
			t.Errorf("a key that nobody knows, just after a fetch: %d, want 503", got)
		}
		entra.set(func() { entra.keys["k2"] = key() })
		time.Sleep(time.Minute)
		if got := send("k2"); got != 200 {
			t.Errorf("a new key: %d", got)
		}
		time.Sleep(2 * time.Minute)
		before := entra.fetches
		for range 100 {
			send("k3")
		}
		if got := send("k3"); got != 503 || entra.fetches != before+1 {
			t.Errorf("%d, and %d fetches for a key that does not exist", got, entra.fetches-before)
		}
		// While the authority is away, the last good keys stay in use.
		entra.set(func() { entra.away = true })
		time.Sleep(48 * time.Hour)
		if got := send("k2"); got != 200 {
			t.Errorf("a known key, and the authority is away: %d", got)
		}
		// A withdrawn key is forgotten.
		entra.set(func() { entra.away = false; delete(entra.keys, "k2") })
		time.Sleep(13 * time.Hour)
		if got := send("k2"); got != 401 {
			t.Errorf("a withdrawn key: %d", got)
		}
	})
}

func TestEventGridsSetupRoleIsNotEnough(t *testing.T) {
	entra := &authority{keys: map[string]*rsa.PrivateKey{"k1": key()}}
	source := config.IngestSource{Name: "grid", Path: "/grid", Verify: "event-grid", Tenant: tenant, Audience: audience}
	inWorld(t, settings{sources: []config.IngestSource{source}, transport: entra}, func(w *world) {
		send := func(app string, roles ...string) int {
			return w.post("/grid", event, "Authorization", "Bearer "+token(t, jose.RS256, key(), "k1", func(c map[string]any) {
				c["appid"], c["roles"] = app, roles
			})).Code
		}
		const grid, role = "4962773b-9cdb-44cf-a8bf-237846a00ab7", "AzureEventGridSecureWebhookSubscriber"
		if got := []int{send(grid, role), send(caller, role), send(grid)}; got[0] != 200 || got[1] != 401 || got[2] != 401 {
			t.Errorf("%v, want 200 for Event Grid, and 401 for who writes the subscription and for a missing role", got)
		}
	})
}
