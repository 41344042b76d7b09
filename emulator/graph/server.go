// Package graph is an embedded Microsoft Graph for tests and for the sandbox: users, the call that
// revokes their sign-in sessions, tokens, the write quota, and injected faults. It records every
// call, so that a test can ask who was revoked when. It only uses the standard library.
package graph

import (
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// DefaultMaxCalls is the default number of remembered calls; the oldest are forgotten first.
const DefaultMaxCalls = 200_000

// Config is a server's directory and settings.
type Config struct {
	// Tenant is the directory's name in token URLs. Defaults to "tenant".
	Tenant string
	// Apps may get tokens. Defaults to one app, "client" with secret "secret" and the role
	// User.RevokeSessions.All.
	Apps []App
	// Users is the directory.
	Users []User
	// Devices are the devices of Intune and Entra.
	Devices []Device
	// Quota bounds the writes of each app; the zero Quota bounds nothing.
	Quota Quota
	// ClockOffset is added to the clock in Date headers and in the times of effects.
	ClockOffset time.Duration
	// TokenLife is the lifetime of tokens. Defaults to an hour less one second, like Entra's.
	TokenLife time.Duration
	// MaxCalls bounds the remembered calls and tokens. Defaults to DefaultMaxCalls.
	MaxCalls int
}

// App is an application that may sign in with any of the credentials given here. Roles are its
// application permissions.
type App struct {
	ClientID, Secret string
	Roles            []string
	// Public lets people sign in to the app with a device code. Scopes are the permissions that
	// they delegate to it.
	Public bool
	Scopes []string
	// Certificate is the public key of a certificate with which the app signs assertions.
	Certificate *rsa.PublicKey
	// Federated are the issuers whose assertions the app may use.
	Federated []Federation
	// IdentityHeader is the secret with which a machine that has the app as its managed identity
	// asks /_identity.
	IdentityHeader string
}

// User is a person or guest. UserType is Member or Guest.
type User struct {
	ID                string `json:"id"`
	UserPrincipalName string `json:"userPrincipalName"`
	UserType          string `json:"userType"`
	AccountEnabled    bool   `json:"accountEnabled"`
	// Mail is the primary mail address. ProxyAddresses are all addresses: "SMTP:" begins the primary
	// one, and "smtp:" an alias.
	Mail           string   `json:"mail,omitempty"`
	ProxyAddresses []string `json:"proxyAddresses,omitempty"`
	// Roles are the person's Entra roles, such as Helpdesk Administrator.
	Roles []string `json:"roles,omitempty"`
}

// entry is a user in the directory.
type entry struct {
	User
	validFrom time.Time // signInSessionsValidFromDateTime
	revoked   bool      // moved by a call
}

// Server is an http.Handler; the caller owns the http.Server around it. It has no goroutines and is
// safe for concurrent use.
type Server struct {
	tenant    string
	offset    time.Duration
	tokenLife time.Duration
	key       []byte // signs tokens

	mu         sync.Mutex // guards the following, and is never held while waiting
	apps       map[string]App
	byID       map[string]*entry
	byUPN      map[string]*entry
	devices    []*Device
	quota      Quota
	meters     map[string]*meter
	faults     map[string][]*injected // by their user in lower case, "" is everybody; in order
	injected   int                    // number of faults so far
	calls      []*Call
	issued     []Issued
	valid      map[string]claims // of tokens that were used; at most maxValid
	signIns    []*signIn         // with device codes, the oldest first; at most maxSignIns
	maxCalls   int
	generation int // tokens of earlier generations are refused
}

// New returns a Server. It fails if a user has no id or name, if a user or device is given twice, and
// if the quota is incomplete.
func New(cfg Config) (*Server, error) {
	if cfg.Tenant == "" {
		cfg.Tenant = "tenant"
	}
	if cfg.Apps == nil {
		cfg.Apps = []App{{ClientID: "client", Secret: "secret", Roles: []string{"User.RevokeSessions.All"}}}
	}
	if cfg.TokenLife == 0 {
		cfg.TokenLife = tokenLife
	}
	if cfg.MaxCalls == 0 {
		cfg.MaxCalls = DefaultMaxCalls
	}
	s := &Server{
		tenant: cfg.Tenant, offset: cfg.ClockOffset, tokenLife: cfg.TokenLife, key: make([]byte, 32), maxCalls: cfg.MaxCalls,
		apps: map[string]App{}, byID: map[string]*entry{}, byUPN: map[string]*entry{}, meters: map[string]*meter{},
		faults: map[string][]*injected{}, valid: map[string]claims{},
	}
	_, _ = rand.Read(s.key) // never fails (crypto/rand)
	for _, app := range cfg.Apps {
		s.apps[app.ClientID] = app
	}
	for _, u := range cfg.Users {
		if err := s.AddUser(u); err != nil {
			return nil, err
		}
	}
	for _, d := range cfg.Devices {
		if err := s.AddDevice(d); err != nil {
			return nil, err
		}
	}
	return s, s.SetQuota(cfg.Quota)
}

// AddUser adds a user. It fails if the id or the name is missing or taken.
func (s *Server) AddUser(u User) error {
	if u.ID == "" || u.UserPrincipalName == "" {
		return errors.New("a user needs an id and a user principal name")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id, upn := strings.ToLower(u.ID), strings.ToLower(u.UserPrincipalName)
	if s.byID[id] != nil || s.byUPN[upn] != nil {
		return fmt.Errorf("user %s (%s) is already there", u.ID, u.UserPrincipalName)
	}
	e := &entry{User: u, validFrom: s.now().Add(-24 * time.Hour)}
	s.byID[id], s.byUPN[upn] = e, e
	return nil
}

// RemoveUser removes a user by id or user principal name. From then on Graph answers 404.
func (s *Server) RemoveUser(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.find(name); e != nil {
		delete(s.byID, strings.ToLower(e.ID))
		delete(s.byUPN, strings.ToLower(e.UserPrincipalName))
	}
}

// SetRoles changes an app's permissions for tokens that are issued from now on. Like in Entra, a
// token keeps the roles that it was issued with.
func (s *Server) SetRoles(clientID string, roles []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	app := s.apps[clientID]
	app.Roles = roles
	s.apps[clientID] = app
}

// RevokeTokens makes the server answer 401 for every token issued so far.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.generation++
}

// Revoked returns when a call last moved the user's signInSessionsValidFromDateTime. It finds the
// user by id or user principal name. ok is false if no call did.
func (s *Server) Revoked(name string) (at time.Time, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.find(name)
	if e == nil || !e.revoked {
		return time.Time{}, false
	}
	return e.validFrom, true
}

func (s *Server) find(name string) *entry {
	name = strings.ToLower(name)
	if e := s.byID[name]; e != nil {
		return e
	}
	return s.byUPN[name]
}

func (s *Server) now() time.Time { return time.Now().Add(s.offset) }

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 1<<20)
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	path := r.URL.EscapedPath()
	switch version, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/"); {
	case version == "v1.0" || version == "beta":
		s.serveGraph(w, r, version, rest)
	case version == "_emulator":
		s.serveAdmin(w, r, rest)
	case path == "/"+s.tenant+"/oauth2/v2.0/token":
		s.serveToken(w, r)
	case path == "/"+s.tenant+deviceCodePath:
		s.serveDeviceCode(w, r)
	case path == "/_identity":
		s.serveIdentity(w, r)
	case path == "/"+s.tenant+"/v2.0/.well-known/openid-configuration":
		s.serveOpenID(w, r)
	case path == "/"+s.tenant+keysPath:
		writeJSON(w, http.StatusOK, map[string]any{"keys": []string{}}) // the key is secret: only Verify checks tokens
	default:
		http.NotFound(w, r)
	}
}

