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

// Hook is the option NewWebSocketConn of azservicebus.ClientOptions. The client runs AMQP over whatever connection it
// returns, WebSocket or not, and calls it again for each new connection.
type Hook = func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error)

// Over wraps what another hook dials.
func (s *Sanitizer) Over(dial Hook) Hook {
	return func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		c, err := dial(ctx, args)
		if err != nil {
			return nil, err
		}
		return s.Wrap(c), nil
	}
}

// Dialer dials Service Bus as the client would without a hook: AMQP over TLS on port 5671, or in the clear on port 5672.
type Dialer struct {
	// Plain goes without TLS, for an emulator (`UseDevelopmentEmulator=true` in its connection string).
	Plain bool
	// TLS replaces the configuration of TLS. The name that is checked is the host's unless it has one.
	TLS *tls.Config
}

// ForEmulator says that the connection string is an emulator's, as azservicebus reads it: the last of several settings counts.
func ForEmulator(connectionString string) (yes bool) {
	for part := range strings.SplitSeq(connectionString, ";") {
		if key, value, _ := strings.Cut(part, "="); strings.EqualFold(key, "UseDevelopmentEmulator") {
			yes, _ = strconv.ParseBool(value)
		}
	}
	return yes
}

// Dial is a Hook. ctx bounds the dialing only.
func (d Dialer) Dial(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
	u, err := url.Parse(args.Host) // wss://HOST[:PORT]/$servicebus/websocket
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("the Service Bus client wants to dial %q, which names no host: check the connection string or servicebus.namespace", args.Host)
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
