package servicebus

import (
	"bufio"
	"cmp"
	"encoding/gob"
	"encoding/xml"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// What Save writes: a gob stream of a savedNamespace, then of the messages of each entity in the
// same order, and the word savedEnd, without which the file is not complete. gob leaves out fields
// that are zero, and unknown fields are ignored.

const (
	savedFormat = "session-revoker-emulator 1"
	savedEnd    = "end"
)

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
		Name, Entry string // the entry of the administration API
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
		Failures                   uint32
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
		e := b.saveEntity(q)
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
		e := b.saveEntity(q)
		fmt.Fprintf(sum, "%s %d %d\n", q.name, e.Created.UnixNano(), e.Updated.UnixNano())
		for _, r := range e.Rules {
			fmt.Fprintf(sum, "%s %s\n", r.Name, r.Entry)
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
func (b *Broker) saveEntity(q *queue) savedEntity {
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
			e.Rules = append(e.Rules, savedRule{one.Name, b.ruleDocument(http.MethodGet, q, one.Name, "")})
		}
	}
	return e
}

// ruleDocument reads a rule as the administration API shows it, or creates it from that if method
// is PUT. It returns "" for a rule that was just deleted.
func (b *Broker) ruleDocument(method string, q *queue, name, entry string) string {
	r, err := http.NewRequest(method, "https://localhost/", strings.NewReader(entry))
	if err != nil {
		return ""
	}
	_, answer, err := admin{b}.serveRules(r, q, name)
	if err != nil {
		return ""
	}
	text, err := xml.Marshal(answer)
	if err != nil {
		return ""
	}
	return string(text)
}

// saveMessages returns the messages of a queue in their order. The bytes belong to the messages,
// which never change them in place.
func (q *queue) saveMessages() (lastSeq int64, list []savedMessage) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.messages.from(0, len(q.messages.bySeq)) {
		s := savedMessage{
			Seq: m.seq, Enqueued: m.enqueued, Expires: m.expires, Visible: m.visible, Failures: m.failures, State: m.state,
			WasDeferred: m.wasDeferred, Durable: m.durable, FirstAcquirer: m.firstAcquirer, Priority: -1, TTL: -1,
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
