package dedupe_test

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/dedupe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "id:ada"

func newLedger() *dedupe.Ledger {
	return dedupe.New(dedupe.Config{Window: time.Minute, SkewMargin: 5 * time.Second, Remember: time.Hour, MaxUsers: 1000, MaxWaiting: 8})
}

// message is an event of a message with this number, enqueued now and locked for a minute.
func message(number int64) *dedupe.Event {
	lock := new(dedupe.Lock)
	lock.Renewed(time.Now().Add(time.Minute))
	return &dedupe.Event{
		Position:  dedupe.Position{Enqueued: time.Now(), Entity: "events", Sequence: number},
		MessageID: fmt.Sprintf("m%d", number), Lock: lock,
	}
}

// fate says how an event ended; Undecided while it has not.
func fate(e *dedupe.Event) dedupe.Fate {
	select {
	case <-e.Done():
		return e.End().Fate
	default:
		return dedupe.Undecided
	}
}

func want(t *testing.T, e *dedupe.Event, expected dedupe.Fate) {
	t.Helper()
	if got := fate(e); got != expected {
		t.Errorf("%s: fate %d, want %d", e.MessageID, got, expected)
	}
}

// attempt is a success that started at start and took until now, by clocks that agree.
func attempt(start time.Time) dedupe.Attempt {
	return dedupe.Attempt{Start: start, Duration: time.Since(start), ServerDate: time.Now().Truncate(time.Second)}
}

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, l *dedupe.Ledger)) {
	synctest.Test(t, func(t *testing.T) { test(t, newLedger()) })
}

func TestNothingKnownIsCalledNow(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		w, isNew := l.Enter(key, e)
		if !isNew || !w.Start() {
			t.Fatal("no call")
		}
		if w.Succeeded(attempt(time.Now()), "detail") {
			t.Error("something is left")
		}
		want(t, e, dedupe.Revoked)
		if e.End().Detail != "detail" {
			t.Error("the detail is lost")
		}
	})
}

func TestTheNewestStandsForAllWhicheverArrivesFirst(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			var events []*dedupe.Event
			for i := range 3 {
				events = append(events, message(int64(i)))
				time.Sleep(time.Second)
			}
			events[1].Urgency = 0
			events[0].Urgency, events[2].Urgency = 3, 3
			var w *dedupe.Work
			for _, i := range order {
				w, _ = l.Enter(key, events[i])
			}
			want(t, events[0], dedupe.Superseded)
			want(t, events[1], dedupe.Superseded)
			want(t, events[2], dedupe.Undecided)
			if w.Urgency() != 0 {
				t.Errorf("urgency %d: that of the most urgent must be kept", w.Urgency())
			}
			w.Start()
			w.Failed(attempt(time.Now()), nil)
			want(t, events[2], dedupe.Failed)
			if n := events[2].StoodFor(); n.Count != 2 || len(n.MessageIDs) != 2 {
				t.Errorf("stood for %+v, want both others", n)
			}
		})
	}
}

func TestTiesInEnqueuedTimeOverTwoEntitiesHaveOneOrder(t *testing.T) {
	for range 2 {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			a, b := message(9), message(1)
			a.Entity, b.Entity = "bulk", "urgent"
			l.Enter(key, b)
			l.Enter(key, a)
			want(t, a, dedupe.Superseded)
			want(t, b, dedupe.Undecided)
		})
	}
}

func TestOnlyAHeldMessageThatDoesNotExpireEarlierMaySupersede(t *testing.T) {
	for name, spoil := range map[string]func(e *dedupe.Event){
		"its lock is over":   func(e *dedupe.Event) { e.Lock.Renewed(time.Now().Add(-time.Second)) },
		"it expires earlier": func(e *dedupe.Event) { e.ExpiresAt = time.Now().Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
				older := message(1)
				time.Sleep(time.Second)
				newer := message(2)
				spoil(newer)
				w, _ := l.Enter(key, older)
				l.Enter(key, newer)
				want(t, older, dedupe.Undecided)
				w.Start()
				w.Succeeded(attempt(time.Now()), nil) // one call settles both
				want(t, older, dedupe.Revoked)
				want(t, newer, dedupe.Revoked)
			})
		})
	}
}

// The naive design takes the redelivery for an older duplicate, completes it, and so settles the only copy there is.
func TestARedeliveryOfAWaitingMessageTakesItsPlaceAndSupersedesNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Enter(key, first)
		time.Sleep(2 * time.Minute) // its lock has expired, and nobody has noticed yet
		again := message(1)
		again.Enqueued = first.Enqueued
		if _, isNew := l.Enter(key, again); isNew {
			t.Fatal("two works for one user")
		}
		want(t, first, dedupe.Replaced)
		want(t, again, dedupe.Undecided)
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		want(t, again, dedupe.Revoked)
	})
}

func TestARedeliveryDuringTheCallIsDecidedByIt(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Enter(key, first)
		w.Start()
		l.Leave(key, first) // the lock is lost; the attempt goes on
		if w.Context().Err() != nil {
			t.Fatal("a lost lock must not cancel the attempt on the wire")
		}
		again := message(1)
		again.Enqueued = first.Enqueued
		l.Enter(key, again)
		w.Succeeded(attempt(time.Now()), nil)
		want(t, again, dedupe.Revoked)
	})
}

func TestARedeliveryAfterALostSettlementIsCovered(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Enter(key, first)
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		again := message(1)
		again.Enqueued = first.Enqueued
		l.Enter(key, again)
		want(t, again, dedupe.Covered)
	})
}

