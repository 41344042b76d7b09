package secevent

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/session-revoker/session-revoker/event"
)

func TestVerifyEveryAlgorithm(t *testing.T) {
	v := fetched(t, Config{},
		publicKey("rsa", rsaKey()), publicKey("p256", p256()), publicKey("p384", p384()), publicKey("ed", edKey()))
	for algorithm, private := range map[jose.SignatureAlgorithm]jose.JSONWebKey{
		jose.RS256: {KeyID: "rsa", Key: rsaKey()}, jose.RS384: {KeyID: "rsa", Key: rsaKey()}, jose.RS512: {KeyID: "rsa", Key: rsaKey()},
		jose.PS256: {KeyID: "rsa", Key: rsaKey()}, jose.PS384: {KeyID: "rsa", Key: rsaKey()}, jose.PS512: {KeyID: "rsa", Key: rsaKey()},
		jose.ES256: {KeyID: "p256", Key: p256()}, jose.ES384: {KeyID: "p384", Key: p384()}, jose.EdDSA: {KeyID: "ed", Key: edKey()},
	} {
		t.Run(string(algorithm), func(t *testing.T) {
			token := sign(t, disabled(nil), algorithm, private.Key, map[jose.HeaderKey]any{"kid": private.KeyID})
			wantUser(t, decode(t, v, token), "user.offboarded", "ada@contoso.com")
			wantUser(t, decode(t, v, sign(t, disabled(nil), algorithm, private.Key, nil)), "user.offboarded", "ada@contoso.com")

			parts := strings.Split(token, ".")
			other := strings.Split(sign(t, disabled(member("sub_id", email("grace@contoso.com"))), algorithm, private.Key,
				map[jose.HeaderKey]any{"kid": private.KeyID}), ".")
			wantRefused(t, decode(t, v, parts[0]+"."+other[1]+"."+parts[2]), event.Invalid, "signature")
			wantRefused(t, decode(t, v, parts[0]+"."+parts[1]+"."), event.Invalid, "signature")
		})
	}
}

func TestVerifyReturnsWhatTheTokenSays(t *testing.T) {
	v := fromIDP(t, nil)
	now := time.Now().Truncate(time.Second)
	token := signed(t, claims(caep+"session-revoked", map[string]any{
		"initiating_entity": "policy", "event_timestamp": now.Add(-time.Minute).Unix(),
		"reason_admin": map[string]any{"de": "Richtlinie", "en": "Policy violation C076E822"},
	}, member("sub_id", map[string]any{"format": "complex", "user": email("Ada@contoso.com"), "device": issSub(issuer, "laptop-7")})))
	item := decode(t, v, token)
	wantUser(t, item, "user.compromised", "Ada@contoso.com")
	e := item.Event
	if e.ID != "token-1" || e.Source != issuer || !e.Time.Equal(now.Add(-time.Minute)) || e.Urgency != 2 || e.Device != "laptop-7" ||
		e.Mapping != "shared-signals/idp" || e.Field != "sub_id.user.email" ||
		e.Reason != "session-revoked by policy: Policy violation C076E822" {
		t.Errorf("%+v", e)
	}
}

// Okta sends event_timestamp in milliseconds, and iat in seconds.
func TestVerifyReadsTimestampsInSecondsAndMilliseconds(t *testing.T) {
	v := fromIDP(t, nil)
	iat := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for timestamp, want := range map[string]time.Time{
		"1772366300":        time.Unix(1772366300, 0),
		"1772366300.5":      time.UnixMilli(1772366300500),
		"1772366300643":     time.UnixMilli(1772366300643),
		"1.772366300e9":     time.Unix(1772366300, 0),
		"null":              iat,
		`"1772366300"`:      iat,
		"-5":                iat,
		"0":                 iat,
		"1e400":             iat,
		"99999999999999999": iat,
		"1803902300":        iat, // a year later
	} {
		own := member("event_timestamp", json.RawMessage(timestamp))
		item := decode(t, v, signed(t, claims(risc+"account-purged", own, member("iat", iat.Unix()))))
		if !item.Event.Time.Equal(want) || item.Err != nil {
			t.Errorf("%s: %v (%v), want %v", timestamp, item.Event.Time, item.Err, want)
		}
	}
}

