package telemetry_test

import (
	"compress/gzip"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"go.opentelemetry.io/otel"
	collector "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/session-revoker/session-revoker/telemetry"
)

// export exports one span with the given name, and returns the error that the exporter reported.
func export(t *testing.T, name string) error {
	t.Helper()
	return exportTrusting(t, name, nil)
}

// exportTrusting is export to a collector whose certificate one of the authorities has issued.
func exportTrusting(t *testing.T, name string, roots *x509.CertPool) error {
	t.Helper()
	var reported error
	before := otel.GetErrorHandler()
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { reported = err }))
	defer otel.SetErrorHandler(before)
	tracing, err := telemetry.NewTracing("v1", roots)
	if err != nil {
		t.Fatal(err)
	}
	_, span := tracing.Tracer.Start(t.Context(), name)
	span.End()
	if err := tracing.Close(t.Context()); err != nil {
		return err
	}
	return reported
}

func TestTracesFollowTheEnvironmentsVariables(t *testing.T) {
	var got *http.Request
	var spans collector.TracesData
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			var err error
			if body, err = gzip.NewReader(r.Body); err != nil {
				t.Error(err)
				return
			}
		}
		raw, err := io.ReadAll(body)
		if err != nil || proto.Unmarshal(raw, &spans) != nil {
			t.Errorf("the body is not readable: %v", err)
		}
	}))
	defer server.Close()
	for name, c := range map[string]struct {
		env                      map[string]string
		path, encoding, password string // the password is a header
	}{
		"base endpoint":       {map[string]string{"ENDPOINT": server.URL + "/base/"}, "/base/v1/traces", "", ""},
		"endpoint for traces": {map[string]string{"ENDPOINT": "http://192.0.2.1", "TRACES_ENDPOINT": server.URL}, "/", "", ""},
		"compression":         {map[string]string{"TRACES_ENDPOINT": server.URL + "/x", "COMPRESSION": "gzip"}, "/x", "gzip", ""},
		"headers": {
			map[string]string{"ENDPOINT": server.URL, "HEADERS": "a=1,password=no", "TRACES_HEADERS": "a = 1, password = a%20%3Db ,"},
			"/v1/traces", "", "a =b",
		},
	} {
		t.Run(name, func(t *testing.T) {
			for variable, value := range c.env {
				t.Setenv("OTEL_EXPORTER_OTLP_"+variable, value)
			}
			if err := export(t, name); err != nil {
				t.Fatal(err)
			}
			if got.URL.Path != c.path || got.Header.Get("Content-Encoding") != c.encoding || got.Header.Get("Password") != c.password {
				t.Errorf("exported to %s with %v", got.URL.Path, got.Header)
			}
			if exported := spans.GetResourceSpans()[0].GetScopeSpans()[0].GetSpans()[0].GetName(); exported != name {
				t.Errorf("exported the span %q", exported)
			}
		})
	}
}

func TestTracesReportWhatTheCollectorRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		status      int
		contentType string
		body        string
		report      string
	}{
		"a client error":  {http.StatusUnauthorized, "text/plain", "no such tenant", "no such tenant"},
		"a partial error": {http.StatusOK, "application/x-protobuf", "\x0a\x08\x08\x03\x12\x04late", "rejected 3 spans"},
		"accepted":        {http.StatusOK, "application/x-protobuf", "", ""},
		"not protobuf":    {http.StatusOK, "application/x-protobuf", "\xff\xff", ""},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", c.contentType)
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, c.body)
			}))
			defer server.Close()
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
			err := export(t, name)
			if (err == nil) != (c.report == "") || err != nil && !strings.Contains(err.Error(), c.report) {
				t.Errorf("reported %v, want %q", err, c.report)
			}
		})
	}
}

// A redirect would carry the headers, which can be secrets, and the spans to another server.
func TestTracesFollowNoRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another server got a request with %v", r.Header)
	}))
	defer other.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.RedirectHandler(other.URL, status))
		t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
		t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
		if err := export(t, "span"); err == nil || !strings.Contains(err.Error(), strconv.Itoa(status)) {
			t.Errorf("%d: %v", status, err)
		}
		server.Close()
	}
}

// What a collector writes into its answer costs little, and does not reach a terminal as it is.
func TestTracesErrorsAreShortAndPlain(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = fmt.Fprintf(conn, "HTTP/1.1 400 \x1b[2J%s\r\nContent-Length: 0\r\n\r\n", strings.Repeat("A", 40_000))
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	if err := export(t, "span"); err == nil || len(err.Error()) > 300 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("%.400v", err)
	}
}

func TestTracesTrustTheConfiguredAuthorities(t *testing.T) {
	got := 0
	server := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { got++ }))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	if err := exportTrusting(t, "span", roots); err != nil || got != 1 {
		t.Errorf("%d requests, %v", got, err)
	}
	if err := exportTrusting(t, "span", x509.NewCertPool()); err == nil || got != 1 {
		t.Errorf("a certificate of nobody is trusted: %d requests, %v", got, err)
	}
}

func TestTracesVariableThatIsNotUsableIsAClearError(t *testing.T) {
	for variable, value := range map[string]string{
		"ENDPOINT":           "collector:4318",
		"TRACES_ENDPOINT":    "ftp://collector",
		"TIMEOUT":            "10s",
		"HEADERS":            "secret-without-a-name",
		"TRACES_HEADERS":     "a=%zz",
		"CERTIFICATE":        "/does/not/exist",
		"TRACES_CERTIFICATE": "otlp_test.go",
	} {
		t.Run(variable, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
			t.Setenv("OTEL_EXPORTER_OTLP_"+variable, value)
			_, err := telemetry.NewTracing("v1", nil)
			if err == nil || !strings.Contains(err.Error(), variable) || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
		})
	}
}
