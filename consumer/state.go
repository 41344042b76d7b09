package consumer

import (
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/telemetry"
)

// These are the parts that a Consumer reports to telemetry.Health.
const (
	PartServiceBus = "servicebus"
	PartGraph      = dispatch.PartGraph
	PartGuard      = dispatch.PartGuard
)

// HealthParts returns the parts that a Consumer of sources with these entities reports to
// telemetry.Health.
func HealthParts(entities ...string) []string {
	parts := []string{PartGraph, PartGuard}
	for _, e := range entities {
		parts = append(parts, healthPart(e, len(entities)))
	}
	return parts
}

// healthPart names a source among the parts, where there are so many sources.
func healthPart(entity string, sources int) string {
	if sources == 1 {
		return PartServiceBus
	}
	return PartServiceBus + " " + entity
}

// countFromZero creates the counters that alerts use: Prometheus does not see the first increase of
// a counter that did not exist before.
func (c *Consumer) countFromZero() {
	for _, s := range c.sources {
		for _, o := range []outcome{revoked, covered, superseded, unfinished, scheduled, withdrawn, outdated} {
			c.deps.Metrics.Events.WithLabelValues(s.Entity, string(o), "")
		}
		for _, g := range deadletter.Guides() {
			c.deps.Metrics.Events.WithLabelValues(s.Entity, string(deadLettered), string(g.Reason))
		}
		c.deps.Metrics.Deferred.WithLabelValues(s.Entity)
		c.deps.Metrics.Scheduled.WithLabelValues(s.Entity)
	}
	for _, a := range []action{complete, deadLetter, abandon, deferral} {
		c.deps.Metrics.Settlements.WithLabelValues(string(a), "ok")
	}
}

// state returns what the metrics show of the messages in flight and of the attempts.
func (c *Consumer) state() telemetry.State {
	d := c.dispatch.State()
	expected := forecast{users: d.Ledger.PendingUsers}
	if f := c.forecast.Load(); f != nil {
		expected = *f
	}
	var volume []telemetry.Guard
	for _, s := range d.Volume {
		volume = append(volume, telemetry.Guard{Type: s.Kind, Users: s.Users, Limit: s.Limit, Tripped: s.Tripped})
	}
	return telemetry.State{
		Waiting:        expected.users,
		UntilLast:      expected.seconds(),
		Pending:        d.Ledger.PendingUsers,
		Parked:         d.Ledger.Parked,
		Remembered:     d.Ledger.Remembered,
		Queued:         d.Waiting,
		CallsInFlight:  d.Limiter.InFlight,
		PerSecond:      d.Limiter.PerSecond,
		HeldFor:        max(0, time.Until(d.Limiter.PausedUntil)),
		Throttled:      d.Limiter.Pauses,
		Oldest:         c.flight.oldest(),
		BreakerOpen:    d.Open,
		SuspectedUsers: d.Suspected && d.UsersFault,
		SuspectedGraph: d.Suspected && !d.UsersFault,
		LookupsStopped: d.LookupsStopped,
		Guard:          volume,
	}
}
