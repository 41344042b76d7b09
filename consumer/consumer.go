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

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/replicas"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
	"github.com/session-revoker/session-revoker/trail"
)

// Names of the parts that the Consumer reports to telemetry.Health.
const (
	PartServiceBus = "servicebus"
	PartGraph      = "graph"
	PartGuard      = "guard"
)

// MaxSilence is the longest time between two heartbeats of a healthy Consumer; liveness must allow for at least this.
const MaxSilence = 2 * time.Minute

const (
	// receiveWait bounds one receive call: a receiver can go silent without an error.
	receiveWait = 30 * time.Second
	// beatEvery is how often the receive loop beats while it waits on purpose.
	beatEvery = 10 * time.Second
	// firstWait is how long the SDK gathers messages after the first one; its default of 20 ms would delay every event.
	firstWait = time.Millisecond
)

// Receiver is the part of *azservicebus.Receiver (peek-lock mode) that the Consumer uses.
type Receiver interface {
	PeekMessages(ctx context.Context, maxMessageCount int, options *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveMessages(ctx context.Context, maxMessages int, options *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.AbandonMessageOptions) error
	DeadLetterMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.DeadLetterOptions) error
	RenewMessageLock(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.RenewMessageLockOptions) error
}

// Revoker makes one attempt for one user; *revoker.Revoker is one.
type Revoker interface {
	Check(ctx context.Context) error
	Revoke(ctx context.Context, user event.User) (revoker.Attempt, error)
}

// Config bounds the Consumer. All fields are required and positive, except HashUsers and what Dedupe allows to be 0.
type Config struct {
	// Concurrency is how many calls to Graph run at once.
	Concurrency int
	// MaxInHand is how many messages of each source are held locked at once; at most 5,000, the SDK's bound on credits.
	MaxInHand int
	// SettleTimeout bounds each settlement and each lock renewal.
	SettleTimeout time.Duration
	// Volume bounds how many distinct users are called in a time. ReadRelease reads an operator's release of it, the zero Release when there is
	// none; nil when nobody can release but by a restart.
	Volume      guard.VolumeConfig
	ReadRelease func() (guard.Release, error)
	// DrainTimeout is how long the messages in hand may take to be finished after the Consumer was told to stop.
	DrainTimeout time.Duration
	// Dedupe bounds the ledger; its MaxWaiting is set to half of MaxInHand.
	Dedupe dedupe.Config
	// HashUsers replaces users in the log by a short hash, and leaves out texts from outside that may name them.
	HashUsers bool
}

// Parts are what the Consumer works with. All are required.
type Parts struct {
	// Sources are received from at once; the calls for an earlier one's messages go before those for a later one's.
	Sources   []Source
	Decoder   *event.Decoder
	Protected *guard.Protected
	Revoker   Revoker
	Retrier   *retry.Retrier
	Log       *zap.Logger
	Metrics   *telemetry.Metrics
	Health    *telemetry.Health
	// Trail is told every decision, before its message is settled; nil when nobody keeps it.
	Trail func(trail.Decision)
	// Names knows whose a user principal name is; nil when users may not be read: then a name and an id are two users.
	Names *revoker.Names
	// Replicas is what workers for the same tenant share; nil when this one is for itself. Pace is the pace that they share; nil for one of
	// its own.
	Replicas *replicas.Store
	Pace     *replicas.Pace
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
	parts := []string{PartGraph, PartGuard}
	for _, e := range entities {
		parts = append(parts, healthPart(e, len(entities)))
	}
	return parts
}

func healthPart(entity string, sources int) string {
	if sources == 1 {
		return PartServiceBus
	}
	return PartServiceBus + " " + entity
}

// source is a Source in use; one that has sessions is as many of these as it holds at once.
type source struct {
	Source
	loop    string        // of Health's heartbeats
	rank    int           // 0 is the most urgent
	part    string        // of Health
	places  chan struct{} // one token per message in hand or asked for
	changed chan struct{} // is signalled when another number of messages may be received
	alone   time.Time     // until when messages are received one by one; the receive loop's own
	last    atomic.Int64  // highest sequence number received
	end     int64         // highest one that was seen in the queue; the forecast's own
}

// Consumer receives from its sources. One goroutine receives from each; each message in hand has a goroutine of its own, which owns
// everything about that message; each user that is called for has one that owns the calls. They meet in the ledger, which
// decides which message stands for which user, and in the line, where calls begin. Both are owned by one lock each.
type Consumer struct {
	Config
	Parts

	ledger *dedupe.Ledger
	line   *line
	hands  *hands // the messages' and the users' goroutines

	sources  []*source
	sessions sync.WaitGroup // that are being closed
	inHand   atomic.Int64   // messages held locked
	held     held
	decided  atomic.Int64 // users, so far
	forecast atomic.Pointer[forecast]
	entering atomic.Int64 // of them, those whose users are not in the ledger yet
}

// Why work in hand ends before it is done.
var (
	errLockLost       = errors.New("the message's lock was lost; Service Bus delivers it again")
	errDeliveredAgain = errors.New("the message's lock was lost: Service Bus has delivered it again, and the new delivery takes its place")
	errDrained        = errors.New("the drain timeout has passed")
)

