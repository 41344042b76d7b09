package consumer_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

func outcomeField(o string) zap.Field { return zap.String("outcome", o) }

// trap is a receiver that behaves in one of the surprising ways that the SDK's may. Where a
// function is nil, it behaves like the real one. What it has recorded is safe to read once the
// worker has stopped.
type trap struct {
	consumer.Receiver
	receive  func(ctx context.Context, limit int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	complete func(ctx context.Context, m *azservicebus.ReceivedMessage) error
	renew    func(ctx context.Context, m *azservicebus.ReceivedMessage) error

	mu     sync.Mutex
	limits []int
	first  []time.Duration
	tokens map[*azservicebus.ReceivedMessage]bool
}

func (r *trap) ReceiveMessages(ctx context.Context, limit int,
	o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	r.mu.Lock()
	r.limits = append(r.limits, limit)
	r.first = append(r.first, o.TimeAfterFirstMessage)
	r.mu.Unlock()
	receive := r.Receiver.ReceiveMessages
	if r.receive != nil {
		receive = r.receive
	}
	messages, err := receive(ctx, limit, o)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range messages {
		if r.tokens == nil {
			r.tokens = map[*azservicebus.ReceivedMessage]bool{}
		}
		r.tokens[m] = true
	}
	return messages, err
}

func (r *trap) CompleteMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.CompleteMessageOptions) error {
	if r.complete != nil {
		return r.complete(ctx, m)
	}
	return r.Receiver.CompleteMessage(ctx, m, o)
}

func (r *trap) RenewMessageLock(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.RenewMessageLockOptions) error {
	if r.renew != nil {
		return r.renew(ctx, m)
	}
	return r.Receiver.RenewMessageLock(ctx, m, o)
}

// trapped returns settings whose receiver is r.
func trapped(s settings, r *trap) settings {
	s.wrap = func(wrapped consumer.Receiver) consumer.Receiver {
		r.Receiver = wrapped
		return r
	}
	return s
}

func TestReceiveMayReturnNothingWithoutAnError(t *testing.T) {
	r := &trap{}
	empty := 3
	r.receive = func(ctx context.Context, limit int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		if empty--; empty >= 0 {
			return nil, nil
		}
		return r.Receiver.ReceiveMessages(ctx, limit, o)
	}
	inBubble(t, trapped(settings{}, r), func(_ *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		w.settled(time.Minute)
		w.wantRevoked(ada)
	})
}

func TestReceiveIsNoBusyLoopWhenTheLinkIsLostAgainAndAgain(t *testing.T) {
	r := &trap{}
	r.receive = func(context.Context, int, *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		return nil, nil
	}
	inBubble(t, trapped(settings{}, r), func(t *testing.T, w *world) {
		w.run()
		time.Sleep(10 * time.Minute)
		w.stop()
		if n := len(r.limits); n > 100 {
			t.Errorf("%d receive calls in ten minutes", n)
		}
		if !w.health.Alive() {
			t.Error("the heartbeat stopped")
		}
	})
}

func TestWorkerIsNotReadyWhileOnlyPeeksSucceed(t *testing.T) {
	r := &trap{}
	r.receive = func(context.Context, int, *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		return nil, errors.New("no messages for you")
	}
	inBubble(t, trapped(settings{}, r), func(t *testing.T, w *world) {
		w.run()
		for range 100 {
			time.Sleep(6 * time.Second)
			if w.health.Problems()[consumer.PartServiceBus] == "" {
				t.Fatal("ready, although every receive call fails")
			}
		}
		if n := w.logs.FilterMessage("connected to Service Bus").Len(); n != 1 {
			t.Errorf("%d lines say connected, want that of the start: %v", n, w.lines())
		}
	})
}

func TestReceiveMayReturnMessagesAfterItsContextEnded(t *testing.T) {
	r := &trap{}
	r.receive = func(ctx context.Context, limit int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		messages, err := r.Receiver.ReceiveMessages(ctx, limit, o)
		<-ctx.Done() // the worker stops when the messages are locked already
		return messages, err
	}
	inBubble(t, trapped(settings{}, r), func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		time.Sleep(10 * time.Second)
		if left := w.stop(); left != 0 {
			t.Errorf("%d unfinished", left)
		}
		w.wantRevoked(ada)
		if c := w.counts(); c.Active != 0 {
			t.Errorf("%+v: received and not settled", c)
		}
	})
}

func TestReceiveAsksOnlyForFreeSlotsAndDoesNotWait20Milliseconds(t *testing.T) {
	r := &trap{}
	inBubble(t, trapped(settings{maxInFlight: 3, concurrency: 1}, r), func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: 3 * time.Second})
		w.send(about(ada), about(grace), about(alan), about(ada), about(grace))
		w.run()
		w.settled(10 * time.Minute)
		w.stop()
		if slices.Max(r.limits) < 2 {
			t.Errorf("asked for %v, want all free slots", r.limits)
		}
		for i, limit := range r.limits {
			if limit > 3 || r.first[i] != time.Millisecond {
				t.Errorf("receive %d asked for %d messages and %v after the first", i, limit, r.first[i])
			}
		}
		releases := 0
		letters, _ := w.broker.Peek(queue, 0, 10)
		for _, l := range letters {
			releases += int(l.DeliveryCount)
		}
		if releases != 0 {
			t.Errorf("%d deliveries came back", releases)
		}
	})
}

