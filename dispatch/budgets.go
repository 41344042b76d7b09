package dispatch

import (
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/retry"
)

const (
	// maxBudgets bounds the budgets that are kept, of about 300 bytes each. Forgetting one begins it anew.
	maxBudgets = 20_000
	// budgetFor is how long after its next attempt was due a budget stands for whatever event comes. After that it stands only for
	// events that were enqueued before: while the breaker is open it may take hours until a user's turn comes again. A later event
	// is another one, and must not find itself as old as the first one was.
	budgetFor = 15 * time.Minute
)

// budgets keeps what the failures of users have cost until they are decided. Their events may leave before: set aside, given up
// with a session, or their lock lost. They come again, and what they have used up stands. The zero value is ready; it is safe for
// concurrent use.
type budgets struct {
	mu         sync.Mutex
	young, old map[string]kept // two generations make forgetting cheap
}

// kept is a budget, the instant before which Graph, or the backoff, does not want the next attempt, and the place in the call queue: who
// comes again does not queue up anew.
type kept struct {
	*retry.Budget
	next     time.Time
	sequence int
}

func (b *budgets) keep(key string, budget kept) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.young == nil || len(b.young) >= maxBudgets/2 {
		b.old, b.young = b.young, map[string]kept{}
	}
	b.young[key] = budget
}

// of returns the budget of a user whose oldest event was enqueued then. ok is false when none is kept that stands for it.
func (b *budgets) of(key string, enqueued time.Time) (budget kept, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if budget, ok = b.young[key]; !ok {
		budget, ok = b.old[key]
	}
	if ok && time.Since(budget.next) >= budgetFor && enqueued.After(budget.next) {
		b.drop(key)
		return kept{}, false
	}
	return budget, ok
}

// forget drops the budget of a user who is decided.
func (b *budgets) forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(key)
}

func (b *budgets) drop(key string) {
	delete(b.young, key)
	delete(b.old, key)
}
