package ingest_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/ingest"
	"github.com/session-revoker/session-revoker/telemetry"
)

// counting is a Sender that only counts.
type counting struct{ sent atomic.Int64 }

func (c *counting) SendAMQPAnnotatedMessage(
	context.Context, *azservicebus.AMQPAnnotatedMessage, *azservicebus.SendAMQPAnnotatedMessageOptions,
) error {
	c.sent.Add(1)
	return nil
}

func (c *counting) NewMessageBatch(context.Context, *azservicebus.MessageBatchOptions) (*azservicebus.MessageBatch, error) {
	return &azservicebus.MessageBatch{}, nil
}

func (c *counting) SendMessageBatch(context.Context, *azservicebus.MessageBatch, *azservicebus.SendMessageBatchOptions) error {
	return nil
}

// everyKind is a source of each kind.
func everyKind(f *testing.F) []config.IngestSource {
	f.Helper()
	file := f.TempDir() + "/secret"
	standard := file + "-standard"
	write(f, file, theKey)
	write(f, standard, standardSecret)
	sources := []config.IngestSource{
		{Verify: "basic", Username: "u"},
		{Verify: "workspace-one", Username: "u"},
		{Verify: "hmac", Header: "X-Signature", TimestampHeader: "X-Time", Signed: []string{"timestamp", ".", "body"}},
		{Verify: "standard-webhooks", SecretFile: standard},
		{Verify: "entra", Tenant: tenant, Audience: audience, Caller: caller, SecretFile: "-"},
		{Verify: "header", Header: "X-Key"},
		{Verify: "jamf", Header: "X-Key"},
	}
	for _, kind := range []string{
		"bearer", "okta", "fleet", "github", "bamboohr", "hibob", "personio", "deel", "rippling", "graph", "event-grid", "cloudevents",
	} {
		sources = append(sources, config.IngestSource{Verify: kind})
	}
	for i := range sources {
		s := &sources[i]
		s.Name, s.Path = s.Verify, "/"+s.Verify
		switch s.SecretFile {
		case "":
			s.SecretFile = file
		case "-":
			s.SecretFile = ""
		}
	}
	return sources
}

// FuzzRequest sends requests by strangers: whatever they hold, nothing is put on the queue, nothing
// panics, and the answer is no success unless it is a handshake.
func FuzzRequest(f *testing.F) {
	sender := &counting{}
	metrics := telemetry.NewIngestMetrics("v", "c")
	server, err := ingest.New(ingest.Config{
		Ingest: config.Ingest{
			Sources: everyKind(f), Timeout: time.Second, MaxBody: 4096, MaxConnections: 16, Concurrency: 64, AddressRate: 100_000,
			TrustedProxies: []string{"192.0.2.0/24"},
		},
		Authority: "https://login.microsoftonline.com/",
	}, ingest.Dependencies{
		Sender: sender, Log: zap.NewNop(), Metrics: metrics, Health: telemetry.NewHealth(time.Minute, ingest.BusPart),
		Transport: &authority{},
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]string{
		{"POST", "/okta", "", "Authorization: x", event},
		{"GET", "/okta", "", "X-Okta-Verification-Challenge: x", ""},
		{"POST", "/basic", "", "Authorization: Basic dTpw", event},
		{"POST", "/standard-webhooks", "", "webhook-id: 1\nwebhook-timestamp: 1\nwebhook-signature: v1,AAAA v1a,AAAA", event},
		{"POST", "/entra", "", "Authorization: Bearer eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.e30.AAAA", event},
		{"POST", "/github", "", "X-Hub-Signature-256: sha256=00", event},
		{"POST", "/hmac", "", "X-Signature: 00\nX-Time: 99999999999999999999", event},
		{"POST", "/graph", "validationToken=%00", "", `{"value":[{"clientState":null}]}`},
		{"POST", "/event-grid", "code=x&code=y", "aeg-event-type: SubscriptionValidation", validation},
		{"OPTIONS", "/event-grid", "", "WebHook-Request-Origin: eventgrid.azure.net", ""},
		{"POST", "/fleet/x", "secret=%zz", "X-Forwarded-For: 1.2.3.4, ::ffff:1.2.3.4%25x,", event},
		{"POST", "/cloudevents", "", "ce-specversion: 1.0\nce-id: %", event},
		{"POST", "/bearer/..%2f", "", "Content-Encoding: gzip", event},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3], seed[4])
	}
	f.Fuzz(func(t *testing.T, method, path, query, header, body string) {
		r := httptest.NewRequest(http.MethodPost, "http://x/", strings.NewReader(body))
		r.Method, r.URL.Path, r.URL.RawQuery = method, path, query
		for line := range strings.Lines(header) {
			name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
			r.Header.Add(strings.TrimSpace(name), strings.TrimSpace(value))
		}
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, r)
		text := recorder.Body.String()
		isHandshake := method == "OPTIONS" || method == "GET" || strings.Contains(query, "validationToken")
		if recorder.Code < 300 && !isHandshake || recorder.Code < 200 || len(text) > 16<<10 {
			t.Errorf("%d %.100s", recorder.Code, text)
		}
		if strings.Contains(text, "defect") {
			t.Error("a panic")
		}
		if sender.sent.Load() > 0 {
			t.Error("a stranger's message is on the queue")
		}
	})
}

