// Package trail writes the audit trail: one record for each decision about an event, in a chain of hashes, so that a record that was
// changed or taken away is missed.
package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/google/uuid"
)

// Decision is what was decided about one event: whom it concerned, why, by which call.
type Decision struct {
	Time time.Time `json:"time"`
	// Outcome is the event's, as in the log; Reason that of a dead letter.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// UserID and UserPrincipalName are the user as the event names him; both are empty when it names nobody.
	UserID            string `json:"userId,omitempty"`
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	// Source, MessageID and SequenceNumber are the message; Event is the event's index in it.
	Source         string    `json:"source"`
	MessageID      string    `json:"messageId"`
	SequenceNumber int64     `json:"sequenceNumber"`
	Enqueued       time.Time `json:"enqueued,omitzero"`
	Event          int       `json:"event"`
	EventID        string    `json:"eventId,omitempty"`
	EventType      string    `json:"eventType,omitempty"`
	EventSource    string    `json:"eventSource,omitempty"`
	EventTime      time.Time `json:"eventTime,omitzero"`
	// Calls is how many calls were made; the rest is of the last one.
	Calls           int       `json:"calls,omitempty"`
	CallStart       time.Time `json:"callStart,omitzero"`
	CallEnd         time.Time `json:"callEnd,omitzero"`
	Status          int       `json:"graphStatus,omitempty"`
	RequestID       string    `json:"requestId,omitempty"`
	ClientRequestID string    `json:"clientRequestId,omitempty"`
	// ValidFromBefore and ValidFromAfter prove the call's effect, where it was read back; Proof is why it is not proven.
	ValidFromBefore time.Time `json:"validFromBefore,omitzero"`
	ValidFromAfter  time.Time `json:"validFromAfter,omitzero"`
	Proof           string    `json:"proof,omitempty"`
	// Error is why it failed, or is unfinished.
	Error string `json:"error,omitempty"`
	// SupersededBy is the sequence number of the message that stands for this one's.
	SupersededBy int64 `json:"supersededBy,omitempty"`
}

// record is a decision's place in its chain. A chain begins with number 1 and ends, when the process stopped in its own time, with a record
// that says so and holds no decision.
type record struct {
	Chain    string    `json:"chain"`
	Number   int       `json:"number"`
	Previous string    `json:"previous,omitempty"` // the hash of the record before
	Decision *Decision `json:"decision,omitempty"`
	End      bool      `json:"end,omitempty"`
}

// line is how a record is written: the hash is SHA-256 over the record's bytes as they stand.
type line struct {
	Record json.RawMessage `json:"record"`
	Hash   string          `json:"hash"`
}

// Trail writes records. It is safe for concurrent use; one lock is held while a record is written.
type Trail struct {
	mu       sync.Mutex
	w        io.Writer
	chain    string
	number   int
	previous string
	closed   bool
}

// New begins a chain of its own in w.
func New(w io.Writer) *Trail {
	return &Trail{w: w, chain: uuid.NewString()}
}

var errClosed = errors.New("the audit trail is closed")

// Write adds a record. A record that could not be written whole breaks the chain, and Verify tells so.
func (t *Trail) Write(d Decision) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.write(record{Decision: &d})
}

// Close writes the record that ends the chain.
func (t *Trail) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	err := t.write(record{End: true})
	t.closed = true
	return err
}

func (t *Trail) write(r record) error {
	if t.closed {
		return errClosed
	}
	r.Chain, r.Number, r.Previous = t.chain, t.number+1, t.previous
	bytes, err := json.Marshal(r)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(bytes)
	hash := hex.EncodeToString(sum[:])
	text, err := json.Marshal(line{bytes, hash})
	if err != nil {
		return err
	}
	// The number is used up even if the write fails: half a record may be there.
	t.number, t.previous = r.Number, hash
	_, err = t.w.Write(append(text, '\n'))
	return err
}
