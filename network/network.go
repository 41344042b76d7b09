// Package network reaches servers through what a company puts in between: HTTP proxies, private
// certificate authorities, and firewalls. It observes the steps of a connection, so that an error
// says which step failed and what to do.
package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// maxHeader is the maximum size in bytes of a response's header.
const maxHeader = 64 << 10

// An HTTP/2 connection on which nothing comes for silence is tried with a ping, and closed if no
// answer comes in pingTimeout. Otherwise, all requests would wait on a connection that a firewall or
// proxy has forgotten, for a quarter of an hour or longer.
const (
	silence     = 10 * time.Second
	pingTimeout = 5 * time.Second
)

// Network is how this process reaches servers. It is safe for concurrent use.
type Network struct {
	roots *x509.CertPool
	proxy func(*url.URL) (*url.URL, error)
}

// New returns a Network that trusts the given authorities; nil means the system's. It reads the
// proxies from the environment now: HTTPS_PROXY, HTTP_PROXY, and NO_PROXY, each also in lower case
// (https://pkg.go.dev/golang.org/x/net/http/httpproxy#Config).
func New(roots *x509.CertPool) *Network {
	return &Network{roots: roots, proxy: httpproxy.FromEnvironment().ProxyFunc()}
}

// TLS returns a configuration for clients: TLS 1.2 or newer, and the Network's authorities. The
// caller may change it.
func (n *Network) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: n.roots}
}

// Proxy returns the proxy to a URL with the scheme http or https, or nil for a direct connection.
//
// Beside what NO_PROXY excludes and loopback addresses, link-local addresses are never reached by a
// proxy. The metadata service of an Azure machine, which issues the tokens of its managed identity,
// has such an address (169.254.169.254), and only the machine itself can reach it
// (https://learn.microsoft.com/azure/virtual-machines/instance-metadata-service#proxies).
func (n *Network) Proxy(to *url.URL) (*url.URL, error) {
	if ip, err := netip.ParseAddr(to.Hostname()); err == nil && ip.IsLinkLocalUnicast() {
		return nil, nil
	}
	return n.proxy(to)
}

// Transport returns an HTTP transport with the Network's proxies and authorities. It never sends
// the password of a proxy to anybody else, and its errors do not contain it.
func (n *Network) Transport() *http.Transport {
	return n.TransportBy(n.Proxy)
}

// TransportBy is Transport with other proxies.
func (n *Network) TransportBy(proxy func(*url.URL) (*url.URL, error)) *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http documents the type
	t.TLSClientConfig = n.TLS()
	t.MaxResponseHeaderBytes = maxHeader
	t.HTTP2 = &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: pingTimeout}
	t.Proxy = func(r *http.Request) (*url.URL, error) {
		by, err := proxy(r.URL)
		if err == nil && by != nil {
			pathOf(r.Context()).through(by)
		}
		return by, err
	}
	t.OnProxyConnectResponse = func(ctx context.Context, by *url.URL, request *http.Request, response *http.Response) error {
		if response.StatusCode != http.StatusOK {
			return &refusal{proxy: HostPort(by), to: request.URL.Opaque, status: response.StatusCode}
		}
		pathOf(ctx).tunneled()
		return nil
	}
	return t
}

// refusal is a proxy's answer to CONNECT that is not 200. Its text has no user or password.
type refusal struct {
	proxy, to string // HOST:PORT
	status    int
}

func (r *refusal) Error() string {
	return fmt.Sprintf("the proxy %s answers CONNECT %s with HTTP %d (%s): %s",
		r.proxy, r.to, r.status, http.StatusText(r.status), r.fix())
}

func (r *refusal) fix() string {
	switch r.status {
	case http.StatusProxyAuthRequired:
		return "put the proxy's user and password into its URL, http://USER:PASSWORD@HOST:PORT (basic authentication), or correct them"
	case http.StatusForbidden, http.StatusMethodNotAllowed:
		return "allow CONNECT to " + r.to + " on the proxy"
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return "the proxy cannot reach " + r.to + ": let it resolve and reach this address"
	}
	return "allow CONNECT to " + r.to + " on the proxy, and check that this is an HTTP proxy"
}

// HostPort returns HOST:PORT of a URL with the port of its scheme, and without user and password.
func HostPort(u *url.URL) string {
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https", u.Scheme == "wss":
		port = "443"
	case u.Scheme == "socks5", u.Scheme == "socks5h":
		port = "1080"
	default:
		port = "80"
	}
	return net.JoinHostPort(u.Hostname(), port)
}
