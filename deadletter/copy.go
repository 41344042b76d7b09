package deadletter

import (
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
)

// Copy returns a message to send in the place of one that was received or peeked at. It keeps the
// body, whatever its kind, and the session, correlation and other properties. It leaves out what
// Service Bus added and everything under our names. enqueued is when Service Bus is to enqueue the
// copy: if the properties hold an expiry, the same lifetime begins then.
//
// The MessageID is new: duplicate detection would silently drop a message with the old one while the
// old message is completed. Copy must not be called for an unreadable message, which is a stand-in
// without its body.
func Copy(m *azservicebus.ReceivedMessage, enqueued time.Time) *azservicebus.AMQPAnnotatedMessage {
	raw := m.RawAMQPMessage
	sent := &azservicebus.AMQPAnnotatedMessage{
		Body:                  raw.Body,
		Footer:                raw.Footer,
		Header:                copyHeader(raw.Header),
		MessageAnnotations:    copyAnnotations(raw.MessageAnnotations),
		Properties:            copyProperties(raw.Properties, enqueued),
		ApplicationProperties: map[string]any{},
	}
	for name, value := range raw.ApplicationProperties {
		if IsProducers(name) {
			sent.ApplicationProperties[name] = value
		}
	}
	return sent
}

// IsProducers reports whether an application property is sent again: it is neither ours nor one that
// Service Bus writes into a dead letter.
func IsProducers(name string) bool {
	return !Reserved(name) && name != "DeadLetterReason" && name != "DeadLetterErrorDescription"
}

// copyHeader resets the delivery count.
func copyHeader(old *azservicebus.AMQPAnnotatedMessageHeader) *azservicebus.AMQPAnnotatedMessageHeader {
	if old == nil {
		return nil
	}
	header := *old
	header.DeliveryCount = 0
	return &header
}

// copyAnnotations keeps the producer's annotations and the partition key. The others belong to the
// broker: the sequence number, enqueued time, schedule, and so on.
func copyAnnotations(old map[any]any) map[any]any {
	kept := map[any]any{}
	for key, value := range old {
		if name, ok := key.(string); ok && strings.HasPrefix(name, "x-opt-") && name != "x-opt-partition-key" {
			continue
		}
		kept[key] = value
	}
	return kept
}

// copyProperties sets a new id, and moves the lifetime.
func copyProperties(old *azservicebus.AMQPAnnotatedMessageProperties, enqueued time.Time) *azservicebus.AMQPAnnotatedMessageProperties {
	properties := azservicebus.AMQPAnnotatedMessageProperties{}
	if old != nil {
		properties = *old
	}
	if created, expires := properties.CreationTime, properties.AbsoluteExpiryTime; expires != nil {
		properties.AbsoluteExpiryTime = nil
		if created != nil {
			properties.AbsoluteExpiryTime = new(enqueued.Add(expires.Sub(*created)))
			properties.CreationTime = &enqueued
		}
	}
	properties.MessageID = uuid.NewString()
	return &properties
}
