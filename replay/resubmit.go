package replay

import (
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/deadletter"
)

// Run is one replay or import.
type Run struct {
	// ID is in every message that the run sends. By names who runs it.
	ID, By string
}

// NewRun starts a run with a new ID.
func NewRun(by string) Run {
	return Run{ID: uuid.NewString(), By: deadletter.Cut(by, deadletter.MaxBy)}
}

// Resubmit returns the message to send for a dead letter. It keeps the body, whatever its kind, and
// the session, correlation and other properties. It leaves out what Service Bus added and
// everything under our names.
//
// The MessageID is new: duplicate detection would silently drop a message with the old one while
// the dead letter is completed. Resubmit must not be called for an unreadable letter, which is a
// stand-in without its body.
func (r Run) Resubmit(found Found) *azservicebus.AMQPAnnotatedMessage {
	now := time.Now().UTC()
	raw := found.Message.RawAMQPMessage
	m := &azservicebus.AMQPAnnotatedMessage{
		Body:                  raw.Body,
		Footer:                raw.Footer,
		Header:                resubmitHeader(raw.Header),
		MessageAnnotations:    resubmitAnnotations(raw.MessageAnnotations),
		Properties:            resubmitProperties(raw.Properties, now),
		ApplicationProperties: map[string]any{},
	}
	for name, value := range raw.ApplicationProperties {
		if isProducers(name) {
			m.ApplicationProperties[name] = value
		}
	}
	r.label(m, found.Letter, found.toActOn(), now)
	return m
}

// label writes into a message which run sends it, how often it was replayed, its original id, and
// the only events to act on, if not all.
func (r Run) label(m *azservicebus.AMQPAnnotatedMessage, l Letter, only []int, now time.Time) {
	replays := deadletter.Replays{
		Count: max(0, l.Replays) + 1, Run: r.ID, By: r.By, At: now.Format(time.RFC3339), OriginalID: l.firstID(),
	}
	replays.Write(m, only)
}

// isProducers reports whether a property is sent again: it is neither ours nor one that Service Bus
// writes into a dead letter.
func isProducers(name string) bool {
	return !deadletter.Reserved(name) && name != "DeadLetterReason" && name != "DeadLetterErrorDescription"
}

// resubmitHeader resets the delivery count.
func resubmitHeader(old *azservicebus.AMQPAnnotatedMessageHeader) *azservicebus.AMQPAnnotatedMessageHeader {
	if old == nil {
		return nil
	}
	header := *old
	header.DeliveryCount = 0
	return &header
}

// resubmitAnnotations keeps the producer's annotations and the partition key. The others belong to
// the broker: the sequence number, enqueued time, schedule, and so on.
func resubmitAnnotations(old map[any]any) map[any]any {
	kept := map[any]any{}
	for key, value := range old {
		if name, ok := key.(string); ok && strings.HasPrefix(name, "x-opt-") && name != "x-opt-partition-key" {
			continue
		}
		kept[key] = value
	}
	return kept
}

// resubmitProperties sets a new id. If the properties hold an expiry, the same lifetime begins now.
func resubmitProperties(old *azservicebus.AMQPAnnotatedMessageProperties, now time.Time) *azservicebus.AMQPAnnotatedMessageProperties {
	properties := azservicebus.AMQPAnnotatedMessageProperties{}
	if old != nil {
		properties = *old
	}
	if created, expires := properties.CreationTime, properties.AbsoluteExpiryTime; expires != nil {
		properties.AbsoluteExpiryTime = nil
		if created != nil {
			properties.AbsoluteExpiryTime = new(now.Add(expires.Sub(*created)))
			properties.CreationTime = &now
		}
	}
	properties.MessageID = uuid.NewString()
	return &properties
}

// batchKey returns what all messages of one batch must have in common: Service Bus applies the
// session and partition of the first message to the whole batch.
func batchKey(m *azservicebus.AMQPAnnotatedMessage) string {
	session := ""
	if m.Properties.GroupID != nil {
		session = *m.Properties.GroupID
	}
	partition, _ := m.MessageAnnotations["x-opt-partition-key"].(string)
	return session + "\x00" + partition
}

// byBatchKey groups the indexes of messages by their batch key. Each group keeps the order.
func byBatchKey(messages []*azservicebus.AMQPAnnotatedMessage) [][]int {
	var groups [][]int
	at := map[string]int{}
	for i, m := range messages {
		key := batchKey(m)
		if _, ok := at[key]; !ok {
			at[key] = len(groups)
			groups = append(groups, nil)
		}
		groups[at[key]] = append(groups[at[key]], i)
	}
	return slices.Clip(groups)
}
