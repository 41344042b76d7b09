package dispatch

import (
	"context"
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
)

// Coordinator is what workers for the same tenant share; *coordination.Store is one. None of its
// methods fails: if the store does not answer, the worker goes on as if it were alone.
type Coordinator interface {
	Leases
	Totals
}

// Leases keep two replicas from calling for the same user at once.
type Leases interface {
	// Lease asks for the right to call for the user. last is the last verdict of any replica, or
	// the zero Verdict if there is none. taken reports whether another replica has the lease; then
	// lease is nil. wait bounds how long leases of others may block the call.
	Lease(ctx context.Context, user string, wait *coordination.Wait) (lease *coordination.Lease, last dedupe.Verdict, taken bool)
	// Look is Lease without asking for the right.
	Look(ctx context.Context, user string, wait *coordination.Wait) (last dedupe.Verdict, taken bool)
	// Adopted counts that a verdict of another replica was used.
	Adopted()
}

// Totals bound what all replicas together do within some time.
type Totals interface {
	// Reserve counts the user, before an attempt, among the people whom all replicas sign out for
	// events of the kind within the guard's window. may reports whether the user is one of at most
	// most people, where 0 is no bound. added reports whether the user was not counted before.
	// total is how many people are counted.
	Reserve(ctx context.Context, kind, user string, most int, window time.Duration) (may, added bool, total int)
	// Refund takes back a Reserve that has added the user.
	Refund(ctx context.Context, kind, user string)
	// MayAsk reports whether this replica may do what, which all replicas together do at most once
	// within every. ok is false if the store does not answer.
	MayAsk(ctx context.Context, what string, every time.Duration) (may, ok bool)
}