func TestSettlementHasATimeLimit(t *testing.T) {
	r := &trap{}
	var deadlines []time.Duration
	r.complete = func(ctx context.Context, _ *azservicebus.ReceivedMessage) error {
		deadline, ok := ctx.Deadline()
		if !ok {
			return errors.New("no deadline")
		}
		deadlines = append(deadlines, time.Until(deadline))
		<-ctx.Done() // a link that never answers
		return ctx.Err()
	}
	inBubble(t, trapped(settings{lock: 5 * time.Minute}, r), func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		time.Sleep(time.Second)
		start := time.Now()
		w.stop() // the settlement's context must not end with the stop, and must end
		// The attempts over the link and through the management node take 10 s together.
		if !slices.Equal(deadlines, []time.Duration{overLink, 10*time.Second - overLink}) || time.Since(start) > 11*time.Second {
			t.Errorf("deadlines %v, stopped after %v", deadlines, time.Since(start))
		}
		if n := testutil.ToFloat64(w.metrics.Settlements.WithLabelValues("complete", "error")); n != 1 {
			t.Errorf("%v failed settlements counted, want 1", n)
		}
	})
}

func TestLockRenewalWritesToACopyOfTheMessage(t *testing.T) {
	r := &trap{}
	shared := false
	r.renew = func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
		r.mu.Lock()
		shared = shared || r.tokens[m]
		r.mu.Unlock()
		return r.Receiver.RenewMessageLock(ctx, m, nil)
	}
	inBubble(t, trapped(settings{lock: 10 * time.Second}, r), func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: 429, RetryAfter: "60"})
		w.send(about(ada))
		w.run()
		w.settled(10 * time.Minute)
		if shared {
			t.Error("the renewal wrote to the message that others read: a data race")
		}
	})
}

func TestLockLossIsFinal(t *testing.T) {
	r := &trap{}
	losses := 1
	r.renew = func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
		if losses--; losses >= 0 {
			return &azservicebus.Error{Code: azservicebus.CodeLockLost}
		}
		return r.Receiver.RenewMessageLock(ctx, m, nil)
	}
	inBubble(t, trapped(settings{lock: 30 * time.Second}, r), func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: 429, RetryAfter: "40"})
		w.send(about(ada))
		w.run()
		w.settled(10 * time.Minute)
		w.wantRevoked(ada)
		if n := testutil.ToFloat64(w.metrics.LocksLost); n != 1 {
			t.Errorf("%v locks lost, want 1", n)
		}
		if n := w.logs.FilterField(outcomeField("unfinished")).FilterField(zap.String("settlement", "leave")).Len(); n != 1 {
			t.Errorf("the first delivery was settled after its lock was lost: %v", w.lines())
		}
	})
}

// A success after the lock was lost settles nothing: the attempt is done, but the message is not
// ours.
func TestLockLossDoesNotStopTheCallInFlight(t *testing.T) {
	r := &trap{renew: func(context.Context, *azservicebus.ReceivedMessage) error {
		return &azservicebus.Error{Code: azservicebus.CodeLockLost}
	}}
	inBubble(t, trapped(settings{lock: 20 * time.Second}, r), func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Count: 1, Delay: 15 * time.Second, User: ada.ID})
		w.send(about(ada))
		w.run()
		time.Sleep(16 * time.Second)
		w.wantRevoked(ada)
		if c := w.counts(); c.Active != 1 {
			t.Errorf("%+v: settled without a lock", c)
		}
		w.settled(time.Minute)
	})
}

func TestReceiveSurvivesAReceiverThatGoesSilent(t *testing.T) {
	r := &trap{}
	r.receive = func(ctx context.Context, _ int, _ *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	inBubble(t, trapped(settings{}, r), func(t *testing.T, w *world) {
		w.run()
		time.Sleep(time.Hour)
		if !w.health.Alive() {
			t.Error("the heartbeat stops without messages")
		}
		w.stop()
		if n := len(r.limits); n < 100 {
			t.Errorf("%d receive calls in an hour: each must be bounded", n)
		}
	})
}

func TestReceiveSurvivesAndReportsAnOutageOfServiceBus(t *testing.T) {
	r := &trap{}
	down := true
	r.receive = func(ctx context.Context, limit int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		if down {
			return nil, &azservicebus.Error{Code: azservicebus.CodeConnectionLost}
		}
		return r.Receiver.ReceiveMessages(ctx, limit, o)
	}
	inBubble(t, trapped(settings{}, r), func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		time.Sleep(time.Hour)
		if w.health.Problems()[consumer.PartServiceBus] == "" || !w.health.Alive() {
			t.Errorf("problems %v, alive %v", w.health.Problems(), w.health.Alive())
		}
		down = false
		w.settled(time.Minute)
		w.wantRevoked(ada)
		if problems := w.health.Problems(); len(problems) != 0 {
			t.Errorf("after the outage: %v", problems)
		}
	})
}
