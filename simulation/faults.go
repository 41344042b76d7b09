package simulation

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/retry"
)

// faults are the current faults between one place in the fleet and Service Bus, whichever process
// has the place.
type faults struct {
	lostSettle, noRenewal, late atomic.Bool
	count                       atomic.Int64
}

// tampered is a Receiver with the broker's clock and a place's faults.
type tampered struct {
	consumer.Receiver
	ahead  time.Duration
	faults *faults
	note   func(*azservicebus.ReceivedMessage) // gets each message that is received
}

// tamperedSession is a session with a place's faults.
type tamperedSession struct {
	consumer.Receiver
	session consumer.Session
}

// SessionID returns the session's id.
func (s *tamperedSession) SessionID() string { return s.session.SessionID() }

// Close closes the session.
func (s *tamperedSession) Close(ctx context.Context) error { return s.session.Close(ctx) }

// lateBy is more than half of the shortest lock.
const lateBy = 20 * time.Second

// ReceiveMessages shifts the broker's times, and returns late during that fault.
func (t *tampered) ReceiveMessages(
	ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := t.Receiver.ReceiveMessages(ctx, n, o)
	if t.faults.late.Load() && len(messages) > 0 {
		_ = retry.Sleep(ctx, lateBy)
	}
	t.shift(messages)
	return messages, err
}

// ReceiveDeferredMessages shifts the broker's times.
func (t *tampered) ReceiveDeferredMessages(
	ctx context.Context, numbers []int64, o *azservicebus.ReceiveDeferredMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := t.Receiver.ReceiveDeferredMessages(ctx, numbers, o)
	t.shift(messages)
	return messages, err
}

// shift makes the broker's clock differ from the worker's.
func (t *tampered) shift(messages []*azservicebus.ReceivedMessage) {
	for _, m := range messages {
		t.note(m)
		if m.EnqueuedTime != nil {
			enqueued := m.EnqueuedTime.Add(t.ahead)
			m.EnqueuedTime = &enqueued
		}
	}
}

var errLost = errors.New("simulated: the answer was lost")

// settle loses settlements during that fault: every second one before it is done, the others after.
func (t *tampered) settle(do func() error) error {
	if !t.faults.lostSettle.Load() {
		return do()
	}
	if t.faults.count.Add(1)%2 == 0 {
		return errLost
	}
	if err := do(); err != nil {
		return err
	}
	return errLost
}

// CompleteMessage loses settlements.
func (t *tampered) CompleteMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.CompleteMessageOptions) error {
	return t.settle(func() error { return t.Receiver.CompleteMessage(ctx, m, o) })
}

// DeferMessage loses settlements.
func (t *tampered) DeferMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.DeferMessageOptions) error {
	return t.settle(func() error { return t.Receiver.DeferMessage(ctx, m, o) })
}

// DeadLetterMessage loses settlements.
func (t *tampered) DeadLetterMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.DeadLetterOptions) error {
	return t.settle(func() error { return t.Receiver.DeadLetterMessage(ctx, m, o) })
}

// RenewMessageLock fails while renewals fail.
func (t *tampered) RenewMessageLock(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.RenewMessageLockOptions) error {
	if t.faults.noRenewal.Load() {
		return errLost
	}
	return t.Receiver.RenewMessageLock(ctx, m, o)
}

// cut breaks the connections of all processes to Service Bus, and cutRedis those to Redis.
func (w *world) cut()      { w.everyone(func(p *worker) { p.bus.cut(false) }) }
func (w *world) cutRedis() { w.everyone(func(p *worker) { p.shared.cut(false) }) }

func (w *world) everyone(do func(*worker)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.fleet {
		if p != nil {
			do(p)
		}
	}
}

// chance is the random source for a fault, the same each time.
func (s Scenario) chance(f Fault) *rand.Rand { return rand.New(rand.NewPCG(s.Seed, uint64(f.At))) }

