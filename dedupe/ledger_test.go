package dedupe_test

import (
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/dedupe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const key = "id:ada"

func newLedger() *dedupe.Ledger {
	return dedupe.New(dedupe.Config{
		Window: time.Minute, SkewMargin: 5 * time.Second, Remember: time.Hour, MaxUsers: 1000, MaxParked: 8, MaxFailing: 16,
	})
}

// message returns the event of a message with this number, enqueued now and locked for a minute.
func message(number int64) *dedupe.Event {
	m := dedupe.NewMessage(0)
	m.Lock.Renewed(time.Now().Add(time.Minute))
	return &dedupe.Event{
		Position:  dedupe.Position{Enqueued: time.Now(), Entity: "events", Sequence: number},
		MessageID: fmt.Sprintf("m%d", number), Message: m,
	}
}

// disposition returns how an event ended, or Undecided if it has not ended.
func disposition(e *dedupe.Event) dedupe.Disposition {
	if !e.Ended() {
		return dedupe.Undecided
	}
	return e.Result().Disposition
}

func want(t *testing.T, e *dedupe.Event, expected dedupe.Disposition) {
	t.Helper()
	if got := disposition(e); got != expected {
		t.Errorf("%s is %s, want %s", e.MessageID, got, expected)
	}
}

// attempt returns a success that began at start and ends now, with clocks that agree.
func attempt(start time.Time) dedupe.Attempt {
	return dedupe.Attempt{Start: start, Duration: time.Since(start), ServerDate: time.Now().Truncate(time.Second)}
}

// inBubble runs a test with a clock of its own.
func inBubble(t *testing.T, test func(t *testing.T, l *dedupe.Ledger)) {
	synctest.Test(t, func(t *testing.T) { test(t, newLedger()) })
}

func TestLedgerCallsNowWhenNothingIsKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		w, isNew := l.Add(key, e)
		if !isNew || !w.Start() {
			t.Fatal("no attempt")
		}
		if w.Succeeded(attempt(time.Now()), "detail") {
			t.Error("something is left")
		}
		want(t, e, dedupe.Revoked)
		if e.Result().Detail != "detail" {
			t.Error("the detail is lost")
		}
	})
}

// The less urgent type may wait for a release of the volume guard.
func TestLedgerLessUrgentEventSupersedesNoneAndIsDecidedTogether(t *testing.T) {
	for _, order := range permutations(2) {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			stolen := message(0)
			time.Sleep(time.Second)
			offboarded := message(1)
			stolen.Kind, offboarded.Kind, offboarded.Urgency = "stolen", "offboarded", 3
			events := []*dedupe.Event{stolen, offboarded}
			var w *dedupe.Work
			for _, i := range order {
				if started, isNew := l.Add(key, events[i]); isNew {
					w = started
				}
			}
			want(t, stolen, dedupe.Undecided)
			want(t, offboarded, dedupe.Undecided)
			if urgency, kind := w.Urgency(nil); urgency != 0 || kind != "stolen" {
				t.Errorf("urgency %d, %s", urgency, kind)
			}
			w.Start()
			w.Succeeded(attempt(time.Now()), nil)
			want(t, stolen, dedupe.Revoked)
			want(t, offboarded, dedupe.Revoked)
		})
	}
}

// permutations returns the orders of the numbers below n.
func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, shorter := range permutations(n - 1) {
		for i := range n {
			all = append(all, slices.Insert(slices.Clone(shorter), i, n-1))
		}
	}
	return all
}

func TestLedgerNewestSupersedesAllInEachOrderOfArrival(t *testing.T) {
	for _, order := range permutations(3) {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			var events []*dedupe.Event
			for i := range 3 {
				events = append(events, message(int64(i)))
				time.Sleep(time.Second)
			}
			events[0].Urgency, events[1].Urgency = 3, 0 // the newest is as urgent as any
			var w *dedupe.Work
			for _, i := range order {
				w, _ = l.Add(key, events[i])
			}
			want(t, events[0], dedupe.Superseded)
			want(t, events[1], dedupe.Superseded)
			want(t, events[2], dedupe.Undecided)
			if urgency, _ := w.Urgency(nil); urgency != 0 {
				t.Errorf("arrival %v: urgency %d, want that of the most urgent event", order, urgency)
			}
			w.Start()
			w.Failed(attempt(time.Now()), nil)
			want(t, events[2], dedupe.Failed)
			if n := events[2].Superseded(); n.Count != 2 || len(n.MessageIDs) != 2 {
				t.Errorf("arrival %v: superseded %+v, want both others", order, n)
			}
		})
	}
}

