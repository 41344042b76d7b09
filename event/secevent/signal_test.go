package secevent

import (
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

func TestVerifyTellsWhatAReceiverMustKnow(t *testing.T) {
	v := fromIDP(t, nil)
	const ssf = "https://schemas.openid.net/secevent/ssf/event-type/"
	stream := func(name string, own map[string]any) map[string]any {
		return claims(ssf+name, own, map[string]any{"sub_id": opaque("stream-1")})
	}
	for what, c := range map[string]struct {
		claims map[string]any
		event  string
		stream *StreamEvent
	}{
		"an event about a person":    {disabled(nil), "account-disabled", nil},
		"an ordinary logout":         {claims(caep+"session-revoked", map[string]any{}, nil), "session-revoked", nil},
		"an event that nobody knows": {claims("https://example.com/event", map[string]any{}, nil), "event", nil},
		"no event":                   {claims(caep+"session-revoked", nil, map[string]any{"events": "x"}), "", nil},
		"a heartbeat": {
			stream("verification", map[string]any{"state": "s"}), "verification", &StreamEvent{Verification: true, State: "s"},
		},
		"a heartbeat unasked": {stream("verification", nil), "verification", &StreamEvent{Verification: true}},
		"a state that is too long": {
			stream("verification", map[string]any{"state": strings.Repeat("s", 2000)}), "verification", &StreamEvent{Verification: true},
		},
		"a status": {
			stream("stream-updated", map[string]any{"status": "Paused"}), "stream-updated", &StreamEvent{Status: "paused"},
		},
		"a status in an object": {
			stream("stream-updated", map[string]any{"status": map[string]any{"status": "disabled"}}),
			"stream-updated", &StreamEvent{Status: "disabled"},
		},
		"an unknown status": {stream("stream-updated", map[string]any{"status": "gone"}), "stream-updated", &StreamEvent{}},
	} {
		s, refused := v.Verify([]byte(signed(t, c.claims)))
		if refused != nil || s.ID != "token-1" || s.Issuer != issuer || s.Transmitter != "idp" || s.Event != c.event || s.Issued.IsZero() {
			t.Errorf("%s: %+v, %v", what, s, refused)
			continue
		}
		if (s.Stream == nil) != (c.stream == nil) || s.Stream != nil && *s.Stream != *c.stream {
			t.Errorf("%s: %+v, want %+v", what, s.Stream, c.stream)
		}
	}
}

func TestVerifyRefusesClaimsWithoutASignatureInAnyCase(t *testing.T) {
	v := fromIDP(t, func(_ *Config, idp *Transmitter) { idp.Unsigned = true })
	body := []byte(`{"iss":"` + issuer + `","aud":"` + audience + `","jti":"a","iat":1,"events":{}}`)
	if _, refused := v.Verify(body); refused == nil || refused.Kind != event.Invalid {
		t.Errorf("%v", refused)
	}
}

// The clock of this machine may be wrong: then each token is from the future.
func TestVerifyWaitsForTokensThatAreAhead(t *testing.T) {
	v := fromIDP(t, nil)
	for ahead, kind := range map[time.Duration]event.Kind{
		11 * time.Minute: event.NotYet, time.Hour: event.NotYet, 48 * time.Hour: event.Invalid,
	} {
		token := signed(t, disabled(member("iat", time.Now().Add(ahead).Unix())))
		if _, refused := v.Verify([]byte(token)); refused == nil || refused.Kind != kind || refused.Field != "iat" {
			t.Errorf("%s ahead: %v", ahead, refused)
		}
		wantRefused(t, decode(t, v, token), event.Invalid, "ahead") // by the worker, who dead-letters it
	}
}

func TestErrorCodesOfRefusedTokens(t *testing.T) {
	for field, want := range map[string]string{
		"iss": "invalid_issuer", "aud": "invalid_audience", "header.alg": "invalid_key", "header.kid": "invalid_key",
		"signature": "authentication_failed", "body": "invalid_request", "header.typ": "invalid_request", "jti": "invalid_request",
	} {
		if got := ErrorCode(&event.Error{Field: field}); got != want {
			t.Errorf("%s: %s, want %s", field, got, want)
		}
	}
}

func TestRequestedEventsAreKnownByNameOrURI(t *testing.T) {
	for name, want := range map[string]string{
		"account-disabled": risc + "account-disabled", caep + "session-revoked": caep + "session-revoked",
		"https://example.com/own": "https://example.com/own", "nothing": "", "verification": "",
		"https://schemas.openid.net/secevent/ssf/event-type/verification": "",
	} {
		if uri, ok := Requested(name); ok != (want != "") || ok && uri != want {
			t.Errorf("%s: %s, %v", name, uri, ok)
		}
	}
	if got := Acting(); len(got) != 5 {
		t.Errorf("%d events act by default: %v", len(got), got)
	}
}

func FuzzSignal(f *testing.F) {
	v := fromIDP(f, nil)
	f.Add([]byte("eyJhbGciOiJub25lIn0.e30."))
	f.Add([]byte(`{"iss":"a","events":{}}`))
	f.Add([]byte(signed(f, disabled(nil))))
	good := signed(f, disabled(nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, refused := v.Verify(body)
		if (refused == nil) != (s.ID != "") {
			t.Errorf("%+v, %v", s, refused)
		}
		_, _ = v.Verify(append([]byte(good[:len(good)/2]), body...))
	})
}
