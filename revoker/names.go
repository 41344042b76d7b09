package revoker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/event"
)

const (
	// namesFor is how long it is believed at most whose a name is: names are given to others.
	namesFor = 10 * time.Minute
	// maxNames bounds the names that are remembered; about 150 bytes each.
	maxNames = 20_000
	// deniedFor is how long nobody is asked after Graph has refused to let users be read, or has throttled without a Retry-After.
	deniedFor = time.Minute
	// maxDenied bounds how long one Retry-After is believed, as for calls (retry.MaxRetryAfter): a broken proxy's 68 years must not switch
	// names off.
	maxDenied = 10 * time.Minute
	// readsAtOnce bounds the reads under way: ten thousand names that arrive together must not be ten thousand requests at once.
	readsAtOnce = 8
)

// Resolver knows which account a user principal name belongs to, so that events that give a person's id and others that give the name count as one
// person's. It is safe for concurrent use.
type Resolver struct {
	// Account reads a user, as Revoker.Account does.
	Account func(context.Context, event.User) (Account, error)
	// SkewMargin is how much the clock by which events are enqueued may differ from ours.
	SkewMargin time.Duration

	mu      sync.Mutex
	known   map[string]name
	reading map[string]chan struct{} // closed when the read has ended
	slots   chan struct{}            // one for each read under way; made by the first
	denied  time.Time                // nobody is asked before
}

// name is whose a name was: the answer of a read that began then. The zero User is nobody who can be told.
type name struct {
	user event.User
	at   time.Time
}

// Resolve is the account that the user's name belonged to when it was read, and it was read after the event that gives the name was enqueued: a name
// can be somebody else's by then, and one person's events must not be taken for another's. ok is false when it cannot be told.
//
// Events that were enqueued a while ago share a read; others that arrive during one wait for the next, together. Few reads are under
// way at once, and none while Graph throttles them; who has waited until ctx ends cannot be told.
func (n *Resolver) Resolve(ctx context.Context, user event.User, enqueued time.Time) (account event.User, ok bool) {
	arrived, key := time.Now(), user.Key()
	for {
		n.mu.Lock()
		known := n.known[key]
		fits := !known.at.Before(arrived) || !enqueued.IsZero() && known.at.Add(-n.SkewMargin).After(enqueued) && time.Since(known.at) < namesFor
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
		if ctx.Err() == nil { // the slot and the end of the wait may have come together
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
	if denied || ctx.Err() != nil { // since it waits for a slot
		return event.User{}
	}
	answer, err := n.Account(ctx, user)
	if err == nil {
		account, _ = event.NewUser(answer.ID, "")
	}
	if err != nil && ctx.Err() != nil {
		return event.User{} // cut off: nothing is known of the name
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	var failure *Error
	if errors.As(err, &failure) && (failure.Kind == Forbidden || failure.Kind == MissingPermission || failure.Kind == Throttled) {
		pause := deniedFor
		if failure.After > 0 {
			pause = min(failure.After, maxDenied)
		}
		if until := time.Now().Add(pause); until.After(n.denied) {
			n.denied = until
		}
	}
	if n.known == nil || len(n.known) >= maxNames {
		n.known = map[string]name{} // forgetting costs a read
	}
	n.known[user.Key()] = name{account, began}
	return account
}
