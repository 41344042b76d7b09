package certificate_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/certificate"
)

// connect serves one TLS connection with the certificate, and returns what a client that trusts the
// authority says to the name.
func connect(t *testing.T, server tls.Certificate, authority []byte, name string) error {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{server}, MinVersion: tls.VersionTLS12})
			_, _ = c.Write([]byte("hello"))
			_ = c.Close()
		}
	}()
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(authority) {
		t.Fatal("the authority is not a certificate in PEM form")
	}
	c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{RootCAs: trusted, ServerName: name, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	defer c.Close()
	if text, err := io.ReadAll(c); err != nil || string(text) != "hello" {
		t.Errorf("read %q, %v", text, err)
	}
	return nil
}

func TestCertificateIsValidForItsNamesOnly(t *testing.T) {
	server, authority, err := certificate.New("localhost", "127.0.0.1", "::1", "*.servicebus.windows.net")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"localhost", "127.0.0.1", "::1", "mine.servicebus.windows.net"} {
		if err := connect(t, server, authority, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := connect(t, server, authority, "elsewhere.example"); err == nil {
		t.Error("the certificate is valid for a name that nobody gave")
	}
	_, other, err := certificate.New("localhost")
	if err != nil {
		t.Fatal(err)
	}
	if err := connect(t, server, other, "localhost"); err == nil {
		t.Error("another authority vouches for the certificate")
	}
}

func TestCertificateNeedsAName(t *testing.T) {
	if _, _, err := certificate.New(); err == nil {
		t.Error("a certificate for nobody")
	}
}
