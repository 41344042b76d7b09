// Package consumer is the Service Bus side of the worker: it receives messages, keeps their locks while their users'
// sessions are being revoked, and settles each message by what became of its users.
package consumer

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

// Names of the parts that the Consumer reports to telemetry.Health.
const (
	PartServiceBus = "servicebus"
	PartGraph      = "graph"
)

// MaxSilence is the longest time between two heartbeats of a healthy Consumer; liveness must allow for at least this.
const MaxSilence = 2 * time.Minute

const (
	// receiveWait bounds one receive call: a receiver can go silent without an error.
	receiveWait = 30 * time.Second
	// beatEvery is how often the receive loop beats while it waits on purpose.
	beatEvery = 10 * time.Second
	// firstWait is how long the SDK gathers messages after the first one; its default of 20 ms would delay every event.
	firstWait = time.Millisecond
)

// Receiver is the part of *azservicebus.Receiver (peek-lock mode) that the Consumer uses.
type Receiver interface {
	PeekMessages(ctx context.Context, maxMessageCount int, options *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveMessages(ctx context.Context, maxMessages int, options *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.AbandonMessageOptions) error
	DeadLetterMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.DeadLetterOptions) error
	RenewMessageLock(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.RenewMessageLockOptions) error
}

// Revoker makes one attempt for one user; *revoker.Revoker is one.
type Revoker interface {
	Check(ctx context.Context) error
	Revoke(ctx context.Context, user event.User) (revoker.Attempt, error)
}

// Config bounds the Consumer. All fields are required and positive.
type Config struct {
	// Concurrency is how many calls to Graph run at once.
	Concurrency int
	// MaxInHand is how many messages are held locked at once; at most 5,000, the SDK's bound on credits.
	MaxInHand int
	// SettleTimeout bounds each settlement and each lock renewal.
	SettleTimeout time.Duration
	// DrainTimeout is how long the messages in hand may take to be finished after the Consumer was told to stop.
	DrainTimeout time.Duration
	// HashUsers replaces users in the log by a short hash, and leaves out texts from outside that may name them.
	HashUsers bool
}

// Parts are what the Consumer works with. All are required.
type Parts struct {
	Receiver  Receiver
	Decoder   *event.Decoder
	Protected *guard.Protected
	Revoker   Revoker
	Retrier   *retry.Retrier
	Log       *zap.Logger
	Metrics   *telemetry.Metrics
	Health    *telemetry.Health
}

// Consumer receives from one queue. One goroutine receives; each message in hand has a goroutine of its own, which owns
// everything about that message.
type Consumer struct {
	Config
	Parts

	places chan struct{} // one token per message in hand or asked for
	calls  chan struct{} // one token per call to Graph under way
	inHand atomic.Int64  // messages held locked

	// failures counts failed calls since the last success, to tell Graph's trouble from one user's.
	failures atomic.Int32
}

// Why work in hand ends before it is done.
var (
	errLockLost = errors.New("the message's lock was lost; Service Bus delivers it again")
	errDrained  = errors.New("the drain timeout has passed")
)

// New returns a Consumer.
func New(cfg Config, parts Parts) *Consumer {
	return &Consumer{
		Config: cfg,
		Parts:  parts,
		places: make(chan struct{}, cfg.MaxInHand),
		calls:  make(chan struct{}, cfg.Concurrency),
	}
}

