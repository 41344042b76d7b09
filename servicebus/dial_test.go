package servicebus_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/network/networktest"
	"github.com/session-revoker/session-revoker/servicebus"
)

func TestMain(m *testing.M) {
	// No server is asked for a name: one that is slow would fail these tests.
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("no server for names")
	}}
	goleak.VerifyTestMain(m)
}

// patience bounds what a test waits for. The machine may be busy.
const patience = 5 * time.Minute

// namespace has more labels than any real one, so no DNS resolves it.
const namespace = "session-revoker.test.contoso.servicebus.windows.net"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dial dials a namespace, which may have a port, as the client library does.
func dial(t *testing.T, d servicebus.Dialer, namespace string) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return d.Dial(ctx, azservicebus.NewWebSocketConnArgs{Host: "wss://" + namespace + "/$servicebus/websocket"})
}

// wantError fails unless the error has each text, and the Service Bus client connects again after
// it.
func wantError(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error lacks %q: %v", text, err)
		}
	}
	var again net.Error
	if !errors.As(err, &again) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("the client library would give up: %v", err)
	}
}

func TestDialerChecksTheNamespacesNameWhateverItDials(t *testing.T) {
	identity := networktest.NewIdentity(t, namespace)
	address := identity.Serve(t, nil)
	trusting := network.New(identity.Pool)

	c, err := dial(t, servicebus.Dialer{Network: trusting, Endpoint: address}, namespace)
	must(t, err)
	if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Errorf("the connection ended with its dialing: %v", err)
	}
	must(t, c.Close())

	_, err = dial(t, servicebus.Dialer{Network: trusting, Endpoint: address}, "fabrikam.servicebus.windows.net")
	wantError(t, err, "TLS with "+address, "not fabrikam.servicebus.windows.net",
		"issued by "+networktest.Issuer, "another server answers")
	_, err = dial(t, servicebus.Dialer{Endpoint: address}, namespace)
	wantError(t, err, "TLS with "+address, "comes from "+networktest.Issuer+", which this machine does not trust", "set tls.ca_file")
}

func TestDialerSaysThatAnAuthorityHasExpired(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Contoso Root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour),
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), DNSNames: []string{namespace}, NotBefore: root.NotBefore, NotAfter: time.Now().Add(time.Hour),
	}
	authority, err := x509.CreateCertificate(rand.Reader, root, root, key.Public(), key)
	must(t, err)
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), key)
	must(t, err)
	root, err = x509.ParseCertificate(authority)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(root)
	address := networktest.Identity{TLS: &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}}.Serve(t, nil)
	_, err = dial(t, servicebus.Dialer{Network: network.New(pool), Endpoint: address}, namespace)
	wantError(t, err, "TLS with "+address, `(issued by "Contoso Root")`, "the certificate of the authority itself has expired")
}

func TestDialerErrorsNameTheStepAndWhatToDo(t *testing.T) {
	for _, scheme := range []struct {
		webSockets bool
		port       string
	}{{false, "5671"}, {true, "443"}} {
		d := servicebus.Dialer{WebSockets: scheme.webSockets}
		_, err := dial(t, d, namespace)
		wantError(t, err, "DNS does not resolve "+namespace, "what to do: check the name")
		d.Endpoint = "127.0.0.1:1"
		_, err = dial(t, d, namespace)
		wantError(t, err, "TCP does not reach 127.0.0.1:1", "refused", "open outgoing TCP to 127.0.0.1:1")
		if got := (servicebus.Dialer{WebSockets: scheme.webSockets}).Address(namespace); got != namespace+":"+scheme.port {
			t.Errorf("dials %s", got)
		}
	}
	rude, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() {
		for {
			c, err := rude.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	defer rude.Close()
	for _, webSockets := range []bool{false, true} {
		_, err = dial(t, servicebus.Dialer{WebSockets: webSockets, Endpoint: rude.Addr().String()}, namespace)
		wantError(t, err, "TLS with "+rude.Addr().String()+" fails", "let TLS to")
	}
	if _, err := (servicebus.Dialer{}).Dial(t.Context(), azservicebus.NewWebSocketConnArgs{Host: "nowhere"}); err == nil ||
		!strings.Contains(err.Error(), "check the connection string") {
		t.Errorf("%v", err)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if _, err := (servicebus.Dialer{Endpoint: "127.0.0.1:1"}).Dial(stopped,
		azservicebus.NewWebSocketConnArgs{Host: "wss://" + namespace}); !errors.Is(err, context.Canceled) {
		t.Errorf("the caller has stopped: %v", err)
	}
}

func TestDialerAddress(t *testing.T) {
	for want, c := range map[string]struct {
		d         servicebus.Dialer
		namespace string
	}{
		"c.net:5671":         {servicebus.Dialer{}, "c.net"},
		"c.net:443":          {servicebus.Dialer{WebSockets: true}, "c.net:5671"},
		"127.0.0.1:5672":     {servicebus.Dialer{Plain: true}, "127.0.0.1"},
		"127.0.0.1:8080":     {servicebus.Dialer{Plain: true, WebSockets: true}, "127.0.0.1:8080"},
		"127.0.0.1:80":       {servicebus.Dialer{Plain: true, WebSockets: true}, "127.0.0.1"},
		"10.1.2.3:5671":      {servicebus.Dialer{Endpoint: "10.1.2.3"}, "c.net"},
		"10.1.2.3:5673":      {servicebus.Dialer{Endpoint: "10.1.2.3:5673"}, "c.net:5671"},
		"[fd00::1]:443":      {servicebus.Dialer{WebSockets: true, Endpoint: "fd00::1"}, "c.net"},
		"[fd00::2]:443":      {servicebus.Dialer{WebSockets: true, Endpoint: "[fd00::2]"}, "c.net"},
		"[fd00::3]:8443":     {servicebus.Dialer{WebSockets: true, Endpoint: "[fd00::3]:8443"}, "c.net"},
		"gateway.local:5671": {servicebus.Dialer{Endpoint: "gateway.local"}, "c.net"},
	} {
		if got := c.d.Address(c.namespace); got != want {
			t.Errorf("%+v: %s, want %s", c, got, want)
		}
	}
}

func TestForEmulator(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "Endpoint=sb://x;usedevelopmentemulator=TRUE": true, "Endpoint=sb://x": false,
		"UseDevelopmentEmulator=true;UseDevelopmentEmulator=false": false, "UseDevelopmentEmulator=perhaps": false,
	} {
		if got := servicebus.ForEmulator(text); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestDialerTransportNeedsNoNetwork(t *testing.T) {
	if got := (servicebus.Dialer{Endpoint: "10.0.0.4"}).Transport(namespace).TLSClientConfig.ServerName; got != namespace {
		t.Errorf("the transport expects a certificate for %q", got)
	}
}
