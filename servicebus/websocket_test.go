package servicebus_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/coder/websocket"

	emulator "github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/network/networktest"
	"github.com/session-revoker/session-revoker/sanitizer"
	"github.com/session-revoker/session-revoker/servicebus"
)

// bus is an embedded broker with the queue "q".
func bus(t *testing.T) *emulator.Broker {
	t.Helper()
	broker, err := emulator.New(emulator.Config{Queues: []emulator.QueueConfig{{Name: "q"}}})
	must(t, err)
	t.Cleanup(func() { _ = broker.Close() })
	return broker
}

// emulated serves a broker as Service Bus does on port 443, but without TLS. It returns the
// connection string.
func emulated(t *testing.T, handler http.Handler) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return emulator.ConnectionString(server.Listener.Addr().String(), emulator.DefaultKey)
}

// exchange sends a large message and receives it.
func exchange(t *testing.T, d servicebus.Dialer, connection string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
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
	return emulator.SecureConnectionString(host, emulator.DefaultKey)
}

func TestDialerWebSockets(t *testing.T) {
	broker := bus(t)
	identity := networktest.NewIdentity(t, namespace)
	must(t, exchange(t, servicebus.Dialer{
		Network: network.New(identity.Pool), WebSockets: true, Endpoint: identity.Serve(t, broker.Web()),
	}, connectionTo(namespace)))

	plain := emulated(t, broker.Web())
	must(t, exchange(t, servicebus.Dialer{Plain: servicebus.ForEmulator(plain), WebSockets: true}, plain))
}

// TestDialerWebSocketMessagesHoldAnyPartOfAFrame sends what the broker says in messages of 100
// bytes: the specification ties messages to no frames (AMQP over WebSocket, §2.3). A ping comes
// before each.
func TestDialerWebSocketMessagesHoldAnyPartOfAFrame(t *testing.T) {
	broker := bus(t)
	must(t, exchange(t, servicebus.Dialer{Plain: true, WebSockets: true}, emulated(t, http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			to, err := broker.NewClientConn()
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
				_ = socket.CloseNow() // a ping waits for a pong that nobody reads any more
			}()
			_, _ = io.CopyBuffer(pinging{from, socket}, struct{ io.Reader }{to}, make([]byte, 100))
		}))))
}

// pinging sends a ping before each message, and waits for the pong.
type pinging struct {
	io.Writer
	socket *websocket.Conn
}

func (p pinging) Write(b []byte) (int, error) {
	if err := p.socket.Ping(context.Background()); err != nil {
		return 0, err
	}
	return p.Writer.Write(b)
}

func TestDialerWebSocketsThroughAProxy(t *testing.T) {
	identity := networktest.NewIdentity(t, namespace)
	server := identity.Serve(t, bus(t).Web())
	proxy := networktest.NewProxy(t, map[string]string{namespace + ":443": server, "dead.servicebus.windows.net:443": "127.0.0.1:1"})
	proxy.Demand("Basic " + base64.StdEncoding.EncodeToString([]byte("ada:p@ss")))
	with := func(user *url.Userinfo) servicebus.Dialer {
		return servicebus.Dialer{
			Network: network.New(identity.Pool), WebSockets: true, Proxy: &url.URL{Scheme: "http", Host: proxy.Address(), User: user},
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
			[]string{"DNS does not resolve the proxy proxy.invalid", "check the proxy's URL"},
		},
		"inspected": {
			servicebus.Dialer{WebSockets: true, Proxy: right.Proxy},
			namespace,
			[]string{"TLS with " + namespace + ":443", "comes from " + networktest.Issuer, "your proxy that inspects TLS"},
		},
	} {
		_, err := dial(t, c.d, c.namespace)
		wantError(t, err, c.texts...)
		if strings.Contains(fmt.Sprint(err), "hunter2") || strings.Contains(fmt.Sprint(err), "p@ss") {
			t.Errorf("%s: the error holds the password: %v", name, err)
		}
	}
}

func TestDialerWebSocketsThroughAProxyWithTLS(t *testing.T) {
	identity := networktest.NewIdentity(t, namespace)
	proxy := networktest.NewProxy(t, map[string]string{namespace + ":443": identity.Serve(t, bus(t).Web())})
	other := networktest.NewIdentity(t, "127.0.0.1") // the certificate of the proxy is for the proxy only
	identity.Pool.AppendCertsFromPEM(other.Authority)
	must(t, exchange(t, servicebus.Dialer{
		Network: network.New(identity.Pool), WebSockets: true, Proxy: &url.URL{Scheme: "https", Host: proxy.Secure(t, other)},
	}, connectionTo(namespace)))
}

// elapsing is a context whose deadline passes when the channel is closed.
type elapsing struct {
	context.Context
	elapsed chan struct{}
}

func (e elapsing) Done() <-chan struct{} { return e.elapsed }

func (e elapsing) Err() error {
	select {
	case <-e.elapsed:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

func TestDialerEndsAfterAProxyThatNeverAnswers(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer silent.Close()
	ctx := elapsing{t.Context(), make(chan struct{})}
	var proxy sync.WaitGroup
	proxy.Go(func() {
		c, err := silent.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = c.Read(make([]byte, 1)) // the request
		close(ctx.elapsed)
		_, _ = io.Copy(io.Discard, c) // until the dialer gives up
	})
	d := servicebus.Dialer{WebSockets: true, Proxy: &url.URL{Scheme: "http", Host: silent.Addr().String()}}
	_, err = d.Dial(ctx, azservicebus.NewWebSocketConnArgs{Host: "wss://" + namespace})
	proxy.Wait()
	if err == nil || !strings.Contains(err.Error(), "the proxy "+silent.Addr().String()+" does not let through to "+namespace+":443: "+
		"no answer in time") {
		t.Errorf("%v", err)
	}
}

func TestDialerWebSocketRefused(t *testing.T) {
	identity := networktest.NewIdentity(t, namespace)
	for status, want := range map[int]string{
		http.StatusOK:           "HTTP 200 (OK) instead of 101",
		http.StatusFound:        "HTTP 302",
		http.StatusUnauthorized: "the namespace's firewall",
		http.StatusNotFound:     "HTTP 404",
	} {
		server := identity.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "https://login.example.com/")
			w.WriteHeader(status)
		}))
		_, err := dial(t, servicebus.Dialer{Network: network.New(identity.Pool), WebSockets: true, Endpoint: server}, namespace)
		wantError(t, err, "the WebSocket upgrade of "+server+" fails", want)
	}
}

// TestDialerWebSocketDeadline checks that a deadline of the client library ends a read of a silent
// connection, and that the client library does not take the error for its caller's.
func TestDialerWebSocketDeadline(t *testing.T) {
	identity := networktest.NewIdentity(t, namespace)
	address := identity.Serve(t, bus(t).Web())
	c, err := dial(t, servicebus.Dialer{Network: network.New(identity.Pool), WebSockets: true, Endpoint: address}, namespace)
	must(t, err)
	must(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = io.ReadFull(c, make([]byte, 1))
	wantError(t, err, "nothing came in time")
	_ = c.Close()
}
