package dispatch

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// canaryEvery is how often all replicas together ask a canary: each is a write of the quota that they share.
const canaryEvery = 5 * time.Second

// askCanary asks a canary on a goroutine of its own. The queue calls it under its lock.
func (d *Dispatcher) askCanary(call int, timeout time.Duration) {
	d.pool.Do(func() {
		ctx := d.canaries
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		if d.deps.Coordinator != nil {
			if may, ok := d.deps.Coordinator.MayAsk(ctx, "canary", canaryEvery); ok && !may {
				d.report(d.queue.canaryDone(call, 0, nil, true)) // another replica has just asked
				return
			}
		}
		user := d.cfg.CanaryUser
		if d.deps.Protected.Has(user) {
			user = event.User{} // protected since the start: then nobody is asked for
		}
		attempt, err := d.deps.Canary(ctx, user)
		canceled := err != nil && d.canaries.Err() != nil
		if err == nil && !user.IsZero() {
			// After the failure that it was asked for, however coarse the clock.
			d.deps.Retrier.Proved(attempt.Start.Add(time.Nanosecond))
		}
		if !canceled {
			d.deps.Metrics.Canaries.WithLabelValues(canaryResult(err)).Inc()
		}
		d.report(d.queue.canaryDone(call, attempt.Usage, err, canceled))
		d.logCanary(err, canceled)
	})
}

// logCanary logs that the canary has failed, once until it is well again: a long outage must not flood the log.
func (d *Dispatcher) logCanary(err error, canceled bool) {
	d.mu.Lock()
	before := d.failing
	if !canceled {
		d.failing = err != nil
	}
	after := d.failing
	d.mu.Unlock()
	switch {
	case after && !before:
		d.deps.Log.Warn("the canary failed", zap.String("error", d.deps.Text(err)))
	case before && !after:
		d.deps.Log.Info("the canary is well again")
	}
}

func canaryResult(err error) string {
	var failure *revoker.Error
	switch {
	case err == nil:
		return "well"
	case errors.As(err, &failure) && failure.Kind == revoker.Throttled:
		return "throttled"
	}
	return "failed"
}
