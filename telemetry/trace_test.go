package telemetry_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/telemetry"
)

func TestTracingIsOffUnlessTheEnvironmentAsksForIt(t *testing.T) {
	for name, env := range map[string]map[string]string{
		"nothing set": {},
		"disabled":    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
		"no exporter": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
	} {
		t.Run(name, func(t *testing.T) {
			for key, value := range env {
				t.Setenv(key, value)
			}
			tracing, err := telemetry.NewTracing("v1", nil)
			if err != nil || tracing.Tracer != nil || tracing.Close(t.Context()) != nil {
				t.Errorf("%+v, %v", tracing, err)
			}
		})
	}
}

func TestTracesAreExportedByHTTP(t *testing.T) {
	got := make(chan string, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got <- r.URL.Path + " " + r.Header.Get("Content-Type")
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	tracing, err := telemetry.NewTracing("v1", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Tracer.Start(t.Context(), "test")
	span.End()
	if err := tracing.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if request := <-got; request != "/v1/traces application/x-protobuf" {
		t.Errorf("exported to %s", request)
	}
}

func TestTracingProtocolThatIsNotSupportedIsAClearError(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
	t.Setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
	if _, err := telemetry.NewTracing("v1", nil); err == nil || !strings.Contains(err.Error(), "http/protobuf") {
		t.Errorf("%v", err)
	}
}