func TestLedgerBreaksTiesInEnqueuedTimeByEntity(t *testing.T) {
	for _, order := range permutations(2) {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			a, b := message(9), message(1)
			a.Entity, b.Entity = "bulk", "urgent"
			for _, i := range order {
				l.Add(key, []*dedupe.Event{a, b}[i])
			}
			want(t, a, dedupe.Superseded)
			want(t, b, dedupe.Undecided)
		})
	}
}

func TestLedgerOnlyALockedMessageThatDoesNotExpireEarlierSupersedes(t *testing.T) {
	for name, spoil := range map[string]func(e *dedupe.Event){
		"its lock is over":   func(e *dedupe.Event) { e.Message.Lock.Renewed(time.Now().Add(-time.Second)) },
		"it expires earlier": func(e *dedupe.Event) { e.ExpiresAt = time.Now().Add(time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
				older := message(1)
				time.Sleep(time.Second)
				newer := message(2)
				spoil(newer)
				w, _ := l.Add(key, older)
				l.Add(key, newer)
				want(t, older, dedupe.Undecided)
				w.Start()
				w.Succeeded(attempt(time.Now()), nil) // one call settles both
				want(t, older, dedupe.Revoked)
				want(t, newer, dedupe.Revoked)
			})
		})
	}
}

// A naive ledger takes the redelivery for an older duplicate and completes it, although it is the
// only copy of the message.
func TestLedgerRedeliveryOfAWaitingMessageReplacesItAndSupersedesNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Add(key, first)
		time.Sleep(2 * time.Minute) // its lock has expired, and nobody has noticed yet
		again := message(1)
		again.Enqueued = first.Enqueued
		if _, isNew := l.Add(key, again); isNew {
			t.Fatal("two works for one user")
		}
		want(t, first, dedupe.Replaced)
		want(t, again, dedupe.Undecided)
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		want(t, again, dedupe.Revoked)
	})
}

func TestLedgerRedeliveryDuringTheAttemptIsDecidedByIt(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Add(key, first)
		w.Start()
		l.Remove(key, first) // the lock is lost; the attempt goes on
		if w.Context().Err() != nil {
			t.Fatal("a lost lock must not end the Work while its attempt is in flight")
		}
		again := message(1)
		again.Enqueued = first.Enqueued
		l.Add(key, again)
		w.Succeeded(attempt(time.Now()), nil)
		want(t, again, dedupe.Revoked)
	})
}

func TestLedgerRedeliveryAfterALostSettlementIsCovered(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Add(key, first)
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		again := message(1)
		again.Enqueued = first.Enqueued
		l.Add(key, again)
		want(t, again, dedupe.Covered)
	})
}

// A naive ledger completes the newer event with the attempt that began before it.
func TestLedgerNewerEventDuringTheAttemptIsCalledForAtTheEndOfTheWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(1))
		start := time.Now()
		w.Start()
		time.Sleep(2 * time.Second)
		newer := message(2)
		l.Add(key, newer)
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

// This process's clock is 10 s ahead, and the attempt takes 12 s: by this clock the event was
// enqueued before the attempt.
func TestLedgerClockThatRunsAheadCoversNobody(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(1))
		start := time.Now()
		w.Start()
		time.Sleep(3 * time.Second)
		newer := message(2)
		l.Add(key, newer)
		time.Sleep(9 * time.Second)
		w.Succeeded(dedupe.Attempt{Start: start.Add(10 * time.Second), Duration: 12 * time.Second, ServerDate: time.Now()}, nil)
		want(t, newer, dedupe.Undecided)
	})
}

func TestLedgerCoversWhatWasEnqueuedBeforeTheStartMinusTheMargin(t *testing.T) {
	for _, c := range []struct {
		before   time.Duration
		noDate   bool
		expected dedupe.Disposition
	}{
		{5*time.Second + 1, false, dedupe.Covered},
		{5 * time.Second, false, dedupe.Undecided},
		{10*time.Second + 1, true, dedupe.Undecided},
		{time.Hour, true, dedupe.Undecided},
	} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			w, _ := l.Add(key, message(2))
			w.Start()
			a := attempt(time.Now())
			if c.noDate {
				a.ServerDate = time.Time{}
			}
			w.Succeeded(a, nil)
			late := message(1)
			late.Enqueued = a.Start.Add(-c.before)
			l.Add(key, late)
			want(t, late, c.expected)
		})
	}
}

