package secevent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/event"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer   = "https://idp.example.com/"
	audience = "https://revoker.contoso.com/events"
	jwksURL  = "https://idp.example.com/keys"
	objectID = "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01"
)

// The keys of the tests. To make an RSA key takes long.
var (
	rsaKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	p384   = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)) })
	edKey  = sync.OnceValue(func() ed25519.PrivateKey {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		return must(private, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// publicKey returns a public key under an id, as a transmitter publishes it.
func publicKey(id string, private crypto.Signer) jose.JSONWebKey {
	return jose.JSONWebKey{KeyID: id, Key: private.Public(), Use: "sig"}
}

// keyServer is the HTTP transport to a transmitter that publishes keys.
type keyServer struct {
	mu     sync.Mutex
	keys   []jose.JSONWebKey
	answer func(*http.Request) (*http.Response, error) // replaces the keys
	asked  int
}

func (s *keyServer) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	s.asked++
	keys, other := s.keys, s.answer
	s.mu.Unlock()
	if other != nil {
		return other(r)
	}
	return answer(http.StatusOK, string(must(json.Marshal(jose.JSONWebKeySet{Keys: keys})))), nil
}

func (s *keyServer) publish(keys ...jose.JSONWebKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys, s.answer = keys, nil
}

func (s *keyServer) fail(answer func(*http.Request) (*http.Response, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *keyServer) times() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

func answer(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Body: readCloser{strings.NewReader(body)}, Header: http.Header{}}
}

type readCloser struct{ *strings.Reader }

func (readCloser) Close() error { return nil }

// idp is the transmitter of the tests.
func idp() Transmitter {
	return Transmitter{Name: "idp", Issuer: issuer, Audience: texts{audience}, JWKSURL: jwksURL}
}

// fetched returns a Verifier that has fetched the keys of its transmitters.
func fetched(t testing.TB, cfg Config, keys ...jose.JSONWebKey) *Verifier {
	t.Helper()
	if cfg.Transport == nil {
		cfg.Transport = &keyServer{keys: keys}
	}
	if cfg.Transmitters == nil {
		cfg.Transmitters = []Transmitter{idp()}
	}
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range v.Refresh(t.Context()) {
		if status.Err != nil {
			t.Fatal(status)
		}
	}
	return v
}

// fromIDP is a Verifier for tokens that idp signs with the RSA key under the id rsa.
func fromIDP(t testing.TB, change func(*Config, *Transmitter)) *Verifier {
	t.Helper()
	transmitter := idp()
	cfg := Config{}
	if change != nil {
		change(&cfg, &transmitter)
	}
	cfg.Transmitters = []Transmitter{transmitter}
	return fetched(t, cfg, publicKey("rsa", rsaKey()))
}

// claims returns the claims of a token about a member of the company, with changes: a nil removes
// the claim.
func claims(event string, own map[string]any, changes map[string]any) map[string]any {
	c := map[string]any{
		"iss": issuer, "aud": audience, "jti": "token-1", "iat": time.Now().Unix(),
		"sub_id": map[string]any{"format": "email", "email": "ada@contoso.com"},
		"events": map[string]any{event: own},
	}
	maps.Copy(c, changes)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

// disabled is about an account that was disabled, which signs the person out.
func disabled(changes map[string]any) map[string]any {
	return claims(risc+"account-disabled", map[string]any{}, changes)
}

// sign returns a token.
func sign(t testing.TB, claims map[string]any, algorithm jose.SignatureAlgorithm, private any, headers map[jose.HeaderKey]any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("secevent+jwt")
	for name, value := range headers {
		if value == nil {
			delete(options.ExtraHeaders, name)
			continue
		}
		options.WithHeader(name, value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: private}, options)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signer.Sign(must(json.Marshal(claims)))
	if err != nil {
		t.Fatal(err)
	}
	return must(signed.CompactSerialize())
}

// signed returns a token of idp.
func signed(t testing.TB, claims map[string]any) string {
	t.Helper()
	return sign(t, claims, jose.RS256, rsaKey(), map[jose.HeaderKey]any{"kid": "rsa"})
}

// signedText returns a token of idp with a header and claims that no library would write.
func signedText(header, claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(header)) + "." + encode([]byte(claims))
	hash := crypto.SHA256.New()
	hash.Write([]byte(text))
	signature := must(rsa.SignPKCS1v15(rand.Reader, rsaKey(), crypto.SHA256, hash.Sum(nil)))
	return text + "." + encode(signature)
}

// decode returns the one event of a token.
func decode(t testing.TB, v *Verifier, token string) event.Item {
	t.Helper()
	m := event.Message{ContentType: "application/secevent+jwt", Body: []byte(token)}
	if !v.IsToken(m) || token != "" && !v.IsToken(event.Message{Body: m.Body}) && isCompact(m.Body) {
		t.Errorf("not taken for a token: %s", token)
	}
	items, err := v.Decode(m)
	if err != nil {
		return event.Item{Err: err}
	}
	if len(items) != 1 {
		t.Fatalf("%d events", len(items))
	}
	return items[0]
}

// wantUser fails unless the event is accepted and about the user.
func wantUser(t testing.TB, item event.Item, kind, user string) {
	t.Helper()
	if item.Err != nil || item.Event.Type != kind || item.Event.User.Name() != user {
		t.Errorf("got %s about %q (%v), want %s about %q", item.Event.Type, item.Event.User, item.Err, kind, user)
	}
}

// wantRefused fails unless the event is refused with this kind, and the error contains the text.
func wantRefused(t testing.TB, item event.Item, kind event.Kind, text string) {
	t.Helper()
	refused, ok := errors.AsType[*event.Error](item.Err)
	if !ok || refused.Kind != kind || !strings.Contains(refused.Error(), text) {
		t.Errorf("got %v, want kind %d with %q", item.Err, kind, text)
	}
	if !item.Event.User.IsZero() {
		t.Errorf("a refused event names %s", item.Event.User)
	}
}

// write writes a file into a directory of the test.
func write(t testing.TB, name, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func keySetText(keys ...jose.JSONWebKey) string {
	return string(must(json.Marshal(jose.JSONWebKeySet{Keys: keys})))
}

func member(name string, value any) map[string]any { return map[string]any{name: value} }

func email(address string) map[string]any {
	return map[string]any{"format": "email", "email": address}
}

func issSub(iss, sub string) map[string]any {
	return map[string]any{"format": "iss_sub", "iss": iss, "sub": sub}
}

func opaque(id string) map[string]any { return map[string]any{"format": "opaque", "id": id} }

func aliases(list ...any) map[string]any {
	return map[string]any{"format": "aliases", "identifiers": list}
}
