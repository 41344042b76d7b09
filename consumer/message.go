package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.opentelemetry.io/otel/trace"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/dispatch"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// delivery is a message as it was received.
type delivery struct {
	message  *azservicebus.ReceivedMessage
	receiver Receiver // received the message, and settles it
	link     *link    // the link that the message came over; nil for one that was deferred
	// session has the signals of the session that the message belongs to; nil for a message without
	// one.
	session *sessionSignals
	// deferred reports whether the message was deferred, and has come back.
	deferred bool
	done     func() // is called once the message is settled
}

// message is one received message. Its goroutine owns it.
type message struct {
	*azservicebus.ReceivedMessage
	delivery
	from     *source
	received time.Time
	// entry is the message in the ledger, with its lock.
	entry *dedupe.Message
	span  trace.Span // nil when tracing is off
	// keys is closed when keys have come since the message was decoded.
	keys <-chan struct{}
	// locked ends when the work ends; once the lock is kept, also when it is lost. stop is nil until
	// then. See keepLock.
	locked context.Context
	stop   func()
}

// newMessage returns the message of a delivery. The end of its lock is a time of our own clock,
// since the broker's clock may differ from ours by more than a lock lasts.
func newMessage(from *source, d delivery, lock time.Duration) *message {
	m := &message{ReceivedMessage: d.message, delivery: d, from: from, received: time.Now(), entry: dedupe.NewMessage(from.rank)}
	m.entry.Fixed = d.session != nil
	m.entry.Eager = d.deferred || m.isLarge()
	m.entry.Lock.Renewed(m.received.Add(firstLock(d.message, m.received, lock)))
	return m
}

// isLarge reports whether the message may have so many events that it must wait to be decoded.
func (m *message) isLarge() bool { return len(m.Body) > smallBody }

// handle handles one message from its receipt to its settlement. It reports whether the message was
// finished. When hard ends, it stops waiting, and returns an unfinished message to Service Bus.
func (c *Consumer) handle(hard context.Context, m *message) (finished bool) {
	c.beginSpan(m)
	results, todo := c.results(hard, m)
	c.flight.move(m.message, settling)
	finished = c.settle(m, results, todo)
	m.endSpan(results)
	return finished
}

// results returns the result of each event of the message, and what to do with the message. It
// keeps the message's lock meanwhile. Its steps are:
//
//  1. Decode the body into events.
//  2. Guard: reject the events that must not be acted on.
//  3. Dedupe: add the others to the ledger, one per user.
//  4. Dispatch: wait until each user is decided, by an attempt or by another message.
func (c *Consumer) results(hard context.Context, m *message) (results []result, todo action) {
	m.locked = hard
	defer m.stopKeeping()
	// The lock is kept from the start if it may take long until all users are in the ledger, or if less
	// is left of it than rounds allow for. See await for the others.
	if m.isLarge() || c.deps.Resolver != nil || time.Until(m.entry.Lock.Until()) < c.cfg.Lock*3/roundsPerLock {
		c.keepLock(m)
	}
	free := func() {}
	if m.isLarge() {
		release, err := c.awaitDecoding(m)
		if err != nil {
			results = []result{{outcome: unfinished, err: err}}
			return results, actionFor(results, m, errors.Is(err, errLockLost), false)
		}
		free = sync.OnceFunc(release)
		defer free()
	}
	items, undecodable := c.decode(m)
	if undecodable != nil && undecodable.isNotYet() && m.session != nil {
		free() // no large message waits for this one
		c.keepLock(m)
		items, undecodable = c.decodeLater(m)
	}
	gone := undecodable != nil && errors.Is(undecodable.err, errLockLost)
	if undecodable != nil {
		results = []result{*undecodable}
	} else {
		if slices.ContainsFunc(items, isAnnouncement) {
			c.keepLock(m)
		}
		accounts := c.accounts(m.locked, m, items)
		results = c.add(m.locked, m, items, accounts) // guards, schedules, and adds to the ledger
	}
	c.dispatch.AllAdded(m.entry)
	c.setWaiting(m)
	lockLost, deferred := c.await(m, results)
	gone = gone || errors.Is(context.Cause(m.locked), errLockLost)
	return results, actionFor(results, m, lockLost || gone, deferred)
}

// awaitDecoding waits until a large message may be decoded. free must be called when all its events
// have results.
func (c *Consumer) awaitDecoding(m *message) (free func(), err error) {
	c.setWaiting(m) // others can be received, since this may take long
	free, err = m.from.large.acquire(m.locked, m.ReceivedMessage)
	if err == nil {
		c.flight.move(m.message, adding)
	}
	return free, err
}

