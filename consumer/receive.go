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

// awaitPermission returns when there is a token that may revoke, or ctx ends. A worker without one must not take
// messages: it could do nothing with them but raise their delivery counts.
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
	// Shorter than an attempt may be: the heartbeat must go on.
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	return c.Revoker.Check(ctx)
}

// delivery is a message as it was received.
type delivery struct {
	message  *azservicebus.ReceivedMessage
	receiver Receiver // that it came from, and is settled with
	link     *link    // that it came over; nil for one from the waiting room
	// session tells how long the message's session is held; nil for a message without one.
	session *sessionSignals
	// deferred says that the message came back from the waiting room.
	deferred bool
	done     func() // when it is settled
}

// receive hands each message of a source to take until ctx ends. Each message that it hands over holds one token of places.
func (c *Consumer) receive(ctx context.Context, l *loop, accept func(*source, delivery)) {
	lostBefore := false // the link, by the receive before
	waits := newWaits()
	for {
		free := c.reserve(ctx, l)
		if free == 0 {
			return
		}
		messages, err := c.receiveOnce(ctx, l, free)
		l.slots.release(free - len(messages))
		for _, m := range messages {
			l.received(m)
			accept(l.source, delivery{message: m, receiver: l.Receiver, link: l.link, done: func() { l.slots.release(1) }})
		}
		c.Health.Beat(l.name)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.link.lose()
			c.troubled(l, "cannot receive from Service Bus; trying again until it works", err)
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		switch {
		case l.link.connected():
			lostBefore = false
			waits.Reset()
		case !lostBefore: // Service Bus detaches idle links
			lostBefore = true
			_ = retry.Sleep(ctx, reconnectAfter)
		default: // losing one after the other is trouble
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		c.heard(l)
	}
}

// troubled tells of trouble with Service Bus. Whatever it is, one message at a time is asked for from then on, so that
// others are not lost with one that makes it.
func (c *Consumer) troubled(l *loop, what string, err error) {
	l.burst = 1
	if errors.Is(err, errUnreadable) {
		l.alone = time.Now().Add(aloneFor)
	}
	if c.Health.Report(l.part, err.Error()) {
		c.Log.Error(what, zap.String("source", l.Entity), zap.String("error", c.text(err)), zap.String("todo", servicebus.Hint(err)))
	}
}

// heard tells that Service Bus has answered well, and lets twice as many messages be asked for as before.
func (c *Consumer) heard(l *loop) {
	if l.burst *= 2; l.burst >= c.MaxInFlight {
		l.burst = 0
	}
	if time.Now().Before(l.alone) {
		l.burst = 1
	}
	c.Metrics.LastReceive.WithLabelValues(l.Entity).SetToCurrentTime()
	if c.Health.Report(l.part, "") {
		c.Log.Info("connected to Service Bus", zap.String("source", l.Entity))
	}
}

// receiveOnce waits up to receiveWait for up to limit messages. No messages and no error means that none came.
func (c *Consumer) receiveOnce(ctx context.Context, l *loop, limit int) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	if !l.link.connected() {
		// A receive that ends by its time limit looks the same on an idle queue and on a dead network. A peek does not.
		// And it makes a new link without harm to other sources, where a receive over one that was lost unnoticed would
		// close the connection that another has made meanwhile (azservicebus v1.11.0, internal/amqpLinks.go, CloseIfNeeded).
		if err := peek(ctx, l.Receiver); err != nil {
			return nil, err
		}
		l.link = &link{}
	}
	messages, err := c.receiveFrom(ctx, l.Receiver, limit)
	switch {
	case len(messages) > 0:
		// Messages may come even though the context ended: they are locked, so they are ours to settle.
		return messages, nil
	case err == nil:
		// The SDK returns neither messages nor an error after it lost its link; the next call makes a new one.
		l.link.lose()
		return nil, nil
	case errors.Is(err, errUnreadable):
		return nil, err
	case ctx.Err() != nil:
		return nil, nil
	}
	return nil, err
}

