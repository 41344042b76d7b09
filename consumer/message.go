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
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// message is one received message; its goroutine owns it.
type message struct {
	*azservicebus.ReceivedMessage
	delivery
	from     *source
	received time.Time
	// known is what the ledger knows of the message, and its lock.
	known *dedupe.Message
	span  trace.Span // nil when tracing is off
}

// newMessage makes a message of a delivery. Until when it is ours is reckoned by our own clock: the broker's may differ by
// more than a lock lasts.
func newMessage(from *source, d delivery, lock time.Duration) *message {
	m := &message{ReceivedMessage: d.message, delivery: d, from: from, received: time.Now(), known: dedupe.NewMessage(from.rank)}
	m.known.Fixed = d.session != nil
	m.known.Eager = d.deferred || len(d.message.Body) > smallBody
	m.known.Lock.Renewed(m.received.Add(firstLock(d.message, m.received, lock)))
	return m
}

// handle is the way of one message: decode, guard, let the ledger decide who is called for, hold the lock while each user's
// end is awaited, settle. It says whether the message was finished; hard ends it early.
func (c *Consumer) handle(hard context.Context, m *message) (finished bool) {
	c.beginSpan(m)
	results, todo := c.work(hard, m)
	c.settling.Add(1)
	defer c.settling.Add(-1)
	finished = c.settle(m, results, todo)
	m.endSpan(results)
	return finished
}

// work finds out what becomes of the message, and holds its lock meanwhile.
func (c *Consumer) work(hard context.Context, m *message) (results []result, todo action) {
	locked, release := hard, func() {}
	defer func() { release() }()
	large := len(m.Body) > smallBody
	if large || c.Resolver != nil { // it may take long until its users are in the ledger
		locked, release = c.lockMessage(hard, m)
	}
	if large {
		c.added() // whoever waits here may wait for long
		leave, err := m.from.large.enter(locked, m.ReceivedMessage)
		c.adding.Add(1)
		if err != nil {
			c.added()
			results = []result{{outcome: unfinished, err: err}}
			return results, actionFor(results, m, errors.Is(err, errLockLost), false)
		}
		defer leave()
	}
	results = c.add(locked, m)
	c.dispatch.AllAdded(m.known)
	c.added()
	if !large && c.Resolver == nil && !allDecided(results) {
		locked, release = c.lockMessage(hard, m)
	}
	lost, aside := c.await(locked, m, results)
	return results, actionFor(results, m, lost, aside)
}

// allDecided says that the end of each event is known.
func allDecided(results []result) bool {
	for _, r := range results {
		if r.event == nil {
			continue
		}
		select {
		case <-r.event.Done():
		default:
			return false
		}
	}
	return true
}

// add finds out what becomes of each event of the message, or whom it waits for. Only a user that passes every check
// enters the ledger, once per message.
func (c *Consumer) add(locked context.Context, m *message) []result {
	if r, unreadable := m.unreadable(); unreadable {
		return []result{r}
	}
	items, err := c.Decoder.Decode(deadletter.Content(m.ReceivedMessage))
	if err != nil {
		return []result{rejected(event.Item{Err: err})}
	}
	items = m.only(items)
	accounts := c.accounts(locked, m, items)
	results := make([]result, len(items))
	entered := make(map[string]*dedupe.Event, len(items))
	var decided map[int]*dedupe.Event
	if m.SequenceNumber != nil && len(items) > 1 {
		decided = m.from.decided.of(*m.SequenceNumber)
	}
	for i, item := range items {
		if e := decided[item.Index]; e != nil {
			results[i] = result{item: item, event: e, again: true}
			continue
		}
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
			waits = m.eventAt(item.Event.Urgency, item.Event.Type)
			entered[key] = waits
			c.dispatch.Add(key, user, waits)
		}
		results[i] = result{item: item, key: key, event: waits}
	}
	return results
}

// unreadable is the end of a message in whose place a stand-in came, since the client library cannot read it.
func (m *message) unreadable() (r result, yes bool) {
	why, yes := sanitizer.Unreadable(m.ReceivedMessage)
	if !yes {
		return result{}, false
	}
	err := errors.New(why)
	return result{item: event.Item{Err: err}, outcome: deadLettered, reason: deadletter.UnreadableMessage, err: err}, true
}

// check says whether the event may be acted on; if not, what becomes of it.
func (c *Consumer) check(item event.Item) (r result, passes bool) {
	if item.Err != nil {
		return rejected(item), false
	}
	if err := dispatch.Refuse(c.Protected, item.Event.User); err != nil {
		return result{item: item, outcome: deadLettered, reason: dispatch.ReasonOf(err), err: err}, false
	}
	return result{item: item}, true
}

