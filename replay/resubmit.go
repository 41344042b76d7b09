package replay

import (
	"slices"
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
	m := deadletter.Copy(found.Message, now)
	r.label(m, found.Letter, found.toActOn(), now)
	return m
}

// label writes into a message which run sends it, how often it was replayed, its original id, and
// the only events to act on, if not all.
func (r Run) label(m *azservicebus.AMQPAnnotatedMessage, l Letter, only []int, now time.Time) {
	replays := deadletter.Replays{
		Count: max(0, l.Replays) + 1, Run: r.ID, By: r.By, At: now.Format(time.RFC3339),
		OriginalID: l.firstID(), FirstEnqueued: l.firstEnqueued(),
	}
	replays.Write(m, only)
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
