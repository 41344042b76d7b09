package dedupe_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
)

// isDeferred reports whether the ledger has asked for the message to be deferred.
func isDeferred(e *dedupe.Event) bool { return e.Message.MustDefer() }

// failed adds a message of one user, whose first attempt fails.
func failed(l *dedupe.Ledger, number int64) (*dedupe.Event, *dedupe.Work) {
	e := message(number)
	w, _ := l.Add(fmt.Sprint("id:", number), e)
	l.AllAdded(e.Message)
	w.Start()
	w.Retry(true)
	return e, w
}

func TestLedgerDefersTheMessageThatHasFailedLongestWhenTooManyFail(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		var events []*dedupe.Event
		for i := range 20 { // MaxFailing is 16
			e, _ := failed(l, int64(i))
			events = append(events, e)
			time.Sleep(time.Second)
		}
		for i, e := range events {
			if isDeferred(e) != (i < 4) {
				t.Errorf("message %d: deferred is %v", i, isDeferred(e))
			}
		}
	})
}

func TestLedgerParksHoweverManyUsersFail(t *testing.T) {
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

func TestLedgerCallsTheUserWithTheMostParkedMessagesPastTheShare(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		for _, user := range []string{"ada", "grace"} {
			w, _ := l.Add(user, message(0))
			w.Start()
			w.Failed(attempt(time.Now()), nil)
		}
		number := int64(0)
		add := func(user string) *dedupe.Work { // each expires earlier than the one before, so none supersedes another
			number++
			e := message(number)
			e.ExpiresAt = time.Now().Add(time.Hour - time.Duration(number)*time.Second)
			time.Sleep(time.Millisecond)
			w, _ := l.Add(user, e)
			return w
		}
		grace := add("grace")
		var ada *dedupe.Work
		for range 7 {
			ada = add("ada")
		}
		if s := l.State(); s.Parked != 2 {
			t.Fatalf("%+v, want both parked with 8 messages", s)
		}
		add("grace") // is the ninth message
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

func TestLedgerSharesOfSourcesAreIndependent(t *testing.T) {
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
		if isDeferred(other) {
			t.Error("another source's message was deferred")
		}
	})
}

func TestLedgerDoesNotDeferWhatMayNotBeDeferred(t *testing.T) {
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
			if isDeferred(e) {
				t.Errorf("%s was deferred", e.MessageID)
			}
		}
	})
}

func TestLedgerDefersAnEagerMessageAfterOneMoreFailure(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		e.Message.Eager = true
		w, _ := l.Add(key, e)
		l.AllAdded(e.Message)
		w.SetFailing()
		if isDeferred(e) {
			t.Fatal("deferred before its attempt")
		}
		w.Start()
		w.Retry(false) // a 429 is not the user's failure
		if isDeferred(e) {
			t.Fatal("deferred for a 429")
		}
		w.Start()
		w.Retry(true)
		if !isDeferred(e) {
			t.Error("not deferred")
		}
		l.Remove(key, e)
		if s := l.State(); s.PendingUsers != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// While an attempt hangs, messages about its user that may not supersede each other pile up beside
// it.
func TestLedgerMessagesBesideAnAttemptDoNotUseUpTheRestOfTheSource(t *testing.T) {
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
			if isDeferred(e) {
				n++
			}
		}
		if n != 12 {
			t.Errorf("%d of 20 messages were deferred, want all but 8", n)
		}
	})
}

func TestLedgerDeferredMessageIsInNoShare(t *testing.T) {
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
				if isDeferred(e) != (i < n) {
					t.Fatalf("%d fail, and message %d is deferred: %v", len(events), i, isDeferred(e))
				}
			}
		}
	})
}

func TestLedgerDefersAFailingMessageOnceAllOfItWasAdded(t *testing.T) {
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
			if isDeferred(e) != (i == 5) {
				t.Errorf("message %d: deferred is %v", i, isDeferred(e))
			}
		}
	})
}

func TestLedgerDefersTheOldestBesideAttemptsOfTheUserWithTheMost(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		n := int64(0)
		beside := map[string][]*dedupe.Event{}
		add := func(user string) { // each expires earlier than the one before, so none supersedes another
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
			add(user)
		}
		if len(beside["ada"]) != 6 || len(beside["grace"]) != 3 {
			t.Fatal(len(beside["ada"]), len(beside["grace"]))
		}
		for user, events := range beside {
			for i, e := range events {
				if isDeferred(e) != (user == "ada" && i == 0) {
					t.Errorf("message %d of %s: deferred is %v", i, user, isDeferred(e))
				}
			}
		}
	})
}

