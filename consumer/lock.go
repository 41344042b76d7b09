package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
)

// firstLock is how long a message that has just been received is ours. It may have been under way for a while: then the
// broker's time tells, if it is plausible. Ours may be wrong, so it is believed once and not again: a clock that runs ahead
// would make renewing a busy loop.
func firstLock(m *azservicebus.ReceivedMessage, now time.Time, lock time.Duration) time.Duration {
	if m.LockedUntil != nil {
		if left := m.LockedUntil.Sub(now); left > 0 && left < lock {
			return left
		}
	}
	return lock
}

// lockMessage keeps the message's lock until letGo is called. held ends when work does, and with errLockLost when the lock is
// gone: then the message is Service Bus' again and nothing more may be started for it. A message that does not wait costs
// neither a renewal nor a goroutine.
func (c *Consumer) lockMessage(work context.Context, m *message) (locked context.Context, release func()) {
	locked, cancel := context.WithCancelCause(work)
	stopped := make(chan struct{})
	timer := time.AfterFunc(time.Until(m.known.Lock.Until())/2, func() {
		defer close(stopped)
		if c.keepLock(locked, m) {
			return
		}
		c.Metrics.LocksLost.Inc()
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

// keepLock renews the lock, now and each time half of the lock's configured duration has passed. It returns true when ctx
// ends, false when the lock is lost.
func (c *Consumer) keepLock(ctx context.Context, m *message) bool {
	// The renewals write to a copy: settling reads the original at the same time.
	renewed := *m.ReceivedMessage
	for {
		if c.renewals.Wait(ctx) != nil {
			return true
		}
		began := time.Now()
		err := c.renew(ctx, m.receiver, &renewed)
		wait := c.Lock / 2
		switch {
		case err == nil:
			c.Metrics.Renewals.WithLabelValues("ok").Inc()
			m.known.Lock.Renewed(began.Add(c.Lock))
		case ctx.Err() != nil:
			return true
		case isLockLost(err):
			c.Metrics.Renewals.WithLabelValues("lock_lost").Inc()
			c.Log.Warn("lock lost", append(c.aboutMessage(nil, m), zap.Error(err))...)
			return false
		default:
			c.Metrics.Renewals.WithLabelValues("error").Inc()
			c.Log.Warn("lock not renewed; trying again while it may still be ours", append(c.aboutMessage(nil, m), zap.Error(err))...)
			if time.Now().After(m.known.Lock.Until()) {
				return false
			}
			wait = max(time.Until(m.known.Lock.Until())/2, time.Second)
		}
		if retry.Sleep(ctx, wait) != nil {
			return true
		}
	}
}

func (c *Consumer) renew(ctx context.Context, from Receiver, m *azservicebus.ReceivedMessage) error {
	ctx, cancel := context.WithTimeout(ctx, c.SettleTimeout)
	defer cancel()
	return from.RenewMessageLock(ctx, m, nil)
}

func isLockLost(err error) bool {
	var sb *azservicebus.Error
	return errors.As(err, &sb) && sb.Code == azservicebus.CodeLockLost
}

func isNotFound(err error) bool {
	var sb *azservicebus.Error
	return errors.As(err, &sb) && sb.Code == azservicebus.CodeNotFound
}
