package servicebus

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// How a broker creates, finds, changes and deletes its entities.

const (
	maxEntities      = 10_000 // queues, topics and subscriptions together
	maxSubscriptions = 2000   // of one topic
	// detachAfter delays the detach of a changed entity's links. Clients do not expect a detach
	// before the answer to the change.
	detachAfter = 150 * time.Millisecond
)

var (
	errEntityExists = errors.New("the entity already exists")
	errNoTopic      = errors.New("the topic does not exist")
)

// declare creates the entities of a Config, and then connects those that forward.
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
			if err := checkName(subscriptionName, s.Name); err != nil {
				return fmt.Errorf("topic %q: %w", t.Name, err)
			}
			s.Name = t.Name + "/Subscriptions/" + s.Name
			if _, err := b.add(subscriptionQueue, s.QueueConfig, s.Rules); err != nil {
				return err
			}
		}
	}
	for _, q := range b.queues {
		if err := b.connectForwarding(q, q.cfg); err != nil {
			return err
		}
	}
	return nil
}

// add creates one entity. The caller holds the lock of the entities.
func (b *Broker) add(k kind, cfg QueueConfig, list []rule.Rule) (q *queue, err error) {
	if err := b.checkNew(k, cfg); err != nil {
		return nil, err
	}
	name := entityKey(cfg.Name)
	cfg.Name = strings.Trim(cfg.Name, "/")
	if k == subscriptionQueue {
		at := len(topicOf(cfg.Name))
		cfg.Name = cfg.Name[:at] + "/Subscriptions/" + cfg.Name[at+len("/subscriptions/"):]
	}
	q = newQueue(cfg, b.observe)
	q.kind = k
	switch k {
	case topicQueue:
		q.forwarding.to = q.copyToSubscriptions
	case subscriptionQueue:
		// The service reports a new subscription as accessed, and no other new entity.
		q.links.lastAttached = q.created
		topic := b.queues[topicOf(name)]
		if topic == nil || topic.kind != topicQueue {
			return nil, fmt.Errorf("%q: there is no such topic", cfg.Name)
		}
		if q.rules, err = newRules(list); err != nil {
			return nil, fmt.Errorf("%q: %w", cfg.Name, err)
		}
		if err := topic.addSubscription(q); err != nil {
			return nil, err
		}
	}
	b.queues[name] = q
	b.noteLimit(cfg)
	return q, nil
}

// noteLimit remembers the largest message that an entity accepts. The caller holds the lock of the
// entities.
func (b *Broker) noteLimit(cfg QueueConfig) {
	b.largest.Store(max(b.largest.Load(), int64(cfg.MaxMessageSize)))
}

// largestMessage returns the size of the largest message that any entity accepts or ever accepted,
// in bytes. Connections bound their memory by it.
func (b *Broker) largestMessage() int { return max(b.maxMessage, int(b.largest.Load())) }

// checkNew returns why the entity cannot be created. The caller holds the lock of the entities.
func (b *Broker) checkNew(k kind, cfg QueueConfig) error {
	name := entityKey(cfg.Name)
	if err := checkPath(k, cfg.Name); err != nil {
		return err
	}
	switch {
	case b.queues[name] != nil:
		return fmt.Errorf("%q is declared twice", cfg.Name)
	case len(b.queues) >= maxEntities:
		return fmt.Errorf("more than %d entities", maxEntities)
	case cfg.LockDuration < 0 || cfg.MaxDeliveryCount < 0 || cfg.DefaultTTL < 0 || cfg.DuplicateWindow < 0 || cfg.MaxBytes < 0 ||
		cfg.MaxMessageSize < 0:
		return fmt.Errorf("%q: negative settings", cfg.Name)
	case cfg.MaxMessageSize > maxMessageSize:
		return fmt.Errorf("%q: MaxMessageSize is more than %d bytes", cfg.Name, maxMessageSize)
	case k == topicQueue && (cfg.ForwardTo != "" || cfg.ForwardDeadLettersTo != ""):
		return fmt.Errorf("topic %q: only queues and subscriptions forward", cfg.Name)
	case k == topicQueue && cfg.RequiresSession:
		return fmt.Errorf("topic %q: only queues and subscriptions have sessions", cfg.Name)
	case k == subscriptionQueue && cfg.DuplicateWindow > 0:
		return fmt.Errorf("%q: duplicates are detected by the topic", cfg.Name)
	case !cfg.Status.valid():
		return fmt.Errorf("%q: unknown status %q", cfg.Name, cfg.Status)
	}
	return nil
}