// The naive design completes the newer event with the call that began before it.
func TestANewerEventDuringTheCallIsCalledForAgainAtTheEndOfTheWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Enter(key, message(1))
		start := time.Now()
		w.Start()
		time.Sleep(2 * time.Second)
		newer := message(2)
		l.Enter(key, newer)
		time.Sleep(8 * time.Second)
		if !w.Succeeded(attempt(start), nil) {
			t.Fatal("nothing left to do")
		}
		want(t, newer, dedupe.Undecided)
		w.AwaitWindow()
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("called %v after the start of the deciding attempt, want the window of 1 m", waited)
		}
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		want(t, newer, dedupe.Revoked)
	})
}

// Our clock runs 10 s ahead, and the call takes 12 s: by our clock the event came before the call.
func TestAClockThatRunsAheadCoversNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Enter(key, message(1))
		start := time.Now()
		w.Start()
		time.Sleep(3 * time.Second)
		newer := message(2)
		l.Enter(key, newer)
		time.Sleep(9 * time.Second)
		w.Succeeded(dedupe.Attempt{Start: start.Add(10 * time.Second), Duration: 12 * time.Second, ServerDate: time.Now()}, nil)
		want(t, newer, dedupe.Undecided)
	})
}

func TestCoveredIsWhatWasEnqueuedBeforeTheStartMinusTheMargin(t *testing.T) {
	for _, c := range []struct {
		before   time.Duration
		noDate   bool
		expected dedupe.Fate
	}{
		{5*time.Second + 1, false, dedupe.Covered},
		{5 * time.Second, false, dedupe.Undecided},
		{10*time.Second + 1, true, dedupe.Covered},
		{10 * time.Second, true, dedupe.Undecided},
	} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			w, _ := l.Enter(key, message(2))
			w.Start()
			a := attempt(time.Now())
			if c.noDate {
				a.ServerDate = time.Time{}
			}
			w.Succeeded(a, nil)
			late := message(1)
			late.Enqueued = a.Start.Add(-c.before)
			l.Enter(key, late)
			want(t, late, c.expected)
		})
	}
}

func TestAMessageWithoutAnEnqueuedTimeIsNeverCovered(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Enter(key, message(1))
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		e := message(2)
		e.Enqueued = time.Time{}
		l.Enter(key, e)
		want(t, e, dedupe.Undecided)
	})
}

func TestTheWindowIsNeverExtended(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		calls := 0
		run := func(w *dedupe.Work) {
			for again := true; again; {
				w.AwaitWindow()
				if !w.Start() {
					return
				}
				calls++
				again = w.Succeeded(attempt(time.Now()), nil)
			}
		}
		for i := range 121 { // an event every 30 s for an hour
			if w, isNew := l.Enter(key, message(int64(i))); isNew {
				go run(w)
			}
			time.Sleep(30 * time.Second)
		}
		synctest.Wait()
		if calls < 59 || calls > 62 {
			t.Errorf("%d calls in an hour, want one per window", calls)
		}
		l.Hurry()
		synctest.Wait()
	})
}

func TestAfterAFailureWhatComesIsParkedAndNotCovered(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Enter(key, first)
		w.Start()
		w.Failed(attempt(time.Now()), "gone")
		want(t, first, dedupe.Failed)
		e := message(2)
		e.Enqueued = e.Enqueued.Add(-time.Hour)
		w, isNew := l.Enter(key, e)
		if !isNew || l.State().Parked != 1 {
			t.Fatalf("not parked: %+v", l.State())
		}
		l.Leave(key, e)
		if w.Start() || l.State().Promises != 0 {
			t.Error("a call for nobody")
		}
	})
}

func TestHurryCallsWhatIsParkedNowAndParksNothingMore(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Enter(key, message(1))
		w.Start()
		start := time.Now()
		l.Enter(key, message(2))
		w.Succeeded(attempt(start), nil)
		time.AfterFunc(time.Second, l.Hurry)
		w.AwaitWindow()
		if time.Since(start) != time.Second {
			t.Errorf("waited %v", time.Since(start))
		}
		w.Start()
		l.Enter(key, message(3))
		w.Succeeded(attempt(time.Now()), nil)
		w.AwaitWindow()
		if time.Since(start) != time.Second || !w.Start() {
			t.Error("parked again although the ledger hurries")
		}
	})
}

func TestParkingIsBoundedAndAnEarlyCallIsSafe(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for i := range 20 {
			user := fmt.Sprint(i)
			w, _ := l.Enter(user, message(int64(2*i)))
			w.Start()
			w.Failed(attempt(time.Now()), nil)
			l.Enter(user, message(int64(2*i+1)))
		}
		if s := l.State(); s.Parked != 8 || s.Promises != 20 || !l.Crowded() {
			t.Errorf("%+v, want 8 parked and the others called now", s)
		}
	})
}

func TestMemoryPerRememberedUserStaysBelow200Bytes(t *testing.T) {
	const users = 100_000
	l := dedupe.New(dedupe.Config{Window: time.Minute, SkewMargin: time.Second, Remember: time.Hour, MaxUsers: 4 * users, MaxWaiting: 8})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range users {
		w, _ := l.Enter(fmt.Sprintf("id:00000000-0000-4000-8000-%012d", i), message(int64(i)))
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
	}
	perUser := (heap() - before) / users
	t.Logf("%d bytes per remembered user", perUser)
	if n := l.State().Remembered; n != users || perUser > 200 {
		t.Errorf("%d users remembered at %d bytes each, want %d at most 200", n, perUser, users)
	}
	runtime.KeepAlive(l)
}

func TestTheNumberOfRememberedUsersIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for i := range 5000 {
			w, _ := l.Enter(fmt.Sprint(i), message(int64(i)))
			w.Start()
			w.Succeeded(attempt(time.Now()), nil)
		}
		if n := l.State().Remembered; n > 1000 || n < 500 {
			t.Errorf("%d remembered, want at most 1000", n)
		}
	})
}
