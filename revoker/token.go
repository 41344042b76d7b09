package revoker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/golang-jwt/jwt/v5"
)

// tokens gets tokens from the credential, which caches them, and forces a new one after Graph refused the last.
type tokens struct {
	credential azcore.TokenCredential
	scope      string
	turn       chan struct{} // one caller at a time asks: a slow identity service is not asked by all of them

	mu      sync.Mutex
	refused string // the token that Graph answered with 401
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
	if err == nil && t.wasRefused(answer.Token) {
		forced = true
		// A claims request is the documented way past the credential's cache; this is the form that Entra itself sends
		// in a claims challenge (https://learn.microsoft.com/entra/identity-platform/claims-challenge).
		options.Claims = fmt.Sprintf(`{"access_token":{"nbf":{"essential":true,"value":"%d"}}}`, time.Now().Unix())
		answer, err = t.credential.GetToken(ctx, options)
	}
	if err != nil {
		return "", forced, err
	}
	return answer.Token, forced, nil
}

func (t *tokens) refuse(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.refused = token
}

func (t *tokens) wasRefused(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refused == token
}

// sufficient are the permissions with which the call was seen to work; the first is the least
// (https://learn.microsoft.com/graph/api/user-revokesigninsessions, "Permissions").
var sufficient = []string{"User.RevokeSessions.All", "User.ReadWrite.All", "Directory.ReadWrite.All"}

// lacksPermission says that the token is readable and holds none of the sufficient permissions, neither as an
// application's role nor as a delegated scope. The signature is Graph's business: the claims only explain a 403.
func lacksPermission(token string) bool {
	var claims struct {
		jwt.RegisteredClaims
		Roles []string `json:"roles"`
		Scope string   `json:"scp"`
	}
	if _, _, err := jwt.NewParser().ParseUnverified(token, &claims); err != nil {
		return false
	}
	held := append(strings.Fields(claims.Scope), claims.Roles...)
	return !slices.ContainsFunc(held, func(p string) bool { return slices.Contains(sufficient, p) })
}
