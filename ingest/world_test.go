package ingest_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/graph"
	bus "github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/servicebustest"
	"github.com/session-revoker/session-revoker/ingest"
	"github.com/session-revoker/session-revoker/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	queue    = "events"
	theKey   = "the-secret-of-this-webhook"
	otherKey = "the-secret-that-came-before"
)

// world is a Server between senders and an embedded Service Bus, in a synctest bubble.
type world struct {
	t        *testing.T
	broker   *servicebustest.Broker
	server   *ingest.Server
	listener *graph.MemoryListener
	logs     *observer.ObservedLogs
	metrics  *telemetry.IngestMetrics
	health   *telemetry.Health
	stop     func() error
	cfg      ingest.Config
	deps     ingest.Dependencies
}

// settings is what a test changes.
type settings struct {
	sources   []config.IngestSource
	transport http.RoundTripper
	validate  ingest.Decoder
	sessions  bool
	proxies   []string
	wrap      func(ingest.Sender) ingest.Sender
	change    func(*ingest.Config)
	streams   []config.IngestStream
	tokens    ingest.Tokens
}

// inWorld runs a test in a bubble. It begins in the year 2000.
func inWorld(t *testing.T, s settings, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, s)
		test(w)
		if err := w.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		w.noSecrets()
	})
}

func newWorld(t *testing.T, s settings) *world {
	t.Helper()
	w := &world{t: t, metrics: telemetry.NewIngestMetrics("v", "c"), health: telemetry.NewHealth(ingest.MaxSilence, ingest.BusPart)}
	w.broker = servicebustest.StartWith(t, bus.Config{
		Queues: []bus.QueueConfig{{Name: queue, RequiresSession: s.sessions}},
		Keys:   []bus.Key{bus.DefaultKey},
	})
	client := w.broker.Client(t)
	own, err := client.NewSender(queue, nil)
	if err != nil {
		t.Fatal(err)
	}
	var sender ingest.Sender = own
	if s.wrap != nil {
		sender = s.wrap(own)
	}
	core, logs := observer.New(zapcore.DebugLevel)
	w.logs = logs
	cfg := ingest.Config{
		Ingest: config.Ingest{
			Sources: s.sources, Streams: s.streams, TrustedProxies: s.proxies, Validate: s.validate != nil,
			Timeout: 10 * time.Second, MaxBody: 64 << 10, MaxConnections: 64, Concurrency: 8, AddressRate: 1000,
		},
		Entity: queue, Authority: "https://login.microsoftonline.com/", Sessions: s.sessions,
	}
	if s.change != nil {
		s.change(&cfg)
	}
	w.cfg, w.deps = cfg, ingest.Dependencies{
		Sender: sender, Log: zap.New(core), Metrics: w.metrics, Health: w.health, Transport: s.transport, Decoder: s.validate,
		Tokens: s.tokens,
	}
	w.start(context.Background())
	return w
}

// start starts a Server until stop is called. When hard ends, it stops at once.
func (w *world) start(hard context.Context) {
	w.t.Helper()
	var err error
	if w.server, err = ingest.New(w.cfg, w.deps); err != nil {
		w.t.Fatal(err)
	}
	w.listener = graph.NewMemoryListener()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	server, listener := w.server, w.listener
	go func() { ended <- server.Run(ctx, hard, listener, time.Minute) }()
	w.stop = func() error { cancel(); return <-ended }
	synctest.Wait()
}

// noSecrets fails if a log line holds a secret or a body.
func (w *world) noSecrets() {
	w.t.Helper()
	for _, line := range w.logs.All() {
		text := line.Message
		for _, f := range line.Context {
			text += " " + f.Key + "=" + f.String
		}
		for _, secret := range []string{theKey, otherKey, "ada@contoso.com", "Bearer "} {
			if strings.Contains(text, secret) {
				w.t.Errorf("a log line holds %q: %s", secret, text)
			}
		}
	}
}

// secretFile writes a secret.
func secretFile(t *testing.T, value string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(name, []byte(value+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// request makes a request. header has names and values in turn.
func request(method, url, body string, header ...string) *http.Request {
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		if header[i+1] == "" {
			r.Header.Del(header[i])
		} else {
			r.Header.Set(header[i], header[i+1])
		}
	}
	return r
}

// do answers a request.
func (w *world) do(r *http.Request) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	w.server.ServeHTTP(recorder, r)
	return recorder
}

func (w *world) post(path, body string, header ...string) *httptest.ResponseRecorder {
	return w.do(request(http.MethodPost, path, body, header...))
}

// want fails unless an answer has a status.
func (w *world) want(what string, got *httptest.ResponseRecorder, status int) {
	w.t.Helper()
	if got.Code != status {
		w.t.Errorf("%s: %d %s, want %d", what, got.Code, strings.TrimSpace(got.Body.String()), status)
	}
}

// queued returns the messages on the queue.
func (w *world) queued() []bus.PeekedMessage {
	w.t.Helper()
	messages, err := w.broker.Peek(queue, 0, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	return messages
}

// wantQueued fails unless the queue has n messages. It returns the last one.
func (w *world) wantQueued(what string, n int) bus.PeekedMessage {
	w.t.Helper()
	messages := w.queued()
	if len(messages) != n {
		w.t.Fatalf("%s: %d messages on the queue, want %d", what, len(messages), n)
	}
	if n == 0 {
		return bus.PeekedMessage{}
	}
	return messages[n-1]
}

// client returns a client over real HTTP in memory.
func (w *world) client() *http.Client {
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return w.listener.Dial(ctx) },
		DisableKeepAlives: true,
	}
	return &http.Client{Transport: transport}
}
