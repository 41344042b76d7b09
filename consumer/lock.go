package consumer

import (
	"context"
	"errors"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
)

// hold keeps the message's lock until letGo is called. held ends when work does, and with errLockLost when the lock is
// gone: then the message is Service Bus' again and nothing more may be started for it. A message that does not wait costs
// neither a renewal nor a goroutine.
func (c *Consumer) hold(work context.Context, m *message) (held context.Context, letGo func()) {
	held, cancel := context.WithCancelCause(work)
	stopped := make(chan struct{})
	timer := time.AfterFunc(renewAfter(m.lock.Until()), func() {
		defer close(stopped)
		if c.keepLock(held, m) {
			return
		}
		c.Metrics.LocksLost.Inc()
		cancel(errLockLost)
	})
	return held, func() {
		waiting := timer.Stop()
		cancel(nil)
		if !waiting {
			<-stopped
		}
	}
}

// renewAfter is half of what remains of the lock, and at least a second, so that a clock that runs ahead of the broker's
// does not make renewing a busy loop.
func renewAfter(until time.Time) time.Duration { return max(time.Until(until)/2, time.Second) }

// keepLock renews the lock, now and each time half of what remains has passed. It returns true when ctx ends, false when the
// lock is lost.
func (c *Consumer) keepLock(ctx context.Context, m *message) bool {
	// The renewals write to a copy: settling reads the original at the same time.
	renewed := *m.ReceivedMessage
	for {
		err := c.renew(ctx, m.receiver, &renewed)
		switch {
		case err == nil:
			c.Metrics.Renewals.WithLabelValues("ok").Inc()
			m.lock.Renewed(*renewed.LockedUntil)
		case ctx.Err() != nil:
			return true
		case isLockLost(err):
			c.Metrics.Renewals.WithLabelValues("lock_lost").Inc()
			c.Log.Warn("lock lost", append(c.aboutMessage(nil, m), zap.Error(err))...)
			return false
		default:
			c.Metrics.Renewals.WithLabelValues("error").Inc()
			c.Log.Warn("lock not renewed; trying again while it may still be ours", append(c.aboutMessage(nil, m), zap.Error(err))...)
			if time.Now().After(m.lock.Until()) {
				return false
			}
		}
		if retry.Sleep(ctx, renewAfter(m.lock.Until())) != nil {
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