// New returns a Consumer.
func New(cfg Config, parts Parts) *Consumer {
	cfg.Dedupe.MaxWaiting = max(1, cfg.MaxInHand/2)
	c := &Consumer{
		Config: cfg,
		Parts:  parts,
		ledger: dedupe.New(cfg.Dedupe),
		line:   newLine(cfg.Concurrency, cfg.MaxInHand, cfg.Volume, parts.Pace),
		hands:  newHands(),
	}
	for i, s := range parts.Sources {
		for n := range max(1, s.Sessions) {
			one := &source{
				Source: s, loop: fmt.Sprintf("%s %d", s.Entity, n), rank: i, part: healthPart(s.Entity, len(parts.Sources)),
				places: make(chan struct{}, max(1, cfg.MaxInHand/max(1, s.Sessions))), changed: make(chan struct{}, 1),
			}
			c.sources = append(c.sources, one)
			c.line.changed = append(c.line.changed, one.changed)
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
	}
	for _, a := range []action{complete, deadLetter, abandon} {
		c.Metrics.Settlements.WithLabelValues(string(a), "ok")
	}
}

// state is what the metrics show of the work in hand.
func (c *Consumer) state() telemetry.State {
	ledger := c.ledger.State()
	waiting, pace, open := c.line.state()
	volume := c.line.volumeState()
	expected := forecast{users: ledger.Promises}
	if f := c.forecast.Load(); f != nil {
		expected = *f
	}
	return telemetry.State{
		Waiting:      expected.users,
		UntilLast:    expected.seconds(),
		Promises:     ledger.Promises,
		Parked:       ledger.Parked,
		Remembered:   ledger.Remembered,
		InLine:       waiting,
		Calls:        pace.UnderWay,
		PerSecond:    pace.PerSecond,
		HeldFor:      max(0, time.Until(pace.HeldUntil)),
		Throttled:    pace.Pauses,
		Oldest:       c.held.oldest(),
		BreakerOpen:  open,
		GuardUsers:   volume.Users,
		GuardLimit:   volume.Limit,
		GuardTripped: volume.Tripped,
	}
}

// Run receives and works until ctx ends; then it stops receiving, finishes the messages in hand within DrainTimeout, and
// returns how many messages it received and could not finish. When hard ends, work in hand is abandoned at once. Run
// needs at most DrainTimeout plus SettleTimeout to return, and leaves no goroutine behind. The receiver must stay open
// until then. Run may be called once.
func (c *Consumer) Run(ctx, hard context.Context) (unfinished int) {
	work, stopWork := context.WithCancelCause(hard)
	defer stopWork(nil)
	defer c.line.stop()
	var left atomic.Int32

	var watch sync.WaitGroup
	watching, stopWatching := context.WithCancel(work)
	watch.Go(func() { c.watchVolume(watching) })
	watch.Go(func() { c.watchBacklog(watching) })
	if c.Pace != nil {
		watch.Go(func() { c.Pace.Run(watching, c.line.tick) })
	}
	defer watch.Wait()
	defer stopWatching()

	c.awaitPermission(ctx)
	var loops sync.WaitGroup
	for _, s := range c.sources {
		take := func(from Receiver, m *azservicebus.ReceivedMessage, done func()) {
			c.inHand.Add(1)
			c.held.add(m)
			c.entering.Add(1)
			c.Metrics.InHand.Inc()
			c.hands.do(func() {
				defer func() {
					c.inHand.Add(-1)
					c.held.remove(m)
					c.Metrics.InHand.Dec()
					s.release(1)
					done()
				}()
				if !c.handle(work, newMessage(s, from, m)) {
					left.Add(1)
				}
			})
		}
		loops.Go(func() {
			if s.Accept != nil {
				c.receiveSessions(ctx, s, take)
			} else {
				c.receive(ctx, s, take)
			}
		})
	}
	loops.Wait()

	// What is parked is called now: being done is better than handing back.
	c.ledger.Hurry()
	c.Log.Info("stopped receiving; finishing what is in hand", zap.Int64("inHand", c.inHand.Load()), zap.Duration("timeout", c.DrainTimeout))
	hurry := time.AfterFunc(c.DrainTimeout, func() { stopWork(errDrained) })
	defer hurry.Stop()
	finished := make(chan struct{})
	go func() {
		c.hands.stop()
		c.sessions.Wait()
		close(finished)
	}()
	beat := time.NewTicker(beatEvery)
	defer beat.Stop()
	for {
		select {
		case <-finished:
			return int(left.Load())
		case <-beat.C:
			c.beat()
		}
	}
}

// beat is the heartbeat of all loops, while none of them runs.
func (c *Consumer) beat() {
	for _, s := range c.sources {
		c.Health.Beat(s.loop)
	}
}

// entered says that a message's users are in the ledger: what may be received can be told again.
func (c *Consumer) entered() {
	if c.entering.Add(-1) == 0 {
		c.line.signal()
	}
}
