package dedupe_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
)

// aside says that the message is asked to be set aside.
func aside(e *dedupe.Event) bool {
	select {
	case <-e.Message.Deferred():
		return true
	default:
		return false
	}
}

// failed enters an event of a user of its own, all of its message, whose first attempt fails.
func failed(l *dedupe.Ledger, number int64) (*dedupe.Event, *dedupe.Work) {
	e := message(number)
	w, _ := l.Add(fmt.Sprint("id:", number), e)
	l.AllAdded(e.Message)
	w.Start()
	w.Retry(true)
	return e, w
}

func TestTheMessageThatHasFailedLongestIsSetAsideWhenTooManyFail(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		var events []*dedupe.Event
		for i := range 20 { // 16 may fail
			e, _ := failed(l, int64(i))
			events = append(events, e)
			time.Sleep(time.Second)
		}
		for i, e := range events {
			if aside(e) != (i < 4) {
				t.Errorf("message %d: set aside is %v", i, aside(e))
			}
		}
	})
}

func TestUsersThatFailDoNotSwitchOffParking(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(1))
		w.Start()
		start := time.Now()
		w.Succeeded(attempt(start), nil)
		for i := range 200 {
			failed(l, int64(100+i))
		}
		w, _ = l.Add(key, message(2))
		w.AwaitWindow()
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("called after %v, want the window of 1 m", waited)
		}
	})
}

func TestPastTheParkedShareTheUserWithTheMostParkedMessagesIsCalled(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for _, user := range []string{"ada", "grace"} {
			w, _ := l.Add(user, message(0))
			w.Start()
			w.Failed(attempt(time.Now()), nil)
		}
		number := int64(0)
		enter := func(user string) *dedupe.Work { // each expires before the one before: none supersedes another
			number++
			e := message(number)
			e.ExpiresAt = time.Now().Add(time.Hour - time.Duration(number)*time.Second)
			time.Sleep(time.Millisecond)
			w, _ := l.Add(user, e)
			return w
		}
		grace := enter("grace")
		var ada *dedupe.Work
		for range 7 {
			ada = enter("ada")
		}
		if s := l.State(); s.Parked != 2 {
			t.Fatalf("%+v, want both parked with 8 messages", s)
		}
		enter("grace") // is the ninth message
		start := time.Now()
		ada.AwaitWindow()
		if time.Since(start) != 0 {
			t.Error("ada, who has the most messages, was not called at once")
		}
		if grace.AwaitWindow(); time.Since(start) == 0 {
			t.Error("grace was called too")
		}
	})
}

func TestSharesOfOneSourceDoNotConcernAnother(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		other := message(1000)
		other.Message = dedupe.NewMessage(1)
		other.Entity = "bulk"
		w, _ := l.Add("other", other)
		l.AllAdded(other.Message)
		w.Start()
		w.Retry(true)
		for i := range 100 {
			failed(l, int64(i))
		}
		if aside(other) {
			t.Error("another source's message was set aside")
		}
	})
}

func TestWhatMayNotBeSetAside(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		fixed := message(1)
		fixed.Message.Fixed = true
		w, _ := l.Add("fixed", fixed)
		l.AllAdded(fixed.Message)
		w.Start()
		w.Retry(true)

		// A message of two users, one of whom still waits for the first attempt.
		half, second := message(2), message(2)
		second.Message = half.Message
		w, _ = l.Add("half", half)
		l.Add("second", second)
		l.AllAdded(half.Message)
		w.Start()
		w.Retry(true)

		// One that is not all in the ledger yet.
		entering := message(3)
		w, _ = l.Add("entering", entering)
		w.Start()
		w.Retry(true)

		for i := range 100 {
			failed(l, int64(100+i))
		}
		for _, e := range []*dedupe.Event{fixed, half, entering} {
			if aside(e) {
				t.Errorf("%s was set aside", e.MessageID)
			}
		}
	})
}

func TestAnEagerMessageIsSetAsideAfterOneMoreFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		e.Message.Eager = true
		w, _ := l.Add(key, e)
		l.AllAdded(e.Message)
		w.SetFailing()
		if aside(e) {
			t.Fatal("set aside before its attempt")
		}
		w.Start()
		w.Retry(false) // a pause of Graph's is nobody's failure
		if aside(e) {
			t.Fatal("set aside for a 429")
		}
		w.Start()
		w.Retry(true)
		if !aside(e) {
			t.Error("not set aside")
		}
		l.Remove(key, e)
		if s := l.State(); s.Pending != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// While an attempt hangs, messages about its user that cannot supersede one another pile up beside it.
