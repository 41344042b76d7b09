package deadletter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/google/uuid"

	"github.com/session-revoker/session-revoker/sanitizer"
)

// Anyone who may send to a queue may write any application property, including those with our
// names, and tools that resubmit a dead letter copy everything it carries. So this package believes
// our properties only where the worker can have written them:
//
//   - Properties about a failure: only on a dead letter whose reason is one of ours. The worker
//     overwrites all of them when it dead-letters a message (Overwrite). A message that Service Bus
//     dead-letters itself has a reason of the broker's, which replaces the producer's.
//   - Properties about a replay, and those about a schedule: only all of them together, and only if
//     they are well formed. The indexes of the events to act on count only for the exact body that
//     they were written for. A producer can still forge all of this and gains nothing: the producer
//     could have left out the other events, and the log of each decision names the run that the
//     message claims.
//   - Properties of package sanitizer: always. It works on the connection and removes everyone
//     else's.
//
// Service Bus can overwrite a property of a message that is being dead-lettered, but cannot remove
// it. So an empty property counts as absent everywhere.

// Application properties that the worker adds to a dead letter, in addition to the
// DeadLetterReason and DeadLetterErrorDescription of Service Bus. Each is a string.
const (
	// PropertyFailed lists the indexes (from 0) of the failed events of a message that holds
	// several, separated by commas. It is absent if every event failed, or if the list is longer
	// than MaxProperty.
	PropertyFailed = "revoker-failed-events"
	// PropertyAttempts is the number of Graph requests for the (first failed) user.
	PropertyAttempts = "revoker-attempts"
	// PropertySuperseded lists the ids of messages of the same users that were completed in favor
	// of this one, separated by commas and cut to MaxProperty. PropertySupersededCount is the
	// number of all of them.
	PropertySuperseded      = "revoker-superseded"
	PropertySupersededCount = "revoker-superseded-count"
	// PropertyStatus and PropertyCode are Graph's last HTTP status and error code.
	PropertyStatus = "revoker-graph-status"
	PropertyCode   = "revoker-graph-code"
	// PropertyRequestID and PropertyClientRequestID identify the last request to Microsoft support.
	PropertyRequestID       = "revoker-request-id"
	PropertyClientRequestID = "revoker-client-request-id"
)

// Application properties that a replay or import adds to the message. Each is a string.
const (
	// PropertyOnly lists the indexes (from 0) of the events that the worker must act on, separated
	// by commas: those that failed before. It is absent for all events. PropertyOnlyOf is a digest
	// of the body that holds these events, so that nobody applies the indexes to another body.
	PropertyOnly   = "revoker-only-events"
	PropertyOnlyOf = "revoker-only-events-of"
	// PropertyReplays counts the replays of this message. PropertyRun identifies the last one,
	// PropertyReplayedAt is its time (RFC 3339), and PropertyReplayedBy names who ran it.
	PropertyReplays    = "revoker-replays"
	PropertyRun        = "revoker-replay-run"
	PropertyReplayedAt = "revoker-replayed-at"
	PropertyReplayedBy = "revoker-replayed-by"
	// PropertyOriginalID is the MessageID that the message had before its first replay.
	PropertyOriginalID = "revoker-original-message-id"
)

// PropertyDeferred is on a deferred message. Until this time (RFC 3339), the worker that deferred
// the message looks after it; after this time, any other worker does.
const PropertyDeferred = "revoker-deferred-until"

// MaxProperty and MaxDescription limit, in bytes, what the worker writes into one property and into
// the description. Service Bus allows 64 KB for all properties of a message together, and the
// message brings its own.
const (
	MaxProperty    = 4096
	MaxDescription = 2048
)

// MaxBy is the longest PropertyReplayedBy, in bytes.
const MaxBy = 256

const (
	// maxID is the longest PropertyOriginalID, in bytes. Service Bus allows a MessageID of 128
	// characters.
	maxID = 512
	// maxReplays is the largest number of replays that a message can plausibly claim.
	maxReplays = 1_000_000
)

// prefix begins the names of all our properties, including those of package sanitizer. No one
// else's names should begin with it.
const prefix = "revoker-"

// aboutFailure are the properties that the worker writes into a dead letter.
var aboutFailure = []string{
	PropertyFailed, PropertyAttempts, PropertySuperseded, PropertySupersededCount,
	PropertyStatus, PropertyCode, PropertyRequestID, PropertyClientRequestID,
}

// aboutReplay are the properties that a replay or import always writes. aboutOnly are those that it
// adds if only some of the events are meant.
var (
	aboutReplay = []string{
		PropertyReplays, PropertyRun, PropertyReplayedAt, PropertyReplayedBy, PropertyOriginalID, PropertyFirstEnqueued,
	}
	aboutOnly = []string{PropertyOnly, PropertyOnlyOf}
)