func TestLedgerNeverCoversAMessageWithoutAnEnqueuedTime(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(1))
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		e := message(2)
		e.Enqueued = time.Time{}
		l.Add(key, e)
		want(t, e, dedupe.Undecided)
	})
}

func TestLedgerNeverExtendsTheWindow(t *testing.T) {
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
			if w, isNew := l.Add(key, message(int64(i))); isNew {
				go run(w)
			}
			time.Sleep(30 * time.Second)
		}
		synctest.Wait()
		if calls < 59 || calls > 62 {
			t.Errorf("%d calls in an hour, want one per window", calls)
		}
		l.FlushParked()
		synctest.Wait()
	})
}

func TestLedgerParksAndDoesNotCoverAfterAFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Add(key, first)
		w.Start()
		w.Failed(attempt(time.Now()), "gone")
		want(t, first, dedupe.Failed)
		e := message(2)
		e.Enqueued = e.Enqueued.Add(-time.Hour)
		w, isNew := l.Add(key, e)
		if !isNew || l.State().Parked != 1 {
			t.Fatalf("not parked: %+v", l.State())
		}
		l.Remove(key, e)
		if w.Start() || l.State().PendingUsers != 0 {
			t.Error("an attempt for nobody")
		}
	})
}

func TestLedgerKeepsVerdictsForTheWindowAtLeast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := dedupe.New(dedupe.Config{Window: time.Minute, Remember: time.Second, MaxUsers: 1000, MaxParked: 8, MaxFailing: 8})
		revoke := func(user string, number int64) {
			w, _ := l.Add(user, message(number))
			w.Start()
			w.Succeeded(attempt(time.Now()), nil)
		}
		revoke(key, 1)
		for i := range int64(9) { // verdicts about others, each later than what is kept
			time.Sleep(5 * time.Second)
			revoke(fmt.Sprint("id:", i), 2+i)
		}
		e := message(99)
		if l.Add(key, e); l.State().Parked != 1 {
			t.Errorf("45 s after a verdict: %+v, want the user parked until the end of the window", l.State())
		}
		l.Remove(key, e)
	})
}

func TestLedgerFlushParkedCallsNowAndEndsParking(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(1))
		w.Start()
		start := time.Now()
		l.Add(key, message(2))
		w.Succeeded(attempt(start), nil)
		time.AfterFunc(time.Second, l.FlushParked)
		w.AwaitWindow()
		if time.Since(start) != time.Second {
			t.Errorf("waited %v", time.Since(start))
		}
		w.Start()
		l.Add(key, message(3))
		w.Succeeded(attempt(time.Now()), nil)
		w.AwaitWindow()
		if time.Since(start) != time.Second || !w.Start() {
			t.Error("parked again after FlushParked")
		}
	})
}

func TestLedgerBoundsParkingAndAnEarlyCallIsSafe(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for i := range 20 {
			user := fmt.Sprint(i)
			w, _ := l.Add(user, message(int64(2*i)))
			w.Start()
			w.Failed(attempt(time.Now()), nil)
			l.Add(user, message(int64(2*i+1)))
		}
		if s := l.State(); s.Parked != 8 || s.PendingUsers != 20 {
			t.Errorf("%+v, want 8 parked and the others called now", s)
		}
	})
}

func TestLedgerNeedsLessThan200BytesPerRememberedUser(t *testing.T) {
	const users = 100_000
	l := dedupe.New(dedupe.Config{
		Window: time.Minute, SkewMargin: time.Second, Remember: time.Hour, MaxUsers: 4 * users, MaxParked: 8, MaxFailing: 16,
	})
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := heap()
	for i := range users {
		w, _ := l.Add(fmt.Sprintf("id:00000000-0000-4000-8000-%012d", i), message(int64(i)))
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

func TestLedgerBoundsRememberedUsers(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for i := range 5000 {
			w, _ := l.Add(fmt.Sprint(i), message(int64(i)))
			w.Start()
			w.Succeeded(attempt(time.Now()), nil)
		}
		if n := l.State().Remembered; n > 1000 || n < 500 {
			t.Errorf("%d remembered, want at most 1000", n)
		}
	})
}