func TestMessagesBesideAnAttemptDoNotUseUpTheRestOfTheSource(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		w, _ := l.Add(key, message(0))
		w.Start()
		var events []*dedupe.Event
		for i := range 20 {
			e := message(int64(i + 1))
			e.ExpiresAt = time.Now().Add(time.Hour - time.Duration(i+1)*time.Minute)
			time.Sleep(time.Millisecond)
			l.Add(key, e)
			l.AllAdded(e.Message)
			events = append(events, e)
		}
		n := 0
		for _, e := range events {
			if aside(e) {
				n++
			}
		}
		if n != 12 {
			t.Errorf("%d of 20 messages were set aside, want all but 8", n)
		}
	})
}

func TestWhatWasSetAsideIsInNoShareAnyMore(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		var events []*dedupe.Event
		fail := func() {
			e, _ := failed(l, int64(len(events)))
			events = append(events, e)
			time.Sleep(time.Second)
		}
		for range 20 {
			fail()
		}
		for i, e := range events[:4] {
			l.Remove(fmt.Sprint("id:", i), e)
		}
		for n := 5; n < 10; n++ {
			fail()
			for i, e := range events {
				if aside(e) != (i < n) {
					t.Fatalf("%d fail, and message %d is set aside: %v", len(events), i, aside(e))
				}
			}
		}
	})
}

func TestAMessageThatFailsBeforeAllOfItHasEnteredIsSetAsideThen(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		var events []*dedupe.Event
		for i := range 17 {
			e := message(int64(i))
			w, _ := l.Add(fmt.Sprint("id:", i), e)
			w.Start()
			w.Retry(true)
			events = append(events, e)
		}
		l.AllAdded(events[5].Message)
		for i, e := range events {
			if aside(e) != (i == 5) {
				t.Errorf("message %d: set aside is %v", i, aside(e))
			}
		}
	})
}

func TestOfThoseBesideAttemptsTheOldestOfTheUserWithTheMostIsSetAside(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		n := int64(0)
		beside := map[string][]*dedupe.Event{}
		enter := func(user string) { // each expires before the one before: none supersedes another
			n++
			e := message(n)
			e.ExpiresAt = time.Now().Add(time.Hour - time.Duration(n)*time.Minute)
			time.Sleep(time.Millisecond)
			w, isNew := l.Add(user, e)
			l.AllAdded(e.Message)
			if isNew {
				w.Start()
				return
			}
			beside[user] = append(beside[user], e)
		}
		for _, user := range []string{"ada", "grace", "ada", "ada", "ada", "grace", "ada", "grace", "ada", "grace", "ada"} {
			enter(user)
		}
		if len(beside["ada"]) != 6 || len(beside["grace"]) != 3 {
			t.Fatal(len(beside["ada"]), len(beside["grace"]))
		}
		for user, events := range beside {
			for i, e := range events {
				if aside(e) != (user == "ada" && i == 0) {
					t.Errorf("message %d of %s: set aside is %v", i, user, aside(e))
				}
			}
		}
	})
}

func TestAnEagerMessageIsNotSetAsideWhileAnotherOfItsUsersWaitsForAFirstAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first, second := message(1), message(1)
		first.Message.Eager = true
		second.Message = first.Message
		a, _ := l.Add("ada", first)
		b, _ := l.Add("grace", second)
		l.AllAdded(first.Message)
		a.Start()
		a.Retry(true)
		if aside(first) {
			t.Fatal("set aside, and somebody was not tried")
		}
		b.Start()
		b.Retry(true)
		if !aside(first) {
			t.Error("not set aside when all have failed")
		}
	})
}

func TestWhoWaitsForSomebodyElseIsInTheShareOfThoseWhoFail(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		var works []*dedupe.Work
		var events []*dedupe.Event
		for i := range 17 {
			e := message(int64(i))
			w, _ := l.Add(fmt.Sprint("id:", i), e)
			l.AllAdded(e.Message)
			works, events = append(works, w), append(events, e)
		}
		for _, w := range works[:16] {
			w.Pause()
			time.Sleep(time.Second)
		}
		for _, w := range works[:16] {
			w.Resume()
		}
		for _, w := range works[1:] { // only these wait now
			w.Pause()
			time.Sleep(time.Second)
		}
		for i, e := range events {
			if aside(e) {
				t.Fatalf("message %d was set aside, and 16 may wait", i)
			}
		}
		works[0].Pause()
		n := 0
		for _, e := range events {
			if aside(e) {
				n++
			}
		}
		if n != 1 || !aside(events[1]) {
			t.Errorf("%d messages were set aside, want the one that has waited longest", n)
		}
	})
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		e.Message.Eager = true
		w, _ := l.Add(key, e)
		l.AllAdded(e.Message)
		if w.Pause(); !aside(e) {
			t.Error("a message for one attempt waits for somebody else")
		}
	})
}

