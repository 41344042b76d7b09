// Package consumer is the Service Bus side of the worker: it receives messages, keeps their locks while their users'
// sessions are being revoked, and settles each message by what became of its users.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

// Names of the parts that the Consumer reports to telemetry.Health.
const (
	PartServiceBus = "servicebus"
	PartGraph      = dispatch.PartGraph
	PartGuard      = dispatch.PartGuard
)

// MaxSilence is the longest time between two heartbeats of a healthy Consumer; liveness must allow for at least this.
const MaxSilence = 2 * time.Minute

// MinInFlight is the least MaxInHand: fewer messages cannot be shared among those that wait and those that do not.
const MinInFlight = 8

// RenewalsPerSecond bounds the lock renewals: each costs Service Bus ten times a send.
const RenewalsPerSecond = 20

const (
	// receiveWait bounds one receive call: a receiver can go silent without an error.
	receiveWait = 30 * time.Second
	// beatEvery is how often the receive loop beats while it waits on purpose.
	beatEvery = 10 * time.Second
	// firstWait is how long the SDK gathers messages after the first one; its default of 20 ms would delay every event.
	firstWait = time.Millisecond
	// stuckEvery is how often a worker that stops looks whether anything can still be finished.
	stuckEvery = 100 * time.Millisecond
)

// Receiver is the part of *azservicebus.Receiver (peek-lock mode) that the Consumer uses.
type Receiver interface {
	PeekMessages(ctx context.Context, maxMessageCount int, options *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveMessages(ctx context.Context, maxMessages int, options *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveDeferredMessages(ctx context.Context, sequenceNumbers []int64, options *azservicebus.ReceiveDeferredMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.AbandonMessageOptions) error
	DeferMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.DeferMessageOptions) error
	DeadLetterMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.DeadLetterOptions) error
	RenewMessageLock(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.RenewMessageLockOptions) error
}

// Revoker makes one attempt for one user; *revoker.Revoker is one.
type Revoker interface {
	Check(ctx context.Context) error
	Revoke(ctx context.Context, user event.User) (revoker.Attempt, error)
}

// Config bounds the Consumer. All fields are required and positive, except where they say otherwise.
type Config struct {
	// Concurrency is how many attempts are in flight at once.
	Concurrency int
	// MaxInFlight is how many messages of each source are held locked at once; at least MinInFlight, and at most 5,000, the
	// SDK's bound on credits.
	MaxInFlight int
	// Lock is the lock duration of the sources, as configured. Defaults to a minute.
	Lock time.Duration
	// SettleTimeout bounds each settlement and each lock renewal.
	SettleTimeout time.Duration
	// Volume bounds how many people are signed out in a time. ReadRelease reads an operator's release of it, the zero Release
	// when there is none; nil when nobody can release it but by a restart.
	Volume      guard.VolumeConfig
	ReadRelease func() (guard.Release, error)
	// CanaryUser is an account kept for canaries; the zero User asks for nobody.
	CanaryUser event.User
	// DrainTimeout is how long the messages in hand may take to be finished after the Consumer was told to stop.
	DrainTimeout time.Duration
	// Dedupe bounds the ledger; its shares are made of MaxInHand.
	Dedupe dedupe.Config
	// HashUsers replaces users in the log by a short hash, and leaves out texts from outside that may name them.
	HashUsers bool
}

// Dependencies are what the Consumer works with. All are required, except where they say otherwise.
type Dependencies struct {
	// Sources are received from at once; the attempts for an earlier one's messages go before those for a later one's.
	Sources   []Source
	Decoder   *event.Decoder
	Protected *guard.Protected
	Revoker   Revoker
	// Canary makes an attempt for nobody, or for Config.CanaryUser; nil asks no canaries.
	Canary  func(ctx context.Context, user event.User) (revoker.Attempt, error)
	Retrier *retry.Retrier
	Log     *zap.Logger
	Metrics *telemetry.Metrics
	Health  *telemetry.Health
	// Audit is told every decision, before its message is settled; nil when nobody keeps it.
	Audit func(audit.Decision)
	// Resolver knows whose a user principal name is; nil when users may not be read: then a name and an id are two users.
	Resolver *revoker.Resolver
	// Coordinator is what workers for the same tenant share; nil when this one is for itself. Pace is the rate limiter that
	// they share; nil for one of its own.
	Coordinator *coordination.Store
	Limiter     *coordination.Limiter
	// Tracer makes spans of messages and calls; nil makes none.
	Tracer trace.Tracer
}

// Source is a queue or subscription: with a Receiver, or, where it requires sessions, with Accept.
type Source struct {
	// Entity is its path, by which its messages are told from those of others.
	Entity   string
	Receiver Receiver
	// Accept waits until ctx ends for the next session that is free and has messages; an azservicebus.Error with CodeTimeout
	// says that there was none. Sessions is how many are held at once; they share MaxInHand.
	Accept   func(ctx context.Context) (Session, error)
	Sessions int
}

