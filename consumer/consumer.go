// Package consumer is the Service Bus side of the worker: it receives messages, keeps their locks
// while their users' sessions are revoked, and settles each message by the results of its events.
//
// Consumer.handle in message.go handles one message, and reads from top to bottom: decode, guard,
// dedupe, dispatch, settle. Three files receive messages for it: receive.go from a queue or
// subscription, session.go from an entity that requires sessions, and deferred.go those that the
// Consumer has deferred. Package dispatch and its ledger, package dedupe, decide when the attempt
// for a user begins, and what it means for each event.
package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/internal/deadline"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/schedule"
)

// MaxSilence is the longest time between two heartbeats of a healthy Consumer. A liveness check
// must allow for at least this.
const MaxSilence = 2 * time.Minute

// RenewalsPerSecond bounds the lock renewals: each costs Service Bus ten times as much as a send.
const RenewalsPerSecond = 20

const (
	// beatEvery is how often a receive loop sends a heartbeat while it waits on purpose.
	beatEvery = 10 * time.Second
	// stuckEvery is how often a Consumer that stops checks whether anything can still be finished.
	stuckEvery = 100 * time.Millisecond
)

// These are the reasons why the Consumer stops waiting for a message whose events are not all
// decided.
var (
	errLockLost       = errors.New("the message's lock was lost; Service Bus delivers it again")
	errDeliveredAgain = errors.New("the message's lock was lost; the new delivery by Service Bus replaces this one")
	errDrained        = errors.New("the drain timeout has passed")
	errNothingToDo    = errors.New("the worker stops, and cannot finish anything: attempts are stopped")
	errDeferred       = errors.New("the message is deferred, so that others can be received; it comes back by itself")
	errSessionOver    = errors.New("the session was held for as long as it may be; its messages come again")
)

// source is a Source in use. Its receive loops share it.
type source struct {
	Source
	rank          int    // 0 is the most urgent
	part          string // of telemetry.Health
	slots         slots
	room          *waitingRoom    // nil where messages cannot be deferred
	scheduled     *schedule.Index // nil where nothing can be scheduled
	decidedEvents decidedEvents
	large         *largeBodies
	bytes         *bodyBytes
	linkLosses    atomic.Int64 // how many links of sessions were lost
	served        servedSessions
	lastReceived  atomic.Int64              // the highest sequence number that was received
	waitsSince    atomic.Pointer[time.Time] // since when receive calls wait for a message in vain; nil if none does
	// Only the forecast uses these: the highest number that it saw in the queue, when it peeked last, and
	// whether it may have found a message then.
	lastSeen int64
	peeked   time.Time
	found    bool
}

// loop is one receive loop of a source. A source with sessions has several, each of which holds one
// session. The loop's goroutine owns it.
type loop struct {
	*source
	name    string        // for telemetry.Health's heartbeats
	changed chan struct{} // is signaled when Consumer.limit may have changed
	burst   int           // how many messages are asked for at once after trouble; 0 is any number
	alone   time.Time     // burst stays at 1 until then
	link    *link         // the link in use; nil at first, and always nil with sessions
	// failing is set while receive calls fail although peeks succeed. Then only a receive call shows
	// that they work again.
	failing bool
}

// acceptFunc accepts a message that was received from a source: it starts the message's goroutine,
// and returns at once.
type acceptFunc func(*source, delivery)

// Consumer receives from its sources. One goroutine receives from each source, or from each session
// that is held. Each message in flight has a goroutine of its own, which owns everything about the
// message. The Dispatcher decides for whom an attempt is made, and when.
type Consumer struct {
	cfg  Config
	deps Dependencies

	dispatch *dispatch.Dispatcher
	pool     *dispatch.Pool // the messages' goroutines
	renewals *rate.Limiter
	rounds   *rounds
	overLink *deadline.Shared // of settlements over their link

	sources    []*source
	loops      []*loop
	closing    sync.WaitGroup // sessions that are being closed
	flight     *messagesInFlight
	unfinished atomic.Int32 // messages that were handled, but not finished
	forecast   atomic.Pointer[forecast]
	// asked is set while a loop may wait for another limit. The next message that ends resets it, and
	// signals.
	asked atomic.Bool
}