func TestLedgerDoesNotDeferAnEagerMessageWhileAUserWaitsForAFirstAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first, second := message(1), message(1)
		first.Message.Eager = true
		second.Message = first.Message
		a, _ := l.Add("ada", first)
		b, _ := l.Add("grace", second)
		l.AllAdded(first.Message)
		a.Start()
		a.Retry(true)
		if isDeferred(first) {
			t.Fatal("deferred although one user was not tried")
		}
		b.Start()
		b.Retry(true)
		if !isDeferred(first) {
			t.Error("not deferred when all have failed")
		}
	})
}

func TestLedgerPausedUserIsInTheFailingShare(t *testing.T) {
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
			if isDeferred(e) {
				t.Fatalf("message %d was deferred, and 16 may wait", i)
			}
		}
		works[0].Pause()
		n := 0
		for _, e := range events {
			if isDeferred(e) {
				n++
			}
		}
		if n != 1 || !isDeferred(events[1]) {
			t.Errorf("%d messages were deferred, want the one that has waited longest", n)
		}
	})
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		e.Message.Eager = true
		w, _ := l.Add(key, e)
		l.AllAdded(e.Message)
		if w.Pause(); !isDeferred(e) {
			t.Error("an eager message waits for another replica")
		}
	})
}

// A 429 does not end the user's failure.
func TestLedgerFailingUserStaysInTheShareUntilDecided(t *testing.T) {
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
		if !isDeferred(events[0]) {
			t.Fatal("17 messages fail, and none is deferred")
		}
		works[1].Start()
		works[1].Succeeded(attempt(time.Now()), nil)
		failed(l, 17)
		if isDeferred(events[2]) {
			t.Error("another message is deferred although one was decided")
		}
	})
}

func TestLedgerFlushMessageCallsForTheUsersOfOneMessage(t *testing.T) {
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

// A less urgent message may wait for others, so it supersedes no more urgent one.
func TestLedgerNewerMessageOfALessUrgentSourceSupersedesNobody(t *testing.T) {
	for older, superseded := range map[int]bool{0: false, 1: true, 2: true} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			a, b := message(1), message(2)
			a.Message.Source, b.Message.Source = older, 1
			b.Enqueued = b.Enqueued.Add(time.Second)
			l.Add(key, a)
			l.Add(key, b)
			if got := disposition(a) == dedupe.Superseded; got != superseded {
				t.Errorf("source %d superseded by source 1: %v", older, got)
			}
		})
	}
}

// The volume guard may stop the type of the newer event but not that of the older one.
func TestLedgerEventOfAnotherTypeSupersedesNobody(t *testing.T) {
	for kind, superseded := range map[string]bool{"device.lost": true, "device.stolen": false} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			a, b := message(1), message(2)
			a.Kind, b.Kind = "device.lost", kind
			b.Enqueued = b.Enqueued.Add(time.Second)
			l.Add(key, a)
			l.Add(key, b)
			if got := disposition(a) == dedupe.Superseded; got != superseded {
				t.Errorf("superseded by an event of type %s: %v", kind, got)
			}
		})
	}
}

func TestLedgerDefersOnRequestOnlyWhatMayBeDeferred(t *testing.T) {
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
		if isDeferred(waits) || !isDeferred(fails) {
			t.Errorf("deferred: the message that waits for a first attempt %v, the failing one %v", isDeferred(waits), isDeferred(fails))
		}
	})
}

// While a user waits for a release of the volume guard, an event of a type that is not stopped may
// be added. Its message must not be deferred before the Work has checked.
func TestLedgerDoesNotDeferAnEventOfAnotherTypeBeforeThePausedWorkHasChecked(t *testing.T) {
	for kind, goes := range map[string]bool{"device.lost": true, "device.stolen": false} {
		inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
			stopped, back := message(1), message(2)
			stopped.Kind, back.Kind, back.Message.Eager = "device.lost", kind, true
			back.Enqueued = stopped.Enqueued.Add(-time.Second) // it supersedes nobody
			back.ExpiresAt = time.Now().Add(time.Hour)
			stopped.ExpiresAt = time.Now().Add(time.Minute) // and the other one does not either
			w, _ := l.Add(key, stopped)
			l.AllAdded(stopped.Message)
			w.Pause()
			l.Add(key, back)
			l.AllAdded(back.Message)
			if isDeferred(back) != goes {
				t.Errorf("%s is deferred: %v", kind, isDeferred(back))
			}
			if w.Pause(); !isDeferred(back) {
				t.Errorf("%s is not deferred although the Work has checked", kind)
			}
		})
	}
}
