package servicebus

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// Status says what an entity may be used for.
type Status string

// The statuses of Service Bus; "" is Active.
const (
	Active          Status = "Active"
	Disabled        Status = "Disabled"
	SendDisabled    Status = "SendDisabled"
	ReceiveDisabled Status = "ReceiveDisabled"
)

func (s Status) valid() bool {
	return slices.Contains([]Status{"", Active, Disabled, SendDisabled, ReceiveDisabled}, s)
}

// maxEntities bounds the queues, topics and subscriptions together.
const maxEntities = 10_000

// errGone is what a client of a deleted entity is told, and errDisabled one of a disabled entity.
var (
	errGone     = &amqp.Error{Condition: "amqp:not-found", Description: "The messaging entity was deleted."}
	errDisabled = &amqp.Error{Condition: "com.microsoft:entity-disabled", Description: "The messaging entity is currently disabled."}
)

// detachAfter is when the links of an entity that was changed are detached: clients do not expect it before the answer to
// the change.
const detachAfter = 150 * time.Millisecond

// declare makes the entities of a Config, and then ties those together that forward.
func (b *Broker) declare(cfg Config) error {
	b.entities.Lock()
	defer b.entities.Unlock()
	for _, q := range cfg.Queues {
		if _, err := b.add(plainQueue, q, nil); err != nil {
			return err
		}
	}
	for _, t := range cfg.Topics {
		if _, err := b.add(topicQueue, t.QueueConfig, nil); err != nil {
			return err
		}
		for _, s := range t.Subscriptions {
			if strings.Contains(s.Name, "/") {
				return fmt.Errorf("topic %q: %q is not a subscription name", t.Name, s.Name)
			}
			s.Name = t.Name + "/Subscriptions/" + s.Name
			if _, err := b.add(subscriptionQueue, s.QueueConfig, s.Rules); err != nil {
				return err
			}
		}
	}
	for _, q := range b.queues {
		if err := b.tie(q, q.cfg); err != nil {
			return err
		}
	}
	return nil
}

// add makes one entity. The caller holds the lock of the entities.
func (b *Broker) add(k kind, cfg QueueConfig, list []rule.Rule) (*queue, error) {
	name := strings.ToLower(strings.Trim(cfg.Name, "/"))
	switch {
	case name == "" || strings.Contains(name, "$") || len(name) > 400 || strings.HasSuffix(cfg.Name, "/"):
		return nil, fmt.Errorf("%q is not a name for an entity", cfg.Name)
	case b.queues[name] != nil:
		return nil, fmt.Errorf("%q is declared twice", cfg.Name)
	case len(b.queues) >= maxEntities:
		return nil, fmt.Errorf("more than %d entities", maxEntities)
	case cfg.LockDuration < 0 || cfg.MaxDeliveryCount < 0 || cfg.DefaultTTL < 0 || cfg.DuplicateWindow < 0 || cfg.MaxBytes < 0:
		return nil, fmt.Errorf("%q: negative settings", cfg.Name)
	case k == subscriptionQueue && topicOf(name) == "":
		return nil, fmt.Errorf("%q is not TOPIC/Subscriptions/NAME", cfg.Name)
	case k == topicQueue && (cfg.ForwardTo != "" || cfg.ForwardDeadLettersTo != ""):
		return nil, fmt.Errorf("topic %q: only queues and subscriptions forward", cfg.Name)
	case k == topicQueue && cfg.RequiresSession:
		return nil, fmt.Errorf("topic %q: only queues and subscriptions have sessions", cfg.Name)
	case k == subscriptionQueue && cfg.DuplicateWindow > 0:
		return nil, fmt.Errorf("%q: duplicates are detected by the topic", cfg.Name)
	case !cfg.Status.valid():
		return nil, fmt.Errorf("%q: unknown status %q", cfg.Name, cfg.Status)
	}
	cfg.Name = strings.Trim(cfg.Name, "/")
	if k == subscriptionQueue {
		at := len(topicOf(cfg.Name))
		cfg.Name = cfg.Name[:at] + "/Subscriptions/" + cfg.Name[at+len("/subscriptions/"):]
	}
	q := newQueue(cfg, b.observe)
	q.kind = k
	if k == subscriptionQueue {
		q.accessed = q.created // as the service says of new subscriptions, and of no other entity
	}
	switch k {
	case topicQueue:
		q.forward = q.toSubscriptions
	case subscriptionQueue:
		topic := b.queues[topicOf(name)]
		if topic == nil || topic.kind != topicQueue {
			return nil, fmt.Errorf("%q: there is no such topic", cfg.Name)
		}
		q.rules = newRules(list)
		if err := topic.join(q); err != nil {
			return nil, err
		}
	}
	b.queues[name] = q
	return q, nil
}

