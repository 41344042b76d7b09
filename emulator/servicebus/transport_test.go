package servicebus_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/coder/websocket"

	"github.com/session-revoker/session-revoker/emulator/certificate"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// secured is a broker that serves TLS: AMQP on one port, and WebSocket with the administration API
// on another.
type secured struct {
	broker      *servicebus.Broker
	amqps, wss  string // addresses
	trust       *tls.Config
	websocketOf func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error)
}

func overTLS(t *testing.T, cfg servicebus.Config) secured {
	t.Helper()
	broker, err := servicebus.New(cfg)
	must(t, err)
	pair, authority, err := certificate.New("127.0.0.1")
	must(t, err)
	serving := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	trusted := x509.NewCertPool()
	trusted.AppendCertsFromPEM(authority)
	// go-amqp takes the host with its port for the name in the certificate.
	s := secured{broker: broker, trust: &tls.Config{RootCAs: trusted, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}}

	l, err := tls.Listen("tcp", "127.0.0.1:0", serving)
	must(t, err)
	s.amqps = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- broker.Serve(l) }()
	web := httptest.NewUnstartedServer(broker.Web())
	web.TLS = serving
	web.StartTLS()
	s.wss = web.Listener.Addr().String()
	transport := &http.Transport{TLSClientConfig: s.trust}
	s.websocketOf = func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		socket, _, err := websocket.Dial(ctx, args.Host, &websocket.DialOptions{
			Subprotocols: []string{"AMQPWSB10"}, HTTPClient: &http.Client{Transport: transport},
		})
		if err != nil {
			return nil, err
		}
		return websocket.NetConn(context.Background(), socket, websocket.MessageBinary), nil
	}
	t.Cleanup(func() {
		_ = broker.Close()
		must(t, <-served)
		transport.CloseIdleConnections()
		web.Close()
	})
	return s
}

// clients are a client for each transport over TLS.
func (s secured) clients(t *testing.T) map[string]*azservicebus.Client {
	t.Helper()
	retries := azservicebus.RetryOptions{RetryDelay: time.Millisecond}
	overTLS, err := azservicebus.NewClientFromConnectionString(servicebus.SecureConnectionString(s.amqps, servicebus.DefaultKey),
		&azservicebus.ClientOptions{TLSConfig: s.trust, RetryOptions: retries})
	must(t, err)
	overWebSocket, err := azservicebus.NewClientFromConnectionString(servicebus.SecureConnectionString(s.wss, servicebus.DefaultKey),
		&azservicebus.ClientOptions{NewWebSocketConn: s.websocketOf, RetryOptions: retries})
	must(t, err)
	t.Cleanup(func() {
		_ = overTLS.Close(context.Background())
		_ = overWebSocket.Close(context.Background())
	})
	return map[string]*azservicebus.Client{"TLS": overTLS, "WebSocket": overWebSocket}
}

func TestTransportsCarryMessagesOfAllSizes(t *testing.T) {
	s := overTLS(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}, MaxMessageSize: 4 << 20})
	for name, client := range s.clients(t) {
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		receiver, err := client.NewReceiverForQueue(queue, nil)
		must(t, err)
		for _, size := range []int{0, 1, 65_000, 3 << 20} {
			body := bytes.Repeat([]byte{'x'}, size)
			must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: body}, nil))
			got := receiveFrom(t, receiver, 1)[0]
			if !bytes.Equal(got.Body, body) {
				t.Errorf("%s: %d bytes, sent %d", name, len(got.Body), size)
			}
			must(t, receiver.CompleteMessage(ctx, got, nil))
		}
	}
}

