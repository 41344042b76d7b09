package consumer_test

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// crowd adds people, and sends an event about each.
func (w *world) crowd(n int) {
	w.t.Helper()
	batch, err := w.sender.NewMessageBatch(w.t.Context(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := range n {
		u := graph.User{
			ID:                fmt.Sprintf("00000000-0000-4000-8000-%012d", i),
			UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i), UserType: "Member",
		}
		if err := w.graph.AddUser(u); err != nil {
			w.t.Fatal(err)
		}
		m := about(u)
		id := fmt.Sprintf("crowd%d", i)
		m.MessageID = &id
		if err := batch.AddMessage(m, nil); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.sender.SendMessageBatch(w.t.Context(), batch, nil); err != nil {
		w.t.Fatal(err)
	}
}

func TestForecastShowsHowManyWaitAndHowLong(t *testing.T) {
	raced.Skip(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, settings{})
		// Graph allows 20 per second in the long run.
		if err := w.graph.SetQuota(graph.Quota{Model: graph.FixedWindow, Limit: 100, Per: 5 * time.Second, Headers: true}); err != nil {
			t.Fatal(err)
		}
		w.crowd(4000)
		w.run()
		checked := 0
		for w.counts().Active > 0 {
			time.Sleep(25 * time.Second)
			synctest.Wait()
			left, state := w.counts().Active, w.metrics.State()
			if left < 500 {
				continue
			}
			checked++
			if off := math.Abs(float64(state.Waiting-left)) / float64(left); off > 0.4 { // the forecast is up to ten seconds old
				t.Errorf("%d users wait, and the forecast says %d", left, state.Waiting)
			}
			if until, want := state.UntilLast, float64(left)/20; until < 0.8*want || until > 1.5*want {
				t.Errorf("%d users wait at 20/s, and the forecast says %.0f s", left, until)
			}
		}
		if checked < 4 {
			t.Errorf("peeked %d times: the test shows nothing", checked)
		}
		time.Sleep(time.Minute)
		if state := w.metrics.State(); state.Waiting != 0 || state.UntilLast != 0 {
			t.Errorf("after the last: %d users, %.0f s", state.Waiting, state.UntilLast)
		}
		if n := w.logs.FilterMessageSnippet("many users wait").Len(); n != 1 {
			t.Errorf("logged %d times that many users wait", n)
		}
		if n := w.logs.FilterMessageSnippet("the backlog is done").Len(); n != 1 {
			t.Errorf("logged %d times that the backlog is done", n)
		}
	})
}

func TestForecastWithoutGraphIsNever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, settings{})
		w.graph.Inject(graph.Fault{Count: 1 << 20, Status: 503})
		w.run()
		w.crowd(100)
		time.Sleep(time.Minute)
		if state := w.metrics.State(); !math.IsInf(state.UntilLast, 1) || state.Waiting == 0 {
			t.Errorf("%d users, %.0f s", state.Waiting, state.UntilLast)
		}
	})
}

func TestForecastSurvivesAPurge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, settings{})
		w.graph.Inject(graph.Fault{Count: 1 << 20, Delay: 10 * time.Minute})
		w.run()
		w.crowd(1000)
		time.Sleep(15 * time.Second)
		if n := w.metrics.State().Waiting; n < 900 || n > 1100 {
			t.Errorf("%d users wait, of 1000", n)
		}
		other, err := w.client.NewReceiverForQueue(queue,
			&azservicebus.ReceiverOptions{ReceiveMode: azservicebus.ReceiveModeReceiveAndDelete})
		if err != nil {
			t.Fatal(err)
		}
		for gone := 0; gone < 900; {
			messages, err := other.ReceiveMessages(t.Context(), 900, nil)
			if err != nil {
				t.Fatal(err)
			}
			gone += len(messages)
		}
		time.Sleep(15 * time.Second)
		if n := w.metrics.State().Waiting; n > 120 {
			t.Errorf("%d users wait, and 900 of 1000 are gone", n)
		}
	})
}

