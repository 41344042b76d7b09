package coordination

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// eachRedis runs a test against the imitation and, if one is installed, a real Redis.
func eachRedis(t *testing.T, test func(t *testing.T, client *redis.Client)) {
	t.Run("miniredis", func(t *testing.T) {
		test(t, dial(t, miniredis.RunT(t).Addr()))
	})
	t.Run("redis", func(t *testing.T) {
		test(t, dial(t, realRedis(t)))
	})
}

// patience is how long a test waits for an answer of Redis. The machine may be busy.
const patience = time.Minute

// dial connects to HOST:PORT, or to the path of a socket.
func dial(t testing.TB, address string) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: address, MaxRetries: -1, DialTimeout: patience, ReadTimeout: patience, WriteTimeout: patience,
		ContextTimeoutEnabled: true, DisableIdentity: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// realRedis starts a Redis for this test and returns the path of its socket. Another process could
// take a port before Redis does.
func realRedis(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	dir, err := os.MkdirTemp("", "redis") // the path of a socket has 107 bytes at most, and t.TempDir has the test's name
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	server := exec.Command(program, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	log, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		_ = os.RemoveAll(dir)
	})
	var text strings.Builder
	for lines := bufio.NewScanner(log); !strings.Contains(strings.ToLower(text.String()), "ready to accept connections"); {
		if !lines.Scan() {
			t.Fatalf("redis-server has ended: %s", &text)
		}
		text.WriteString(lines.Text() + "\n")
	}
	go func() { _, _ = io.Copy(io.Discard, log) }()
	return socket
}

// inMemory is an imitation of Redis without a port, for tests in virtual time.
type inMemory struct {
	*miniredis.Miniredis
	away atomic.Bool
}

func newInMemory() *inMemory { return &inMemory{Miniredis: miniredis.NewMiniRedis()} }

// leave ends all connections, and refuses new ones until comeBack.
func (m *inMemory) leave() {
	m.away.Store(true)
	m.Close()
}

// comeBack accepts connections again. What was stored is still there.
func (m *inMemory) comeBack() { m.away.Store(false) }

// pipe connects to it.
func pipe(t *testing.T, server *inMemory) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", MaxRetries: -1, ReadTimeout: patience, WriteTimeout: patience,
		ContextTimeoutEnabled: true, DisableIdentity: true,
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			if server.away.Load() {
				return nil, errors.New("connection refused")
			}
			return server.Dial()
		},
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}