// Reserved reports whether a property name is one of ours or looks like one. AMQP distinguishes
// case, but people do not.
func Reserved(name string) bool {
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// Property returns an application property that is a string, or "" if there is none.
func Property(m *azservicebus.ReceivedMessage, name string) string {
	text, _ := m.ApplicationProperties[name].(string)
	return text
}

// Overwrite completes the properties that the worker writes into a message that it dead-letters. It
// sets each other property of ours that the message carries to "", in written, and returns written.
//
// A well-formed record of replays stays, because it counts them. The indexes of the events to act
// on do not stay: PropertyFailed replaces them.
//
// Overwrite considers only the known names. A message can carry thousands of names that merely
// begin like ours. Nobody reads those, and everything written must fit into one AMQP frame.
func Overwrite(m *azservicebus.ReceivedMessage, written map[string]any) map[string]any {
	lists := [][]string{aboutFailure, aboutOnly}
	_, replayed := ReadReplays(m)
	_, scheduled := ReadSchedule(m)
	if !replayed {
		lists = append(lists, aboutReplay[:len(aboutReplay)-1])
	}
	if !scheduled {
		lists = append(lists, aboutSchedule[:len(aboutSchedule)-1])
	}
	if !replayed && !scheduled {
		lists = append(lists, []string{PropertyFirstEnqueued})
	}
	for _, names := range lists {
		for _, name := range names {
			carried, isCarried := m.ApplicationProperties[name]
			if _, isWritten := written[name]; isCarried && !isWritten && carried != "" {
				written[name] = ""
			}
		}
	}
	return written
}

// Only returns the indexes of the events to act on, if a replay sent the message for some of its
// events, or the worker scheduled it for one. Otherwise it returns nil, which means all events.
func Only(m *azservicebus.ReceivedMessage) []int {
	list := Property(m, PropertyOnly)
	if list == "" {
		return nil // the usual case, which costs no hash
	}
	_, replayed := ReadReplays(m)
	_, scheduled := ReadSchedule(m)
	if !replayed && !scheduled || Property(m, PropertyOnlyOf) != digest(Content(m).Body) {
		return nil
	}
	return Indexes(list)
}

// digest identifies a body. It is not a secret: whoever can write the body can write its digest.
func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// Replays is what a message says about its replays.
type Replays struct {
	// Count is the number of replays so far, including the last one.
	Count int
	// Run identifies the last replay (a UUID), By names who ran it, and At is its time (RFC 3339).
	Run, By, At string
	// OriginalID is the MessageID before the first replay.
	OriginalID string
	// FirstEnqueued is when the message was enqueued that the producer sent. It is zero if the replay
	// did not say.
	FirstEnqueued time.Time
}

// ReadReplays reads what a replay or import has written. ok is false if any part is missing or
// malformed.
func ReadReplays(m *azservicebus.ReceivedMessage) (r Replays, ok bool) {
	r = Replays{
		Run: Property(m, PropertyRun), By: Property(m, PropertyReplayedBy), At: Property(m, PropertyReplayedAt),
		OriginalID: Property(m, PropertyOriginalID), FirstEnqueued: readFirstEnqueued(m),
	}
	if uuid.Validate(r.Run) != nil || len(r.By) > MaxBy || len(r.OriginalID) > maxID {
		return Replays{}, false
	}
	if _, err := time.Parse(time.RFC3339, r.At); err != nil {
		return Replays{}, false
	}
	var err error
	if r.Count, err = strconv.Atoi(Property(m, PropertyReplays)); err != nil || r.Count < 1 || r.Count > maxReplays {
		return Replays{}, false
	}
	return r, true
}

// Write adds the replays to a message that is about to be sent, in the form that ReadReplays reads.
// only lists the events to act on; it is empty for all events. The message must not carry any
// property of ours before.
func (r Replays) Write(m *azservicebus.AMQPAnnotatedMessage, only []int) {
	set := m.ApplicationProperties
	set[PropertyOriginalID] = Cut(r.OriginalID, maxID)
	set[PropertyReplays] = strconv.Itoa(min(max(1, r.Count), maxReplays))
	set[PropertyRun] = r.Run
	set[PropertyReplayedAt] = r.At
	set[PropertyReplayedBy] = r.By
	if !r.FirstEnqueued.IsZero() {
		set[PropertyFirstEnqueued] = r.FirstEnqueued.UTC().Format(time.RFC3339Nano)
	}
	if len(only) > 0 {
		writeOnly(m, only)
	}
}

// writeOnly adds the indexes of the only events to act on.
func writeOnly(m *azservicebus.AMQPAnnotatedMessage, only []int) {
	indexes := make([]string, len(only))
	for i, n := range only {
		indexes[i] = strconv.Itoa(n)
	}
	m.ApplicationProperties[PropertyOnly] = strings.Join(indexes, ",")
	m.ApplicationProperties[PropertyOnlyOf] = digest(bytes.Join(m.Body.Data, nil))
}

// NotBelieved returns the properties of a dead letter that begin like ours but cannot be ours: a
// producer sent them, or another tool left them. It returns nil if there are none.
func NotBelieved(m *azservicebus.ReceivedMessage) map[string]any {
	var believed map[string]bool
	var list map[string]any
	for name, value := range m.ApplicationProperties {
		if !Reserved(name) || value == "" {
			continue
		}
		if believed == nil { // most messages carry no such property
			believed = believedNames(m)
		}
		if _, isText := value.(string); isText && believed[name] {
			continue
		}
		if list == nil {
			list = map[string]any{}
		}
		list[name] = value
	}
	return list
}

// believedNames returns the names of our properties that are believed on a dead letter.
func believedNames(m *azservicebus.ReceivedMessage) map[string]bool {
	names := map[string]bool{sanitizer.PropertyUnreadable: true, sanitizer.PropertyMended: true}
	believe := func(list []string) {
		for _, name := range list {
			names[name] = true
		}
	}
	if m.DeadLetterReason != nil && IsOurs(*m.DeadLetterReason) {
		believe(aboutFailure)
	}
	_, replayed := ReadReplays(m)
	if replayed {
		believe(aboutReplay)
	}
	_, scheduled := ReadSchedule(m)
	if scheduled {
		believe(aboutSchedule)
	}
	if (replayed || scheduled) && len(Only(m)) > 0 {
		believe(aboutOnly)
	}
	return names
}