func TestVerifyRefusesWhatIsNotSignedForUs(t *testing.T) {
	v := fromIDP(t, nil)
	for name, c := range map[string]struct {
		claims map[string]any
		want   string
	}{
		"other audience":       {disabled(member("aud", "https://other.example.com")), "aud"},
		"no audience":          {disabled(member("aud", nil)), "aud"},
		"empty audiences":      {disabled(member("aud", []any{})), "aud"},
		"audience of numbers":  {disabled(member("aud", []any{audience, 5})), "aud"},
		"audience with slash":  {disabled(member("aud", audience+"/")), "aud"},
		"other issuer":         {disabled(member("iss", "https://evil.example.com/")), "no configured transmitter"},
		"issuer without slash": {disabled(member("iss", strings.TrimRight(issuer, "/"))), "not exactly the configured issuer"},
		"issuer in capitals":   {disabled(member("iss", strings.ToUpper(issuer))), "not exactly the configured issuer"},
		"no issuer":            {disabled(member("iss", nil)), "iss"},
		"list of issuers":      {disabled(member("iss", []any{issuer})), "iss"},
		"no jti":               {disabled(member("jti", nil)), "jti"},
		"endless jti":          {disabled(member("jti", strings.Repeat("x", 513))), "jti"},
		"no iat":               {disabled(member("iat", nil)), "iat"},
		"iat as a string":      {disabled(member("iat", "1772366300")), "iat"},
		"iat in the future":    {disabled(member("iat", time.Now().Add(11*time.Minute).Unix())), "iat"},
		"huge iat":             {disabled(member("iat", json.RawMessage("1e300"))), "iat"},
		"negative iat":         {disabled(member("iat", -1)), "iat"},
		"no events":            {disabled(member("events", nil)), "events"},
		"events as a list":     {disabled(member("events", []any{risc + "account-disabled"})), "events"},
		"empty events":         {disabled(member("events", map[string]any{})), "events"},
		"event as a string":    {disabled(member("events", member(risc+"account-disabled", "yes"))), "events"},
		"two events": {disabled(member("events", map[string]any{
			risc + "account-disabled": nil, risc + "account-enabled": nil,
		})), "two different events"},
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, decode(t, v, signed(t, c.claims)), event.Invalid, c.want) })
	}
	several := disabled(member("aud", []any{"https://other.example.com", audience}))
	wantUser(t, decode(t, v, signed(t, several)), "user.offboarded", "ada@contoso.com")
	old := disabled(member("iat", time.Now().Add(-30*24*time.Hour).Unix())) // it has waited in the queue
	wantUser(t, decode(t, v, signed(t, old)), "user.offboarded", "ada@contoso.com")
	if none := must(New(Config{})); true {
		wantRefused(t, decode(t, none, signed(t, disabled(nil))), event.Invalid, "no transmitter is configured")
	}
}

func TestVerifyRefusesUnacceptableAlgorithms(t *testing.T) {
	v := fromIDP(t, nil)
	public := must(x509.MarshalPKIXPublicKey(rsaKey().Public()))
	encode := base64.RawURLEncoding.EncodeToString
	payload := encode(must(json.Marshal(disabled(nil))))
	none := encode([]byte(`{"alg":"none","typ":"secevent+jwt","kid":"rsa"}`)) + "." + payload + "."
	for name, token := range map[string]string{
		"none":                     none,
		"HS256 by the public key":  sign(t, disabled(nil), jose.HS256, public, map[jose.HeaderKey]any{"kid": "rsa"}),
		"HS512 by the modulus":     sign(t, disabled(nil), jose.HS512, rsaKey().N.Bytes(), map[jose.HeaderKey]any{"kid": "rsa"}),
		"none in capitals":         strings.Replace(none, encode([]byte(`{"alg":"none"`))[:12], encode([]byte(`{"alg":"NONE"`))[:12], 1),
		"without an algorithm":     signedText(`{"typ":"secevent+jwt"}`, string(must(json.Marshal(disabled(nil))))),
		"algorithm that is a list": signedText(`{"alg":["RS256"],"typ":"secevent+jwt"}`, string(must(json.Marshal(disabled(nil))))),
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, decode(t, v, token), event.Invalid, "header.alg") })
	}
	only := fromIDP(t, func(_ *Config, t *Transmitter) { t.Algorithms = texts{"ES256"} })
	wantRefused(t, decode(t, only, signed(t, disabled(nil))), event.Invalid, "algorithms of the transmitter idp")
}