// topicOf is the topic's part of a subscription's path.
func topicOf(path string) string { return path[:max(lastFold(path, "/subscriptions/"), 0)] }

// lastFold is where part was written last in a path, in whichever case; -1 if it was not. Lower-casing the path first could change its length.
func lastFold(path, part string) int {
	for at := len(path) - len(part); at >= 0; at-- {
		if strings.EqualFold(path[at:at+len(part)], part) {
			return at
		}
	}
	return -1
}

// tie makes an entity forward as the settings say. The caller holds the lock of the entities.
func (b *Broker) tie(q *queue, cfg QueueConfig) error {
	if q.kind == topicQueue {
		return nil
	}
	forward, err := b.forwarder(q, cfg.ForwardTo)
	if err != nil {
		return err
	}
	forwardDead, err := b.forwarder(q, cfg.ForwardDeadLettersTo)
	if err != nil {
		return err
	}
	q.sendOn(forward)
	q.dead.sendOn(forwardDead)
	return nil
}

// forwarder sends on to an entity by its name; "" is nobody.
func (b *Broker) forwarder(from *queue, to string) (func(*message) error, error) {
	if to == "" {
		return nil, nil
	}
	target := b.queues[strings.ToLower(strings.Trim(to, "/"))]
	switch {
	case target == nil || target.kind != plainQueue && target.kind != topicQueue:
		return nil, fmt.Errorf("%q forwards to %q, which is no queue or topic", from.name, to)
	case target == from:
		return nil, fmt.Errorf("%q forwards to itself", from.name)
	}
	return func(m *message) error {
		_, err := target.enqueue([]*message{m})
		return err
	}, nil
}

// entity finds a queue, a topic, a subscription (TOPIC/Subscriptions/NAME), or the dead-letter queues of one, by address: in any
// case and with or without a leading slash.
func (b *Broker) entity(address string) *queue {
	name := strings.ToLower(strings.Trim(address, "/"))
	part := func(q *queue) *queue { return q }
	if parent, ok := strings.CutSuffix(name, "/$transfer/$deadletterqueue"); ok {
		name, part = parent, func(q *queue) *queue { return q.transfer }
	} else if parent, ok := strings.CutSuffix(name, "/$deadletterqueue"); ok {
		name, part = parent, func(q *queue) *queue { return q.dead }
	}
	b.entities.RLock()
	defer b.entities.RUnlock()
	if q := b.queues[name]; q != nil {
		return part(q)
	}
	return nil
}

func (b *Broker) all() []*queue {
	b.entities.RLock()
	defer b.entities.RUnlock()
	return slices.Collect(maps.Values(b.queues))
}

// create adds an entity to a running broker.
func (b *Broker) create(k kind, cfg QueueConfig, list []rule.Rule) (*queue, error) {
	b.entities.Lock()
	defer b.entities.Unlock()
	if b.queues[strings.ToLower(cfg.Name)] != nil {
		return nil, conflict(cfg.Name)
	}
	if k == subscriptionQueue && b.queues[topicOf(strings.ToLower(cfg.Name))] == nil {
		return nil, missing(cfg.Name)
	}
	q, err := b.add(k, cfg, list)
	if err != nil {
		return nil, invalid(err.Error())
	}
	if err := b.tie(q, cfg); err != nil {
		b.drop(q)
		return nil, invalid(err.Error())
	}
	return q, nil
}

// update changes an entity's settings, and detaches its links, as the service does.
func (b *Broker) update(q *queue, d description) error {
	b.entities.Lock()
	defer b.entities.Unlock()
	q.mu.Lock()
	cfg := q.cfg
	q.mu.Unlock()
	if d.RequiresSession != nil && *d.RequiresSession != cfg.RequiresSession {
		return invalid(fmt.Sprintf("The value for the RequiresSession property of an existing %s cannot be changed.", q.kind))
	}
	if d.EnablePartitioning != cfg.kept.EnablePartitioning {
		return invalid(fmt.Sprintf("Partitioning cannot be changed for %s. ", q.kind))
	}
	cfg, err := d.config(cfg)
	if err != nil {
		return err
	}
	if q.kind == subscriptionQueue {
		cfg.DuplicateWindow = 0
	}
	if err := b.tie(q, cfg); err != nil {
		return invalid(err.Error())
	}
	q.mu.Lock()
	q.cfg, q.updated = cfg, time.Now() // newQueue has filled in what a description leaves out
	q.mu.Unlock()
	for _, part := range []*queue{q.dead, q.transfer} {
		part.mu.Lock()
		part.cfg.LockDuration = cfg.LockDuration
		part.mu.Unlock()
	}
	b.detachLater(q)
	return nil
}