func TestTransportsRecoverFromCutConnections(t *testing.T) {
	s := overTLS(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	for name, client := range s.clients(t) {
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		must(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil))
		s.broker.CloseConnections()
		if err := sender.SendMessage(ctx, &azservicebus.Message{}, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// dialRaw opens a WebSocket without a client library of Service Bus.
func (s secured) dialRaw(t *testing.T) *websocket.Conn {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: s.trust}
	t.Cleanup(transport.CloseIdleConnections)
	socket, answer, err := websocket.Dial(ctx, "wss://"+s.wss+servicebus.WebSocketPath, &websocket.DialOptions{
		Subprotocols: []string{"AMQPWSB10"}, HTTPClient: &http.Client{Transport: transport},
	})
	must(t, err)
	if got := answer.Header.Get("Sec-WebSocket-Protocol"); got != "AMQPWSB10" {
		t.Errorf("the subprotocol is %q", got)
	}
	t.Cleanup(func() { _ = socket.CloseNow() })
	return socket
}

func TestWebSocketMessagesMaySplitAndJoinFrames(t *testing.T) {
	s := overTLS(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	socket := s.dialRaw(t)
	r := newRaw(t, websocket.NetConn(ctx, socket, websocket.MessageBinary))
	for _, b := range amqp.HeaderSASL { // a message for each byte
		must(t, socket.Write(ctx, websocket.MessageBinary, []byte{b}))
	}
	r.header(amqp.HeaderSASL)
	wait[*amqp.SASLMechanisms](r)
	all, err := amqp.AppendFrame(nil, amqp.TypeSASL, 0, &amqp.SASLInit{Mechanism: "ANONYMOUS"})
	must(t, err)
	all = append(all, amqp.HeaderAMQP[:]...)
	all, err = amqp.AppendFrame(all, amqp.TypeAMQP, 0, &amqp.Open{ContainerID: "raw"})
	must(t, err)
	must(t, socket.Write(ctx, websocket.MessageBinary, all)) // one message for three things
	wait[*amqp.SASLOutcome](r)
	r.header(amqp.HeaderAMQP)
	wait[*amqp.Open](r)
}

func TestWebSocketOfAnIdlePeerEndsWithTheBroker(t *testing.T) {
	s := overTLS(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	socket := s.dialRaw(t)
	must(t, s.broker.Close())
	if _, _, err := socket.Read(ctx); err == nil {
		t.Error("the connection is still open")
	}
}

func TestWebSocketRefusalsSayWhatIsMissing(t *testing.T) {
	s := overTLS(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	transport := &http.Transport{TLSClientConfig: s.trust}
	defer transport.CloseIdleConnections()
	const offered = "Upgrade: websocket\nSec-WebSocket-Protocol: amqp"
	for name, c := range map[string]struct {
		header string // lines "Name: value"
		status int
		text   string
	}{
		"no upgrade":        {"", http.StatusUpgradeRequired, "WebSocket"},
		"no subprotocol":    {"Upgrade: websocket", http.StatusBadRequest, "AMQPWSB10"},
		"another":           {"Upgrade: websocket\nSec-WebSocket-Protocol: mqtt, soap", http.StatusBadRequest, "AMQPWSB10"},
		"a hostile page":    {offered + "\nOrigin: https://evil.example", http.StatusForbidden, "evil"},
		"an older protocol": {offered + "\nSec-WebSocket-Version: 8", http.StatusBadRequest, "version"},
	} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.wss+"/$servicebus/websocket", nil)
		must(t, err)
		request.Header = http.Header{
			"Connection": {"Upgrade"}, "Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"AAAAAAAAAAAAAAAAAAAAAA=="},
		}
		for line := range strings.Lines(c.header) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			request.Header.Set(key, value)
		}
		answer, err := transport.RoundTrip(request)
		must(t, err)
		text, _ := io.ReadAll(answer.Body)
		answer.Body.Close()
		if answer.StatusCode != c.status || !strings.Contains(string(text), c.text) {
			t.Errorf("%s: %d %s", name, answer.StatusCode, text)
		}
	}
}

// TestTransportOfAPeerThatNeverReadsEndsAtOnce: neither the alert of TLS nor the goodbye of
// WebSocket may wait for such a peer. A connection in memory holds nothing that the peer has not
// read, so the alert would wait for 5 s of virtual time.
func TestTransportOfAPeerThatNeverReadsEndsAtOnce(t *testing.T) {
	for name, connect := range map[string]func(t *testing.T, b *servicebus.Broker, l net.Listener, dial *http.Transport){
		"TLS": func(t *testing.T, b *servicebus.Broker, l net.Listener, dial *http.Transport) {
			go func() { _ = b.Serve(l) }() // ends with the broker
			conn, err := dial.DialTLSContext(ctx, "", "")
			must(t, err)
			t.Cleanup(func() { _ = conn.Close() })
		},
		"WebSocket": func(t *testing.T, b *servicebus.Broker, l net.Listener, dial *http.Transport) {
			web := &http.Server{Handler: b.Web()}
			go func() { _ = web.Serve(l) }()
			socket, _, err := websocket.Dial(ctx, "wss://memory"+servicebus.WebSocketPath, &websocket.DialOptions{
				Subprotocols: []string{"AMQPWSB10"}, HTTPClient: &http.Client{Transport: dial},
			})
			must(t, err)
			t.Cleanup(func() {
				_ = socket.CloseNow()
				_ = web.Close()
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				broker := newBroker(t, servicebus.Config{})
				pair, authority, err := certificate.New("127.0.0.1")
				must(t, err)
				trusted := x509.NewCertPool()
				trusted.AppendCertsFromPEM(authority)
				l := graph.NewMemoryListener()
				connect(t, broker, tls.NewListener(l, &tls.Config{
					Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12,
					SessionTicketsDisabled: true, // a ticket would wait for the peer, too
				}), &http.Transport{DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
					conn, err := l.Dial(ctx)
					if err != nil {
						return nil, err
					}
					secure := tls.Client(conn, &tls.Config{RootCAs: trusted, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
					return secure, secure.HandshakeContext(ctx)
				}})
				must(t, l.Close()) // virtual time would stand still while an accept loop waits for Close
				synctest.Wait()    // the broker has read all that the peer has sent
				began := time.Now()
				must(t, broker.Close())
				if took := time.Since(began); took > 0 {
					t.Errorf("Close waits %s for a peer that does not read", took)
				}
			})
		})
	}
}

func TestMessageSizesAreRead(t *testing.T) {
	for text, want := range map[string]int{
		"256KiB": 256 << 10, "262144": 256 << 10, "1MB": 1 << 20, "20 MiB": 20 << 20, "100mb": 100 << 20,
	} {
		if got, err := servicebus.ParseMessageSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{
		"", "1", "255KiB", "101MiB", "1GiB", "MiB", "-1MiB", "1.5MiB", "99999999999999999999", "1 M B", "2147483647MiB",
	} {
		if got, err := servicebus.ParseMessageSize(text); err == nil {
			t.Errorf("%q: read as %d", text, got)
		}
	}
}
