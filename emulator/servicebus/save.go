package servicebus

import (
	"bufio"
	"cmp"
	"encoding/gob"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// What Save writes: a gob stream of a savedNamespace, then of the messages of each entity in the
// same order, and the word savedEnd, without which the file is not complete. gob leaves out fields
// that are zero, and unknown fields are ignored.

const (
	savedFormat = "session-revoker-emulator 1"
	savedEnd    = "end"
)

// savedFilter is the kind of a filter in a savedRule.
type savedFilter string

const (
	savedTrue        savedFilter = ""
	savedFalse       savedFilter = "false"
	savedSQL         savedFilter = "sql"
	savedCorrelation savedFilter = "correlation"
)

func init() { // the values in rules that gob does not know
	gob.Register(rule.GUID{})
	gob.Register(time.Time{})
	gob.Register(time.Duration(0))
}

type (
	savedNamespace struct {
		Format   string
		Entities []savedEntity
	}
	savedEntity struct {
		Kind             kind
		Config           QueueConfig
		Unused           unusedSettings
		Created, Updated time.Time
		Rules            []savedRule
		Sessions         []savedSession
		Seen             []savedID
		Parts            []savedPart // the entity, its dead-letter queue and its transfer queue
	}
	savedPart struct {
		LastSeq  int64
		Messages int
	}
	savedRule struct {
		Name         string
		Created      time.Time
		Filter       savedFilter
		SQL          string            // of an SQL filter
		System       map[string]string // of a correlation filter
		Values       map[string]any    // parameters of SQL, or properties of a correlation filter
		Action       string            // "" for none
		ActionValues map[string]any
	}
	savedSession struct {
		ID      string
		State   []byte
		Updated time.Time
	}
	savedID struct {
		ID    string
		Until int64
	}
	savedMessage struct {
		Seq                        int64
		Enqueued, Expires, Visible int64
		Failures, Deferrals        uint32
		State                      state
		WasDeferred                bool
		Durable, FirstAcquirer     bool
		Priority, TTL              int64 // -1: none
		Annotations, Delivery      []byte
		AnnotationN, DeliveryN     int
		Properties, AppProperties  []byte
		Body                       []byte
		BodyLength                 int
		DeadSource                 string
		Origin                     int64
		Hops                       int
	}
)

// Save writes all entities, rules, messages and states of sessions, and the message ids that
// duplicate detection remembers, for Config.Saved of a later broker. It holds the lock of one queue
// at a time, and only while it looks at the queue. So if the broker is in use, a message that is
// just being moved from one entity to another may be missing or be there twice. After Close, Save
// writes the last state exactly.
func (b *Broker) Save(w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	encoder := gob.NewEncoder(buffered)
	namespace := savedNamespace{Format: savedFormat}
	var messages [][]savedMessage // of each part
	for _, q := range b.sorted() {
		e := q.saveEntity()
		for _, part := range q.parts() {
			lastSeq, list := part.saveMessages()
			e.Parts = append(e.Parts, savedPart{lastSeq, len(list)})
			messages = append(messages, list)
		}
		namespace.Entities = append(namespace.Entities, e)
	}
	if err := encoder.Encode(namespace); err != nil {
		return fmt.Errorf("save the entities: %w", err)
	}
	for _, list := range messages {
		for i := range list {
			if err := encoder.Encode(&list[i]); err != nil {
				return fmt.Errorf("save the messages: %w", err)
			}
		}
	}
	if err := encoder.Encode(savedEnd); err != nil {
		return fmt.Errorf("save the end: %w", err)
	}
	return buffered.Flush()
}

// Revision returns a number that is another one when there is something new for Save to write.
func (b *Broker) Revision() uint64 {
	sum := fnv.New64a()
	for _, q := range b.sorted() {
		q.mu.Lock()
		fmt.Fprintln(sum, q.name, q.created.UnixNano(), q.updated.UnixNano())
		q.mu.Unlock()
		if q.rules != nil {
			fmt.Fprintln(sum, q.rules.revision())
		}
		for _, part := range q.parts() {
			part.mu.Lock()
			fmt.Fprintln(sum, part.changes)
			part.mu.Unlock()
		}
	}
	return sum.Sum64()
}

// sorted returns the entities in the order of their names.
func (b *Broker) sorted() []*queue {
	all := b.all()
	slices.SortFunc(all, func(x, y *queue) int { return cmp.Compare(x.name, y.name) })
	return all
}

// saveEntity returns everything of an entity but its messages.
func (q *queue) saveEntity() savedEntity {
	q.mu.Lock()
	e := savedEntity{Kind: q.kind, Config: q.cfg, Unused: q.cfg.unused, Created: q.created, Updated: q.updated}
	for id, s := range q.sessions.byID {
		if s.state != nil {
			e.Sessions = append(e.Sessions, savedSession{id, s.state, s.stateUpdated})
		}
	}
	for _, s := range q.seen.order {
		e.Seen = append(e.Seen, savedID{s.id, s.until})
	}
	q.mu.Unlock()
	if q.rules != nil {
		for _, one := range q.rules.all() {
			e.Rules = append(e.Rules, saveRule(one))
		}
	}
	return e
}

// saveRule returns a rule in a form that gob can write.
func saveRule(one rule.Rule) savedRule {
	s := savedRule{Name: one.Name, Created: one.Created}
	switch f := one.Filter.(type) {
	case rule.SQL:
		s.Filter, s.SQL, s.Values = savedSQL, f.String(), f.Parameters()
	case rule.Correlation:
		s.Filter, s.System, s.Values = savedCorrelation, map[string]string{}, f.User()
		for _, n := range correlationNames {
			s.System[n.name] = f.Property(n.name)
		}
	case rule.False:
		s.Filter = savedFalse
	}
	if one.Action != nil {
		s.Action, s.ActionValues = one.Action.String(), one.Action.Parameters()
	}
	return s
}

// saveMessages returns the messages of a queue in their order. The bytes belong to the messages,
// which never change them in place.
func (q *queue) saveMessages() (lastSeq int64, list []savedMessage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.messages.from(0, len(q.messages.bySeq)) {
		s := savedMessage{
			Seq: m.seq, Enqueued: m.enqueued, Expires: m.expires, Visible: m.visible, Failures: m.failures, Deferrals: m.deferrals,
			State: m.state, WasDeferred: m.wasDeferred, Durable: m.durable, FirstAcquirer: m.firstAcquirer, Priority: -1, TTL: -1,
			Annotations: m.annotations, AnnotationN: m.annotationCount,
			Delivery: m.deliveryAnnotations, DeliveryN: m.deliveryAnnotationCount,
			Properties: m.properties, AppProperties: m.appProperties, Body: m.bodyAndFooter, BodyLength: m.bodyLength,
			DeadSource: m.deadSource, Origin: m.origin, Hops: m.hops,
		}
		if m.priority != nil {
			s.Priority = int64(*m.priority)
		}
		if m.ttl != nil {
			s.TTL = int64(*m.ttl)
		}
		list = append(list, s)
	}
	return q.messages.lastSeq, list
}
