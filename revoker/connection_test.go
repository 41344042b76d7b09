package revoker_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	emulator "github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/revoker"
)

// TestRevokeLeavesDeadConnections: a firewall has forgotten all connections that are kept. The first
// attempt must not be followed by one on the next dead connection.
func TestRevokeLeavesDeadConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := emulator.NewMemoryListener()
		all := make(chan struct{}) // are connected
		var connected, dead atomic.Int32
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			switch n := connected.Add(1); {
			case n == 4:
				close(all)
			case n < 4:
				<-all
			}
			w.Header().Set("Content-Type", jsonType)
			_, _ = io.WriteString(w, revokedOK)
		})}
		defer server.Close()
		go func() { _ = server.Serve(listener) }()
		transport := &http.Transport{MaxIdleConnsPerHost: 4}
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := listener.Dial(ctx)
			return &forgotten{c, &dead, dead.Load()}, err
		}
		r, err := revoker.New(revoker.Config{
			Root: "http://graph.example", Credential: withRole(), Transport: transport, Timeout: 5 * time.Second,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var calls sync.WaitGroup
		for range 4 {
			calls.Go(func() {
				if _, err := r.Revoke(t.Context(), ada); err != nil {
					t.Error(err)
				}
			})
		}
		calls.Wait()
		dead.Store(1)
		if _, err := r.Revoke(t.Context(), ada); err == nil {
			t.Fatal("the scenario is wrong: the connection is not dead")
		}
		if _, err := r.Revoke(t.Context(), ada); err != nil {
			t.Errorf("the second attempt used a dead connection, too: %v", err)
		}
	})
}

// forgotten is a connection that nobody ends, and on which nothing arrives after dead changes.
type forgotten struct {
	net.Conn
	dead *atomic.Int32
	born int32
}

func (f *forgotten) Write(p []byte) (int, error) {
	if f.dead.Load() != f.born {
		return len(p), nil
	}
	return f.Conn.Write(p)
}
