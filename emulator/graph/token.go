package graph

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// tokenLife is how long a token is good: Entra's usual hour, less one second.
const tokenLife = 3599 * time.Second

// claims are those of an access token that matter here.
type claims struct {
	Audience  string   `json:"aud"`
	Issuer    string   `json:"iss"`
	AppID     string   `json:"appid"`
	Roles     []string `json:"roles"`
	Tenant    string   `json:"tid"`
	IssuedAt  int64    `json:"iat"`
	NotBefore int64    `json:"nbf"`
	Expires   int64    `json:"exp"`
	// Generation lets RevokeTokens tell old tokens from new.
	Generation int `json:"gen"`
}

var base64URL = base64.RawURLEncoding

const jwtHeader = `{"typ":"JWT","alg":"HS256"}`

func (s *Server) sign(payload string) string {
	mac := hmac.New(sha256.New, s.key)
	mac.Write([]byte(payload))
	return base64URL.EncodeToString(mac.Sum(nil))
}

// serveToken answers the client-credentials grant as Entra does
// (https://learn.microsoft.com/entra/identity-platform/v2-oauth2-client-creds-grant-flow).
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	fault := s.takeFault("", true)
	s.mu.Unlock()
	a := &answer{w: w, r: r, call: &Call{Start: time.Now(), RequestID: newGUID()}, fault: fault, end: func(*Call, int) {}}
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
	generation := s.generation
	s.mu.Unlock()
	audience, isDefault := strings.CutSuffix(r.PostForm.Get("scope"), "/.default")
	switch {
	case r.PostForm.Get("grant_type") != "client_credentials":
		oauthError(w, http.StatusBadRequest, "unsupported_grant_type", "AADSTS70003: The app requested an unsupported grant type.")
		return
	case !known:
		oauthError(w, http.StatusBadRequest, "unauthorized_client", "AADSTS700016: Application with identifier '"+id+"' was not found in the directory.")
		return
	case !hmac.Equal([]byte(secret), []byte(app.Secret)):
		oauthError(w, http.StatusUnauthorized, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
		return
	case !isDefault || audience == "":
		oauthError(w, http.StatusBadRequest, "invalid_scope", "AADSTS1002012: The provided value for scope is not valid: it must end in /.default.")
		return
	}
	now := time.Now()
	payload, _ := json.Marshal(claims{ // strings and numbers
		Audience: audience, Issuer: "https://sts.windows.net/" + s.tenant + "/", AppID: id, Roles: app.Roles, Tenant: s.tenant,
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expires: now.Add(tokenLife).Unix(), Generation: generation,
	})
	unsigned := base64URL.EncodeToString([]byte(jwtHeader)) + "." + base64URL.EncodeToString(payload)
	writeJSON(w, http.StatusOK, map[string]any{
		"token_type": "Bearer", "expires_in": int(tokenLife.Seconds()), "ext_expires_in": int(tokenLife.Seconds()),
		"access_token": unsigned + "." + s.sign(unsigned),
	})
}

func oauthError(w http.ResponseWriter, status int, code, description string) {
	writeJSON(w, status, map[string]any{"error": code, "error_description": description, "trace_id": newGUID(), "timestamp": time.Now().UTC().Format("2006-01-02 15:04:05Z")})
}

// serveOpenID answers the discovery document.
func (s *Server) serveOpenID(w http.ResponseWriter, r *http.Request) {
	root := "http://" + r.Host + "/" + s.tenant
	writeJSON(w, http.StatusOK, map[string]any{
		"issuer": root + "/v2.0", "token_endpoint": root + "/oauth2/v2.0/token", "authorization_endpoint": root + "/oauth2/v2.0/authorize",
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "client_secret_basic"},
	})
}

// authenticate reads the bearer token; problem says what is wrong with it.
func (s *Server) authenticate(r *http.Request) (c claims, problem string) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return claims{}, "Access token is empty."
	}
	unsigned, signature, ok := cutLast(token, ".")
	if !ok || !hmac.Equal([]byte(signature), []byte(s.sign(unsigned))) {
		return claims{}, "Access token validation failure. Invalid signature."
	}
	_, payload, _ := strings.Cut(unsigned, ".")
	text, err := base64URL.DecodeString(payload)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return claims{}, "Access token is not readable."
	}
	s.mu.Lock()
	current := s.generation
	s.mu.Unlock()
	audience, err := url.Parse(c.Audience)
	switch {
	case err != nil || audience.Host != r.Host:
		return c, "Access token validation failure. Invalid audience."
	case time.Now().Unix() >= c.Expires:
		return c, "Lifetime validation failed, the token is expired."
	case c.Generation != current:
		return c, "Continuous access evaluation resulted in challenge with result: InteractionRequired and code: TokenIssuedBeforeRevocationTimestamp"
	}
	return c, ""
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
