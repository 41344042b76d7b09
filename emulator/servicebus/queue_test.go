package servicebus_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

var ctx = context.Background()

func TestQueueKeepsOrderAndRemovesCompletedMessages(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a", "b", "c")
		messages := b.receive(3)
		if got := bodies(messages); got != "[a b c]" {
			t.Errorf("received %s", got)
		}
		for i, m := range messages {
			if *m.SequenceNumber != int64(i+1) || m.DeliveryCount != 1 || m.EnqueuedTime == nil || m.LockedUntil == nil {
				t.Errorf(
					"message %d: sequence %d, delivery %d, enqueued %v, locked until %v", i, *m.SequenceNumber, m.DeliveryCount,
					m.EnqueuedTime, m.LockedUntil,
				)
			}
			must(t, b.receiver.CompleteMessage(ctx, m, nil))
		}
		b.wantCounts(servicebus.Counts{})
		b.nothing(b.receiver, time.Hour)
	})
}

func TestQueueReceiveAndDelete(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a")
		r, err := b.client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{ReceiveMode: azservicebus.ReceiveModeReceiveAndDelete})
		must(t, err)
		if got := bodies(receiveFrom(t, r, 1)); got != "[a]" {
			t.Errorf("received %s", got)
		}
		b.wantCounts(servicebus.Counts{})
	})
}

func TestQueueAbandonMergesPropertiesAndCountsTheDelivery(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a", "b")
		must(t, b.receiver.AbandonMessage(ctx, b.receive(1)[0], &azservicebus.AbandonMessageOptions{
			PropertiesToModify: map[string]any{"why": "later", "n": int64(7)},
		}))
		m := b.receive(1)[0]
		if string(m.Body) != "a" || m.DeliveryCount != 2 || m.ApplicationProperties["why"] != "later" ||
			m.ApplicationProperties["n"] != int64(7) {
			t.Errorf("%s, delivery %d, properties %v; want a again before b", m.Body, m.DeliveryCount, m.ApplicationProperties)
		}
	})
}

func TestQueueDeadLettersAfterMaxDeliveryCount(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{MaxDeliveryCount: 3}, func(t *testing.T, b *bench) {
		b.send("a")
		for range 3 {
			must(t, b.receiver.AbandonMessage(ctx, b.receive(1)[0], nil))
		}
		b.wantCounts(servicebus.Counts{DeadLetter: 1})
		m := receiveFrom(t, b.deadLetters(), 1)[0]
		if m.DeadLetterReason == nil || *m.DeadLetterReason != "MaxDeliveryCountExceeded" || *m.DeadLetterSource != queue ||
			*m.SequenceNumber != 1 {
			t.Errorf("reason %v, source %v, sequence %d", m.DeadLetterReason, m.DeadLetterSource, *m.SequenceNumber)
		}
	})
}

func TestQueueDeadLetters(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{MaxDeliveryCount: 2}, func(t *testing.T, b *bench) {
		b.send("a", "b")
		reason, description := "NoSuchUser", "who is that?"
		must(t, b.receiver.DeadLetterMessage(ctx, b.receive(1)[0], &azservicebus.DeadLetterOptions{
			Reason: &reason, ErrorDescription: &description, PropertiesToModify: map[string]any{"status": "404"},
		}))
		must(t, b.receiver.DeadLetterMessage(ctx, b.receive(1)[0], nil)) // without a reason
		r := b.deadLetters()
		m := receiveFrom(t, r, 2)
		if *m[0].DeadLetterReason != reason || *m[0].DeadLetterErrorDescription != description ||
			m[0].ApplicationProperties["status"] != "404" {
			t.Errorf(
				"reason %q, description %q, properties %v", *m[0].DeadLetterReason, *m[0].DeadLetterErrorDescription,
				m[0].ApplicationProperties,
			)
		}
		for range 5 { // a dead-letter queue has no maximum delivery count
			must(t, r.AbandonMessage(ctx, m[0], nil))
			m[0] = receiveFrom(t, r, 1)[0]
		}
		if m[0].DeliveryCount != 1 {
			t.Errorf("the delivery count of a dead letter is %d, want 1", m[0].DeliveryCount)
		}
		must(t, r.CompleteMessage(ctx, m[0], nil))
		b.wantCounts(servicebus.Counts{DeadLetter: 1})
	})
}

