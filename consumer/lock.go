package consumer

import (
	"context"
	"errors"
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

// keepLock keeps the message's lock until stop is called, which must follow. locked ends when work
// ends. It ends with errLockLost when the lock is lost. Then Service Bus owns the message again,
// and nothing more may be started for it. If stop is called before half of the lock has passed,
// there is neither a renewal nor a goroutine.
func (c *Consumer) keepLock(work context.Context, m *message) (locked context.Context, stop func()) {
	locked, cancel := context.WithCancelCause(work)
	stopped := make(chan struct{})
	timer := time.AfterFunc(time.Until(m.entry.Lock.Until())/2, func() {
		defer close(stopped)
		if c.renewLock(locked, m) {
			return
		}
		c.deps.Metrics.LocksLost.Inc()
		cancel(errLockLost)
	})
	return locked, func() {
		waiting := timer.Stop()
		cancel(nil)
		if !waiting {
			<-stopped
		}
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
