package consumer_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

func TestTraceHasSpansFromTheProducerToTheSettlement(t *testing.T) {
	for _, property := range []string{"traceparent", "Diagnostic-Id"} {
		exporter := tracetest.NewInMemoryExporter()
		tracer := sdktrace.NewTracerProvider(sdktrace.WithSyncer(exporter)).Tracer("test")
		inBubble(t, settings{tracer: tracer}, func(t *testing.T, w *world) {
			const traceID, parentID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
			w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: 503})
			m := about(ada)
			m.ApplicationProperties = map[string]any{property: "00-" + traceID + "-" + parentID + "-01"}
			w.send(m, &azservicebus.Message{Body: []byte("rubbish")})
			w.run()
			w.settled(5 * time.Minute)
			var names []string
			process := ""
			for _, span := range exporter.GetSpans() {
				if span.SpanContext.TraceID().String() != traceID {
					continue
				}
				names = append(names, span.Name)
				if strings.HasPrefix(span.Name, "process") {
					process = span.SpanContext.SpanID().String()
					if span.Parent.SpanID().String() != parentID {
						t.Errorf("%s: parent %s, want the producer's", span.Name, span.Parent.SpanID())
					}
				}
			}
			want := []string{"POST revokeSignInSessions", "POST revokeSignInSessions", "settle complete", "process events"}
			if !slices.Equal(names, want) {
				t.Errorf("%s: spans %q, want %q", property, names, want)
			}
			for _, span := range exporter.GetSpans() {
				if span.SpanContext.TraceID().String() == traceID && !strings.HasPrefix(span.Name, "process") &&
					span.Parent.SpanID().String() != process {
					t.Errorf("%s is not under the message's span", span.Name)
				}
				for _, a := range span.Attributes {
					if strings.Contains(a.Value.String(), ada.ID) || strings.Contains(span.Status.Description, ada.ID) {
						t.Errorf("%s names the user: %v", span.Name, a)
					}
				}
			}
			families, err := w.metrics.Registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			exemplar := ""
			for _, f := range families {
				if f.GetName() != "session_revoker_enqueue_to_revoked_seconds" {
					continue
				}
				for _, bucket := range f.GetMetric()[0].GetHistogram().GetBucket() {
					for _, label := range bucket.GetExemplar().GetLabel() {
						exemplar = label.GetValue()
					}
				}
			}
			if exemplar != traceID {
				t.Errorf("the latency's exemplar is %q, want the trace", exemplar)
			}
			if lines := strings.Join(w.lines(), "\n"); !strings.Contains(lines, `"traceId":"`+traceID+`"`) {
				t.Errorf("no log line carries the trace:\n%s", lines)
			}
		})
	}
}
