package consumer

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// watchVolumeEvery is how often a trip of the guard is looked for, and a release of it.
const watchVolumeEvery = 5 * time.Second

// watchVolume tells of trips of the guard against implausible volumes, and carries an operator's release to the line, until ctx ends.
func (c *Consumer) watchVolume(ctx context.Context) {
	c.Health.Report(PartGuard, "")
	tick := time.NewTicker(watchVolumeEvery)
	defer tick.Stop()
	told := ""
	for tripped := false; ; {
		c.readRelease(&told)
		state := c.line.volumeState()
		if state.Tripped != tripped {
			tripped = state.Tripped
			c.tellVolume(tripped, state.Limit)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Consumer) tellVolume(tripped bool, limit int) {
	switch {
	case !tripped:
		c.Health.Report(PartGuard, "")
		c.Log.Info("the guard is not tripped any more")
	case c.Volume.Observe:
		c.Log.Warn("more people are signed out than is plausible; the guard only observes (guard.mode)", zap.Int("limit", limit), zap.Duration("window", c.Volume.Window))
	default:
		c.Health.Report(PartGuard, fmt.Sprintf("tripped: more than %d people within %s; nobody is signed out until an operator releases it (worker guard release)", limit, c.Volume.Window))
		c.Log.Error("the guard has tripped: more people would be signed out than is plausible. Calls and receiving stop, nothing is lost; find out why, then worker guard release",
			zap.Int("limit", limit), zap.Duration("window", c.Volume.Window))
	}
}

// readRelease looks for a release. told is the last problem with it, so that it is logged once.
func (c *Consumer) readRelease(told *string) {
	if c.ReadRelease == nil {
		return
	}
	r, err := c.ReadRelease()
	if err != nil {
		if err.Error() != *told {
			*told = err.Error()
			c.Log.Error("the release of the guard is not usable", zap.Error(err))
		}
		return
	}
	*told = ""
	if c.line.release(r) {
		c.Log.Warn("an operator has released the guard", zap.String("by", r.By), zap.String("why", r.Reason), zap.Time("until", r.Until), zap.Int("maxUsers", r.MaxUsers))
	}
}
