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
	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// firstAccept bounds the first wait for a session. Each later wait is twice as long, up to
	// receiveWait. The short waits let an idle worker be ready soon, because Service Bus answers only
	// when a session has messages, or at the end of the wait.
	firstAccept = time.Second
	// sessionIdle is how long a session without a message is held, since other sessions may wait.
	sessionIdle = 2 * time.Second
	// sessionClose bounds the closing of a session's link.
	sessionClose = 5 * time.Second
	// sessionHold is how long messages of one session are received. Other sessions may wait, and a
	// producer can feed a session without end.
	sessionHold = 30 * time.Second
	// sessionFlush is how much longer the session may be held until its messages are decided.
	sessionFlush = 5 * time.Second
)

// Session is a session of an entity that requires sessions. This process holds it.
type Session interface {
	Receiver
	SessionID() string
	Close(ctx context.Context) error
}

// session is the SDK's receiver of a session as a Session. Its messages have no locks of their own,
// but share the session's lock.
type session struct {
	*azservicebus.SessionReceiver
	// renewing has a token during a renewal. It is no mutex, because the wait for it must end with
	// a context.
	renewing chan struct{}
}

// NewSession returns the SDK's receiver of a session as a Session.
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

// sessionSignals signal to the messages of a session how long it is held.
type sessionSignals struct {
	flush chan struct{} // closed when parked users of the messages must be called for
	over  chan struct{} // closed when messages that are still undecided must be given up
}

// receiveSessions serves one session after the other until ctx ends.
func (c *Consumer) receiveSessions(ctx context.Context, l *loop, accept acceptFunc) {
	waits := newWaits()
	wait := firstAccept
	for {
		// A session is accepted only when its messages could be received.
		free := c.reserve(ctx, l)
		if free == 0 {
			return
		}
		l.slots.free(free)
		next := c.nextSession(ctx, l, waits, wait)
		wait = min(2*wait, receiveWait)
		c.deps.Health.Beat(l.name)
		if next == nil {
			continue
		}
		waits.Reset()
		began := time.Now()
		if c.serveSession(ctx, l, next, accept) || time.Since(began) >= sessionHold {
			l.served.add(next.SessionID())
		} else {
			l.served.forget(next.SessionID())
		}
	}
}

// acceptSession waits for the next session that is free and has messages, for atMost. It returns
// nil if there was none. The wait takes place in Service Bus.
func (c *Consumer) acceptSession(ctx context.Context, l *loop, waits *backoff.ExponentialBackOff, atMost time.Duration) Session {
	start := time.Now()
	accepting, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	accepted, err := l.Accept(accepting)
	var answer *azservicebus.Error
	switch {
	case err == nil, errors.As(err, &answer) && answer.Code == azservicebus.CodeTimeout:
		c.connected(l)
		if err != nil && time.Since(start) < time.Second {
			_ = retry.Sleep(ctx, time.Second) // asking again at once would be a busy loop, whatever the reason is
		}
		return accepted
	case accepting.Err() != nil:
		return nil
	}
	c.troubled(l, "cannot accept a session from Service Bus; trying again until it works", err)
	_ = retry.Sleep(ctx, waits.NextBackOff())
	return nil
}

// closeSession closes the link of a session, so that other receivers may have the session. Messages
// that are not settled come again, and this does not count as a failed delivery.
func closeSession(s Session) {
	ctx, cancel := context.WithTimeout(context.Background(), sessionClose)
	defer cancel()
	_ = s.Close(ctx) // if it fails, the session's lock expires
}

// serveSession receives from a session and waits for the results of its messages. Then it closes
// the session. It reports whether it gave up messages that were still undecided.
func (c *Consumer) serveSession(ctx context.Context, l *loop, accepted Session, accept acceptFunc) (gaveUp bool) {
	s := &heldSession{
		c: c, loop: l, session: accepted, accept: accept,
		since: time.Now(), linkLosses: l.linkLosses.Load(), link: &link{},
		signals: &sessionSignals{flush: make(chan struct{}), over: make(chan struct{})},
		settled: make(chan struct{}, 1),
	}
	s.receive(ctx)
	return s.finish(ctx)
}

// heldSession is one session that this process holds. The goroutine of its loop owns it, except for
// what done uses.
type heldSession struct {
	c          *Consumer
	loop       *loop
	session    Session
	accept     acceptFunc
	since      time.Time
	linkLosses int64 // the source's when the session was accepted
	link       *link // the session's own
	signals    *sessionSignals
	// inFlight counts the messages of this session alone. When there is none, it can be closed.
	inFlight atomic.Int64
	settled  chan struct{} // is signaled when inFlight has become smaller
}

// done must be called once for each message of the session, when it is settled.
func (s *heldSession) done() {
	s.loop.slots.free(1)
	s.inFlight.Add(-1)
	select {
	case s.settled <- struct{}{}:
	default:
	}
}

