package consumer

import (
	"context"
	"sync"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/sync/semaphore"
)

const (
	// smallBody is how large a body is that is decoded as it comes: its few events cost no more than a message does.
	smallBody = 4 << 10
	// maxLarge is how many bytes of larger bodies are decoded and in flight at once, of each source: about 5,000 users, who
	// need some 10 KB each while they wait for their attempts.
	maxLarge = 256 << 10
	// maxBytes is how many bytes of bodies are in flight at once, of each source. One message more is always received.
	maxBytes = 16 << 20
)

// largeBodies lets messages with many events be worked on a few at a time: what a message may hold is up to its producer. The
// others wait, still encoded, in the order in which they came.
type largeBodies struct{ free *semaphore.Weighted }

func newLargeBodies() *largeBodies { return &largeBodies{semaphore.NewWeighted(maxLarge)} }

// enter waits until the message may be decoded; leave must follow. A message larger than all that may be in flight is worked
// on alone.
func (l *largeBodies) enter(ctx context.Context, m *azservicebus.ReceivedMessage) (leave func(), err error) {
	n := int64(min(len(m.Body), maxLarge))
	if err := l.free.Acquire(ctx, n); err != nil {
		return nil, context.Cause(ctx)
	}
	return func() { l.free.Release(n) }, nil
}

// sizes knows how many bytes of bodies are in flight, and how large they were of late, so that no more are asked for than
// there is memory for. It is safe for concurrent use.
type sizes struct {
	mu       sync.Mutex
	inFlight int
	largest  int // of late: it shrinks by a part with each smaller one
}

func (s *sizes) add(m *azservicebus.ReceivedMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight += len(m.Body)
	s.largest = max(len(m.Body), s.largest-s.largest/64)
}

// remove says whether more may be received again.
func (s *sizes) remove(m *azservicebus.ReceivedMessage) (again bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	full := s.inFlight >= maxBytes
	s.inFlight -= len(m.Body)
	return full && s.inFlight < maxBytes
}

// limit is how many more messages may be received.
func (s *sizes) limit() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight >= maxBytes {
		return 0
	}
	return max(1, (maxBytes-s.inFlight)/max(1, s.largest))
}
