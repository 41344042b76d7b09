package dedupe_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/dedupe"
)

// elsewhere returns the verdict of a success of another replica, whose attempt started then.
func elsewhere(start time.Time) dedupe.Verdict {
	return dedupe.Verdict{Start: start, Covers: start.Add(-5 * time.Second), Entity: "events", Sequence: 1000}
}

func TestLedgerAdoptsSuccessThatCoversWhatWasEnqueuedBefore(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		w, _ := l.Add(key, e)
		time.Sleep(10 * time.Second)
		if again, _ := w.Adopt(elsewhere(time.Now())); again {
			t.Error("somebody still waits")
		}
		want(t, e, dedupe.Covered)
		if s := l.State(); s.PendingUsers != 0 || s.Remembered != 1 {
			t.Errorf("%+v", s)
		}
		late := message(2)
		late.Enqueued = e.Enqueued
		if l.Add(key, late); disposition(late) != dedupe.Covered {
			t.Error("what was adopted is forgotten")
		}
	})
}

func TestLedgerCallsOnceAtTheEndOfTheWindowForWhatAnAdoptedSuccessDoesNotCover(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		start := time.Now()
		time.Sleep(time.Second)
		e := message(1) // enqueued after the start of that call
		w, _ := l.Add(key, e)
		again, parked := w.Adopt(elsewhere(start))
		if !again || !parked {
			t.Fatalf("again %v, parked %v", again, parked)
		}
		want(t, e, dedupe.Undecided)
		w.AwaitWindow()
		if waited := time.Since(start); waited != time.Minute {
			t.Errorf("called %s after the start of that call", waited)
		}
		// The same verdict, read again, does not park it again.
		if again, parked := w.Adopt(elsewhere(start)); !again || parked {
			t.Errorf("again %v, parked %v", again, parked)
		}
		if !w.Start() {
			t.Fatal("no attempt")
		}
		w.Succeeded(attempt(time.Now()), nil)
		want(t, e, dedupe.Revoked)
	})
}

func TestLedgerDoesNotParkAgainForAWindowThatEndedEarly(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		first := message(1)
		w, _ := l.Add(key, first)
		w.Start()
		start := time.Now()
		w.Succeeded(attempt(start), nil)
		reached := w.Verdict()
		if !reached.Start.Equal(start) || reached.Sequence != 1 || reached.Covers.IsZero() {
			t.Fatalf("verdict %+v", reached)
		}
		w, _ = l.Add(key, message(2))
		l.FlushParked()
		w.AwaitWindow()
		if again, parked := w.Adopt(reached); !again || parked {
			t.Errorf("again %v, parked %v", again, parked)
		}
	})
}

func TestLedgerAdoptsFailureThatCoversNobodyAndTakesNoCoverBack(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		old := message(1)
		time.Sleep(10 * time.Second)
		e := message(2)
		w, _ := l.Add(key, e)
		w.Adopt(elsewhere(time.Now())) // covers the old one alone
		if again, parked := w.Adopt(dedupe.Verdict{Start: time.Now()}); !again || !parked {
			t.Errorf("again %v, parked %v", again, parked)
		}
		want(t, e, dedupe.Undecided)
		if l.Add(key, old); disposition(old) != dedupe.Covered {
			t.Error("a failure took back what a success had covered")
		}
	})
}

func TestLedgerEndsWorkWhoseEventIsRemovedWhileAnotherReplicaCalls(t *testing.T) {
	inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
		e := message(1)
		w, _ := l.Add(key, e)
		w.Pause()
		l.Remove(key, e)
		synctest.Wait()
		if w.Context().Err() == nil {
			t.Error("the context goes on although nobody waits")
		}
		newer := message(2)
		other, isNew := l.Add(key, newer)
		// Calls on the old Work must not change the new one.
		w.Pause()
		if again, _ := w.Adopt(elsewhere(time.Now())); again {
			t.Error("an event waits for the old Work")
		}
		w.Resume()
		if !isNew || !other.Start() {
			t.Error("the new Work is gone")
		}
		if other.Succeeded(attempt(time.Now()), nil); disposition(newer) != dedupe.Revoked {
			t.Error("the ledger counts an event that was removed")
		}
	})
}

// A verdict from Redis may be wrong, or be written by somebody else.
func TestLedgerIgnoresImplausibleVerdictOfAnotherReplica(t *testing.T) {
	for name, c := range map[string]struct {
		theirs func(now time.Time) dedupe.Verdict
		parked bool
		covers bool
	}{
		"plausible":       {func(now time.Time) dedupe.Verdict { return elsewhere(now) }, true, true},
		"from the future": {func(now time.Time) dedupe.Verdict { return elsewhere(now.Add(time.Hour)) }, false, false},
		"from 9999":       {func(time.Time) dedupe.Verdict { return elsewhere(year(9999)) }, false, false},
		"from 1601":       {func(time.Time) dedupe.Verdict { return elsewhere(year(1601)) }, false, false},
		"covers what comes": {func(now time.Time) dedupe.Verdict {
			return dedupe.Verdict{Start: now, Covers: now.Add(time.Hour), Entity: "events", Sequence: 1000}
		}, true, true},
		"covers 9999": {func(now time.Time) dedupe.Verdict {
			return dedupe.Verdict{Start: now, Covers: year(9999), Entity: "events", Sequence: 1000}
		}, true, true},
		"covers 1601": {func(now time.Time) dedupe.Verdict {
			return dedupe.Verdict{Start: now, Covers: year(1601), Entity: "events", Sequence: 1000}
		}, true, false},
		"of a message alone": {func(now time.Time) dedupe.Verdict {
			return dedupe.Verdict{Start: now, Entity: "events", Sequence: 1000}
		}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, l *dedupe.Ledger) {
				old := message(1)
				time.Sleep(10 * time.Second)
				now := message(2)
				future := message(3)
				future.Enqueued = future.Enqueued.Add(30 * time.Minute)
				w, _ := l.Add(key, now)
				begun := time.Now()
				again, parked := w.Adopt(c.theirs(begun))
				if want(t, now, dedupe.Undecided); !again || parked != c.parked {
					t.Errorf("again %v, parked %v", again, parked)
				}
				if w.AwaitWindow(); time.Since(begun) > time.Minute {
					t.Errorf("parked for %s", time.Since(begun))
				}
				l.Add(key, old)
				if got := disposition(old) == dedupe.Covered; got != c.covers {
					t.Errorf("an older event is covered: %v", got)
				}
				if l.Add(key, future); disposition(future) == dedupe.Covered {
					t.Error("a later event is covered")
				}
			})
		})
	}
}
