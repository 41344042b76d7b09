package ingest

import (
	"context"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// tokens knows callers by tokens that Entra issues for an application of ours
// (https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference).
type tokens struct {
	tenant    string
	audiences []string
	issuers   []string
	callers   []string // empty means any
	role      string   // empty means none
	keys      *keys
	leeway    time.Duration
}

// newEntra knows any application of a tenant that has a token for ours.
func newEntra(b *builder) (verifier, error) {
	if b.Caller == "" && b.AppRole == "" {
		return verifier{}, errors.New("set caller, app_role, or both: every app of the tenant can get a token for this audience")
	}
	t, err := newTokens(b)
	return verifier{headersProven: true, before: t.authenticate}, err
}

func newTokens(b *builder) (*tokens, error) {
	if id, err := uuid.Parse(b.Tenant); err != nil || id.String() != strings.ToLower(b.Tenant) {
		return nil, errors.New("tenant: the tenant's ID, a GUID")
	}
	tenant := strings.ToLower(b.Tenant)
	t := &tokens{
		tenant: tenant, audiences: strings.Fields(b.Audience), callers: strings.Fields(strings.ToLower(b.Caller)), role: b.AppRole,
		leeway: b.Tolerance,
		// Version 1 and version 2 of tokens. Which one a caller gets is up to the app's registration.
		issuers: []string{"https://sts.windows.net/" + tenant + "/", b.authority + tenant + "/v2.0"},
	}
	if strings.HasSuffix(b.authority, ".cn/") {
		t.issuers = append(t.issuers, "https://sts.chinacloudapi.cn/"+tenant+"/")
	}
	configuration := b.authority + tenant + "/v2.0/.well-known/openid-configuration"
	if b.Issuer != "" {
		t.issuers = []string{b.Issuer}
		configuration = strings.TrimSuffix(b.Issuer, "/") + "/.well-known/openid-configuration"
	}
	if len(t.audiences) == 0 {
		return nil, errors.New("audience: the ID or URI of the app that callers get their tokens for")
	}
	if !strings.HasPrefix(configuration, "https://") && !strings.HasPrefix(configuration, "http://127.0.0.1:") {
		return nil, errors.New("issuer: must begin with https://")
	}
	t.keys = newKeys(configuration, b.transport)
	return t, nil
}

// maxToken bounds a token, in bytes.
const maxToken = 12 << 10

// claims are the claims of a token that count.
type claims struct {
	Issuer    string   `json:"iss"`
	Audience  audience `json:"aud"`
	Tenant    string   `json:"tid"`
	AppID     string   `json:"appid"` // version 1
	Party     string   `json:"azp"`   // version 2
	Roles     []string `json:"roles"`
	Expires   float64  `json:"exp"`
	NotBefore float64  `json:"nbf"`
}

// audience is a text or a list of texts (RFC 7519 §4.1.3).
type audience []string

// UnmarshalJSON implements json.Unmarshaler.
func (a *audience) UnmarshalJSON(text []byte) error {
	var one string
	if json.Unmarshal(text, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(text, (*[]string)(a))
}

// authenticate returns nil if the request has a valid token.
func (t *tokens) authenticate(ctx context.Context, in *incoming) *answer {
	text := bearer(in.Request)
	if text == "" || len(text) > maxToken {
		return noToken("the bearer token is missing: let the sender get one from Entra for this audience")
	}
	signed, err := jose.ParseSignedCompact(text, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || len(signed.Signatures) != 1 || signed.Signatures[0].Protected.KeyID == "" {
		return badToken("the bearer token is not one of Entra: a JWT that is signed with RS256")
	}
	// What is plainly wrong needs no key.
	var c claims
	if json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &c) != nil {
		return badToken("the bearer token holds no claims")
	}
	if problem := t.check(c, in.now); problem != "" {
		return badToken(problem)
	}
	key, known, err := t.keys.find(ctx, signed.Signatures[0].Protected.KeyID)
	if err != nil {
		return in.source.busy(busy, "the token cannot be checked now: try again")
	}
	public, isRSA := key.(*rsa.PublicKey)
	if !known || !isRSA || public.Size() < 256 {
		return badToken("the bearer token is signed with a key that the tenant does not have")
	}
	if _, err := signed.Verify(public); err != nil {
		return badToken("the signature of the bearer token is wrong")
	}
	return nil
}

func badToken(text string) *answer {
	return refuse(http.StatusUnauthorized, unauthenticated, text,
		"WWW-Authenticate", bearerChallenge+`, error="invalid_token"`)
}

// check returns the problem with the claims, or "". It does not say what would be right.
func (t *tokens) check(c claims, now time.Time) string {
	at := float64(now.Unix())
	leeway := t.leeway.Seconds()
	caller := strings.ToLower(c.AppID)
	if caller == "" {
		caller = strings.ToLower(c.Party)
	}
	switch {
	case !slices.Contains(t.issuers, c.Issuer), !strings.EqualFold(c.Tenant, t.tenant):
		return "the bearer token is of another issuer: check the source's tenant"
	case !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(t.audiences, a) }):
		return "the bearer token is for another audience: check the source's audience, and the sender's"
	case c.Expires == 0 || at > c.Expires+leeway:
		return "the bearer token has expired"
	case c.NotBefore > at+leeway:
		return "the bearer token is not valid yet"
	case len(t.callers) > 0 && !slices.Contains(t.callers, caller):
		return "the bearer token is of another caller: check the source's caller"
	case t.role != "" && !slices.Contains(c.Roles, t.role):
		return "the bearer token lacks the app role of the source: assign it to the sender"
	}
	return ""
}