// A key counts only for the algorithms of its type, whatever the token and the key set say.
func TestVerifyBindsKeysToTheirAlgorithms(t *testing.T) {
	v := fetched(t, Config{}, publicKey("one", p256()), jose.JSONWebKey{KeyID: "pss", Key: rsaKey().Public(), Algorithm: "PS256"})
	for name, token := range map[string]string{
		"EC key for RS256":    sign(t, disabled(nil), jose.RS256, rsaKey(), map[jose.HeaderKey]any{"kid": "one"}),
		"P-256 key for ES384": sign(t, disabled(nil), jose.ES384, p384(), map[jose.HeaderKey]any{"kid": "one"}),
		"PS256 key for RS256": sign(t, disabled(nil), jose.RS256, rsaKey(), map[jose.HeaderKey]any{"kid": "pss"}),
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, decode(t, v, token), event.Invalid, "signature") })
	}
	token := sign(t, disabled(nil), jose.PS256, rsaKey(), map[jose.HeaderKey]any{"kid": "pss"})
	wantUser(t, decode(t, v, token), "user.offboarded", "ada@contoso.com")
}

// A transmitter cannot sign for another one, even under the same key ID.
func TestVerifyKeepsTransmittersApart(t *testing.T) {
	other := idp()
	other.Name, other.Issuer = "other", "https://other.example.com/"
	other.JWKSFile, other.JWKSURL = write(t, "other.json", keySetText(publicKey("rsa", p256()))), ""
	v := fetched(t, Config{Transmitters: []Transmitter{idp(), other}}, publicKey("rsa", rsaKey()))
	headers := map[jose.HeaderKey]any{"kid": "rsa"}
	theirs := disabled(member("iss", other.Issuer))
	wantUser(t, decode(t, v, sign(t, theirs, jose.ES256, p256(), headers)), "user.offboarded", "ada@contoso.com")
	wantRefused(t, decode(t, v, sign(t, disabled(nil), jose.ES256, p256(), headers)), event.Invalid, "signature")
	wantRefused(t, decode(t, v, sign(t, theirs, jose.RS256, rsaKey(), headers)), event.Invalid, "signature")
}

// The token's own word about its key never counts.
func TestVerifyIgnoresKeysInTheHeader(t *testing.T) {
	server := &keyServer{keys: []jose.JSONWebKey{publicKey("rsa", rsaKey())}}
	v := fetched(t, Config{Transport: server})
	asked := server.times()
	mine := must(rsa.GenerateKey(rand.Reader, 2048))
	for name, value := range map[jose.HeaderKey]any{
		"jwk": jose.JSONWebKey{Key: mine.Public()},
		"jku": "https://evil.example.com/keys",
		"x5u": "https://evil.example.com/chain.pem",
	} {
		headers := map[jose.HeaderKey]any{"kid": "rsa", name: value}
		wantRefused(t, decode(t, v, sign(t, disabled(nil), jose.RS256, mine, headers)), event.Invalid, "signature")
		wantUser(t, decode(t, v, sign(t, disabled(nil), jose.RS256, rsaKey(), headers)), "user.offboarded", "ada@contoso.com")
	}
	if server.times() != asked {
		t.Error("keys were fetched because a token asked for it")
	}
}

