package telemetry

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/net/http/httpguts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Defaults and bounds of the OTLP exporter specification
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter/).
const (
	otlpTracesPath  = "/v1/traces"
	otlpTimeout     = 10 * time.Second // of one request
	otlpMaxElapsed  = time.Minute      // of one batch, with its retries
	otlpMaxResponse = 64 << 10         // of the body, and of the headers
)

// otlpClient sends spans to a collector by OTLP over HTTP
// (https://opentelemetry.io/docs/specs/otlp/#otlphttp). It is safe for concurrent use.
//
// It replaces otlptracehttp. As of v1.47 that package imports grpc, and grpc imports html/template.
// The linker must then keep every exported method of every type in the program, which makes the
// worker's binary larger by half (see trace_notrace.go in google.golang.org/grpc).
type otlpClient struct {
	url      string
	shown    string // in errors: without a password
	headers  map[string]string
	compress bool
	http     *http.Client
	// stopped ends when Stop is called, and with it the requests in flight.
	stopped context.Context
	stop    context.CancelFunc
}

// newOTLPClient reads the standard environment variables
// (https://opentelemetry.io/docs/specs/otel/protocol/exporter/#configuration-options). A variable
// for traces overrides the one for all signals. The error names the variable that is not usable.
// OTEL_EXPORTER_OTLP_INSECURE has no effect: the specification applies it to endpoints without a
// scheme only, and HTTP endpoints have one.
func newOTLPClient(roots *x509.CertPool) (*otlpClient, error) {
	endpoint, err := otlpEndpoint()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := otlpTLS()
	if err != nil {
		return nil, err
	}
	if tlsConfig != nil && endpoint.Scheme != "https" {
		return nil, fmt.Errorf("OTEL_EXPORTER_OTLP_CERTIFICATE, OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: the endpoint %s is not https",
			endpoint.Redacted())
	}
	headers, err := otlpHeaders()
	if err != nil {
		return nil, err
	}
	timeout := otlpTimeout
	if name, value := otlpVariable("TIMEOUT"); value != "" {
		milliseconds, err := strconv.Atoi(value)
		if err != nil || milliseconds < 0 {
			return nil, fmt.Errorf("%s: %q is not a number of milliseconds", name, value)
		}
		timeout = time.Duration(milliseconds) * time.Millisecond
	}
	_, compression := otlpVariable("COMPRESSION")
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http documents the type
	if tlsConfig == nil {
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	if tlsConfig.RootCAs == nil {
		tlsConfig.RootCAs = roots
	}
	transport.TLSClientConfig = tlsConfig
	transport.MaxResponseHeaderBytes = otlpMaxResponse // errors quote header lines
	stopped, stop := context.WithCancel(context.Background())
	return &otlpClient{
		url:      endpoint.String(),
		shown:    endpoint.Redacted(),
		headers:  headers,
		compress: compression == "gzip",
		http: &http.Client{
			Transport: transport, Timeout: timeout,
			// A redirect would carry the headers, which can be secrets, and the spans to another
			// server.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		stopped: stopped,
		stop:    stop,
	}, nil
}

// otlpVariable returns the value of an environment variable and its full name: the one for traces,
// or else the one for all signals.
func otlpVariable(option string) (name, value string) {
	for _, prefix := range []string{"OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"} {
		name = prefix + option
		if value = strings.TrimSpace(os.Getenv(name)); value != "" {
			break
		}
	}
	return name, value
}

// otlpEndpoint returns the URL for traces. The endpoint for all signals is a base URL, the one for
// traces is complete.
func otlpEndpoint() (*url.URL, error) {
	name, value := otlpVariable("ENDPOINT")
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("%s is not an http or https URL", name) // its value may hold a password
	}
	switch {
	case !strings.Contains(name, "TRACES"):
		u.Path = path.Join("/", u.Path, otlpTracesPath)
	case u.Path == "":
		u.Path = "/"
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, nil
}

// otlpTLS returns nil if no certificate is configured.
func otlpTLS() (*tls.Config, error) {
	authorityName, authority := otlpVariable("CERTIFICATE")
	certificateName, certificate := otlpVariable("CLIENT_CERTIFICATE")
	_, key := otlpVariable("CLIENT_KEY")
	if authority == "" && (certificate == "" || key == "") {
		return nil, nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if authority != "" {
		pem, err := os.ReadFile(authority) //nolint:gosec // the environment names the file
		if err != nil {
			return nil, fmt.Errorf("%s: %w", authorityName, err)
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s: %s holds no certificate in PEM form", authorityName, authority)
		}
	}
	if certificate != "" && key != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", certificateName, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// otlpHeaders reads name=value pairs, separated by commas; values are percent-encoded. Errors do
// not quote values, which can be secrets.
func otlpHeaders() (map[string]string, error) {
	name, list := otlpVariable("HEADERS")
	headers := map[string]string{}
	for pair := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, encoded, found := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(encoded))
		if key = strings.TrimSpace(key); err != nil || !found || !httpguts.ValidHeaderFieldName(key) ||
			!httpguts.ValidHeaderFieldValue(value) {
			return nil, fmt.Errorf("%s: must be name=value pairs, separated by commas, with percent-encoded values", name)
		}
		headers[key] = value
	}
	return headers, nil
}

// Start does nothing: the first request connects.
func (c *otlpClient) Start(context.Context) error { return nil }

// Stop ends the requests in flight.
func (c *otlpClient) Stop(context.Context) error {
	c.stop()
	c.http.CloseIdleConnections()
	return nil
}

// UploadTraces sends one batch. It repeats a request that the collector is too busy for or that
// times out, for a minute at most.
func (c *otlpClient) UploadTraces(ctx context.Context, spans []*v1.ResourceSpans) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.stopped, cancel)()
	// The message is the same on the wire as an ExportTraceServiceRequest, whose package imports
	// grpc (see trace.proto).
	body, err := proto.Marshal(&v1.TracesData{ResourceSpans: spans})
	if err != nil {
		return err
	}
	if c.compress {
		body = compressed(body)
	}
	wait := &retryAfter{ExponentialBackOff: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(5*time.Second), backoff.WithMaxInterval(30*time.Second), backoff.WithMaxElapsedTime(otlpMaxElapsed))}
	return backoff.Retry(func() error { return c.post(ctx, body, wait) }, backoff.WithContext(wait, ctx))
}