// year is the beginning of a year.
func year(y int) time.Time { return time.Date(y, 1, 1, 0, 0, 0, 0, time.UTC) }

// A Date can be wrong by centuries: zero in Windows FILETIME is 1601, which 64 bits cannot hold in
// nanoseconds.
func TestLedgerCoversNoLaterEventHoweverWrongTheDate(t *testing.T) {
	for name, date := range map[string]func(now time.Time) time.Time{
		"none":                     func(time.Time) time.Time { return time.Time{} },
		"of the year 1":            func(time.Time) time.Time { return year(1).Add(time.Second) },
		"of 1601":                  func(time.Time) time.Time { return year(1601) },
		"of 1677":                  func(time.Time) time.Time { return year(1677) },
		"of 1970":                  func(time.Time) time.Time { return time.Unix(0, 0) },
		"of 2263":                  func(time.Time) time.Time { return year(2263) },
		"of 9999":                  func(time.Time) time.Time { return year(9999) },
		"an hour and more behind":  func(now time.Time) time.Time { return now.Add(-time.Hour - time.Second) },
		"an hour and more ahead":   func(now time.Time) time.Time { return now.Add(time.Hour + time.Second) },
		"half an hour ahead":       func(now time.Time) time.Time { return now.Add(30 * time.Minute) },
		"half an hour behind":      func(now time.Time) time.Time { return now.Add(-30 * time.Minute) },
		"of nearly our own second": func(now time.Time) time.Time { return now.Add(999 * time.Millisecond) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
				first := message(1)
				w, _ := l.Add(key, first)
				w.Start()
				a := dedupe.Attempt{Start: time.Now(), Duration: 2 * time.Second}
				time.Sleep(a.Duration)
				a.ServerDate = date(time.Now())
				w.Succeeded(a, nil)
				want(t, first, dedupe.Revoked)
				for number, enqueued := range map[int64]time.Time{
					2: a.Start.Add(-4 * time.Second), 3: a.Start, 4: a.Start.Add(time.Second), 5: a.Start.Add(24 * time.Hour),
					6: year(9999), 7: year(1), 8: year(1601),
				} {
					e := message(number)
					e.Enqueued = enqueued
					l.Add(key, e)
					want(t, e, dedupe.Undecided)
					l.Remove(key, e)
				}
				// The message that the attempt was made for is covered by any success.
				again := message(1)
				again.Enqueued = first.Enqueued
				l.Add(key, again)
				want(t, again, dedupe.Covered)
			})
		})
	}
}

// This process's clock is two hours ahead: by it, each event of the next two hours was enqueued
// before the attempt.
func TestLedgerClockThatIsHoursAheadCoversOnlyWhatTheAttemptWasMadeFor(t *testing.T) {
	for name, date := range map[string]func(own time.Time) time.Time{
		"without a Date":        func(time.Time) time.Time { return time.Time{} },
		"with Graph's own Date": func(own time.Time) time.Time { return own },
		"with a Date of 9999":   func(time.Time) time.Time { return year(9999) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
				const ahead = 2 * time.Hour
				broker := func() time.Time { return time.Now().Add(-ahead) }
				first := message(1)
				first.Enqueued = broker()
				w, _ := l.Add(key, first)
				w.Start()
				w.Succeeded(dedupe.Attempt{Start: time.Now(), ServerDate: date(broker())}, nil)
				time.Sleep(time.Hour)
				later := message(2)
				later.Enqueued = broker()
				l.Add(key, later)
				want(t, later, dedupe.Undecided)
				again := message(1)
				again.Enqueued = first.Enqueued
				l.Add(key, again)
				want(t, again, dedupe.Covered)
			})
		})
	}
}

func TestLedgerSecondSuccessCoversWhatCameBeforeIt(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(1))
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		time.Sleep(30 * time.Second)
		between := message(2)
		time.Sleep(time.Minute)
		second := message(3)
		w, _ = l.Add(key, second)
		w.Start()
		w.Succeeded(attempt(time.Now()), nil)
		l.Add(key, between)
		want(t, between, dedupe.Covered)
		again := message(3) // the settlement of the second was lost
		again.Enqueued = second.Enqueued
		l.Add(key, again)
		want(t, again, dedupe.Covered)
	})
}

