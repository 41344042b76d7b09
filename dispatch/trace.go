package dispatch

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/revoker"
)

// attemptSpan begins the span of the attempt that w has just started, under that of the newest message it is made for. Without
// a Tracer there is none.
func (d *Dispatcher) attemptSpan(w *dedupe.Work) trace.Span {
	if d.parts.Tracer == nil {
		return nil
	}
	parent, _ := w.Tag().(trace.SpanContext)
	_, span := d.parts.Tracer.Start(trace.ContextWithSpanContext(context.Background(), parent), "POST revokeSignInSessions", trace.WithSpanKind(trace.SpanKindClient))
	return span
}

// endAttemptSpan ends the span. The error's text may name the user, and is left out.
func endAttemptSpan(span trace.Span, attempt revoker.Attempt, err error) {
	if span == nil {
		return
	}
	span.SetAttributes(
		attribute.String("http.request.method", "POST"),
		attribute.String("microsoft.request_id", attempt.RequestID),
		attribute.String("microsoft.client_request_id", attempt.ClientRequestID),
	)
	if attempt.Status != 0 {
		span.SetAttributes(attribute.Int("http.response.status_code", attempt.Status))
	}
	if err != nil {
		span.SetStatus(codes.Error, "failed")
	}
	span.End()
}
