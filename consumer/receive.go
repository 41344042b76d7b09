package consumer

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
)

// awaitPermission returns when there is a token that may revoke, or ctx ends. A worker without one must not take
// messages: it could do nothing with them but raise their delivery counts.
func (c *Consumer) awaitPermission(ctx context.Context) {
	waits := newWaits()
	for ctx.Err() == nil {
		c.beat()
		err := c.checkPermission(ctx)
		if err == nil {
			c.reportGraph(nil)
			return
		}
		c.reportGraph(err)
		_ = retry.Sleep(ctx, waits.NextBackOff())
	}
}

func (c *Consumer) checkPermission(ctx context.Context) error {
	// Shorter than an attempt may be: the heartbeat must go on.
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	return c.Revoker.Check(ctx)
}

// receive hands each message of a source to take until ctx ends. Each message that it hands over holds one token of places.
func (c *Consumer) receive(ctx context.Context, s *source, take func(Receiver, *azservicebus.ReceivedMessage, func())) {
	connected := false
	losses := 0 // of the link, in a row
	waits := newWaits()
	for {
		free := c.reserve(ctx, s)
		if free == 0 {
			return
		}
		messages, err := c.receiveOnce(ctx, s, free, &connected)
		s.release(free - len(messages))
		for _, m := range messages {
			s.received(m)
			take(s.Receiver, m, func() {})
		}
		c.Health.Beat(s.loop)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			connected = false
			if c.Health.Report(s.part, err.Error()) {
				c.Log.Error("cannot receive from Service Bus; trying again until it works", zap.String("source", s.Entity), zap.Error(err), zap.String("todo", ServiceBusHint(err)))
			}
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		if connected {
			losses = 0
			waits.Reset()
		} else if losses++; losses > 1 {
			// Service Bus detaches idle links, which costs nobody a wait; losing one after the other is trouble.
			_ = retry.Sleep(ctx, waits.NextBackOff())
			continue
		}
		c.Metrics.LastReceive.WithLabelValues(s.Entity).SetToCurrentTime()
		if c.Health.Report(s.part, "") {
			c.Log.Info("connected to Service Bus", zap.String("source", s.Entity))
		}
	}
}

// receiveOnce waits up to receiveWait for up to limit messages. No messages and no error means that none came.
func (c *Consumer) receiveOnce(ctx context.Context, s *source, limit int, connected *bool) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	if !*connected {
		// A receive that ends by its time limit looks the same on an idle queue and on a dead network. A peek does not.
		if err := peek(ctx, s.Receiver); err != nil {
			return nil, err
		}
		*connected = true
		if c.Health.Report(s.part, "") {
			c.Log.Info("connected to Service Bus", zap.String("source", s.Entity))
		}
	}
	messages, err := c.receiveFrom(ctx, s, s.Receiver, limit)
	switch {
	case errors.Is(err, errUnreadable):
		return nil, nil
	case len(messages) > 0:
		// Messages may come even though the context ended: they are locked, so they are ours to settle.
		return messages, nil
	case err == nil:
		// The SDK returns neither messages nor an error after it lost its link; the next call makes a new one.
		*connected = false
		return nil, nil
	case ctx.Err() != nil:
		return nil, nil
	}
	return nil, err
}

// errUnreadable: the SDK panicked over a message.
var errUnreadable = errors.New("the Service Bus SDK cannot read a message (a property DeadLetterReason or DeadLetterErrorDescription that is no text makes it panic)")

// aloneFor is how long messages are received one by one after the SDK could not read one: whatever it had received together
// with it comes again only when the locks expire, and the message itself until Service Bus dead-letters it.
const aloneFor = 10 * time.Minute

// receiveFrom receives, and survives a panic of the SDK: any producer can cause one.
func (c *Consumer) receiveFrom(ctx context.Context, s *source, from Receiver, limit int) (messages []*azservicebus.ReceivedMessage, err error) {
	defer func() {
		if recover() == nil {
			return
		}
		if time.Now().After(s.alone) {
			c.Log.Error("a message cannot be received; it stays until Service Bus dead-letters it as MaxDeliveryCountExceeded. Receiving one by one meanwhile",
				zap.String("source", s.Entity), zap.Error(errUnreadable))
		}
		s.alone = time.Now().Add(aloneFor)
		messages, err = nil, errUnreadable
	}()
	if time.Now().Before(s.alone) {
		limit = 1
	}
	return from.ReceiveMessages(ctx, limit, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: firstWait})
}

// peek asks Service Bus anything; an answer that the SDK cannot read is one.
func peek(ctx context.Context, from Receiver) error {
	_, err := lookFrom(ctx, from, 0, 1)
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
func (c *Consumer) reserve(ctx context.Context, s *source) (free int) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		if ctx.Err() != nil {
			return 0
		}
		limit := c.line.limit(int(c.inHand.Load()))
		if limit == 1 && c.entering.Load() > 0 {
			limit = 0 // the last one may suit
		}
		var place chan<- struct{}
		if limit > 0 {
			place = s.places
		}
		select {
		case place <- struct{}{}:
			return 1 + s.reserveMore(limit-1)
		case <-s.changed:
		case <-beat.C:
			c.Health.Beat(s.loop)
		case <-ctx.Done():
			return 0
		}
	}
}

func (s *source) reserveMore(limit int) (free int) {
	for free < limit {
		select {
		case s.places <- struct{}{}:
			free++
		default:
			return free
		}
	}
	return free
}

func (s *source) release(places int) {
	for range places {
		<-s.places
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

// ServiceBusHint says what to do about an error of receiving or peeking.
func ServiceBusHint(err error) string {
	var sb *azservicebus.Error
	if errors.As(err, &sb) {
		switch sb.Code {
		case azservicebus.CodeUnauthorizedAccess:
			return "give the identity or key the right to listen: the role 'Azure Service Bus Data Receiver' or a Listen claim"
		case azservicebus.CodeNotFound:
			return "check servicebus.queue, or servicebus.topic and servicebus.subscription: the namespace has no such entity"
		}
	}
	// The service has no code for these two; its texts are those that the SDKs' tests expect.
	switch text := err.Error(); {
	case strings.Contains(text, "requires sessions to create a non-sessionful"):
		return "the entity requires sessions: set servicebus.sessions to how many are to be held at once"
	case strings.Contains(text, "session receiver on an entity that does not require sessions"):
		return "the entity has no sessions: set servicebus.sessions to 0"
	}
	return "check servicebus.namespace or the connection string, DNS, and that port 5671 is open"
}