// HealthParts names the parts that a Consumer of these sources reports to telemetry.Health.
func HealthParts(entities ...string) []string {
	deps := []string{PartGraph, PartGuard}
	for _, e := range entities {
		deps = append(deps, healthPart(e, len(entities)))
	}
	return deps
}

func healthPart(entity string, sources int) string {
	if sources == 1 {
		return PartServiceBus
	}
	return PartServiceBus + " " + entity
}

// source is a Source in use. Its receive loops share what it holds.
type source struct {
	Source
	rank    int    // 0 is the most urgent
	part    string // of Health
	slots   slots
	room    *waitingRoom // nil where messages cannot be deferred
	decided decidedEvents
	large   *largeBodies
	bytes   *sizes
	losses  atomic.Int64 // links of sessions that were lost
	turns   turns
	last    atomic.Int64 // highest sequence number received
	end     int64        // highest one that was seen in the queue; the forecast's own
}

// loop is one receive loop of a source: the only one, or that of one of the sessions that are held at once. Its goroutine
// owns it.
type loop struct {
	*source
	name    string        // of Health's heartbeats
	changed chan struct{} // is signaled when another number of messages may be received
	burst   int           // how many messages are asked for at once after trouble; 0 is any number
	alone   time.Time     // until when it stays at one
	link    *link         // that is received over; nil at first, and not used with sessions
}

// Consumer receives from its sources. One goroutine receives from each; each message in flight has a goroutine of its own, which
// owns everything about that message. Who is called, and when, is the Dispatcher's.
type Consumer struct {
	Config
	Dependencies

	dispatch *dispatch.Dispatcher
	pool     *dispatch.Pool // the messages' goroutines
	renewals *rate.Limiter

	sources  []*source
	loops    []*loop
	sessions sync.WaitGroup // that are being closed
	inFlight atomic.Int64   // messages held locked
	ages     messageAges
	forecast atomic.Pointer[forecast]
	adding   atomic.Int64 // messages whose users are not in the ledger yet
	settling atomic.Int64
}

// Why work in flight ends before it is done.
var (
	errLockLost       = errors.New("the message's lock was lost; Service Bus delivers it again")
	errDeliveredAgain = errors.New("the message's lock was lost: Service Bus has delivered it again, and the new delivery takes its place")
	errDrained        = errors.New("the drain timeout has passed")
	errNothingToDo    = errors.New("the worker stops, and nothing can be finished: attempts are stopped")
	errDeferred       = errors.New("the message is set aside, so that others can be worked on; it comes back by itself")
	errSessionOver    = errors.New("the session was held for as long as it may; its messages come again")
)

// New returns a Consumer.
func New(cfg Config, deps Dependencies) *Consumer {
	if cfg.Lock == 0 {
		cfg.Lock = time.Minute
	}
	cfg.Dedupe.MaxParked, cfg.Dedupe.MaxFailing = max(1, cfg.MaxInFlight/4), max(1, cfg.MaxInFlight/2)
	c := &Consumer{Config: cfg, Dependencies: deps, pool: dispatch.NewPool(), renewals: rate.NewLimiter(RenewalsPerSecond, 1)}
	c.dispatch = dispatch.New(dispatch.Config{
		Concurrency: cfg.Concurrency, Volume: cfg.Volume, ReadRelease: cfg.ReadRelease, CanaryUser: cfg.CanaryUser, Dedupe: cfg.Dedupe,
	}, dispatch.Dependencies{
		Revoker: deps.Revoker, Canary: deps.Canary, Protected: deps.Protected, Retrier: deps.Retrier, Log: deps.Log, Metrics: deps.Metrics,
		Health: deps.Health, Coordinator: coordinator(deps.Coordinator), Limiter: deps.Limiter, Tracer: deps.Tracer, Name: c.user, Text: c.text,
	})
	for i, s := range deps.Sources {
		one := &source{
			Source: s, rank: i, part: healthPart(s.Entity, len(deps.Sources)), slots: make(slots, cfg.MaxInFlight),
			large: newLargeBodies(), bytes: &sizes{},
		}
		if s.Receiver != nil {
			one.room = newWaitingRoom(max(2, cfg.MaxInFlight/8))
		}
		c.sources = append(c.sources, one)
		for n := range max(1, s.Sessions) {
			l := &loop{source: one, name: fmt.Sprintf("%s %d", s.Entity, n), changed: make(chan struct{}, 1)}
			c.loops = append(c.loops, l)
			c.dispatch.Watch(l.changed)
		}
	}
	c.Metrics.Watch(c.state)
	c.countFromZero()
	return c
}

