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

// traced makes an attempt in a span, whose parent is the span of the newest message that the
// attempt is for. It leaves out the error's text, which may name the user. It is not part of
// revoke, so that its variables are not on the stacks of attempts without a Tracer.
func (d *Dispatcher) traced(ctx context.Context, w *dedupe.Work, user event.User) (revoker.Attempt, error) {
	parent, _ := w.Tag().(trace.SpanContext)
	method, name := "POST", "POST revokeSignInSessions"
	if by, _ := user.Lookup(); by != event.NoLookup {
		method, name = "GET", "GET look-up by "+by.String()
	}
	_, span := d.deps.Tracer.Start(trace.ContextWithSpanContext(context.Background(), parent), name,
		trace.WithSpanKind(trace.SpanKindClient))
	attempt, err := d.deps.Revoker.Revoke(ctx, user)
	span.SetAttributes(
		attribute.String("http.request.method", method),
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
