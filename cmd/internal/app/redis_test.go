package app

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// freePorts returns n different ports that nobody listens on.
func freePorts(t *testing.T, n int) (ports []string) {
	t.Helper()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() // when all are picked
		_, port, _ := net.SplitHostPort(l.Addr().String())
		ports = append(ports, port)
	}
	return ports
}

// redisServer starts a real Redis with these arguments.
func redisServer(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		t.Skip("redis-server is not installed")
	}
	server := exec.Command(program, append(args, "--bind", "127.0.0.1", "--dir", t.TempDir())...)
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
	})
}

// eventually repeats works until it succeeds, for example because a server has started. It fails
// the test after a minute.
func eventually(t *testing.T, what string, works func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		if err = works(); err == nil {
			return
		}
	}
	t.Fatalf("%s: %v", what, err)
}

// usable reports whether a client with this configuration can do what coordination needs.
func usable(t *testing.T, environ ...string) {
	t.Helper()
	cfg := load(t, append(environ, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", "REVOKER_GRAPH_TENANT_ID=contoso",
		"REVOKER_REDIS_TIMEOUT=5s")...)
	eventually(t, "use Redis", func() error { return CheckRedis(t.Context(), cfg) })
}

// selfSigned writes a self-signed certificate for 127.0.0.1, and its key.
func selfSigned(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter:    time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certificate, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: der},
		key:         {Type: "PRIVATE KEY", Bytes: encoded},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}

// leastRights is the least that the ACL user needs. docs/install.md names the same rights.
var leastRights = []any{
	"~session-revoker:*", "+hello", "+auth", "+ping", "+evalsha", "+eval", "+get", "+set", "+del", "+hmget",
	"+hset", "+pexpire", "+pttl", "+time", "+zadd", "+zcard", "+zrem", "+zscore", "+zremrangebyscore",
}

func TestRedisWithTLSAndAnACLUser(t *testing.T) {
	certificate, key := selfSigned(t)
	port := freePorts(t, 1)[0]
	args := []string{
		"--port", "0", "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate,
		"--tls-auth-clients", "no",
		"--user", "default", "off", "--user", "revoker", "on", ">open sesame",
	}
	for _, right := range leastRights {
		args = append(args, right.(string))
	}
	redisServer(t, args...)
	address := "REVOKER_REDIS_ADDRESSES=127.0.0.1:" + port
	usable(t, address, "REVOKER_REDIS_TLS=true", "REVOKER_TLS_CA_FILE="+certificate, "REVOKER_REDIS_USERNAME=revoker",
		"REVOKER_REDIS_PASSWORD=open sesame")
	for name, environ := range map[string][]string{
		"an unknown authority": {"REVOKER_REDIS_TLS=true", "REVOKER_REDIS_USERNAME=revoker", "REVOKER_REDIS_PASSWORD=open sesame"},
		"a wrong password": {
			"REVOKER_REDIS_TLS=true", "REVOKER_TLS_CA_FILE=" + certificate, "REVOKER_REDIS_USERNAME=revoker",
			"REVOKER_REDIS_PASSWORD=wrong",
		},
		"no TLS": {},
	} {
		cfg := load(t, append(environ, address, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net",
			"REVOKER_GRAPH_TENANT_ID=contoso")...)
		if err := CheckRedis(t.Context(), cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestRedisCheckTouchesNothingOfTheReplicas(t *testing.T) {
	server := miniredis.RunT(t)
	cfg := load(t, "REVOKER_REDIS_ADDRESSES="+server.Addr(), "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net",
		"REVOKER_GRAPH_TENANT_ID=contoso")
	if err := CheckRedis(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	for _, key := range server.Keys() {
		if !strings.Contains(key, ":doctor:") {
			t.Errorf("the check wrote %s", key)
		}
	}
}

func TestRedisCluster(t *testing.T) {
	port := freePorts(t, 1)[0]
	if len(port) > 4 && port > "55535" {
		t.Skip("the cluster's second port would be too large")
	}
	redisServer(t, "--port", port, "--cluster-enabled", "yes", "--save", "")
	node := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + port, DisableIdentity: true})
	defer node.Close()
	eventually(t, "give the node all slots", func() error { return node.ClusterAddSlotsRange(t.Context(), 0, 16383).Err() })
	if err := node.Do(t.Context(),
		append([]any{"acl", "setuser", "revoker", "on", ">open sesame", "+cluster|slots"}, leastRights...)...).Err(); err != nil {
		t.Fatal(err)
	}
	usable(t, "REVOKER_REDIS_ADDRESSES=127.0.0.1:"+port, "REVOKER_REDIS_CLUSTER=true", "REVOKER_REDIS_USERNAME=revoker",
		"REVOKER_REDIS_PASSWORD=open sesame")
}

func TestRedisSentinel(t *testing.T) {
	ports := freePorts(t, 2)
	port, sentinel := ports[0], ports[1]
	redisServer(t, "--port", port, "--save", "")
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	if err := os.WriteFile(file, fmt.Appendf(nil, "port %s\nsentinel monitor main 127.0.0.1 %s 1\n", sentinel, port), 0o600); err != nil {
		t.Fatal(err)
	}
	redisServer(t, file, "--sentinel")
	usable(t, "REVOKER_REDIS_ADDRESSES=127.0.0.1:"+sentinel, "REVOKER_REDIS_SENTINEL_MASTER=main")
}
