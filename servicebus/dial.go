package servicebus

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/network"
)

// dialTimeout bounds all steps of one connection together, until AMQP begins.
const dialTimeout = 30 * time.Second

// Dialer dials Service Bus: AMQP over TLS on port 5671, or AMQP in a WebSocket on port 443. The
// namespace's name is what the client library dials. It stays the name in the certificate, in AMQP,
// and in tokens, whatever address is dialed.
type Dialer struct {
	// Network has the authorities and, for WebSockets, the proxies. nil means the system's and the
	// environment's.
	Network *network.Network
	// Plain dials without TLS, on port 5672 or 80, for an emulator (`UseDevelopmentEmulator=true`
	// in its connection string).
	Plain bool
	// WebSockets selects WebSockets.
	WebSockets bool
	// Proxy replaces the proxy of the Network for WebSockets.
	Proxy *url.URL
	// Endpoint is dialed instead of the namespace's name: HOST, HOST:PORT, or an IP address. Empty
	// means the namespace.
	Endpoint string
}

// ForEmulator reports whether the connection string is an emulator's. It reads the string like
// azservicebus: the last of several settings wins.
func ForEmulator(connectionString string) (yes bool) {
	for part := range strings.SplitSeq(connectionString, ";") {
		if key, value, _ := strings.Cut(part, "="); strings.EqualFold(key, "UseDevelopmentEmulator") {
			yes, _ = strconv.ParseBool(value)
		}
	}
	return yes
}

// Dial is the option NewWebSocketConn of azservicebus.ClientOptions. The client runs AMQP over
// whatever connection it returns, WebSocket or not. ctx bounds only the dialing, and 30 s do. The
// error is a *network.Error, that of ctx, or says that args names no host.
func (d Dialer) Dial(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
	u, err := url.Parse(args.Host) // wss://HOST[:PORT]/$servicebus/websocket
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("the Service Bus client wants to dial %q, which has no host: "+
			"check the connection string or servicebus.namespace", args.Host)
	}
	within, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	within, path := network.Observe(within)
	address := d.Address(u.Host)
	var c net.Conn
	if d.WebSockets {
		c, err = d.dialWebSocket(within, u, address)
	} else {
		c, err = network.Dial(within, address, d.tls(u.Hostname()))
	}
	if err != nil {
		return nil, path.Explain(ctx, address, err)
	}
	if d.WebSockets {
		return c, nil // each write is a message of its own, as other clients do it
	}
	return gather(c), nil
}

// Address returns HOST:PORT that the Dialer dials for a namespace, which is HOST or HOST:PORT.
func (d Dialer) Address(namespace string) string {
	host, port := splitPort(namespace)
	if d.WebSockets && port == "5671" {
		port = "" // of AMQP, from a connection string
	}
	if d.Endpoint != "" {
		var own string
		if host, own = splitPort(d.Endpoint); own != "" {
			port = own
		}
	}
	if port == "" {
		port = d.port()
	}
	return net.JoinHostPort(host, port)
}

// Transport returns an HTTP transport to a namespace: for WebSockets, and for the administration API.
// With an Endpoint, the requests name that, and the namespace stays the name in the certificate. It
// is then also expected of a proxy that has https itself: net/http has one name for both.
func (d Dialer) Transport(namespace string) *http.Transport {
	d.Network = d.network()
	proxy := d.Network.Proxy
	if d.Proxy != nil {
		proxy = func(*url.URL) (*url.URL, error) { return d.Proxy, nil }
	}
	transport := d.Network.TransportBy(proxy)
	if d.Endpoint != "" {
		transport.TLSClientConfig.ServerName = namespace
	}
	return transport
}

// network returns the Network, or the system's and the environment's.
func (d Dialer) network() *network.Network {
	if d.Network == nil {
		return network.New(nil)
	}
	return d.Network
}

// port returns the standard port
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-faq#what-ports-do-i-need-to-open-on-the-firewall).
func (d Dialer) port() string {
	switch {
	case d.WebSockets && d.Plain:
		return "80"
	case d.WebSockets:
		return "443"
	case d.Plain:
		return "5672"
	}
	return "5671"
}

// splitPort splits HOST, HOST:PORT, or an IP address. The port is empty if there is none.
func splitPort(address string) (host, port string) {
	if host, port, err := net.SplitHostPort(address); err == nil {
		return host, port
	}
	return strings.Trim(address, "[]"), ""
}

// tls returns the TLS configuration for a namespace, or nil for none.
func (d Dialer) tls(namespace string) *tls.Config {
	if d.Plain {
		return nil
	}
	secure := d.network().TLS()
	secure.ServerName = namespace
	return secure
}
