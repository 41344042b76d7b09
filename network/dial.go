package network

import (
	"context"
	"crypto/tls"
	"net"
)

// Dial connects to HOST:PORT by TCP, and then by TLS unless secure is nil. ctx bounds only the
// dialing; its Path observes it.
func Dial(ctx context.Context, address string, secure *tls.Config) (net.Conn, error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil || secure == nil {
		return c, err
	}
	path := pathOf(ctx)
	path.at(Handshake, address)
	encrypted := tls.Client(c, secure)
	if err := encrypted.HandshakeContext(ctx); err != nil {
		_ = c.Close()
		return nil, err
	}
	path.secured(encrypted.ConnectionState())
	return encrypted, nil
}