// A pause that Graph asks of everyone does not mend a user.
func TestWhoHasFailedStaysInTheShareUntilTheyAreDecided(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		var events []*dedupe.Event
		var works []*dedupe.Work
		for i := range 16 {
			e, w := failed(l, int64(i))
			time.Sleep(time.Second)
			w.Start()
			w.Retry(false)
			events, works = append(events, e), append(works, w)
		}
		failed(l, 16)
		if !aside(events[0]) {
			t.Fatal("17 fail, and none is set aside")
		}
		works[1].Start()
		works[1].Succeeded(attempt(time.Now()), nil)
		failed(l, 17)
		if aside(events[2]) {
			t.Error("one was decided, and yet another is set aside")
		}
	})
}

func TestFlushCallsForTheUsersOfOneMessage(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		works := map[string]*dedupe.Work{}
		var m *dedupe.Message
		for _, user := range []string{"ada", "grace"} {
			w, _ := l.Add(user, message(0))
			w.Start()
			w.Failed(attempt(time.Now()), nil)
			e := message(1)
			works[user], _ = l.Add(user, e)
			if user == "ada" {
				m = e.Message
			}
		}
		l.FlushMessage(m)
		start := time.Now()
		if works["ada"].AwaitWindow(); time.Since(start) != 0 {
			t.Error("ada was not called for at once")
		}
		if works["grace"].AwaitWindow(); time.Since(start) != time.Minute {
			t.Errorf("grace was called for after %s", time.Since(start))
		}
	})
}

// What is less urgent may wait for others: it stands for nobody more urgent.
func TestANewerMessageOfALessUrgentSourceSupersedesNobody(t *testing.T) {
	for older, superseded := range map[int]bool{0: false, 1: true, 2: true} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			a, b := message(1), message(2)
			a.Message.Source, b.Message.Source = older, 1
			b.Enqueued = b.Enqueued.Add(time.Second)
			l.Add(key, a)
			l.Add(key, b)
			if got := fate(a) == dedupe.Superseded; got != superseded {
				t.Errorf("source %d superseded by source 1: %v", older, got)
			}
		})
	}
}

// The volume guard may stop the newer one's type, and not the older one's.
func TestAnEventOfAnotherTypeSupersedesNobody(t *testing.T) {
	for kind, superseded := range map[string]bool{"device.lost": true, "device.stolen": false} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			a, b := message(1), message(2)
			a.Kind, b.Kind = "device.lost", kind
			b.Enqueued = b.Enqueued.Add(time.Second)
			l.Add(key, a)
			l.Add(key, b)
			if got := fate(a) == dedupe.Superseded; got != superseded {
				t.Errorf("superseded by an event of type %s: %v", kind, got)
			}
		})
	}
}

func TestAMessageIsSetAsideOnRequestUnlessItMayNotGo(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		waits, fails := message(1), message(2)
		l.Add("ada", waits)
		l.AllAdded(waits.Message)
		w, _ := l.Add("grace", fails)
		l.AllAdded(fails.Message)
		w.Start()
		w.Retry(true)
		l.Defer(waits.Message)
		l.Defer(fails.Message)
		if aside(waits) || !aside(fails) {
			t.Errorf("set aside: who waits for a first attempt %v, who fails %v", aside(waits), aside(fails))
		}
	})
}

// While a user waits for a release of the volume guard, an event of a type that is not stopped may come: its message must stay until the
// Work has looked.
func TestAnEventOfAnotherTypeIsNotSetAsideBeforeThePausedWorkHasLooked(t *testing.T) {
	for kind, goes := range map[string]bool{"device.lost": true, "device.stolen": false} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			stopped, back := message(1), message(2)
			stopped.Kind, back.Kind, back.Message.Eager = "device.lost", kind, true
			back.Enqueued = stopped.Enqueued.Add(-time.Second) // supersedes nobody
			back.ExpiresAt = time.Now().Add(time.Hour)
			stopped.ExpiresAt = time.Now().Add(time.Minute) // nor does the other
			w, _ := l.Add(key, stopped)
			l.AllAdded(stopped.Message)
			w.Pause()
			l.Add(key, back)
			l.AllAdded(back.Message)
			if aside(back) != goes {
				t.Errorf("%s is set aside: %v", kind, aside(back))
			}
			if w.Pause(); !aside(back) {
				t.Errorf("%s is not set aside although the Work has looked", kind)
			}
		})
	}
}
