package consumer

import (
	"context"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/sync/semaphore"
)

const (
	// smallBody is the size of a body, in bytes, up to which it is decoded at once: its few events
	// cost no more memory than the message itself.
	smallBody = 4 << 10
	// maxLarge is how many bytes of larger bodies of a source are decoded and undecided at once.
	// This is about 5,000 users, who need some 10 KB each while they wait for their attempts.
	maxLarge = 256 << 10
	// maxBytes is how many bytes of bodies of a source are in flight at once. One more message can
	// always be received.
	maxBytes = 16 << 20
)

// largeBodies bounds how many messages with many events are decoded at once: producers decide how
// many events a message has. The others wait, still encoded, in the order in which they came.
type largeBodies struct{ free *semaphore.Weighted }

func newLargeBodies() *largeBodies { return &largeBodies{semaphore.NewWeighted(maxLarge)} }

// enter waits until the message may be decoded, or until ctx ends. leave must follow if err is nil.
// A message that is larger than maxLarge is handled without another large one beside it.
func (l *largeBodies) acquire(ctx context.Context, m *azservicebus.ReceivedMessage) (free func(), err error) {
	n := int64(min(len(m.Body), maxLarge))
	if err := l.free.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { l.free.Release(n) }, nil
}

// bodyBytes counts the bytes of bodies in flight, not the messages: memory is what it bounds. It
// remembers how large bodies were lately, so that no more messages are asked for than memory
// allows. It is safe for concurrent use.
type bodyBytes struct {
	mu       sync.Mutex
	inFlight int
	largest  int // lately: each smaller body lets it shrink by a part
}

func (b *bodyBytes) add(m *azservicebus.ReceivedMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight += len(m.Body)
	b.largest = max(len(m.Body), b.largest-b.largest/64)
}

// remove reports whether messages may be received again that could not be before.
func (b *bodyBytes) remove(m *azservicebus.ReceivedMessage) (again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	full := b.inFlight >= maxBytes
	b.inFlight -= len(m.Body)
	return full && b.inFlight < maxBytes
}

// limit returns how many more messages may be received.
func (b *bodyBytes) limit() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.inFlight >= maxBytes {
		return 0
	}
	return max(1, (maxBytes-b.inFlight)/max(1, b.largest))
}
