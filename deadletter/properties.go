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

// Whoever may send to a queue may write any application property, under our names too, and tools that resubmit a dead
// letter copy all that it carries. So our properties are believed only where we can have written them:
//
//   - Those about a failure only on a dead letter whose reason is one of ours. The worker overwrites all of them when it
//     dead-letters (Overwrite). What Service Bus dead-letters itself has a reason of the broker's, which is written over the
//     producer's; so a producer's properties are believed by nobody there.
//   - Those about a replay only as a whole, well formed; the indexes of the events to act on only for the very body that they
//     were written for. A producer may still forge all of it. They gain nothing: they could as well have left the other
//     events out, and the log of each decision names the run that the message claims.
//   - Those of package sanitizer always: it stands on the connection and removes everybody else's.
//
// A property cannot be removed from a message that is dead-lettered, only overwritten: empty means absent, everywhere.

// prefix begins the names of all our properties, those of package sanitizer too. Nobody else's names should.
const prefix = "revoker-"

// aboutFailure are the properties that the worker writes into a dead letter.
var aboutFailure = []string{
	PropertyFailed, PropertyAttempts, PropertySuperseded, PropertySupersededCount,
	PropertyStatus, PropertyCode, PropertyRequestID, PropertyClientRequestID,
}

// aboutReplay are the properties that a replay or import writes, and aboutOnly those that it adds for some events alone.
var (
	aboutReplay = []string{PropertyReplays, PropertyRun, PropertyReplayedAt, PropertyReplayedBy, PropertyOriginalID}
	aboutOnly   = []string{PropertyOnly, PropertyOnlyOf}
)

// hasPrefix says that the name is one of ours, or looks like one. Names differ by case in AMQP, and not for people.
func hasPrefix(name string) bool {
	return len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix)
}

// Overwrite completes the properties that the worker writes into a message that it dead-letters: each other property of ours
// that the message carries is overwritten with "". A well formed account of replays stays, since it counts them; the indexes
// of the events to act on do not: PropertyFailed says it now. written is changed, and returned.
//
// Only known names are overwritten: a message can carry thousands that merely begin like ours, which nobody reads, and what
// is written must fit into one AMQP frame.
func Overwrite(m *azservicebus.ReceivedMessage, written map[string]any) map[string]any {
	lists := [][]string{aboutFailure, aboutOnly}
	if _, ok := readReplayed(m); !ok {
		lists = append(lists, aboutReplay)
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

// property is an application property that is text; "" is absent.
func property(m *azservicebus.ReceivedMessage, name string) string {
	text, _ := m.ApplicationProperties[name].(string)
	return text
}

// Only lists the indexes of the events that the message is to be acted on for, if a replay sent it for some of its events;
// else none, which stands for all.
func Only(m *azservicebus.ReceivedMessage) []int {
	list := property(m, PropertyOnly)
	if list == "" {
		return nil // nearly always: nothing is hashed
	}
	if _, ok := readReplayed(m); !ok || property(m, PropertyOnlyOf) != digest(Content(m).Body) {
		return nil
	}
	return Indexes(list)
}

// digest names a body. It is no secret: whoever can write the body can write its digest.
func digest(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// maxReplays bounds the number of replays that a message can plausibly claim.
const maxReplays = 1_000_000

// replayed is what a message tells about its replays.
type replayed struct {
	n                       int
	run, by, at, originalID string
}

// readReplayed reads what a replay or import has written; false if it is not whole, or not well formed.
func readReplayed(m *azservicebus.ReceivedMessage) (r replayed, ok bool) {
	r = replayed{
		run: property(m, PropertyRun), by: property(m, PropertyReplayedBy), at: property(m, PropertyReplayedAt),
		originalID: property(m, PropertyOriginalID),
	}
	if uuid.Validate(r.run) != nil || len(r.by) > maxBy || len(r.originalID) > maxID {
		return replayed{}, false
	}
	if _, err := time.Parse(time.RFC3339, r.at); err != nil {
		return replayed{}, false
	}
	var err error
	if r.n, err = strconv.Atoi(property(m, PropertyReplays)); err != nil || r.n < 1 || r.n > maxReplays {
		return replayed{}, false
	}
	return r, true
}

// maxBy and maxID bound, in bytes, who replays, and the original id: Service Bus allows 128 characters for one.
const (
	maxBy = 256
	maxID = 512
)

// mark writes into a message what a resubmission tells: how often it was replayed before, which id it had at first, and
// which events alone are to be acted on, if any. Nothing of ours must stand there before.
func (r Run) mark(m *azservicebus.AMQPAnnotatedMessage, replays int, originalID string, only []int, now time.Time) {
	set := m.ApplicationProperties
	set[PropertyOriginalID] = Cut(originalID, maxID)
	set[PropertyReplays] = strconv.Itoa(min(max(0, replays)+1, maxReplays))
	set[PropertyRun] = r.ID
	set[PropertyReplayedAt] = now.Format(time.RFC3339)
	set[PropertyReplayedBy] = r.By
	if len(only) == 0 {
		return
	}
	indexes := make([]string, len(only))
	for i, n := range only {
		indexes[i] = strconv.Itoa(n)
	}
	set[PropertyOnly] = strings.Join(indexes, ",")
	set[PropertyOnlyOf] = digest(bytes.Join(m.Body.Data, nil))
}

// foreign are the properties under our prefix that are not believed, in the form of an export: a producer sent them, or
// another tool left them.
func (l Letter) foreign(m *azservicebus.ReceivedMessage) map[string]any {
	believed := map[string]bool{sanitizer.PropertyUnreadable: true, sanitizer.PropertyMended: true}
	believe := func(names []string, are bool) {
		for _, name := range names {
			believed[name] = are
		}
	}
	var list map[string]any
	for name, value := range m.ApplicationProperties {
		if !hasPrefix(name) || value == "" {
			continue
		}
		if list == nil { // nearly never more than once
			list = map[string]any{}
			believe(aboutFailure, isOurs(l.Reason))
			believe(aboutReplay, l.Replays > 0)
			believe(aboutOnly, len(l.only) > 0)
		}
		if _, isText := value.(string); !isText || !believed[name] {
			list[name] = typedOut(value)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list
}
