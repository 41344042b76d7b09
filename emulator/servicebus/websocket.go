package servicebus

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/coder/websocket"
)

// WebSocketPath is where the service serves AMQP over WebSocket, on port 443. Clients do not let
// their users choose another path.
const WebSocketPath = "/$servicebus/websocket"

// webSocketProtocols are the subprotocols that clients ask for: the service's own, and the one of
// the OASIS binding (AMQP WebSocket Binding 1.0, section 2.1), which azservicebus' examples use.
var webSocketProtocols = []string{"AMQPWSB10", "amqp"}

// WebSocket returns the handler for WebSocketPath: AMQP over WebSocket, for networks that let only
// HTTPS out (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-amqp-overview).
// A message of WebSocket may hold part of an AMQP frame, or several. The connections count, and
// end, like those of Serve. The handler needs HTTP/1.1. As a protection against hostile web pages,
// it refuses requests of browsers, except from pages of the same host or of this machine.
func (b *Broker) WebSocket() http.Handler { return http.HandlerFunc(b.serveWebSocket) }

// Web returns one handler for everything that the service serves on port 443: WebSocket, and for
// all other paths Admin.
func (b *Broker) Web() http.Handler {
	socket, admin := b.WebSocket(), b.Admin()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.EqualFold(strings.TrimSuffix(r.URL.Path, "/"), WebSocketPath) {
			socket.ServeHTTP(w, r)
			return
		}
		admin.ServeHTTP(w, r)
	})
}

func (b *Broker) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		w.Header().Set("Upgrade", "websocket")
		http.Error(w, "This is AMQP over WebSocket. Connect with a WebSocket client, over HTTP/1.1.", http.StatusUpgradeRequired)
		return
	}
	if !offersAMQP(r.Header) {
		http.Error(w, "The client must offer the WebSocket subprotocol AMQPWSB10: set Sec-WebSocket-Protocol.", http.StatusBadRequest)
		return
	}
	kept := &hijacked{ResponseWriter: w}
	socket, err := websocket.Accept(kept, r, &websocket.AcceptOptions{
		Subprotocols:   webSocketProtocols,
		OriginPatterns: []string{"localhost", "localhost:*", "127.0.0.1", "127.0.0.1:*"},
	})
	if err != nil {
		return // Accept has answered
	}
	// NetConn reads a message piece by piece, so that its size does not matter: what bounds the
	// memory is the size of AMQP frames.
	nc := &webSocketConn{Conn: websocket.NetConn(context.Background(), socket, websocket.MessageBinary), raw: kept.conn}
	if c := b.admit(nc); c != nil {
		c.serve()
	}
}

// offersAMQP reports whether the client can speak AMQP over the WebSocket.
func offersAMQP(h http.Header) bool {
	for _, line := range h.Values("Sec-WebSocket-Protocol") {
		for offered := range strings.SplitSeq(line, ",") {
			if slices.ContainsFunc(webSocketProtocols, func(p string) bool { return strings.EqualFold(p, strings.TrimSpace(offered)) }) {
				return true
			}
		}
	}
	return false
}

// hijacked keeps the connection below the WebSocket, for cut.
type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.conn = conn
	return conn, buffered, err
}

// webSocketConn is a connection over WebSocket. Close says goodbye to the peer and waits a few
// seconds for the answer.
type webSocketConn struct {
	net.Conn
	raw net.Conn
}

// NetConn returns the connection below.
func (c *webSocketConn) NetConn() net.Conn { return c.raw }

// cut closes a connection at once. Close may wait for a peer that does not read, in TLS and in
// WebSocket.
func cut(nc net.Conn) {
	for {
		upper, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			_ = nc.Close()
			return
		}
		nc = upper.NetConn()
	}
}
