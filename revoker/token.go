package revoker

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/golang-jwt/jwt/v5"
)

// tokens gets tokens from the credential, which caches them, and forces a new one after Graph
// refused the last.
type tokens struct {
	credential azcore.TokenCredential
	scopes     []string
	asking     chan struct{} // one caller at a time asks: a slow identity service must not be asked by all of them
	last       authorization // what get has returned last; the caller that asks owns it

	mu      sync.Mutex
	refused string // the token that Graph answered with 401, or that holds no permission
	demand  string // the claims that Graph demanded then; "" if it demanded none
	// outdated reports whether the last token holds no permission for a look-up. It still serves for
	// everything else, so it is replaced only if a new one can be had at once.
	outdated bool
}

func newTokens(credential azcore.TokenCredential, scope string) *tokens {
	return &tokens{credential: credential, scopes: []string{scope}, asking: make(chan struct{}, 1)}
}

// authorization is a token as the value of the header Authorization (RFC 6750 §2.1).
type authorization string

const bearer = "Bearer "

func (a authorization) token() string { return string(a[len(bearer):]) }

// get returns a token, and whether it was forced after a refused one.
func (t *tokens) get(ctx context.Context) (authorized authorization, forced bool, err error) {
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return "", false, fmt.Errorf("waiting for a token: %w", context.Cause(ctx))
	}
	options := policy.TokenRequestOptions{Scopes: t.scopes}
	answer, err := t.credential.GetToken(ctx, options)
	if demand, refused := t.refusal(answer.Token); err == nil && refused {
		forced = true
		// A claims request is the documented way past the credential's cache. Without a challenge,
		// use the form that Entra itself sends in one
		// (https://learn.microsoft.com/entra/identity-platform/claims-challenge).
		options.Claims = demand
		if demand == "" {
			options.Claims = newToken()
		}
		answer, err = t.credential.GetToken(ctx, options)
	}
	if err != nil {
		return "", forced, err
	}
	if t.last == "" || t.last.token() != answer.Token {
		t.last = authorization(bearer + answer.Token)
	}
	return t.last, forced, nil
}

// newToken is a claims request that any token fulfills that is issued from now on.
func newToken() string {
	return fmt.Sprintf(`{"access_token":{"nbf":{"essential":true,"value":"%d"}}}`, time.Now().Unix())
}

// outdate notes that the last token lacks a permission for a look-up.
func (t *tokens) outdate() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.outdated = true
}

// freshWithin bounds how long freshen waits for a token: credentials let one request for a token
// wait for another, and all attempts would wait.
const freshWithin = 5 * time.Second

// freshen replaces an outdated token in the credential's cache, so that a permission that was
// granted meanwhile takes effect. It is no matter if it fails.
func (t *tokens) freshen(ctx context.Context) {
	t.mu.Lock()
	outdated := t.outdated
	t.outdated = false
	t.mu.Unlock()
	if !outdated {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	_, _ = t.credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: t.scopes, Claims: newToken()})
}

// refuse marks the token as useless. demand is the claims that Graph demands of the next token, or
// "".
func (t *tokens) refuse(token, demand string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused, t.demand = token, demand
}

func (t *tokens) refusal(token string) (demand string, refused bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.demand, t.refused == token
}

// claimsParameter matches the Base64 claims of a challenge
// (https://learn.microsoft.com/entra/identity-platform/claims-challenge, "Claims challenge header
// format").
var claimsParameter = regexp.MustCompile(`(?:^|[\s,])claims="([A-Za-z0-9+/_=-]+)"`)

// maxDemand bounds a challenge in bytes: it goes back into a request.
const maxDemand = 8 << 10

// demanded reads the claims of a 401's WWW-Authenticate headers. It returns "" if there is no
// readable challenge; then any new token will do.
func demanded(challenges []string) string {
	for _, challenge := range challenges {
		match := claimsParameter.FindStringSubmatch(challenge)
		if match == nil || len(match[1]) > maxDemand {
			continue
		}
		encoding := base64.RawStdEncoding
		if strings.ContainsAny(match[1], "-_") {
			encoding = base64.RawURLEncoding
		}
		demand, err := encoding.DecodeString(strings.TrimRight(match[1], "="))
		if err == nil && json.Valid(demand) {
			return string(demand)
		}
	}
	return ""
}

// sufficient are the permissions that allow the call, the least one first
// (https://learn.microsoft.com/graph/api/user-revokesigninsessions, "Permissions").
var sufficient = []string{"User.RevokeSessions.All", "User.ReadWrite.All", "Directory.ReadWrite.All"}

// Claims are a token's statements about itself. Only Graph verifies the signature; here the claims
// only explain failures.
type Claims struct {
	// Audience is the token's recipient: Graph's root, or its application id.
	Audience []string
	// Roles are an application's permissions. Scopes are the permissions that a person has
	// delegated.
	Roles, Scopes []string
	Tenant, AppID string
	Expires       time.Time
}

// MayRevoke reports whether the token holds a permission for the call, and whether that permission
// is broader than needed.
func (c Claims) MayRevoke() (may, broader bool) {
	held := slices.Concat(c.Scopes, c.Roles)
	for i, permission := range sufficient {
		if slices.Contains(held, permission) {
			return true, i > 0
		}
	}
	return false, false
}

// Claims gets a token and reads it. The error is an *Error of kind NoToken, or that of ReadClaims.
func (r *Revoker) Claims(ctx context.Context) (Claims, error) {
	authorized, _, err := r.tokens.get(r.within.Of(ctx))
	if err != nil {
		return Claims{}, &Error{Kind: NoToken, Err: err}
	}
	return ReadClaims(authorized.token())
}

// ReadClaims reads a token without verifying it. It fails if the token is not a JWT.
func ReadClaims(token string) (Claims, error) {
	var c struct {
		jwt.RegisteredClaims
		Roles  []string `json:"roles"`
		Scope  string   `json:"scp"`
		Tenant string   `json:"tid"`
		AppID  string   `json:"appid"`
	}
	if _, _, err := jwt.NewParser().ParseUnverified(token, &c); err != nil {
		return Claims{}, errors.New("the token cannot be read: it is not a JWT")
	}
	claims := Claims{Audience: c.Audience, Roles: c.Roles, Scopes: strings.Fields(c.Scope), Tenant: c.Tenant, AppID: c.AppID}
	if c.ExpiresAt != nil {
		claims.Expires = c.ExpiresAt.Time
	}
	return claims, nil
}

// lacksPermission reports whether the token is readable and holds none of the sufficient
// permissions.
func lacksPermission(token string) bool {
	claims, err := ReadClaims(token)
	may, _ := claims.MayRevoke()
	return err == nil && !may
}
