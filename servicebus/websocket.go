package servicebus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"

	"github.com/coder/websocket"

	"github.com/session-revoker/session-revoker/network"
)

const (
	// The path and the subprotocol of AMQP in a WebSocket
	// (https://docs.oasis-open.org/amqp-bindmap/amqp-wsb/v1.0/amqp-wsb-v1.0.html, §2.1; the path is
	// that of Microsoft's clients).
	webSocketPath = "/$servicebus/websocket"
	subprotocol   = "AMQPWSB10"
	// maxWebSocketMessage bounds a message of the WebSocket in bytes. It holds one or several AMQP
	// frames, and is read piece by piece. It is more than the largest message of Service Bus, 100
	// MB.
	maxWebSocketMessage = 128 << 20
)

// dialWebSocket dials AMQP in a WebSocket, by a proxy where one is configured.
func (d Dialer) dialWebSocket(ctx context.Context, namespace *url.URL, address string) (net.Conn, error) {
	transport := d.Transport(namespace.Hostname())
	defer transport.CloseIdleConnections() // of a refused upgrade
	transport.ForceAttemptHTTP2 = false    // HTTP/2 has no such upgrade
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)

	target := url.URL{Scheme: "wss", Host: address, Path: webSocketPath}
	host := namespace.Hostname()
	if d.Plain {
		target.Scheme, host = "ws", namespace.Host
	}
	//nolint:bodyclose // the library says that nobody needs to close it
	socket, response, err := websocket.Dial(ctx, target.String(), &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport: transport,
			// A proxy redirects to its login page.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		Host:         host,
		Subprotocols: []string{subprotocol},
	})
	switch {
	case err != nil && response != nil:
		return nil, network.NoWebSocket(address, response.StatusCode, err)
	case err != nil:
		return nil, err
	case socket.Subprotocol() != subprotocol:
		_ = socket.CloseNow()
		return nil, network.NoWebSocket(address, response.StatusCode,
			errors.New("the server does not offer the subprotocol "+subprotocol))
	}
	// Not ctx, whose end would close the connection.
	c := &webSocketConn{Conn: websocket.NetConn(context.Background(), socket, websocket.MessageBinary), socket: socket}
	socket.SetReadLimit(maxWebSocketMessage) // NetConn has removed the limit
	return c, nil
}

// webSocketConn is a WebSocket as the client library expects a connection.
type webSocketConn struct {
	net.Conn
	socket *websocket.Conn
}

// Read reads from the WebSocket.
func (c *webSocketConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, lost(err)
}

// Write writes one message.
func (c *webSocketConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	return n, lost(err)
}

// Close closes the connection at once. AMQP has said goodbye already; the library's own Close would
// wait up to five seconds for the WebSocket's, which a dead server never says.
func (c *webSocketConn) Close() error {
	err := c.socket.CloseNow()
	_ = c.Conn.Close() // stops its timers
	return err
}

// connectionLost is a net.Error: the client library then connects again.
type connectionLost struct{ error }

func (connectionLost) Timeout() bool   { return false }
func (connectionLost) Temporary() bool { return true }

// lost hides what caused an error, except the end of the stream. The WebSocket library ends a
// context of its own when a deadline passes, and the client library would take that for the end of
// its caller's context.
func lost(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return connectionLost{fmt.Errorf("the WebSocket has ended, or nothing came in time: %s", err)} //nolint:errorlint // hides it
}
