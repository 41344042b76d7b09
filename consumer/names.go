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
	// namesWithin bounds how long a message waits for Graph to say whose names it gives; then they stand for themselves.
	namesWithin = 5 * time.Second
	// namesAtOnce is how many names of one message are asked for at once.
	namesAtOnce = 8
)

// accounts finds out, by the keys of users who are given by name alone, which accounts they are, where that can be told: then somebody who is given by
// name here and by id there is one user, and the call goes to that account, whoever has the name by then.
func (c *Consumer) accounts(ctx context.Context, m *message, items []event.Item) map[string]event.User {
	if c.Resolver == nil {
		return nil
	}
	if c.dispatch.Open() {
		return nil // Graph has other worries
	}
	var enqueued time.Time
	if m.EnqueuedTime != nil {
		enqueued = *m.EnqueuedTime
	}
	ctx, cancel := context.WithTimeout(ctx, namesWithin)
	defer cancel()
	var mu sync.Mutex
	found := map[string]event.User{}
	var asking errgroup.Group
	asking.SetLimit(namesAtOnce)
	asked := map[string]bool{}
	for _, item := range items {
		user := item.Event.User
		if item.Err != nil || user.ID() != "" || asked[user.Key()] {
			continue
		}
		asked[user.Key()] = true
		asking.Go(func() error {
			if account, ok := c.Resolver.Resolve(ctx, user, enqueued); ok {
				mu.Lock()
				defer mu.Unlock()
				found[user.Key()] = account
			}
			return nil
		})
	}
	_ = asking.Wait() // no error: who is not found stands for himself
	return found
}

// addResolved enters an event once more, under the account that its name turned out to belong to, beside whatever else there is about the account. It says
// whether the event was entered again, and so waits for another end.
func (c *Consumer) addResolved(m *message, r *result, all []result) bool {
	end := r.event.Result()
	d, _ := end.Detail.(*dispatch.Decision)
	if end.Disposition != dedupe.Failed || d == nil {
		return false
	}
	account, ok := dispatch.AccountOf(d.Err)
	if !ok {
		return false
	}
	key := account.Key()
	for i := range all { // one message enters once per user
		if all[i].event != nil && all[i].key == key {
			r.key, r.event = key, all[i].event
			return true
		}
	}
	waits := m.eventAt(r.item.Event.Urgency, r.item.Event.Type)
	r.key, r.event = key, waits
	c.dispatch.Add(key, account, waits)
	return true
}

// addAllResolved does that for each of some events whose end is decided.
func (c *Consumer) addAllResolved(m *message, some, all []result) {
	if c.Resolver == nil {
		return
	}
	for i := range some {
		r := &some[i]
		if r.event == nil {
			continue
		}
		select {
		case <-r.event.Done():
			c.addResolved(m, r, all)
		default:
		}
	}
}