// setWaiting notes that the message waits from now on. If no other message is being added,
// Consumer.limit may have changed.
func (c *Consumer) setWaiting(m *message) {
	if c.flight.move(m.message, waiting) {
		c.dispatch.Signal()
	}
}

// decode returns the events of the message. If the message cannot be decoded, it returns its only
// result instead.
func (c *Consumer) decode(m *message) ([]event.Item, *result) {
	if why, yes := sanitizer.Unreadable(m.ReceivedMessage); yes {
		// The client library cannot read the message. The sanitizer has put this one in its place.
		err := errors.New(why)
		return nil, &result{item: event.Item{Err: err}, outcome: deadLettered, reason: deadletter.UnreadableMessage, err: err}
	}
	m.keys = c.keysChanged() // before the message is decoded, so that no keys are missed
	items, err := c.deps.Decoder.Decode(deadletter.Content(m.ReceivedMessage))
	if err != nil {
		r := rejected(event.Item{Err: err})
		return nil, &r
	}
	items = m.only(items)
	for i := range items {
		c.checkAge(m, &items[i])
	}
	return items, nil
}

// keysChanged returns a channel that is closed when messages that cannot be judged may be decoded
// again, or nil.
func (c *Consumer) keysChanged() <-chan struct{} {
	if c.deps.KeysChanged == nil {
		return nil
	}
	return c.deps.KeysChanged()
}

// decodeEvery is how often a message of a session is decoded that cannot be judged yet.
const decodeEvery = time.Second

// decodeLater is decode for a message of a session that cannot be judged yet. It waits until that is
// over, or until the message cannot wait any longer. Other messages wait in the waiting room instead,
// where those of sessions cannot, since their order matters.
func (c *Consumer) decodeLater(m *message) ([]event.Item, *result) {
	c.setWaiting(m)
	tick := time.NewTicker(decodeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if items, r := c.decode(m); r == nil || !r.isNotYet() {
				c.flight.move(m.message, adding)
				return items, r
			}
		case <-m.session.over:
			return nil, &result{outcome: unfinished, err: errSessionOver}
		case <-m.locked.Done():
			return nil, &result{outcome: unfinished, err: context.Cause(m.locked)}
		}
	}
}

// add checks each event of the message with guard, schedules those whose date has not come, and adds
// the events that are to be acted on now to the ledger, each user once. accounts are the known
// accounts of users who are given by name, by the users' keys. It returns the results so far. A result
// that the ledger decides has an event.
func (c *Consumer) add(ctx context.Context, m *message, items []event.Item, accounts map[string]event.User) []result {
	results := make([]result, len(items))
	var added map[string]*dedupe.Event // nil is like an empty one
	var decided map[int]*dedupe.Event
	if m.SequenceNumber != nil && len(items) > 1 {
		decided = m.from.decidedEvents.of(*m.SequenceNumber)
	}
	var urgent map[string]event.Event
	if len(items) > 1 { // nearly every message has one event: it needs no maps
		urgent = mostUrgent(items, accounts)
		added = make(map[string]*dedupe.Event, len(items))
	}
	announced := c.announceAll(ctx, m, items, accounts)
	for i, item := range items {
		if e := decided[item.Index]; e != nil {
			results[i] = result{item: item, event: e, decidedBefore: true}
			continue
		}
		if r, ok := announced.results[i]; ok {
			results[i] = r
			continue
		}
		var passes bool
		if results[i], passes = c.guard(item); !passes {
			continue
		}
		user := accountOf(item, accounts)
		key := user.Key()
		e := added[key]
		if e == nil {
			most := item.Event
			if more, ok := urgent[key]; ok {
				most = more
			}
			e = m.eventAt(most.Urgency, most.Type)
			e.Stands = announced.stands(key)
			c.dispatch.Add(key, user, e)
			if added != nil {
				added[key] = e
			}
		}
		results[i] = result{item: item, key: key, event: e, standing: announced.standing[key], canceled: announced.canceled[i]}
		if user != item.Event.User {
			results[i].account = user
		}
	}
	return results
}

// accountOf returns the user of an event: the account if it is known, and otherwise the name.
func accountOf(item event.Item, accounts map[string]event.User) event.User {
	if account, ok := accounts[item.Event.User.Key()]; ok {
		return account
	}
	return item.Event.User
}