// target is the user and the action in a path.
type target struct {
	me     bool   // the signed-in person, whose id is the key
	key    string // id or user principal name in the request
	action string // "" reads the user
	quoted bool   // the form users('key')
}

// parsePath reads users/{key}[/action], users('{key}')[/action], and me[/action]. Other paths of
// Graph do not exist here.
func parsePath(rest string) (t target, ok bool) {
	name, action, _ := strings.Cut(rest, "/")
	switch name {
	case "users":
		name, t.action, _ = strings.Cut(action, "/")
	case "me":
		t.me, t.action = true, action
	default:
		if name, t.quoted = unquote(name); !t.quoted {
			return target{}, false
		}
		t.action = action
	}
	key, err := url.PathUnescape(name)
	if err != nil || key == "" {
		return target{}, false
	}
	if t.quoted {
		key = strings.ReplaceAll(key, "''", "'")
	}
	t.key = key
	t.action = strings.TrimPrefix(t.action, "microsoft.graph.")
	return t, true
}

// unquote returns x of users('x'). Its quotes and parentheses may be percent-encoded.
func unquote(segment string) (string, bool) {
	plain := strings.NewReplacer("%28", "(", "%29", ")", "%27", "'").Replace(segment)
	inner, ok := strings.CutPrefix(plain, "users('")
	if !ok {
		return segment, false
	}
	return strings.CutSuffix(inner, "')")
}
