package consumer

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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
	if c.Names == nil {
		return nil
	}
	if _, _, open := c.line.state(); open {
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
			if account, ok := c.Names.Resolve(ctx, user, enqueued); ok {
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
