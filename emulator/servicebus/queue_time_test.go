package servicebus_test

import (
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestQueueLockExpiryCountsTheDelivery(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 30 * time.Second}, func(t *testing.T, b *bench) {
		b.send("a")
		first := b.receive(1)[0]
		if d := time.Until(*first.LockedUntil); d < 29*time.Second || d > 30*time.Second {
			t.Errorf("locked for %v", d)
		}
		start := time.Now()
		second := b.receive(1)[0] // it is delivered again when the lock ends
		if waited := time.Since(start); waited < 29*time.Second || waited > 31*time.Second || second.DeliveryCount != 2 {
			t.Errorf("delivered again after %v with delivery count %d", waited, second.DeliveryCount)
		}
		wantCode(t, b.receiver.CompleteMessage(ctx, first, nil), azservicebus.CodeLockLost)
		wantCode(t, b.receiver.RenewMessageLock(ctx, first, nil), azservicebus.CodeLockLost)
		must(t, b.receiver.CompleteMessage(ctx, second, nil))
		b.wantCounts(servicebus.Counts{})
	})
}

func TestQueueRenewsLocks(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 30 * time.Second}, func(t *testing.T, b *bench) {
		b.send("a", "b")
		locked := b.receive(2)
		for range 40 {
			time.Sleep(20 * time.Second)
			must(t, b.receiver.RenewMessageLock(ctx, locked[0], nil))
		}
		if d := time.Until(*locked[0].LockedUntil); d != 30*time.Second {
			t.Errorf("renewed for %v", d)
		}
		must(t, b.receiver.CompleteMessage(ctx, locked[0], nil))
		wantCode(t, b.receiver.CompleteMessage(ctx, locked[1], nil), azservicebus.CodeLockLost)
		b.wantCounts(servicebus.Counts{Active: 1})
	})
}

func TestQueueLockSurvivesItsLink(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a")
		m := b.receive(1)[0]
		must(t, b.receiver.Close(ctx))
		b.wantCounts(servicebus.Counts{Active: 1, Locked: 1})
		other, err := b.client.NewReceiverForQueue(queue, nil)
		must(t, err)
		must(t, other.RenewMessageLock(ctx, m, nil))
		must(t, other.CompleteMessage(ctx, m, nil))
		b.wantCounts(servicebus.Counts{})
	})
}

func TestQueueSchedulesMessages(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		at := time.Now().Add(time.Hour)
		numbers, err := b.sender.ScheduleMessages(ctx, []*azservicebus.Message{{Body: []byte("late")}, {Body: []byte("never")}}, at, nil)
		must(t, err)
		must(t, b.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("later"), ScheduledEnqueueTime: &at}, nil))
		past := time.Now().Add(-time.Hour)
		must(t, b.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("now"), ScheduledEnqueueTime: &past}, nil))
		must(t, b.sender.CancelScheduledMessages(ctx, numbers[1:], nil))
		b.wantCounts(servicebus.Counts{Active: 1, Scheduled: 2})
		now := b.receive(1)
		if got := bodies(now); got != "[now]" {
			t.Errorf("received %s", got)
		}
		must(t, b.receiver.CompleteMessage(ctx, now[0], nil))
		b.nothing(b.receiver, 59*time.Minute+30*time.Second)
		late := b.receive(2)
		if got := bodies(late); got != "[late later]" || late[0].EnqueuedTime.Before(at.Truncate(time.Millisecond)) {
			t.Errorf("received %s, enqueued %v, scheduled for %v", got, late[0].EnqueuedTime, at)
		}
		wantCode(t, b.sender.CancelScheduledMessages(ctx, numbers, nil), azservicebus.CodeNotFound)
	})
}

func TestQueueTimeToLive(t *testing.T) {
	ttl := 10 * time.Second
	for _, keep := range []bool{false, true} {
		inBubble(t, servicebus.QueueConfig{
			DeadLetterOnExpiration: keep, DefaultTTL: time.Hour, LockDuration: 30 * time.Second,
		}, func(t *testing.T, b *bench) {
			must(t, b.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("short"), TimeToLive: &ttl}, nil))
			b.send("hour")
			time.Sleep(11 * time.Second)
			want := servicebus.Counts{Active: 1}
			if keep {
				want.DeadLetter = 1
			}
			b.wantCounts(want)
			time.Sleep(time.Hour)
			if keep {
				dead := receiveFrom(t, b.deadLetters(), 2)
				if *dead[0].DeadLetterReason != "TTLExpiredException" || *dead[0].TimeToLive != ttl {
					t.Errorf("reason %q, ttl %v", *dead[0].DeadLetterReason, *dead[0].TimeToLive)
				}
				time.Sleep(2 * time.Hour) // dead letters do not expire
				want = servicebus.Counts{DeadLetter: 2}
			} else {
				want = servicebus.Counts{}
			}
			b.wantCounts(want)
		})
	}
}

func TestQueueCompletesALockedMessageThatHasExpired(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: time.Minute}, func(t *testing.T, b *bench) {
		ttl := 10 * time.Second
		for range 2 {
			must(t, b.sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("x"), TimeToLive: &ttl}, nil))
		}
		locked := b.receive(2)
		time.Sleep(30 * time.Second)
		must(t, b.receiver.CompleteMessage(ctx, locked[0], nil))
		time.Sleep(time.Minute) // the other message's lock ends, and the message expires
		b.wantCounts(servicebus.Counts{})
	})
}

func TestQueueDetectsDuplicates(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{DuplicateWindow: time.Minute}, func(t *testing.T, b *bench) {
		b.send("a", "a", "b")
		for _, m := range b.receive(2) {
			must(t, b.receiver.CompleteMessage(ctx, m, nil))
		}
		b.send("a") // the queue remembers the id, although the message is gone
		b.wantCounts(servicebus.Counts{})
		time.Sleep(time.Minute)
		b.send("a")
		b.wantCounts(servicebus.Counts{Active: 1})
	})
}