// unknownFails is the fault for users whom Graph does not know while canaries fail.
func (s Scenario) unknownFails(f Fault) graph.Fault {
	fails := pick(s.chance(f), graph.Fault{Status: 503}, graph.Fault{Status: 403}, graph.Fault{Status: 429, RetryAfter: "2"},
		graph.Fault{Drop: true}, graph.Fault{Delay: time.Hour})
	fails.Unknown = true
	return fails
}

// begin starts a fault. end, if not nil, ends it.
func (w *world) begin(f Fault) (end func()) {
	everybody := func(fault graph.Fault) func() {
		if f.Person >= 0 {
			fault.User = w.People[f.Person].ID
		}
		return w.graph.Inject(fault)
	}
	switch f.Kind {
	case Cut:
		w.cut()
	case BrokerAway:
		w.away.Store(true)
		w.cut()
		return func() { w.away.Store(false) }
	case Detach:
		w.must(w.broker.DetachLinks(queue))
	case LocksExpire:
		w.must(w.broker.ExpireLocks(queue))
	case Late:
		w.places[f.Worker].late.Store(true)
		return func() { w.places[f.Worker].late.Store(false) }
	case Crash:
		w.replace(f.Worker, (*worker).kill)
	case Term:
		w.replace(f.Worker, func(p *worker) {
			p.soft()
			asked := time.Now()
			<-p.ended
			if took := time.Since(asked); took > drainWithin+settleWithin+time.Second {
				w.wrong("a worker needed %s to stop", took)
			}
		})
	case GraphDown:
		return everybody(graph.Fault{Status: 503})
	case GraphHTML:
		return everybody(graph.Fault{Status: 200, ContentType: "text/html", Body: "<html>sign in</html>"})
	case GraphDrops:
		return everybody(graph.Fault{Drop: true})
	case GraphHangs:
		return everybody(graph.Fault{Delay: time.Hour})
	case GraphSlow:
		return everybody(graph.Fault{Delay: 20 * time.Second})
	case Forgets:
		return everybody(graph.Fault{DropAfter: true})
	case HalfAnswer:
		return everybody(graph.Fault{Truncate: true})
	case Endless:
		return everybody(graph.Fault{Endless: true})
	case EmptyAnswer:
		return everybody(graph.Fault{EmptyBody: true})
	case ValueFalse:
		return everybody(graph.Fault{ValueFalse: true})
	case UsersFail:
		var ends []func()
		for _, p := range w.People {
			ends = append(ends, w.graph.Inject(graph.Fault{User: p.ID, Status: 503}),
				w.graph.Inject(graph.Fault{User: p.UserPrincipalName, Status: 503}))
		}
		return func() {
			for _, end := range ends {
				end()
			}
		}
	case WildDate:
		return everybody(graph.Fault{Date: pick(w.chance(f), "Mon, 01 Jan 1601 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "none")})
	case CanaryFails:
		return w.graph.Inject(w.unknownFails(f))
	case NoToken:
		w.graph.RevokeTokens()
		return w.graph.Inject(graph.Fault{Token: true, Status: 503})
	case NoPermission:
		w.graph.SetRoles(clientID, nil)
		w.graph.RevokeTokens()
		return func() {
			w.graph.SetRoles(clientID, roles)
			w.graph.RevokeTokens()
		}
	case TakenBack:
		w.graph.RevokeTokens()
	case Throttles:
		return everybody(graph.Fault{Status: 429, RetryAfter: "3"})
	case RedisAway:
		w.redisAway.Store(true)
		w.cutRedis()
		return func() { w.redisAway.Store(false) }
	case RedisHangs:
		w.redisHangs.Store(true)
		w.cutRedis()
		return func() {
			w.redisHangs.Store(false)
			w.cutRedis()
		}
	case RedisForeign:
		w.must(w.writeForeign(w.chance(f)))
	case LostSettle:
		w.places[f.Worker].lostSettle.Store(true)
		return func() { w.places[f.Worker].lostSettle.Store(false) }
	case NoRenewal:
		w.places[f.Worker].noRenewal.Store(true)
		return func() { w.places[f.Worker].noRenewal.Store(false) }
	}
	return nil
}
