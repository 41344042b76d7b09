package deadletter

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"
)

// Run is one replay or import: who sends messages again, and when.
type Run struct {
	// ID is in every message that the run sends; By says who.
	ID, By string
}

// NewRun begins a run.
func NewRun(by string) Run { return Run{ID: uuid.NewString(), By: Cut(by, 256)} }

// Again makes the message that a dead letter is sent again as: body, session, correlation and other properties as they
// are, whatever kind the body is of; without what Service Bus and the worker added; and with a new MessageID, since
// duplicate detection would silently drop the old one while the dead letter is completed.
func (r Run) Again(found Found) *azservicebus.AMQPAnnotatedMessage {
	now := time.Now().UTC()
	raw := found.Message.RawAMQPMessage
	again := &azservicebus.AMQPAnnotatedMessage{
		Body:                  raw.Body,
		Footer:                raw.Footer,
		Header:                headerAgain(raw.Header),
		MessageAnnotations:    annotationsAgain(raw.MessageAnnotations),
		Properties:            propertiesAgain(raw.Properties, now),
		ApplicationProperties: map[string]any{},
	}
	maps.Copy(again.ApplicationProperties, raw.ApplicationProperties)
	for _, name := range added {
		delete(again.ApplicationProperties, name)
	}
	original := ""
	if raw.Properties != nil {
		original = idText(raw.Properties.MessageID)
	}
	if first, ok := raw.ApplicationProperties[PropertyOriginalID].(string); ok {
		original = first
	}
	set := again.ApplicationProperties
	set[PropertyOriginalID] = original
	set[PropertyReplays] = strconv.Itoa(found.Replays + 1)
	set[PropertyRun] = r.ID
	set[PropertyReplayedAt] = now.Format(time.RFC3339)
	set[PropertyReplayedBy] = r.By
	if len(found.FailedEvents) > 0 {
		indexes := make([]string, len(found.FailedEvents))
		for i, n := range found.FailedEvents {
			indexes[i] = strconv.Itoa(n)
		}
		set[PropertyOnly] = strings.Join(indexes, ",")
	}
	return again
}

// added are properties that a message gets as a dead letter. PropertyOnly is not one: a message that was replayed for some of its events,
// and of which all those failed again, is replayed for them.
var added = []string{
	"DeadLetterReason", "DeadLetterErrorDescription",
	PropertyFailed, PropertyAttempts, PropertyStoodFor, PropertyStoodForCount,
	PropertyStatus, PropertyCode, PropertyRequestID, PropertyClientRequestID,
}

// headerAgain: the delivery count begins anew.
func headerAgain(old *azservicebus.AMQPAnnotatedMessageHeader) *azservicebus.AMQPAnnotatedMessageHeader {
	if old == nil {
		return nil
	}
	header := *old
	header.DeliveryCount = 0
	return &header
}

// annotationsAgain keeps those of the producer and the partition key; the others are the broker's: sequence number, enqueued time,
// schedule, and so on.
func annotationsAgain(old map[any]any) map[any]any {
	kept := map[any]any{}
	for key, value := range old {
		if name, ok := key.(string); ok && strings.HasPrefix(name, "x-opt-") && name != "x-opt-partition-key" {
			continue
		}
		kept[key] = value
	}
	return kept
}

// propertiesAgain: a new id; and a life that begins now, where it was written out.
func propertiesAgain(old *azservicebus.AMQPAnnotatedMessageProperties, now time.Time) *azservicebus.AMQPAnnotatedMessageProperties {
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
