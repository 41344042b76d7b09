package servicebus

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What a queue is as an entity: its settings, its links and, for a topic, its subscriptions.

// kind is what a queue serves as.
type kind uint8

const (
	plainQueue        kind = iota
	topicQueue             // its messages leave at once for the subscriptions
	subscriptionQueue      // gets the topic's messages that match its rules
	deadQueue              // dead letters, or messages that could not be forwarded
)

// String is the name in Service Bus' error texts.
func (k kind) String() string { return [...]string{"Queue", "Topic", "Subscription", "Queue"}[k] }

var (
	errGone = &amqp.Error{
		Condition:   "amqp:not-found",
		Description: "The messaging entity was deleted.",
	}
	errDisabled = &amqp.Error{
		Condition:   "com.microsoft:entity-disabled",
		Description: "The messaging entity is currently disabled.",
	}
)

// checkUse returns why a client cannot send to the entity or receive from it, or nil if it can.
func (q *queue) checkUse(sending bool) *amqp.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return errGone
	case q.cfg.Status == Disabled, q.cfg.Status == SendDisabled && sending, q.cfg.Status == ReceiveDisabled && !sending:
		return errDisabled
	case !sending && q.kind == topicQueue:
		return notAllowed("Nobody may receive from a topic: receive from its subscriptions.")
	case !sending && q.forwarding.enabled():
		return notAllowed("Nobody may receive from an entity that forwards its messages.")
	case sending && (q.kind == deadQueue || q.kind == subscriptionQueue):
		return notAllowed("Nobody may send to a subscription or to a dead-letter queue.")
	}
	return nil
}

// config returns the current settings.
func (q *queue) config() QueueConfig {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.cfg
}

// messageLimit returns the maximum size of a message in bytes. standard is that of the broker.
func (q *queue) messageLimit(standard int) int {
	return cmp.Or(q.config().MaxMessageSize, standard)
}

// parts are what an entity consists of.
func (q *queue) parts() []*queue { return []*queue{q, q.dead, q.transfer} }

// setConfig changes the settings. The dead-letter queues have the same lock duration.
func (q *queue) setConfig(cfg QueueConfig) {
	q.mu.Lock()
	q.cfg, q.updated = cfg, time.Now()
	q.mu.Unlock()
	for _, part := range []*queue{q.dead, q.transfer} {
		part.mu.Lock()
		part.cfg.LockDuration = cfg.LockDuration
		part.mu.Unlock()
	}
}

// addLink notes a link to the entity or to its $management node.
func (q *queue) addLink(l *link) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.links.add(l)
}

// removeLink forgets a link.
func (q *queue) removeLink(l *link) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.links.remove(l)
}

// openLinks returns the links to the entity and its dead-letter queues.
func (q *queue) openLinks() map[*link]bool {
	links := map[*link]bool{}
	for _, part := range q.parts() {
		part.mu.Lock()
		for l := range part.links.open {
			links[l] = true
		}
		part.mu.Unlock()
	}
	return links
}

func allLinks(*link) bool { return true }

// detach detaches the selected links, as the service does with those of a changed entity. Locks stay
// until they expire.
func (q *queue) detach(selected func(*link) bool) {
	q.detachLinks(&amqp.Error{
		Condition:   "amqp:link:detach-forced",
		Description: "The link was force detached by the broker: the entity was changed or deleted.",
	}, selected)
}

// detachLinks detaches the links that are selected. Locks of messages stay until they expire.
func (q *queue) detachLinks(why *amqp.Error, selected func(*link) bool) {
	q.mu.Lock()
	links := q.links.take(selected)
	waiting := map[*link]bool{} // for a session: their attach has no answer yet
	for _, l := range links {
		q.outlets.remove(l.outlet)
		if l.outlet != nil && l.outlet.waiter != nil {
			waiting[l] = q.sessions.removeWaiter(l.outlet.waiter)
		}
	}
	q.mu.Unlock()
	for _, l := range links {
		if waiting[l] {
			l.refuse(why)
			continue
		}
		l.detach(why)
	}
}

// addSubscription adds a subscription to the topic.
func (q *queue) addSubscription(s *queue) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.subscriptions) >= maxSubscriptions {
		return fmt.Errorf("topic %q: more than %d subscriptions", q.name, maxSubscriptions)
	}
	q.subscriptions = append(slices.Clip(q.subscriptions), s)
	return nil
}

// removeSubscription removes a subscription from the topic.
func (q *queue) removeSubscription(s *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.subscriptions = slices.DeleteFunc(slices.Clone(q.subscriptions), func(other *queue) bool { return other == s })
}

// currentSubscriptions returns the topic's subscriptions. The caller must not change the slice.
func (q *queue) currentSubscriptions() []*queue {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.subscriptions
}