// checkPath returns why a path cannot be that of a new entity.
func checkPath(k kind, path string) error {
	switch k {
	case topicQueue:
		return checkName(topicName, path)
	case subscriptionQueue:
		topic := topicOf(path)
		if topic == "" {
			return fmt.Errorf("%q is not TOPIC/Subscriptions/NAME", path)
		}
		return checkName(subscriptionName, path[len(topic)+len("/subscriptions/"):])
	}
	return checkName(queueName, path)
}

// entityKey returns the key of an address in Broker.queues. Addresses ignore case and slashes at
// either end.
func entityKey(address string) string { return strings.ToLower(strings.Trim(address, "/")) }

// topicOf returns the topic's part of a subscription's path, or "" for another path.
func topicOf(path string) string { return path[:max(lastIndexFold(path, "/subscriptions/"), 0)] }

// lastIndexFold is strings.LastIndex without regard to case. Lowering the case of the path first
// could change its length.
func lastIndexFold(path, part string) int {
	for at := len(path) - len(part); at >= 0; at-- {
		if strings.EqualFold(path[at:at+len(part)], part) {
			return at
		}
	}
	return -1
}

// connectForwarding makes an entity and its dead-letter queue forward as the settings say. The
// caller holds the lock of the entities.
func (b *Broker) connectForwarding(q *queue, cfg QueueConfig) error {
	if q.kind == topicQueue {
		return nil
	}
	to, err := b.forwarder(q, cfg.ForwardTo)
	if err != nil {
		return err
	}
	deadTo, err := b.forwarder(q, cfg.ForwardDeadLettersTo)
	if err != nil {
		return err
	}
	q.setForwarding(to)
	q.dead.setForwarding(deadTo)
	return nil
}

// forwarder returns a function that sends to the named entity, or nil if the name is empty.
func (b *Broker) forwarder(from *queue, to string) (func(*message) error, error) {
	if to == "" {
		return nil, nil
	}
	target := b.queues[entityKey(to)]
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

// entity finds a queue, a topic, a subscription (TOPIC/Subscriptions/NAME), or a dead-letter queue
// of one of them. It returns nil if there is none.
func (b *Broker) entity(address string) *queue {
	name := entityKey(address)
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

// all returns the queues, topics and subscriptions in no order.
func (b *Broker) all() []*queue {
	b.entities.RLock()
	defer b.entities.RUnlock()
	return slices.Collect(maps.Values(b.queues))
}

// create adds an entity to a running broker. The error is errEntityExists, errNoTopic, or says
// what is wrong with the settings.
func (b *Broker) create(k kind, cfg QueueConfig, list []rule.Rule) (*queue, error) {
	b.entities.Lock()
	defer b.entities.Unlock()
	if b.queues[strings.ToLower(cfg.Name)] != nil {
		return nil, errEntityExists
	}
	if k == subscriptionQueue && b.queues[topicOf(strings.ToLower(cfg.Name))] == nil {
		return nil, errNoTopic
	}
	q, err := b.add(k, cfg, list)
	if err != nil {
		return nil, err
	}
	if err := b.connectForwarding(q, cfg); err != nil {
		b.drop(q)
		return nil, err
	}
	return q, nil
}

// update changes an entity's settings and then, as the service does, detaches its links. The error
// is change's, or says what is wrong with the settings.
func (b *Broker) update(q *queue, change func(QueueConfig) (QueueConfig, error)) error {
	b.entities.Lock()
	defer b.entities.Unlock()
	cfg, err := change(q.config())
	if err != nil {
		return err
	}
	if q.kind == subscriptionQueue {
		cfg.DuplicateWindow = 0
	}
	if err := b.connectForwarding(q, cfg); err != nil {
		return err
	}
	q.setConfig(cfg)
	b.noteLimit(cfg)
	before := q.openLinks() // later ones know the new settings
	b.detachLater(q, func(l *link) bool { return before[l] })
	return nil
}

// remove deletes an entity with its messages, and a topic with its subscriptions.
func (b *Broker) remove(q *queue) {
	b.entities.Lock()
	defer b.entities.Unlock()
	b.drop(q)
}

// drop is remove for a caller that holds the lock of the entities.
func (b *Broker) drop(q *queue) {
	for _, s := range q.currentSubscriptions() {
		b.drop(s)
	}
	name := entityKey(q.name)
	if topic := b.queues[topicOf(name)]; q.kind == subscriptionQueue && topic != nil {
		topic.removeSubscription(q)
	}
	delete(b.queues, name)
	q.closeAll()
	b.detachLater(q, allLinks)
}

// detachLater detaches the selected links of a changed or deleted entity.
func (b *Broker) detachLater(q *queue, selected func(*link) bool) {
	time.AfterFunc(detachAfter, func() {
		for _, part := range q.parts() {
			part.detach(selected)
		}
	})
}