func TestVerifyRefusesUnusableHeaders(t *testing.T) {
	v := fromIDP(t, nil)
	text := string(must(json.Marshal(disabled(nil))))
	withExp := string(must(json.Marshal(disabled(member("exp", time.Now().Add(time.Hour).Unix())))))
	withSub := string(must(json.Marshal(disabled(member("sub", "ada")))))
	for _, c := range []struct{ name, header, claims, want string }{
		{"crit", `{"alg":"RS256","typ":"secevent+jwt","crit":["exp"],"exp":1}`, text, "header.crit"},
		{"unencoded payload", `{"alg":"RS256","typ":"secevent+jwt","b64":false}`, text, "header.b64"},
		{"an access token", `{"alg":"RS256","typ":"at+jwt"}`, text, "header.typ"},
		{"a logout token", `{"alg":"RS256","typ":"logout+jwt"}`, text, "header.typ"},
		{"typ as a number", `{"alg":"RS256","typ":5}`, text, "header.typ"},
		{"an ID token", `{"alg":"RS256","typ":"JWT"}`, withExp, "header.typ"},
		{"a token of a user", `{"alg":"RS256"}`, withSub, "header.typ"},
		{"two algorithms", `{"alg":"RS256","alg":"none","typ":"secevent+jwt"}`, text, "given twice"},
		{"two types", `{"alg":"RS256","typ":"at+jwt","Typ":"secevent+jwt"}`, text, "given twice"},
		{"no object", `["RS256"]`, text, "body"},
		{"endless", `{"alg":"RS256","typ":"secevent+jwt","x":"` + strings.Repeat("x", maxHeader) + `"}`, text, "header"},
	} {
		t.Run(c.name, func(t *testing.T) {
			wantRefused(t, decode(t, v, signedText(c.header, c.claims)), event.Invalid, c.want)
		})
	}
	for _, header := range []string{
		`{"alg":"RS256","typ":"application/secevent+jwt"}`, `{"alg":"RS256","typ":"SecEvent+JWT"}`,
		`{"alg":"RS256","typ":"JWT"}`, `{"alg":"RS256"}`, // authentik
	} {
		wantUser(t, decode(t, v, signedText(header, text)), "user.offboarded", "ada@contoso.com")
	}
	// With the right type, an expiry changes nothing: the token has waited in the queue.
	expired := disabled(map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "sub": "ada"})
	wantUser(t, decode(t, v, signed(t, expired)), "user.offboarded", "ada@contoso.com")
}

// Parsers pick different people from claims that occur twice.
func TestVerifyRefusesDuplicateClaims(t *testing.T) {
	v := fromIDP(t, nil)
	const header = `{"alg":"RS256","typ":"secevent+jwt","kid":"rsa"}`
	text := string(must(json.Marshal(disabled(nil))))
	ada, grace := `"sub_id":{"email":"ada@contoso.com","format":"email"}`, `"sub_id":{"email":"grace@contoso.com","format":"email"}`
	if !strings.Contains(text, ada) {
		t.Fatal(text)
	}
	for _, twice := range []string{
		ada + "," + grace,
		ada + "," + strings.Replace(grace, "sub_id", "Sub_Id", 1),
		ada + "," + strings.Replace(grace, "sub_id", `sub\u005fid`, 1),
		`"sub_id":{"email":"ada@contoso.com","email":"grace@contoso.com","format":"email"}`,
	} {
		wantRefused(t, decode(t, v, signedText(header, strings.Replace(text, ada, twice, 1))), event.Invalid, "given twice")
	}
}

