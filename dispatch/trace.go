package dispatch

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// traced makes an attempt in a span under that of the newest message it is made for. The error's text may name the user, and is
// left out. It is a function of its own to keep its variables off the stacks of all attempts where there is no Tracer.
func (d *Dispatcher) traced(ctx context.Context, w *dedupe.Work, user event.User) (revoker.Attempt, error) {
	parent, _ := w.Tag().(trace.SpanContext)
	_, span := d.deps.Tracer.Start(trace.ContextWithSpanContext(context.Background(), parent), "POST revokeSignInSessions", trace.WithSpanKind(trace.SpanKindClient))
	attempt, err := d.deps.Revoker.Revoke(ctx, user)
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
	return attempt, err
}