// New returns a Consumer. It fills in defaults. The error names everything in cfg and deps that is
// missing or out of bounds.
func New(cfg Config, deps Dependencies) (*Consumer, error) {
	cfg = cfg.withDefaults()
	if err := errors.Join(cfg.validate(), deps.validate()); err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	cfg.Dedupe.MaxParked, cfg.Dedupe.MaxFailing = max(1, cfg.MaxInFlight/4), max(1, cfg.MaxInFlight/2)
	c := &Consumer{
		cfg: cfg, deps: deps,
		pool:     dispatch.NewPool(),
		renewals: rate.NewLimiter(RenewalsPerSecond, 1),
		rounds:   newRounds(),
		overLink: deadline.Within(min(overLinkWait, cfg.SettleTimeout/2)),
		flight:   newMessagesInFlight(deps.Metrics.InFlight),
	}
	c.dispatch = dispatch.New(dispatch.Config{
		Concurrency: cfg.Concurrency, Volume: cfg.Volume, ReadRelease: cfg.ReadRelease, CanaryUser: cfg.CanaryUser, Dedupe: cfg.Dedupe,
	}, dispatch.Dependencies{
		Revoker: deps.Revoker, Canary: deps.Canary, Known: deps.Known, Protected: deps.Protected, Retrier: retry.New(cfg.Retry),
		Log: deps.Log, Metrics: deps.Metrics, Health: deps.Health, Tracer: deps.Tracer,
		Coordinator: deps.Coordinator, NewLimiter: deps.NewLimiter, Name: c.user, Text: c.text,
	})
	for i, s := range deps.Sources {
		c.addSource(i, s)
	}
	deps.Metrics.Watch(c.state)
	c.countFromZero()
	return c, nil
}

// addSource adds the source of a rank, and its loops.
func (c *Consumer) addSource(rank int, s Source) {
	added := &source{
		Source: s, rank: rank, part: healthPart(s.Entity, len(c.deps.Sources)),
		slots: make(slots, c.cfg.MaxInFlight), large: newLargeBodies(), bytes: &bodyBytes{},
	}
	if s.Receiver != nil {
		added.room = newWaitingRoom(max(2, c.cfg.MaxInFlight/8))
	}
	if s.Receiver != nil && s.Scheduler != nil && c.cfg.Horizon > 0 {
		added.scheduled = schedule.NewIndex(schedule.Config{
			Decoder: c.deps.Decoder,
			Peek: func(ctx context.Context, from int64, n int) ([]*azservicebus.ReceivedMessage, error) {
				return peekFrom(ctx, s.Receiver, from, n)
			},
		})
	}
	c.sources = append(c.sources, added)
	for n := range max(1, s.Sessions) {
		l := &loop{source: added, name: fmt.Sprintf("%s %d", s.Entity, n), changed: make(chan struct{}, 1)}
		c.loops = append(c.loops, l)
		c.dispatch.Watch(l.changed)
	}
}

// Run receives and handles messages until ctx ends. Then it stops receiving, and finishes the
// messages in flight within DrainTimeout, as long as anything can be finished. It abandons the
// others. When hard ends, it abandons all messages in flight at once. It returns how many of the
// messages that it received it did not finish.
//
// Run needs at most DrainTimeout plus SettleTimeout to return, and leaves no goroutine behind. The
// receivers must stay open until then. Run may be called once.
func (c *Consumer) Run(ctx, hard context.Context) (unfinished int) {
	work, stopWork := context.WithCancelCause(hard)
	defer stopWork(nil)
	watching, stopWatching := context.WithCancel(work)
	var watch sync.WaitGroup
	c.dispatch.EndAttemptsWith(work)
	watch.Go(func() { c.dispatch.Run(watching) })
	watch.Go(func() { c.watchBacklog(watching) })
	watch.Go(func() { c.rounds.run(watching, c.cfg.Lock/roundsPerLock) })
	for _, s := range c.sources {
		if s.scheduled != nil {
			watch.Go(func() { c.watchScheduled(watching, s) })
		}
	}
	defer watch.Wait()
	defer stopWatching()

	permitted := make(chan struct{})
	watch.Go(func() {
		c.awaitPermission(ctx)
		close(permitted)
	})
	c.receiveAll(ctx, permitted, func(s *source, d delivery) { c.accept(work, s, d) })

	// Parked users are called for at once: a finished message is better than an abandoned one.
	c.dispatch.FlushParked()
	inFlight, _ := c.flight.len()
	c.deps.Log.Info("stopped receiving; finishing the messages in flight",
		zap.Int("inFlight", inFlight), zap.Duration("timeout", c.cfg.DrainTimeout))
	c.drain(stopWork)
	return int(c.unfinished.Load())
}

