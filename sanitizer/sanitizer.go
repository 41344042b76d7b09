// Package sanitizer stands on the connection to Service Bus and makes each incoming message readable for the client library.
//
// go-amqp v1.7.0 and azservicebus v1.11.0 fail on what any producer may send: a char or decimal ends the link, so that nothing
// is received any more; some keys and annotations panic, in goroutines that nobody but the library can guard; nested values
// take 500 times their size, or the stack. So the bytes are looked at before the library sees them. What it can read passes
// as it is. Where something can be left out, it is (a message is mended). Where the body or the structure cannot be read, a
// stand-in without a body takes the message's place, with its annotations and lock: it can be dead-lettered.
package sanitizer

import (
	"strconv"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// Application properties that the sanitizer adds to what it changes. Each is a string. What a producer writes under these
// names is left out of every message that comes through, so whoever receives through a sanitizer may believe them.
const (
	// PropertyUnreadable says, in a few words, why the message cannot be read. Its body is left out.
	PropertyUnreadable = "revoker-unreadable"
	// PropertyMended names what was left out of a message whose body is whole.
	PropertyMended = "revoker-mended"
)

// defaultMaxMessage is twice the largest body that holds events.
const defaultMaxMessage = 2 << 20

// Options change what a sanitizer reads and keeps.
type Options struct {
	// MaxMessage is how many bytes of a message are read; a larger one is unreadable. Defaults to 2 MiB.
	MaxMessage int
	// Originals bounds, in bytes, the encoded messages that are kept for Original, oldest out first. 0 keeps none.
	Originals int
}

// Sanitizer makes what comes over the connections of one Service Bus client readable. It is safe for concurrent use.
type Sanitizer struct {
	maxMessage int

	mu    sync.Mutex
	limit int
	bytes int
	kept  map[string][]byte
	order []string // of kept, oldest first
}

// New makes a sanitizer.
func New(o Options) *Sanitizer {
	if o.MaxMessage == 0 {
		o.MaxMessage = defaultMaxMessage
	}
	return &Sanitizer{maxMessage: o.MaxMessage, limit: o.Originals, kept: map[string][]byte{}}
}

// Unreadable says why the message cannot be read, if it is a stand-in.
func Unreadable(m *azservicebus.ReceivedMessage) (why string, ok bool) {
	why, ok = m.ApplicationProperties[PropertyUnreadable].(string)
	return why, ok
}

// Original is the message of an entity (`queue`, `topic/Subscriptions/name`, either with `/$DeadLetterQueue`) as it was
// encoded when it last came, before the sanitizer changed it; false if it was not changed, was larger than MaxMessage, or is
// no longer kept. Names are compared without case. The caller must not write to it.
func (s *Sanitizer) Original(entity string, sequence int64) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	encoded, ok := s.kept[keyOf(entity, sequence)]
	return encoded, ok
}

// keep keeps a message, and forgets the oldest for it.
func (s *Sanitizer) keep(entity string, sequence int64, encoded []byte) {
	if len(encoded) > s.limit || len(encoded) == 0 {
		return
	}
	key := keyOf(entity, sequence)
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, again := s.kept[key]; again {
		s.bytes -= len(old)
	} else {
		s.order = append(s.order, key)
	}
	s.kept[key] = append([]byte(nil), encoded...)
	s.bytes += len(encoded)
	for s.bytes > s.limit {
		s.bytes -= len(s.kept[s.order[0]])
		delete(s.kept, s.order[0])
		s.order = s.order[1:]
	}
}

func keyOf(entity string, sequence int64) string {
	return normal(entity) + "\x00" + strconv.FormatInt(sequence, 10)
}

// normal is an address as all of its spellings are compared.
func normal(address string) string { return strings.ToLower(strings.Trim(address, "/")) }
