package servicebus_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/coder/websocket"
	"go.uber.org/goleak"

	emulator "github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/network/networktest"
	"github.com/session-revoker/session-revoker/sanitizer"
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

// bus is an embedded broker with the queue "q".
func bus(t *testing.T) (address string) {
	t.Helper()
	broker, err := emulator.New(emulator.Config{Queues: []emulator.QueueConfig{{Name: "q"}}})
	must(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	go func() { _ = broker.Serve(listener) }()
	t.Cleanup(func() { _ = broker.Close() })
	return listener.Addr().String()
}

// exchange sends a large message and receives it.
func exchange(t *testing.T, d servicebus.Dialer, connection string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client, err := servicebus.New(servicebus.Config{ConnectionString: connection, Dialer: d}, sanitizer.New(sanitizer.Options{}))
	must(t, err)
	defer client.Close(ctx)
	sender, err := client.NewSender("q", nil)
	must(t, err)
	body := strings.Repeat("x", 200_000)
	if err := sender.SendMessage(ctx, &azservicebus.Message{Body: []byte(body)}, nil); err != nil {
		return err
	}
	receiver, err := servicebus.NewReceiver(client, "q", false)
	must(t, err)
	messages, err := receiver.ReceiveMessages(ctx, 1, nil)
	if err != nil {
		return err
	}
	if len(messages) != 1 || string(messages[0].Body) != body {
		t.Errorf("%d messages, not the one that was sent", len(messages))
	}
	return receiver.CompleteMessage(ctx, messages[0], nil)
}

func connectionTo(host string) string {
	return fmt.Sprintf("Endpoint=sb://%s/;SharedAccessKeyName=%s;SharedAccessKey=%s", host, emulator.DefaultKey.Name,
		emulator.DefaultKey.Value)
}

func TestDialerWebSockets(t *testing.T) {
	broker := bus(t)
	a := networktest.NewAuthority(t)
	secure := networktest.WebSockets(t, a.Server(namespace), broker, nil)
	must(t, exchange(t, servicebus.Dialer{Network: network.New(a.Pool()), WebSockets: true, Endpoint: secure}, connectionTo(namespace)))

	plain := networktest.WebSockets(t, nil, broker, nil)
	emulated := connectionTo(plain) + ";UseDevelopmentEmulator=true"
	must(t, exchange(t, servicebus.Dialer{Plain: servicebus.ForEmulator(emulated), WebSockets: true}, emulated))
}

// TestDialerWebSocketMessagesHoldAnyPartOfAFrame sends what the broker says in messages of 100 bytes:
// the specification ties messages to no frames (AMQP over WebSocket, §2.3).
func TestDialerWebSocketMessagesHoldAnyPartOfAFrame(t *testing.T) {
	broker := bus(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		to, err := net.Dial("tcp", broker)
		if err != nil {
			return
		}
		defer to.Close()
		socket, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"AMQPWSB10"}})
		if err != nil {
			return
		}
		from := websocket.NetConn(r.Context(), socket, websocket.MessageBinary)
		go func() {
			_, _ = io.Copy(to, from)
			_ = to.Close()
		}()
		_, _ = io.CopyBuffer(struct{ io.Writer }{from}, struct{ io.Reader }{to}, make([]byte, 100))
	}))
	t.Cleanup(server.Close)
	must(t, exchange(t, servicebus.Dialer{Plain: true, WebSockets: true},
		connectionTo(server.Listener.Addr().String())+";UseDevelopmentEmulator=true"))
}

