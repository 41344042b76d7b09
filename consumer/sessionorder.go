package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// maxPassedOver is how many sessions that were served before are held at once during the search
	// for one that was not.
	maxPassedOver = 32
	// passOver bounds the search, and otherWait the wait for each further session.
	passOver  = 5 * time.Second
	otherWait = time.Second
	// maxServed bounds how many sessions are remembered as served. Each needs about 100 bytes. A
	// session that is forgotten may be served again too early, which is safe.
	maxServed = 10_000
)

// servedSessions remembers when sessions were served that have more to do, although they were held
// for as long as they may be. Service Bus offers sessions in any order. Without this memory, a few
// of them could alternate without end, and keep others waiting. The zero value is ready. It is safe
// for concurrent use.
type servedSessions struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// add notes that a session has just been served.
func (t *servedSessions) add(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || len(t.last) >= maxServed {
		t.last = map[string]time.Time{}
	}
	t.last[session] = time.Now()
}

// forget forgets a session that has nothing more to do.
func (t *servedSessions) forget(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, session)
}

// at returns when a session was served; the zero time when it was not.
func (t *servedSessions) at(session string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[session]
}

// nextSession accepts the session to serve next: one that was not served yet, or else, of those
// that Service Bus offers, the one that was served longest ago. It holds the others meanwhile, so
// that Service Bus does not offer them again. It returns nil if there was none for atMost.
func (c *Consumer) nextSession(
	ctx context.Context, l *loop, waits *backoff.ExponentialBackOff, atMost time.Duration,
) (best Session) {
	best = c.acceptSession(ctx, l, waits, atMost)
	servedAt := func(s Session) time.Time { return l.served.at(s.SessionID()) }
	until := time.Now().Add(passOver)
	var passed []Session
	for best != nil && !servedAt(best).IsZero() && len(passed) < maxPassedOver && time.Now().Before(until) {
		other := c.acceptSession(ctx, l, waits, otherWait)
		if other == nil {
			break
		}
		if servedAt(other).Before(servedAt(best)) {
			best, other = other, best
		}
		passed = append(passed, other)
	}
	for _, s := range passed {
		c.closing.Go(func() { closeSession(s) })
	}
	return best
}
