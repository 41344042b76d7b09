package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
)

// canaryEvery is how often all replicas together ask a canary: each one uses up the quota that they
// share.
const canaryEvery = 5 * time.Second

// canaries is the state of canaries.
type canaries struct {
	ctx  context.Context // its end ends those in flight
	stop context.CancelFunc

	mu      sync.Mutex
	failing bool // the last one has failed
}

// askCanary asks a canary on a goroutine of its own. The queue calls it under its lock.
func (d *Dispatcher) askCanary(call int, timeout time.Duration) {
	d.pool.Do(func() {
		ctx := d.canaries.ctx
		if timeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		if d.deps.Coordinator != nil {
			if may, ok := d.deps.Coordinator.MayAsk(ctx, "canary", canaryEvery); ok && !may {
				d.report(d.queue.canaryDone(call, 0, nil, true)) // another replica has just asked one
				return
			}
		}
		user := d.cfg.CanaryUser
		if d.deps.Protected.Has(user) {
			user = event.User{} // an operator has protected the account since the start
		}
		attempt, err := d.deps.Canary(ctx, user)
		canceled := err != nil && d.canaries.ctx.Err() != nil
		if err == nil && !user.IsZero() {
			// The nanosecond keeps the proof after the failure that it was asked for, on a coarse
			// clock too.
			d.deps.Retrier.Proved(attempt.Start.Add(time.Nanosecond))
		}
		if !canceled {
			d.deps.Metrics.Canaries.WithLabelValues(canaryResult(err)).Inc()
		}
		d.report(d.queue.canaryDone(call, attempt.Usage, err, canceled))
		d.logCanary(err, canceled)
	})
}

// logCanary logs when the canary begins to fail, and when it is well again. It does not log each
// failure: a long outage must not flood the log.
func (d *Dispatcher) logCanary(err error, canceled bool) {
	c := &d.canaries
	c.mu.Lock()
	before := c.failing
	if !canceled {
		c.failing = err != nil
	}
	after := c.failing
	c.mu.Unlock()
	switch {
	case after && !before:
		d.deps.Log.Warn("the canary failed", zap.String("error", d.deps.Text(err)))
	case before && !after:
		d.deps.Log.Info("the canary is well again")
	}
}

// canaryResult names the result of a canary for the metrics.
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
