package replay

import (
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/deadletter"
)

// Run is one replay or import: who sends messages again, and when.
type Run struct {
	// ID is in every message that the run sends; By says who.
	ID, By string
}

// NewRun begins a run.
func NewRun(by string) Run { return Run{ID: uuid.NewString(), By: deadletter.Cut(by, deadletter.MaxBy)} }

// Resubmit makes the message that a dead letter is sent again as: body, session, correlation and other properties as they
// are, whatever kind the body is of; without what Service Bus added and whatever stands under our names; and with a new
// MessageID, since duplicate detection would silently drop the old one while the dead letter is completed. It must not be
// called for an unreadable letter: that is a stand-in without its body.
func (r Run) Resubmit(found Found) *azservicebus.AMQPAnnotatedMessage {
	now := time.Now().UTC()
	raw := found.Message.RawAMQPMessage
	again := &azservicebus.AMQPAnnotatedMessage{
		Body:                  raw.Body,
		Footer:                raw.Footer,
		Header:                resubmitHeader(raw.Header),
		MessageAnnotations:    resubmitAnnotations(raw.MessageAnnotations),
		Properties:            resubmitProperties(raw.Properties, now),
		ApplicationProperties: map[string]any{},
	}
	for name, value := range raw.ApplicationProperties {
		if isProducers(name) {
			again.ApplicationProperties[name] = value
		}
	}
	r.mark(again, found.Replays, found.firstID(), found.toActOn(), now)
	return again
}

// mark writes into a message what a resubmission tells: how often it was replayed before, which id it had at first, and
// which events alone are to be acted on, if any. Nothing of ours must stand there before.
func (r Run) mark(m *azservicebus.AMQPAnnotatedMessage, replays int, originalID string, only []int, now time.Time) {
	deadletter.Replays{
		Count: max(0, replays) + 1, Run: r.ID, By: r.By, At: now.Format(time.RFC3339), OriginalID: originalID,
	}.Write(m, only)
}

// isProducers says that a property is sent again: it is neither ours, nor what Service Bus writes into a dead letter.
func isProducers(name string) bool {
	return !deadletter.Reserved(name) && name != "DeadLetterReason" && name != "DeadLetterErrorDescription"
}

// resubmitHeader: the delivery count begins anew.
func resubmitHeader(old *azservicebus.AMQPAnnotatedMessageHeader) *azservicebus.AMQPAnnotatedMessageHeader {
	if old == nil {
		return nil
	}
	header := *old
	header.DeliveryCount = 0
	return &header
}

// resubmitAnnotations keeps those of the producer and the partition key; the others are the broker's: sequence number, enqueued time,
// schedule, and so on.
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

// resubmitProperties: a new id; and a life that begins now, where it was written out.
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

// batchKey: messages of one batch must have it in common, since Service Bus files a batch under the first one's.
func batchKey(m *azservicebus.AMQPAnnotatedMessage) string {
	session := ""
	if m.Properties.GroupID != nil {
		session = *m.Properties.GroupID
	}
	partition, _ := m.MessageAnnotations["x-opt-partition-key"].(string)
	return session + "\x00" + partition
}

// byBatchKey sorts the indexes of messages into runs with the same batch key, each in its order.
func byBatchKey(messages []*azservicebus.AMQPAnnotatedMessage) [][]int {
	var runs [][]int
	at := map[string]int{}
	for i, m := range messages {
		key := batchKey(m)
		if _, ok := at[key]; !ok {
			at[key] = len(runs)
			runs = append(runs, nil)
		}
		runs[at[key]] = append(runs[at[key]], i)
	}
	return slices.Clip(runs)
}
