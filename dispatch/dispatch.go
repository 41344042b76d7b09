// Package dispatch decides when attempts begin. An attempt is one HTTP request to Graph that
// revokes one user's sessions.
//
// Each event of a user is added to the ledger (package dedupe), which decides what the event needs:
// nothing, because a past attempt has covered it or another message supersedes it; or an attempt.
// For each user with undecided events one goroutine runs a loop (Dispatcher.run):
//
//  1. It waits for the end of the user's window, if their events are parked.
//  2. It waits in the call queue for a permit. The rate limiter, the circuit breaker and the volume
//     guard give permits, to the most urgent user first.
//  3. It makes one attempt for all events of the user that the ledger holds pending at this time.
//     An event that arrives later, during the attempt, waits beside it in the ledger.
//  4. It tells the ledger what Graph answered. After a success the events of the attempt are
//     revoked; an event beside it is covered if it was enqueued before the attempt started, and
//     otherwise parked until the end of the window, for one more attempt. After a final failure the
//     events of the attempt have failed, and those beside it are parked. After any other failure
//     they all wait for the next attempt.
//
// The caller waits until dedupe.Event.Ended is true, and settles messages by dedupe.Event.Result.
//
// A user whom an event names only by a device or a mail address must be looked up. The look-up is an
// attempt like any other, apart from what package-internal lookups says; its ending is an account,
// for which the caller adds the event again (AccountOf).
//
// Canaries, which are attempts for nobody or for an account kept for them, distinguish users who
// fail for a reason of their own from a Graph that fails for everyone.
package dispatch

