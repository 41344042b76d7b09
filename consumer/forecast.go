package consumer

import (
	"context"
	"math"
	"time"

	"go.uber.org/zap"
)

const (
	// forecastEvery is how often a forecast is made.
	forecastEvery = 10 * time.Second
	// logFrom is how long the wait must be to be logged; logEvery, how often it is logged again.
	logFrom  = time.Minute
	logEvery = 5 * time.Minute
	// maxBehind is how many messages may wait behind those in flight. More are not believed, since
	// the sequence numbers of a partitioned queue have gaps of 2^48.
	maxBehind = 10_000_000
	// deliveredWithin is how long Service Bus takes at most, as a rule, to deliver a message to a
	// receive call that waits. peekEvery is how often the forecast peeks all the same, since a receiver
	// can go silent without an error.
	deliveredWithin = 2 * time.Second
	peekEvery       = 5 * time.Minute
)

// forecast is how many users wait, and for how long the last of them will.
type forecast struct {
	users  int
	behind int           // of them, messages that are not in flight
	wait   time.Duration // never while no attempts can be made
}

// never is longer than any wait.
const never time.Duration = math.MaxInt64

// seconds returns the wait in the unit of metrics.
func (f forecast) seconds() float64 {
	if f.wait == never {
		return math.Inf(1)
	}
	return f.wait.Seconds()
}

// watchBacklog makes and logs forecasts until ctx ends.
func (c *Consumer) watchBacklog(ctx context.Context) {
	tick := time.NewTicker(forecastEvery)
	defer tick.Stop()
	var lastLogged time.Time
	for before := c.dispatch.State().Decided; ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		decided := c.dispatch.State().Decided
		f := c.makeForecast(ctx, float64(decided-before)/forecastEvery.Seconds())
		before = decided
		c.forecast.Store(&f)
		switch {
		case f.wait < logFrom && !lastLogged.IsZero():
			lastLogged = time.Time{}
			c.deps.Log.Info("the backlog is done; users of new events are called for within a minute")
		case f.behind > 0 && f.wait >= logFrom && f.wait < never && time.Since(lastLogged) >= logEvery:
			lastLogged = time.Now()
			c.deps.Log.Warn("many users wait for Graph's quota; the most urgent ones in flight go first",
				zap.Int("users", f.users), zap.Duration("untilTheLast", f.wait.Round(time.Second)),
				zap.Time("at", time.Now().Add(f.wait).UTC().Truncate(time.Second)),
				zap.String("todo", "for a user who cannot wait, run worker revoke USER"))
		}
	}
}

// makeForecast makes a forecast. decided is how many users per second were decided lately. This is
// the rate of the forecast, unless Graph has shown which rate it allows in the long run.
func (c *Consumer) makeForecast(ctx context.Context, decided float64) forecast {
	var f forecast
	for _, s := range c.sources {
		if s.Receiver != nil { // messages that wait in sessions cannot be seen
			f.behind += c.behind(ctx, s)
		}
	}
	for _, s := range c.sources {
		if s.room != nil {
			f.behind += s.room.len()
		}
	}
	d := c.dispatch.State()
	f.users = d.Ledger.PendingUsers + f.behind
	rate := decided
	if !math.IsInf(d.Limiter.PerSecond, 0) {
		rate = d.Limiter.PerSecond
	}
	switch {
	case f.users == 0:
	case f.behind == 0 && d.Ledger.Parked == d.Ledger.PendingUsers: // all are parked, which is no backlog
	case d.Open, rate == 0:
		f.wait = never
	default:
		f.wait = time.Duration(float64(f.users) / rate * float64(time.Second))
		if f.behind == 0 && f.wait < logFrom {
			f.wait = 0 // the others are parked, or wait between two attempts, which is no backlog
		}
	}
	return f
}

// behind estimates how many messages of the source wait to be received: from the first one after
// those that were received to the last one in the queue. It finds the last one by peeking in steps
// that double. The estimate is right to one percent if sequence numbers have no gaps, and an upper
// bound if they have.
func (c *Consumer) behind(ctx context.Context, s *source) int {
	if s.isEmpty() {
		return 0
	}
	s.peeked = time.Now()
	received, failed := s.lastReceived.Load(), false
	// from returns the number of the first message from a number on; 0 when there is none.
	from := func(number int64) (found int64) {
		messages, err := peekFrom(ctx, s.Receiver, number, 1)
		if err != nil || len(messages) == 0 || messages[0].SequenceNumber == nil {
			failed = err != nil
			return 0
		}
		return *messages[0].SequenceNumber
	}
	first := from(received + 1)
	s.found = first != 0 || failed
	if first == 0 {
		return 0
	}
	received = first - 1 // other replicas have those in between, or they are gone
	low, high := max(first, s.lastSeen), int64(0)
	if low > first && from(low) == 0 {
		low = first
	}
	for step := int64(1); high == 0 && low-received <= maxBehind; step *= 2 {
		if found := from(low + step); found > 0 {
			low = found
		} else {
			high = low + step
		}
	}
	for high-low > 1+(low-received)/100 {
		middle := low + (high-low)/2
		if found := from(middle); found > 0 {
			low = found
		} else {
			high = middle
		}
	}
	s.lastSeen = low
	if behind := low - received; behind <= maxBehind {
		return int(behind)
	}
	return 0
}

// isEmpty reports whether no message waits to be received: the last peek found none, and receive calls
// wait in vain. Without it, an idle worker would peek every ten seconds.
func (s *source) isEmpty() bool {
	began := s.waitsSince.Load()
	return began != nil && time.Since(*began) > deliveredWithin && !s.found && time.Since(s.peeked) < peekEvery
}
