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

	"github.com/session-revoker/session-revoker/retry"
)

const (
	// sessionIdle is how long a session without a message is kept: others may wait for a receiver.
	sessionIdle = 2 * time.Second
	// sessionClose bounds the closing of a session's link.
	sessionClose = 5 * time.Second
)

// Session is a session of an entity that requires them, held by us.
type Session interface {
	Receiver
	Close(ctx context.Context) error
}

// session is the SDK's receiver of a session as a Session: its messages have no locks of their own, but share the session's.
type session struct {
	*azservicebus.SessionReceiver
	mu sync.Mutex // of renewals
}

// NewSession makes a Session of the SDK's receiver.
func NewSession(r *azservicebus.SessionReceiver) Session { return &session{SessionReceiver: r} }

// RenewMessageLock renews the session's lock, unless another of its messages has just done so.
func (s *session) RenewMessageLock(ctx context.Context, m *azservicebus.ReceivedMessage, _ *azservicebus.RenewMessageLockOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if until := s.LockedUntil(); m.LockedUntil == nil || !until.After(*m.LockedUntil) {
		if err := s.RenewSessionLock(ctx, nil); err != nil {
			return err
		}
	}
	until := s.LockedUntil()
	m.LockedUntil = &until
	return nil
}

// receiveSessions serves one session after the other until ctx ends, each until it is idle.
func (c *Consumer) receiveSessions(ctx context.Context, s *source, take func(Receiver, *azservicebus.ReceivedMessage, func())) {
	waits := newWaits()
	for {
		// A session is accepted only when its messages could be received.
		free := c.reserve(ctx, s)
		if free == 0 {
			return
		}
		s.release(free)
		one := c.acceptSession(ctx, s, waits)
		c.Health.Beat(s.loop)
		if one == nil {
			continue
		}
		waits.Reset()
		finished := c.serveSession(ctx, s, one, take)
		closed := make(chan struct{})
		c.sessions.Go(func() {
			defer close(closed)
			finished.Wait()
			closing, cancel := context.WithTimeout(context.Background(), sessionClose)
			defer cancel()
			_ = one.Close(closing) // its lock ends by itself otherwise
		})
		c.awaitClosed(ctx, s, closed)
	}
}

// awaitClosed waits for the session's messages and its link; at the stop, Run does.
func (c *Consumer) awaitClosed(ctx context.Context, s *source, closed <-chan struct{}) {
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case <-closed:
			return
		case <-ctx.Done():
			return
		case <-beat.C:
			c.Health.Beat(s.loop)
		}
	}
}

// acceptSession waits up to receiveWait for the next session that is free and has messages; nil if there was none. Service Bus
// itself does the waiting.
func (c *Consumer) acceptSession(ctx context.Context, s *source, waits *backoff.ExponentialBackOff) Session {
	start := time.Now()
	waiting, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	one, err := s.Accept(waiting)
	var answer *azservicebus.Error
	switch {
	case err == nil, errors.As(err, &answer) && answer.Code == azservicebus.CodeTimeout:
		c.Metrics.LastReceive.WithLabelValues(s.Entity).SetToCurrentTime()
		if c.Health.Report(s.part, "") {
			c.Log.Info("connected to Service Bus", zap.String("source", s.Entity))
		}
		if err != nil && time.Since(start) < time.Second {
			_ = retry.Sleep(ctx, time.Second) // whatever the reason, asking again at once would be busy waiting
		}
		return one
	case waiting.Err() != nil:
		return nil
	}
	if c.Health.Report(s.part, err.Error()) {
		c.Log.Error("cannot accept a session from Service Bus; trying again until it works",
			zap.String("source", s.Entity), zap.Error(err), zap.String("todo", ServiceBusHint(err)))
	}
	_ = retry.Sleep(ctx, waits.NextBackOff())
	return nil
}

// serveSession receives from a session until nothing came for a while and nothing of it is in hand, its link is lost, or ctx ends.
// While something is in hand a newer event of the same user may come, and stand for it. The messages that it has handed over are
// done when the result is.
func (c *Consumer) serveSession(ctx context.Context, s *source, one Session, take func(Receiver, *azservicebus.ReceivedMessage, func())) *sync.WaitGroup {
	var messages sync.WaitGroup
	var inHand atomic.Int64
	done := func() {
		inHand.Add(-1)
		messages.Done()
	}
	for {
		free := c.reserve(ctx, s)
		if free == 0 {
			return &messages
		}
		waiting, cancel := context.WithTimeout(ctx, sessionIdle)
		received, err := c.receiveFrom(waiting, s, one, free)
		cancel()
		s.release(free - len(received))
		for _, m := range received {
			messages.Add(1)
			inHand.Add(1)
			take(one, m, done)
		}
		c.Health.Beat(s.loop)
		switch {
		case len(received) > 0:
			c.Metrics.LastReceive.WithLabelValues(s.Entity).SetToCurrentTime()
		case errors.Is(err, errUnreadable):
			return &messages // the session's others can be had only after this one
		case err != nil && waiting.Err() == nil:
			c.Log.Warn("lost a session; its messages come again", zap.String("source", s.Entity), zap.Error(err))
			return &messages
		case err == nil, inHand.Load() == 0: // without an error the SDK has lost the link
			return &messages
		}
	}
}
