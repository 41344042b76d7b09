// Package dispatch decides when attempts begin. Users wait in a call queue for a permit, which rate limiter, circuit breaker
// and volume guard give; for each user one loop makes attempts until the ledger has a verdict. Canaries tell users who fail
// for a reason of their own from a Graph that fails for all.
package dispatch

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

// Names of the parts that a Dispatcher reports to telemetry.Health.
const (
	PartGraph = "graph"
	PartGuard = "guard"
)

// MaxLate is how many attempts may be in flight beyond the concurrency because they are not answered for long: a shared rate
// limiter must allow for them.
const MaxLate = maxLate

// Revoker makes one attempt for one user; *revoker.Revoker is one.
type Revoker interface {
	Revoke(ctx context.Context, user event.User) (revoker.Attempt, error)
}

// Config bounds a Dispatcher.
type Config struct {
	// Concurrency is how many attempts are in flight at once; at least 1. One that is not answered within 2 seconds does not
	// count, up to MaxLate of them.
	Concurrency int
	// Volume bounds how many people are signed out in a time. ReadRelease reads an operator's release of it, the zero Release
	// when there is none; nil when nobody can release it but by a restart.
	Volume      guard.VolumeConfig
	ReadRelease func() (guard.Release, error)
	// CanaryUser is an account kept for canaries, whose sessions may be revoked at any time; the zero User asks for nobody.
	CanaryUser event.User
	// Dedupe bounds the ledger.
	Dedupe dedupe.Config
}

// Dependencies are what a Dispatcher works with. Canary, Coordinator, Limiter and Tracer may be nil;
// all others are required. A Coordinator that holds a nil pointer is not nil.
type Dependencies struct {
	Revoker Revoker
	// Canary makes one attempt for nobody, or for the user, which is Config.CanaryUser. Its error is nil
	// when Graph is well. Without Canary, the breaker learns from users alone.
	Canary    func(ctx context.Context, user event.User) (revoker.Attempt, error)
	Protected *guard.Protected
	Retrier   *retry.Retrier
	Log       *zap.Logger
	Metrics   *telemetry.Metrics
	Health    *telemetry.Health
	// Coordinator is what workers for the same tenant share; nil when this one is the only one.
	Coordinator Coordinator
	// Limiter is the rate limiter that these workers share; nil for one of this process's own.
	Limiter *coordination.Limiter
	// Tracer makes spans of attempts; nil makes none.
	Tracer trace.Tracer
	// Name and Text return a user and an error in the form in which the log may show them.
	Name func(event.User) string
	Text func(error) string
}

// Dispatcher makes the attempts. One goroutine for each user owns that user's attempts; they meet in the ledger, which
// decides which message stands for which user, and in the call queue. Each of the two is owned by one lock. It is safe for
// concurrent use.
type Dispatcher struct {
	cfg  Config
	deps Dependencies

	ledger  *dedupe.Ledger
	queue   *queue
	budgets budgets
	pool    *Pool

	mu           sync.Mutex
	hard         context.Context // ends the attempts in flight
	canaries     context.Context // ends the canaries
	stopCanaries context.CancelFunc
	sleeping     map[*dedupe.Work]time.Time
	blocked      int           // users who wait for a release of the volume guard
	released     chan struct{} // closed when some types are released
	decided      int64
	failing      bool // the last canary has failed
}

// New returns a Dispatcher.
func New(cfg Config, deps Dependencies) *Dispatcher {
	d := &Dispatcher{
		cfg: cfg, deps: deps,
		ledger:   dedupe.New(cfg.Dedupe),
		queue:    newQueue(cfg.Concurrency, cfg.Volume, deps.Limiter, !cfg.CanaryUser.IsZero()),
		pool:     NewPool(),
		hard:     context.Background(),
		sleeping: map[*dedupe.Work]time.Time{},
		released: make(chan struct{}),
	}
	d.canaries, d.stopCanaries = context.WithCancel(context.Background())
	if deps.Canary != nil {
		d.queue.ask, d.queue.active = d.askCanary, func() bool { return d.ledger.Pending() > 0 }
	}
	return d
}

// Watch adds a channel that is signaled when another number of messages may be received.
func (d *Dispatcher) Watch(changed chan struct{}) { d.queue.changed = append(d.queue.changed, changed) }

// Signal signals all channels of Watch.
func (d *Dispatcher) Signal() {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	d.queue.signal()
}

