package network_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/network/networktest"
)

// stalling is a connection on which nothing arrives any more after stalled is set, in either
// direction, and that nobody ends: a firewall or proxy has forgotten it.
type stalling struct {
	net.Conn
	stalled *atomic.Bool
}

func (s stalling) Write(p []byte) (int, error) {
	if s.stalled.Load() {
		return len(p), nil
	}
	return s.Conn.Write(p)
}

// TestTransportLeavesADeadConnection: HTTP/2 has one connection to a server, on which requests
// would wait for their end one after the other.
func TestTransportLeavesADeadConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		identity := networktest.NewIdentity(t, "graph.test.invalid")
		listener := graph.NewMemoryListener()
		server := &http.Server{
			TLSConfig: identity.TLS.Clone(),
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.ProtoMajor != 2 {
					w.WriteHeader(http.StatusHTTPVersionNotSupported)
				}
			}),
		}
		defer server.Close()
		go func() { _ = server.ServeTLS(listener, "", "") }()
		var last *atomic.Bool // of the last connection
		transport := network.New(identity.Pool).Transport()
		defer transport.CloseIdleConnections()
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := listener.Dial(ctx)
			last = new(atomic.Bool)
			return stalling{c, last}, err
		}
		ask := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			request, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://graph.test.invalid/", nil)
			if err != nil {
				return err
			}
			response, err := transport.RoundTrip(request)
			if err != nil {
				return err
			}
			if response.StatusCode != http.StatusOK {
				t.Errorf("HTTP %d", response.StatusCode)
			}
			return response.Body.Close()
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		last.Store(true)
		start, err := time.Now(), ask()
		for err != nil && time.Since(start) < time.Hour {
			err = ask()
		}
		if took := time.Since(start); took > 30*time.Second {
			t.Errorf("no answer for %s (%v)", took, err)
		}
	})
}
