package consumer

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
)

const (
	// namesWithin bounds how long a message waits for the accounts of its users' names. After that,
	// a name without an account counts as a user of its own.
	namesWithin = 5 * time.Second
	// namesAtOnce is how many names of one message are resolved at once.
	namesAtOnce = 8
)

// accounts returns the accounts of users whom events give by name alone, by the users' keys. Names
// that cannot be resolved are missing. So a person who has a name in one event and an id in another
// is one user, and the attempt is for their account, even if somebody else has the name by then.
// Users whom events give by a device or mail address are looked up by attempts.
func (c *Consumer) accounts(ctx context.Context, m *message, items []event.Item) map[string]event.User {
	if c.deps.Resolver == nil || c.dispatch.Open() {
		return nil // there is no need, or Graph is in trouble, and would not answer
	}
	return c.resolve(ctx, m, items)
}

// resolve is accounts, of which most workers need nothing.
func (c *Consumer) resolve(ctx context.Context, m *message, items []event.Item) map[string]event.User {
	var enqueued time.Time
	if m.EnqueuedTime != nil {
		enqueued = *m.EnqueuedTime
	}
	ctx, cancel := context.WithTimeout(ctx, namesWithin)
	defer cancel()
	var mu sync.Mutex
	found := map[string]event.User{}
	var resolving errgroup.Group
	resolving.SetLimit(namesAtOnce)
	seen := map[string]bool{}
	for _, item := range items {
		user := item.Event.User
		if item.Err != nil || user.UPN() == "" || user.ID() != "" || seen[user.Key()] {
			continue
		}
		seen[user.Key()] = true
		resolving.Go(func() error {
			if account, ok := c.deps.Resolver.Resolve(ctx, user, enqueued); ok {
				mu.Lock()
				defer mu.Unlock()
				found[user.Key()] = account
			}
			return nil
		})
	}
	_ = resolving.Wait() // no function returns an error
	return found
}

// addResolved adds an event once more if an attempt has found the account of its user's name, device,
// or mail address: now for that account, which may have other events. It reports whether it did.
// Then the event is undecided again.
func (c *Consumer) addResolved(m *message, r *result, all []result) bool {
	end := r.event.Result()
	d, _ := end.Detail.(*dispatch.Attempts)
	if end.Disposition != dedupe.Failed || d == nil {
		return false
	}
	account, ok := dispatch.AccountOf(d.Err)
	if !ok {
		return false
	}
	key := account.Key()
	r.account = account
	for i := range all { // a message adds each user once
		if all[i].event != nil && all[i].key == key {
			r.key, r.event = key, all[i].event
			return true
		}
	}
	stands := r.event.Stands
	r.key, r.event = key, m.eventAt(r.item.Event.Urgency, r.item.Event.Type)
	r.event.Stands = stands
	c.dispatch.Add(key, account, r.event)
	return true
}

// addAllResolved calls addResolved for each result in some whose event is decided.
func (c *Consumer) addAllResolved(m *message, some, all []result) {
	if c.deps.Resolver == nil && c.deps.Known == nil {
		return
	}
	for i := range some {
		if r := &some[i]; r.event != nil && r.event.Ended() {
			c.addResolved(m, r, all)
		}
	}
}
