package coordination

import (
	"context"
	"net"
	"os/exec"
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

func dial(t *testing.T, address string) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: address, MaxRetries: -1, DialTimeout: 5 * time.Second, ContextTimeoutEnabled: true, DisableIdentity: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// realRedis starts a Redis for this test and returns its address.
func realRedis(t *testing.T) string {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	server := exec.Command(program, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", t.TempDir())
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
	client := dial(t, address)
	for deadline := time.Now().Add(10 * time.Second); client.Ping(t.Context()).Err() != nil; {
		if time.Now().After(deadline) {
			t.Fatal("redis-server does not answer")
		}
	}
	return address
}

// pipe connects to an imitation of Redis in memory, for tests in virtual time.
func pipe(t *testing.T, server *miniredis.Miniredis) *redis.Client {
	client := redis.NewClient(&redis.Options{
		Addr: "127.0.0.1:6379", Dialer: func(context.Context, string, string) (net.Conn, error) { return server.Dial() },
		MaxRetries: -1, ContextTimeoutEnabled: true, DisableIdentity: true,
	})
	t.Cleanup(func() { _ = client.Close() })
	return client
}
