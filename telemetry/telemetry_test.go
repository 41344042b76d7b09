package telemetry_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"
	"unicode/utf8"

	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/telemetry"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

func TestHealthIsAliveAfterARecentHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := telemetry.NewHealth(time.Minute)
		time.Sleep(time.Minute)
		if !h.Alive() {
			t.Error("dead at the limit")
		}
		time.Sleep(time.Second)
		if h.Alive() {
			t.Error("alive without a heartbeat")
		}
		h.Beat("queue")
		if !h.Alive() {
			t.Error("dead after a heartbeat")
		}
		h.Beat("topic")
		time.Sleep(time.Minute)
		h.Beat("topic")
		time.Sleep(time.Second)
		if h.Alive() {
			t.Error("alive although one of two loops has stopped")
		}
	})
}

func TestHealthIsReadyWhenEveryPartIs(t *testing.T) {
	h := telemetry.NewHealth(time.Minute, "a", "b")
	if len(h.Problems()) != 2 {
		t.Errorf("parts that were not tried are well: %v", h.Problems())
	}
	if !h.Report("a", "") || h.Report("a", "") {
		t.Error("a change must be told once")
	}
	if p := h.Problems(); len(p) != 1 || p["b"] == "" {
		t.Errorf("problems %v", p)
	}
	h.Report("b", "")
	if len(h.Problems()) != 0 {
		t.Errorf("problems %v", h.Problems())
	}
	if !h.Report("a", "broken") {
		t.Error("a new problem must be told")
	}
}

func TestServerAnswersOnTheOperationsPort(t *testing.T) {
	health, metrics := telemetry.NewHealth(time.Minute, "graph"), telemetry.NewMetrics("v1", "abc")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := telemetry.Serve(l, health, metrics.Registry)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		resp, err := client.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("/healthz: %d", code)
	}
	health.Report("graph", "no token")
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, `"graph":"no token"`) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	health.Report("graph", "")
	if code, body := get("/readyz"); code != 200 || !strings.Contains(body, `"ready":true`) {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, `session_revoker_build_info{commit="abc",version="v1"} 1`) {
		t.Errorf("/metrics: %d %s", code, body)
	}
	if code, _ := get("/debug"); code != 404 {
		t.Errorf("/debug: %d", code)
	}
	if err := server.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// Another process may have the port by now.
	if err := l.(*net.TCPListener).SetDeadline(time.Now()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the port is open after Close: %v", err)
	}
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, "warn", "json")
	if err != nil {
		t.Fatal(err)
	}
	log.Info("not this")
	log.Warn("this", zap.Duration("wait", 90*time.Second))
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(),
		&line); err != nil || line["msg"] != "this" || line["level"] != "warn" || line["wait"] != "1m30s" {
		t.Errorf("%s, %v", &out, err)
	}
	if _, err := time.Parse(time.RFC3339Nano, line["time"].(string)); err != nil {
		t.Error(err)
	}
	for _, c := range [][2]string{{"loud", "json"}, {"info", "xml"}} {
		if _, err := telemetry.NewLogger(&out, c[0], c[1]); err == nil {
			t.Errorf("%v was accepted", c)
		}
	}
}

func TestLoggerEscapesControlCharacters(t *testing.T) {
	const hostile = "a\u009b2J\u0085\u202e\u2066\u200b\u2028\ufeff\x7f\x1b[31m\r\n2026\U000e0041ö日"
	for _, format := range []string{"json", "console"} {
		var out bytes.Buffer
		log, err := telemetry.NewLogger(&out, "info", format)
		if err != nil {
			t.Fatal(err)
		}
		log.With(zap.String("with", hostile)).Named(hostile).Info(hostile, zap.String("field", hostile),
			zap.Error(errors.New(hostile)), zap.Any("any", map[string]string{hostile: hostile}), zap.ByteString("bytes", []byte{'x', 0x9b}))
		for _, r := range strings.TrimSuffix(out.String(), "\n") {
			if r != '\t' && (unicode.IsControl(r) || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)) {
				t.Errorf("%s: %U in %q", format, r, &out)
			}
		}
		if !utf8.Valid(out.Bytes()) || !strings.Contains(out.String(), "ö日") {
			t.Errorf("%s: %q", format, &out)
		}
		if format == "json" {
			var line map[string]any
			if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["field"] != hostile || line["msg"] != hostile {
				t.Errorf("the JSON means something else: %v, %q", err, line)
			}
		}
	}
}

var update = flag.Bool("update", false, "write docs/metrics.md")

func TestMetricsAreDocumented(t *testing.T) {
	m := telemetry.NewMetrics("v", "c")
	m.Watch(func() telemetry.State { return telemetry.State{Guard: []telemetry.Guard{{Type: "device.stolen"}}} })
	m.Events.WithLabelValues("q", "revoked", "")
	m.GraphCalls.WithLabelValues("revoked", "200")
	m.Lookups.WithLabelValues("serial-number", "found")
	m.Settlements.WithLabelValues("complete", "ok")
	m.Renewals.WithLabelValues("ok")
	m.Deferred.WithLabelValues("q")
	m.Scheduled.WithLabelValues("q")
	m.LastReceive.WithLabelValues("q")
	m.AuditFailures.WithLabelValues("file")
	m.TransmitterKeys.WithLabelValues("okta")
	m.TransmitterKeysStale.WithLabelValues("okta")
	m.Replicas.WithLabelValues("away")
	in := telemetry.NewIngestMetrics("v", "c")
	in.Requests.WithLabelValues("okta", "accepted")
	in.LastAccepted.WithLabelValues("okta")
	in.Expected.WithLabelValues("okta")
	in.StreamWorking.WithLabelValues("okta")
	families, err := m.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	more, err := in.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families = append(families, more...)
	slices.SortStableFunc(families, func(a, b *dto.MetricFamily) int { return strings.Compare(a.GetName(), b.GetName()) })
	var page strings.Builder
	page.WriteString("# Metrics\n\nOf `/metrics` on the operations port, beside Go's and the process's own. " +
		"Alerts and a dashboard for them are in\n" +
		"[the chart](../deploy/helm/session-revoker/files). " +
		"Made by `go test ./telemetry -update`.\n\n" +
		"| metric | type | labels | what it is |\n|---|---|---|---|\n")
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "session_revoker_") {
			continue
		}
		var labels []string
		for _, label := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+label.GetName()+"`")
		}
		fmt.Fprintf(&page, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "),
			f.GetHelp())
	}
	const file = "../docs/metrics.md"
	if *update {
		if err := os.WriteFile(file, []byte(page.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != page.String() {
		t.Errorf("docs/metrics.md is out of date: run go test ./telemetry -update (%v)", err)
	}
}
