package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/deadletter"
)

// Access says who may see the pages. There are two ways. On loopback, whoever has the one-time link.
// Behind a sign-in proxy, whoever the proxy names in TrustHeader.
type Access struct {
	// By is the operator who uses the console on loopback, for the audit log.
	By string
	// TrustHeader is the header in which the proxy names the user. If it is empty, the console is on
	// loopback.
	TrustHeader string
	// TrustedProxies are the addresses from which the header is believed. Requests from elsewhere are
	// refused.
	TrustedProxies []netip.Prefix
	// Hosts are the names by which browsers reach the proxy, with the port if it is not the usual one.
	Hosts []string
}

const (
	// tokenLife is how long a one-time link can be used.
	tokenLife = 15 * time.Minute
	// sessionLife is how long a session lasts, and idleLife how long without a request by a person.
	sessionLife = 12 * time.Hour
	idleLife    = time.Hour
	// maxSessions and maxTokens bound memory. The oldest goes first.
	maxSessions = 32
	maxTokens   = 8
	// maxUser is the longest name that a proxy may give, in bytes.
	maxUser = 256
)

// visitor is who a request is from.
type visitor struct {
	name    string // for the audit log
	session string // what a preview belongs to
}

// gate admits requests.
type gate struct {
	Access
	now func() time.Time

	mu       sync.Mutex
	tokens   map[[32]byte]time.Time // until when, by hash
	sessions map[[32]byte]*session  // by hash of the cookie
}

type session struct {
	until, idleUntil time.Time
}

func newGate(a Access, now func() time.Time) (*gate, error) {
	switch {
	case a.TrustHeader == "":
		if len(a.TrustedProxies) > 0 || len(a.Hosts) > 0 {
			return nil, errors.New("trusted proxies and host names need the name of a header to trust")
		}
	case len(a.TrustedProxies) == 0:
		return nil, fmt.Errorf("the header %s needs the addresses of the proxies that set it: anybody else could set it, too",
			a.TrustHeader)
	case len(a.Hosts) == 0:
		return nil, errors.New("behind a proxy, the host names by which browsers reach it must be given")
	}
	return &gate{Access: a, now: now, tokens: map[[32]byte]time.Time{}, sessions: map[[32]byte]*session{}}, nil
}

// link returns a new one-time link.
func (g *gate) link(address net.Addr) string {
	if g.TrustHeader != "" {
		return ""
	}
	token := rand.Text()
	g.mu.Lock()
	defer g.mu.Unlock()
	for hash, until := range g.tokens {
		if len(g.tokens) >= maxTokens || until.Before(g.now()) {
			delete(g.tokens, hash)
		}
	}
	g.tokens[sha256.Sum256([]byte(token))] = g.now().Add(tokenLife)
	return "http://" + address.String() + "/enter?token=" + token
}

// enter exchanges a token for a session. The token is useless afterwards.
func (g *gate) enter(token string) (cookie string, ok bool) {
	hash := sha256.Sum256([]byte(token))
	g.mu.Lock()
	defer g.mu.Unlock()
	until, ok := g.tokens[hash]
	delete(g.tokens, hash)
	now := g.now()
	if !ok || now.After(until) {
		return "", false
	}
	if len(g.sessions) >= maxSessions {
		var oldest [32]byte
		for hash, s := range g.sessions {
			if o := g.sessions[oldest]; o == nil || s.until.Before(o.until) {
				oldest = hash
			}
		}
		delete(g.sessions, oldest)
	}
	cookie = rand.Text()
	g.sessions[sha256.Sum256([]byte(cookie))] = &session{now.Add(sessionLife), now.Add(idleLife)}
	return cookie, true
}

// visit returns who a request is from. An error says why nobody is.
func (g *gate) visit(r *http.Request) (visitor, error) {
	if g.TrustHeader != "" {
		return g.proxied(r)
	}
	// A page of another port of this machine can set a cookie of our name. So every one of them counts.
	for _, cookie := range r.CookiesNamed(cookieName(r)) {
		if g.alive(cookie.Value, r.Header.Get(liveHeader) == "") {
			return visitor{g.By, cookie.Value}, nil
		}
	}
	return visitor{}, errors.New("open the link that worker console prints; a link works once, " +
		"and a session ends after an hour without use")
}

// liveHeader marks requests that the script makes to keep a page fresh. They do not keep a session
// alive.
const liveHeader = "X-Console-Live"

// alive reports whether a session is valid, and lets it live on if a person uses it.
func (g *gate) alive(cookie string, used bool) bool {
	hash := sha256.Sum256([]byte(cookie))
	g.mu.Lock()
	defer g.mu.Unlock()
	s, ok := g.sessions[hash]
	if !ok {
		return false
	}
	now := g.now()
	if now.After(s.until) || now.After(s.idleUntil) {
		delete(g.sessions, hash)
		return false
	}
	if used {
		s.idleUntil = now.Add(idleLife)
	}
	return true
}

