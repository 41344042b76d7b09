package main_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/go-jose/go-jose/v4"
)

// TestWorkerActsOnSecurityEventTokens has an identity provider whose keys cannot be had at first.
func TestWorkerActsOnSecurityEventTokens(t *testing.T) {
	c := newCloud(t, 3, time.Minute)
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var up atomic.Bool
	idp := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !up.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "1", Key: private.Public()}}})
	}))
	defer idp.Close()
	file := filepath.Join(t.TempDir(), "transmitters.yaml")
	if err := os.WriteFile(file, []byte("transmitters:\n  - name: idp\n    issuer: https://idp.example.com\n    audience: revoker\n"+
		"    jwks_url: "+idp.URL+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.env = append(c.env, "REVOKER_EVENTS_TRANSMITTERS_FILE="+file)
	token := func(event, claims string, i int) *azservicebus.Message {
		t.Helper()
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: private},
			(&jose.SignerOptions{}).WithType("secevent+jwt").WithHeader("kid", "1"))
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign([]byte(fmt.Sprintf(`{"iss":"https://idp.example.com","aud":"revoker","jti":"%d","iat":%d,`+
			`"sub_id":{"format":"email","email":"user%d@contoso.com"},"events":{"https://schemas.openid.net/secevent/%s":%s}}`,
			i, time.Now().Unix(), i, event, claims)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		return &azservicebus.Message{Body: []byte(text)}
	}
	c.commandIn("", nil, "doctor").want(t, 2, "FAIL  transmitter idp", "HTTP 503")
	p := c.start()
	logout := token("caep/event-type/session-revoked", `{"initiating_entity":"user"}`, 1)
	c.send(token("risc/event-type/account-disabled", `{}`, 0), logout, about(2))
	c.until("the neighbor's call", func() bool { return c.revoked(3) == 1 })
	c.until("two tokens that wait", func() bool { return c.counts().Deferred == 2 })
	up.Store(true)
	c.until("the tokens", func() bool { counts := c.counts(); return counts.Active+counts.Deferred == 0 })
	if _, revoked := c.graph.Revoked(id(0)); !revoked || c.revoked(3) != 2 {
		t.Errorf("%d people are revoked\n%s", c.revoked(3), &p.out)
	}
	p.terminate(t)
	c.command("", "dlq", "list").want(t, 0, "NoTrigger")
	c.command("", "doctor").want(t, 0, "OK    transmitter idp", "1 key")

	broken := filepath.Join(t.TempDir(), "broken.yaml")
	if err := os.WriteFile(broken, []byte("transmitters:\n  - nam: idp\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	without := []string{"REVOKER_EVENTS_TRANSMITTERS_FILE=" + broken}
	c.commandIn("", without, "doctor").want(t, 2, "FAIL  transmitters", "line 2")
	if got := c.commandIn("", without, "run"); got.code == 0 || !strings.Contains(got.stderr, "line 2") {
		t.Errorf("a worker with a wrong file: %+v", got)
	}
}
