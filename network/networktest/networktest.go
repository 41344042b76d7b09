// Package networktest is a company's network for tests: a certificate authority that no system
// trusts, and an HTTP proxy that alone resolves the servers' names.
package networktest

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/certificate"
)

// Issuer is how errors and doctor name the authority of every Identity.
const Issuer = `"session-revoker embedded servers"`

// Identity is a certificate of servers, and the authority that has issued it.
type Identity struct {
	TLS       *tls.Config    // of the servers
	Authority []byte         // in PEM form
	Pool      *x509.CertPool // with the authority alone
	File      string         // PEM file with the authority alone
}

// NewIdentity makes an Identity for servers with these names and IP addresses.
func NewIdentity(t testing.TB, names ...string) Identity {
	t.Helper()
	server, authority, err := certificate.New(names...)
	if err != nil {
		t.Fatal(err)
	}
	i := Identity{
		TLS:       &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server}},
		Authority: authority,
		Pool:      x509.NewCertPool(),
		File:      filepath.Join(t.TempDir(), "ca.pem"),
	}
	i.Pool.AppendCertsFromPEM(authority)
	if err := os.WriteFile(i.File, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// Serve serves HTTP on a loopback address, over TLS, until the test ends. It returns HOST:PORT.
func (i Identity) Serve(t testing.TB, handler http.Handler) string {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.TLS = i.TLS.Clone()
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}
