package consumer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// message is one received message; its goroutine owns it.
type message struct {
	*azservicebus.ReceivedMessage
	// lockedUntil is a copy: the SDK writes the original, unsynchronised, when the lock is renewed.
	lockedUntil time.Time
}

func newMessage(m *azservicebus.ReceivedMessage) *message {
	msg := &message{ReceivedMessage: m}
	if m.LockedUntil != nil {
		msg.lockedUntil = *m.LockedUntil
	}
	return msg
}

// handle is the way of one message: hold its lock, decode, guard, revoke (with retries), settle. It says whether the
// message was finished; work ends it early.
func (c *Consumer) handle(work context.Context, m *message) (finished bool) {
	held, letGo := c.hold(work, m)
	results := c.decide(held, work, m)
	lost := errors.Is(context.Cause(held), errLockLost)
	letGo()
	return c.settle(m, results, lost)
}

// decide finds out what becomes of each event in the message.
func (c *Consumer) decide(held, work context.Context, m *message) []result {
	items, err := c.Decoder.Decode(m.content())
	if err != nil {
		return []result{rejected(event.Item{Err: err})}
	}
	results := make([]result, len(items))
	if len(items) == 1 {
		results[0] = c.decideEvent(held, work, m, items[0])
		return results
	}
	var events sync.WaitGroup
	for i, item := range items {
		events.Go(func() { results[i] = c.decideEvent(held, work, m, item) })
	}
	events.Wait()
	return results
}

// decideEvent finds out what becomes of one event's user. Only a user that passes every check reaches Graph.
func (c *Consumer) decideEvent(held, work context.Context, m *message, item event.Item) result {
	switch user := item.Event.User; {
	case item.Err != nil:
		return rejected(item)
	case c.Protected.Has(user):
		return refused(item, deadletter.ProtectedUser, "the user is on the list of protected users")
	case user.External():
		return refused(item, deadletter.ExternalUser, "a guest's sessions belong to another tenant: Graph would answer with success and revoke nothing")
	}
	return c.revoke(held, work, m, item)
}

// revoke calls Graph until the user's sessions are revoked or the failure is final. held ends the waiting; a call under
// way ends only with work, since its success may still spare the next one.
func (c *Consumer) revoke(held, work context.Context, m *message, item event.Item) result {
	r := result{item: item}
	var told string
	err := c.Retrier.Do(held, func() error {
		select {
		case c.calls <- struct{}{}:
			defer func() { <-c.calls }()
		case <-held.Done():
			return context.Cause(held)
		}
		var err error
		r.calls++
		r.attempt, err = c.Revoker.Revoke(work, item.Event.User)
		if err == nil || work.Err() == nil { // a call that we cut off ourselves tells nothing about Graph
			c.observe(err)
		}
		return err
	}, func(f retry.Failure) {
		// Once per distinct failure: a long outage must not flood the log.
		if text := c.text(f.Err); text != told {
			told = text
			c.Log.Warn("attempt failed; trying again", append(c.about(m, item),
				zap.String("error", text), zap.Int("attempt", f.Attempt), zap.Duration("wait", f.Wait))...)
		}
	})
	if err != nil {
		r.fail(err)
		return r
	}
	r.outcome = revoked
	if m.EnqueuedTime != nil {
		c.Metrics.Latency.Observe(max(0, time.Since(*m.EnqueuedTime).Seconds()))
	}
	return r
}

// observe tells metrics and health of one attempt's end.
func (c *Consumer) observe(err error) {
	var failure *revoker.Error
	if !errors.As(err, &failure) {
		c.Metrics.GraphCalls.WithLabelValues("revoked").Inc()
		c.failures.Store(0)
		c.reportGraph(nil)
		return
	}
	c.Metrics.GraphCalls.WithLabelValues(string(failure.Kind)).Inc()
	switch {
	case failure.Kind == revoker.Throttled:
	case failure.Systemic():
		c.reportGraph(err)
	case failure.Shared():
		if c.failures.Add(1) >= 3 {
			c.reportGraph(err)
		}
	default: // an answer about one user is an answer
		c.failures.Store(0)
	}
}

// reportGraph sets Graph's health and logs when it changes.
func (c *Consumer) reportGraph(err error) {
	if err == nil {
		if c.Health.Report(PartGraph, "") {
			c.Log.Info("Graph is usable")
		}
		return
	}
	var failure *revoker.Error
	problem := err.Error()
	if errors.As(err, &failure) {
		problem = failure.Brief()
	}
	if c.Health.Report(PartGraph, problem) {
		c.Log.Error("Graph is not usable; messages wait, none is dead-lettered for it", zap.String("error", c.text(err)))
	}
}

// content is what the decoder needs of the message.
func (m *message) content() event.Message {
	content := event.Message{Properties: m.ApplicationProperties, Body: m.Body}
	if m.ContentType != nil {
		content.ContentType = *m.ContentType
	}
	if raw := m.RawAMQPMessage; raw != nil {
		switch {
		case raw.Body.Value != nil:
			content.BodyKind = "value"
		case len(raw.Body.Sequence) > 0:
			content.BodyKind = "sequence"
		case len(raw.Body.Data) > 1:
			// The SDK shows a body only when it stands in one data section; AMQP allows several, to be joined.
			content.Body = bytes.Join(raw.Body.Data, nil)
		}
	}
	return content
}

// outcome is what became of an event.
type outcome string

const (
	revoked      outcome = "revoked"
	deadLettered outcome = "dead_lettered"
	// unfinished: the lock was lost or the worker had to stop; the message comes again.
	unfinished outcome = "unfinished"
)

// result is what became of one event, and why.
type result struct {
	item    event.Item
	outcome outcome
	reason  deadletter.Reason // set when dead-lettered
	err     error             // nil when revoked
	calls   int
	attempt revoker.Attempt // the last call
}

func refused(item event.Item, reason deadletter.Reason, why string) result {
	return result{item: item, outcome: deadLettered, reason: reason, err: errors.New(why)}
}

func rejected(item event.Item) result {
	r := result{item: item, outcome: deadLettered, reason: deadletter.InvalidEvent, err: item.Err}
	var invalid *event.Error
	if errors.As(item.Err, &invalid) && invalid.Kind == event.UnknownType {
		r.reason = deadletter.UnknownEvent
	}
	return r
}

// fail sets the outcome that a final failure leads to.
func (r *result) fail(err error) {
	r.err = err
	var failure *revoker.Error
	if !errors.As(err, &failure) {
		r.outcome = unfinished
		return
	}
	r.outcome = deadLettered
	switch failure.Kind {
	case revoker.NotFound:
		r.reason = deadletter.UserNotFound
	case revoker.NotRevoked:
		r.reason = deadletter.NotRevoked
	case revoker.Forbidden:
		r.reason = deadletter.Forbidden
	case revoker.Rejected:
		r.reason = deadletter.RequestRejected
	default:
		r.reason = deadletter.RetriesExhausted
	}
}

func (r result) String() string {
	return fmt.Sprintf("%s: %v", r.reason, r.err)
}
