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

// Letter is what a dead letter says about itself.
type Letter struct {
	// Source is the queue or subscription that the dead letter belongs to.
	Source         string    `json:"source"`
	SequenceNumber int64     `json:"sequenceNumber"`
	Enqueued       time.Time `json:"enqueued"`
	MessageID      string    `json:"messageId"`
	// Users are those whose events failed, Types the types of these events, and Producers their
	// sources, each once. They are empty if the message cannot be read.
	Users     []string `json:"users,omitempty"`
	Types     []string `json:"types,omitempty"`
	Producers []string `json:"producers,omitempty"`
	// Mappings are the mappings that understood these events, and Fields the paths of the fields
	// that named the users, each once.
	Mappings []string `json:"mappings,omitempty"`
	Fields   []string `json:"fields,omitempty"`
	// Reason and Description say why the message was dead-lettered.
	Reason      string `json:"reason"`
	Description string `json:"description,omitempty"`
	// Unreadable says why the client library cannot read the message. If it is set, the message is
	// a stand-in without the body, which must never be sent. Mended names what could not be read
	// and was left out; the body is complete.
	Unreadable string `json:"unreadable,omitempty"`
	Mended     string `json:"mended,omitempty"`
	// Attempts counts the Graph requests for the message. Replays counts its replays so far.
	Attempts int `json:"attempts"`
	Replays  int `json:"replays"`
	// Run identifies the last replay. ReplayedBy names who ran it, and ReplayedAt is its time.
	// OriginalID is the message's id before its first replay.
	Run        string `json:"run,omitempty"`
	ReplayedBy string `json:"replayedBy,omitempty"`
	ReplayedAt string `json:"replayedAt,omitempty"`
	OriginalID string `json:"originalMessageId,omitempty"`
	// FirstEnqueued is when the message was enqueued before its first replay, or before the worker
	// scheduled it. It is zero if Enqueued is that time.
	FirstEnqueued time.Time `json:"firstEnqueued,omitzero"`
	// Status, Code, RequestID and ClientRequestID are from Graph's last answer.
	Status          string `json:"graphStatus,omitempty"`
	Code            string `json:"graphCode,omitempty"`
	RequestID       string `json:"requestId,omitempty"`
	ClientRequestID string `json:"clientRequestId,omitempty"`
	// Superseded has the ids of messages that were completed in favor of this one: the first of
	// SupersededCount.
	Superseded      []string `json:"superseded,omitempty"`
	SupersededCount int      `json:"supersededCount,omitempty"`
	// FailedEvents has the indexes of the failed events of a message that holds several. It is
	// empty if all failed.
	FailedEvents []int `json:"failedEvents,omitempty"`
	// NotBelieved has the properties under our names that the worker cannot have written: a
	// producer sent them, or another tool left them.
	NotBelieved map[string]any `json:"notBelieved,omitempty"`

	only []int // the events that a replay sent the message for; empty for all
}

// Summary returns the description, after a mark if the client library cannot read all of the message.
// It comes from outside, and may hold any character.
func (l Letter) Summary() string {
	switch {
	case l.Unreadable != "":
		return "[unreadable] " + l.Description
	case l.Mended != "":
		return "[partly unreadable] " + l.Description
	}
	return l.Description
}

// firstID returns the id that the message had before its first replay.
func (l Letter) firstID() string {
	if l.Replays > 0 {
		return l.OriginalID
	}
	return l.MessageID
}

// firstEnqueued returns when the message was enqueued for the first time.
func (l Letter) firstEnqueued() time.Time {
	if !l.FirstEnqueued.IsZero() {
		return l.FirstEnqueued
	}
	return l.Enqueued
}

// toActOn returns the indexes of the events that a replay is for: those that failed, or, if nobody
// knows which failed, those that the message was sent for. It is empty for all.
func (l Letter) toActOn() []int {
	if len(l.FailedEvents) > 0 {
		return l.FailedEvents
	}
	return l.only
}

// newLetter reads a dead letter. It trusts nothing in it, and leaves empty what it cannot read.
func (q *Queue) newLetter(m *azservicebus.ReceivedMessage) Letter {
	l := Letter{
		Source: q.Entity, MessageID: m.MessageID,
		Mended: deadletter.Property(m, sanitizer.PropertyMended), only: deadletter.Only(m),
	}
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
	if first := deadletter.FirstEnqueued(m); first.Before(l.Enqueued) {
		l.FirstEnqueued = first
	}
	l.NotBelieved = deadletter.NotBelieved(m)
	for name, value := range l.NotBelieved {
		l.NotBelieved[name] = typedOut(value)
	}
	l.readEvents(q, m)
	return l
}

// readFailure reads what the worker has written in addition to its reason.
func (l *Letter) readFailure(m *azservicebus.ReceivedMessage) {
	text := func(name string) string { return deadletter.Property(m, name) }
	number := func(name string) int {
		n, _ := strconv.Atoi(text(name))
		return max(0, n)
	}
	l.Attempts, l.SupersededCount = number(deadletter.PropertyAttempts), number(deadletter.PropertySupersededCount)
	l.Status, l.Code = text(deadletter.PropertyStatus), text(deadletter.PropertyCode)
	l.RequestID, l.ClientRequestID = text(deadletter.PropertyRequestID), text(deadletter.PropertyClientRequestID)
	l.FailedEvents = deadletter.Indexes(text(deadletter.PropertyFailed))
	if ids := text(deadletter.PropertySuperseded); ids != "" {
		l.Superseded = strings.Split(ids, ",")
	}
}

// readEvents reads users, types, producers, and mappings from the events that failed.
func (l *Letter) readEvents(q *Queue, m *azservicebus.ReceivedMessage) {
	if q.Decoder == nil || l.Unreadable != "" {
		return
	}
	items, err := q.Decoder.Decode(deadletter.Content(m))
	if err != nil {
		return
	}
	failed := l.toActOn()
	add := func(list *[]string, text string) {
		if text != "" && !slices.Contains(*list, text) {
			*list = append(*list, text)
		}
	}
	for _, item := range items {
		if len(failed) == 0 || slices.Contains(failed, item.Index) {
			add(&l.Users, item.Named().Name())
			add(&l.Types, item.Event.Type)
			add(&l.Producers, item.Event.Source)
			add(&l.Mappings, item.Event.Mapping)
			add(&l.Fields, item.Event.Field)
		}
	}
}

// idText returns a message id of any AMQP type as text.
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
