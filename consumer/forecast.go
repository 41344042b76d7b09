package consumer

import (
	"context"
	"math"
	"time"

	"go.uber.org/zap"
)

const (
	// forecastEvery is how often it is reckoned how many users wait, and for how long.
	forecastEvery = 10 * time.Second
	// tellFrom is from which wait on the log tells, and tellEvery how often again.
	tellFrom  = time.Minute
	tellEvery = 5 * time.Minute
	// maxBehind is how many messages may lie behind those in hand; more are not believed, since a partitioned queue's sequence numbers have
	// gaps of 2^48.
	maxBehind = 10_000_000
)

// forecast is how many users wait, and how long the last of them will.
type forecast struct {
	users  int
	behind int           // of them, messages that are not in hand
	wait   time.Duration // never while nothing goes through
}

// never is longer than anybody waits.
const never time.Duration = math.MaxInt64

// seconds is the wait as metrics have it.
func (f forecast) seconds() float64 {
	if f.wait == never {
		return math.Inf(1)
	}
	return f.wait.Seconds()
}

// watchBacklog keeps the forecast up to date until ctx ends.
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
		f := c.reckon(ctx, float64(decided-before)/forecastEvery.Seconds())
		before = decided
		c.forecast.Store(&f)
		switch {
		case f.wait < tellFrom && !lastLogged.IsZero():
			lastLogged = time.Time{}
			c.Log.Info("the backlog is worked off; who comes now is called within a minute")
		case f.behind > 0 && f.wait >= tellFrom && f.wait < never && time.Since(lastLogged) >= tellEvery:
			lastLogged = time.Now()
			c.Log.Warn("many users wait for Graph's quota; the most urgent in hand go first",
				zap.Int("users", f.users), zap.Duration("untilTheLast", f.wait.Round(time.Second)), zap.Time("at", time.Now().Add(f.wait).UTC().Truncate(time.Second)))
		}
	}
}

// reckon makes a forecast. decided is how many users per second were decided lately: the rate, unless Graph has shown what it allows in the long run.
func (c *Consumer) reckon(ctx context.Context, decided float64) forecast {
	var f forecast
	for _, s := range c.sources {
		if s.Receiver != nil { // what waits in sessions cannot be seen
			f.behind += c.behind(ctx, s)
		}
	}
	for _, s := range c.sources {
		if s.room != nil {
			f.behind += s.room.len()
		}
	}
	d := c.dispatch.State()
	f.users = d.Ledger.Pending + f.behind
	rate := decided
	if !math.IsInf(d.Limiter.PerSecond, 0) {
		rate = d.Limiter.PerSecond
	}
	switch {
	case f.users == 0:
	case f.behind == 0 && d.Ledger.Parked == d.Ledger.Pending: // they wait on purpose, whether others are decided or not
	case d.Open, rate == 0:
		f.wait = never
	default:
		f.wait = time.Duration(float64(f.users) / rate * float64(time.Second))
		if f.behind == 0 && f.wait < tellFrom {
			f.wait = 0 // parked ones and those between attempts wait on purpose
		}
	}
	return f
}

// behind reckons how many messages of the source are not in hand: those from the first one after those that were received to the last one there is, as peeking
// finds it in steps that double. It is right to a hundredth where sequence numbers have no gaps, and at most so many where they have.
func (c *Consumer) behind(ctx context.Context, s *source) int {
	received := s.last.Load()
	// from returns the first message from a number on, 0 when there is none.
	from := func(number int64) (found int64) {
		messages, err := lookFrom(ctx, s.Receiver, number, 1)
		if err != nil || len(messages) == 0 || messages[0].SequenceNumber == nil {
			return 0
		}
		return *messages[0].SequenceNumber
	}
	first := from(received + 1)
	if first == 0 {
		return 0
	}
	received = first - 1 // others have the ones between, or they are gone
	low, high := max(first, s.end), int64(0)
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
	s.end = low
	if behind := low - received; behind <= maxBehind {
		return int(behind)
	}
	return 0
}
