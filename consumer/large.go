package consumer

import (
	"context"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/sync/semaphore"
)

const (
	// smallBody is the size in bytes up to which a body is decoded at once. Its few events need no
	// more memory than the message itself.
	smallBody = 4 << 10
	// maxLarge is how many bytes of larger bodies of a source are decoded, and not yet decided, at
	// once. They name about 5,000 users, each of whom needs some 10 KB while they wait for their
	// attempts.
	maxLarge = 256 << 10
	// maxBytes is how many bytes of bodies of a source are in flight at once. A message is received
	// if fewer are in flight, whatever its size is.
	maxBytes = 16 << 20
)

// largeBodies bounds how many messages with many events are decoded at once, since producers choose
// how many events a message has. The others wait, still encoded, in the order in which they came.
type largeBodies struct{ free *semaphore.Weighted }

func newLargeBodies() *largeBodies { return &largeBodies{semaphore.NewWeighted(maxLarge)} }

// acquire waits until the message may be decoded, or until ctx ends. If err is nil, free must
// follow. While a message that is larger than maxLarge is decoded, no other large one is.
func (l *largeBodies) acquire(ctx context.Context, m *azservicebus.ReceivedMessage) (free func(), err error) {
	n := int64(min(len(m.Body), maxLarge))
	if err := l.free.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { l.free.Release(n) }, nil
}

// bodyBytes bounds memory: it counts the bytes of the bodies in flight. It also remembers how large
// bodies were lately, so that no more messages are requested than memory allows. It is safe for
// concurrent use.
type bodyBytes struct {
	mu       sync.Mutex
	inFlight int
	largest  int // the largest body lately: it shrinks a little with each smaller one
}

func (b *bodyBytes) add(m *azservicebus.ReceivedMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight += len(m.Body)
	b.largest = max(len(m.Body), b.largest-b.largest/64)
}

func (b *bodyBytes) remove(m *azservicebus.ReceivedMessage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.inFlight -= len(m.Body)
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
