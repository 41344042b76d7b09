package servicebus

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What a queue does with clients that are hostile, tested without a connection.

// inQueue runs a test with a queue in virtual time.
func inQueue(t *testing.T, cfg QueueConfig, test func(t *testing.T, q *queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Name = "q"
		b, err := New(Config{Queues: []QueueConfig{cfg}})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		test(t, b.entity("q"))
	})
}

// messageOf returns a message of a session that lives for a time.
func messageOf(t *testing.T, session string, ttl time.Duration) *message {
	t.Helper()
	milliseconds := uint32(ttl.Milliseconds())
	encoded := amqp.Header{TTL: &milliseconds}.Append(nil)
	encoded, err := amqp.Properties{GroupID: &session}.Append(encoded)
	if err != nil {
		t.Fatal(err)
	}
	m, err := parseMessage(amqp.AppendData(encoded, []byte("x")), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestQueueForgetsSessionsWhoseMessagesExpire(t *testing.T) {
	inQueue(t, QueueConfig{RequiresSession: true}, func(t *testing.T, q *queue) {
		for round := range 20 {
			for i := range 1000 {
				if _, err := q.enqueue([]*message{messageOf(t, fmt.Sprint(round, i), time.Second)}); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(2 * time.Second)
		}
		if n := len(q.sessions.byID); n > 5000 {
			t.Errorf("%d sessions of no messages", n)
		}
	})
}

func TestQueueEndsShortLocksBehindLongOnes(t *testing.T) {
	inQueue(t, QueueConfig{LockDuration: 5 * time.Minute}, func(t *testing.T, q *queue) {
		o := &outlet{peekLock: true, send: func(*message) bool { return true }}
		q.subscribe(o)
		defer q.unsubscribe(o)
		for n := range uint32(2) {
			if _, err := q.enqueue([]*message{messageOf(t, "", time.Hour)}); err != nil {
				t.Fatal(err)
			}
			q.grant(o, &n, 1, false)
			cfg := q.config()
			cfg.LockDuration = 10 * time.Second
			q.setConfig(cfg)
		}
		if n := q.counts().Locked; n != 2 {
			t.Fatalf("%d messages are locked", n)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if n := q.counts().Locked; n != 1 {
			t.Errorf("%d messages are locked after the second lock has ended", n)
		}
	})
}

func TestQueueRemembersALimitedNumberOfIDs(t *testing.T) {
	inQueue(t, QueueConfig{DuplicateWindow: time.Hour}, func(t *testing.T, q *queue) {
		q.seen.order = make([]seenID, maxSeenIDs)
		for i := range q.seen.order {
			q.seen.order[i].until = time.Now().Add(time.Hour).UnixMilli()
		}
		m := []*message{messageOf(t, "", time.Minute)}
		if _, err := q.enqueue(m); err == nil {
			t.Error("the queue remembers any number of ids")
		}
		time.Sleep(time.Hour)
		if _, err := q.enqueue(m); err != nil {
			t.Errorf("after the window: %v", err)
		}
	})
}

func TestManagementRefusesTooManyDeferredMessagesAtOnce(t *testing.T) {
	inQueue(t, QueueConfig{}, func(t *testing.T, q *queue) {
		var numbers []int64
		for range 3 {
			m := messageOf(t, "", time.Hour)
			m.bodyAndFooter = make([]byte, maxAnswer/2)
			sent, err := q.enqueue([]*message{m})
			if err != nil {
				t.Fatal(err)
			}
			q.mu.Lock()
			q.setState(m, deferred)
			q.mu.Unlock()
			numbers = append(numbers, sent[0])
		}
		if _, err := q.receiveDeferred(numbers, false); err == nil {
			t.Error("one answer has any size")
		}
		if list, err := q.receiveDeferred(numbers[:1], false); err != nil || len(list) != 1 {
			t.Errorf("one message: %v", err)
		}
	})
}

func TestManagementSchedulesNothingWhereNobodyMaySend(t *testing.T) {
	inQueue(t, QueueConfig{Status: SendDisabled}, func(t *testing.T, q *queue) {
		ask := managementOf(q, nil, Grant{Send: true}, 1<<20)
		answer := ask(request{
			properties: amqp.Map{{Key: "operation", Value: "com.microsoft:schedule-message"}},
			body:       amqp.Map{{Key: "messages", Value: []any{amqp.Map{{Key: "message", Value: amqp.AppendData(nil, []byte("x"))}}}}},
		})
		if answer.status != 403 || answer.condition != errDisabled.Condition {
			t.Errorf("%+v", answer)
		}
	})
}
