package dedupe_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
)

// inFlight is the maximum number of messages of a source that are in flight.
const inFlight = 5000

// busy returns a ledger with as many messages in flight as there may be: half of the users wait for
// a first attempt, a quarter fails, and a quarter is parked.
func busy(b *testing.B) *dedupe.Ledger {
	l := dedupe.New(dedupe.Config{
		Window: time.Hour, Remember: 2 * time.Hour, MaxUsers: 1_000_000, MaxParked: inFlight / 4, MaxFailing: inFlight / 2,
	})
	for i := range inFlight {
		switch number := int64(i); {
		case i < inFlight/2:
			l.Add(fmt.Sprint("first:", i), message(number))
		case i < 3*inFlight/4:
			failed(l, number)
		default:
			park(l, fmt.Sprint("parked:", i), number)
		}
	}
	if s := l.State(); s.PendingUsers != inFlight || s.Parked != inFlight/4 {
		b.Fatalf("%+v", s)
	}
	return l
}

// park adds an event of a user within the window after a verdict.
func park(l *dedupe.Ledger, key string, number int64) (w *dedupe.Work, e *dedupe.Event) {
	w, _ = l.Add(key, message(number))
	w.Start()
	w.Failed(dedupe.Attempt{Start: time.Now()}, nil)
	e = message(number + 1_000_000_000)
	w, _ = l.Add(key, e)
	l.AllAdded(e.Message)
	return w, e
}

func BenchmarkLedgerAddWhileManyAreInFlight(b *testing.B) {
	b.Run("first attempt", func(b *testing.B) {
		l := busy(b)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			e := message(int64(inFlight + i))
			w, _ := l.Add("ada", e)
			l.AllAdded(e.Message)
			w.Start()
			w.Retry(false)
			l.Remove("ada", e)
		}
	})
	b.Run("one failing too many", func(b *testing.B) {
		l := busy(b)
		var failing []*dedupe.Event
		number := int64(inFlight)
		another := func() {
			e, _ := failed(l, number)
			failing = append(failing, e)
			number++
		}
		for range inFlight / 4 { // as many as the share allows
			another()
		}
		for range inFlight / 4 { // the first ones were there before
			another()
		}
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			another() // and the one that has failed longest is deferred
			oldest := failing[0]
			failing = failing[1:]
			if !isDeferred(oldest) {
				b.Fatal("not deferred")
			}
			l.Remove(fmt.Sprint("id:", oldest.Sequence), oldest)
		}
	})
	b.Run("one parked too many", func(b *testing.B) {
		l := busy(b)
		b.ReportAllocs()
		b.ResetTimer()
		for i := range b.N {
			key := fmt.Sprint("more:", i%10_000)
			_, e := park(l, key, int64(2*inFlight+i))
			if i%2 == 0 {
				l.Remove(key, e)
			}
		}
	})
}
