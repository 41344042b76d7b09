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

// tokens gets tokens from the credential, which caches them, and forces a new one after the last was refused.
type tokens struct {
	credential azcore.TokenCredential
	scope      string
	turn       chan struct{} // one caller at a time asks: a slow identity service is not asked by all of them

	mu      sync.Mutex
	refused string // the token that Graph answered with 401, or that holds no permission
	demand  string // the claims that Graph demanded then; "" when it did not say
}

func newTokens(credential azcore.TokenCredential, scope string) *tokens {
	return &tokens{credential: credential, scope: scope, turn: make(chan struct{}, 1)}
}

// get returns a token, and whether it was forced after a refused one.
func (t *tokens) get(ctx context.Context) (token string, forced bool, err error) {
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return "", false, fmt.Errorf("waiting for a token: %w", context.Cause(ctx))
	}
	options := policy.TokenRequestOptions{Scopes: []string{t.scope}}
	answer, err := t.credential.GetToken(ctx, options)
	if demand, refused := t.refusal(answer.Token); err == nil && refused {
		forced = true
		// A claims request is the documented way past the credential's cache; without a challenge this is the form that Entra itself
		// sends in one (https://learn.microsoft.com/entra/identity-platform/claims-challenge).
		options.Claims = demand
		if demand == "" {
			options.Claims = fmt.Sprintf(`{"access_token":{"nbf":{"essential":true,"value":"%d"}}}`, time.Now().Unix())
		}
		answer, err = t.credential.GetToken(ctx, options)
	}
	if err != nil {
		return "", forced, err
	}
	return answer.Token, forced, nil
}

// refuse says that the token is of no use, and which claims Graph demanded of the next one, if it said so.
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

// claimsParameter is where a challenge says what it demands, in Base64
// (https://learn.microsoft.com/entra/identity-platform/claims-challenge, "Claims challenge header format").
var claimsParameter = regexp.MustCompile(`(?:^|[\s,])claims="([A-Za-z0-9+/_=-]+)"`)

// maxDemand bounds a challenge, which goes back into a request.
const maxDemand = 8 << 10

// demanded reads the claims of a 401's WWW-Authenticate. "" is no challenge, or none that can be read: then any new token will do.
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

// sufficient are the permissions with which the call was seen to work; the first is the least
// (https://learn.microsoft.com/graph/api/user-revokesigninsessions, "Permissions").
var sufficient = []string{"User.RevokeSessions.All", "User.ReadWrite.All", "Directory.ReadWrite.All"}

// Claims are what a token says about itself. The signature is Graph's business: they only explain.
type Claims struct {
	// Audience is whom the token is for: Graph's root, or its application id.
	Audience []string
	// Roles are an application's permissions, Scopes those that a person has delegated.
	Roles, Scopes []string
	Tenant, AppID string
	Expires       time.Time
}

// MayRevoke says that the token holds a permission for the call, and whether it is broader than needed.
func (c Claims) MayRevoke() (may, broader bool) {
	held := slices.Concat(c.Scopes, c.Roles)
	for i, permission := range sufficient {
		if slices.Contains(held, permission) {
			return true, i > 0
		}
	}
	return false, false
}

// Claims gets a token and reads it. The error says that there is none, or that it is not readable.
func (r *Revoker) Claims(ctx context.Context) (Claims, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	token, _, err := r.tokens.get(ctx)
	if err != nil {
		return Claims{}, &Error{Kind: NoToken, Err: err}
	}
	return ReadClaims(token)
}

// ReadClaims reads a token. The error says that it is not a JWT.
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

// lacksPermission says that the token is readable and holds none of the sufficient permissions.
func lacksPermission(token string) bool {
	claims, err := ReadClaims(token)
	may, _ := claims.MayRevoke()
	return err == nil && !may
}
