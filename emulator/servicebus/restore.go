package servicebus

import (
	"bufio"
	"encoding/gob"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// restored is what a broker takes over from an earlier one.
type restored struct {
	entities []savedEntity
	decoder  *gob.Decoder // the messages
}

// readSaved reads the entities that Save has written.
func readSaved(r io.Reader) (*restored, error) {
	decoder := gob.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	var namespace savedNamespace
	if err := decoder.Decode(&namespace); err != nil {
		return nil, fmt.Errorf("read what was saved: it is damaged, or no broker has saved it: %w", err)
	}
	if namespace.Format != savedFormat {
		return nil, fmt.Errorf("read what was saved: the format is %q, and this version reads %q", namespace.Format, savedFormat)
	}
	return &restored{namespace.Entities, decoder}, nil
}

// addTo returns a configuration of the saved entities and of those in cfg that are missing.
func (r *restored) addTo(cfg Config) Config {
	var all Config
	topics := map[string]int{} // index in all.Topics
	for _, e := range r.entities {
		settings := e.Config
		settings.unused = e.Unused
		switch e.Kind {
		case topicQueue:
			topics[entityKey(settings.Name)] = len(all.Topics)
			all.Topics = append(all.Topics, TopicConfig{QueueConfig: settings})
		case plainQueue:
			all.Queues = append(all.Queues, settings)
		}
	}
	for _, e := range r.entities {
		topic := topicOf(e.Config.Name)
		at, ok := topics[entityKey(topic)]
		if e.Kind != subscriptionQueue || topic == "" || !ok { // restore finds what is damaged
			continue
		}
		settings := e.Config
		settings.unused = e.Unused
		settings.Name = settings.Name[len(topic)+len("/Subscriptions/"):]
		all.Topics[at].Subscriptions = append(all.Topics[at].Subscriptions,
			SubscriptionConfig{QueueConfig: settings, Rules: []rule.Rule{}}) // restore adds the rules
	}
	for _, q := range cfg.Queues {
		if !slices.ContainsFunc(all.Queues, func(saved QueueConfig) bool { return entityKey(saved.Name) == entityKey(q.Name) }) {
			all.Queues = append(all.Queues, q)
		}
	}
	for _, t := range cfg.Topics {
		at, ok := topics[entityKey(t.Name)]
		if !ok {
			all.Topics = append(all.Topics, t)
			continue
		}
		saved := &all.Topics[at]
		for _, s := range t.Subscriptions {
			same := func(other SubscriptionConfig) bool { return strings.EqualFold(other.Name, s.Name) }
			if !slices.ContainsFunc(saved.Subscriptions, same) {
				saved.Subscriptions = append(saved.Subscriptions, s)
			}
		}
	}
	cfg.Queues, cfg.Topics = all.Queues, all.Topics
	return cfg
}

// restore fills the entities of a new broker.
func (b *Broker) restore(r *restored) error {
	for _, e := range r.entities {
		q := b.entity(e.Config.Name)
		if q == nil || len(e.Parts) != len(q.parts()) {
			return fmt.Errorf("restore %q: the file is damaged", e.Config.Name)
		}
		q.created, q.updated = e.Created, e.Updated
		for _, one := range e.Rules {
			restored, err := one.rule()
			if err == nil && q.rules == nil {
				err = errors.New("only subscriptions have rules")
			}
			if err == nil {
				_, err = q.rules.add(restored)
			}
			if err != nil {
				return fmt.Errorf("restore the rule %q of %q: %w", one.Name, q.name, err)
			}
		}
		for i, part := range q.parts() {
			if err := part.restoreMessages(e.Parts[i], r.decoder); err != nil {
				return fmt.Errorf("restore the messages of %q: %w", part.name, err)
			}
		}
		q.restoreMemory(e)
	}
	var end string
	if err := r.decoder.Decode(&end); err != nil || end != savedEnd {
		return errors.Join(errors.New("restore: the file is not complete"), err)
	}
	for _, q := range b.all() {
		q.resume()
	}
	return nil
}

// rule returns the rule that saveRule got.
func (s savedRule) rule() (one rule.Rule, err error) {
	one = rule.Rule{Name: s.Name, Created: s.Created}
	if err := checkName(ruleName, s.Name); err != nil {
		return one, err
	}
	switch s.Filter {
	case savedTrue:
		one.Filter = rule.True{}
	case savedFalse:
		one.Filter = rule.False{}
	case savedSQL:
		one.Filter, err = rule.NewSQL(s.SQL, s.Values)
	case savedCorrelation:
		one.Filter, err = rule.NewCorrelation(s.System, s.Values)
	default:
		err = fmt.Errorf("this version does not know the filter %q", s.Filter)
	}
	if err == nil && s.Action != "" {
		one.Action, err = rule.NewAction(s.Action, s.ActionValues)
	}
	return one, err
}

// restoreMessages reads the messages of a queue, and leaves them in the states that they had.
func (q *queue) restoreMessages(saved savedPart, decoder *gob.Decoder) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.messages.lastSeq = saved.LastSeq
	for range saved.Messages {
		var s savedMessage
		if err := decoder.Decode(&s); err != nil {
			return err
		}
		if s.State >= gone || s.BodyLength < 0 || s.BodyLength > len(s.Body) || s.Seq <= 0 || q.messages.get(s.Seq) != nil {
			return errors.New("a message is damaged")
		}
		m := &message{
			seq: s.Seq, enqueued: s.Enqueued, expires: s.Expires, visible: s.Visible, failures: s.Failures, deferrals: s.Deferrals,
			state: s.State, wasDeferred: s.WasDeferred, durable: s.Durable, firstAcquirer: s.FirstAcquirer,
			annotations: s.Annotations, annotationCount: s.AnnotationN,
			deliveryAnnotations: s.Delivery, deliveryAnnotationCount: s.DeliveryN,
			properties: s.Properties, appProperties: s.AppProperties, bodyAndFooter: s.Body, bodyLength: s.BodyLength,
			deadSource: s.DeadSource, origin: s.Origin, hops: s.Hops,
		}
		if s.Priority >= 0 {
			priority := uint8(s.Priority)
			m.priority = &priority
		}
		if s.TTL >= 0 {
			ttl := uint32(s.TTL)
			m.ttl = &ttl
		}
		if q.hasSessions() && !m.readSessionID() {
			return errSessionMissing
		}
		q.insert(m)
		if m.state == scheduled {
			q.due.add(m.visible, m.seq, &q.messages)
		}
		if m.expires > 0 {
			q.due.add(m.expires, m.seq, &q.messages)
		}
	}
	return nil
}

// restoreMemory restores what an entity knows beside its messages.
func (q *queue) restoreMemory(e savedEntity) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range e.Sessions {
		if q.sessions.setState(s.ID, s.State) == nil {
			q.sessions.get(s.ID).stateUpdated = s.Updated
		}
	}
	for _, s := range e.Seen {
		q.seen.remember(s.ID, s.Until)
	}
}

// resume goes on where the earlier broker stopped. A message that was locked then counts a failed
// delivery, as if its lock had expired in the meantime.
func (q *queue) resume() {
	for _, part := range q.parts() {
		part.mu.Lock()
		for _, m := range part.messages.from(0, len(part.messages.bySeq)) {
			if m.state == locked {
				part.failDelivery(m, LockExpired)
			}
		}
		part.advance()
		part.mu.Unlock()
	}
	q.mu.Lock()
	q.unlockAndForward()
}
