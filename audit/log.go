// Package audit writes and verifies the audit log: a record of each decision about an event, and of
// each action of an operator's command, in a chain of hashes. With a key, each record carries a MAC
// (HMAC-SHA256). Someone who can rewrite the file but does not have the key can then not do so
// undetected.
package audit

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Decision is the decision about one event: which user, why, and by which call.
type Decision struct {
	Time time.Time `json:"time"`
	// Outcome is the outcome of the event, as in the log. Reason is the reason of a dead letter.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// UserID and UserPrincipalName are the user as the event names them. Both are empty if it names
	// no user. If the event names only a device or a mail address, LookedUp is how, such as
	// serial-number:C02XL0, and UserID and UserPrincipalName are whom the look-up has found.
	UserID            string `json:"userId,omitempty"`
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	LookedUp          string `json:"lookedUp,omitempty"`
	// Source, MessageID, and SequenceNumber identify the message.
	Source         string    `json:"source"`
	MessageID      string    `json:"messageId"`
	SequenceNumber int64     `json:"sequenceNumber"`
	Enqueued       time.Time `json:"enqueued,omitzero"`
	// FirstEnqueued is when the message was enqueued that the producer sent, if the worker scheduled
	// this one or a replay sent it. ReplayRun is the run of that replay (Operation.Run), as the
	// message claims.
	FirstEnqueued time.Time `json:"firstEnqueued,omitzero"`
	ReplayRun     string    `json:"replayRun,omitempty"`
	// Event is the index of the event in the message.
	Event       int       `json:"event"`
	EventID     string    `json:"eventId,omitempty"`
	EventType   string    `json:"eventType,omitempty"`
	EventSource string    `json:"eventSource,omitempty"`
	EventTime   time.Time `json:"eventTime,omitzero"`
	// Mapping is the mapping that understood the event, and Field the path of the field that named
	// the user.
	Mapping string `json:"mapping,omitempty"`
	Field   string `json:"field,omitempty"`
	// EffectiveTime is when the event takes effect, if it says so. ScheduledAs is the sequence number of
	// the message that waits for that time, and Canceled lists the scheduled messages about the same
	// person that were canceled because of the event. Withdrawn reports whether the event takes back
	// what was announced.
	EffectiveTime time.Time `json:"effectiveTime,omitzero"`
	Withdrawn     bool      `json:"withdrawn,omitempty"`
	ScheduledAs   int64     `json:"scheduledAs,omitempty"`
	Canceled      []int64   `json:"canceled,omitempty"`
	// Calls is the number of attempts. The fields after it are those of the last one.
	Calls           int       `json:"calls,omitempty"`
	CallStart       time.Time `json:"callStart,omitzero"`
	CallEnd         time.Time `json:"callEnd,omitzero"`
	Status          int       `json:"graphStatus,omitempty"`
	RequestID       string    `json:"requestId,omitempty"`
	ClientRequestID string    `json:"clientRequestId,omitempty"`
	// ValidFromBefore and ValidFromAfter show the effect of the call if it was verified. Unverified
	// says why it could not be verified.
	ValidFromBefore time.Time `json:"validFromBefore,omitzero"`
	ValidFromAfter  time.Time `json:"validFromAfter,omitzero"`
	Unverified      string    `json:"unverified,omitempty"`
	// Error says why the event failed or is unfinished.
	Error string `json:"error,omitempty"`
	// SupersededBy is the sequence number of the message that supersedes this one.
	SupersededBy int64 `json:"supersededBy,omitempty"`
}

// Came returns when the event came for the first time: when its message was enqueued, or else when the
// decision was made.
func (d Decision) Came() time.Time {
	switch {
	case !d.FirstEnqueued.IsZero():
		return d.FirstEnqueued
	case !d.Enqueued.IsZero():
		return d.Enqueued
	}
	return d.Time
}

