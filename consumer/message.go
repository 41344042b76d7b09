package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/trace"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/revoker"
)

// message is one received message; its goroutine owns it.
type message struct {
	*azservicebus.ReceivedMessage
	from     *source
	receiver Receiver // that it came from, and is settled with
	received time.Time
	// lock is until when the message is ours; the renewals move it, and the ledger asks it. It is a copy: the SDK writes the
	// original, unsynchronised, when the lock is renewed.
	lock dedupe.Lock
	span trace.Span // nil when tracing is off
}

func newMessage(from *source, receiver Receiver, m *azservicebus.ReceivedMessage) *message {
	msg := &message{ReceivedMessage: m, from: from, receiver: receiver, received: time.Now()}
	if m.LockedUntil != nil {
		msg.lock.Renewed(*m.LockedUntil)
	}
	return msg
}

// handle is the way of one message: decode, guard, let the ledger decide who is called for, hold the lock while each user's
// end is awaited, settle. It says whether the message was finished; hard ends it early.
func (c *Consumer) handle(hard context.Context, m *message) (finished bool) {
	c.beginSpan(m)
	results := c.enter(hard, m)
	c.entered()
	lost := c.await(hard, m, results)
	finished = c.settle(m, results, lost)
	m.endSpan(results)
	return finished
}

// enter finds out what becomes of each event of the message, or whom it waits for. Only a user that passes every check
// enters the ledger, once per message.
func (c *Consumer) enter(hard context.Context, m *message) []result {
	items, err := c.Decoder.Decode(deadletter.Content(m.ReceivedMessage))
	if err != nil {
		return []result{rejected(event.Item{Err: err})}
	}
	items = m.only(items)
	accounts := c.accounts(hard, m, items)
	results := make([]result, len(items))
	entered := make(map[string]*dedupe.Event, len(items))
	for i, item := range items {
		var passes bool
		if results[i], passes = c.check(item); !passes {
			continue
		}
		user := item.Event.User
		if account, ok := accounts[user.Key()]; ok {
			user = account
		}
		key := user.Key()
		waits := entered[key]
		if waits == nil {
			waits = m.eventAt(item.Event.Urgency)
			entered[key] = waits
			c.enterLedger(hard, key, user, waits)
		}
		results[i] = result{item: item, key: key, waits: waits}
	}
	return results
}

// check says whether the event may be acted on; if not, what becomes of it.
func (c *Consumer) check(item event.Item) (r result, passes bool) {
	if item.Err != nil {
		return rejected(item), false
	}
	if reason, err := refuse(c.Protected, item.Event.User); err != nil {
		return result{item: item, outcome: deadLettered, reason: reason, err: err}, false
	}
	return result{item: item}, true
}

// refuse says why the user is never called; the error is nil if he may be.
func refuse(protected *guard.Protected, user event.User) (deadletter.Reason, error) {
	switch {
	case protected.Has(user):
		return deadletter.ProtectedUser, errors.New("the user is on the list of protected users")
	case user.External():
		return deadletter.ExternalUser, errors.New("a guest's sessions belong to another tenant: Graph would answer with success and revoke nothing")
	}
	return "", nil
}

// only leaves out the events that succeeded before, when the message is a replay for those that failed. A list that fits no
// event is nobody's: then all are acted on.
func (m *message) only(items []event.Item) []event.Item {
	if !m.partial() {
		return items
	}
	list, _ := m.ApplicationProperties[deadletter.PropertyOnly].(string)
	indexes := deadletter.Indexes(list)
	kept := slices.DeleteFunc(slices.Clone(items), func(item event.Item) bool { return !slices.Contains(indexes, item.Index) })
	if len(kept) == 0 {
		return items
	}
	return kept
}

// partial says that the message is a replay for some of its events.
func (m *message) partial() bool {
	_, ok := m.ApplicationProperties[deadletter.PropertyOnly].(string)
	return ok
}

// enterLedger enters the event, and makes sure that the user is worked on.
func (c *Consumer) enterLedger(hard context.Context, key string, user event.User, e *dedupe.Event) {
	work, isNew := c.ledger.Enter(key, e)
	switch {
	case isNew:
		c.hands.do(func() { c.runWork(hard, work, user) })
	case work != nil:
		c.line.raise(key, e.Urgency)
	}
}

