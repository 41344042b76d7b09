package servicebus_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// The benchmarks run the real client and the broker in one process over TCP on loopback.

const bodySize = 400

func sendBatches(t testing.TB, sender *azservicebus.Sender, n int) {
	t.Helper()
	body := make([]byte, bodySize)
	for sent := 0; sent < n; {
		batch, err := sender.NewMessageBatch(ctx, nil)
		must(t, err)
		for sent < n && batch.AddMessage(&azservicebus.Message{Body: body}, nil) == nil {
			sent++
		}
		must(t, sender.SendMessageBatch(ctx, batch, nil))
	}
}

func BenchmarkSendBatches(b *testing.B) {
	_, client, _ := overTCP(b, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue, MaxBytes: 1 << 40}}})
	sender, err := client.NewSender(queue, nil)
	must(b, err)
	sendBatches(b, sender, 1)
	b.ReportAllocs()
	b.ResetTimer()
	sendBatches(b, sender, b.N)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// BenchmarkReceiveComplete receives in batches and completes each message separately: 32 in
// parallel, as a worker does, or one at a time, where each waits for its answer.
func BenchmarkReceiveComplete(b *testing.B) {
	b.Run("32 at once", func(b *testing.B) { receiveComplete(b, 32) })
	b.Run("one after the other", func(b *testing.B) { receiveComplete(b, 1) })
}

func receiveComplete(b *testing.B, atOnce int) {
	_, client, _ := overTCP(b, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue, MaxBytes: 1 << 40, LockDuration: 5 * time.Minute}},
	})
	sender, err := client.NewSender(queue, nil)
	must(b, err)
	sendBatches(b, sender, b.N)
	receiver, err := client.NewReceiverForQueue(queue, nil)
	must(b, err)
	b.ReportAllocs()
	b.ResetTimer()
	work := make(chan *azservicebus.ReceivedMessage, 1000)
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for m := range work {
				if err := receiver.CompleteMessage(context.Background(), m, nil); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for got := 0; got < b.N; {
		messages, err := receiver.ReceiveMessages(ctx, min(500, b.N-got), &azservicebus.ReceiveMessagesOptions{
			TimeAfterFirstMessage: time.Millisecond,
		})
		must(b, err)
		got += len(messages)
		for _, m := range messages {
			work <- m
		}
	}
	close(work)
	workers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msgs/s")
}

// TestQueueMemoryPerMessage bounds the memory for a queued message of 400 bytes, with as many
// messages as the sandbox must support.
func TestQueueMemoryPerMessage(t *testing.T) {
	const n = 20_000
	broker, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	sendBatches(t, sender, 1000)
	before := heap()
	sendBatches(t, sender, n)
	each := float64(heap()-before) / n
	t.Logf("%.0f bytes of heap for each queued message with a body of %d bytes", each, bodySize)
	if each > 1500 {
		t.Errorf("%.0f bytes for each queued message, must be below 1,500", each)
	}
	if counts, _ := broker.Counts(queue); counts.Active != n+1000 {
		t.Errorf("%d messages, want %d", counts.Active, n+1000)
	}
	receiver, err := client.NewReceiverForQueue(queue, nil)
	must(t, err)
	if m := receiveFrom(t, receiver, 1)[0]; *m.SequenceNumber != 1 {
		t.Errorf("received number %d first", *m.SequenceNumber)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}