// post sends one request. It returns a backoff.PermanentError if another attempt cannot help.
func (c *otlpClient) post(ctx context.Context, body []byte, wait *retryAfter) error {
	wait.atLeast = 0
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return backoff.Permanent(err)
	}
	request.Header.Set("User-Agent", "OTel OTLP Exporter Go/"+otlptrace.Version())
	for name, value := range c.headers {
		request.Header.Set(name, value)
	}
	request.Header.Set("Content-Type", "application/x-protobuf")
	if c.compress {
		request.Header.Set("Content-Encoding", "gzip")
	}
	response, err := c.http.Do(request)
	if err != nil {
		if failure, ok := errors.AsType[*url.Error](err); ok && failure.Timeout() && ctx.Err() == nil {
			return err
		}
		return backoff.Permanent(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, otlpMaxResponse))
	if err != nil {
		return backoff.Permanent(err)
	}
	switch response.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		wait.atLeast = parseRetryAfter(response.Header.Get("Retry-After"))
		return fmt.Errorf("%s answers %d: %s", c.shown, response.StatusCode, shortened(answer))
	}
	if response.StatusCode/100 != 2 {
		return backoff.Permanent(fmt.Errorf("%s answers %d: %s", c.shown, response.StatusCode, shortened(answer)))
	}
	if response.Header.Get("Content-Type") == "application/x-protobuf" {
		if err := partialSuccess(answer); err != nil {
			return backoff.Permanent(err)
		}
	}
	return nil
}

// retryAfter waits at least as long as the collector asks for.
type retryAfter struct {
	*backoff.ExponentialBackOff
	atLeast time.Duration
}

// NextBackOff returns backoff.Stop if the wait would go beyond the batch's time.
func (r *retryAfter) NextBackOff() time.Duration {
	next := r.ExponentialBackOff.NextBackOff()
	if next == backoff.Stop || r.GetElapsedTime()+r.atLeast > otlpMaxElapsed {
		return backoff.Stop
	}
	return max(next, r.atLeast)
}

func parseRetryAfter(value string) time.Duration {
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return max(0, time.Duration(seconds)*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

func compressed(body []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write(body) // a bytes.Buffer does not fail
	_ = w.Close()
	return b.Bytes()
}

// partialSuccess returns an error if the ExportTraceServiceResponse in answer reports spans that
// the collector rejected.
func partialSuccess(answer []byte) error {
	for _, field := range protoFields(answer) {
		if field.number != 1 {
			continue
		}
		var rejected uint64
		var message string
		for _, inner := range protoFields(field.bytes) {
			switch inner.number {
			case 1:
				rejected = inner.varint
			case 2:
				message = shortened(inner.bytes)
			}
		}
		if rejected > 0 || message != "" {
			return fmt.Errorf("the collector rejected %d spans: %s", rejected, message)
		}
	}
	return nil
}

type protoField struct {
	number protowire.Number
	varint uint64
	bytes  []byte
}

// protoFields returns the varints and byte fields of a Protocol Buffers message, up to the first
// that is not readable.
func protoFields(message []byte) []protoField {
	var fields []protoField
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			break
		}
		message = message[n:]
		field := protoField{number: number}
		switch kind {
		case protowire.VarintType:
			field.varint, n = protowire.ConsumeVarint(message)
		case protowire.BytesType:
			field.bytes, n = protowire.ConsumeBytes(message)
		default:
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			break
		}
		message = message[n:]
		fields = append(fields, field)
	}
	return fields
}

// shortened quotes at most 200 bytes of an answer.
func shortened(text []byte) string { return fmt.Sprintf("%.200q", text) }
