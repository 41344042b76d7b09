package servicebus

import (
	"errors"
	"fmt"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// How an entity forwards its messages, and a topic copies them to its subscriptions.

// maxHops is how often a message is forwarded, as in Service Bus.
const maxHops = 4

// setForwarding sets where the messages go. Nil keeps them here. Messages that are here already
// leave at once.
func (q *queue) setForwarding(to func(*message) error) {
	q.mu.Lock()
	defer q.unlockAndForward()
	q.forwarding.to = to
	q.dispatch()
}

// dispatchForward removes the available messages. unlockAndForward forwards them.
func (q *queue) dispatchForward() {
	for m := q.messages.nextAvailable(); m != nil; m = q.messages.nextAvailable() {
		q.setState(m, gone)
		q.report(m, Forwarded, "")
		q.forwarding.leaving = append(q.forwarding.leaving, m)
	}
}

// forward delivers one message to its target. If that fails, the message goes to the transfer
// dead-letter queue.
func (q *queue) forward(m *message, to func(*message) error) {
	if q.kind != topicQueue {
		m.origin = m.seq
		m.hops++
	}
	m.failures, m.deferrals, m.wasDeferred = 0, 0, false
	seq := m.seq
	reason, problem := "MaxTransferHopCountExceeded", fmt.Errorf("the message was forwarded more than %d times", maxHops)
	if m.hops <= maxHops {
		reason, problem = "ForwardingFailed", to(m)
	}
	if problem == nil {
		return
	}
	m.seq, m.expires, m.deadSource = seq, 0, q.name
	m.modify(amqp.Map{{Key: propertyReason, Value: reason}, {Key: propertyDescription, Value: problem.Error()}})
	q.transfer.addDeadLetter(m)
}

// copyToSubscriptions gives each of the topic's subscriptions the copies of the message that its
// rules select.
func (q *queue) copyToSubscriptions(m *message) error {
	original := &ruleView{of: m}
	var problems []error
	for _, s := range q.currentSubscriptions() {
		if err := s.enqueueSelected(original); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	return errors.Join(problems...)
}

// enqueueSelected adds the copies that the subscription's rules select. A message for which a rule
// fails becomes a dead letter, unless the subscription is set to ignore such failures.
func (q *queue) enqueueSelected(original *ruleView) error {
	cfg := q.config()
	copies, err := q.rules.copies(original, cfg.IgnoreRuleFailures, cfg.MaxBytes)
	if err != nil {
		if failed, ok := errors.AsType[*ruleFailure](err); ok {
			return q.enqueueDead(original.of.copied(), failed.reason, failed.Error())
		}
		return err
	}
	if len(copies) > 0 {
		_, err = q.enqueue(copies)
	}
	return err
}