// mostUrgent returns the most urgent event of each user, by the user's key. A message may have
// several events about one user, but the ledger gets each user once.
func mostUrgent(items []event.Item, accounts map[string]event.User) map[string]event.Event {
	urgent := make(map[string]event.Event, len(items))
	for _, item := range items {
		if item.Err != nil {
			continue
		}
		key := accountOf(item, accounts).Key()
		if before, ok := urgent[key]; !ok || item.Event.Urgency < before.Urgency {
			urgent[key] = item.Event
		}
	}
	return urgent
}

// guard reports whether the event may be acted on. If not, it returns the event's result.
func (c *Consumer) guard(item event.Item) (r result, passes bool) {
	if item.Err != nil {
		return rejected(item), false
	}
	if err := dispatch.Refuse(c.deps.Protected, item.Event.User); err != nil {
		return result{item: item, outcome: deadLettered, reason: dispatch.ReasonOf(err), err: err}, false
	}
	return result{item: item}, true
}

// only returns the events to act on. If the message is a replay, these are the events that failed
// before. A list of indexes that fits no event is not believed; then it returns all events.
func (m *message) only(items []event.Item) []event.Item {
	indexes := deadletter.Only(m.ReceivedMessage)
	if len(indexes) == 0 {
		return items
	}
	chosen := slices.DeleteFunc(slices.Clone(items), func(item event.Item) bool { return !slices.Contains(indexes, item.Index) })
	if len(chosen) == 0 {
		return items
	}
	return chosen
}

// partial reports whether the message is a replay for some of its events.
func (m *message) partial() bool {
	return len(deadletter.Only(m.ReceivedMessage)) > 0
}

// perSource is the distance between the urgencies of two sources: the source decides first, and
// then the event's type.
const perSource = 1 << 16

// eventAt returns an event of the message for the ledger.
func (m *message) eventAt(urgency int, kind string) *dedupe.Event {
	e := &dedupe.Event{
		Position:  dedupe.Position{Enqueued: m.received, Entity: m.from.Entity},
		MessageID: m.MessageID,
		Message:   m.entry,
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

// await returns when all events of the message are decided, or when the message cannot wait any
// longer. Then it removes the undecided events from the ledger. lockLost reports whether the
// message cannot wait because its lock is lost, and deferred whether it must be deferred.
func (c *Consumer) await(m *message, results []result) (lockLost, deferred bool) {
	w := waiter{c: c, m: m, results: results}
	if m.stop == nil {
		w.keepLock = c.rounds.begin()
	}
	if m.session != nil {
		w.flush, w.over = m.session.flush, m.session.over
	}
	if m.deferred {
		// Few deferred messages are in flight at a time. While attempts are rare, one with many users
		// would delay the others for long.
		tick := time.NewTicker(backFor)
		defer tick.Stop()
		w.deferAgain = tick.C
	}
	var cause error
	for i := range results {
		r := &results[i]
		if r.event == nil {
			continue
		}
		if cause == nil {
			cause = w.await(i)
		}
		if cause != nil {
			c.dispatch.Remove(r.key, r.event)
		}
		lockLost = r.fromLedger(cause) || lockLost
	}
	return lockLost || errors.Is(cause, errLockLost), errors.Is(cause, errDeferred)
}

// waiter waits for the events of one message.
type waiter struct {
	c       *Consumer
	m       *message
	results []result

	// A nil channel never signals.
	keepLock   <-chan struct{}  // closed when the message's lock must be kept from now on
	flush      <-chan struct{}  // closed when the message's parked users must be called for
	over       <-chan struct{}  // closed when the message's session is over
	deferAgain <-chan time.Time // signals when a message that has come back must make room for others
}

// await returns nil when the event of a result is decided. If the message cannot wait any longer,
// it returns the reason.
func (w *waiter) await(i int) (cause error) {
	r := &w.results[i]
	for {
		switch {
		case r.event.Ended():
			if w.c.addResolved(w.m, r, w.results) {
				continue
			}
			return nil
		case w.m.entry.MustDefer():
			return errDeferred
		}
		select {
		case <-w.m.entry.Changed():
			// A later event of the message may be decided. If the account of its user's name was
			// found, the event must be added again now, and not after the events before it.
			w.c.addAllResolved(w.m, w.results[i:], w.results)
		case <-w.m.locked.Done():
			return context.Cause(w.m.locked)
		case <-w.keepLock:
			w.keepLock = nil
			w.c.keepLock(w.m)
		case <-w.deferAgain:
			if w.m.from.room.wanted() {
				w.c.dispatch.Defer(w.m.entry)
			}
		case <-w.flush:
			w.flush = nil
			w.c.dispatch.FlushMessage(w.m.entry)
		case <-w.over:
			return errSessionOver
		}
	}
}