func TestQueueDefersMessages(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a")
		m := b.receive(1)[0]
		must(t, b.receiver.DeferMessage(ctx, m, &azservicebus.DeferMessageOptions{PropertiesToModify: map[string]any{"k": "v"}}))
		b.nothing(b.receiver, time.Hour)
		b.wantCounts(servicebus.Counts{Deferred: 1})
		seq := []int64{*m.SequenceNumber}
		for range 2 { // a deferred message that is abandoned stays deferred
			d, err := b.receiver.ReceiveDeferredMessages(ctx, seq, nil)
			must(t, err)
			if d[0].State != azservicebus.MessageStateDeferred || d[0].ApplicationProperties["k"] != "v" {
				t.Errorf("state %v, properties %v", d[0].State, d[0].ApplicationProperties)
			}
			must(t, b.receiver.AbandonMessage(ctx, d[0], nil))
		}
		d, err := b.receiver.ReceiveDeferredMessages(ctx, seq, nil)
		must(t, err)
		if d[0].DeliveryCount != 4 { // the deferral counts too
			t.Errorf("delivery count %d after a deferral and two failures", d[0].DeliveryCount)
		}
		must(t, b.receiver.CompleteMessage(ctx, d[0], nil))
		_, err = b.receiver.ReceiveDeferredMessages(ctx, seq, nil)
		wantCode(t, err, azservicebus.CodeNotFound)
	})
}

func TestQueuePeekShowsAllAndLocksNothing(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a", "b", "c", "d")
		locked := b.receive(2)
		must(t, b.receiver.DeferMessage(ctx, locked[1], nil))
		at := time.Now().Add(time.Hour)
		_, err := b.sender.ScheduleMessages(ctx, []*azservicebus.Message{{Body: []byte("e")}}, at, nil)
		must(t, err)
		page, err := b.receiver.PeekMessages(ctx, 3, nil)
		must(t, err)
		rest, err := b.receiver.PeekMessages(ctx, 10, nil) // continues where the last peek ended
		must(t, err)
		if got := bodies(append(page, rest...)); got != "[a b c d e]" {
			t.Errorf("peeked %s", got)
		}
		if page[1].State != azservicebus.MessageStateDeferred || rest[1].State != azservicebus.MessageStateScheduled ||
			page[0].LockedUntil != nil {
			t.Errorf("states %v %v, locked until %v", page[1].State, rest[1].State, page[0].LockedUntil)
		}
		from := int64(4)
		again, err := b.receiver.PeekMessages(ctx, 1, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
		must(t, err)
		if got := bodies(again); got != "[d]" {
			t.Errorf("peeked from 4: %s", got)
		}
		b.wantCounts(servicebus.Counts{Active: 3, Locked: 1, Deferred: 1, Scheduled: 1})
	})
}

func TestQueueAcceptsABatchAsAWhole(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{MaxBytes: 20_000}, func(t *testing.T, b *bench) {
		batch, err := b.sender.NewMessageBatch(ctx, nil)
		must(t, err)
		for i := range 50 {
			must(t, batch.AddMessage(&azservicebus.Message{Body: []byte(fmt.Sprint(i))}, nil))
		}
		must(t, b.sender.SendMessageBatch(ctx, batch, nil))
		for i, m := range b.receive(50) {
			if string(m.Body) != fmt.Sprint(i) || *m.SequenceNumber != int64(i+1) || len(m.MessageID) != 36 {
				t.Fatalf("message %d: %q with number %d and id %q", i, m.Body, *m.SequenceNumber, m.MessageID)
			}
		}
		large, err := b.sender.NewMessageBatch(ctx, nil)
		must(t, err)
		for range 20 {
			must(t, large.AddMessage(&azservicebus.Message{Body: make([]byte, 1000)}, nil))
		}
		if err := b.sender.SendMessageBatch(ctx, large, nil); err == nil || !strings.Contains(err.Error(), "resource-limit-exceeded") {
			t.Errorf("a full queue accepted a batch: %v", err)
		}
		b.wantCounts(servicebus.Counts{Active: 50, Locked: 50}) // nothing of the second batch
	})
}