func TestLedgerMessageOfASuccessStaysCovered(t *testing.T) {
	for name, then := range map[string]func(l *dedupe.Ledger, begun time.Time){
		"a failure follows": func(l *dedupe.Ledger, _ time.Time) {
			w, _ := l.Add(key, message(2))
			w.Start()
			w.Failed(attempt(time.Now()), nil)
		},
		"another replica reports an earlier success": func(l *dedupe.Ledger, begun time.Time) {
			w, _ := l.Add(key, message(2))
			w.Adopt(elsewhere(begun))
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
				begun := time.Now()
				time.Sleep(time.Minute)
				first := message(1)
				w, _ := l.Add(key, first)
				w.Start()
				w.Succeeded(dedupe.Attempt{Start: time.Now()}, nil) // without a Date: it covers nothing else
				then(l, begun)
				again := message(1)
				again.Enqueued = first.Enqueued
				l.Add(key, again)
				want(t, again, dedupe.Covered)
			})
		})
	}
}

// Three messages that may not supersede each other share an attempt. The settlement of the newest
// is lost.
func TestLedgerCoversTheNewestOfSeveralMessagesOfOneAttemptWhenItComesAgain(t *testing.T) {
	for _, order := range permutations(3) {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			var events []*dedupe.Event
			for i := range 3 {
				e := message(int64(i + 1))
				e.ExpiresAt = time.Now().Add(time.Hour - time.Duration(i)*time.Minute)
				events = append(events, e)
				time.Sleep(time.Second)
			}
			var w *dedupe.Work
			for _, i := range order {
				w, _ = l.Add(key, events[i])
			}
			w.Start()
			w.Succeeded(attempt(time.Now()), nil)
			for _, e := range events {
				want(t, e, dedupe.Revoked)
			}
			again := message(3)
			again.Enqueued = events[2].Enqueued
			l.Add(key, again)
			want(t, again, dedupe.Covered)
		})
	}
}

// The clock that an attempt's start is taken from may jump. Nobody is parked for longer than a
// window from now.
func TestLedgerParksForAWindowAtMostWhateverTheStart(t *testing.T) {
	for name, start := range map[string]func(now time.Time) time.Time{
		"an hour ahead": func(now time.Time) time.Time { return now.Add(time.Hour) },
		"of 9999":       func(time.Time) time.Time { return year(9999) },
		"of 1601":       func(time.Time) time.Time { return year(1601) },
		"none":          func(time.Time) time.Time { return time.Time{} },
	} {
		for _, succeeds := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, %v", name, succeeds), func(t *testing.T) {
				inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
					begun := time.Now()
					l0, _ := l.Add(key, message(1))
					l0.Start()
					newer := message(2)
					l.Add(key, newer) // beside
					a := dedupe.Attempt{Start: start(begun), ServerDate: begun}
					if succeeds {
						l0.Succeeded(a, nil)
					} else {
						l0.Failed(a, nil)
					}
					want(t, newer, dedupe.Undecided)
					l0.AwaitWindow()
					l.Remove(key, newer)
					w, _ := l.Add(key, message(3))
					w.AwaitWindow()
					if waited := time.Since(begun); waited > 2*time.Minute {
						t.Errorf("waited %s", waited)
					}
				})
			})
		}
	}
}

func TestLockUntilAcceptsAnyTime(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for name, c := range map[string]struct {
			until time.Time
			want  dedupe.Disposition // of the older message
		}{
			"of 9999":         {year(9999), dedupe.Superseded},
			"of 300000 years": {time.Unix(1<<53, 0), dedupe.Superseded},
			"of 1601":         {year(1601), dedupe.Undecided},
			"none":            {time.Time{}, dedupe.Undecided},
		} {
			older, newer := message(1), message(2)
			newer.Message.Lock.Renewed(c.until)
			l.Add(name, older)
			l.Add(name, newer)
			if got := disposition(older); got != c.want {
				t.Errorf("%s: %s, want %s", name, got, c.want)
			}
		}
	})
}

func TestResultString(t *testing.T) {
	by := dedupe.Position{Entity: "events", Sequence: 7}
	for r, want := range map[dedupe.Result]string{
		{}:                                       "undecided",
		{Disposition: dedupe.Revoked}:            "revoked",
		{Disposition: dedupe.Covered}:            "covered",
		{Disposition: dedupe.Failed}:             "failed",
		{Disposition: dedupe.Superseded, By: by}: "superseded by message 7 of events",
		{Disposition: dedupe.Replaced, By: by}:   "replaced by message 7 of events",
		{Disposition: 9}:                         "Disposition(9)",
	} {
		if got := r.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
