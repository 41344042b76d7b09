package consumer

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// receiveWait bounds one receive call: a receiver can go silent without an error.
	receiveWait = 30 * time.Second
	// firstWait is how long the SDK waits for more messages after the first one. Its default of 20
	// ms would delay every event.
	firstWait = time.Millisecond
	// reconnectAfter is the time between the loss of a link and a new one. By then the receive
	// calls of all sources over the same connection have ended. If one of them ends with an error
	// later, the client library closes its connection, without a check whether that is still the
	// connection that failed (azservicebus v1.11.0, internal/amqpLinks.go, CloseIfNeeded).
	reconnectAfter = 50 * time.Millisecond
	// aloneFor is how long messages are received one by one after the SDK has panicked over one.
	// That message comes again until Service Bus dead-letters it. If others were received together
	// with it, they would come again only when their locks expire.
	aloneFor = 10 * time.Minute
	// beyondEnd is a sequence number that no message has, not even in a partitioned queue, where
	// the highest 16 bits are the partition.
	beyondEnd = math.MaxInt64 - 1
)

// awaitPermission returns when there is a token that may revoke sessions, or when ctx ends. A
// worker without such a token must not receive messages: it could only raise their delivery counts.
func (c *Consumer) awaitPermission(ctx context.Context) {
	waits := newWaits()
	for ctx.Err() == nil {
		c.beat()
		err := c.checkPermission(ctx)
		if err == nil {
			c.dispatch.ReportGraph(nil)
			return
		}
		c.dispatch.ReportGraph(err)
		_ = retry.Sleep(ctx, waits.NextBackOff())
	}
}

func (c *Consumer) checkPermission(ctx context.Context) error {
	// This is shorter than an attempt may take, since the heartbeat must go on.
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	return c.deps.Revoker.Check(ctx)
}

// receive accepts the messages of a source until ctx ends. Each message uses one of the source's
// slots until it is settled.
func (c *Consumer) receive(ctx context.Context, l *loop, accept acceptFunc) {
	linkLostBefore := false // the previous call lost the link, too
	done := func() { l.slots.free(1) }
	defer l.waitsSince.Store(nil)
	waits := newWaits()
	for {
		free := c.reserve(ctx, l)
		if free == 0 {
			return
		}
		if began := time.Now(); l.waitsSince.Load() == nil {
			l.waitsSince.Store(&began)
		}
		messages, err := c.receiveOnce(ctx, l, free)
		if len(messages) > 0 || err != nil || !l.link.connected() {
			l.waitsSince.Store(nil)
		}
		l.slots.free(free - len(messages))
		for _, m := range messages {
			l.received(m)
			accept(l.source, delivery{message: m, receiver: l.Receiver, link: l.link, done: done})
		}
		c.deps.Health.Beat(l.name)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.failing = l.link.connected()
			l.link.lose()
			c.troubled(l, "cannot receive from Service Bus; trying again until it works", err)
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		switch {
		case l.link.connected():
			linkLostBefore = false
			waits.Reset()
		case !linkLostBefore: // Service Bus detaches idle links
			linkLostBefore = true
			_ = retry.Sleep(ctx, reconnectAfter)
		default: // one link after the other is lost
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		c.connected(l)
	}
}

// troubled reports trouble with Service Bus. Whatever it is, the loop asks for one message at a
// time from then on. If a message is the cause, it affects no other message.
func (c *Consumer) troubled(l *loop, what string, err error) {
	l.burst = 1
	if errors.Is(err, servicebus.ErrUnreadable) {
		l.alone = time.Now().Add(aloneFor)
	}
	if c.deps.Health.Report(l.part, err.Error()) {
		c.deps.Log.Error(what,
			zap.String("source", l.Entity), zap.String("error", c.text(err)), zap.String("todo", servicebus.Hint(err)))
	}
}

// connected reports that a receive call has gone well. It lets the loop ask for twice as many
// messages as before.
func (c *Consumer) connected(l *loop) {
	l.failing = false
	if l.burst *= 2; l.burst >= c.cfg.MaxInFlight {
		l.burst = 0
	}
	if time.Now().Before(l.alone) {
		l.burst = 1
	}
	c.deps.Metrics.LastReceive.WithLabelValues(l.Entity).SetToCurrentTime()
	c.reachable(l)
}

// reachable reports that the worker has a link to the source, whether or not messages come.
func (c *Consumer) reachable(l *loop) {
	if c.deps.Health.Report(l.part, "") {
		c.deps.Log.Info("connected to Service Bus", zap.String("source", l.Entity))
	}
}

// attach makes a new link, with a peek.
//
// A peek shows whether the network is dead. A receive call does not, because it ends by its time
// limit on an idle queue, too. And a peek makes a new link without harm to other sources, whereas a
// receive call over a link that was lost unnoticed would close the connection that another source has
// made meanwhile (azservicebus v1.11.0, internal/amqpLinks.go, CloseIfNeeded).
func (c *Consumer) attach(ctx context.Context, l *loop) error {
	if err := peek(ctx, l.Receiver); err != nil {
		return err
	}
	l.link = &link{}
	if !l.failing {
		c.reachable(l) // a receive call returns only when a message comes, or after receiveWait
	}
	return nil
}

// receiveOnce waits up to receiveWait for up to limit messages. If it returns neither messages nor
// an error, none came.
func (c *Consumer) receiveOnce(ctx context.Context, l *loop, limit int) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	if !l.link.connected() {
		if err := c.attach(ctx, l); err != nil {
			return nil, err
		}
	}
	messages, err := c.receiveFrom(ctx, l.Receiver, limit)
	switch {
	case len(messages) > 0:
		// Messages may come even if the context has ended. They are locked, so they must be
		// settled.
		return messages, nil
	case err == nil:
		// The SDK returns neither messages nor an error after it has lost its link. The next call
		// makes a new one.
		l.link.lose()
		return nil, nil
	case errors.Is(err, servicebus.ErrUnreadable):
		return nil, err
	case ctx.Err() != nil:
		return nil, nil
	}
	return nil, err
}

