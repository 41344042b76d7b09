package telemetry

import (
	"context"
	"crypto/x509"
	"fmt"
	"os"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.37.0"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// Tracing exports spans by OTLP over HTTP. It is safe for concurrent use.
type Tracing struct {
	// Tracer makes the spans. It is nil if tracing is off, which then costs nothing.
	Tracer   trace.Tracer
	provider *sdktrace.TracerProvider
	stop     func() // ends the requests in flight
}

// NewTracing reads the standard environment variables
// (https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables). Tracing is on
// if OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is set, unless
// OTEL_SDK_DISABLED is true or OTEL_TRACES_EXPORTER is none. Headers, sampler, batches, and
// resource attributes follow the same variables. The error names the variable that is not supported
// or not usable. version becomes an attribute of the resource. roots are the authorities to trust,
// unless OTEL_EXPORTER_OTLP_CERTIFICATE names others; nil means the system's.
func NewTracing(version string, roots *x509.CertPool) (*Tracing, error) {
	// The Graph SDK makes six spans of its own for each call. They are not exported; without a
	// no-op provider they would cost as much as an event's log line.
	otel.SetTracerProvider(noop.NewTracerProvider())
	endpoint := os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") + os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
	if endpoint == "" || os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return &Tracing{}, nil
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"} {
		if protocol := os.Getenv(name); protocol != "" && protocol != "http/protobuf" {
			return nil, fmt.Errorf("%s: %q is not supported: use http/protobuf, with the collector's port for it (4318 by default)",
				name, protocol)
		}
	}
	client, err := newOTLPClient(roots)
	if err != nil {
		return nil, err
	}
	exporter, err := otlptrace.New(context.Background(), client)
	if err != nil {
		return nil, fmt.Errorf("export traces to %s: %w", endpoint, err)
	}
	// The environment overrides these defaults.
	about, err := resource.New(context.Background(),
		resource.WithAttributes(semconv.ServiceName("session-revoker"), semconv.ServiceVersion(version)),
		resource.WithFromEnv(), resource.WithTelemetrySDK())
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	tracing := newTracing(sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about)))
	tracing.stop = client.stop
	return tracing, nil
}

func newTracing(provider *sdktrace.TracerProvider) *Tracing {
	return &Tracing{Tracer: provider.Tracer("github.com/session-revoker/session-revoker"), provider: provider, stop: func() {}}
}

// Close exports the remaining spans, until ctx ends.
func (t *Tracing) Close(ctx context.Context) error {
	if t.provider == nil {
		return nil
	}
	// The provider calls the exporter's Shutdown only after its last batch.
	defer context.AfterFunc(ctx, t.stop)()
	return t.provider.Shutdown(ctx)
}