// Run receives and works until ctx ends; then it stops receiving, finishes the messages in hand within DrainTimeout, and
// returns how many messages it received and could not finish. When hard ends, work in hand is abandoned at once. Run
// needs at most DrainTimeout plus SettleTimeout to return, and leaves no goroutine behind. The receiver must stay open
// until then. Run may be called once.
func (c *Consumer) Run(ctx, hard context.Context) (unfinished int) {
	work, stopWork := context.WithCancelCause(hard)
	defer stopWork(nil)
	var messages sync.WaitGroup
	var left atomic.Int32

	c.awaitPermission(ctx)
	c.receive(ctx, func(m *azservicebus.ReceivedMessage) {
		c.inHand.Add(1)
		c.Metrics.InHand.Inc()
		messages.Go(func() {
			defer func() {
				c.inHand.Add(-1)
				c.Metrics.InHand.Dec()
				c.release(1)
			}()
			if !c.handle(work, newMessage(m)) {
				left.Add(1)
			}
		})
	})

	c.Log.Info("stopped receiving; finishing what is in hand", zap.Int64("inHand", c.inHand.Load()), zap.Duration("timeout", c.DrainTimeout))
	hurry := time.AfterFunc(c.DrainTimeout, func() { stopWork(errDrained) })
	defer hurry.Stop()
	finished := make(chan struct{})
	go func() {
		messages.Wait()
		close(finished)
	}()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case <-finished:
			return int(left.Load())
		case <-beat.C:
			c.Health.Beat()
		}
	}
}

// awaitPermission returns when there is a token that may revoke, or ctx ends. A worker without one must not take
// messages: it could do nothing with them but raise their delivery counts.
func (c *Consumer) awaitPermission(ctx context.Context) {
	waits := newWaits()
	for ctx.Err() == nil {
		c.Health.Beat()
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

// receive hands each message to take until ctx ends. Each message that it hands over holds one token of places.
func (c *Consumer) receive(ctx context.Context, take func(*azservicebus.ReceivedMessage)) {
	connected := false
	losses := 0 // of the link, in a row
	waits := newWaits()
	for {
		free := c.reserve(ctx)
		if free == 0 {
			return
		}
		messages, err := c.receiveOnce(ctx, free, &connected)
		c.release(free - len(messages))
		for _, m := range messages {
			take(m)
		}
		c.Health.Beat()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			connected = false
			if c.Health.Report(PartServiceBus, err.Error()) {
				c.Log.Error("cannot receive from Service Bus; trying again until it works", zap.Error(err), zap.String("todo", serviceBusHint(err)))
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
		c.Metrics.LastReceive.SetToCurrentTime()
		if c.Health.Report(PartServiceBus, "") {
			c.Log.Info("connected to Service Bus")
		}
	}
}

// receiveOnce waits up to receiveWait for up to limit messages. No messages and no error means that none came.
func (c *Consumer) receiveOnce(ctx context.Context, limit int, connected *bool) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	if !*connected {
		// A receive that ends by its time limit looks the same on an idle queue and on a dead network. A peek does not.
		if _, err := c.Receiver.PeekMessages(ctx, 1, nil); err != nil {
			return nil, err
		}
		*connected = true
		if c.Health.Report(PartServiceBus, "") {
			c.Log.Info("connected to Service Bus")
		}
	}
	messages, err := c.Receiver.ReceiveMessages(ctx, limit, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: firstWait})
	switch {
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

// reserve waits until a message may be taken in hand, and then returns how many; 0 when ctx has ended. Only free places
// are asked for: what Service Bus sends beyond them would be bounced back one by one.
func (c *Consumer) reserve(ctx context.Context) (free int) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for free == 0 {
		if ctx.Err() != nil {
			return 0
		}
		select {
		case c.places <- struct{}{}:
			free = 1
		case <-beat.C:
			c.Health.Beat()
		case <-ctx.Done():
			return 0
		}
	}
	for {
		select {
		case c.places <- struct{}{}:
			free++
		default:
			return free
		}
	}
}

func (c *Consumer) release(places int) {
	for range places {
		<-c.places
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

func serviceBusHint(err error) string {
	var sb *azservicebus.Error
	if errors.As(err, &sb) {
		switch sb.Code {
		case azservicebus.CodeUnauthorizedAccess:
			return "give the identity or key the right to listen: the role 'Azure Service Bus Data Receiver' or a Listen claim"
		case azservicebus.CodeNotFound:
			return "check servicebus.queue: the namespace has no such queue"
		}
	}
	return "check servicebus.namespace or the connection string, DNS, and that port 5671 is open"
}
