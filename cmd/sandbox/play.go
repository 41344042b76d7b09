package main

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/retry"
)

// play publishes the sample with the real SDK, as a producer would, and waits until everything in
// the queue is settled.
func play(ctx context.Context, s *servers, sample sample, o options) error {
	for _, fault := range sample.faults {
		s.graph.Inject(fault)
	}
	if err := publish(ctx, s, sample, o); err != nil {
		return fmt.Errorf("publish the sample: %w", err)
	}
	return awaitSettled(ctx, s, sample.announcements(), o.timeout)
}

func publish(ctx context.Context, s *servers, sample sample, o options) error {
	client, err := azservicebus.NewClientFromConnectionString(s.connectionString, nil)
	if err != nil {
		return err
	}
	defer client.Close(context.WithoutCancel(ctx))
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		return err
	}
	throttled := false
	for _, m := range sample.messages {
		if m.about == massOffboarding && !throttled {
			throttled = true
			s.graph.Inject(graph.Fault{Count: 5, Status: http.StatusTooManyRequests, RetryAfter: "1"})
		}
		if m.via != "" && s.webhooks != nil {
			err = s.webhooks.post(ctx, m)
		} else {
			err = sender.SendMessage(ctx, m.message, nil)
		}
		if err != nil {
			return err
		}
		pause := m.pause
		if !o.drain && !m.atOnce {
			pause += 300 * time.Millisecond // so that people can follow the output
		}
		if err := retry.Sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

// awaitSettled waits until the queue holds nothing but dead letters and as many scheduled messages as
// were announced. It fails after timeout.
func awaitSettled(ctx context.Context, s *servers, announced int, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	for {
		counts, err := s.broker.Counts(queue)
		if err != nil {
			return err
		}
		if counts.Active == 0 && counts.Scheduled == announced && counts.Deferred == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d messages are not settled after %s (--timeout)", counts.Active+counts.Deferred, timeout)
		}
		if err := retry.Sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
