package consumer

import (
	"context"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// The spans of one message are: its processing, whose parent is the producer's span; and, as
// children of that, each attempt that was made for it, and its settlement. One attempt for a user
// is made for all messages that wait; its span is a child of the newest message's. Without a Tracer
// there are no spans, and they cost nothing. The names follow
// https://opentelemetry.io/docs/specs/semconv/messaging/azure-messaging.

// beginSpan begins the message's span.
func (c *Consumer) beginSpan(m *message) {
	if c.deps.Tracer == nil {
		return
	}
	_, m.span = c.deps.Tracer.Start(c.producersContext(m.ReceivedMessage), "process "+m.from.Entity,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(m.received), trace.WithAttributes(
			attribute.String("messaging.system", "servicebus"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.destination.name", m.from.Entity),
			attribute.String("messaging.message.id", c.foreign(m.MessageID)),
			attribute.Int("messaging.servicebus.message.delivery_count", int(m.DeliveryCount)),
		))
}

// producersContext returns a context with the producer's span, which the message names: in the
// property traceparent, as the standard has it, or in Diagnostic-Id, as Azure's older SDKs have it
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-end-to-end-tracing).
func (c *Consumer) producersContext(m *azservicebus.ReceivedMessage) context.Context {
	carrier := propagation.MapCarrier{}
	for _, name := range []string{"Diagnostic-Id", "traceparent"} {
		if value, ok := m.ApplicationProperties[name].(string); ok {
			carrier["traceparent"] = value
		}
	}
	if value, ok := m.ApplicationProperties["tracestate"].(string); ok && !c.cfg.HashUsers { // free text
		carrier["tracestate"] = value
	}
	return propagation.TraceContext{}.Extract(context.Background(), carrier)
}

// spanContext returns the context of the message's span; an invalid one when tracing is off.
func (m *message) spanContext() trace.SpanContext {
	if m.span == nil {
		return trace.SpanContext{}
	}
	return m.span.SpanContext()
}

// endSpan ends the message's span, with the results of its events.
func (m *message) endSpan(results []result) {
	if m.span == nil {
		return
	}
	outcomes := make([]string, len(results))
	for i, r := range results {
		outcomes[i] = string(r.outcome)
		if r.reason != "" {
			outcomes[i] += " " + string(r.reason)
			m.span.SetStatus(codes.Error, string(r.reason))
		}
	}
	m.span.SetAttributes(attribute.StringSlice("session_revoker.outcomes", outcomes))
	m.span.End()
}

// childSpan begins a span that is a child of a message's.
func (c *Consumer) childSpan(parent trace.SpanContext, name string) trace.Span {
	ctx := trace.ContextWithSpanContext(context.Background(), parent)
	_, span := c.deps.Tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindClient))
	return span
}

// settleSpan begins the span of the message's settlement.
func (c *Consumer) settleSpan(m *message, todo action) trace.Span {
	if c.deps.Tracer == nil {
		return nil
	}
	return c.childSpan(m.spanContext(), "settle "+string(todo))
}

// endSpan ends a span, which may be nil. It leaves the error's text out, which may name the user.
func endSpan(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "failed")
	}
	span.End()
}

// traceFields returns the fields that identify the message's span in a log line.
func (m *message) traceFields() []zap.Field {
	span := m.spanContext()
	if !span.IsValid() {
		return nil
	}
	return []zap.Field{zap.String("traceId", span.TraceID().String()), zap.String("spanId", span.SpanID().String())}
}

// observeLatency observes a revocation's latency, with the trace as an exemplar if it is sampled.
func (c *Consumer) observeLatency(m *message, seconds float64) {
	span := m.spanContext()
	if observer, ok := c.deps.Metrics.Latency.(prometheus.ExemplarObserver); ok && span.IsSampled() {
		observer.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	c.deps.Metrics.Latency.Observe(seconds)
}
