package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/revoker"
)

// action is what to do with a message when each of its events has a result.
type action string

const (
	complete   action = "complete"
	deadLetter action = "dead_letter"
	abandon    action = "abandon"
	// deferral: the message is deferred, and comes back by itself.
	deferral action = "defer"
	// leave: the message is not settled, because its lock is lost or its session is given up.
	leave action = "leave"
)

// actionFor returns what to do with a message that has these results. One unfinished event keeps
// the whole message in Service Bus, because it is harmless to revoke the others again, but not to
// lose an event. If the lock is lost, the message cannot be settled, whatever the results are, and
// Service Bus delivers it again.
func actionFor(results []result, m *message, lockLost, deferred bool) action {
	if lockLost {
		return leave
	}
	todo := complete
	for i := range results {
		r := &results[i]
		switch {
		case r.outcome == unfinished && (deferred || errors.Is(r.err, errNotScheduled)):
			return deferral
		case r.outcome == unfinished && errors.Is(r.err, errSessionOver), r.isNotYet() && m.session != nil:
			return leave // closing the session returns the message, and counts no failed delivery
		case r.isNotYet():
			return deferral // the others can be received meanwhile
		case r.outcome == unfinished && m.deferred:
			return deferral // it stays deferred; abandoning it would count a failed delivery
		case r.outcome == unfinished:
			todo = abandon
		case r.outcome == deadLettered && todo == complete:
			todo = deadLetter
		}
	}
	return todo
}

// settle settles the message. It also records, logs and counts the result of each event. It reports
// whether the message was finished.
func (c *Consumer) settle(m *message, results []result, todo action) (finished bool) {
	c.audit(m, results, todo)
	var back comeback
	if m.deferred || todo == deferral {
		back = c.comesBack(m, results)
	}
	span := c.settleSpan(m, todo)
	err := c.perform(todo, m, results, back)
	endSpan(span, err)
	if todo != leave {
		c.deps.Metrics.Settlements.WithLabelValues(string(todo), settlementResult(err)).Inc()
	}
	if err != nil {
		c.deps.Log.Warn("message not settled; Service Bus delivers it again, and a repeated attempt is harmless",
			append(c.aboutMessage(nil, m), zap.String("action", string(todo)), zap.Error(err))...)
	}
	switch {
	case m.SequenceNumber == nil || len(results) == 1:
	case err == nil && (todo == complete || todo == deadLetter):
		m.from.decidedEvents.forget(*m.SequenceNumber)
	default:
		m.from.decidedEvents.keep(*m.SequenceNumber, results)
	}
	if m.deferred || todo == deferral {
		c.remember(m, results, todo, back, err)
	}
	for i := range results {
		r := &results[i]
		if r.event != nil && !r.decidedBefore && (r.outcome == deadLettered || r.outcome == revoked && r.calls > 1) {
			c.decided(r.key)
		}
		if r.recordedNow(todo) {
			c.record(m, r, todo, err == nil)
		}
	}
	if todo == deferral {
		// One line must do, and no dead letter is counted: a message with many users may be
		// deferred again and again before all of them are decided.
		fields := append(c.aboutMessage(nil, m), zap.Int("events", len(results)), zap.Bool("settled", err == nil))
		if i := slices.IndexFunc(results, func(r result) bool { return r.isNotYet() }); i >= 0 {
			fields = append(fields, zap.String("error", c.text(results[i].err)))
		}
		c.deps.Log.Info("message deferred; it comes back by itself", fields...)
	}
	return todo == complete || todo == deadLetter || todo == deferral
}

// perform carries out the action. back is when the message comes back if it is deferred.
func (c *Consumer) perform(todo action, m *message, results []result, back comeback) error {
	switch todo {
	case complete:
		return c.settleOver(m, func(ctx context.Context, settled *azservicebus.ReceivedMessage) error {
			return m.receiver.CompleteMessage(ctx, settled, nil)
		})
	case deadLetter:
		options := deadLetterOptions(m, results)
		return c.settleOver(m, func(ctx context.Context, settled *azservicebus.ReceivedMessage) error {
			return m.receiver.DeadLetterMessage(ctx, settled, options)
		})
	case abandon:
		return c.settleOver(m, func(ctx context.Context, settled *azservicebus.ReceivedMessage) error {
			return m.receiver.AbandonMessage(ctx, settled, nil)
		})
	case deferral:
		options := &azservicebus.DeferMessageOptions{PropertiesToModify: dueProperty(back)}
		return c.settleOver(m, func(ctx context.Context, settled *azservicebus.ReceivedMessage) error {
			return m.receiver.DeferMessage(ctx, settled, options)
		})
	}
	return nil
}

// settlementResult returns the metrics' label for a settlement that ended with err.
func settlementResult(err error) string {
	switch {
	case err == nil:
		return "ok"
	case isLockLost(err), errors.Is(err, errLockLost):
		return "lock_lost"
	}
	return "error"
}

// deadLetterOptions describes the failed events. The reason is that of the first one, and the
// description lists all. A property has their indexes if only some events failed, or if the message
// is a replay for some of its events. Properties with the worker's own names that the message had
// before are overwritten.
func deadLetterOptions(m *message, results []result) *azservicebus.DeadLetterOptions {
	partial := m.partial()
	var failed []*result
	var indexes, texts, superseded []string
	supersededCount := 0
	for i := range results {
		r := &results[i]
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
	return &azservicebus.DeadLetterOptions{
		Reason: &reason, ErrorDescription: &description, PropertiesToModify: deadletter.Overwrite(m.ReceivedMessage, properties),
	}
}

func setIfAny(properties map[string]any, key, value string) {
	if value != "" {
		properties[key] = value
	}
}
