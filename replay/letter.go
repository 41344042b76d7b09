package replay

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// Letter is what a dead letter tells about itself.
type Letter struct {
	// Source is the queue or subscription whose dead letter it is.
	Source         string    `json:"source"`
	SequenceNumber int64     `json:"sequenceNumber"`
	Enqueued       time.Time `json:"enqueued"`
	MessageID      string    `json:"messageId"`
	// Users are those whose events failed, Types the events' types and Producers their sources, each once; empty where the
	// message cannot be read.
	Users     []string `json:"users,omitempty"`
	Types     []string `json:"types,omitempty"`
	Producers []string `json:"producers,omitempty"`
	// Reason and Description say why it is here.
	Reason      string `json:"reason"`
	Description string `json:"description,omitempty"`
	// Unreadable says why the client library cannot read the message. Then this is a stand-in without the body, which must
	// never be sent. Mended names what could not be read and was left out, while the body is whole.
	Unreadable string `json:"unreadable,omitempty"`
	Mended     string `json:"mended,omitempty"`
	// Attempts are the calls to Graph that were made for it, Replays how often it was replayed already.
	Attempts int `json:"attempts"`
	Replays  int `json:"replays"`
	// Run is the replay that it was sent by last, with who did it and when, and the id that it had before the first one.
	Run        string `json:"run,omitempty"`
	ReplayedBy string `json:"replayedBy,omitempty"`
	ReplayedAt string `json:"replayedAt,omitempty"`
	OriginalID string `json:"originalMessageId,omitempty"`
	// Status, Code, RequestID and ClientRequestID are Graph's last answer.
	Status          string `json:"graphStatus,omitempty"`
	Code            string `json:"graphCode,omitempty"`
	RequestID       string `json:"requestId,omitempty"`
	ClientRequestID string `json:"clientRequestId,omitempty"`
	// Superseded are the ids of messages that were completed in favor of this one: the first of SupersededCount.
	Superseded      []string `json:"superseded,omitempty"`
	SupersededCount int      `json:"supersededCount,omitempty"`
	// FailedEvents are the indexes of the failed events of a message that holds several; empty when all failed.
	FailedEvents []int `json:"failedEvents,omitempty"`
	// NotBelieved are properties under our names that we cannot have written: a producer sent them, or another tool left them.
	NotBelieved map[string]any `json:"notBelieved,omitempty"`

	only []int // the events that a replay sent it for; empty for all
}

// firstID is the id that the message had before its first replay.
func (l Letter) firstID() string {
	if l.Replays > 0 {
		return l.OriginalID
	}
	return l.MessageID
}

// toActOn are the indexes of the events that a replay is for: those that failed; if nobody knows which did, those that the
// message was sent for. Empty for all.
func (l Letter) toActOn() []int {
	if len(l.FailedEvents) > 0 {
		return l.FailedEvents
	}
	return l.only
}

// newLetter reads a dead letter. Nothing about it is trusted: what cannot be read stays empty.
func (q *Queue) newLetter(m *azservicebus.ReceivedMessage) Letter {
	l := Letter{Source: q.Entity, MessageID: m.MessageID, Mended: deadletter.Property(m, sanitizer.PropertyMended), only: deadletter.Only(m)}
	if l.MessageID == "" && m.RawAMQPMessage != nil && m.RawAMQPMessage.Properties != nil {
		l.MessageID = idText(m.RawAMQPMessage.Properties.MessageID)
	}
	l.Unreadable, _ = sanitizer.Unreadable(m)
	if m.SequenceNumber != nil {
		l.SequenceNumber = *m.SequenceNumber
	}
	if m.EnqueuedTime != nil {
		l.Enqueued = m.EnqueuedTime.UTC()
	}
	if m.DeadLetterReason != nil {
		l.Reason = *m.DeadLetterReason
	}
	if m.DeadLetterErrorDescription != nil {
		l.Description = *m.DeadLetterErrorDescription
	}
	if deadletter.IsOurs(l.Reason) {
		l.readFailure(m)
	}
	if r, ok := deadletter.ReadReplays(m); ok {
		l.Replays, l.Run, l.ReplayedBy, l.ReplayedAt, l.OriginalID = r.Count, r.Run, r.By, r.At, r.OriginalID
	}
	l.NotBelieved = deadletter.NotBelieved(m)
	for name, value := range l.NotBelieved {
		l.NotBelieved[name] = typedOut(value)
	}
	l.readEvents(q, m)
	return l
}

// readFailure reads what the worker has written beside its reason.
func (l *Letter) readFailure(m *azservicebus.ReceivedMessage) {
	number := func(name string) int {
		n, _ := strconv.Atoi(deadletter.Property(m, name))
		return max(0, n)
	}
	l.Attempts, l.SupersededCount = number(deadletter.PropertyAttempts), number(deadletter.PropertySupersededCount)
	l.Status, l.Code = deadletter.Property(m, deadletter.PropertyStatus), deadletter.Property(m, deadletter.PropertyCode)
	l.RequestID, l.ClientRequestID = deadletter.Property(m, deadletter.PropertyRequestID), deadletter.Property(m, deadletter.PropertyClientRequestID)
	l.FailedEvents = deadletter.Indexes(deadletter.Property(m, deadletter.PropertyFailed))
	if ids := deadletter.Property(m, deadletter.PropertySuperseded); ids != "" {
		l.Superseded = strings.Split(ids, ",")
	}
}

// readEvents takes the users and types from the events that failed.
func (l *Letter) readEvents(q *Queue, m *azservicebus.ReceivedMessage) {
	if q.Decoder == nil || l.Unreadable != "" {
		return
	}
	items, err := q.Decoder.Decode(deadletter.Content(m))
	if err != nil {
		return
	}
	acted := l.toActOn()
	add := func(list *[]string, text string) {
		if text != "" && !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	for _, item := range items {
		if len(acted) == 0 || slices.Contains(acted, item.Index) {
			add(&l.Users, item.Event.User.Name())
			add(&l.Types, item.Event.Type)
			add(&l.Producers, item.Event.Source)
		}
	}
}

// idText is a message id of any of AMQP's types as text.
func idText(id any) string {
	switch id := id.(type) {
	case nil:
		return ""
	case string:
		return id
	case []byte:
		return hex.EncodeToString(id)
	}
	return fmt.Sprint(id)
}