func TestDialerWebSocketsThroughAProxy(t *testing.T) {
	a := networktest.NewAuthority(t)
	server := networktest.WebSockets(t, a.Server(namespace), bus(t), nil)
	proxy := networktest.NewProxy(t, map[string]string{namespace + ":443": server, "dead.servicebus.windows.net:443": "127.0.0.1:1"})
	proxy.Authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte("ada:p@ss"))
	with := func(user *url.Userinfo) servicebus.Dialer {
		return servicebus.Dialer{
			Network: network.New(a.Pool()), WebSockets: true, Proxy: &url.URL{Scheme: "http", Host: proxy.Address(), User: user},
		}
	}
	right, wrong := with(url.UserPassword("ada", "p@ss")), url.UserPassword("ada", "hunter2")
	must(t, exchange(t, right, connectionTo(namespace)))

	for name, c := range map[string]struct {
		d         servicebus.Dialer
		namespace string
		texts     []string
	}{
		"no password":    {with(nil), namespace, []string{"HTTP 407", "the proxy's user and password"}},
		"wrong password": {with(wrong), namespace, []string{"HTTP 407"}},
		"not allowed": {right, "fabrikam.servicebus.windows.net", []string{
			"the proxy " + proxy.Address() + " answers CONNECT fabrikam.servicebus.windows.net:443 with HTTP 403",
			"allow CONNECT to fabrikam.servicebus.windows.net:443",
		}},
		"unreachable": {right, "dead.servicebus.windows.net", []string{
			"HTTP 502", "the proxy cannot reach dead.servicebus.windows.net:443",
		}},
		"no such proxy": {
			servicebus.Dialer{WebSockets: true, Proxy: &url.URL{Scheme: "http", Host: "127.0.0.1:1", User: wrong}},
			namespace,
			[]string{"TCP does not reach the proxy 127.0.0.1:1"},
		},
		"unknown proxy": {
			servicebus.Dialer{WebSockets: true, Proxy: &url.URL{Scheme: "http", Host: "proxy.invalid:3128"}},
			namespace,
			[]string{"DNS does not resolve proxy.invalid"},
		},
		"inspected": {
			servicebus.Dialer{WebSockets: true, Proxy: right.Proxy},
			namespace,
			[]string{"TLS with " + namespace + ":443", `comes from "Contoso, Contoso Root"`, "your proxy that inspects TLS"},
		},
	} {
		_, err := dial(t, c.d, c.namespace)
		wantError(t, err, c.texts...)
		if strings.Contains(fmt.Sprint(err), "hunter2") || strings.Contains(fmt.Sprint(err), "p@ss") {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
}

func TestDialerEndsAfterAProxyThatNeverAnswers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	got := make(chan net.Conn, 1)
	go func() {
		if c, err := silent.Accept(); err == nil {
			got <- c
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	d := servicebus.Dialer{WebSockets: true, Proxy: &url.URL{Scheme: "http", Host: silent.Addr().String()}}
	_, err = d.Dial(ctx, azservicebus.NewWebSocketConnArgs{Host: "wss://" + namespace})
	defer (<-got).Close()
	if err == nil || !strings.Contains(err.Error(), "the proxy "+silent.Addr().String()+" does not let through to "+namespace+":443: "+
		"no answer in time") {
		t.Errorf("%v", err)
	}
}

func TestDialerWebSocketRefused(t *testing.T) {
	a := networktest.NewAuthority(t)
	for status, want := range map[int]string{
		http.StatusOK:           "HTTP 200 (OK) instead of 101",
		http.StatusFound:        "HTTP 302",
		http.StatusUnauthorized: "the namespace's firewall",
		http.StatusNotFound:     "HTTP 404",
	} {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://login.example.com/")
			w.WriteHeader(status)
		}))
		server.TLS = a.Server(namespace)
		server.StartTLS()
		_, err := dial(t, servicebus.Dialer{
			Network: network.New(a.Pool()), WebSockets: true, Endpoint: server.Listener.Addr().String(),
		}, namespace)
		wantError(t, err, "the WebSocket upgrade of "+server.Listener.Addr().String()+" fails", want)
		server.Close()
	}
}

// TestDialerWebSocketDeadline checks that a deadline of the client library ends a read of a silent
// connection, and that the client library does not take the error for its caller's.
func TestDialerWebSocketDeadline(t *testing.T) {
	a := networktest.NewAuthority(t)
	address := networktest.WebSockets(t, a.Server(namespace), bus(t), nil)
	c, err := dial(t, servicebus.Dialer{Network: network.New(a.Pool()), WebSockets: true, Endpoint: address}, namespace)
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = io.ReadFull(c, make([]byte, 1))
	wantError(t, err, "nothing came in time")
	_ = c.Close()
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
