package graph

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// tokenLife is the default lifetime of a token: Entra's usual hour, less one second.
const tokenLife = 3599 * time.Second

// claims are the claims of an access token that matter here.
type claims struct {
	Audience string   `json:"aud"`
	Issuer   string   `json:"iss"`
	AppID    string   `json:"appid"`
	Roles    []string `json:"roles,omitempty"`
	// Scopes are the permissions that a person has delegated, separated by spaces. Person is their
	// object id; "" if the application has signed in itself.
	Scopes    string `json:"scp,omitempty"`
	Person    string `json:"oid,omitempty"`
	UPN       string `json:"upn,omitempty"`
	Tenant    string `json:"tid"`
	IssuedAt  int64  `json:"iat"`
	NotBefore int64  `json:"nbf"`
	Expires   int64  `json:"exp"`
	// Generation lets RevokeTokens tell old tokens from new ones.
	Generation int `json:"gen"`
}

var base64URL = base64.RawURLEncoding

// evaluated begins Graph's text about a revoked token.
const evaluated = "Continuous access evaluation resulted in"

// keysPath is where the document with the public keys is, below the authority's URL.
const keysPath = "/discovery/v2.0/keys"

const jwtHeader = `{"typ":"JWT","alg":"HS256"}`

func (s *Server) sign(payload string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(payload))
	return base64URL.EncodeToString(mac.Sum(nil))
}

// serveToken answers the client-credentials grant like Entra
// (https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow), and that
// of a device code.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault := s.takeFault("", "", "", true)
	s.mu.Unlock()
	a := &answer{w: w, r: r, server: s, call: &Call{Start: time.Now(), RequestID: newGUID()}, fault: fault, end: func(*Call, int) {}}
	if !a.before() {
		return
	}
	if r.Method != http.MethodPost || r.ParseForm() != nil {
		oauthError(w, http.StatusBadRequest, "invalid_request", "AADSTS900144: The request must be a POST of a form.")
		return
	}
	id, secret := r.PostForm.Get("client_id"), r.PostForm.Get("client_secret")
	if user, password, ok := r.BasicAuth(); ok {
		// RFC 6749 §2.3.1: both are form-encoded before they are joined.
		id, _ = url.QueryUnescape(user)
		secret, _ = url.QueryUnescape(password)
	}
	s.mu.Lock()
	app, known := s.apps[id]
	s.mu.Unlock()
	audience, isDefault := audienceOf(r)
	switch {
	case slices.Contains(deviceCodeGrants, r.PostForm.Get("grant_type")):
		s.redeem(w, r, app)
		return
	case r.PostForm.Get("grant_type") != "client_credentials":
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")
		return
	case !known:
		unknownApp(w, id)
		return
	case r.PostForm.Get("client_assertion_type") == assertionType:
		if problem := app.proves(r.PostForm.Get("client_assertion"), s.tokenURL(r)); problem != "" {
			oauthError(w, http.StatusUnauthorized, "invalid_client", problem)
			return
		}
	case app.Secret == "" || !hmac.Equal([]byte(secret), []byte(app.Secret)):
		oauthError(w, http.StatusUnauthorized, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
		return
	}
	if !isDefault {
		invalidScope(w)
		return
	}
	life := int(s.tokenLife.Seconds())
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": life, "ext_expires_in": life,
		"access_token": s.issue(claims{AppID: app.ClientID, Roles: app.Roles, Audience: audience}, r.PostForm.Get("claims")),
	})
}

// audienceOf returns for whom a token is to be. ok is false unless the scope ends in /.default. MSAL
// also asks for openid, offline_access and profile.
func audienceOf(r *http.Request) (audience string, ok bool) {
	scope, _, _ := strings.Cut(r.PostForm.Get("scope"), " ")
	audience, ok = strings.CutSuffix(scope, "/.default")
	return audience, ok && audience != ""
}

func invalidScope(w http.ResponseWriter) {
	oauthError(w, http.StatusBadRequest, "invalid_scope",
		"AADSTS1002012: The provided value for scope is not valid: it must end in /.default.")
}

func unknownApp(w http.ResponseWriter, id string) {
	oauthError(w, http.StatusBadRequest, "unauthorized_client",
		"AADSTS700016: Application with identifier '"+id+"' was not found in the directory.")
}

// issue makes a token with the claims of c, and records it. asked are the claims that the request
// demanded.
func (s *Server) issue(c claims, asked string) (token string) {
	now := time.Now()
	s.mu.Lock()
	c.Generation = s.generation
	if len(s.issued) == s.maxCalls {
		s.issued = s.issued[1:]
	}
	s.issued = append(s.issued, Issued{At: now, ClientID: c.AppID, Claims: asked})
	s.mu.Unlock()
	c.Issuer, c.Tenant = "https://sts.windows.net/"+s.tenant+"/", s.tenant
	c.IssuedAt, c.NotBefore, c.Expires = now.Unix(), now.Unix(), now.Add(s.tokenLife).Unix()
	payload, _ := json.Marshal(c) // only strings and numbers
	unsigned := base64URL.EncodeToString([]byte(jwtHeader)) + "." + base64URL.EncodeToString(payload)
	return unsigned + "." + s.sign(unsigned)
}

// Issued is a token that the server has issued.
type Issued struct {
	At       time.Time
	ClientID string
	// Claims are the claims that the request demanded, in answer to a claims challenge; usually
	// empty.
	Claims string
}

