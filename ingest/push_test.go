package ingest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
)

// pushed is a stream that the transmitter pushes to, and whose API is used if access is true.
func pushed(t *testing.T, access bool) plan {
	t.Helper()
	file, token := secretFile(t, theKey), secretFile(t, otherKey)
	return plan{nothing: true, stream: func(c *config.IngestStream) {
		c.Delivery, c.Path, c.SecretFile = "push", "/signals/idp", file
		if access {
			c.TokenFile = token
		}
	}}
}

// push pushes a token as RFC 8935 says.
func (w *signals) push(token string, header ...string) *httptest.ResponseRecorder {
	usual := []string{"Content-Type", "application/secevent+jwt", "Authorization", theKey}
	return w.post("/signals/idp", token, append(usual, header...)...)
}

// wantRefusal fails unless an answer has the form of RFC 8935, section 2.3.
func (w *signals) wantRefusal(what string, got *httptest.ResponseRecorder, status int, code string) {
	w.t.Helper()
	var body struct{ Err, Description string }
	if err := json.Unmarshal(got.Body.Bytes(), &body); err != nil || got.Code != status || body.Err != code || body.Description == "" ||
		got.Header().Get("Content-Type") != "application/json" || got.Header().Get("Content-Language") != "en" {
		w.t.Errorf("%s: %d %v %s, want %d %s", what, got.Code, got.Header(), got.Body, status, code)
	}
}

func TestPushIsAnsweredWhenServiceBusHasTheToken(t *testing.T) {
	faults := &faulty{}
	p := pushed(t, false)
	p.world = func(s *settings) { s.wrap = faults.wrap }
	inSignals(t, p, func(w *signals) {
		token := w.tx.Token("a", ssftest.AccountDisabled, nil, ada)
		faults.change(func() { faults.delay = time.Hour })
		w.want("while Service Bus is away", w.push(token), http.StatusServiceUnavailable)
		w.wantQueued("nothing", 0)
		faults.change(func() { faults.delay = 0 })
		w.after(10 * time.Second)
		got := w.push(token)
		w.want("a token", got, http.StatusAccepted)
		if got.Body.Len() > 0 {
			t.Errorf("the answer has a body: %s", got.Body)
		}
		w.want("the same token again", w.push(token), http.StatusAccepted)
		for i := range 3 {
			w.want("the same token with white space", w.push(strings.Repeat("\n", i)+token+strings.Repeat(" ", i)), http.StatusAccepted)
		}
		if m := w.wantQueued("once", 1); string(m.Body) != token || m.ApplicationProperties["source"] != "idp" {
			t.Errorf("%+v", m)
		}
		w.wantProblem("")
	})
}

func TestPushRefusesInTheFormOfTheRFC(t *testing.T) {
	inSignals(t, pushed(t, false), func(w *signals) {
		headers := map[jose.HeaderKey]any{"kid": "one", "typ": "secevent+jwt"}
		claims := map[string]any{"iss": "https://evil.example.com", "aud": w.tx.Audience, "jti": "a", "iat": time.Now().Unix()}
		good := w.tx.Token("a", ssftest.AccountDisabled, nil, ada)
		w.wantRefusal("no secret", w.push(good, "Authorization", ""), 401, "authentication_failed")
		w.wantRefusal("another secret", w.push(good, "Authorization", otherKey), 401, "authentication_failed")
		w.wantRefusal("no body", w.push(""), 400, "invalid_request")
		w.wantRefusal("no token", w.push("{}"), 400, "invalid_request")
		w.wantRefusal("another issuer", w.push(w.tx.Sign(claims, headers)), 400, "invalid_issuer")
		claims["iss"], claims["aud"] = w.tx.Issuer, "https://others.example.com"
		w.wantRefusal("another audience", w.push(w.tx.Sign(claims, headers)), 400, "invalid_audience")
		claims["aud"] = w.tx.Audience
		w.wantRefusal("another key", w.push(ssftest.New(w.tx.Issuer).Sign(claims, headers)), 400, "authentication_failed")
		w.wantRefusal("a token that is too large", w.push("ey"+strings.Repeat("a", 70<<10)), 400, "invalid_request")
		w.want("far too large", w.push(strings.Repeat("a", 200<<10)), 413)
		w.want("GET", w.do(request(http.MethodGet, "/signals/idp", "")), 405)
		w.wantQueued("refused tokens", 0)
		w.want("a good one", w.push(good), 202)
	})
}