// proxied returns whom the proxy names.
func (g *gate) proxied(r *http.Request) (visitor, error) {
	from, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !slices.ContainsFunc(g.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(from.Addr().Unmap()) }) {
		return visitor{}, errors.New("this console answers only its sign-in proxy (--trusted-proxy)")
	}
	names := r.Header.Values(g.TrustHeader)
	if len(names) != 1 || strings.TrimSpace(names[0]) == "" {
		return visitor{}, fmt.Errorf("the sign-in proxy must name the user in one header %s", g.TrustHeader)
	}
	name := strings.TrimSpace(names[0])
	if len(name) > maxUser || !utf8.ValidString(name) || strings.ContainsFunc(name, deadletter.Hidden) {
		return visitor{}, fmt.Errorf("the header %s is not a plain name", g.TrustHeader)
	}
	return visitor{name, "proxy:" + name}, nil
}

// cookieName returns the name of the session cookie. A browser sends cookies to every port of a
// host, so consoles on different ports need different names.
func cookieName(r *http.Request) string {
	_, port, err := net.SplitHostPort(r.Host)
	if err != nil {
		port = "80"
	}
	return "session-revoker-console-" + port
}

// known reports whether a Host header names the console. A page of the attacker's whose name they
// point at this machine (DNS rebinding) has the attacker's name.
func (g *gate) known(host string) bool {
	if g.TrustHeader != "" {
		return slices.ContainsFunc(g.Hosts, func(h string) bool { return strings.EqualFold(h, host) })
	}
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	if strings.EqualFold(name, "localhost") { // any port: a tunnel may have another one
		return true
	}
	address, err := netip.ParseAddr(name)
	return err == nil && address.IsLoopback()
}

// sameSite refuses requests for other hosts, and those that pages of other origins make.
func (g *gate) sameSite(next http.Handler, c *Console) http.Handler {
	protection := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		site := r.Header.Get("Sec-Fetch-Site")
		follows := r.Method == http.MethodGet && r.Header.Get("Sec-Fetch-Mode") == "navigate" &&
			r.Header.Get("Sec-Fetch-Dest") == "document"
		switch {
		case !g.known(r.Host):
			http.Error(w, "this console has another name", http.StatusMisdirectedRequest)
		case r.Method != http.MethodGet && r.Method != http.MethodHead && r.Method != http.MethodPost:
			http.Error(w, "only GET and POST", http.StatusMethodNotAllowed)
		case protection.Check(r) != nil,
			r.Method == http.MethodPost && site == "" && r.Header.Get("Origin") == "", // a browser always says where a form is from
			site != "" && site != "same-origin" && site != "none" && !follows:
			c.plainProblem(w, http.StatusForbidden, "Refused", "Another page made this request. Nothing was shown or changed.")
		default:
			next.ServeHTTP(w, r)
		}
	})
}

type visitorKey struct{}

func visitorOf(r *http.Request) visitor {
	who, _ := r.Context().Value(visitorKey{}).(visitor)
	return who
}

// admit refuses requests from nobody.
func (g *gate) admit(next http.Handler, c *Console) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := g.visit(r)
		if err != nil {
			c.plainProblem(w, http.StatusUnauthorized, "Not signed in", "To see this page, "+err.Error()+".")
			return
		}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), visitorKey{}, who)))
	})
}

// enter answers the one-time link.
func (c *Console) enter(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.Header.Get("Sec-Purpose") != "" { // a browser that fetches ahead must not use the token up
		http.Error(w, "only a visit uses the link", http.StatusForbidden)
		return
	}
	cookie, ok := c.access.enter(r.URL.Query().Get("token"))
	if !ok {
		c.plainProblem(w, http.StatusUnauthorized, "This link was used already",
			"A link works once, for 15 minutes. Start worker console again, or press Enter in its terminal, for a new one.")
		return
	}
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // on loopback there is no TLS, and a cookie with Secure would be lost in some browsers
		Name: cookieName(r), Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		MaxAge: int(sessionLife.Seconds()),
	})
	// A redirect would be part of a navigation that another program began, for which browsers send no
	// strict cookie. So a page leads on.
	c.render(w, r, http.StatusOK, entered())
}

// secure sets the headers of every answer.
func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "+
			"form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("X-Frame-Options", "DENY")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Permissions-Policy", "camera=(), geolocation=(), microphone=()")
		h.Set("Cache-Control", "no-store")
		h.Set("X-Robots-Tag", "noindex")
		next.ServeHTTP(w, r)
	})
}
