package ingest

import (
	"crypto/sha256"
	"encoding/base64"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// The application properties of a message.
const (
	// PropertySource is the name of the source. Mappings can tell senders apart by it.
	PropertySource = "source"
	// PropertyReceived is when the request came, in the form of RFC 3339.
	PropertyReceived = "received"
)

const (
	// maxMessageID is Service Bus' limit, in characters.
	maxMessageID = 128
	// maxContentType bounds a content type, in bytes.
	maxContentType = 256
	// maxAttributes and maxAttribute bound the attributes of a CloudEvent in binary form: their
	// number, and each in bytes.
	maxAttributes = 32
	maxAttribute  = 1024
)

// message returns the message for a request: the body as it is, and what is known about it.
func (s *Server) message(in *incoming, contentType string) *azservicebus.AMQPAnnotatedMessage {
	properties := map[string]any{
		PropertySource:   in.source.Name,
		PropertyReceived: in.now.UTC().Format(time.RFC3339Nano),
	}
	if in.source.headersProven {
		addAttributes(properties, in.Header)
	}
	id := in.source.messageID(in)
	m := &azservicebus.AMQPAnnotatedMessage{
		Body:                  azservicebus.AMQPAnnotatedMessageBody{Data: [][]byte{in.body}},
		Properties:            &azservicebus.AMQPAnnotatedMessageProperties{MessageID: id, ContentType: &contentType},
		ApplicationProperties: properties,
	}
	if s.cfg.Sessions {
		m.Properties.GroupID = &id
	}
	return m
}

// messageID returns the MessageID of a request.
func (s *source) messageID(in *incoming) string {
	if in.eventID != "" {
		return s.Name + ":" + in.eventID
	}
	own := ""
	if s.id != nil {
		own = s.id(in)
	}
	return MessageID(s.Name, own, in.body)
}

// MessageID returns the ID of the message for an event, which is the same however often the sender
// repeats it: the name of the source, the sender's own id if there is one, and a hash of the body. own
// may be empty. The ID is for people, and for queues where Service Bus detects duplicates. There,
// whoever can choose an id must not suppress another event that has it: the name keeps senders apart,
// and the hash the events of one sender.
func MessageID(source, own string, body []byte) string {
	sum := sha256.Sum256(body)
	hash := base64.RawURLEncoding.EncodeToString(sum[:16])
	if own == "" {
		return source + ":sha256-" + hash
	}
	id := source + ":" + own + ":" + hash
	if utf8.RuneCountInString(id) > maxMessageID || strings.ContainsFunc(id, func(r rune) bool {
		return r == utf8.RuneError || !unicode.IsPrint(r)
	}) {
		sum := sha256.Sum256([]byte(own))
		return source + ":id-" + base64.RawURLEncoding.EncodeToString(sum[:16]) + ":" + hash
	}
	return id
}

// contentType returns the content type of the message: what the sender says, or the source's
// setting. Without either, the first character of the body decides.
func (s *source) contentType(in *incoming) (string, *answer) {
	if s.ContentType != "" {
		return s.ContentType, nil
	}
	given := in.Header.Get("Content-Type")
	if given == "" {
		switch first := strings.TrimSpace(string(in.body[:min(len(in.body), 64)])); {
		case strings.HasPrefix(first, "{"), strings.HasPrefix(first, "["):
			return "application/json", nil
		case strings.HasPrefix(first, "<"):
			return "application/xml", nil
		}
	}
	if mediaType, _, err := mime.ParseMediaType(given); err != nil || len(given) > maxContentType || !isText(mediaType) {
		return "", refuse(http.StatusUnsupportedMediaType, unsupported,
			"the content type is not accepted: send JSON or XML, or set the source's content_type",
			"Accept", "application/json, application/*+json, application/xml, text/*")
	}
	return given, nil
}

func isText(mediaType string) bool {
	switch mediaType {
	case "application/json", "application/xml", "application/x-www-form-urlencoded", "application/x-ndjson",
		"application/jwt", "application/secevent+jwt":
		return true
	}
	return strings.HasPrefix(mediaType, "text/") ||
		strings.HasPrefix(mediaType, "application/") && (strings.HasSuffix(mediaType, "+json") || strings.HasSuffix(mediaType, "+xml"))
}

// addAttributes adds the attributes of a CloudEvent in binary form. Over HTTP they are headers, ce-id
// for example, in percent-encoding; over AMQP they are properties, cloudEvents:id.
func addAttributes(properties map[string]any, header http.Header) {
	if header.Get("Ce-Specversion") == "" {
		return
	}
	n := 0
	for name, values := range header {
		attribute, ok := strings.CutPrefix(name, "Ce-")
		if !ok || len(values) != 1 || len(attribute) > 64 || len(values[0]) > maxAttribute || n == maxAttributes {
			continue
		}
		value, err := url.PathUnescape(values[0])
		if err != nil || !utf8.ValidString(value) {
			value = strings.ToValidUTF8(values[0], "�")
		}
		properties["cloudEvents:"+strings.ToLower(attribute)] = value
		n++
	}
}

// beginSpan begins the span of a message, whose parent is the sender's, and puts it into the
// message. Without a Tracer, the message gets the sender's span as it is.
func (s *Server) beginSpan(in *incoming, m *azservicebus.AMQPAnnotatedMessage) trace.Span {
	ctx := propagation.TraceContext{}.Extract(in.Context(), propagation.MapCarrier{"traceparent": in.Header.Get("Traceparent")})
	var span trace.Span
	if s.deps.Tracer != nil {
		ctx, span = s.deps.Tracer.Start(ctx, "publish "+s.cfg.Entity,
			trace.WithSpanKind(trace.SpanKindProducer), trace.WithTimestamp(in.now),
			trace.WithAttributes(
				attribute.String("messaging.system", "servicebus"),
				attribute.String("messaging.operation.type", "send"),
				attribute.String("messaging.destination.name", s.cfg.Entity),
				attribute.String("session_revoker.source", in.source.Name),
			))
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if value := carrier["traceparent"]; value != "" {
		m.ApplicationProperties["traceparent"] = value
	}
	return span
}

func endSpan(span trace.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		span.SetStatus(codes.Error, "failed")
	}
	span.End()
}