// receiveFrom receives up to limit messages, and returns servicebus.ErrUnreadable if the SDK
// panics.
func (c *Consumer) receiveFrom(ctx context.Context, from Receiver, limit int) ([]*azservicebus.ReceivedMessage, error) {
	return servicebus.Guard(func() ([]*azservicebus.ReceivedMessage, error) {
		return from.ReceiveMessages(ctx, limit, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: firstWait})
	})
}

// peek returns nil if Service Bus answers. It peeks beyond the end of the queue, where no
// unreadable message can spoil the answer.
func peek(ctx context.Context, from Receiver) error {
	_, err := peekFrom(ctx, from, beyondEnd, 1)
	if errors.Is(err, servicebus.ErrUnreadable) {
		return nil
	}
	return err
}

// peekFrom peeks at up to n messages, from a sequence number on, and returns
// servicebus.ErrUnreadable if the SDK panics. Without the number, the SDK would continue where its
// last peek ended, and that may be another caller's.
func peekFrom(ctx context.Context, from Receiver, next int64, n int) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	return servicebus.Guard(func() ([]*azservicebus.ReceivedMessage, error) {
		return from.PeekMessages(ctx, n, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &next})
	})
}

// received notes the message's sequence number if it is the highest so far. Only the source's
// receive loop calls it.
func (s *source) received(m *azservicebus.ReceivedMessage) {
	if m.SequenceNumber != nil && *m.SequenceNumber > s.lastReceived.Load() {
		s.lastReceived.Store(*m.SequenceNumber)
	}
}

// reserve waits until at least one message may be received, and returns how many may be. It
// acquires a slot for each. It returns 0 when ctx has ended. More messages than slots must not be
// requested, because they would go back to Service Bus one by one.
func (c *Consumer) reserve(ctx context.Context, l *loop) (free int) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		if ctx.Err() != nil {
			return 0
		}
		c.asked.Store(true) // first, so that no message ends unnoticed after the limit is read
		limit := min(c.limit(), l.bytes.limit())
		if l.burst > 0 {
			limit = min(limit, l.burst)
		}
		var slot chan<- struct{} // nil is never free
		if limit > 0 {
			slot = l.slots
		}
		select {
		case slot <- struct{}{}:
			return 1 + l.slots.acquire(limit-1)
		default:
			l.waitsSince.Store(nil) // nothing is received now
		}
		select {
		case slot <- struct{}{}:
			return 1 + l.slots.acquire(limit-1)
		case <-l.changed:
		case <-beat.C:
			c.deps.Health.Beat(l.name)
		case <-ctx.Done():
			return 0
		}
	}
}

// limit returns how many more messages the circuit breaker lets the worker receive. Slots are
// another bound. Messages of users who fail use no more than their share of the slots, so a message
// of a user who was not tried yet can always be received.
func (c *Consumer) limit() int {
	most := len(c.sources) * c.cfg.MaxInFlight
	if !c.dispatch.Open() { // the breaker is closed, or nothing is known of Graph yet
		most = max(3, c.cfg.MaxInFlight/2)
	}
	inFlight, beingAdded := c.flight.len()
	limit := c.dispatch.Limit(inFlight, most)
	if limit == 1 && c.dispatch.Open() && beingAdded > 0 {
		return 0 // one of these may be about a user to probe
	}
	return limit
}

// slots bound how many messages may be received. The channel has one token for each message that is
// in flight or was requested. So it has more tokens than messages are in flight while a receive
// call lasts.
type slots chan struct{}

// acquire acquires up to n slots that are free, without waiting.
func (s slots) acquire(n int) (taken int) {
	for taken < n {
		select {
		case s <- struct{}{}:
			taken++
		default:
			return taken
		}
	}
	return taken
}

// free frees n slots.
func (s slots) free(n int) {
	for range n {
		<-s
	}
}

// newWaits returns the waits between attempts to reach Service Bus or the identity service. They
// grow from 1 s to 30 s, and never end.
func newWaits() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second),
		backoff.WithMaxInterval(30*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}
