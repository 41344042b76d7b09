package consumer

import (
	"context"
	"errors"
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
	// sessionHold is how long messages of one session are received: others may wait for a receiver, and a session can be fed
	// for ever. sessionFlush is how long its messages may then take to be decided.
	sessionHold  = 30 * time.Second
	sessionFlush = 5 * time.Second
)

// Session is a session of an entity that requires them, held by us.
type Session interface {
	Receiver
	SessionID() string
	Close(ctx context.Context) error
}

// session is the SDK's receiver of a session as a Session: its messages have no locks of their own, but share the session's.
type session struct {
	*azservicebus.SessionReceiver
	// renewing holds a token during a renewal. That may take long, and others must not wait for it for longer than they may.
	renewing chan struct{}
}

// NewSession makes a Session of the SDK's receiver.
func NewSession(r *azservicebus.SessionReceiver) Session { return &session{r, make(chan struct{}, 1)} }

// RenewMessageLock renews the session's lock, unless another of its messages has just done so.
func (s *session) RenewMessageLock(ctx context.Context, m *azservicebus.ReceivedMessage, _ *azservicebus.RenewMessageLockOptions) error {
	select {
	case s.renewing <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-s.renewing }()
	if until := s.LockedUntil(); m.LockedUntil == nil || !until.After(*m.LockedUntil) {
		if err := s.RenewSessionLock(ctx, nil); err != nil {
			return err
		}
	}
	until := s.LockedUntil()
	m.LockedUntil = &until
	return nil
}

// sessionSignals tells the messages of a session how long it is held.
type sessionSignals struct {
	flush chan struct{} // closed when those of them that are parked are to be called for
	over  chan struct{} // closed when whatever is not decided by then must not keep others waiting
}

// receiveSessions serves one session after the other until ctx ends.
func (c *Consumer) receiveSessions(ctx context.Context, l *loop, accept func(*source, delivery)) {
	waits := newWaits()
	for {
		// A session is accepted only when its messages could be received.
		free := c.reserve(ctx, l)
		if free == 0 {
			return
		}
		l.slots.release(free)
		one := c.nextSession(ctx, l, waits)
		c.Health.Beat(l.name)
		if one == nil {
			continue
		}
		waits.Reset()
		began := time.Now()
		if c.serveSession(ctx, l, one, accept) || time.Since(began) >= sessionHold {
			l.turns.had(one.SessionID())
		} else {
			l.turns.forget(one.SessionID())
		}
	}
}

// closeSession closes the link of a session, which frees it. What is not settled comes again, and is not counted as a
// delivery that has failed.
func closeSession(one Session) {
	ctx, cancel := context.WithTimeout(context.Background(), sessionClose)
	defer cancel()
	_ = one.Close(ctx) // its lock ends by itself otherwise
}

// acceptSession waits for the next session that is free and has messages; nil if there was none. Service Bus itself does the
// waiting.
func (c *Consumer) acceptSession(ctx context.Context, l *loop, waits *backoff.ExponentialBackOff, atMost time.Duration) Session {
	start := time.Now()
	waiting, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	one, err := l.Accept(waiting)
	var answer *azservicebus.Error
	switch {
	case err == nil, errors.As(err, &answer) && answer.Code == azservicebus.CodeTimeout:
		c.heard(l)
		if err != nil && time.Since(start) < time.Second {
			_ = retry.Sleep(ctx, time.Second) // whatever the reason, asking again at once would be busy waiting
		}
		return one
	case waiting.Err() != nil:
		return nil
	}
	c.troubled(l, "cannot accept a session from Service Bus; trying again until it works", err)
	_ = retry.Sleep(ctx, waits.NextBackOff())
	return nil
}

