package ssf_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/ingest/ssf"
	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
)

// direct calls a handler without a network.
type direct struct{ http.Handler }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	if r.Body == nil {
		r.Body = http.NoBody
	}
	d.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

func newClient(t *testing.T, handler http.Handler, cfg ssf.Config) *ssf.Client {
	t.Helper()
	cfg.Transport = direct{handler}
	c, err := ssf.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestDiscoveryTriesTheWellKnownAddressesInOrder(t *testing.T) {
	for issuer, addresses := range map[string][]string{
		"https://idp.example.com":  {"/.well-known/ssf-configuration", "/.well-known/risc-configuration"},
		"https://idp.example.com/": {"/.well-known/ssf-configuration", "/.well-known/risc-configuration"}, // Google
		"https://idp.example.com/realms/staff": {
			"/.well-known/ssf-configuration/realms/staff", "/realms/staff/.well-known/ssf-configuration",
			"/.well-known/risc-configuration/realms/staff", "/realms/staff/.well-known/risc-configuration",
		},
		"https://idp.example.com/realms/staff/": {
			"/.well-known/ssf-configuration/realms/staff", "/realms/staff/.well-known/ssf-configuration",
			"/.well-known/risc-configuration/realms/staff", "/realms/staff/.well-known/risc-configuration",
		},
	} {
		for i, there := range addresses {
			var asked []string
			c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.URL.Path)
				if r.URL.Path != there {
					http.NotFound(w, r)
					return
				}
				fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"https://idp.example.com/keys"}`, issuer)
			}), ssf.Config{Issuer: issuer})
			m, err := c.Discover(t.Context())
			if err != nil || m.Found != "https://idp.example.com"+there || !slices.Equal(asked, addresses[:i+1]) {
				t.Errorf("%s: found %q, asked %v, want %v (%v)", issuer, m.Found, asked, addresses[:i+1], err)
			}
		}
	}
}

func TestDiscoverySaysWhatItTried(t *testing.T) {
	c := newClient(t, http.NotFoundHandler(), ssf.Config{Issuer: "https://idp.example.com/a"})
	_, err := c.Discover(t.Context())
	for _, want := range []string{"HTTP 404", "/.well-known/ssf-configuration/a", "/a/.well-known/risc-configuration", "metadata_url"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestDiscoveryUsesTheAddressThatIsSet(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != "config.example.com" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked %s with %q", r.URL, r.Header.Get("Authorization"))
		}
		_, _ = io.WriteString(w, `{"issuer":"https://idp.example.com"}`)
	}), ssf.Config{
		Issuer: "https://idp.example.com", MetadataURL: "https://config.example.com/x",
		Authorization: ssf.Authorization{TokenFile: write(t, "a-token")},
	})
	if _, err := c.Discover(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStreamIsCreatedReadChangedAndDeleted(t *testing.T) {
	tx := ssftest.New("https://idp.example.com/tenant")
	tx.Access = "a-token"
	c := newClient(t, tx, ssf.Config{Issuer: tx.Issuer, Authorization: ssf.Authorization{TokenFile: write(t, "a-token\n")}})
	ctx := t.Context()
	m, err := c.Discover(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := ssf.Spec{Delivery: ssf.Poll, Events: []string{ssftest.AccountDisabled}}
	if _, err := c.Find(ctx, m, want); !errors.Is(err, ssf.ErrNoStream) {
		t.Fatalf("before it is there: %v", err)
	}
	made, err := c.Create(ctx, m, want)
	if err != nil || made.ID == "" || made.Delivery.Endpoint != tx.Issuer+"/poll" || made.Delivery.By() != ssf.Poll {
		t.Fatalf("%+v, %v", made, err)
	}
	push := ssf.Spec{Delivery: ssf.Push, Endpoint: "https://hooks.contoso.com/a", Authorization: "a-secret-of-the-push"}
	if other, err := c.Create(ctx, m, push); err != nil || other.Delivery.By() != ssf.Push {
		t.Fatalf("%+v, %v", other, err)
	}
	if got := tx.Streams()[1]; got.Delivery.Endpoint != push.Endpoint || got.Delivery.Authorization != push.Authorization {
		t.Errorf("the transmitter has %+v", got)
	}
	found, err := c.Find(ctx, m, want)
	if err != nil || found.ID != made.ID {
		t.Errorf("found %+v, %v", found, err)
	}
	if _, err := c.Find(ctx, m, ssf.Spec{Delivery: ssf.Push, ID: made.ID}); err == nil || !strings.Contains(err.Error(), "delivered by") {
		t.Errorf("with another delivery: %v", err)
	}
	if _, err := c.Find(ctx, m, ssf.Spec{Delivery: ssf.Push, ID: "nobody"}); !errors.Is(err, ssf.ErrNoStream) {
		t.Errorf("an unknown ID: %v", err)
	}
	want.Events = []string{ssftest.SessionRevoked}
	if changed, err := c.Update(ctx, m, made.ID, want); err != nil || !slices.Equal(changed.Requested, want.Events) {
		t.Errorf("%+v, %v", changed, err)
	}
	if s, err := c.Status(ctx, m, made.ID); err != nil || s.Status != ssf.Enabled {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := c.SetStatus(ctx, m, ssf.Status{ID: made.ID, Status: ssf.Paused}); err != nil || s.Status != ssf.Paused {
		t.Errorf("%+v, %v", s, err)
	}
	subject := map[string]string{"format": "email", "email": "ada@contoso.com"}
	if err := errors.Join(c.Subject(ctx, m, made.ID, subject, false), c.Subject(ctx, m, made.ID, subject, true)); err != nil {
		t.Error(err)
	}
	text, _ := json.Marshal(subject)
	if got := tx.Subjects(); !slices.Equal(got, []string{"+" + string(text), "-" + string(text)}) {
		t.Errorf("subjects %v", got)
	}
	if err := c.Verify(ctx, m, made.ID, "a-state"); err != nil || tx.Waiting() != 1 {
		t.Errorf("%v; %d wait", err, tx.Waiting())
	}
	if err := c.Delete(ctx, m, made.ID); err != nil || len(tx.Streams()) != 1 {
		t.Errorf("%v; %+v", err, tx.Streams())
	}
	for range 2 {
		if _, err := c.Create(ctx, m, want); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Find(ctx, m, want); err == nil || !strings.Contains(err.Error(), "set stream_id") {
		t.Errorf("two streams: %v", err)
	}
}

func TestTransmitterThatOnlyPushesIsNotAskedToHoldTokens(t *testing.T) {
	m := ssf.Metadata{DeliveryMethods: []string{"urn:ietf:rfc:8935"}, Configuration: "https://idp.example.com/streams"}
	c := newClient(t, http.NotFoundHandler(), ssf.Config{Issuer: "https://idp.example.com"})
	_, err := c.Create(t.Context(), m, ssf.Spec{Delivery: ssf.Poll})
	if err == nil || !strings.Contains(err.Error(), "does not deliver by poll") {
		t.Errorf("%v", err)
	}
}

func TestGoogleNamesItsDeliveriesAsOlderDrafts(t *testing.T) {
	const older = "https://schemas.openid.net/secevent/risc/delivery-method/push"
	if !(ssf.Metadata{DeliveryMethods: []string{older}}).Delivers(ssf.Push) || (ssf.Delivery{Method: older}).By() != ssf.Push {
		t.Error("the older name is not known")
	}
}

func TestStreamThatIsThereAlready(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusConflict) }),
		ssf.Config{Issuer: "https://idp.example.com"})
	_, err := c.Create(t.Context(), ssf.Metadata{Configuration: "https://idp.example.com/streams"}, ssf.Spec{Delivery: ssf.Poll})
	if err == nil || !strings.Contains(err.Error(), "one stream") {
		t.Errorf("%v", err)
	}
}

// A transmitter may ignore stream_id. The stream that is found may be deleted.
func TestStreamIsFoundByItsIDAlone(t *testing.T) {
	const issuer = "https://idp.example.com"
	one := func(id string) string {
		return `{"stream_id":"` + id + `","delivery":{"method":"urn:ietf:rfc:8936","endpoint_url":"https://idp.example.com/poll"}}`
	}
	for answer, found := range map[string]bool{
		one("theirs"):             false,
		"[" + one("theirs") + "]": false,
		"[" + one("theirs") + "," + one("ours") + "]": true,
		one(""):     false,
		one("ours"): true,
	} {
		answers := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }
		c := newClient(t, http.HandlerFunc(answers), ssf.Config{Issuer: issuer})
		s, err := c.Find(t.Context(), ssf.Metadata{Configuration: issuer + "/streams"}, ssf.Spec{Delivery: ssf.Poll, ID: "ours"})
		if found && (err != nil || s.ID != "ours") || !found && !errors.Is(err, ssf.ErrNoStream) {
			t.Errorf("%s: found %q, %v", answer, s.ID, err)
		}
	}
}

func TestStreamWithoutAnIDIsNotChanged(t *testing.T) {
	const issuer = "https://idp.example.com"
	c := newClient(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked: %s %s", r.Method, r.URL)
	}), ssf.Config{Issuer: issuer})
	m := ssf.Metadata{Configuration: issuer + "/streams"}
	if err := c.Delete(t.Context(), m, ""); err == nil {
		t.Error("deleted")
	}
	if _, err := c.Update(t.Context(), m, "", ssf.Spec{Delivery: ssf.Poll}); err == nil {
		t.Error("updated")
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for what, answer := range map[string]string{
		"too large":   `{"issuer":"https://idp.example.com","x":"` + strings.Repeat("x", 300<<10) + `"}`,
		"no JSON":     "<html>",
		"another":     `{"issuer":"https://idp.example.com/"}`,
		"wrong types": `{"issuer":5}`,
	} {
		c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, answer) }),
			ssf.Config{Issuer: "https://idp.example.com"})
		if _, err := c.Discover(t.Context()); err == nil || strings.Contains(err.Error(), "xxxx") {
			t.Errorf("%s: %v", what, err)
		}
	}
	many := "[" + strings.Repeat(`{"stream_id":"x"},`, 200) + `{"stream_id":"x"}]`
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, many) }),
		ssf.Config{Issuer: "https://idp.example.com"})
	if _, err := c.Streams(t.Context(), ssf.Metadata{Configuration: "https://idp.example.com/s"}, ""); err == nil ||
		!strings.Contains(err.Error(), "201 streams") {
		t.Errorf("%v", err)
	}
}

func TestPollAnswerMayNestAsDeeplyAsItWants(t *testing.T) {
	for _, open := range []string{"[", `{"a":`} {
		c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"sets":{"a":`+strings.Repeat(open, (6<<20)/len(open)))
		}), ssf.Config{Issuer: "https://idp.example.com"})
		if _, err := c.Poll(t.Context(), "https://idp.example.com/poll", ssf.Request{MaxEvents: 1}); err == nil {
			t.Error("accepted")
		}
	}
}