// await returns when the end of each event is known, or when hard ends or the message's lock is lost; then the events that
// are still undecided leave the ledger. It says whether the lock is lost.
func (c *Consumer) await(hard context.Context, m *message, results []result) (lost bool) {
	held := hard
	if slices.ContainsFunc(results, result.undecided) {
		var letGo func()
		held, letGo = c.hold(hard, m)
		defer letGo()
	}
	for i := range results {
		r := &results[i]
		if r.waits == nil {
			continue
		}
		select {
		case <-r.waits.Done():
		case <-held.Done():
			c.ledger.Leave(r.key, r.waits)
		}
		lost = r.decide(context.Cause(held)) || lost
	}
	return lost || errors.Is(context.Cause(held), errLockLost)
}

// perSource sets the urgencies of two sources apart: the source comes first, the event's type second.
const perSource = 1 << 16

// eventAt is how the ledger knows an event of the message.
func (m *message) eventAt(urgency int) *dedupe.Event {
	e := &dedupe.Event{
		Position:  dedupe.Position{Enqueued: m.received, Entity: m.from.Entity},
		MessageID: m.MessageID,
		Source:    m.from.rank,
		Urgency:   m.from.rank*perSource + urgency,
		Lock:      &m.lock,
	}
	if m.span != nil {
		e.Tag = m.spanContext()
	}
	if m.EnqueuedTime != nil {
		e.Enqueued = *m.EnqueuedTime
	}
	if m.SequenceNumber != nil {
		e.Sequence = *m.SequenceNumber
	}
	if m.ExpiresAt != nil {
		e.ExpiresAt = *m.ExpiresAt
	}
	return e
}

// outcome is what became of an event.
type outcome string

const (
	revoked outcome = "revoked"
	// covered: a call that started after the event was enqueued has revoked its user.
	covered outcome = "covered"
	// superseded: a newer message of the same user, which is in hand, stands for both.
	superseded   outcome = "superseded"
	deadLettered outcome = "dead_lettered"
	// unfinished: the lock was lost or the worker had to stop; the message comes again.
	unfinished outcome = "unfinished"
)

// result is what became of one event, and why.
type result struct {
	item    event.Item
	key     string        // by which the ledger knows the user
	waits   *dedupe.Event // nil when the event did not enter the ledger
	outcome outcome
	reason  deadletter.Reason // set when dead-lettered
	err     error             // why it is dead-lettered or unfinished
	calls   int
	attempt revoker.Attempt // the last call
}

// undecided says that the event's end is not known yet.
func (r result) undecided() bool {
	if r.waits == nil {
		return false
	}
	select {
	case <-r.waits.Done():
		return false
	default:
		return true
	}
}

// decide takes over the event's end from the ledger, and says whether that means that the message's lock is lost. cause is
// why the waiting ended early.
func (r *result) decide(cause error) (lost bool) {
	end := r.waits.End()
	if d, ok := end.Detail.(*decision); ok {
		r.calls, r.attempt, r.err = d.calls, d.attempt, d.err
	}
	switch end.Fate {
	case dedupe.Revoked:
		r.outcome = revoked
	case dedupe.Covered:
		r.outcome = covered
	case dedupe.Superseded:
		r.outcome = superseded
	case dedupe.Failed:
		r.fail()
	case dedupe.Replaced:
		r.outcome, r.err = unfinished, errDeliveredAgain
		return true
	case dedupe.Undecided:
		r.outcome, r.err = unfinished, cause
	}
	return false
}

func rejected(item event.Item) result {
	r := result{item: item, outcome: deadLettered, reason: deadletter.InvalidEvent, err: item.Err}
	var invalid *event.Error
	if errors.As(item.Err, &invalid) && invalid.Kind == event.UnknownType {
		r.reason = deadletter.UnknownEvent
	}
	return r
}

// fail names the reason of a final failure.
func (r *result) fail() {
	r.outcome, r.reason = deadLettered, reasonOf(r.err)
}

// reasonOf names a final failure.
func reasonOf(err error) deadletter.Reason {
	var failure *revoker.Error
	if errors.As(err, &failure) {
		switch failure.Kind {
		case revoker.NotFound:
			return deadletter.UserNotFound
		case revoker.NotRevoked:
			return deadletter.NotRevoked
		case revoker.External:
			return deadletter.ExternalUser
		case revoker.Protected:
			return deadletter.ProtectedUser
		case revoker.Forbidden:
			return deadletter.Forbidden
		case revoker.Rejected:
			return deadletter.RequestRejected
		}
	}
	return deadletter.RetriesExhausted
}

func (r result) String() string {
	return fmt.Sprintf("%s: %v", r.reason, r.err)
}
