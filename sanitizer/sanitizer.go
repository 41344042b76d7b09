// Package sanitizer sits on the connection to Service Bus and makes each incoming message readable
// for the client library.
//
// go-amqp v1.7.0 and azservicebus v1.11.0 fail on messages that any producer may send. A char or
// decimal ends the link, so that nothing is received anymore. Some keys and annotations panic, in
// goroutines that only the library could guard. Nested values need 500 times their size in memory,
// or overflow the stack. So the sanitizer reads the bytes before the library does. A message that
// the library can read passes unchanged. If something can be left out of a message, the sanitizer
// leaves it out (the message is mended). If the body or the structure cannot be read, a stand-in
// without a body, but with the message's annotations and lock, takes its place: it can be
// dead-lettered.
//
// The package has its own AMQP format codes, although emulator/servicebus/amqp has a codec: the
// product must not depend on the emulator.
package sanitizer

import (
	"strconv"
	"strings"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// Application properties that the sanitizer adds to a message that it changes. Each is a string.
// The sanitizer removes what a producer writes under these names from every message, so whoever
// receives through a sanitizer can trust them.
const (
	// PropertyUnreadable says in a few words why the message cannot be read. The message has no
	// body.
	PropertyUnreadable = "revoker-unreadable"
	// PropertyMended names what was left out of a message whose body is complete.
	PropertyMended = "revoker-mended"
)

// defaultMaxMessage is twice the size of the largest body with events, in bytes.
const defaultMaxMessage = 2 << 20

// Options change what a sanitizer reads and keeps.
type Options struct {
	// MaxMessage bounds the bytes of a message that are read; a larger message is unreadable.
	// Defaults to 2 MiB.
	MaxMessage int
	// Originals bounds, in bytes, the encoded messages that are kept for Original. The oldest go
	// first. 0 keeps none.
	Originals int
}

// Sanitizer makes the messages readable that come over the connections of one Service Bus client.
// It is safe for concurrent use.
type Sanitizer struct {
	maxMessage int

	mu    sync.Mutex
	limit int
	bytes int
	kept  map[string][]byte
	order []string // keys of kept, oldest first
}

// New returns a Sanitizer.
func New(o Options) *Sanitizer {
	if o.MaxMessage == 0 {
		o.MaxMessage = defaultMaxMessage
	}
	return &Sanitizer{maxMessage: o.MaxMessage, limit: o.Originals, kept: map[string][]byte{}}
}

// Unreadable returns the reason why the message cannot be read. ok is false if the message is not a
// stand-in.
func Unreadable(m *azservicebus.ReceivedMessage) (why string, ok bool) {
	why, ok = m.ApplicationProperties[PropertyUnreadable].(string)
	return why, ok
}

// Original returns a message of an entity (`queue`, `topic/Subscriptions/name`, either with
// `/$DeadLetterQueue`) in the encoding in which it last arrived, before the sanitizer changed it.
// It returns false if the sanitizer did not change the message, if it was larger than MaxMessage,
// or if it is no longer kept. Names are compared without case. The caller must not write to the
// result.
func (s *Sanitizer) Original(entity string, sequence int64) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	encoded, ok := s.kept[keyOf(entity, sequence)]
	return encoded, ok
}

// keep keeps a message, and drops the oldest ones to make room for it.
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

// normal returns the form of an address in which all of its spellings are equal.
func normal(address string) string { return strings.ToLower(strings.Trim(address, "/")) }
