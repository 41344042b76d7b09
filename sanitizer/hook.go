package sanitizer

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// Hook is the option NewWebSocketConn of azservicebus.ClientOptions. The client calls it for each
// new connection, and runs AMQP over whatever connection it returns, WebSocket or not.
type Hook = func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error)

// Over returns a Hook that sanitizes the connections of another one.
func (s *Sanitizer) Over(dial Hook) Hook {
	return func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		c, err := dial(ctx, args)
		if err != nil {
			return nil, err
		}
		return s.Wrap(c), nil
	}
}

// Dialer dials Service Bus like the client without a hook: AMQP over TLS on port 5671, or without
// TLS on port 5672.
type Dialer struct {
	// Plain dials without TLS, for an emulator (`UseDevelopmentEmulator=true` in its connection
	// string).
	Plain bool
	// TLS replaces the TLS configuration. The server's name is the host's unless the configuration
	// has one.
	TLS *tls.Config
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

// Dial is a Hook. ctx bounds only the dialing. The error is that of dialing, or says that args
// names no host.
func (d Dialer) Dial(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
	u, err := url.Parse(args.Host) // wss://HOST[:PORT]/$servicebus/websocket
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("the Service Bus client wants to dial %q, which has no host: "+
			"check the connection string or servicebus.namespace", args.Host)
	}
	port := u.Port()
	if port == "" {
		port = "5671"
		if d.Plain {
			port = "5672"
		}
	}
	address := net.JoinHostPort(u.Hostname(), port)
	var dialer net.Dialer
	if d.Plain {
		return dialer.DialContext(ctx, "tcp", address)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if d.TLS != nil {
		config = d.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = u.Hostname()
	}
	return (&tls.Dialer{NetDialer: &dialer, Config: config}).DialContext(ctx, "tcp", address)
}
