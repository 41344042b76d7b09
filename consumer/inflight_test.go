package consumer

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestInFlightCountsMessagesByHowFarTheyHaveCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "in_flight"})
		f := newMessagesInFlight(gauge)
		want := func(all, beingAdded int, onlyWaiting bool) {
			t.Helper()
			a, b := f.len()
			if a != all || b != beingAdded || f.onlyWaiting() != onlyWaiting {
				t.Errorf("%d in flight, %d being added, only waiting: %v; want %d, %d, %v",
					a, b, f.onlyWaiting(), all, beingAdded, onlyWaiting)
			}
			if n := testutil.ToFloat64(gauge); n != float64(all) {
				t.Errorf("the gauge shows %v, want %d", n, all)
			}
		}
		want(0, 0, false)
		enqueued := time.Now()
		first, second := &azservicebus.ReceivedMessage{EnqueuedTime: &enqueued}, &azservicebus.ReceivedMessage{}
		f.add(first)
		f.add(second)
		want(2, 2, false)
		if f.move(first, waiting) {
			t.Error("the other message is still being added")
		}
		want(2, 1, false)
		if !f.move(second, waiting) {
			t.Error("this was the last one that was being added")
		}
		want(2, 0, true)
		if f.move(second, settling) {
			t.Error("no message was being added")
		}
		want(2, 0, false)
		time.Sleep(time.Minute)
		if age := f.oldest(); age != time.Minute {
			t.Errorf("the oldest message is %s old", age)
		}
		f.remove(first)
		if age := f.oldest(); age != 0 {
			t.Errorf("the oldest message is %s old, and Service Bus has not said when it was enqueued", age)
		}
		f.remove(second)
		want(0, 0, false)
	})
}