// receive accepts messages of the session. It returns when ctx ends, when the link is lost, when
// the session was held for as long as it may be, or when no message has come for a while and none
// is in flight. As long as one is in flight it goes on, because a newer message of the same user
// could come, and supersede it.
func (s *heldSession) receive(ctx context.Context) {
	// The session's own messages may use all slots, so the wait for one must end with the session's
	// time.
	holding, cancel := context.WithTimeout(ctx, time.Until(s.since.Add(sessionHold)))
	defer cancel()
	for s.mayReceive() {
		free, ok := s.reserve(holding)
		if !ok {
			return
		}
		if free > 0 && !s.receiveOnce(ctx, free) {
			return
		}
	}
}

// mayReceive reports whether the session's time goes on, and its link is in use.
//
// When another session has lost its link, the connection may be gone. Then this session's link is
// lost, too, but nobody has noticed. A receive call over that link would make the client library
// close the current connection, over which others receive, and so on without end (azservicebus
// v1.11.0, internal/amqpLinks.go, CloseIfNeeded).
func (s *heldSession) mayReceive() bool {
	return time.Since(s.since) < sessionHold && s.loop.linkLosses.Load() == s.linkLosses && s.link.connected()
}

// reserve waits until messages of the session may be received, and returns how many. If it returns
// 0, the caller must ask again. ok is false when no more messages may be received. Each session has
// its share of the source's slots, so no session waits for the messages of another.
func (s *heldSession) reserve(holding context.Context) (free int, ok bool) {
	c := s.c
	share := max(1, c.cfg.MaxInFlight/max(1, s.loop.Sessions))
	if int(s.inFlight.Load()) >= share {
		select {
		case <-s.settled:
		case <-time.After(beatEvery):
			c.deps.Health.Beat(s.loop.name)
		case <-holding.Done():
			return 0, false
		}
		return 0, true
	}
	waited := time.Now()
	if free = c.reserve(holding, s.loop); free == 0 {
		return 0, false
	}
	if time.Since(waited) > c.cfg.Lock/4 && s.inFlight.Load() == 0 {
		// Nobody has renewed the session's lock meanwhile. It could be lost before a message that
		// is received now is decided, above all if the broker's clock is ahead.
		if err := c.renew(holding, s.session, &azservicebus.ReceivedMessage{}); err != nil {
			s.loop.slots.free(free)
			s.logSessionLost(err)
			return 0, false
		}
	}
	if most := share - int(s.inFlight.Load()); free > most {
		s.loop.slots.free(free - most)
		free = most
	}
	return free, true
}

// receiveOnce receives up to free messages, for which slots are reserved. It reports whether more
// may be received.
func (s *heldSession) receiveOnce(ctx context.Context, free int) (more bool) {
	c, l := s.c, s.loop
	receiving, cancel := context.WithTimeout(ctx, sessionIdle)
	received, err := c.receiveFrom(receiving, s.session, free)
	idle := receiving.Err() != nil
	cancel()
	l.slots.free(free - len(received))
	for _, m := range received {
		s.inFlight.Add(1)
		s.accept(l.source, delivery{message: m, receiver: s.session, link: s.link, session: s.signals, done: s.done})
	}
	c.deps.Health.Beat(l.name)
	switch {
	case len(received) > 0:
		c.connected(l)
		return true
	case errors.Is(err, servicebus.ErrUnreadable):
		// The session's other messages come only after this one. Asking for it again at once would
		// be a busy loop.
		c.troubled(l, "cannot receive from a session", err)
		_ = retry.Sleep(ctx, sessionIdle)
		return false
	case err != nil && !idle:
		s.loseLink()
		s.logSessionLost(err)
		_ = retry.Sleep(ctx, time.Second)
		return false
	case err == nil: // the SDK has lost the link
		s.loseLink()
		_ = retry.Sleep(ctx, time.Second) // the next link may be lost as soon
		return false
	}
	return s.inFlight.Load() > 0
}

// loseLink notes that the session's link is lost, for its messages and for the source's other
// sessions.
func (s *heldSession) loseLink() {
	s.link.lose()
	s.loop.linkLosses.Add(1)
}

func (s *heldSession) logSessionLost(err error) {
	s.c.deps.Log.Warn("lost a session; its messages come again",
		zap.String("source", s.loop.Entity), zap.String("error", s.c.text(err)))
}

// finish waits until the session's messages are settled or given up, and closes the session. It
// reports whether messages were given up. When ctx ends, the worker stops. Then the messages are
// finished like all others, and finish does not wait for them.
func (s *heldSession) finish(ctx context.Context) (gaveUp bool) {
	if ctx.Err() != nil {
		s.c.closing.Go(s.close)
		return false
	}
	left := max(0, sessionHold-time.Since(s.since))
	flush := time.NewTimer(left)
	defer flush.Stop()
	giveUp := time.NewTimer(left + sessionFlush)
	defer giveUp.Stop()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for s.inFlight.Load() > 0 {
		select {
		case <-s.settled:
		case <-flush.C:
			close(s.signals.flush)
		case <-giveUp.C:
			gaveUp = true
			close(s.signals.over)
		case <-beat.C:
			s.c.deps.Health.Beat(s.loop.name)
		case <-ctx.Done():
			s.c.closing.Go(s.close)
			return gaveUp
		}
	}
	s.close()
	return gaveUp
}

// close closes the session when its last message is settled.
func (s *heldSession) close() {
	for s.inFlight.Load() > 0 {
		<-s.settled
	}
	closeSession(s.session)
}
