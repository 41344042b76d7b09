package servicebus_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestBrokerExpireLocks(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a", "b")
		lost := b.receive(2)
		must(t, b.broker.ExpireLocks(queue))
		wantCode(t, b.receiver.CompleteMessage(ctx, lost[0], nil), azservicebus.CodeLockLost)
		for _, m := range b.receive(2) {
			if m.DeliveryCount != 2 {
				t.Errorf("%s was delivered again with delivery count %d", m.Body, m.DeliveryCount)
			}
			must(t, b.receiver.CompleteMessage(ctx, m, nil))
		}
		b.wantCounts(servicebus.Counts{})
		if err := b.broker.ExpireLocks("nowhere"); err == nil {
			t.Error("the locks of a queue that does not exist were ended")
		}
	})
}

func TestBrokerDetachLinks(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a")
		locked := b.receive(1)
		must(t, b.broker.DetachLinks(queue))
		b.wantCounts(servicebus.Counts{Active: 1, Locked: 1})
		b.send("b") // the SDK attaches its links again
		more := b.receive(1)
		if string(more[0].Body) != "b" {
			t.Errorf("received %s", more[0].Body)
		}
		for _, m := range append(locked, more...) {
			must(t, b.receiver.CompleteMessage(ctx, m, nil))
		}
		b.wantCounts(servicebus.Counts{})
		if err := b.broker.DetachLinks("nowhere"); err == nil {
			t.Error("the links of a queue that does not exist were detached")
		}
	})
}

func TestBrokerCloseConnectionsLosesNothing(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{LockDuration: 20 * time.Second}, func(t *testing.T, b *bench) {
		const n = 60
		for i := range n {
			b.send(fmt.Sprint(i))
		}
		done := map[string]bool{}
		for cuts := 0; len(done) < n; {
			short, cancel := context.WithTimeout(ctx, 30*time.Second)
			messages, err := b.receiver.ReceiveMessages(short, 7, nil)
			cancel()
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Logf("receive: %v", err)
			}
			for i, m := range messages {
				if i == 3 && cuts < 5 {
					cuts++
					b.broker.CloseConnections()
				}
				settling, cancel := context.WithTimeout(ctx, 10*time.Second)
				if b.receiver.CompleteMessage(settling, m, nil) == nil {
					done[string(m.Body)] = true
				}
				cancel()
			}
			if b.counts().Active == 0 {
				break
			}
		}
		b.wantCounts(servicebus.Counts{})
	})
}

func TestConnectionStaysOpenWhenIdle(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		b.send("a")
		m := b.receive(1)[0]
		must(t, b.receiver.CompleteMessage(ctx, m, nil))
		go func() {
			time.Sleep(time.Hour)
			b.send("b")
		}()
		long, cancel := context.WithTimeout(ctx, 2*time.Hour)
		defer cancel()
		messages, err := b.receiver.ReceiveMessages(long, 1, nil) // a lost link would return nil, nil
		if err != nil || bodies(messages) != "[b]" {
			t.Errorf("received %s, %v", bodies(messages), err)
		}
	})
}
