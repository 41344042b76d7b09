package consumer_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// nestedLists returns an AMQP value body of about n bytes: lists in lists.
func nestedLists(size int) []byte {
	b := []byte{0, 0x53, amqp.SectionValue}
	for level := size/9 - 1; level >= 0; level-- {
		b = binary.BigEndian.AppendUint32(append(b, 0xd0), uint32(level*9+5))
		b = binary.BigEndian.AppendUint32(b, 1)
	}
	return append(b, 0x45)
}

// unreadables are messages that the client library cannot read, by a name. On some of them the
// library panics in a goroutine of its own, and others need 500 times their size in memory.
func unreadables() map[string][]byte {
	return map[string][]byte{
		"char":     {0, 0x53, amqp.SectionValue, 0x73, 0, 0, 0, 'A'},
		"decimal":  {0, 0x53, amqp.SectionValue, 0x84, 0, 0, 0, 0, 0, 0, 0, 1},
		"key":      {0, 0x53, amqp.SectionValue, 0xc1, 7, 2, 0, 0xa3, 1, 'x', 0x45, 0x40},
		"nested":   nestedLists(255 << 10),
		"nested1M": nestedLists(1 << 20),
		"nested4M": nestedLists(4<<20 - 1000),
	}
}

// mendables are events about Grace with another part that the client library cannot read.
func mendables(t *testing.T) map[string][]byte {
	body := amqp.AppendData(nil, about(grace).Body)
	pair := func(section byte, key string, value ...byte) []byte {
		items := append(append([]byte{0xa1, byte(len(key))}, key...), value...)
		return append([]byte{0, 0x53, section, 0xc1, byte(len(items) + 1), 2}, items...)
	}
	join := func(deps ...[]byte) (all []byte) {
		for _, p := range deps {
			all = append(all, p...)
		}
		return all
	}
	return map[string][]byte{
		"charProperty":    join(pair(amqp.SectionApplicationProperties, "x", 0x73, 0, 0, 0, 'A'), body),
		"decimalProperty": join(pair(amqp.SectionApplicationProperties, "x", 0x74, 0, 0, 0, 1), body),
		"reason":          join(pair(amqp.SectionApplicationProperties, "DeadLetterReason", 0x54, 5), body),
		"noReason":        join(pair(amqp.SectionApplicationProperties, "DeadLetterReason", 0x40), body),
		"partition":       join(pair(amqp.SectionMessageAnnotations, "x-opt-partition-key", 0x54, 5), body),
		"footer":          join(body, []byte{0, 0x53, amqp.SectionFooter, 0xc1, 3, 2, 0x45, 0x40}),
	}
}

// inject adds an encoded message to the queue, with a message id, and with a session id unless it
// is empty.
func (w *world) inject(id, session string, encoded []byte) {
	w.t.Helper()
	p := amqp.Properties{MessageID: id}
	if session != "" {
		p.GroupID = &session
	}
	properties, err := p.Append(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if encoded[2] == amqp.SectionMessageAnnotations { // before the properties
		end := 5 + int(encoded[4])
		encoded = append(append(append([]byte(nil), encoded[:end]...), properties...), encoded[end:]...)
	} else {
		encoded = append(properties, encoded...)
	}
	if err := w.broker.Inject(queue, encoded); err != nil {
		w.t.Fatal(err)
	}
}

func TestUnreadableMessageIsDeadLetteredAtItsFirstDelivery(t *testing.T) {
	for _, sessions := range []int{0, 2} {
		t.Run(fmt.Sprintf("%d sessions", sessions), func(t *testing.T) {
			inBubble(t, settings{sessions: sessions}, func(t *testing.T, w *world) {
				session, want := "", map[string]string{}
				if sessions > 0 {
					session = "one"
				}
				for id, encoded := range unreadables() {
					w.inject(id, session, encoded)
					want[id] = "UnreadableMessage"
				}
				for id, encoded := range mendables(t) {
					w.inject(id, session, encoded)
				}
				neighbor := about(ada)
				if sessions > 0 {
					neighbor.SessionID = &session
				}
				w.send(neighbor)
				w.run()
				time.Sleep(5 * time.Second)
				w.wantRevoked(ada, grace)
				w.wantDead(want)
				for id, letter := range w.dead() {
					if letter.DeliveryCount != 0 || !strings.Contains(letter.DeadLetterDescription, ": ") {
						t.Errorf("%s: %d failed deliveries, %q", id, letter.DeliveryCount, letter.DeadLetterDescription)
					}
				}
				if problems := w.health.Problems(); len(problems) != 0 {
					t.Errorf("not ready: %v", problems)
				}
				w.settled(2 * time.Minute) // the last event about Grace is parked until the end of the window
				w.wantDead(want)
			})
		})
	}
}

func TestUnreadablePropertyOfAProducerIsNotBelieved(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		m := about(ada)
		m.ApplicationProperties = map[string]any{sanitizer.PropertyUnreadable: "it is not", sanitizer.PropertyMended: "it is not"}
		w.send(m)
		w.run()
		w.settled(time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}

func TestDryRunShowsUnreadableMessages(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		for id, encoded := range unreadables() {
			w.inject(id, "", encoded)
		}
		w.send(about(ada))
		ended := make(chan struct{})
		go func() { w.worker.DryRun(w.soft); close(ended) }()
		time.Sleep(time.Minute)
		w.stopSoft()
		<-ended
		if n := w.logs.FilterField(zap.String("reason", "UnreadableMessage")).Len(); n != len(unreadables()) {
			t.Errorf("%d lines say UnreadableMessage: %v", n, w.lines())
		}
		if n := w.logs.FilterField(outcomeField("would_revoke")).Len(); n != 1 {
			t.Errorf("%d lines say would_revoke: %v", n, w.lines())
		}
		for _, u := range []graph.User{ada} {
			if calls := w.graph.CallsFor(u.ID); len(calls) != 0 {
				t.Errorf("%d calls", len(calls))
			}
		}
	})
}
