package dispatch

import (
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/retry"
)

const (
	// maxBudgets bounds how many budgets are kept, of about 300 bytes each. A user whose budget is
	// forgotten gets a new one.
	maxBudgets = 20_000
	// A budget applies to any event of the user until budgetFor after the user's next attempt is
	// due. After that it applies only to events that were enqueued before the attempt was due,
	// since the attempt can take hours to begin while the breaker is open. A later event has
	// nothing to do with the failures of the earlier ones, and must not inherit their age.
	budgetFor = 15 * time.Minute
)

// budgets keeps the budgets of users who have failed. The users' events may be removed before they
// are decided, because they are deferred, their session ends, or their lock is lost. When the events
// come back, the budget applies to them again. The zero value is ready. It is safe for concurrent
// use.
//
// A budget that is used up is kept for the user's other events that were enqueued before. A hundred
// of them may be deferred, and with a budget of its own each would need hours. So the next attempt
// decides them, unless it succeeds.
type budgets struct {
	mu    sync.Mutex
	users dedupe.Generations[string, kept] // by the users' keys
}

// kept is what is kept of a user who has failed.
type kept struct {
	*retry.Budget
	next   time.Time // when the next attempt is due
	ticket int       // in the call queue: a user who comes back keeps it
	// final are the attempts that have used the budget up, or nil while another one is due. The budget
	// then applies only to events that were enqueued before the last one began.
	final *Attempts
}

// keep keeps a user's budget, which the caller does not touch any more.
func (b *budgets) keep(key string, budget kept) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.users.Young() >= maxBudgets/2 {
		b.users.Rotate()
	}
	b.users.Set(key, budget)
}

// of returns the budget of a user whose events were enqueued between oldest and newest. ok is false
// if no budget applies to all of them.
func (b *budgets) of(key string, oldest, newest time.Time) (budget kept, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	budget, ok = b.users.Get(key)
	switch {
	case !ok:
		return kept{}, false
	case budget.final != nil && !newest.Before(budget.final.Last.Start):
		return kept{}, false
	case budget.final == nil && time.Since(budget.next) >= budgetFor && oldest.After(budget.next):
		b.users.Delete(key)
		return kept{}, false
	}
	return budget, true
}

// final returns the attempts that have used up a user's budget, or nil if none have.
func (b *budgets) final(key string) *Attempts {
	b.mu.Lock()
	defer b.mu.Unlock()
	budget, _ := b.users.Get(key)
	return budget.final
}

// forget drops the budget of a user.
func (b *budgets) forget(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users.Delete(key)
}
