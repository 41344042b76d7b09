package secevent

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/tidwall/gjson"

	"github.com/session-revoker/session-revoker/event"
)

// token is a compact JWS whose parts can be read. Nothing of it is verified.
type token struct {
	text      string
	algorithm jose.SignatureAlgorithm
	keyID     string // may be empty
	payload   []byte
	claims    object
	issued    time.Time
}

// isCompact reports whether the text can be one compact JWS: three parts in base64url, of which the
// first is a JSON object.
func isCompact(text []byte) bool {
	return bytes.HasPrefix(text, []byte("ey")) && bytes.Count(text, []byte(".")) == 2 && !bytes.ContainsFunc(text, func(c rune) bool {
		return (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.'
	})
}

// isClaims reports whether the body is a JSON object with the claims of a token.
func isClaims(body []byte) bool {
	if !bytes.Contains(body, []byte(`"events"`)) || !bytes.Contains(body, []byte(`"iss"`)) {
		return false // this is all that most messages cost
	}
	// gjson checks by recursion without a bound: a few megabytes of brackets would end the process.
	if len(body) > event.MaxBodyBytes || !json.Valid(body) {
		return false
	}
	claims := gjson.GetManyBytes(body, "events", "iss", "jti")
	return claims[0].IsObject() && claims[1].Type == gjson.String && claims[2].Type == gjson.String
}

// parse reads the parts of a compact JWS.
func parse(text []byte) (*token, *event.Error) {
	if !isCompact(text) {
		return nil, invalid("body", "not a Security Event Token: it must be one compact JWS, three parts in base64url with dots between")
	}
	first, rest, _ := bytes.Cut(text, []byte("."))
	second, _, _ := bytes.Cut(rest, []byte("."))
	if len(first) > maxHeader {
		return nil, invalid("header", "%d bytes; at most %d are read", len(first), maxHeader)
	}
	header, problem := readPart("header", first)
	if problem != nil {
		return nil, problem
	}
	t := &token{text: string(text), algorithm: jose.SignatureAlgorithm(header.text("alg")), keyID: header.text("kid")}
	if t.claims, problem = readPart("claims", second); problem != nil {
		return nil, problem
	}
	t.payload, _ = base64.RawURLEncoding.DecodeString(string(second)) // readPart has done it
	if problem = checkHeader(header, t.claims); problem != nil {
		return nil, problem
	}
	t.issued, problem = issuedAt(t.claims)
	return t, problem
}

func readPart(field string, part []byte) (object, *event.Error) {
	decoded, err := base64.RawURLEncoding.Strict().DecodeString(string(part))
	if err != nil {
		return nil, invalid(field, "not base64url")
	}
	return readObject(field, decoded)
}

// checkHeader checks what the token says of itself. What it says of keys (jwk, jku, x5c, x5u) is
// ignored: only the configured keys count.
//
// The type must be secevent+jwt. authentik and Google leave it out or write JWT. Then the token must
// not be one of another purpose that the transmitter signs with the same key: those of users and
// clients have exp or sub, which a Security Event Token must not have (SSF 1.0, section 4.1).
func checkHeader(header, claims object) *event.Error {
	for _, name := range []string{"crit", "b64"} {
		if header.has(name) {
			return invalid("header."+name, "not accepted: the worker understands no extensions")
		}
	}
	kind := strings.TrimPrefix(strings.ToLower(header.text("typ")), "application/")
	switch {
	case header.has("typ") && header.text("typ") == "":
		return invalid("header.typ", "must be a string")
	case kind == "secevent+jwt":
		return nil
	case kind != "" && kind != "jwt":
		return invalid("header.typ", "%s is not secevent+jwt", quote(kind))
	case claims.has("exp"), claims.has("sub"):
		return invalid("header.typ", "not secevent+jwt, and the token has exp or sub: it is one of another kind")
	}
	return nil
}
