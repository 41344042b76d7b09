package consumer

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// lookAtOnce is how many messages a dry run looks at at once, lookEvery how often it looks for new ones.
	lookAtOnce = 100
	lookEvery  = 2 * time.Second
)

// What a dry run says of an event: other words than those of decisions, which logs are searched for.
const (
	wouldRevoke     = "would_revoke"
	wouldDeadLetter = "would_dead_letter"
)

// DryRun looks at the messages of the sources, and at those that come, until ctx ends, and logs what would become of each event. It peeks: nothing is
// locked, called or settled, so it may run beside a worker that does. What Graph would answer it cannot know, and it does not
// deduplicate. Sources with sessions cannot be peeked into; they are left out, and the log says so.
func (c *Consumer) DryRun(ctx context.Context) {
	c.Health.Report(PartGraph, "") // is not asked
	c.Health.Report(PartGuard, "")
	var loops sync.WaitGroup
	for _, s := range c.loops {
		if s.Receiver == nil {
			c.Log.Error("a dry run cannot look into an entity with sessions: it is left out", zap.String("source", s.Entity))
			c.Health.Report(s.part, "left out of the dry run")
			continue
		}
		loops.Go(func() { c.look(ctx, s) })
	}
	loops.Wait()
}

func (c *Consumer) look(ctx context.Context, s *loop) {
	waits := newWaits()
	for next := int64(0); ctx.Err() == nil; {
		c.Health.Beat(s.name)
		messages, err := lookFrom(ctx, s.Receiver, next, lookAtOnce)
		if err != nil {
			if ctx.Err() == nil && c.Health.Report(s.part, err.Error()) {
				c.Log.Error("cannot look into Service Bus; trying again until it works", zap.String("source", s.Entity), zap.Error(err), zap.String("todo", servicebus.Hint(err)))
			}
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		waits.Reset()
		if c.Health.Report(s.part, "") {
			c.Log.Info("connected to Service Bus", zap.String("source", s.Entity))
		}
		for _, received := range messages {
			m := newMessage(s.source, delivery{message: received}, c.Lock)
			for _, r := range c.decideDry(m) {
				c.recordDry(m, r)
			}
			next = *received.SequenceNumber + 1
		}
		if len(messages) == 0 {
			_ = retry.Sleep(ctx, lookEvery)
		}
	}
}

func (c *Consumer) decideDry(m *message) []result {
	if r, unreadable := m.unreadable(); unreadable {
		return []result{r}
	}
	items, err := c.Decoder.Decode(deadletter.Content(m.ReceivedMessage))
	if err != nil {
		return []result{rejected(event.Item{Err: err})}
	}
	var results []result
	for _, item := range m.only(items) {
		r, _ := c.check(item)
		results = append(results, r)
	}
	return results
}

func (c *Consumer) recordDry(m *message, r result) {
	if r.reason == "" {
		c.Log.Info("dry run", append(c.about(nil, m, r.item), zap.String("outcome", wouldRevoke))...)
		return
	}
	c.Log.Warn("dry run", append(c.about(nil, m, r.item), zap.String("outcome", wouldDeadLetter), zap.String("reason", string(r.reason)), zap.String("error", c.text(r.err)))...)
}