// remove deletes an entity, a topic with its subscriptions. What it holds is gone.
func (b *Broker) remove(q *queue) {
	b.entities.Lock()
	defer b.entities.Unlock()
	b.drop(q)
}

func (b *Broker) drop(q *queue) {
	for _, s := range q.members() {
		b.drop(s)
	}
	name := strings.ToLower(strings.Trim(q.name, "/"))
	if topic := b.queues[topicOf(name)]; q.kind == subscriptionQueue && topic != nil {
		topic.part(q)
	}
	delete(b.queues, name)
	q.closeAll()
	b.detachLater(q)
}

func (b *Broker) detachLater(q *queue) {
	time.AfterFunc(detachAfter, func() {
		for _, part := range []*queue{q, q.dead, q.transfer} {
			part.detachAll()
		}
	})
}

// join adds a subscription to the topic, part takes it out, members are all of them.
func (q *queue) join(s *queue) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.subscriptions) >= maxSubscriptions {
		return fmt.Errorf("topic %q: more than %d subscriptions", q.name, maxSubscriptions)
	}
	q.subscriptions = append(slices.Clip(q.subscriptions), s)
	return nil
}

func (q *queue) part(s *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.subscriptions = slices.DeleteFunc(slices.Clone(q.subscriptions), func(other *queue) bool { return other == s })
}

func (q *queue) members() []*queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.subscriptions
}

// toSubscriptions gives each subscription of the topic whose rules match a copy of the message.
func (q *queue) toSubscriptions(m *message) error {
	seen, err := m.forRules()
	if err != nil {
		return err
	}
	var problems []error
	for _, s := range q.members() {
		if s.rules.match(seen) {
			if _, err := s.enqueue([]*message{m.copied()}); err != nil {
				problems = append(problems, fmt.Errorf("%s: %w", s.name, err))
			}
		}
	}
	return errors.Join(problems...)
}

// sendOn sets who takes the messages; nil keeps them here. What is here already goes at once.
func (q *queue) sendOn(forward func(*message) error) {
	q.mu.Lock()
	defer q.release()
	q.forward = forward
	q.dispatch()
}

// usable says why the entity cannot be used; nil if it can.
func (q *queue) usable(sending bool) *amqp.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errGone
	case q.cfg.Status == Disabled, q.cfg.Status == SendDisabled && sending, q.cfg.Status == ReceiveDisabled && !sending:
		return errDisabled
	case !sending && q.kind == topicQueue:
		return &amqp.Error{Condition: "amqp:not-allowed", Description: "Nobody may receive from a topic: receive from its subscriptions."}
	case !sending && q.forward != nil:
		return &amqp.Error{Condition: "amqp:not-allowed", Description: "Nobody may receive from an entity that forwards its messages."}
	case sending && (q.kind == deadQueue || q.kind == subscriptionQueue):
		return &amqp.Error{Condition: "amqp:not-allowed", Description: "Nobody may send to a subscription or to a dead-letter queue."}
	}
	return nil
}

// attached and detached keep the links to the entity or to its $management node.
func (q *queue) attached(l *link) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.links == nil {
		q.links = map[*link]struct{}{}
	}
	q.links[l] = struct{}{}
	q.accessed = time.Now()
}

func (q *queue) detached(l *link) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.links, l)
}

// detachAll tells the clients that their links are gone.
func (q *queue) detachAll() {
	q.mu.Lock()
	links := slices.Collect(maps.Keys(q.links))
	q.links, q.outlets = nil, nil
	q.mu.Unlock()
	for _, l := range links {
		l.forced.Store(true)
		l.session.conn.put(l.session.channel, &amqp.Detach{Handle: l.handle, Closed: true, Error: &amqp.Error{
			Condition: "amqp:link:detach-forced", Description: "The link was force detached by the broker: the entity was changed or deleted.",
		}})
	}
}

func (q *queue) closeAll() {
	q.close()
	q.dead.close()
	q.transfer.close()
}
