package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/revoker"
)

// action is what is done with a message.
type action string

const (
	complete   action = "complete"
	deadLetter action = "dead_letter"
	abandon    action = "abandon"
	// deferral: the message is deferred, and comes back by itself.
	deferral action = "defer"
	// leave: the lock is lost, the message is no longer ours to settle.
	leave action = "leave"
)

// actionFor decides by the events' results. One unfinished event keeps the whole message alive: revoking the others
// again is harmless, losing one is not. A lost lock is final, whatever was reached: Service Bus delivers the message again.
func actionFor(results []result, m *message, lockLost, aside bool) action {
	if lockLost {
		return leave
	}
	todo := complete
	for _, r := range results {
		switch {
		case r.outcome == unfinished && aside:
			return deferral
		case r.outcome == unfinished && errors.Is(r.err, errSessionOver):
			return leave // closing the session frees it, and counts no delivery as failed
		case r.outcome == unfinished && m.deferred:
			return deferral // it stays where it was; abandoned, it would count as a delivery that has failed
		case r.outcome == unfinished:
			todo = abandon
		case r.outcome == deadLettered && todo == complete:
			todo = deadLetter
		}
	}
	return todo
}

// settle ends the message's way and logs what became of each event. It reports whether the message was finished.
func (c *Consumer) settle(m *message, results []result, todo action) (finished bool) {
	c.audit(m, results, todo)
	span := c.settleSpan(m, todo)
	err := c.do(todo, m, results)
	endSpan(span, err)
	if todo != leave {
		c.Metrics.Settlements.WithLabelValues(string(todo), settlementResult(err)).Inc()
	}
	if err != nil {
		c.Log.Warn("not settled; Service Bus delivers the message again, and a repeated call is harmless",
			append(c.aboutMessage(nil, m), zap.String("action", string(todo)), zap.Error(err))...)
	}
	switch {
	case m.SequenceNumber == nil || len(results) == 1:
	case err == nil && (todo == complete || todo == deadLetter):
		m.from.decided.forget(*m.SequenceNumber)
	default:
		m.from.decided.keep(*m.SequenceNumber, results)
	}
	if m.from.room != nil && (m.deferred || todo == deferral) {
		c.remember(m, results, todo, err)
	}
	for _, r := range results {
		if !r.recorded(todo) {
			c.record(m, r, todo, err == nil)
		}
	}
	if todo == deferral {
		// One line, and no dead letter is counted: a message of many users may be set aside again and again before it is decided.
		c.Log.Info("message set aside; it comes back by itself", append(c.aboutMessage(nil, m), zap.Int("events", len(results)), zap.Bool("settled", err == nil))...)
	}
	return todo == complete || todo == deadLetter || todo == deferral
}

func (c *Consumer) do(todo action, m *message, results []result) error {
	switch todo {
	case complete:
		return c.settleOver(m, func(ctx context.Context, one *azservicebus.ReceivedMessage) error {
			return m.receiver.CompleteMessage(ctx, one, nil)
		})
	case deadLetter:
		options := deadLetterOptions(m, results)
		return c.settleOver(m, func(ctx context.Context, one *azservicebus.ReceivedMessage) error {
			return m.receiver.DeadLetterMessage(ctx, one, options)
		})
	case abandon:
		return c.settleOver(m, func(ctx context.Context, one *azservicebus.ReceivedMessage) error {
			return m.receiver.AbandonMessage(ctx, one, nil)
		})
	case deferral:
		options := &azservicebus.DeferMessageOptions{PropertiesToModify: dueProperty(c.comesBack(m, results).due)}
		return c.settleOver(m, func(ctx context.Context, one *azservicebus.ReceivedMessage) error {
			return m.receiver.DeferMessage(ctx, one, options)
		})
	}
	return nil
}

func settlementResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case isLockLost(err), errors.Is(err, errLockLost):
		return "lock_lost"
	}
	return "error"
}

// deadLetterOptions describes the failed events: the first one gives the reason, all stand in the description, and their
// indexes in one property where only some failed, or where only some of the message's were acted on (partial). Whatever else
// stands in the message under our names is overwritten.
func deadLetterOptions(m *message, results []result) *azservicebus.DeadLetterOptions {
	partial := m.partial()
	var failed []result
	var indexes, texts, superseded []string
	supersededCount := 0
	for _, r := range results {
		if r.outcome != deadLettered {
			continue
		}
		failed = append(failed, r)
		indexes = append(indexes, strconv.Itoa(r.item.Index))
		texts = append(texts, fmt.Sprintf("[%d] %s", r.item.Index, r))
		if r.event != nil {
			others := r.event.Superseded()
			superseded = append(superseded, others.MessageIDs...)
			supersededCount += others.Count
		}
	}
	first := failed[0]
	reason := string(first.reason)
	description := first.err.Error()
	if len(results) > 1 || partial {
		description = fmt.Sprintf("%d of %d events failed: %s", len(failed), len(results), strings.Join(texts, "; "))
	}
	description = deadletter.Cut(description, deadletter.MaxDescription)

	properties := map[string]any{deadletter.PropertyAttempts: strconv.Itoa(first.calls)}
	if list := strings.Join(indexes, ","); (partial || len(failed) < len(results)) && len(list) <= deadletter.MaxProperty {
		properties[deadletter.PropertyFailed] = list
	}
	if supersededCount > 0 {
		properties[deadletter.PropertySuperseded] = deadletter.Cut(strings.Join(superseded, ","), deadletter.MaxProperty)
		properties[deadletter.PropertySupersededCount] = strconv.Itoa(supersededCount)
	}
	if failure, ok := errors.AsType[*revoker.Error](first.err); ok {
		setIfAny(properties, deadletter.PropertyCode, failure.Code)
		if failure.Status != 0 {
			properties[deadletter.PropertyStatus] = strconv.Itoa(failure.Status)
		}
		setIfAny(properties, deadletter.PropertyRequestID, deadletter.Cut(failure.RequestID, 128))
		setIfAny(properties, deadletter.PropertyClientRequestID, failure.ClientRequestID)
	}
	return &azservicebus.DeadLetterOptions{Reason: &reason, ErrorDescription: &description, PropertiesToModify: deadletter.Overwrite(m.ReceivedMessage, properties)}
}

func setIfAny(properties map[string]any, key, value string) {
	if value != "" {
		properties[key] = value
	}
}