// FuzzDelivery sends requests of a sender that is proven: whatever the body and the content type, the
// message can be sent, and its ID is bounded.
func FuzzDelivery(f *testing.F) {
	file := f.TempDir() + "/secret"
	write(f, file, theKey)
	check := &checking{}
	server, err := ingest.New(ingest.Config{
		Ingest: config.Ingest{
			Sources: []config.IngestSource{{Name: "events", Path: "/events", Verify: "cloudevents", SecretFile: file}},
			Timeout: 10 * time.Second, MaxBody: 4096, MaxConnections: 16, Concurrency: 64, AddressRate: 100_000,
		},
	}, ingest.Dependencies{
		Sender: check, Log: zap.NewNop(), Metrics: telemetry.NewIngestMetrics("v", "c"),
		Health: telemetry.NewHealth(time.Minute, ingest.BusPart),
	})
	if err != nil {
		f.Fatal(err)
	}
	listener := newNoListener()
	ctx, cancel := context.WithCancel(context.Background())
	hard, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, hard, listener, time.Second) }()
	f.Cleanup(func() { cancel(); stop(); <-ended })
	f.Add("application/json", event, "", "")
	f.Add("application/cloudevents+json", `{"specversion":"1.0","id":"1","source":"/a"}`, "", "")
	f.Add("", `[{"id":"1"}]`, "%E2%82", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
	f.Add("text/xml; charset=x", "<a/>", strings.Repeat("x", 300), "rubbish")
	f.Fuzz(func(t *testing.T, contentType, body, id, traceparent string) {
		check.t.Store(t)
		r := httptest.NewRequest(http.MethodPost, "http://x/events", strings.NewReader(body))
		for name, value := range map[string]string{
			"Authorization": "Bearer " + theKey, "Content-Type": contentType, "Ce-Id": id, "Ce-Specversion": id, "Traceparent": traceparent,
		} {
			r.Header.Set(name, value)
		}
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, r)
		if c := recorder.Code; c != 200 && c != 400 && c != 413 && c != 415 && c != 503 {
			t.Errorf("%d %s", c, recorder.Body)
		}
		if strings.Contains(recorder.Body.String(), "defect") {
			t.Error("a panic")
		}
	})
}

// checking is a Sender that checks messages.
type checking struct {
	counting
	t atomic.Pointer[testing.T]
}

func (c *checking) SendAMQPAnnotatedMessage(
	_ context.Context, m *azservicebus.AMQPAnnotatedMessage, _ *azservicebus.SendAMQPAnnotatedMessageOptions,
) error {
	t := c.t.Load()
	if id, ok := m.Properties.MessageID.(string); !ok || utf8.RuneCountInString(id) > 128 || !utf8.ValidString(id) {
		t.Errorf("MessageID %q", id)
	}
	for name, value := range m.ApplicationProperties {
		if text, ok := value.(string); !ok || !utf8.ValidString(text) || !utf8.ValidString(name) || len(text) > 2048 {
			t.Errorf("property %q: %q", name, value)
		}
	}
	if !utf8.ValidString(*m.Properties.ContentType) {
		t.Errorf("content type %q", *m.Properties.ContentType)
	}
	return nil
}

func write(f *testing.F, name, text string) {
	f.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		f.Fatal(err)
	}
}

// newNoListener returns a listener to which nobody connects.
func newNoListener() net.Listener { return graph.NewMemoryListener() }