// reconnectAfter is how long after a loss a new link is made: by then every source's receive call over the same connection has
// ended. The client library closes its connection when one ends with an error, and it does not look whether that is still the
// one that failed (azservicebus v1.11.0, internal/amqpLinks.go, CloseIfNeeded).
const reconnectAfter = 50 * time.Millisecond

// aloneFor is how long messages are received one by one after the SDK panicked over one: whatever it had received together
// with it comes again only when the locks expire, and the message itself until Service Bus dead-letters it.
const aloneFor = 10 * time.Minute

// errUnreadable: the SDK panicked over a message.
var errUnreadable = errors.New("the Service Bus SDK cannot read a message; it stays until Service Bus dead-letters it as MaxDeliveryCountExceeded")

// receiveFrom receives, and survives a panic of the SDK.
func (c *Consumer) receiveFrom(ctx context.Context, from Receiver, limit int) (messages []*azservicebus.ReceivedMessage, err error) {
	defer func() {
		if recover() != nil {
			messages, err = nil, errUnreadable
		}
	}()
	return from.ReceiveMessages(ctx, limit, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: firstWait})
}

// beyondEnd is a sequence number that no message has: partitioned queues give the partition in the highest 16 bits.
const beyondEnd = math.MaxInt64 - 1

// peek asks Service Bus anything; beyond the end, so that no message can be in the way of the answer.
func peek(ctx context.Context, from Receiver) error {
	_, err := lookFrom(ctx, from, beyondEnd, 1)
	if errors.Is(err, errUnreadable) {
		return nil
	}
	return err
}

// lookFrom peeks at up to n messages from a sequence number on, and survives a panic of the SDK. Without a number the SDK would remember where it was,
// which it may not do while others look too.
func lookFrom(ctx context.Context, from Receiver, next int64, n int) (messages []*azservicebus.ReceivedMessage, err error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	defer func() {
		if recover() != nil {
			err = errUnreadable
		}
	}()
	return from.PeekMessages(ctx, n, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &next})
}

// received notes how far the source has been received. Only its receive loop calls it.
func (s *source) received(m *azservicebus.ReceivedMessage) {
	if m.SequenceNumber != nil && *m.SequenceNumber > s.last.Load() {
		s.last.Store(*m.SequenceNumber)
	}
}

// reserve waits until a message may be taken in hand, and then returns how many; 0 when ctx has ended. Only free places
// are asked for: what Service Bus sends beyond them would be bounced back one by one.
func (c *Consumer) reserve(ctx context.Context, l *loop) (free int) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		if ctx.Err() != nil {
			return 0
		}
		limit := min(c.limit(), l.bytes.limit())
		if l.burst > 0 {
			limit = min(limit, l.burst)
		}
		var place chan<- struct{}
		if limit > 0 {
			place = l.slots
		}
		select {
		case place <- struct{}{}:
			return 1 + l.slots.acquire(limit-1)
		case <-l.changed:
		case <-beat.C:
			c.Health.Beat(l.name)
		case <-ctx.Done():
			return 0
		}
	}
}

// limit is how many more messages may be received by what the breaker allows. Places bound them beside that: users who fail hold
// no more than their share of these, so that somebody who has not been tried can always be received.
func (c *Consumer) limit() int {
	most := len(c.sources) * c.MaxInFlight
	if !c.dispatch.Open() { // closed, or nothing is known of Graph yet
		most = max(3, c.MaxInFlight/2)
	}
	limit := c.dispatch.Limit(int(c.inFlight.Load()), most)
	if limit == 1 && c.dispatch.Open() && c.adding.Load() > 0 {
		return 0 // the last one may suit
	}
	return limit
}

// slots are room for so many messages as it has capacity for: one token for each that is in flight or asked for.
type slots chan struct{}

// acquire takes up to n places that are free, without waiting.
func (p slots) acquire(n int) (taken int) {
	for taken < n {
		select {
		case p <- struct{}{}:
			taken++
		default:
			return taken
		}
	}
	return taken
}

// release gives n places back.
func (p slots) release(n int) {
	for range n {
		<-p
	}
}

// newWaits paces attempts to reach Service Bus or the identity service: from 1 s up to 30 s, for ever.
func newWaits() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(time.Second),
		backoff.WithMaxInterval(30*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}
