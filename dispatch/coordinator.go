package dispatch

import (
	"context"
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
)

// Coordinator is what workers for the same tenant share; *coordination.Store is one. None of its
// methods fails: when the store does not answer, the worker decides as if it were alone.
type Coordinator interface {
	Leases
	Totals
}

// Leases keep two replicas from calling for the same user at once.
type Leases interface {
	// Lease asks for the right to call for the user. known is the last verdict of any replica, the
	// zero Verdict when there is none. taken reports whether another replica has the lease; then
	// lease is nil. wait bounds how long leases of others may be in the way.
	Lease(ctx context.Context, user string, wait *coordination.Wait) (lease *coordination.Lease, known dedupe.Verdict, taken bool)
	// Look is Lease without asking for the right.
	Look(ctx context.Context, user string, wait *coordination.Wait) (known dedupe.Verdict, taken bool)
	// Adopted counts that a verdict of another replica was used.
	Adopted()
}

// Totals are what all replicas together may do in a time.
type Totals interface {
	// Reserve counts the user, before an attempt, among the people whom all replicas sign out for
	// events of the kind within the window. may reports whether most of them are not exceeded,
	// where 0 is no bound; added, whether the user was not counted before; and total is how many
	// are.
	Reserve(ctx context.Context, kind, user string, most int, window time.Duration) (may, added bool, total int)
	// Refund takes back a Reserve that has added the user.
	Refund(ctx context.Context, kind, user string)
	// MayAsk reports whether this replica is the first one that asks for this within the time. ok
	// is false when the store does not answer.
	MayAsk(ctx context.Context, what string, every time.Duration) (may, ok bool)
}
