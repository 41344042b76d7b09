package consumer_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// A renewed lock is ours until its new end. Only a message whose lock is ours may supersede an
// older one.
func TestLockThatWasRenewedLetsItsMessageSupersedeAnOlderOne(t *testing.T) {
	inBubble(t, settings{lock: 10 * time.Second}, func(t *testing.T, w *world) {
		w.send(about(ada))
		messages, err := w.receiver.ReceiveMessages(t.Context(), 1, nil)
		if err != nil || len(messages) != 1 {
			t.Fatal(messages, err)
		}
		up := w.graph.Inject(graph.Fault{User: ada.ID, Status: 503})
		newer, id := about(ada), "newer"
		newer.MessageID = &id
		w.send(newer)
		w.run()
		time.Sleep(8 * time.Second)
		for range 5 {
			if err := w.receiver.RenewMessageLock(t.Context(), messages[0], nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(8 * time.Second)
		}
		if err := w.receiver.AbandonMessage(t.Context(), messages[0], nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		if n := w.logs.FilterField(outcomeField("superseded")).Len(); n != 1 {
			t.Errorf("%d superseded, want the older one", n)
		}
		up()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada)
	})
}

func TestLockRenewalsAreBounded(t *testing.T) {
	inBubble(t, settings{lock: 30 * time.Second, maxInFlight: 256}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Status: 503})
		w.sendEach(w.people(0, 20))
		w.run()
		time.Sleep(time.Minute)
		renewed := func() float64 { return testutil.ToFloat64(w.metrics.Renewals.WithLabelValues("ok")) }
		before := renewed()
		locked := w.counts().Locked
		time.Sleep(10 * time.Minute)
		if n := renewed() - before; locked == 0 || n > float64(locked*41) || n < float64(locked*19) {
			t.Errorf("%v renewals of %d locks of 30 s in ten minutes, want two for each", n, locked)
		}
	})
	r := &trap{}
	var mu sync.Mutex
	var perSecond []int
	start := time.Time{}
	r.renew = func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
		mu.Lock()
		if start.IsZero() {
			start = time.Now()
		}
		second := int(time.Since(start).Seconds())
		for len(perSecond) <= second {
			perSecond = append(perSecond, 0)
		}
		perSecond[second]++
		mu.Unlock()
		return r.Receiver.RenewMessageLock(ctx, m, nil)
	}
	inBubble(t, trapped(settings{lock: 20 * time.Second, maxInFlight: 256, concurrency: 256}, r), func(t *testing.T, w *world) {
		w.send(about(ada))
		w.run()
		time.Sleep(5 * time.Second)
		w.graph.Inject(graph.Fault{Delay: 18 * time.Second})
		w.sendEach(w.people(0, 150))
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if most := slices.Max(perSecond); most > consumer.RenewalsPerSecond+1 || most < 10 {
			t.Errorf("%d renewals in a second", most)
		}
	})
}

func TestLockWhoseRenewalsFailIsLostWhenItExpires(t *testing.T) {
	r := &trap{}
	var renewals atomic.Int64
	r.renew = func(context.Context, *azservicebus.ReceivedMessage) error {
		renewals.Add(1)
		return errors.New("the link is not there")
	}
	inBubble(t, trapped(settings{lock: time.Minute}, r), func(t *testing.T, w *world) {
		w.cfg.Lock = 20 * time.Second // the broker's lock is longer, so that the worker gives up first
		w.newWorker()
		up := w.graph.Inject(graph.Fault{User: ada.ID, Status: 503})
		w.send(about(ada))
		w.run()
		time.Sleep(19 * time.Second)
		if n := testutil.ToFloat64(w.metrics.LocksLost); n != 0 {
			t.Errorf("%v locks lost: they may still be ours", n)
		}
		if n := renewals.Load(); n < 3 || n > 12 {
			t.Errorf("%d renewals before the lock's end", n)
		}
		time.Sleep(4 * time.Second)
		if n := testutil.ToFloat64(w.metrics.LocksLost); n != 1 {
			t.Errorf("%v locks lost after the lock's end", n)
		}
		up()
		w.settled(5 * time.Minute)
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}
