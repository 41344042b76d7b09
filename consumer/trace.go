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

// The spans of one message: its processing, whose parent is the producer's; under it each call that was made for it, and its
// settlement. A user's call is made once for all messages that wait; it stands under the newest's. Without a Tracer
// there are none, and nothing is spent. Names follow https://opentelemetry.io/docs/specs/semconv/messaging/azure-messaging.

// beginSpan begins the message's span.
func (c *Consumer) beginSpan(m *message) {
	if c.Tracer == nil {
		return
	}
	_, m.span = c.Tracer.Start(c.producersContext(m.ReceivedMessage), "process "+m.from.Entity,
		trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(m.received), trace.WithAttributes(
			attribute.String("messaging.system", "servicebus"),
			attribute.String("messaging.operation.type", "process"),
			attribute.String("messaging.destination.name", m.from.Entity),
			attribute.String("messaging.message.id", c.foreign(m.MessageID)),
			attribute.Int("messaging.servicebus.message.delivery_count", int(m.DeliveryCount)),
		))
}

// producersContext takes the parent from the message: traceparent is the standard's name, Diagnostic-Id the one of Azure's older
// SDKs for the same (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-end-to-end-tracing).
func (c *Consumer) producersContext(m *azservicebus.ReceivedMessage) context.Context {
	carrier := propagation.MapCarrier{}
	for _, name := range []string{"Diagnostic-Id", "traceparent"} {
		if value, ok := m.ApplicationProperties[name].(string); ok {
			carrier["traceparent"] = value
		}
	}
	if value, ok := m.ApplicationProperties["tracestate"].(string); ok && !c.HashUsers { // free text
		carrier["tracestate"] = value
	}
	return propagation.TraceContext{}.Extract(context.Background(), carrier)
}

// spanContext is what others begin their spans under; invalid when tracing is off.
func (m *message) spanContext() trace.SpanContext {
	if m.span == nil {
		return trace.SpanContext{}
	}
	return m.span.SpanContext()
}

// endSpan ends the message's span with what became of its events.
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

// childSpan begins a span under a message's.
func (c *Consumer) childSpan(parent trace.SpanContext, name string) trace.Span {
	_, span := c.Tracer.Start(trace.ContextWithSpanContext(context.Background(), parent), name, trace.WithSpanKind(trace.SpanKindClient))
	return span
}

// settleSpan begins the span of the message's settlement.
func (c *Consumer) settleSpan(m *message, todo action) trace.Span {
	if c.Tracer == nil {
		return nil
	}
	return c.childSpan(m.spanContext(), "settle "+string(todo))
}

// endSpan ends a span. The error's text may name the user, and is left out.
func endSpan(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "failed")
	}
	span.End()
}

// traceFields name the message's span in a log line.
func (m *message) traceFields() []zap.Field {
	span := m.spanContext()
	if !span.IsValid() {
		return nil
	}
	return []zap.Field{zap.String("traceId", span.TraceID().String()), zap.String("spanId", span.SpanID().String())}
}

// observeLatency counts a revocation's latency, with the trace as an exemplar if it is sampled.
func (c *Consumer) observeLatency(m *message, seconds float64) {
	span := m.spanContext()
	if observer, ok := c.Metrics.Latency.(prometheus.ExemplarObserver); ok && span.IsSampled() {
		observer.ObserveWithExemplar(seconds, prometheus.Labels{"trace_id": span.TraceID().String()})
		return
	}
	c.Metrics.Latency.Observe(seconds)
}