func TestVerifyRefusesWhatIsNoToken(t *testing.T) {
	v := fromIDP(t, nil)
	token := signed(t, disabled(nil))
	encode := base64.RawURLEncoding.EncodeToString
	for name, text := range map[string]string{
		"empty":                   "",
		"words":                   "no token",
		"two parts":               token[:strings.LastIndexByte(token, '.')],
		"four parts":              token + ".x",
		"encrypted":               "eyJhbGciOiJSU0EtT0FFUCJ9.a.b.c.d",
		"JSON serialization":      `{"payload":"e30","signatures":[{"protected":"e30","signature":"x"}]}`,
		"line break inside":       token[:30] + "\n" + token[30:],
		"padding":                 strings.Replace(token, ".", "=.", 1),
		"too large":               signed(t, disabled(member("txn", strings.Repeat("x", maxToken)))),
		"deep":                    signed(t, disabled(member("txn", json.RawMessage(strings.Repeat("[", 40)+strings.Repeat("]", 40))))),
		"a token in a token":      signedText(`{"alg":"RS256","typ":"secevent+jwt","cty":"JWT"}`, token),
		"payload with a bad byte": signedText(`{"alg":"RS256","typ":"secevent+jwt"}`, "{\"iss\":\"\xff\"}"),
		"payload is a list":       signedText(`{"alg":"RS256","typ":"secevent+jwt"}`, "[]"),
		"header is no JSON":       encode([]byte(`{"alg"`)) + ".e30.x",
	} {
		t.Run(name, func(t *testing.T) { wantRefused(t, decode(t, v, text), event.Invalid, "") })
	}
	wantUser(t, decode(t, v, " "+token+"\r\n"), "user.offboarded", "ada@contoso.com")
}

func TestVerifyAcceptsClaimsWithoutASignatureOnlyIfConfigured(t *testing.T) {
	text := string(must(json.Marshal(disabled(nil))))
	m := event.Message{ContentType: "application/json", Body: []byte(text)}
	v := fromIDP(t, nil)
	if !v.IsToken(m) {
		t.Fatal("not taken for the claims of a token")
	}
	wantRefused(t, decode(t, v, text), event.Invalid, "without its signature")
	trusting := fromIDP(t, func(_ *Config, t *Transmitter) { t.Unsigned = true })
	wantUser(t, decode(t, trusting, text), "user.offboarded", "ada@contoso.com")
	wantUser(t, decode(t, trusting, signed(t, disabled(nil))), "user.offboarded", "ada@contoso.com")
	wantRefused(t, decode(t, trusting, string(must(json.Marshal(disabled(member("aud", "x")))))), event.Invalid, "aud")
	forged := sign(t, disabled(nil), jose.ES256, p256(), map[jose.HeaderKey]any{"kid": "rsa"})
	wantRefused(t, decode(t, trusting, forged), event.Invalid, "signature")
}

func TestIsTokenLeavesOtherMessagesAlone(t *testing.T) {
	v := must(New(Config{}))
	for _, m := range []event.Message{
		{Body: []byte(`{"type":"device.stolen","userPrincipalName":"ada@contoso.com"}`)},
		{Body: []byte(`[{"events":{},"iss":"x","jti":"y"}]`)},
		{Body: []byte(`{"events":[],"iss":"x","jti":"y"}`)},
		{Body: []byte(`{"eventType":"com.okta.event_hook","data":{"events":[{"iss":"x"}]}}`)},
		{Body: []byte("eyes.only.thanks for reading")},
		{ContentType: "application/json"},
		{ContentType: "application/secevent+jwt", BodyKind: "value"},
	} {
		if v.IsToken(m) {
			t.Errorf("taken for a token: %+v", m)
		}
	}
	for _, contentType := range []string{"application/secevent+jwt", "Application/SecEvent+JWT; charset=utf-8"} {
		if !v.IsToken(event.Message{ContentType: contentType}) {
			t.Errorf("%s: not taken for a token", contentType)
		}
	}
}

func TestIsTokenSurvivesDeepNesting(t *testing.T) {
	v := fromIDP(t, nil)
	for _, n := range []int{100_000, 8 << 20} { // the latter needs a queue of the Premium tier
		body := append([]byte(`{"iss":"a","jti":"b","events":`), bytes.Repeat([]byte("["), n)...)
		if v.IsToken(event.Message{Body: body}) {
			t.Errorf("%d brackets are taken for a token", n)
		}
		if _, err := v.Decode(event.Message{ContentType: "application/secevent+jwt", Body: body}); err == nil {
			t.Errorf("%d brackets are a token", n)
		}
	}
}

