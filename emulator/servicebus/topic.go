package servicebus

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// TopicConfig declares a topic with its subscriptions. Zero values mean the defaults of Service Bus; LockDuration,
// MaxDeliveryCount and DeadLetterOnExpiration are the subscriptions'.
type TopicConfig struct {
	QueueConfig
	Subscriptions []SubscriptionConfig
}

// SubscriptionConfig declares a subscription; Name is its own, without the topic's. DuplicateWindow is the topic's.
type SubscriptionConfig struct {
	QueueConfig
	// Rules decide which messages it takes: those that match any. None means one that takes all, named $Default.
	Rules []rule.Rule
}

// Limits of topics.
const (
	maxSubscriptions = 2000 // of one topic
	maxRules         = 1000 // of one subscription
	// maxHops is how often a message is forwarded, as in Service Bus.
	maxHops = 4
)

// kind is what a queue serves as.
type kind uint8

const (
	plainQueue kind = iota
	topicQueue      // what comes in leaves at once for the subscriptions
	subscriptionQueue
	deadQueue // dead letters, and what could not be forwarded
)

func (k kind) String() string { return [...]string{"Queue", "Topic", "Subscription", "Queue"}[k] }

// rules are a subscription's; an empty list takes nothing. It is safe for concurrent use.
type rules struct {
	mu   sync.Mutex
	list []rule.Rule
}

func newRules(list []rule.Rule) *rules {
	if list == nil {
		list = []rule.Rule{{Name: "$Default", Filter: rule.True{}}}
	}
	return &rules{list: slices.Clone(list)}
}

var (
	errRuleExists = errors.New("a rule of this name exists")
	errNoRule     = errors.New("there is no rule of this name")
	errManyRules  = fmt.Errorf("more than %d rules", maxRules)
)

func (r *rules) add(one rule.Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.find(one.Name) >= 0:
		return errRuleExists
	case len(r.list) >= maxRules:
		return errManyRules
	}
	r.list = append(r.list, one)
	return nil
}

func (r *rules) replace(one rule.Rule) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.find(one.Name)
	if i < 0 {
		return errNoRule
	}
	r.list[i] = one
	return nil
}

func (r *rules) remove(name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := r.find(name)
	if i < 0 {
		return errNoRule
	}
	r.list = slices.Delete(r.list, i, i+1)
	return nil
}

func (r *rules) find(name string) int {
	return slices.IndexFunc(r.list, func(one rule.Rule) bool { return strings.EqualFold(one.Name, name) })
}

func (r *rules) all() []rule.Rule {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

func (r *rules) match(m rule.Message) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.list, func(one rule.Rule) bool { return one.Filter.Match(m) })
}

// copied is a message of its own with the same content; the content's bytes are never changed in place.
func (m *message) copied() *message {
	c := *m
	return &c
}

// forRules is what filters see.
func (m *message) forRules() (rule.Message, error) {
	seen := rule.Message{System: map[string]any{}, User: map[string]any{}}
	p, err := amqp.ReadProperties(m.properties)
	if err != nil {
		return seen, err
	}
	text := func(name string, value any) {
		if value != nil {
			seen.System[name] = fmt.Sprint(value)
		}
	}
	named := func(name, value string) {
		if value != "" {
			seen.System[name] = value
		}
	}
	text("messageid", p.MessageID)
	text("correlationid", p.CorrelationID)
	named("to", p.To)
	named("replyto", p.ReplyTo)
	named("subject", p.Subject)
	named("label", p.Subject)
	named("contenttype", string(p.ContentType))
	if p.GroupID != nil {
		seen.System["sessionid"] = *p.GroupID
	}
	if p.ReplyToGroupID != nil {
		seen.System["replytosessionid"] = *p.ReplyToGroupID
	}
	properties, err := amqp.ReadMapSection(m.appProperties)
	for _, pair := range properties {
		seen.User[fmt.Sprint(pair.Key)] = pair.Value
	}
	return seen, err
}

// release unlocks the queue, and then hands on what it and its dead-letter queue forward. That is done without a lock:
// forwarding may go in circles.
func (q *queue) release() {
	leaving, forward := q.leaving, q.forward
	q.leaving = nil
	q.mu.Unlock()
	for _, m := range leaving {
		q.handOn(m, forward)
	}
	if q.dead != nil {
		q.dead.mu.Lock()
		q.dead.release()
	}
}

// handOn forwards one message. What cannot be forwarded stays beside the queue, in its transfer dead-letter queue.
func (q *queue) handOn(m *message, forward func(*message) error) {
	if q.kind != topicQueue {
		m.origin = m.seq
		m.hops++
	}
	m.failures, m.wasDeferred = 0, false
	seq := m.seq
	reason, problem := "MaxTransferHopCountExceeded", fmt.Errorf("the message was forwarded more than %d times", maxHops)
	if m.hops <= maxHops {
		reason, problem = "ForwardingFailed", forward(m)
	}
	if problem == nil {
		return
	}
	m.seq, m.expires, m.deadSource = seq, 0, q.name
	m.modify(amqp.Map{{Key: propertyReason, Value: reason}, {Key: propertyDescription, Value: problem.Error()}})
	q.transfer.receiveDead(m)
}
