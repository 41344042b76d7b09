package consumer

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// lookAtOnce is how many messages are peeked at in one call.
	lookAtOnce = 100
	// lookEvery is how often a dry run looks for new messages.
	lookEvery = 2 * time.Second
)

// DryRun peeks at the messages of the sources, and at new ones, until ctx ends. It logs what a
// worker would do about each event, messages that are scheduled already included. It locks and
// settles nothing, and calls nobody, so it may run beside a worker. It does not know what Graph would
// answer, and does not deduplicate. It cannot peek into sources with sessions, so it skips them, and
// logs that it does.
func (c *Consumer) DryRun(ctx context.Context) {
	c.deps.Health.Report(PartGraph, "") // a dry run does not use it
	c.deps.Health.Report(PartGuard, "")
	var loops sync.WaitGroup
	for _, l := range c.loops {
		if l.Receiver == nil {
			c.deps.Log.Error("a dry run cannot peek into an entity with sessions, and leaves it out", zap.String("source", l.Entity))
			c.deps.Health.Report(l.part, "left out of the dry run")
			continue
		}
		loops.Go(func() { c.look(ctx, l) })
	}
	loops.Wait()
}

// look is the dry run of one source.
func (c *Consumer) look(ctx context.Context, l *loop) {
	waits := newWaits()
	for next := int64(0); ctx.Err() == nil; {
		c.deps.Health.Beat(l.name)
		messages, err := peekFrom(ctx, l.Receiver, next, lookAtOnce)
		if err != nil {
			if ctx.Err() == nil && c.deps.Health.Report(l.part, err.Error()) {
				c.deps.Log.Error("cannot peek into Service Bus; trying again until it works",
					zap.String("source", l.Entity), zap.Error(err), zap.String("todo", servicebus.Hint(err)))
			}
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		waits.Reset()
		if c.deps.Health.Report(l.part, "") {
			c.deps.Log.Info("connected to Service Bus", zap.String("source", l.Entity))
		}
		for _, received := range messages {
			m := newMessage(l.source, delivery{message: received}, c.cfg.Lock)
			for _, r := range c.resultsDry(m) {
				c.recordDry(m, &r)
			}
			next = *received.SequenceNumber + 1
		}
		if len(messages) == 0 {
			_ = retry.Sleep(ctx, lookEvery)
		}
	}
}

// resultsDry returns the results that are known without an attempt. A result without a reason means
// that the worker would act on the event.
func (c *Consumer) resultsDry(m *message) []result {
	items, rejected := c.decode(m)
	if rejected != nil {
		return []result{*rejected}
	}
	var results []result
	for _, item := range items {
		if isAnnouncement(item) {
			results = append(results, c.announceDry(m, item))
			continue
		}
		r, _ := c.guard(item)
		results = append(results, r)
	}
	return results
}

// recordDry writes the log line of a result.
func (c *Consumer) recordDry(m *message, r *result) {
	if r.isNotYet() {
		c.deps.Log.Warn("dry run", append(c.about(nil, m, &r.item),
			zap.String("outcome", WouldDefer), zap.String("error", c.text(r.err)))...)
		return
	}
	if r.reason == "" {
		would := wouldDo(r.item.Event, time.Now())
		switch r.outcome {
		case scheduled:
			would = WouldSchedule
		case withdrawn:
			would = WouldWithdraw
		}
		c.deps.Log.Info("dry run", append(c.about(nil, m, &r.item), zap.String("outcome", would))...)
		return
	}
	c.deps.Log.Warn("dry run", append(c.about(nil, m, &r.item),
		zap.String("outcome", WouldDeadLetter), zap.String("reason", string(r.reason)), zap.String("error", c.text(r.err)))...)
}
