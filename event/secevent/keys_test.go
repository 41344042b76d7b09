package secevent

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/session-revoker/session-revoker/event"
)

// running returns a Verifier that keeps the keys of a server up to date.
func running(t *testing.T, server *keyServer, transmitters ...Transmitter) *Verifier {
	t.Helper()
	if transmitters == nil {
		transmitters = []Transmitter{idp()}
	}
	v, err := New(Config{Transmitters: transmitters, Transport: server})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		v.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	synctest.Wait()
	return v
}

func refuse(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") }

func TestKeysThatCannotBeFetchedMakeTokensWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &keyServer{answer: refuse}
		v := running(t, server)
		token := signed(t, disabled(nil))
		for range 60 {
			wantRefused(t, decode(t, v, token), event.NotYet, "the keys of the transmitter idp are not known yet")
			time.Sleep(time.Minute)
		}
		if n := server.times(); n > 80 {
			t.Errorf("asked %d times in an hour", n)
		}
		// What can never be right does not wait.
		wantRefused(t, decode(t, v, signed(t, disabled(member("aud", "x")))), event.Invalid, "aud")
		wantRefused(t, decode(t, v, sign(t, disabled(nil), jose.HS256, []byte(strings.Repeat("x", 32)), nil)), event.Invalid, "alg")
		server.publish(publicKey("rsa", rsaKey()))
		time.Sleep(retryMost)
		synctest.Wait()
		wantUser(t, decode(t, v, token), "user.offboarded", "ada@contoso.com")
	})
}

func TestKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &keyServer{keys: []jose.JSONWebKey{publicKey("rsa", rsaKey())}}
		v := running(t, server)
		time.Sleep(30 * time.Second)
		changed := v.Changed()
		next := sign(t, disabled(nil), jose.ES256, p256(), map[jose.HeaderKey]any{"kid": "next"})
		wantRefused(t, decode(t, v, next), event.NotYet, "has not published the key")
		server.publish(publicKey("rsa", rsaKey()), publicKey("next", p256()))
		time.Sleep(30 * time.Second) // a minute after the first fetch
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody hears of the new key")
		}
		wantUser(t, decode(t, v, next), "user.offboarded", "ada@contoso.com")
		wantUser(t, decode(t, v, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")

		server.publish(publicKey("next", p256())) // the old key is removed
		time.Sleep(refreshURL)
		synctest.Wait()
		old := signed(t, disabled(member("iat", time.Now().Add(-time.Hour).Unix())))
		wantRefused(t, decode(t, v, old), event.Invalid, "none of the transmitter idp's keys")
		wantUser(t, decode(t, v, next), "user.offboarded", "ada@contoso.com")
	})
}

// A receiver's refusal loses a token for good. So it is not given by keys from before a rotation.
func TestVerifyRefusesNoTokenByOldKeys(t *testing.T) {
	for what, c := range map[string]struct {
		kid    string
		issued time.Duration // before now
	}{
		"a new key under the same ID":                     {"rsa", 0},
		"a new key, of a transmitter whose clock is late": {"next", time.Hour},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server := &keyServer{keys: []jose.JSONWebKey{publicKey("rsa", rsaKey())}}
				v := running(t, server)
				time.Sleep(5 * time.Minute)
				server.publish(publicKey(c.kid, p256()))
				made := member("iat", time.Now().Add(-c.issued).Unix())
				token := []byte(sign(t, disabled(made), jose.ES256, p256(), map[jose.HeaderKey]any{"kid": c.kid}))
				forged := []byte(sign(t, disabled(made), jose.RS256, rsaKey(), map[jose.HeaderKey]any{"kid": c.kid}))
				server.fail(refuse)
				if _, refused := v.Verify(token); refused == nil || refused.Kind != event.NotYet {
					t.Errorf("at first: %v", refused)
				}
				time.Sleep(10 * time.Minute)
				if _, refused := v.Verify(token); refused == nil || refused.Kind != event.NotYet {
					t.Errorf("while the keys are away: %v", refused)
				}
				server.fail(nil)
				time.Sleep(2 * retryMost)
				synctest.Wait()
				if _, refused := v.Verify(token); refused != nil {
					t.Errorf("with the new keys: %v", refused)
				}
				_, _ = v.Verify(forged) // has the keys read again
				synctest.Wait()
				if _, refused := v.Verify(forged); refused == nil || refused.Kind != event.Invalid {
					t.Errorf("what the new keys have not signed: %v", refused)
				}
			})
		})
	}
}

// Whoever may send to the queue can invent key ids. They cannot make the worker flood the transmitter,
// or keep their own tokens forever.
func TestKeysUnknownOnesAreAskedForAtMostOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &keyServer{keys: []jose.JSONWebKey{publicKey("rsa", rsaKey())}}
		v := running(t, server)
		began := time.Now()
		forged := sign(t, disabled(nil), jose.RS256, rsaKey(), map[jose.HeaderKey]any{"kid": "invented"})
		var decided time.Duration
		for decided == 0 && time.Since(began) < time.Hour {
			if item := decode(t, v, forged); !strings.Contains(item.Err.Error(), "not published") {
				wantRefused(t, item, event.Invalid, "none of the transmitter idp's keys")
				decided = time.Since(began)
			}
			wantUser(t, decode(t, v, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
			time.Sleep(time.Second)
		}
		if most := published + 2*refreshSoonest; decided == 0 || decided > most {
			t.Errorf("decided after %s; at most %s are needed", decided, most)
		}
		if n := server.times(); n > int(decided/refreshSoonest)+2 {
			t.Errorf("asked %d times in %s", n, decided)
		}
	})
}

func TestKeysStayInUseWhileNewOnesCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &keyServer{keys: []jose.JSONWebKey{publicKey("rsa", rsaKey())}}
		v := running(t, server)
		for name, answer := range map[string]func(*http.Request) (*http.Response, error){
			"unreachable": refuse,
			"500":         func(*http.Request) (*http.Response, error) { return answer(500, "{}"), nil },
			"redirect": func(*http.Request) (*http.Response, error) {
				r := answer(302, "")
				r.Header.Set("Location", "http://evil.example.com/keys")
				return r, nil
			},
			"page":      func(*http.Request) (*http.Response, error) { return answer(200, "<html>"), nil },
			"empty":     func(*http.Request) (*http.Response, error) { return answer(200, `{"keys":[]}`), nil },
			"nothing":   func(*http.Request) (*http.Response, error) { return answer(200, ``), nil },
			"too large": func(*http.Request) (*http.Response, error) { return answer(200, strings.Repeat(" ", maxKeySet+1)), nil },
			"unusable": func(*http.Request) (*http.Response, error) {
				return answer(200, `{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}`), nil
			},
			"never comes": func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() },
		} {
			server.fail(answer)
			asked := server.times()
			time.Sleep(2 * refreshURL)
			synctest.Wait()
			if server.times() == asked {
				t.Fatal("nothing was fetched")
			}
			if item := decode(t, v, signed(t, disabled(nil))); item.Err != nil {
				t.Errorf("%s: %v", name, item.Err)
			}
			if s := v.Refresh(t.Context()); s[0].Err == nil || s[0].Keys != 1 {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
}

func TestKeysOfATransmitterWhoDoesNotAnswerDelayNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := &keyServer{keys: []jose.JSONWebKey{publicKey("rsa", rsaKey())}}
		slow := idp()
		slow.Name, slow.Issuer, slow.JWKSURL = "slow", "https://slow.example.com", "https://slow.example.com/keys"
		both := roundTripper(func(r *http.Request) (*http.Response, error) {
			if r.URL.Host == "slow.example.com" {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return server.RoundTrip(r)
		})
		v, err := New(Config{Transmitters: []Transmitter{slow, idp()}, Transport: both})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		go v.Run(ctx)
		synctest.Wait()
		wantUser(t, decode(t, v, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
		stop()
		synctest.Wait()
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestKeysOfAFileAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := write(t, "keys.json", keySetText(publicKey("rsa", rsaKey())))
		transmitter := idp()
		transmitter.JWKSURL, transmitter.JWKSFile = "", file
		v := running(t, nil, transmitter)
		wantUser(t, decode(t, v, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
		if err := os.WriteFile(file, []byte(keySetText(publicKey("ec", p256()))), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(refreshFile)
		synctest.Wait()
		old := signed(t, disabled(member("iat", time.Now().Add(-time.Hour).Unix())))
		wantRefused(t, decode(t, v, old), event.Invalid, "none of the transmitter idp's keys")
		wantUser(t, decode(t, v, sign(t, disabled(nil), jose.ES256, p256(), nil)), "user.offboarded", "ada@contoso.com")
	})
}

// A key in a hand-made file often has no id.
func TestKeysWithoutAnIDVerifyTokensWithOne(t *testing.T) {
	v := fetched(t, Config{}, publicKey("", rsaKey()), publicKey("ec", p256()))
	wantUser(t, decode(t, v, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
}

func TestKeysThatAreTooWeakOrUnfitAreLeftOut(t *testing.T) {
	good := string(must(json.Marshal(publicKey("good", p256()))))
	weak := `{"kty":"RSA","kid":"weak","n":"` + strings.Repeat("A", 3) + `8` + strings.Repeat("_", 166) + `","e":"AQAB"}`
	private := string(must(json.Marshal(jose.JSONWebKey{KeyID: "private", Key: p256()})))
	encryption := string(must(json.Marshal(jose.JSONWebKey{KeyID: "enc", Key: p256().Public(), Use: "enc"})))
	misfit := string(must(json.Marshal(jose.JSONWebKey{KeyID: "misfit", Key: p256().Public(), Algorithm: "RS256"})))
	secret := `{"kty":"oct","kid":"secret","k":"c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0","alg":"HS256"}`
	unknown := `{"kty":"XYZ","kid":"unknown"}`
	zero := strings.Repeat("A", 43)
	offCurve := `{"kty":"EC","kid":"off","crv":"P-256","x":"` + zero + `","y":"` + zero + `"}`
	for _, bad := range []string{weak, private, encryption, misfit, secret, unknown, offCurve, `5`, `{}`} {
		set, err := readKeySet([]byte(`{"keys":[`+bad+`,`+good+`]}`), time.Now())
		if err != nil || len(set.keys) != 1 || set.keys[0].id != "good" {
			t.Errorf("%.60s: %v, %v", bad, set, err)
		}
		if _, err := readKeySet([]byte(`{"keys":[`+bad+`]}`), time.Now()); err == nil {
			t.Errorf("%.60s: accepted", bad)
		}
	}
	if _, err := readKeySet([]byte(`{"keys":[`+strings.Repeat(good+",", maxKeys)+good+`]}`), time.Now()); err == nil {
		t.Error("any number of keys is accepted")
	}
}