// Run does what is to be done beside the attempts until ctx ends: it tells of trips of the volume guard, carries an
// operator's release to it, and exchanges the shared rate limiter's state. hard ends the attempts in flight.
func (d *Dispatcher) Run(ctx, hard context.Context) {
	d.mu.Lock()
	d.hard = hard
	d.mu.Unlock()
	var all sync.WaitGroup
	all.Go(func() { d.watchVolume(ctx) })
	if d.deps.Limiter != nil {
		all.Go(func() { d.deps.Limiter.Run(ctx, d.queue.tick) })
	}
	all.Wait()
}

// Stop waits until nobody is in flight any more, and releases everything. Every event must have left, or its end be decided,
// by then or because hard ends.
func (d *Dispatcher) Stop() {
	d.queue.stop()
	d.stopCanaries()
	d.pool.Stop()
}

// Add enters an event of a user, and makes sure that the user is called for.
func (d *Dispatcher) Add(key string, user event.User, e *dedupe.Event) {
	work, isNew := d.ledger.Add(key, e)
	switch {
	case isNew:
		d.pool.Do(func() { d.run(work, user) })
	case work != nil:
		d.queue.raise(key, e.Urgency)
	}
}

// AllAdded says that all events of the message were entered.
func (d *Dispatcher) AllAdded(m *dedupe.Message) { d.ledger.AllAdded(m) }

// Remove takes an event out that nobody waits for any more.
func (d *Dispatcher) Remove(key string, e *dedupe.Event) { d.ledger.Remove(key, e) }

// FlushParked ends parking, for a worker that stops.
func (d *Dispatcher) FlushParked() { d.ledger.FlushParked() }

// FlushMessage calls now for the users of one message that are parked.
func (d *Dispatcher) FlushMessage(m *dedupe.Message) { d.ledger.FlushMessage(m) }

// Defer asks for a message to be set aside if none of its users waits for a first attempt.
func (d *Dispatcher) Defer(m *dedupe.Message) { d.ledger.Defer(m) }

// Limit is how many more messages may be received when so many of most are in flight.
func (d *Dispatcher) Limit(inFlight, most int) int { return d.queue.limit(inFlight, most) }

// NextAttempt is when the next attempt for a user who has failed is due; zero for whoever has not failed.
func (d *Dispatcher) NextAttempt(key string) time.Time {
	budget, _ := d.budgets.of(key, time.Time{})
	return budget.next
}

// Blocked says that the volume guard stops attempts for events of the type.
func (d *Dispatcher) Blocked(kind string) bool {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	return d.queue.volume.Blocked(kind)
}

// Released is closed when the volume guard is released for some types of events.
func (d *Dispatcher) Released() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.released
}

// Open says that attempts are stopped but for probes.
func (d *Dispatcher) Open() bool {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	_, cause := d.queue.breaker.Open()
	return cause != nil
}

// Stuck says that nothing in flight can end before the deadline: nobody is called, and nobody will be.
func (d *Dispatcher) Stuck(deadline time.Time) bool {
	d.mu.Lock()
	soonest := deadline
	for _, until := range d.sleeping {
		if until.Before(soonest) {
			soonest = until
		}
	}
	d.mu.Unlock()
	q := d.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inFlight.running+q.inFlight.late > 0 {
		return false
	}
	if _, cause := q.breaker.Open(); cause != nil {
		return true
	}
	waits := q.len() > 0 || soonest.Before(deadline)
	return !waits || !q.limiter.State().PausedUntil.Before(deadline)
}

// State is a picture of the Dispatcher, for metrics and forecasts.
type State struct {
	Ledger dedupe.State
	// Waiting is how many users wait for a permit, Blocked how many for a release of the volume guard.
	Waiting, Blocked int
	Limiter          retry.LimiterState
	// Open says that attempts are stopped but for probes. Suspected says that users fail one after the other; Users that the
	// canary is well, so that the trouble is theirs.
	Open, Suspected, Users bool
	Volume                 []guard.KindState
	// Decided is how many users were decided so far.
	Decided int64
}

// State returns a picture.
func (d *Dispatcher) State() State {
	s := State{Ledger: d.ledger.State()}
	d.mu.Lock()
	s.Blocked, s.Decided = d.blocked, d.decided
	d.mu.Unlock()
	q := d.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	_, cause := q.breaker.Open()
	s.Open = cause != nil
	s.Suspected, s.Users = q.breaker.Suspicion()
	s.Waiting, s.Limiter, s.Volume = len(q.waiting), q.limiter.State(), q.volume.State(time.Now())
	return s
}
