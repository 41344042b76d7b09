package status_test

import (
	"context"
	"encoding/json"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/status"
	"github.com/session-revoker/session-revoker/telemetry"
)

// worker is the operations port of a worker.
type worker struct {
	address string
	metrics *telemetry.Metrics
	health  *telemetry.Health
}

// newWorker serves the port of a worker that is well and whose state can be changed.
func newWorker(t *testing.T, state telemetry.State) worker {
	t.Helper()
	w := worker{metrics: telemetry.NewMetrics("1.2.3", "abc"), health: telemetry.NewHealth(time.Minute, "graph", "guard", "servicebus")}
	for _, part := range []string{"graph", "guard", "servicebus"} {
		w.health.Report(part, "")
	}
	if state.PerSecond == 0 {
		state.PerSecond = math.Inf(1)
	}
	if state.Guard == nil {
		state.Guard = []telemetry.Guard{{Type: "device.stolen", Users: 3, Limit: 10}, {Type: "user.offboarded", Limit: 10}}
	}
	w.metrics.Watch(func() telemetry.State { return state })
	w.metrics.LastReceive.WithLabelValues("session-events").SetToCurrentTime()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := telemetry.Serve(l, w.health, w.metrics.Registry)
	t.Cleanup(func() { _ = server.Close(context.Background()) })
	w.address = "http://" + l.Addr().String()
	return w
}

// of asks the workers and judges.
func of(t *testing.T, addresses ...string) status.Status {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	return status.Judge(time.Now(), status.AskAll(t.Context(), client, addresses), []status.Queue{{Name: "session-events"}})
}

// want fails the test unless the status has the state and names each text.
func want(t *testing.T, s status.Status, state status.State, answer string, texts ...string) {
	t.Helper()
	if s.State != state || !strings.Contains(s.Answer, answer) {
		t.Errorf("%s: %s; want %s: %s", s.State, s.Answer, state, answer)
	}
	all := strings.Join(append(append(s.Causes, s.Notes...), s.Unknown...), "\n")
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("no %q in:\n%s", text, all)
		}
	}
	if _, err := json.Marshal(s); err != nil {
		t.Errorf("no JSON: %v", err)
	}
}

func TestStatusOfWorkersThatWork(t *testing.T) {
	idle := newWorker(t, telemetry.State{})
	want(t, of(t, idle.address), status.Working, "People are being signed out. Nobody waits.", "not named")
	busy := newWorker(t, telemetry.State{Waiting: 400, UntilLast: 90, PerSecond: 4.5, HeldFor: 7 * time.Second, SuspectedUsers: true})
	busy.metrics.LastRevoked.Set(1e9)
	s := of(t, idle.address, busy.address)
	want(t, s, status.Working, "About 400 wait, the last one for about 1m30s",
		"Graph throttles: no call begins for 7s", "The fault is the users'")
	if r := s.Replicas[1]; r.PerSecond != 4.5 || r.Version != "1.2.3" || !s.LastRevoked.Equal(time.Unix(1e9, 0)) || r.Guard[0].Users != 3 ||
		r.Sources[0].Name != "session-events" || r.Never {
		t.Errorf("%+v", r)
	}
	if s.Replicas[0].PerSecond != 0 {
		t.Error("a worker that was never throttled has a rate")
	}
}

func TestStatusSaysWhyNobodyIsSignedOut(t *testing.T) {
	w := newWorker(t, telemetry.State{Waiting: 12, UntilLast: math.Inf(1), BreakerOpen: true})
	w.metrics.LastRevoked.Set(1_772_366_400)
	w.health.Report("graph", "Graph is not available (HTTP 503)")
	s := of(t, w.address)
	want(t, s, status.Stopped,
		"People are not being signed out, none since 2026-03-01 12:00:00Z: Graph: Graph is not available (HTTP 503).")
	if !s.Never || s.UsersWaiting != 12 {
		t.Errorf("%+v", s)
	}
	open := newWorker(t, telemetry.State{BreakerOpen: true})
	want(t, of(t, open.address), status.Stopped, "none since the workers started: the circuit breaker is open")
	silent := newWorker(t, telemetry.State{})
	silent.metrics.LastReceive.WithLabelValues("session-events").Set(float64(time.Now().Add(-10 * time.Minute).Unix()))
	want(t, of(t, silent.address), status.Stopped, "Service Bus has not answered for session-events since")
	cut := newWorker(t, telemetry.State{})
	cut.health.Report("servicebus", "connection refused")
	want(t, of(t, cut.address), status.Stopped, "Service Bus: connection refused")
	want(t, of(t, w.address, silent.address), status.Stopped, "not being signed out")
}

