package consumer

import (
	"context"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/servicebus"
)

const (
	// lookForForgotten is the time between two searches for deferred messages that nobody
	// remembers. lookAgain is the time until the first search, and until the next one if Service
	// Bus does not answer.
	lookForForgotten = 5 * time.Minute
	lookAgain        = 10 * time.Second
	// lookOn is the break after each lookAtOnce messages that a search peeks at. Each of them costs as
	// much as one that is received, and the Standard tier grants all clients of a namespace 1,000 such
	// operations per second (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-throttling):
	// a search must not use up what receiving needs.
	lookOn = time.Second
	// forgottenAfter is the time after which a message that is due, and that another replica has
	// deferred, counts as forgotten. If it is not, no harm is done: only one of the two replicas
	// can receive it.
	forgottenAfter = 30 * time.Second
	// backFor is how long a message that has come back waits for its users' attempts before it must
	// make room for others that are due.
	backFor = 10 * time.Second
	// fetchAtOnce is how many deferred messages are received at once.
	fetchAtOnce = 16
)

// receiveDeferred receives deferred messages of a source when they are due, until ctx ends. It also
// looks for deferred messages that no replica remembers.
func (c *Consumer) receiveDeferred(ctx context.Context, s *source, accept acceptFunc) {
	room := s.room
	released, keys := c.dispatch.Released(), c.keysChanged()
	look := time.Now().Add(lookAgain) // for forgotten messages
	for ctx.Err() == nil {
		if !time.Now().Before(look) {
			look = time.Now().Add(c.findDeferred(ctx, s))
		}
		select {
		case <-released:
			released = c.dispatch.Released()
			room.released()
			room.next, room.all, look = 0, true, time.Now()
		case <-keys:
			keys = c.keysChanged()
			room.keysCame()
		default:
		}
		wait := time.Until(look)
		most := fetchAtOnce
		if c.dispatch.Open() { // a probe may be for a user whose message comes back
			most = min(1, c.limit())
			wait = min(wait, time.Second)
		}
		if free := room.slots.acquire(most); free > 0 {
			numbers, next := room.due(free)
			room.slots.free(free - len(numbers))
			if len(numbers) > 0 {
				c.fetch(ctx, s, numbers, accept)
				continue
			}
			wait = min(wait, next)
		} // otherwise room.changed is signaled when a slot becomes free
		timer := time.NewTimer(max(wait, time.Millisecond))
		select {
		case <-timer.C:
		case <-room.changed:
		case <-released:
		case <-keys:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// fetch receives deferred messages. Each message that comes uses a slot of the waiting room until
// it is settled.
func (c *Consumer) fetch(ctx context.Context, s *source, numbers []int64, accept acceptFunc) {
	missing := map[int64]bool{}
	for _, n := range numbers {
		missing[n] = true
	}
	receive := func(numbers []int64) error {
		// The end of ctx must not end this call, because messages that Service Bus has locked by
		// then would stay locked for a whole lock duration.
		fetching, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.cfg.SettleTimeout)
		defer cancel()
		messages, err := deferredFrom(fetching, s.Receiver, numbers)
		for _, m := range messages {
			if m.SequenceNumber == nil || !missing[*m.SequenceNumber] {
				continue
			}
			delete(missing, *m.SequenceNumber)
			accept(s, delivery{message: m, receiver: s.Receiver, deferred: true, done: func() {
				s.room.slots.free(1)
				s.room.signal()
			}})
		}
		return err
	}
	err := receive(numbers)
	switch {
	case !isNotFound(err):
	case len(numbers) == 1:
		s.room.miss(numbers[0], c.cfg.Lock)
		err = nil
	default:
		// If one message is gone, or another replica has it locked, none of them comes. So each one
		// is requested alone.
		for _, n := range numbers {
			if !missing[n] {
				continue
			}
			if err = receive([]int64{n}); isNotFound(err) {
				s.room.miss(n, c.cfg.Lock)
				err = nil
			}
			if err != nil {
				break // the others would end in the same way
			}
		}
	}
	if err != nil && ctx.Err() == nil {
		c.deps.Log.Warn("cannot receive deferred messages; trying again until it works",
			zap.String("source", s.Entity), zap.String("error", c.text(err)))
		_ = retry.Sleep(ctx, time.Second)
	}
	for n := range missing {
		s.room.didNotCome(n)
	}
	s.room.slots.free(len(missing))
	c.deps.Metrics.Deferred.WithLabelValues(s.Entity).Set(float64(s.room.len()))
}

// deferredFrom receives deferred messages, and returns servicebus.ErrUnreadable if the SDK panics.
func deferredFrom(ctx context.Context, from Receiver, numbers []int64) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, receiveWait)
	defer cancel()
	return servicebus.Guard(func() ([]*azservicebus.ReceivedMessage, error) {
		return from.ReceiveDeferredMessages(ctx, numbers, nil)
	})
}

// findDeferred looks for deferred messages that no replica remembers, such as after a crash. It
// returns the time until the next search. This is short while another replica has deferred
// messages, because that one may crash.
func (c *Consumer) findDeferred(ctx context.Context, s *source) (again time.Duration) {
	found := 0
	if s.room.next == 0 {
		s.room.others = false
	}
	messages, err := peekFrom(ctx, s.Receiver, s.room.next, lookAtOnce)
	if err != nil {
		return lookAgain
	}
	if len(messages) == 0 {
		s.room.next, s.room.all = 0, false
	}
	for _, m := range messages {
		if m.SequenceNumber == nil {
			continue
		}
		s.room.next = *m.SequenceNumber + 1
		switch {
		case m.State != azservicebus.MessageStateDeferred:
		case s.room.adopt(*m.SequenceNumber, m):
			found++
		case !s.room.remembers(*m.SequenceNumber):
			s.room.others = true
		}
	}
	if found > 0 {
		c.deps.Log.Info("found deferred messages that no replica looks after; receiving them",
			zap.String("source", s.Entity), zap.Int("messages", found))
		c.deps.Metrics.Deferred.WithLabelValues(s.Entity).Set(float64(s.room.len()))
	}
	switch {
	case s.room.next != 0:
		return lookOn
	case s.room.others:
		return forgottenAfter
	}
	return lookForForgotten
}
