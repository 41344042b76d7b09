package servicebus

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// encoded returns a small message with a time to live of a day.
func encoded(t *testing.T) []byte {
	t.Helper()
	ttl := uint32(86_400_000)
	return amqp.AppendData(amqp.Header{TTL: &ttl}.Append(nil), []byte("x"))
}

// TestQueueForgetsRemovedMessages sends many messages through a queue, one at a time. The memory of
// its parts must not grow.
func TestQueueForgetsRemovedMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(QueueConfig{Name: "q", LockDuration: time.Second, MaxDeliveryCount: 3}, nil)
		defer func() { q.close(); q.dead.close() }()
		o := &outlet{peekLock: true, credit: 1 << 30}
		var received []amqp.UUID
		o.send = func(m *message) bool { received = append(received, m.token); return true }
		q.subscribe(o)
		for i := range 30_000 {
			m, err := parseMessage(encoded(t), time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := q.enqueue([]*message{m}); err != nil {
				t.Fatal(err)
			}
			if err := q.settle(received[0], settlement{kind: Completed}); err != nil {
				t.Fatalf("message %d: %v", i, err)
			}
			received = received[:0]
		}
		numbers, due := len(q.messages.order.numbers), len(q.due.heap)
		messages, tokens, bytes := len(q.messages.bySeq), len(q.locks.byToken), q.messages.bytes
		if numbers > 2000 || due > 2000 || messages != 0 || tokens != 0 || bytes != 0 {
			t.Errorf(
				"the empty queue keeps %d numbers, %d due times, %d messages, %d tokens, %d bytes", numbers, due, messages, tokens,
				bytes,
			)
		}
	})
}

func TestConnectionForgetsDeliveriesWithoutALock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := New(Config{Queues: []QueueConfig{{Name: "q", LockDuration: time.Second, MaxDeliveryCount: 1 << 30}}})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		q := b.queues["q"]
		_, server := newPipe()
		s := &session{conn: newConn(b, server), links: map[uint32]*link{}, unsettled: map[uint32]unsettledDelivery{}, window: sessionWindow}
		s.conn.maxFrame = maxFrameSize
		l := &link{session: s, queue: q, outlet: &outlet{peekLock: true, credit: 1 << 30}}
		l.outlet.send = func(m *message) bool {
			s.conn.out = s.conn.out[:0]
			return s.transfer(l, m)
		}
		q.subscribe(l.outlet)
		m, err := parseMessage(amqp.AppendData(nil, []byte("x")), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := q.enqueue([]*message{m}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5000 * time.Second) // the message is delivered every second and never settled
		s.conn.mu.Lock()
		defer s.conn.mu.Unlock()
		if n := len(s.unsettled); n > 1500 || s.nextDelivery < 4000 {
			t.Errorf("%d of %d deliveries are remembered, and only one is locked", n, s.nextDelivery)
		}
	})
}
