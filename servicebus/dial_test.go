package servicebus_test

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/network/networktest"
	"github.com/session-revoker/session-revoker/servicebus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
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

// listen serves TLS, and reads what comes, until the test ends.
func listen(t *testing.T, a *networktest.Authority, names ...string) string {
	t.Helper()
	server := httptest.NewUnstartedServer(nil)
	server.TLS = a.Server(names...)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestDialerChecksTheNamespacesNameWhateverItDials(t *testing.T) {
	a := networktest.NewAuthority(t)
	address := listen(t, a, namespace)
	trusting := network.New(a.Pool())

	c, err := dial(t, servicebus.Dialer{Network: trusting, Endpoint: address}, namespace)
	must(t, err)
	if _, err := c.Write([]byte("GET / HTTP/1.0\r\n\r\n")); err != nil {
		t.Errorf("the connection ended with its dialing: %v", err)
	}
	must(t, c.Close())

	_, err = dial(t, servicebus.Dialer{Network: trusting, Endpoint: address}, "fabrikam.servicebus.windows.net")
	wantError(t, err, "TLS with "+address, "not fabrikam.servicebus.windows.net",
		`issued by "Contoso, Contoso Root"`, "another server answers")
	_, err = dial(t, servicebus.Dialer{Endpoint: address}, namespace)
	wantError(t, err, "TLS with "+address, `comes from "Contoso, Contoso Root", which this machine does not trust`, "set tls.ca_file")
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