func TestVerifyErrorsQuoteLittle(t *testing.T) {
	v := fromIDP(t, nil)
	long := strings.Repeat("secret-", 1000)
	for _, changes := range []map[string]any{
		{"iss": long},
		{"aud": long},
		{"sub_id": email(long + "@contoso.com")},
		{"sub_id": opaque(long)},
		{"sub_id": map[string]any{"format": long}},
		{"sub_id": issSub(long, "x")},
		{"events": map[string]any{long: nil}},
		{"events": map[string]any{caep + "session-revoked": map[string]any{"initiating_entity": long}}},
	} {
		item := decode(t, v, signed(t, disabled(changes)))
		if item.Err == nil || len(item.Err.Error()) > 600 {
			t.Errorf("%d bytes: %v", len(fmt.Sprint(item.Err)), item.Err)
		}
	}
}

// FuzzVerify changes tokens. Whatever the worker acts on must be what the transmitter has signed. (A
// signature alone can have several forms.)
func FuzzVerify(f *testing.F) {
	// Each process of the fuzzer must have the same keys and tokens.
	ed := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, ed25519.SeedSize))
	ec := must(ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{1}, 32)))
	v := fetched(f, Config{}, publicKey("ec", ec), publicKey("ed", ed))
	known := map[string]bool{}
	for _, c := range []map[string]any{
		disabled(nil),
		claims(caep+"session-revoked", map[string]any{"initiating_entity": "user"}, nil),
		disabled(member("sub_id", map[string]any{"format": "aliases", "identifiers": []any{email("ada@contoso.com"), opaque("1")}})),
		disabled(member("sub_id", map[string]any{"format": "complex", "user": email("ada@contoso.com"), "session": opaque("ALL")})),
	} {
		c["iat"] = 1772366300
		for _, token := range []string{
			sign(f, c, jose.ES256, ec, map[jose.HeaderKey]any{"kid": "ec"}),
			sign(f, c, jose.EdDSA, ed, nil),
		} {
			known[token[:strings.LastIndexByte(token, '.')]] = true
			f.Add([]byte(token))
		}
		f.Add(must(json.Marshal(c)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		items, err := v.Decode(event.Message{Body: body})
		if err != nil || items[0].Err != nil {
			if refused, ok := err.(*event.Error); ok && strings.Contains(refused.Problem, "defect") { //nolint:errorlint // Decode's own
				t.Error(err)
			}
			return
		}
		text := strings.TrimSpace(string(body))
		if !known[text[:strings.LastIndexByte(text, '.')]] || items[0].Event.User.IsZero() {
			t.Errorf("accepted: %s as %+v", body, items[0].Event)
		}
	})
}

// BenchmarkDecode verifies tokens whose keys are known.
func BenchmarkDecode(b *testing.B) {
	v := fetched(b, Config{}, publicKey("rsa", rsaKey()), publicKey("p256", p256()), publicKey("ed", edKey()))
	for algorithm, private := range map[jose.SignatureAlgorithm]jose.JSONWebKey{
		jose.RS256: {KeyID: "rsa", Key: rsaKey()}, jose.ES256: {KeyID: "p256", Key: p256()}, jose.EdDSA: {KeyID: "ed", Key: edKey()},
	} {
		b.Run(string(algorithm), func(b *testing.B) {
			m := event.Message{Body: []byte(sign(b, disabled(nil), algorithm, private.Key, map[jose.HeaderKey]any{"kid": private.KeyID}))}
			for b.Loop() {
				if items, err := v.Decode(m); err != nil || items[0].Err != nil {
					b.Fatal(err, items)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}

// BenchmarkIsToken is what every other message costs.
func BenchmarkIsToken(b *testing.B) {
	v := must(New(Config{}))
	m := event.Message{ContentType: "application/json", Body: []byte(
		`{"id":"1","type":"device.stolen","userId":"` + objectID + `","userPrincipalName":"ada@contoso.com",` +
			`"time":"2026-03-01T12:00:00Z"}`)}
	for b.Loop() {
		if v.IsToken(m) {
			b.Fatal("a plain event is taken for a token")
		}
	}
}