func TestPushComesAgainWhileTheKeysAreAway(t *testing.T) {
	p := pushed(t, false)
	p.keys = func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "", http.StatusBadGateway) }
	inSignals(t, p, func(w *signals) {
		got := w.push(w.tx.Token("a", ssftest.AccountDisabled, nil, ada))
		w.want("without keys", got, http.StatusServiceUnavailable)
		if got.Header().Get("Retry-After") == "" {
			t.Error("without Retry-After")
		}
	})
}

func TestPushOfEventsAboutTheStream(t *testing.T) {
	p := pushed(t, true)
	p.tx = func(tx *ssftest.Transmitter) { tx.Answer = pushStream(tx) }
	inSignals(t, p, func(w *signals) {
		w.after(time.Minute)
		if !slices.Contains(w.tx.Requests(), "POST /tenant/verify") {
			t.Fatalf("no heartbeat was asked for: %v", w.tx.Requests())
		}
		w.want("a heartbeat", w.push(w.tx.Token("a", ssftest.Verification, map[string]any{"state": "x"}, nil)), 202)
		w.want("a status", w.push(w.tx.Token("b", ssftest.StreamUpdated, map[string]any{"status": "paused"}, nil)), 202)
		w.wantQueued("events about the stream", 0)
		if w.count("handshake") != 2 {
			t.Errorf("%d heartbeats", w.count("handshake"))
		}
		again := w.tx.Token("c", ssftest.Verification, nil, nil)
		for range 3 {
			w.want("a heartbeat that somebody repeats", w.push(again), 202)
		}
		if w.count("handshake") != 3 || w.count("repeated") != 2 {
			t.Errorf("%d heartbeats, %d repeated", w.count("handshake"), w.count("repeated"))
		}
		w.after(10 * time.Second)
		w.wantProblem("paused it")
	})
}

// pushStream lists one stream with push delivery, whose verification is accepted.
func pushStream(tx *ssftest.Transmitter) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		switch {
		case strings.HasSuffix(r.URL.Path, "/streams"):
			_, _ = w.Write([]byte(`[{"stream_id":"p","iss":"` + tx.Issuer + `","aud":"` + tx.Audience +
				`","delivery":{"method":"urn:ietf:rfc:8935","endpoint_url":"https://hooks.contoso.com/signals/idp"}}]`))
		case strings.HasSuffix(r.URL.Path, "/verify"):
			w.WriteHeader(http.StatusNoContent)
		case strings.HasSuffix(r.URL.Path, "/status"):
			_, _ = w.Write([]byte(`{"stream_id":"p","status":"paused"}`))
		default:
			return false
		}
		return true
	}
}

// The following are what the documentation of the transmitters, or their code, says that they do
// differently (docs/shared-signals.md).

func TestKeycloakHoldsNoPollsAndSendsOneTokenTooMany(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Hold, tx.ZeroIsOne = 0, true }}, func(w *signals) {
		w.after(10 * time.Minute)
		if n := w.polls(); n > 130 {
			t.Errorf("%d polls in ten minutes", n)
		}
		for range 120 {
			w.tx.Emit(ssftest.AccountDisabled, nil, ada)
		}
		w.after(10 * time.Second)
		w.wantQueued("more tokens than one poll brings", 120)
		if w.tx.Waiting() != 0 {
			t.Errorf("%d wait", w.tx.Waiting())
		}
	})
}

func TestKeycloakWritesTheStatusAsAnObject(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.StatusAsObject = true }}, func(w *signals) {
		w.after(time.Minute)
		w.tx.SetStatus("disabled", true)
		w.after(time.Minute)
		w.wantProblem("disabled it")
		if len(w.tx.Refused()) > 0 {
			t.Errorf("refused: %v", w.tx.Refused())
		}
	})
}