// receiveAll receives from all sources until ctx ends, once permitted is closed. It makes the links
// meanwhile, so that the worker is ready sooner.
func (c *Consumer) receiveAll(ctx context.Context, permitted <-chan struct{}, accept acceptFunc) {
	var receiving sync.WaitGroup
	for _, l := range c.loops {
		receiving.Go(func() {
			if l.Accept != nil {
				<-permitted
				c.receiveSessions(ctx, l, accept)
				return
			}
			began := time.Now()
			_ = c.attach(ctx, l) // if it fails, receive tries again, and reports the error
			<-permitted
			if time.Since(began) > receiveWait {
				l.link = nil // it may be lost unnoticed
			}
			c.receive(ctx, l, accept)
		})
	}
	for _, s := range c.sources {
		if s.room != nil {
			receiving.Go(func() {
				<-permitted
				c.receiveDeferred(ctx, s, accept)
			})
		}
	}
	receiving.Wait()
}

// accept starts the goroutine of a message that was received. When work ends, the goroutine ends
// early.
func (c *Consumer) accept(work context.Context, s *source, d delivery) {
	c.flight.add(d.message)
	s.bytes.add(d.message)
	c.pool.Do(func() {
		defer func() {
			c.flight.remove(d.message)
			d.done()
			s.bytes.remove(d.message)
			// More may be received now. The dispatcher does not know of it if the message ends without an
			// attempt: a token that waits for its keys, for example.
			if c.asked.CompareAndSwap(true, false) {
				c.dispatch.Signal()
			}
		}()
		if !c.handle(work, newMessage(s, d, c.cfg.Lock)) {
			c.unfinished.Add(1)
		}
	})
}

// drain returns when no message is in flight, and no goroutine of the Consumer or its Dispatcher is
// left. It stops the work after DrainTimeout, or earlier when nothing can be finished.
func (c *Consumer) drain(stopWork context.CancelCauseFunc) {
	deadline := time.Now().Add(c.cfg.DrainTimeout)
	timeout := time.AfterFunc(c.cfg.DrainTimeout, func() { stopWork(errDrained) })
	defer timeout.Stop()
	finished := make(chan struct{})
	go func() {
		c.pool.Stop()
		c.closing.Wait()
		c.dispatch.Stop()
		close(finished)
	}()
	check := time.NewTicker(stuckEvery)
	defer check.Stop()
	stuck := false
	for lastBeat := time.Now(); ; {
		select {
		case <-finished:
			return
		case <-check.C:
			if time.Since(lastBeat) >= beatEvery {
				c.beat()
				lastBeat = time.Now()
			}
			before := stuck
			// Only the second time in a row counts. The ledger may have just decided a message
			// whose goroutine does not know it yet.
			if stuck = c.stuck(deadline); stuck && before {
				stopWork(errNothingToDo)
			}
		}
	}
}

// stuck reports whether there are messages in flight, and none of them can be finished before the
// deadline.
func (c *Consumer) stuck(deadline time.Time) bool {
	return c.flight.onlyWaiting() && c.dispatch.Stuck(deadline)
}

// beat sends the heartbeats of all loops, at times when none of them runs.
func (c *Consumer) beat() {
	for _, l := range c.loops {
		c.deps.Health.Beat(l.name)
	}
}
