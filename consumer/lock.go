package consumer

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
)

// firstLock returns how long the lock of a message that was just received lasts. The message may
// have been on its way for a while. Then the broker's time is used if it is plausible. This is the
// only time that our clock is compared with the broker's: if every renewal did, a clock that runs
// ahead would make them a busy loop.
func firstLock(m *azservicebus.ReceivedMessage, now time.Time, lock time.Duration) time.Duration {
	if m.LockedUntil != nil {
		if left := m.LockedUntil.Sub(now); left > 0 && left < lock {
			return left
		}
	}
	return lock
}

// keepLock keeps the message's lock until m.stopKeeping is called, which must follow. From then on
// m.locked ends with errLockLost when the lock is lost. Then Service Bus owns the message again, and
// nothing more may be started for it. If the lock is kept already, keepLock does nothing. If
// stopKeeping is called before half of the lock has passed, there is neither a renewal nor a goroutine.
func (c *Consumer) keepLock(m *message) {
	if m.stop != nil {
		return
	}
	locked, cancel := context.WithCancelCause(m.locked)
	stopped := make(chan struct{})
	timer := time.AfterFunc(time.Until(m.entry.Lock.Until())/2, func() {
		defer close(stopped)
		if c.renewLock(locked, m) {
			return
		}
		c.deps.Metrics.LocksLost.Inc()
		cancel(errLockLost)
	})
	m.locked, m.stop = locked, func() {
		waiting := timer.Stop()
		cancel(nil)
		if !waiting {
			<-stopped
		}
	}
}

// stopKeeping ends keepLock, if it was called.
func (m *message) stopKeeping() {
	if m.stop != nil {
		m.stop()
	}
}

// rounds tell the messages that wait when to call keepLock. Most messages are decided before the next
// round, and need no timer and no context of their own. It is safe for concurrent use.
type rounds struct{ next atomic.Pointer[chan struct{}] }

// roundsPerLock is how many rounds pass while a lock lasts. So a message whose whole lock was left when
// it was received has most of it left at its first round.
const roundsPerLock = 4

func newRounds() *rounds {
	var r rounds
	first := make(chan struct{})
	r.next.Store(&first)
	return &r
}

// begin returns a channel that is closed when the next round begins.
func (r *rounds) begin() <-chan struct{} { return *r.next.Load() }

// run begins the rounds until ctx ends.
func (r *rounds) run(ctx context.Context, every time.Duration) {
	for retry.Sleep(ctx, every) == nil {
		following := make(chan struct{})
		close(*r.next.Swap(&following))
	}
}

// renewLock renews the lock now, and then each time half of the lock's configured duration has
// passed. It returns true when ctx ends, and false when the lock is lost.
func (c *Consumer) renewLock(ctx context.Context, m *message) bool {
	// The renewals write to a copy, since a settlement may read the original at the same time.
	renewed := *m.ReceivedMessage
	for {
		if c.renewals.Wait(ctx) != nil {
			return true
		}
		began := time.Now()
		err := c.renew(ctx, m.receiver, &renewed)
		wait := c.cfg.Lock / 2
		switch {
		case err == nil:
			c.deps.Metrics.Renewals.WithLabelValues("ok").Inc()
			m.entry.Lock.Renewed(began.Add(c.cfg.Lock))
		case ctx.Err() != nil:
			return true
		case isLockLost(err):
			c.deps.Metrics.Renewals.WithLabelValues("lock_lost").Inc()
			c.deps.Log.Warn("lock lost; Service Bus delivers the message again", append(c.aboutMessage(nil, m), zap.Error(err))...)
			return false
		default:
			c.deps.Metrics.Renewals.WithLabelValues("error").Inc()
			c.deps.Log.Warn("lock not renewed; trying again until it expires", append(c.aboutMessage(nil, m), zap.Error(err))...)
			if time.Now().After(m.entry.Lock.Until()) {
				return false
			}
			wait = max(time.Until(m.entry.Lock.Until())/2, time.Second)
		}
		if retry.Sleep(ctx, wait) != nil {
			return true
		}
	}
}

func (c *Consumer) renew(ctx context.Context, from Receiver, m *azservicebus.ReceivedMessage) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.SettleTimeout)
	defer cancel()
	return from.RenewMessageLock(ctx, m, nil)
}

// isLockLost reports whether Service Bus says that the lock is lost.
func isLockLost(err error) bool {
	var sb *azservicebus.Error
	return errors.As(err, &sb) && sb.Code == azservicebus.CodeLockLost
}

// isNotFound reports whether Service Bus says that there is no such message.
func isNotFound(err error) bool {
	var sb *azservicebus.Error
	return errors.As(err, &sb) && sb.Code == azservicebus.CodeNotFound
}