func TestKeycloakSendsToAnAudienceOfTheStream(t *testing.T) {
	inSignals(t, plan{tx: func(tx *ssftest.Transmitter) { tx.Audience = "receiver/stream-1" }}, func(w *signals) {
		w.after(time.Minute)
		w.wantProblem("add it there")
		if len(w.tx.Refused()) > 0 {
			t.Error("tokens are refused: they would be lost")
		}
	})
}

func TestKeycloakTakesOnly200And202ForASuccess(t *testing.T) {
	inSignals(t, pushed(t, false), func(w *signals) {
		w.want("a token", w.push(w.tx.Token("a", ssftest.SessionRevoked, map[string]any{"initiating_entity": "user"}, ada)), 202)
		w.want("a heartbeat", w.push(w.tx.Token("b", ssftest.Verification, nil, nil)), 202)
	})
}

func TestOktaWritesTheSubjectInTheEventAndMilliseconds(t *testing.T) {
	inSignals(t, pushed(t, false), func(w *signals) {
		token := w.tx.Sign(map[string]any{
			"iss": w.tx.Issuer, "aud": w.tx.Audience, "jti": "a", "iat": time.Now().Unix(),
			"events": map[string]any{ssftest.SessionRevoked: map[string]any{
				"event_timestamp": time.Now().UnixMilli(),
				"subject":         map[string]any{"user": map[string]any{"format": "iss_sub", "iss": w.tx.Issuer, "sub": "00u1"}},
			}},
		}, map[jose.HeaderKey]any{"kid": "one", "typ": "secevent+jwt"})
		w.want("an ordinary logout, which the worker decides about", w.push(token), 202)
		w.wantQueued("it", 1)
	})
}

func TestAuthentikSignsWithASharedSecretUnlessItHasAKey(t *testing.T) {
	inSignals(t, pushed(t, false), func(w *signals) {
		signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: []byte(strings.Repeat("k", 32))}, nil)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]any{
			"iss": w.tx.Issuer, "aud": w.tx.Audience, "jti": "a", "iat": time.Now().Unix(),
			"events": map[string]any{ssftest.SessionRevoked: map[string]any{}},
		})
		if err != nil {
			t.Fatal(err)
		}
		signed, err := signer.Sign(text)
		if err != nil {
			t.Fatal(err)
		}
		token, err := signed.CompactSerialize()
		if err != nil {
			t.Fatal(err)
		}
		w.wantRefusal("HS256", w.push(token), 400, "invalid_key")
	})
}

func TestGoogleHasASlashAtTheEndAndNoTypeOfToken(t *testing.T) {
	p := pushed(t, false)
	p.tx = func(tx *ssftest.Transmitter) { tx.Issuer = "http://127.0.0.1:81/" }
	inSignals(t, p, func(w *signals) {
		token := w.tx.Sign(map[string]any{
			"iss": w.tx.Issuer, "aud": w.tx.Audience, "jti": "a", "iat": time.Now().Unix(),
			"events": map[string]any{"https://schemas.openid.net/secevent/risc/event-type/sessions-revoked": map[string]any{
				"subject": map[string]any{"subject_type": "iss-sub", "iss": w.tx.Issuer, "sub": "7375626A656374"},
			}},
		}, map[jose.HeaderKey]any{"kid": "one"})
		w.want("a token", w.push(token), 202)
		w.want("a verification event of the older name space", w.push(w.tx.Token("b",
			"https://schemas.openid.net/secevent/risc/event-type/verification", map[string]any{"state": "s"}, nil)), 202)
		w.wantQueued("the first one", 1)
	})
}

func TestPushSecretsAreRotated(t *testing.T) {
	file, old := secretFile(t, theKey), secretFile(t, otherKey)
	if filepath.Dir(file) == filepath.Dir(old) {
		t.Fatal("one directory")
	}
	p := pushed(t, false)
	stream := p.stream
	p.stream = func(c *config.IngestStream) { stream(c); c.PreviousSecretFile = old }
	inSignals(t, p, func(w *signals) {
		w.want("the previous secret", w.push(w.tx.Token("a", ssftest.AccountDisabled, nil, ada), "Authorization", otherKey), 202)
	})
}