// only leaves out the events that succeeded before, when the message is a replay for those that failed. A list that fits no
// event is nobody's: then all are acted on.
func (m *message) only(items []event.Item) []event.Item {
	indexes := deadletter.Only(m.ReceivedMessage)
	if len(indexes) == 0 {
		return items
	}
	kept := slices.DeleteFunc(slices.Clone(items), func(item event.Item) bool { return !slices.Contains(indexes, item.Index) })
	if len(kept) == 0 {
		return items
	}
	return kept
}

// partial says that the message is a replay for some of its events.
func (m *message) partial() bool {
	return len(deadletter.Only(m.ReceivedMessage)) > 0
}

// await returns when the end of each event is known, or when the message cannot be held any longer; then the events that are
// still undecided leave the ledger. It says whether that is because the lock is lost, or because the message is to be set
// aside.
func (c *Consumer) await(locked context.Context, m *message, results []result) (lost, aside bool) {
	var flush, over <-chan struct{}
	if m.session != nil {
		flush, over = m.session.flush, m.session.over
	}
	// Those that have come back are few at a time. While retries are rare, one with many users would keep the others out for long.
	var back <-chan time.Time
	if m.deferred {
		leave := time.NewTicker(backFor)
		defer leave.Stop()
		back = leave.C
	}
	cause := error(nil)
	for i := range results {
		r := &results[i]
		if r.event == nil {
			continue
		}
		for decided := false; !decided && cause == nil; {
			select {
			case <-r.event.Done():
				decided = !c.addResolved(m, r, results)
			case <-m.known.Ended():
				// The end of one further behind, too: whoever turns out to be an account must not wait for those before.
				c.addAllResolved(m, results[i:], results)
			case <-locked.Done():
				cause = context.Cause(locked)
			case <-m.known.Deferred():
				cause = errDeferred
			case <-back:
				c.dispatch.Defer(m.known)
			case <-flush:
				flush = nil
				c.dispatch.FlushMessage(m.known)
			case <-over:
				cause = errSessionOver
			}
		}
		if cause != nil {
			c.dispatch.Remove(r.key, r.event)
		}
		lost = r.decide(cause) || lost
	}
	return lost || errors.Is(cause, errLockLost), errors.Is(cause, errDeferred)
}

// perSource sets the urgencies of two sources apart: the source comes first, the event's type second.
const perSource = 1 << 16

// eventAt is how the ledger knows an event of the message.
func (m *message) eventAt(urgency int, kind string) *dedupe.Event {
	e := &dedupe.Event{
		Position:  dedupe.Position{Enqueued: m.received, Entity: m.from.Entity},
		MessageID: m.MessageID,
		Message:   m.known,
		Urgency:   m.from.rank*perSource + urgency,
		Kind:      kind,
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
	// Without a time to live the SDK sets ExpiresAt to the enqueued time.
	if m.ExpiresAt != nil && m.TimeToLive != nil && *m.TimeToLive > 0 {
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
	// unfinished: the lock was lost, the worker had to stop, or the message is set aside; it comes again.
	unfinished outcome = "unfinished"
)

// result is what became of one event, and why.
type result struct {
	item    event.Item
	key     string        // by which the ledger knows the user
	event   *dedupe.Event // nil when the event did not enter the ledger
	again   bool          // it was decided before, when the message was in flight last
	outcome outcome
	reason  deadletter.Reason // set when dead-lettered
	err     error             // why it is dead-lettered or unfinished
	calls   int
	attempt revoker.Attempt // the last call
}

// decide takes over the event's end from the ledger, and says whether that means that the message's lock is lost. cause is
// why the waiting ended early.
func (r *result) decide(cause error) (lost bool) {
	end := r.event.Result()
	if d, ok := end.Detail.(*dispatch.Decision); ok {
		r.calls, r.attempt, r.err = d.Attempts, d.Attempt, d.Err
	}
	switch end.Disposition {
	case dedupe.Revoked:
		r.outcome = revoked
	case dedupe.Covered:
		r.outcome = covered
	case dedupe.Superseded:
		r.outcome = superseded
	case dedupe.Failed:
		if _, named := dispatch.AccountOf(r.err); named { // and was not entered again: nothing is decided
			r.outcome, r.err = unfinished, cause
			return false
		}
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
	r.outcome, r.reason = deadLettered, dispatch.ReasonOf(r.err)
}

func (r result) String() string {
	return fmt.Sprintf("%s: %v", r.reason, r.err)
}
