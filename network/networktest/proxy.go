package networktest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// Proxy is an HTTP proxy that knows CONNECT only. It is safe for concurrent use.
type Proxy struct {
	server *httptest.Server
	allow  map[string]string

	mu            sync.Mutex
	authorization string // see Demand
	asked         []string
	open          []net.Conn
}

// NewProxy starts a proxy on a loopback address, until the test ends. allow has the servers that it
// lets through to, HOST:PORT, and the addresses where they listen. Others get 403.
func NewProxy(t testing.TB, allow map[string]string) *Proxy {
	t.Helper()
	p := &Proxy{allow: allow}
	p.server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(func() {
		p.Cut()
		p.server.Close()
	})
	return p
}

// Secure serves the proxy over TLS, too. It returns HOST:PORT.
func (p *Proxy) Secure(t testing.TB, identity Identity) string {
	t.Helper()
	return identity.Serve(t, http.HandlerFunc(p.serve))
}

// Demand makes the proxy demand this header Proxy-Authorization.
func (p *Proxy) Demand(authorization string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.authorization = authorization
}

// Address returns HOST:PORT of the proxy.
func (p *Proxy) Address() string { return p.server.Listener.Addr().String() }

// Asked returns the servers that clients asked for.
func (p *Proxy) Asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// Cut closes the connections that exist.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.open {
		_ = c.Close()
	}
	p.open = nil
}

func (p *Proxy) keep(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = append(p.open, c)
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Host)
	demanded := p.authorization
	p.mu.Unlock()
	to, allowed := p.allow[r.Host]
	switch {
	case demanded != "" && r.Header.Get("Proxy-Authorization") != demanded:
		w.Header().Set("Proxy-Authenticate", "Basic")
		w.WriteHeader(http.StatusProxyAuthRequired)
		return
	case r.Method != http.MethodConnect, !allowed:
		w.WriteHeader(http.StatusForbidden)
		return
	}
	server, err := net.Dial("tcp", to)
	if err != nil {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	client, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = server.Close()
		return
	}
	p.keep(server)
	p.keep(client)
	if _, err := client.Write([]byte("HTTP/1.1 200 Connection established\r\n\r\n")); err == nil {
		pipe(client, server)
	}
}

// pipe copies in both directions until one of them ends, and closes both connections.
func pipe(a, b net.Conn) {
	var both sync.WaitGroup
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(pair[0], pair[1])
			_ = a.Close()
			_ = b.Close()
		})
	}
	both.Wait()
}
