package deadletter

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/event"
)

// Content returns what the event decoder needs of a message: its body, content type, subject,
// and application properties.
func Content(m *azservicebus.ReceivedMessage) event.Message {
	content := event.Message{Properties: m.ApplicationProperties, Body: m.Body}
	if m.ContentType != nil {
		content.ContentType = *m.ContentType
	}
	if m.Subject != nil {
		content.Subject = *m.Subject
	}
	if raw := m.RawAMQPMessage; raw != nil {
		switch {
		case raw.Body.Value != nil:
			content.BodyKind = "value"
		case len(raw.Body.Sequence) > 0:
			content.BodyKind = "sequence"
		case len(raw.Body.Data) > 1:
			// The SDK fills Body only from a single data section. AMQP allows several, to be
			// joined.
			content.Body = bytes.Join(raw.Body.Data, nil)
		}
	}
	return content
}

// Indexes parses the comma-separated list of PropertyFailed and PropertyOnly. It returns nil, which
// means every event, for a list that is malformed: acting on too many events is harmless, acting on
// too few is not.
func Indexes(list string) []int {
	if list == "" || len(list) > MaxProperty {
		return nil
	}
	var indexes []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n >= event.MaxEvents {
			return nil
		}
		indexes = append(indexes, n)
	}
	return indexes
}
