package consumer

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// maxPassedOver is how many sessions are held at once that have had their turn, while one is looked for that has not; passOver bounds
	// how long that takes, and otherWait how long each next one is waited for.
	maxPassedOver = 32
	passOver      = 5 * time.Second
	otherWait     = time.Second
	// maxTurns bounds the sessions that are remembered to have had their turn, about 100 bytes each. Forgetting them is safe: they may come
	// too early.
	maxTurns = 10_000
)

// turns remembers when the sessions of a source had their turn that were held for as long as they may, and have more to do.
// Service Bus offers sessions in any order: without this, a few of them could take turns for ever. It is safe for concurrent use.
type turns struct {
	mu   sync.Mutex
	last map[string]time.Time
}

// had notes that a session has just had its turn.
func (t *turns) had(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil || len(t.last) >= maxTurns {
		t.last = map[string]time.Time{}
	}
	t.last[session] = time.Now()
}

// forget drops a session that has nothing more to do.
func (t *turns) forget(session string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.last, session)
}

// of is when a session had its turn; zero when it had none.
func (t *turns) of(session string) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last[session]
}

// nextSession accepts the session whose turn it is: one that has not had its turn, or else the one of those offered that had it longest ago.
// The others are held meanwhile, so that they are not offered again. nil if there was none.
func (c *Consumer) nextSession(ctx context.Context, l *loop, waits *backoff.ExponentialBackOff) (best Session) {
	best = c.acceptSession(ctx, l, waits, receiveWait)
	var passed []Session
	for until := time.Now().Add(passOver); best != nil && !l.turns.of(best.SessionID()).IsZero() && len(passed) < maxPassedOver && time.Now().Before(until); {
		other := c.acceptSession(ctx, l, waits, otherWait)
		if other == nil {
			break
		}
		if l.turns.of(other.SessionID()).Before(l.turns.of(best.SessionID())) {
			best, other = other, best
		}
		passed = append(passed, other)
	}
	for _, one := range passed {
		c.sessions.Go(func() { closeSession(one) })
	}
	return best
}