// serveSession receives from a session until nothing came for a while and nothing of it is in flight, its link is lost, it was
// held for as long as it may, or ctx ends; then it closes the session, when its messages are settled or given up. It says
// whether some were given up. While something is in flight a newer event of the same user may come, and stand for it.
func (c *Consumer) serveSession(ctx context.Context, l *loop, one Session, accept func(*source, delivery)) (givenUp bool) {
	holding := &sessionSignals{flush: make(chan struct{}), over: make(chan struct{})}
	var inFlight atomic.Int64
	settled := make(chan struct{}, 1)
	done := func() {
		l.slots.release(1)
		inFlight.Add(-1)
		select {
		case settled <- struct{}{}:
		default:
		}
	}
	locked := time.Now()
	over := &link{}
	c.receiveSession(ctx, l, one, over, locked, &inFlight, settled, func(m *azservicebus.ReceivedMessage) {
		inFlight.Add(1)
		accept(l.source, delivery{message: m, receiver: one, link: over, session: holding, done: done})
	})
	end := func() {
		for inFlight.Load() > 0 {
			<-settled
		}
		closeSession(one)
	}
	if ctx.Err() != nil { // the worker stops: its messages are finished like all others
		c.sessions.Go(end)
		return false
	}
	flush := time.NewTimer(max(0, sessionHold-time.Since(locked)))
	defer flush.Stop()
	giveUp := time.NewTimer(max(0, sessionHold-time.Since(locked)) + sessionFlush)
	defer giveUp.Stop()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for inFlight.Load() > 0 {
		select {
		case <-settled:
		case <-flush.C:
			close(holding.flush)
		case <-giveUp.C:
			givenUp = true
			close(holding.over)
		case <-beat.C:
			c.Health.Beat(l.name)
		case <-ctx.Done():
			c.sessions.Go(end)
			return givenUp
		}
	}
	end()
	return givenUp
}

// receiveSession hands the messages of a session to take, as serveSession says. Each session has its share of the source's
// places, so that none waits for those of another.
func (c *Consumer) receiveSession(ctx context.Context, l *loop, one Session, over *link, locked time.Time, inFlight *atomic.Int64, settled <-chan struct{}, accept func(*azservicebus.ReceivedMessage)) {
	// The session's own messages may take all places: waiting for one must end with the session's time.
	holding, cancel := context.WithTimeout(ctx, time.Until(locked.Add(sessionHold)))
	defer cancel()
	share := max(1, c.MaxInFlight/max(1, l.Sessions))
	losses := l.losses.Load()
	// When another session has lost its link, the connection may be gone, and this one's link with it, unnoticed. To receive over that
	// would make the client library close the connection of now, over which others receive, and so on for ever (azservicebus v1.11.0,
	// internal/amqpLinks.go, CloseIfNeeded).
	for time.Since(locked) < sessionHold && l.losses.Load() == losses && over.connected() {
		if int(inFlight.Load()) >= share {
			select {
			case <-settled:
			case <-time.After(beatEvery):
				c.Health.Beat(l.name)
			case <-holding.Done():
				return
			}
			continue
		}
		waited := time.Now()
		free := c.reserve(holding, l)
		if free == 0 {
			return
		}
		if time.Since(waited) > c.Lock/4 && inFlight.Load() == 0 {
			// Nobody has renewed the session's lock meanwhile. What is received now would be lost with it before it is decided, the
			// sooner the further the broker's clock is ahead.
			if err := c.renew(holding, one, &azservicebus.ReceivedMessage{}); err != nil {
				l.slots.release(free)
				c.Log.Warn("lost a session; its messages come again", zap.String("source", l.Entity), zap.String("error", c.text(err)))
				return
			}
		}
		if most := share - int(inFlight.Load()); free > most {
			l.slots.release(free - most)
			free = most
		}
		waiting, cancel := context.WithTimeout(ctx, sessionIdle)
		received, err := c.receiveFrom(waiting, one, free)
		idle := waiting.Err() != nil
		cancel()
		l.slots.release(free - len(received))
		for _, m := range received {
			accept(m)
		}
		c.Health.Beat(l.name)
		switch {
		case len(received) > 0:
			c.heard(l)
		case errors.Is(err, errUnreadable):
			// The session's others can be had only after this one. Asking for it again at once would be busy waiting.
			c.troubled(l, "cannot receive from a session", err)
			_ = retry.Sleep(ctx, sessionIdle)
			return
		case err != nil && !idle:
			over.lose()
			l.losses.Add(1)
			c.Log.Warn("lost a session; its messages come again", zap.String("source", l.Entity), zap.String("error", c.text(err)))
			_ = retry.Sleep(ctx, time.Second)
			return
		case err == nil: // the SDK has lost the link
			over.lose()
			l.losses.Add(1)
			_ = retry.Sleep(ctx, time.Second) // the next one may be lost as soon
			return
		case inFlight.Load() == 0:
			return
		}
	}
}