// Tokens returns the tokens issued so far, the oldest first, and at most Config.MaxCalls.
func (s *Server) Tokens() []Issued {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.issued)
}

// serveIdentity answers like App Service for a managed identity, which only the machine itself can
// ask (https://learn.microsoft.com/azure/app-service/overview-managed-identity, "REST endpoint
// reference").
func (s *Server) serveIdentity(w http.ResponseWriter, r *http.Request) {
	given := r.Header.Get("X-IDENTITY-HEADER")
	s.mu.Lock()
	var app App
	for _, candidate := range s.apps {
		if candidate.IdentityHeader != "" && hmac.Equal([]byte(given), []byte(candidate.IdentityHeader)) {
			app = candidate
		}
	}
	s.mu.Unlock()
	query := r.URL.Query()
	id := query.Get("client_id")
	if app.ClientID == "" || id != "" && id != app.ClientID {
		writeJSON(w, http.StatusUnauthorized, map[string]any{"statusCode": 401, "message": "No managed identity found for this machine."})
		return
	}
	resource := strings.TrimSuffix(query.Get("resource"), "/.default")
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "resource": resource, "client_id": app.ClientID,
		"expires_on":   strconv.FormatInt(time.Now().Add(s.tokenLife).Unix(), 10),
		"access_token": s.issue(claims{AppID: app.ClientID, Roles: app.Roles, Audience: resource}, ""),
	})
}

// rootURL is the URL of the tenant's authority as the caller sees it.
func (s *Server) rootURL(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + r.Host + "/" + s.tenant
}

func (s *Server) tokenURL(r *http.Request) string { return s.rootURL(r) + "/oauth2/v2.0/token" }

func oauthError(w http.ResponseWriter, status int, code, description string) {
	writeJSON(w, status, map[string]any{
		"error": code, "error_description": description,
		"trace_id": newGUID(), "timestamp": time.Now().UTC().Format("2006-01-02 15:04:05Z"),
	})
}

// serveOpenID answers with the discovery document. @azure/identity signs in only if it has the four
// URLs (https://openid.net/specs/openid-connect-discovery-1_0.html#ProviderMetadata requires them).
func (s *Server) serveOpenID(w http.ResponseWriter, r *http.Request) {
	root := s.rootURL(r)
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": root + "/v2.0", "token_endpoint": s.tokenURL(r), "authorization_endpoint": root + "/oauth2/v2.0/authorize",
		"jwks_uri":                              root + keysPath,
		"device_authorization_endpoint":         root + deviceCodePath,
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic", "private_key_jwt"},
	})
}

// authenticate reads the bearer token. problem says what is wrong with it.
func (s *Server) authenticate(r *http.Request) (c claims, problem string) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return claims{}, "Access token is empty."
	}
	if c, ok = s.readToken(token); !ok {
		return claims{}, "Access token validation failure. Invalid signature."
	}
	audience, err := url.Parse(c.Audience)
	switch {
	case err != nil || audience.Host != r.Host:
		return c, "Access token validation failure. Invalid audience."
	case time.Now().Unix() >= c.Expires:
		return c, "Lifetime validation failed, the token is expired."
	case s.revoked(c):
		return c, evaluated + " challenge with result: InteractionRequired and code: TokenIssuedBeforeRevocationTimestamp"
	}
	return c, ""
}

// readToken returns the claims of a token. ok is false unless this server has signed it.
func (s *Server) readToken(token string) (c claims, ok bool) {
	s.mu.Lock()
	c, ok = s.valid[token]
	s.mu.Unlock()
	if ok {
		return c, true
	}
	if c, ok = s.checkToken(token); ok {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.valid) >= maxValid {
			clear(s.valid)
		}
		s.valid[token] = c
	}
	return c, ok
}

// maxValid bounds the tokens whose claims are remembered.
const maxValid = 100

// checkToken reads a token that was not seen before.
func (s *Server) checkToken(token string) (c claims, ok bool) {
	unsigned, signature, ok := cutLast(token, ".")
	if !ok || !hmac.Equal([]byte(signature), []byte(s.sign(unsigned))) {
		return claims{}, false
	}
	_, payload, _ := strings.Cut(unsigned, ".")
	text, err := base64URL.DecodeString(payload)
	return c, err == nil && json.Unmarshal(text, &c) == nil
}

// revoked reports whether RevokeTokens has revoked the token.
func (s *Server) revoked(c claims) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.Generation != s.generation
}

// Verify checks a token for another server than Graph, as that server does with the keys of Entra.
// The audience is that server's, such as https://servicebus.azure.net. Verify returns the client ID
// of the app that signed in, and when the token expires. The error says why the token is no good;
// an expired one is returned without an error.
func (s *Server) Verify(token, audience string) (clientID string, expires time.Time, err error) {
	c, ok := s.readToken(token)
	switch {
	case !ok:
		return "", time.Time{}, errors.New("the token's signature is not valid: this directory did not issue it; sign in again here")
	case strings.TrimRight(c.Audience, "/") != strings.TrimRight(audience, "/"):
		return "", time.Time{}, fmt.Errorf("the token's audience is %q and must be %q: request the scope %s/.default",
			c.Audience, audience, audience)
	case c.Person != "":
		return "", time.Time{}, errors.New("the token is a person's: sign in as an application")
	case s.revoked(c):
		return "", time.Time{}, errors.New("the token has been revoked: sign in again")
	}
	return c.AppID, time.Unix(c.Expires, 0), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