func TestForecastCountsNoWaitOfParkedUsers(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.run()
		for i := range 2 {
			m, id := about(ada), fmt.Sprintf("ada-%d", i)
			m.MessageID = &id
			w.send(m)
			time.Sleep(time.Second)
		}
		for range 4 {
			time.Sleep(10 * time.Second)
			if s := w.metrics.State(); s.Waiting != 1 || s.Parked != 1 || s.UntilLast != 0 {
				t.Errorf("%d wait, %d of them parked, until %v: parked users are no backlog", s.Waiting, s.Parked, s.UntilLast)
			}
		}
	})
}

func TestForecastAndMetricsCountDeferredMessages(t *testing.T) {
	inBubble(t, settings{concurrency: 16, maxInFlight: 8}, func(t *testing.T, w *world) {
		users := w.people(0, 40)
		for _, u := range users {
			w.graph.Inject(graph.Fault{User: u.ID, Status: 403, ContentType: "application/json", Body: forbidden})
		}
		w.sendEach(users)
		w.run()
		time.Sleep(65 * time.Second)
		c, s := w.counts(), w.metrics.State()
		if c.Deferred < 20 || s.Waiting < c.Deferred || s.Waiting > 41 {
			t.Errorf("%+v, and %d wait by the forecast", c, s.Waiting)
		}
		if n := testutil.ToFloat64(w.metrics.Deferred.WithLabelValues(queue)); int(n) < c.Deferred-2 || int(n) > 40 {
			t.Errorf("%v deferred by the metrics, %d by Service Bus", n, c.Deferred)
		}
	})
}

// peekCounter counts the peeks of a worker.
type peekCounter struct {
	consumer.Receiver
	peeks *atomic.Int64
}

func (c peekCounter) PeekMessages(
	ctx context.Context, n int, o *azservicebus.PeekMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	c.peeks.Add(1)
	return c.Receiver.PeekMessages(ctx, n, o)
}

// Service Bus counts each peek as an operation, which costs money, and there are many idle hours.
func TestForecastOfAnIdleQueueTakesNoPeeks(t *testing.T) {
	var peeks atomic.Int64
	counted := func(r consumer.Receiver) consumer.Receiver { return peekCounter{r, &peeks} }
	inBubble(t, settings{wrap: counted}, func(t *testing.T, w *world) {
		w.run()
		time.Sleep(time.Minute)
		before := peeks.Load()
		time.Sleep(time.Hour)
		if n := peeks.Load() - before; n > 30 {
			t.Errorf("%d peeks in an idle hour", n)
		}
		w.send(about(ada))
		time.Sleep(5 * time.Second)
		w.wantRevoked(ada)
	})
}

// Only a peek shows that messages wait behind a receiver that has gone silent.
func TestForecastSeesWhatASilentReceiverDoesNot(t *testing.T) {
	var silent atomic.Bool
	r := &trap{}
	r.receive = func(ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		if silent.Load() {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return r.Receiver.ReceiveMessages(ctx, n, o)
	}
	for name, before := range map[string]time.Duration{"from the start": 0, "after an idle hour": time.Hour} {
		t.Run(name, func(t *testing.T) {
			silent.Store(before == 0)
			inBubble(t, trapped(settings{}, r), func(t *testing.T, w *world) {
				w.run()
				time.Sleep(before + time.Second)
				silent.Store(true)
				time.Sleep(time.Minute)
				w.crowd(500)
				for range 5 {
					time.Sleep(6 * time.Minute)
					if s := w.metrics.State(); s.Waiting < 450 {
						t.Errorf("%d wait, of 500", s.Waiting)
					}
				}
			})
		})
	}
}

func TestForecastSeesWhatComesWhileTheWorkerStops(t *testing.T) {
	inBubble(t, settings{drain: 2 * time.Minute}, func(t *testing.T, w *world) {
		w.run()
		time.Sleep(time.Hour)
		w.graph.Inject(graph.Fault{User: ada.ID, Status: 503, Count: 60})
		w.send(about(ada))
		time.Sleep(5 * time.Second)
		w.stopSoft()
		time.Sleep(time.Second)
		w.crowd(300)
		time.Sleep(30 * time.Second)
		if s := w.metrics.State(); s.Waiting < 270 {
			t.Errorf("%d wait, of 300", s.Waiting)
		}
	})
}