// Operation is an action of an operator's command. A command writes one with the outcome Started
// before it acts, one for each user that it called Graph for, and one at its end.
type Operation struct {
	Time time.Time `json:"time"`
	// Command is the command: "revoke", "dlq replay", "dlq edit", "dlq purge", "dlq import",
	// "guard release", "scheduled cancel", "scheduled now", "ssf create", and so on. Of the latter,
	// Source is the stream, and To its issuer.
	Command string `json:"command"`
	// Run joins the records of one run, and the messages that it sent (revoker-replay-run).
	Run string `json:"run"`
	// By is the operator as they name themselves (--by). Account is the account of the operating
	// system, as user@host.
	By      string `json:"by"`
	Account string `json:"account"`
	// Why is the reason that the operator gave.
	Why     string `json:"why,omitempty"`
	Outcome string `json:"outcome"`
	// Source is the queue or subscription whose dead letters were changed. To is where messages
	// were sent. File is the file that was read or written, and FileSHA256 the hash of a file that
	// was read, or of the body of an edited message.
	Source     string `json:"source,omitempty"`
	To         string `json:"to,omitempty"`
	File       string `json:"file,omitempty"`
	FileSHA256 string `json:"fileSha256,omitempty"`
	// Messages lists sequence numbers, for example 5,7,10-20. Count is the number of messages or
	// users of this record.
	Messages string `json:"messages,omitempty"`
	Count    int    `json:"count"`
	// Users are the users that a manual revocation is about to call Graph for.
	Users []string `json:"users,omitempty"`
	// Counts is the number of messages or users by outcome.
	Counts map[string]int `json:"counts,omitempty"`
	// UserID and UserPrincipalName are the user of a manual revocation. The fields up to Unverified
	// are those of its last attempt.
	UserID            string `json:"userId,omitempty"`
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	Calls             int    `json:"calls,omitempty"`
	Status            int    `json:"graphStatus,omitempty"`
	RequestID         string `json:"requestId,omitempty"`
	ClientRequestID   string `json:"clientRequestId,omitempty"`
	Unverified        string `json:"unverified,omitempty"`
	// Reason says why a user was not revoked, as in a dead letter.
	Reason string `json:"reason,omitempty"`
	// MaxUsers and Until are those of a release of the volume guard.
	MaxUsers int       `json:"maxUsers,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Error    string    `json:"error,omitempty"`
}

// The outcomes of an Operation.
const (
	Started    = "started"     // written before the command acts
	Done       = "done"        // everything was done
	Failed     = "failed"      // something was not done: Error and Counts say what
	NotRevoked = "not_revoked" // one user
	Revoked    = "revoked"     // one user
)

// Receipt identifies one record by its position and hash. If it is kept where the writers of the
// file cannot change it, it proves that record and all records before it in the chain.
type Receipt struct {
	Chain  string `json:"chain"`
	Number int    `json:"number"`
	Hash   string `json:"hash"`
}

// record is a decision or operation in its chain. A chain begins with number 1. If the process
// stopped in good order, the chain ends with a record that has End set and counts the records
// before it.
type record struct {
	Chain    string `json:"chain"`
	Number   int    `json:"number"`
	Previous string `json:"previous,omitempty"` // the hash of the previous record
	// Follows is the last record of the file when the chain began. Only the first record has it.
	Follows   *Receipt   `json:"follows,omitempty"`
	Decision  *Decision  `json:"decision,omitempty"`
	Operation *Operation `json:"operation,omitempty"`
	End       bool       `json:"end,omitempty"`
	Count     int        `json:"count,omitempty"`
}

// line is a record as it is written. Hash is SHA-256 over the record's bytes in the file. MAC is
// HMAC-SHA256 over macContext and the same bytes, or empty without a key.
type line struct {
	Record json.RawMessage `json:"record"`
	Hash   string          `json:"hash"`
	MAC    string          `json:"mac,omitempty"`
}

const (
	// macContext keeps MACs of audit records apart from any other use of the same key.
	macContext = "session-revoker audit record 1\n"
	// minKey is the minimum size of a key in bytes, which is that of a hash. maxKey is the maximum
	// size of the file.
	minKey, maxKey = sha256.Size, 4096
)

// Key is the key of the MACs. With the zero Key, there are no MACs.
type Key struct{ bytes []byte }

// ReadKey reads a key of at least 32 bytes from a file, without the white space around it. The
// error contains neither the key nor the name of the file, because operators sometimes set the key
// itself as the name.
func ReadKey(name string) (Key, error) {
	file, err := os.Open(name) //nolint:gosec // the operator names the file
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		err = fmt.Errorf("%s the key file: %w", path.Op, path.Err)
	}
	if err != nil {
		return Key{}, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxKey+1))
	if err != nil {
		return Key{}, err
	}
	if len(text) > maxKey {
		return Key{}, fmt.Errorf("the key file is larger than %d bytes: it is not a key", maxKey)
	}
	return NewKey(text)
}

// NewKey makes a key of at least 32 bytes, without the white space around it.
func NewKey(text []byte) (Key, error) {
	text = bytes.TrimSpace(text)
	if len(text) < minKey {
		return Key{}, fmt.Errorf("a key of %d bytes; at least %d are needed: make one by openssl rand -base64 48", len(text), minKey)
	}
	return Key{text}, nil
}

func (k Key) isZero() bool { return len(k.bytes) == 0 }

func (k Key) mac(record []byte) string {
	h := hmac.New(sha256.New, k.bytes)
	_, _ = io.WriteString(h, macContext)
	_, _ = h.Write(record)
	return hex.EncodeToString(h.Sum(nil))
}

func hashOf(record []byte) string {
	sum := sha256.Sum256(record)
	return hex.EncodeToString(sum[:])
}

// Log writes records. It is safe for concurrent use. It holds its lock while it writes.
type Log struct {
	mu       sync.Mutex
	w        io.Writer
	file     *os.File // nil if the caller owns the writer
	key      Key
	follows  *Receipt
	chain    string
	number   int
	previous string
	broken   bool // the last write failed and may have written part of a line
	closed   bool
}

// New begins a new chain in w.
func New(w io.Writer, key Key) *Log {
	return &Log{w: w, key: key, chain: uuid.NewString()}
}

// Open begins a new chain at the end of a file, which it creates if necessary. The first record of
// the chain names the last record of the file, so that Verify detects a chain that was removed from
// the middle. Several processes may write to one file: each record is one write at its end.
func Open(name string, key Key) (*Log, error) {
	file, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	t := New(file, key)
	t.file = file
	info, err := file.Stat()
	if err == nil && info.Mode().IsRegular() {
		t.follows, err = lastRecord(file, info.Size())
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return t, nil
}

// lastRecord returns the last complete record, or nil if the last maxLine bytes of the file contain
// none. If a process was killed while it wrote, lastRecord ends the incomplete line, so that the
// next record has its own line.
func lastRecord(file *os.File, size int64) (*Receipt, error) {
	tail := make([]byte, min(size, maxLine))
	if _, err := file.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(tail) > 0 && tail[len(tail)-1] != '\n' {
		if _, err := file.Write([]byte("\n")); err != nil {
			return nil, err
		}
	}
	return lastIn(tail), nil
}

var errClosed = errors.New("the audit log is closed")

// Write adds a decision. A record that could not be written completely breaks the chain, and Verify
// reports it.
func (t *Log) Write(d Decision) (Receipt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.write(record{Decision: &d})
}

// WriteOperation adds an operation.
func (t *Log) WriteOperation(o Operation) (Receipt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.write(record{Operation: &o})
}

// Sync waits until the records are on the disk. It does nothing unless Open has opened the file.
func (t *Log) Sync() error {
	if t.file == nil {
		return nil
	}
	return t.file.Sync()
}

// Close writes the record that ends the chain, and closes the file if Open has opened it.
func (t *Log) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	_, err := t.write(record{End: true, Count: t.number})
	t.closed = true
	if t.file != nil {
		err = errors.Join(err, t.file.Sync(), t.file.Close())
	}
	return err
}

func (t *Log) write(r record) (Receipt, error) {
	if t.closed {
		return Receipt{}, errClosed
	}
	r.Chain, r.Number, r.Previous = t.chain, t.number+1, t.previous
	if r.Number == 1 {
		r.Follows = t.follows
	}
	text, err := json.Marshal(r)
	if err != nil {
		return Receipt{}, err
	}
	l := line{Record: ascii(text)}
	l.Hash = hashOf(l.Record)
	if !t.key.isZero() {
		l.MAC = t.key.mac(l.Record)
	}
	text, err = json.Marshal(l)
	if err != nil {
		return Receipt{}, err
	}
	// A failed write uses up the number, too, because part of the record may be in the file.
	t.number, t.previous = r.Number, l.Hash
	if t.broken {
		text = append([]byte("\n"), text...)
	}
	_, err = t.w.Write(append(text, '\n'))
	t.broken = err != nil
	return Receipt{r.Chain, r.Number, l.Hash}, err
}

// ascii escapes everything in a JSON text that is not printable ASCII. Text from outside can
// contain characters that change the direction of text or control a terminal (U+202E, U+009B), and
// people read the file in a terminal. In JSON, such characters occur in strings only.
func ascii(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r < 0x7f:
			out = append(out, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
		text = text[n:]
	}
	return out
}
