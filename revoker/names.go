package revoker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

const (
	// namesFor bounds how long the answer to a read of a name is believed: names are given to other
	// people.
	namesFor = 10 * time.Minute
	// maxNames bounds the names that are remembered; each needs about 150 bytes.
	maxNames = 20_000
	// deniedFor is the pause after Graph refused to let us read users, or throttled a read without
	// a Retry-After.
	deniedFor = time.Minute
	// maxDenied bounds the pause of one Retry-After, like retry.MaxRetryAfter for calls: a broken
	// proxy that asks for 68 years must not switch names off.
	maxDenied = 10 * time.Minute
	// readsAtOnce bounds the reads in flight: ten thousand names that arrive together must not
	// become ten thousand requests at once.
	readsAtOnce = 8
)

// Resolver finds the account of a user principal name, so that events with a person's id and events
// with their name count as one person's. It is safe for concurrent use.
type Resolver struct {
	// Account reads a user, like Revoker.Account.
	Account func(context.Context, event.User) (Account, error)
	// SkewMargin is the allowed difference between Service Bus' clock, which sets enqueued times,
	// and ours.
	SkewMargin time.Duration

	mu      sync.Mutex
	known   map[string]name
	reading map[string]chan struct{} // closed when the read has ended
	slots   chan struct{}            // one for each read in flight; made by the first
	denied  time.Time                // no reads before
}

// ByAccount returns what a worker that may read users needs: a Verifying that makes its attempts for
// accounts, and a Resolver that finds the accounts of names. protected reports whether a user must
// never be called. skewMargin is Resolver.SkewMargin, and verifyTimeout is Verifying.VerifyTimeout.
func (r *Revoker) ByAccount(
	protected func(event.User) bool, skewMargin, verifyTimeout time.Duration,
) (*Verifying, *Resolver) {
	return &Verifying{Revoker: r, VerifyTimeout: verifyTimeout, Protected: protected, ByAccount: true},
		&Resolver{Account: r.Account, SkewMargin: skewMargin}
}

// name is the answer of a read that began at at. The zero User means that the read found nobody.
type name struct {
	user event.User
	at   time.Time
}

// Resolve returns the account that the user's name belongs to. It only uses a read that began after
// the event with the name was enqueued: by then a name can belong to somebody else, and one
// person's events must not count as another's. ok is false if the account is unknown.
//
// Events that were enqueued a while ago share a read. Others that arrive during a read wait for the
// next one together. Few reads are in flight at once, and none while Graph throttles them. If ctx
// ends while Resolve waits, the account is unknown.
func (n *Resolver) Resolve(ctx context.Context, user event.User, enqueued time.Time) (account event.User, ok bool) {
	arrived, key := time.Now(), user.Key()
	for {
		n.mu.Lock()
		known := n.known[key]
		fits := !known.at.Before(arrived) ||
			!enqueued.IsZero() && known.at.Add(-n.SkewMargin).After(enqueued) && time.Since(known.at) < namesFor
		if fits || time.Now().Before(n.denied) {
			n.mu.Unlock()
			return known.user, fits && !known.user.IsZero()
		}
		ended := n.reading[key]
		if ended == nil {
			break
		}
		n.mu.Unlock()
		select {
		case <-ended:
		case <-ctx.Done():
			return event.User{}, false
		}
	}
	if n.reading == nil {
		n.reading, n.slots = map[string]chan struct{}{}, make(chan struct{}, readsAtOnce)
	}
	ended := make(chan struct{})
	n.reading[key] = ended
	n.mu.Unlock()
	select {
	case n.slots <- struct{}{}:
		if ctx.Err() == nil { // the slot and the end of ctx may have come together
			account = n.read(ctx, user)
		}
		<-n.slots
	case <-ctx.Done():
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.reading, key)
	close(ended)
	return account, !account.IsZero()
}

// read asks Graph and remembers the answer.
func (n *Resolver) read(ctx context.Context, user event.User) (account event.User) {
	began := time.Now()
	n.mu.Lock()
	denied := began.Before(n.denied)
	n.mu.Unlock()
	if denied || ctx.Err() != nil { // either may have changed while this read waited for a slot
		return event.User{}
	}
	answer, err := n.Account(ctx, user)
	if err == nil {
		account, _ = event.NewUser(answer.ID, "")
	}
	if err != nil && ctx.Err() != nil {
		return event.User{} // the read was cut off and says nothing about the name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var failure *Error
	if errors.As(err, &failure) && (failure.Denied() || failure.Kind == Throttled) {
		pause := deniedFor
		if failure.After > 0 {
			pause = min(failure.After, maxDenied)
		}
		if until := time.Now().Add(pause); until.After(n.denied) {
			n.denied = until
		}
	}
	if n.known == nil || len(n.known) >= maxNames {
		n.known = map[string]name{} // forgetting costs only a read
	}
	n.known[user.Key()] = name{account, began}
	return account
}