func TestErrorsShowNoTextOfTheTransmitterButItsCode(t *testing.T) {
	for body, want := range map[string]string{
		`{"err":"invalid_request","description":"pwned"}`: "(invalid_request)",
		`{"error":"invalid_client"}`:                      "(invalid_client)",
		`{"err":"\u001b[2J"}`:                             "HTTP 400",
		`{"err":"A long text that is no code"}`:           "HTTP 400",
		`pwned`:                                           "HTTP 400",
	} {
		c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, body, http.StatusBadRequest) }),
			ssf.Config{Issuer: "https://idp.example.com"})
		_, err := c.Poll(t.Context(), "https://idp.example.com/poll?key=hidden", ssf.Request{})
		if err == nil || !strings.Contains(err.Error(), want) || strings.ContainsAny(err.Error(), "\x1b") ||
			strings.Contains(err.Error(), "pwned") || strings.Contains(err.Error(), "hidden") ||
			strings.Contains(err.Error(), "long text") {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// signIn is a token endpoint that counts.
type signIn struct {
	*ssftest.Transmitter
	secret string
	asked  atomic.Int32
	life   int
}

func (s *signIn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/token" {
		s.Transmitter.ServeHTTP(w, r)
		return
	}
	s.asked.Add(1)
	_, secret, _ := r.BasicAuth()
	if err := r.ParseForm(); err != nil || r.Form.Get("grant_type") != "client_credentials" || secret != s.secret ||
		r.Form.Get("scope") != "ssf.manage ssf.read" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"the-client-secret is pwned"}`)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":%d}`, s.Access, s.life)
}