func TestQueueKeepsLargeMessagesAndAllTypes(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		body := []byte(strings.Repeat("0123456789abcdef", 100_000)) // 1.6 MB, 25 frames
		subject, correlation, contentType, to, replyTo, key := "s", "c", "application/json", "t", "r", "p"
		ttl := 90 * time.Second
		properties := map[string]any{
			"string": "é", "bool": true, "int32": int32(-1), "int64": int64(1) << 60, "uint64": uint64(1) << 63, "float64": 3.25,
			"float32": float32(1.5),
			"time":    time.Date(2020, 1, 2, 3, 4, 5, 6_000_000, time.UTC), "null": nil, "byte": uint8(255), "int8": int8(-128),
			"binary": []byte{1, 2},
		}
		must(t, b.sender.SendMessage(ctx, &azservicebus.Message{
			Body: body, Subject: &subject, CorrelationID: &correlation, ContentType: &contentType, To: &to, ReplyTo: &replyTo,
			PartitionKey: &key,
			TimeToLive:   &ttl, ApplicationProperties: properties,
		}, nil))
		m := b.receive(1)[0]
		if string(m.Body) != string(body) || *m.Subject != subject || *m.CorrelationID != correlation || *m.ContentType != contentType ||
			*m.To != to || *m.ReplyTo != replyTo || *m.PartitionKey != key || *m.TimeToLive != ttl {
			t.Errorf("%d bytes, %+v", len(m.Body), m)
		}
		for name, want := range properties {
			if got := m.ApplicationProperties[name]; fmt.Sprint(got) != fmt.Sprint(want) ||
				fmt.Sprintf("%T", got) != fmt.Sprintf("%T", want) {
				t.Errorf("%s: %T %v, want %T %v", name, got, got, want, want)
			}
		}
	})
}

func TestQueueReleaseCountsNoDelivery(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{MaxDeliveryCount: 2}, func(t *testing.T, b *bench) {
		b.nothing(b.receiver, time.Second) // leaves credit: the SDK releases messages that arrive on it
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, _ = b.receiver.ReceiveMessages(short, 50, nil)
		b.send("a", "b", "c")
		synctest.Wait()
		released := 0
		for _, r := range *b.records {
			if r.Event == servicebus.Released {
				released++
			}
		}
		if released == 0 {
			t.Fatal("the scenario is wrong: nothing was released")
		}
		for _, m := range b.receive(3) {
			if m.DeliveryCount != 1 {
				t.Errorf("%s: delivery count %d after being released", m.Body, m.DeliveryCount)
			}
		}
		b.wantCounts(servicebus.Counts{Active: 3, Locked: 3})
	})
}

func TestQueueSettlesByLockTokenAlone(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("complete", "abandon", "defer", "dead-letter")
		locked := b.receive(4)
		b.broker.CloseConnections()
		for _, m := range locked {
			alone := &azservicebus.ReceivedMessage{LockToken: m.LockToken}
			properties := map[string]any{"how": string(m.Body)}
			var err error
			switch string(m.Body) {
			case "complete":
				err = b.receiver.CompleteMessage(ctx, alone, nil)
			case "abandon":
				err = b.receiver.AbandonMessage(ctx, alone, &azservicebus.AbandonMessageOptions{PropertiesToModify: properties})
			case "defer":
				err = b.receiver.DeferMessage(ctx, alone, &azservicebus.DeferMessageOptions{PropertiesToModify: properties})
			default:
				reason, description := "Reason", "What happened"
				err = b.receiver.DeadLetterMessage(ctx, alone, &azservicebus.DeadLetterOptions{
					Reason: &reason, ErrorDescription: &description, PropertiesToModify: properties,
				})
			}
			must(t, err)
		}
		b.wantCounts(servicebus.Counts{Active: 1, Deferred: 1, DeadLetter: 1})
		for name, states := range map[string]string{queue: "active deferred ", queue + "/$DeadLetterQueue": "active "} {
			messages, err := b.broker.Peek(name, 0, 10)
			must(t, err)
			got := ""
			for _, m := range messages {
				got += m.State + " "
				if m.ApplicationProperties["how"] != string(m.Body) {
					t.Errorf("%s has the properties %v", m.Body, m.ApplicationProperties)
				}
				if dead := name != queue; dead && (m.DeadLetterReason != "Reason" || m.DeadLetterDescription != "What happened") {
					t.Errorf("dead-lettered as %q, %q", m.DeadLetterReason, m.DeadLetterDescription)
				}
			}
			if got != states {
				t.Errorf("%s holds %q, want %q", name, got, states)
			}
		}
	})
}

func TestQueueServesReceiversInRotation(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		other, err := b.client.NewReceiverForQueue(queue, nil)
		must(t, err)
		got := make(chan int, 2)
		for _, r := range []*azservicebus.Receiver{b.receiver, other} {
			go func() {
				short, cancel := context.WithTimeout(ctx, time.Minute)
				defer cancel()
				messages, _ := r.ReceiveMessages(short, 10, &azservicebus.ReceiveMessagesOptions{TimeAfterFirstMessage: 5 * time.Second})
				got <- len(messages)
			}()
		}
		synctest.Wait()
		for i := range 20 {
			b.send(fmt.Sprint(i))
		}
		if one, two := <-got, <-got; one != 10 || two != 10 {
			t.Errorf("%d and %d messages, want 10 each", one, two)
		}
	})
}