func TestStatusNamesWhatIsPartlyWrong(t *testing.T) {
	well, open := newWorker(t, telemetry.State{}), newWorker(t, telemetry.State{BreakerOpen: true})
	want(t, of(t, well.address, open.address), status.Partly, "by 1 of 2 workers only", open.address+": the circuit breaker")
	want(t, of(t, well.address, "http://127.0.0.1:1"), status.Partly, "by 1 of 2 workers; the others could not be asked",
		"http://127.0.0.1:1 could not be asked: no connection", "that could not be asked")
	tripped := newWorker(t, telemetry.State{
		Guard: []telemetry.Guard{{Type: "device.stolen"}, {Type: "user.offboarded", Users: 9, Limit: 9, Tripped: true}},
	})
	tripped.health.Report("guard", "tripped")
	want(t, of(t, tripped.address), status.Partly, "People are being signed out, except for user.offboarded: the volume guard has tripped.")
	all := newWorker(t, telemetry.State{Guard: []telemetry.Guard{{Users: 9, Limit: 9, Tripped: true}}})
	all.health.Report("guard", "tripped: more people than the limit")
	want(t, of(t, all.address), status.Stopped, "guard: tripped")
}

func TestStatusIsUnknownWithoutAWorker(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/readyz"):
			_, _ = w.Write([]byte(`{"ready":true}`))
		default:
			_, _ = w.Write([]byte("up 1\n"))
		}
	}))
	defer other.Close()
	redirect := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:1/", http.StatusFound))
	defer redirect.Close()
	huge := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 5<<20))
	}))
	defer huge.Close()
	want(t, of(t), status.Unknown, "no worker was named")
	want(t, of(t, other.URL, redirect.URL, huge.URL, "http://host.invalid:9090"), status.Unknown, "no worker could be asked",
		"is this the operations port of worker run?", "answers /readyz with HTTP 302", "larger than")
}

func TestAddress(t *testing.T) {
	for text, address := range map[string]string{
		"10.0.0.5:9090": "http://10.0.0.5:9090", ":9090": "http://127.0.0.1:9090", "0.0.0.0:9090": "http://127.0.0.1:9090",
		"[::]:9090": "http://127.0.0.1:9090", "https://worker.internal/": "https://worker.internal", "[::1]:9090": "http://[::1]:9090",
		"worker": "", "ftp://worker:9": "", "http://u:p@worker:9090": "", "worker:9090/metrics": "", "a b:9": "", "": "",
	} {
		if got, err := status.Address(text); got != address || (err == nil) != (address != "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, address)
		}
	}
}

func TestStatusSurvivesWhateverAPortAnswers(t *testing.T) {
	for _, page := range []string{
		"session_revoker_build_info{version=\"\u202e\"} NaN\nsession_revoker_users_waiting -5\nsession_revoker_forecast_seconds NaN\n" +
			"session_revoker_last_revoked_timestamp_seconds 1e300\nsession_revoker_guard_limit{type=\"x\"} 1e99\n",
		"session_revoker_build_info 1\nsession_revoker_rate_limit_calls_per_second +Inf\n",
		"{", "\x00\x01", "session_revoker_build_info{", strings.Repeat("a", 1<<20),
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/readyz" {
				_, _ = w.Write([]byte(`{"ready":true,"problems":{"x\u0007":"y"}}`))
				return
			}
			_, _ = w.Write([]byte(page))
		}))
		s := of(t, server.URL)
		server.Close()
		if _, err := json.Marshal(s); err != nil {
			t.Errorf("%v", err)
		}
	}
}