func TestAccessTokensComeFromClientCredentials(t *testing.T) {
	server := &signIn{Transmitter: ssftest.New("https://idp.example.com"), secret: "the-client-secret", life: 3600}
	server.Access = "first"
	file := write(t, "the-client-secret")
	c := newClient(t, server, ssf.Config{Issuer: server.Issuer, Authorization: ssf.Authorization{
		ClientID: "revoker", ClientSecretFile: file, TokenURL: "https://idp.example.com/token", Scopes: []string{"ssf.manage", "ssf.read"},
	}})
	poll := func() error {
		_, err := c.Poll(context.Background(), "https://idp.example.com/poll", ssf.Request{Immediately: true})
		return err
	}
	for range 3 {
		if err := poll(); err != nil {
			t.Fatal(err)
		}
	}
	if n := server.asked.Load(); n != 1 {
		t.Errorf("%d access tokens for three polls", n)
	}
	server.Access = "second" // the first one was withdrawn
	if err := poll(); err != nil || server.asked.Load() != 2 {
		t.Errorf("with a token that was withdrawn: %v after %d", err, server.asked.Load())
	}
	server.Access, server.secret = "third", "another-client-secret"
	err := poll()
	if err == nil || !strings.Contains(err.Error(), "invalid_client") || strings.Contains(err.Error(), "pwned") ||
		strings.Contains(err.Error(), "the-client-secret") {
		t.Errorf("with a wrong secret: %v", err)
	}
	if err := os.WriteFile(file, []byte("another-client-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := poll(); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
}

func TestTokenFileThatGoesAwayStaysInForce(t *testing.T) {
	tx := ssftest.New("https://idp.example.com")
	tx.Access = "a-token"
	file := write(t, "a-token")
	c := newClient(t, tx, ssf.Config{Issuer: tx.Issuer, Authorization: ssf.Authorization{TokenFile: file}})
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Poll(t.Context(), tx.Issuer+"/poll", ssf.Request{Immediately: true}); err != nil {
		t.Error(err)
	}
}

func TestVerifyEveryIsWithinTheTransmittersLimits(t *testing.T) {
	for want, s := range map[time.Duration]ssf.Stream{
		15 * time.Minute: {},
		time.Hour:        {MinVerify: 3600},
		24 * time.Hour:   {MinVerify: 1 << 62},
		5 * time.Minute:  {Inactivity: 600},
		time.Minute:      {Inactivity: 1, MinVerify: -5},
		30 * time.Minute: {Inactivity: 600, MinVerify: 1800},
	} {
		if got := s.VerifyEvery(15 * time.Minute); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
	}
}

func FuzzPollAnswer(f *testing.F) {
	for _, seed := range []string{
		`{"sets":{"a":"b"},"moreAvailable":true}`, `{"sets":{"a":"b","a":"c"}}`, `{"sets":null}`, `[]`, `{"sets":{"a":{"b":1}}}`, "\xff",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }),
			ssf.Config{Issuer: "https://idp.example.com"})
		a, err := c.Poll(t.Context(), "https://idp.example.com/poll", ssf.Request{MaxEvents: 3})
		if err != nil && len(a.Tokens) > 0 || len(a.Tokens) > 3 {
			t.Errorf("%d tokens, %v", len(a.Tokens), err)
		}
	})
}

func TestSignInEndpointThatLies(t *testing.T) {
	for what, answer := range map[string]http.HandlerFunc{
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/metadata/identity/oauth2/token", http.StatusTemporaryRedirect)
		},
		"no token": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"access_token":""}`) },
		"rubbish":  func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pwned") },
		"large":    func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 3<<20)) },
		"long token": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("x", 20<<10)+`"}`)
		},
	} {
		c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/token" {
				t.Errorf("%s: asked for %s", what, r.URL)
			}
			answer(w, r)
		}), ssf.Config{Issuer: "https://idp.example.com", Authorization: ssf.Authorization{
			ClientID: "revoker", ClientSecretFile: write(t, "the-client-secret"), TokenURL: "https://idp.example.com/token",
		}})
		_, err := c.Poll(t.Context(), "https://idp.example.com/poll", ssf.Request{})
		if err == nil || len(err.Error()) > 500 || strings.Contains(err.Error(), "pwned") ||
			strings.Contains(err.Error(), "the-client-secret") {
			t.Errorf("%s: %.600v", what, err)
		}
	}
}
