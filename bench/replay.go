package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// bareReplay receives each dead letter, sends a copy, and completes the dead letter. No replay can
// do less, and it checks nothing.
const bareReplay = "bare replay"

// replay measures the rate at which dead letters are replayed without a rate limit, from the start
// of the process to the completion of the last dead letter.
func replay(o options) ([]line, error) {
	const letters = 10_000
	measure := func(name string) (rate, megabytes float64, err error) {
		s, err := newStage(1, graph.Quota{})
		if err != nil {
			return 0, 0, err
		}
		defer s.close()
		if err := s.makeDeadLetters(letters); err != nil {
			return 0, 0, err
		}
		var cmd *exec.Cmd
		if name == ourWorker {
			cmd = exec.Command(workerBinary, "dlq", "replay", "--all", "--yes", "--rate", "0")
		} else {
			self, err := os.Executable()
			if err != nil {
				return 0, 0, err
			}
			cmd = exec.Command(self, "contender", name) //nolint:gosec // this program
		}
		start := time.Now()
		peak, err := s.runToTheEnd(cmd)
		if err != nil {
			return 0, 0, err
		}
		counts, err := s.broker.Counts(queue)
		if err != nil {
			return 0, 0, err
		}
		if counts.Active != letters || counts.DeadLetter != 0 {
			return 0, 0, fmt.Errorf("%s: %+v, want %d messages", name, counts, letters)
		}
		return letters / s.lastReplayed.Sub(start).Seconds(), float64(peak) / 1e6, nil
	}
	var ratios, memory []float64
	for range o.rounds {
		theirs, _, err := measure(bareReplay)
		if err != nil {
			return nil, err
		}
		ours, megabytes, err := measure(ourWorker)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "  %.0f/s, bare replay %.0f/s, %.0f MB\n", ours, theirs, megabytes)
		ratios, memory = append(ratios, ours/theirs), append(memory, megabytes)
	}
	return []line{
		{"10,000 dead letters replayed: rate ÷ bare receive-send-complete loop's", fmt.Sprintf("%.2f", median(ratios)), "≥ 0.70"},
		{"— peak memory", fmt.Sprintf("%.0f MB", median(memory)), "< 100 MB"},
	}, nil
}

// behind measures the replay of one user's dead letter that lies behind 50,000 others.
func behind(options) ([]line, error) {
	const others = 50_000
	s, err := newStage(1, graph.Quota{})
	if err != nil {
		return nil, err
	}
	defer s.close()
	if err := s.makeDeadLetters(others); err != nil {
		return nil, err
	}
	wanted := &azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"device.lost","userId":%q}`, userID(1))}
	if err := s.sender.SendMessage(context.Background(), wanted, nil); err != nil {
		return nil, err
	}
	if err := s.deadLetterAll(1); err != nil {
		return nil, err
	}
	cmd := exec.Command(workerBinary, "dlq", "replay", "--user", userID(1), "--yes") //nolint:gosec // our own build
	start := time.Now()
	peak, err := s.runToTheEnd(cmd)
	if err != nil {
		return nil, err
	}
	took := time.Since(start)
	counts, err := s.broker.Counts(queue)
	if err != nil {
		return nil, err
	}
	if counts.Active != 1 || counts.DeadLetter != others {
		return nil, fmt.Errorf("%+v, want one message and %d dead letters", counts, others)
	}
	locked := 0
	for from := int64(0); ; {
		page, err := s.broker.Peek(queue+"/$DeadLetterQueue", from, 1000)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		for _, m := range page {
			from = m.SequenceNumber + 1
			if m.State == "locked" {
				locked++
			}
		}
	}
	return []line{
		{"one dead letter behind 50,000 others replayed", fmt.Sprintf("%.1f s", took.Seconds()), "< 120 s"},
		{"— peak memory", fmt.Sprintf("%.0f MB", float64(peak)/1e6), "< 100 MB"},
		{"— others still locked afterwards", fmt.Sprint(locked), "0"},
	}, nil
}

// makeDeadLetters sends n messages and dead-letters them.
func (s *stage) makeDeadLetters(n int) error {
	if err := s.send(n, 1); err != nil {
		return err
	}
	return s.deadLetterAll(n)
}

// deadLetterAll dead-letters the next n messages.
func (s *stage) deadLetterAll(n int) error {
	receiver, err := s.client.NewReceiverForQueue(queue, nil)
	if err != nil {
		return err
	}
	defer receiver.Close(context.Background())
	var failed atomic.Pointer[error]
	err = eachOf(receiver, n, func(m *azservicebus.ReceivedMessage) {
		reason := "RetriesExhausted"
		if err := receiver.DeadLetterMessage(context.Background(), m, &azservicebus.DeadLetterOptions{Reason: &reason}); err != nil {
			failed.Store(&err)
		}
	})
	if problem := failed.Load(); problem != nil {
		err = errors.Join(err, *problem)
	}
	return err
}

// eachOf receives n messages and calls do for each, from several goroutines concurrently.
func eachOf(receiver *azservicebus.Receiver, n int, do func(*azservicebus.ReceivedMessage)) error {
	messages := make(chan *azservicebus.ReceivedMessage)
	var workers sync.WaitGroup
	for range goroutines {
		workers.Go(func() {
			for m := range messages {
				do(m)
			}
		})
	}
	defer workers.Wait()
	defer close(messages)
	for n > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		batch, err := receiver.ReceiveMessages(ctx, min(n, 4*goroutines), nil)
		cancel()
		if err != nil {
			return err
		}
		n -= len(batch)
		for _, m := range batch {
			messages <- m
		}
	}
	return nil
}

// replayBarely runs the bare replay in this process. It expects the number of dead letters that
// replay makes.
func replayBarely() error {
	client, err := azservicebus.NewClientFromConnectionString(os.Getenv("REVOKER_SERVICEBUS_CONNECTION_STRING"), nil)
	if err != nil {
		return err
	}
	receiver, err := client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
	if err != nil {
		return err
	}
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		return err
	}
	return eachOf(receiver, 10_000, func(m *azservicebus.ReceivedMessage) {
		again := &azservicebus.Message{Body: m.Body, ApplicationProperties: m.ApplicationProperties}
		if sender.SendMessage(context.Background(), again, nil) == nil {
			_ = receiver.CompleteMessage(context.Background(), m, nil)
		}
	})
}

// observeReplay records when the last dead letter was completed.
func (s *stage) observeReplay(r servicebus.Record) {
	if r.Event == servicebus.Completed {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.lastReplayed = r.Time
	}
}
