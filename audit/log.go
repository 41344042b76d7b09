// Package audit writes the audit log: one record for each decision about an event, and for each act of an operator's command, in a chain
// of hashes. With a key each record carries a MAC (HMAC-SHA256), so that who can rewrite the file, and does not hold the key, cannot
// do so unseen.
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

// Decision is what was decided about one event: whom it concerned, why, by which call.
type Decision struct {
	Time time.Time `json:"time"`
	// Outcome is the event's, as in the log; Reason that of a dead letter.
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
	// UserID and UserPrincipalName are the user as the event names them; both are empty when it names nobody.
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

// Operation is what an operator's command is about to do, or has done. A command writes one with the outcome Started before it acts,
// one for each user that it called, and one at its end.
type Operation struct {
	Time time.Time `json:"time"`
	// Command is the command: "revoke", "dlq replay", "dlq purge", "dlq import", "guard release".
	Command string `json:"command"`
	// Run joins the records of one run, and the messages that it sent (revoker-replay-run).
	Run string `json:"run"`
	// By is who they say they are (--by); Account is the account of the operating system and the host, as user@host.
	By      string `json:"by"`
	Account string `json:"account"`
	// Why is the reason that they gave.
	Why     string `json:"why,omitempty"`
	Outcome string `json:"outcome"`
	// Source is the queue or subscription whose dead letters were acted on; To is where messages were sent; File is the file that was
	// read or written, and FileSHA256 the hash of what was read.
	Source     string `json:"source,omitempty"`
	To         string `json:"to,omitempty"`
	File       string `json:"file,omitempty"`
	FileSHA256 string `json:"fileSha256,omitempty"`
	// Messages are sequence numbers, as in 5,7,10-20; Count is how many messages or users this record is about.
	Messages string `json:"messages,omitempty"`
	Count    int    `json:"count"`
	// Users are whom a manual revocation is about to call.
	Users []string `json:"users,omitempty"`
	// Counts says how many ended in which way.
	Counts map[string]int `json:"counts,omitempty"`
	// UserID and UserPrincipalName are the user of a manual revocation; the next ones are its last call.
	UserID            string `json:"userId,omitempty"`
	UserPrincipalName string `json:"userPrincipalName,omitempty"`
	Calls             int    `json:"calls,omitempty"`
	Status            int    `json:"graphStatus,omitempty"`
	RequestID         string `json:"requestId,omitempty"`
	ClientRequestID   string `json:"clientRequestId,omitempty"`
	Proof             string `json:"proof,omitempty"`
	// Reason is that of a user who was not revoked, as in a dead letter.
	Reason string `json:"reason,omitempty"`
	// MaxUsers and Until are a release's.
	MaxUsers int       `json:"maxUsers,omitempty"`
	Until    time.Time `json:"until,omitzero"`
	Error    string    `json:"error,omitempty"`
}

// The outcomes of an Operation beside those of a Decision.
const (
	Started    = "started"     // written before the command acts
	Done       = "done"        // everything was done
	Failed     = "failed"      // something was not done: Error and Counts say what
	NotRevoked = "not_revoked" // one user
	Revoked    = "revoked"     // one user
)

// Receipt names one record by its place and hash. Kept where the writers of the file cannot change it, it proves that record and all
// before it in the chain.
type Receipt struct {
	Chain  string `json:"chain"`
	Number int    `json:"number"`
	Hash   string `json:"hash"`
}

// record is a decision's or operation's place in its chain. A chain begins with number 1 and ends, when the process stopped in its own
// time, with a record that says so, holds nothing else, and counts the records before it.
type record struct {
	Chain    string `json:"chain"`
	Number   int    `json:"number"`
	Previous string `json:"previous,omitempty"` // the hash of the record before
	// Follows is the file's last record when the chain began; only the first record has it.
	Follows   *Receipt   `json:"follows,omitempty"`
	Decision  *Decision  `json:"decision,omitempty"`
	Operation *Operation `json:"operation,omitempty"`
	End       bool       `json:"end,omitempty"`
	Count     int        `json:"count,omitempty"`
}

// line is how a record is written: the hash is SHA-256 over the record's bytes as they stand, the MAC is HMAC-SHA256 over macContext and
// the same bytes. MAC is empty where there is no key.
type line struct {
	Record json.RawMessage `json:"record"`
	Hash   string          `json:"hash"`
	MAC    string          `json:"mac,omitempty"`
}

const (
	// macContext keeps MACs of audit records apart from any other use of the same key.
	macContext = "session-revoker audit record 1\n"
	// minKey is how many bytes a key has at least: those of a hash. maxKey bounds the file.
	minKey, maxKey = sha256.Size, 4096
)

// Key is what MACs are made with. The zero Key makes none.
type Key struct{ bytes []byte }

// ReadKey reads a key file: at least 32 bytes, white space around them left out. The error never holds the key, nor the file's name, in
// whose place somebody may have put the key.
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
		return Key{}, fmt.Errorf("the key file is larger than %d bytes: that is no key", maxKey)
	}
	return NewKey(text)
}

// NewKey makes a key of at least 32 bytes, white space around them left out.
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

// Log writes records. It is safe for concurrent use; one lock is held while a record is written.
type Log struct {
	mu       sync.Mutex
	w        io.Writer
	file     *os.File // nil when it is not ours
	key      Key
	follows  *Receipt
	chain    string
	number   int
	previous string
	broken   bool // the last write failed: half a line may be there
	closed   bool
}

// New begins a chain of its own in w.
func New(w io.Writer, key Key) *Log {
	return &Log{w: w, key: key, chain: uuid.NewString()}
}

// Open begins a chain of its own at the end of a file, which it makes if it is not there. The chain's first record names the last one of
// the file: a chain that is taken away from the middle shows. Several processes may write to one file; each record is one write at its end.
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

// lastRecord finds the last whole record; nil if the file's last maxLine bytes hold none. Half a line, of a process that was killed
// while it wrote, is ended, so that the next record has a line of its own.
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

// Write adds a decision. A record that could not be written whole breaks the chain, and Verify tells so.
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

// Sync waits until what was written is on the disk; it does nothing for a writer that is no file of ours.
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
	// The number is used up even if the write fails: half a record may be there.
	t.number, t.previous = r.Number, l.Hash
	if t.broken {
		text = append([]byte("\n"), text...)
	}
	_, err = t.w.Write(append(text, '\n'))
	t.broken = err != nil
	return Receipt{r.Chain, r.Number, l.Hash}, err
}

// ascii escapes everything in a JSON text that is not printable ASCII: texts from outside hold characters that turn the direction or
// steer a terminal (U+202E, U+009B), and people look at the file with cat. Beyond ASCII they stand inside of strings only.
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