// countFromZero makes the counters that alerts ask for: Prometheus does not see the first increase of one that was not there.
func (c *Consumer) countFromZero() {
	for _, s := range c.Sources {
		for _, o := range []outcome{revoked, covered, superseded, unfinished} {
			c.Metrics.Events.WithLabelValues(s.Entity, string(o), "")
		}
		for _, g := range deadletter.Guides() {
			c.Metrics.Events.WithLabelValues(s.Entity, string(deadLettered), string(g.Reason))
		}
		c.Metrics.Deferred.WithLabelValues(s.Entity)
	}
	for _, a := range []action{complete, deadLetter, abandon, deferral} {
		c.Metrics.Settlements.WithLabelValues(string(a), "ok")
	}
}

// state is what the metrics show of the work in flight.
func (c *Consumer) state() telemetry.State {
	d := c.dispatch.State()
	expected := forecast{users: d.Ledger.Pending}
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
		Pending:        d.Ledger.Pending,
		Parked:         d.Ledger.Parked,
		Remembered:     d.Ledger.Remembered,
		Queued:         d.Waiting,
		CallsInFlight:  d.Limiter.InFlight,
		PerSecond:      d.Limiter.PerSecond,
		HeldFor:        max(0, time.Until(d.Limiter.PausedUntil)),
		Throttled:      d.Limiter.Pauses,
		Oldest:         c.ages.oldest(),
		BreakerOpen:    d.Open,
		SuspectedUsers: d.Suspected && d.Users,
		SuspectedGraph: d.Suspected && !d.Users,
		Guard:          volume,
	}
}

// Run receives and works until ctx ends; then it stops receiving, finishes the messages in hand within DrainTimeout if
// anything can be finished, and returns how many messages it received and could not finish. When hard ends, work in hand is
// abandoned at once. Run needs at most DrainTimeout plus SettleTimeout to return, and leaves no goroutine behind. The
// receiver must stay open until then. Run may be called once.
func (c *Consumer) Run(ctx, hard context.Context) (unfinished int) {
	work, stopWork := context.WithCancelCause(hard)
	defer stopWork(nil)
	var left atomic.Int32

	var watch sync.WaitGroup
	watching, stopWatching := context.WithCancel(work)
	watch.Go(func() { c.dispatch.Run(watching, work) })
	watch.Go(func() { c.watchBacklog(watching) })
	defer watch.Wait()
	defer stopWatching()

	c.awaitPermission(ctx)
	var loops sync.WaitGroup
	accept := func(s *source, d delivery) {
		c.inFlight.Add(1)
		c.ages.add(d.message)
		c.adding.Add(1)
		c.Metrics.InFlight.Inc()
		s.bytes.add(d.message)
		c.pool.Do(func() {
			defer func() {
				c.inFlight.Add(-1)
				c.ages.remove(d.message)
				c.Metrics.InFlight.Dec()
				d.done()
				if s.bytes.remove(d.message) {
					c.dispatch.Signal()
				}
			}()
			if !c.handle(work, newMessage(s, d, c.Lock)) {
				left.Add(1)
			}
		})
	}
	for _, l := range c.loops {
		loops.Go(func() {
			if l.Accept != nil {
				c.receiveSessions(ctx, l, accept)
			} else {
				c.receive(ctx, l, accept)
			}
		})
	}
	for _, s := range c.sources {
		if s.room != nil {
			loops.Go(func() { c.receiveDeferred(ctx, s, accept) })
		}
	}
	loops.Wait()

	// What is parked is called now: being done is better than handing back.
	c.dispatch.FlushParked()
	c.Log.Info("stopped receiving; finishing what is in hand", zap.Int64("inFlight", c.inFlight.Load()), zap.Duration("timeout", c.DrainTimeout))
	deadline := time.Now().Add(c.DrainTimeout)
	hurry := time.AfterFunc(c.DrainTimeout, func() { stopWork(errDrained) })
	defer hurry.Stop()
	finished := make(chan struct{})
	go func() {
		c.pool.Stop()
		c.sessions.Wait()
		c.dispatch.Stop()
		close(finished)
	}()
	look := time.NewTicker(stuckEvery)
	defer look.Stop()
	stuck := false
	for beaten := time.Now(); ; {
		select {
		case <-finished:
			return int(left.Load())
		case <-look.C:
			if time.Since(beaten) >= beatEvery {
				c.beat()
				beaten = time.Now()
			}
			before := stuck
			if stuck = c.stuck(deadline); stuck && before { // twice: a message may be on its way from one to the other
				stopWork(errNothingToDo)
			}
		}
	}
}

// stuck says that no message in flight can be finished before the deadline.
func (c *Consumer) stuck(deadline time.Time) bool {
	return c.inFlight.Load() > 0 && c.adding.Load() == 0 && c.settling.Load() == 0 && c.dispatch.Stuck(deadline)
}

// beat is the heartbeat of all loops, while none of them runs.
func (c *Consumer) beat() {
	for _, l := range c.loops {
		c.Health.Beat(l.name)
	}
}

// added says that a message's users are in the ledger: what may be received can be told again.
func (c *Consumer) added() {
	if c.adding.Add(-1) == 0 {
		c.dispatch.Signal()
	}
}
