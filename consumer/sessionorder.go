package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// maxPassedOver is how many sessions that were served already are held at once, while a session
	// is looked for that was not.
	maxPassedOver = 32
	// passOver bounds how long that takes; otherWait, how long each next session is waited for.
	passOver  = 5 * time.Second
	otherWait = time.Second
	// maxServed bounds the sessions that are remembered as served, of about 100 bytes each. To
	// forget them is safe: they may be served again too early.
	maxServed = 10_000
)

// servedSessions remembers when the sessions of a source were served that were held for as long as
// they may be, and have more to do. Service Bus offers sessions in any order: without this, a few
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

// nextSession accepts the session to serve next: one that was not served yet, or else that one of
// those offered which was served longest ago. It holds the others meanwhile, so that Service Bus
// does not offer them again. It returns nil if there was none.
func (c *Consumer) nextSession(ctx context.Context, l *loop, waits *backoff.ExponentialBackOff) (best Session) {
	best = c.acceptSession(ctx, l, waits, receiveWait)
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