import (
	"context"
	"sync"
	"sync/atomic"
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

// These are the parts that a Dispatcher reports to telemetry.Health.
const (
	PartGraph = "graph"
	PartGuard = "guard"
)

// Revoker makes one attempt for one user; *revoker.Revoker is one. Its errors are *revoker.Error.
type Revoker interface {
	Revoke(ctx context.Context, user event.User) (revoker.Attempt, error)
}

// Config bounds a Dispatcher.
type Config struct {
	// Concurrency is how many attempts are in flight at once; at least 1. Up to 64 attempts that
	// are not answered within 2 seconds do not count.
	Concurrency int
	// Volume bounds how many people are signed out within the guard's window.
	Volume guard.VolumeConfig
	// ReadRelease returns an operator's release of the volume guard, or the zero Release if there
	// is none. It is called every 5 seconds. If it is nil, only a restart releases the guard.
	ReadRelease func() (guard.Release, error)
	// CanaryUser is an account kept for canaries, whose sessions may be revoked at any time. The
	// zero User makes each canary an attempt for a random id that no user has.
	CanaryUser event.User
	// Dedupe bounds the ledger.
	Dedupe dedupe.Config
}

// Dependencies are what a Dispatcher works with. Canary, Known, Coordinator, NewLimiter and Tracer may
// be nil; all others are required. A Coordinator that holds a nil pointer is not nil.
type Dependencies struct {
	Revoker Revoker
	// Canary makes one attempt for nobody, or for the user, which is Config.CanaryUser. Its error
	// is nil when Graph is well. Without Canary, the breaker learns from users alone.
	Canary func(ctx context.Context, user event.User) (revoker.Attempt, error)
	// Known returns the account of a user who must be looked up, if the Revoker has found it by a
	// look-up that began after enqueued. If it is nil, no look-up is remembered.
	Known     func(user event.User, enqueued time.Time) (account event.User, ok bool)
	Protected *guard.Protected
	Retrier   *retry.Retrier
	Log       *zap.Logger
	Metrics   *telemetry.Metrics
	Health    *telemetry.Health
	// Coordinator is what workers for the same tenant share; nil when this one is the only one.
	Coordinator Coordinator
	// NewLimiter returns the rate limiter that these workers share, for at most limit attempts of
	// this one in flight. If it is nil, this worker has a limiter of its own.
	NewLimiter func(limit int) *coordination.Limiter
	// Tracer makes spans of attempts; nil makes none.
	Tracer trace.Tracer
	// Name and Text return a user and an error in the form in which the log may show them.
	Name func(event.User) string
	Text func(error) string
}

// Dispatcher makes the attempts. Each user with undecided events has a goroutine, which makes that
// user's attempts. These goroutines share the ledger and the call queue, each of which has one
// lock. A Dispatcher is safe for concurrent use.
type Dispatcher struct {
	cfg  Config
	deps Dependencies

	ledger   *dedupe.Ledger
	queue    *queue
	budgets  budgets
	pool     *Pool
	sleepers sleepers
	releases releases
	canaries canaries
	lookups  *lookups
	decided  atomic.Int64    // users so far
	hard     context.Context // its end ends the attempts in flight
}

// New returns a Dispatcher. Run and then Stop must follow.
func New(cfg Config, deps Dependencies) *Dispatcher {
	d := &Dispatcher{
		cfg: cfg, deps: deps,
		ledger:   dedupe.New(cfg.Dedupe),
		queue:    newQueue(cfg.Concurrency, cfg.Volume, sharedLimiter(cfg, deps), !cfg.CanaryUser.IsZero()),
		pool:     NewPool(),
		sleepers: sleepers{until: map[*dedupe.Work]time.Time{}},
		releases: releases{next: make(chan struct{})},
		lookups:  newLookups(deps.Retrier),
		hard:     context.Background(),
	}
	d.canaries.ctx, d.canaries.stop = context.WithCancel(context.Background())
	if deps.Canary != nil {
		d.queue.ask, d.queue.active = d.askCanary, func() bool { return d.ledger.PendingUsers() > 0 }
	}
	return d
}

// sharedLimiter returns the rate limiter that replicas share, or nil if there is none.
func sharedLimiter(cfg Config, deps Dependencies) *coordination.Limiter {
	if deps.NewLimiter == nil {
		return nil
	}
	return deps.NewLimiter(cfg.Concurrency + maxLate)
}

// Watch adds a channel that is signaled, without blocking, when Limit may have changed. It must be
// called before the first Add.
func (d *Dispatcher) Watch(changed chan struct{}) { d.queue.changed = append(d.queue.changed, changed) }

// Signal signals all channels of Watch.
func (d *Dispatcher) Signal() {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	d.queue.signal()
}

// EndAttemptsWith sets the context whose end cuts off the attempts in flight. It must be called
// before the first Add. Without it, attempts end only by an answer or their timeout.
func (d *Dispatcher) EndAttemptsWith(hard context.Context) { d.hard = hard }

// Run does what is needed beside the attempts until ctx ends: it reports trips of the volume guard,
// applies operators' releases, and exchanges the state of the shared rate limiter.
func (d *Dispatcher) Run(ctx context.Context) {
	var all sync.WaitGroup
	all.Go(func() { d.watchVolume(ctx) })
	if d.queue.shared != nil {
		all.Go(func() { d.queue.shared.Run(ctx, d.queue.tick) })
	}
	all.Wait()
}

// Stop waits until no attempt and no canary is in flight, and ends all goroutines. It waits for
// each event to be decided or removed, so the caller must remove those that nothing decides any
// more.
func (d *Dispatcher) Stop() {
	d.queue.stop()
	d.canaries.stop()
	d.pool.Stop()
}

// Add adds an event of a user to the ledger, and starts the user's loop if they have none. key is
// the user's key in the ledger. It does not block; e.Ended is true when the event is decided.
//
// The deferred messages of a user come back one after the other. If the user has just failed finally,
// in an attempt that began after the event was enqueued, the event ends like those that were in flight
// then.
func (d *Dispatcher) Add(key string, user event.User, e *dedupe.Event) {
	if a := d.failed(key, e.Enqueued); a != nil {
		d.ledger.AddFailed(e, a)
		return
	}
	work, isNew := d.ledger.Add(key, e)
	switch {
	case isNew:
		d.pool.Do(func() { d.run(work, user) })
	case work != nil:
		d.queue.raise(key, e.Urgency)
	}
}

// AllAdded must be called once all events of the message were added.
func (d *Dispatcher) AllAdded(m *dedupe.Message) { d.ledger.AllAdded(m) }

// Remove removes an event that nobody waits for any more, such as one whose message's lock is lost.
func (d *Dispatcher) Remove(key string, e *dedupe.Event) { d.ledger.Remove(key, e) }

// FlushParked makes the attempts for all parked users due now, and ends parking for good. A worker
// calls it when it stops.
func (d *Dispatcher) FlushParked() { d.ledger.FlushParked() }

// FlushMessage makes the attempts for those users of one message due now who are parked.
func (d *Dispatcher) FlushMessage(m *dedupe.Message) { d.ledger.FlushMessage(m) }

// Defer asks for a message to be deferred, if none of its users waits for a first attempt.
func (d *Dispatcher) Defer(m *dedupe.Message) { d.ledger.Defer(m) }

// Limit returns how many more messages may be received when inFlight of at most most messages are
// in flight.
func (d *Dispatcher) Limit(inFlight, most int) int { return d.queue.limit(inFlight, most) }

// NextAttempt returns when the next attempt is due for a user who has failed. For any other user it
// returns the zero time.
func (d *Dispatcher) NextAttempt(key string) time.Time {
	budget, _ := d.budgets.of(key, time.Time{}, time.Time{})
	return budget.next
}

// Decided reports whether Add decides an event at once, because the user has just failed finally.
func (d *Dispatcher) Decided(key string, enqueued time.Time) bool {
	return d.failed(key, enqueued) != nil
}

// failed returns the attempts whose final failure decides an event of the user that comes now, or nil.
func (d *Dispatcher) failed(key string, enqueued time.Time) *Attempts {
	if a := d.budgets.final(key); a != nil && d.ledger.Decides(times(a.Last), enqueued) {
		return a
	}
	return nil
}

// Blocked reports whether the volume guard stops attempts for events of the type.
func (d *Dispatcher) Blocked(kind string) bool {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	return d.queue.volume.Blocked(kind)
}

// Released returns a channel that is closed at the next release of the volume guard, whatever types
// of events it is for.
func (d *Dispatcher) Released() <-chan struct{} { return d.releases.released() }

// Open reports whether the circuit breaker is open: then only probes begin.
func (d *Dispatcher) Open() bool {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	_, cause := d.queue.breaker.Open()
	return cause != nil
}

// Stuck reports whether nothing in flight can end before the deadline: no attempt is in flight, and
// none can begin.
func (d *Dispatcher) Stuck(deadline time.Time) bool {
	wakes := d.sleepers.anyBefore(deadline)
	q := d.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.inFlight.running+q.inFlight.late > 0 {
		return false
	}
	if _, cause := q.breaker.Open(); cause != nil {
		return true
	}
	waits := q.len() > 0 || wakes
	return !waits || !q.limiter.State().PausedUntil.Before(deadline)
}

// State is a picture of the Dispatcher, for metrics and forecasts.
type State struct {
	Ledger dedupe.State
	// Waiting is how many users wait for a permit; Blocked, how many wait for a release of the
	// volume guard.
	Waiting, Blocked int
	Limiter          retry.LimiterState
	// Open reports whether the circuit breaker is open. Suspected reports whether users fail one
	// after the other, and UsersFault whether the fault is theirs, because the canary is well.
	Open, Suspected, UsersFault bool
	// LookupsStopped reports whether look-ups of some way are not possible.
	LookupsStopped bool
	Volume         []guard.KindState
	// Decided is how many users were decided so far.
	Decided int64
}

// State returns a picture. It takes time in proportion to the users with undecided events.
func (d *Dispatcher) State() State {
	s := State{Ledger: d.ledger.State(), Blocked: d.releases.waiting(), Decided: d.decided.Load()}
	s.LookupsStopped = d.lookups.stopped() != nil
	q := d.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	_, cause := q.breaker.Open()
	s.Open = cause != nil
	s.Suspected, s.UsersFault = q.breaker.Suspicion()
	s.Waiting, s.Limiter, s.Volume = len(q.waiting), q.limiter.State(), q.volume.State(time.Now())
	return s
}
