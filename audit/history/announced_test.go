package history_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/history"
)

// plan adds the decision to schedule a message for a date. seconds is when the announcement was made.
func (l *log) plan(seconds int, copied int64, date int, canceled ...int64) {
	l.t.Helper()
	l.decide(seconds, "scheduled", adaID, ada, func(d *audit.Decision) {
		d.EffectiveTime, d.ScheduledAs, d.Canceled = at(date), copied, canceled
	})
}

// due adds the decision about the announcement of a time, when its scheduled message was delivered at
// its date.
func (l *log) due(seconds, date int, outcome string, more ...func(*audit.Decision)) {
	l.t.Helper()
	l.decide(date, outcome, adaID, ada, func(d *audit.Decision) {
		d.EffectiveTime, d.FirstEnqueued = at(date), at(seconds)
		for _, change := range more {
			change(d)
		}
	})
}

// tooFar adds the refusal of an announcement whose date is too far ahead.
func (l *log) tooFar(date int) {
	l.t.Helper()
	l.decide(0, "dead_lettered", adaID, ada, func(d *audit.Decision) { d.EffectiveTime, d.Reason = at(date), "TooFarAhead" })
}

func reason(reason string) func(*audit.Decision) {
	return func(d *audit.Decision) { d.Reason = reason }
}

// onwards goes on with the log for two hours after the date of the plans.
func (l *log) onwards() { l.decide(3600+7200, "revoked", otherID, "", nil) }

func TestHistoryOfAnnouncements(t *testing.T) {
	for name, one := range map[string]struct {
		log   func(*log)
		state history.State
		texts []string
	}{
		"moved to an earlier date": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.plan(9, 5, 1800, 4)
			}, history.Scheduled, []string{"Not yet", "2026-03-01 12:30:00Z; the scheduled message 4 was canceled"},
		},
		"moved to an earlier date, and the record of the cancellation was lost": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.plan(9, 5, 1800)
			}, history.Scheduled, []string{"Not yet", "2026-03-01 12:30:00Z."},
		},
		"the other one by name alone, which counts as another person": {
			func(l *log) {
				l.decide(0, "revoked", adaID, ada, nil) // joins them here
				l.decide(1, "scheduled", adaID, "", func(d *audit.Decision) { d.EffectiveTime, d.ScheduledAs = at(3600), 4 })
				l.decide(9, "scheduled", "", ada, func(d *audit.Decision) { d.EffectiveTime, d.ScheduledAs = at(7200), 5 })
			}, history.Scheduled, []string{"Yes, and again later: ", "is to be signed out on 2026-03-01 13:00:00Z"},
		},
		"of two sources": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.decide(9, "scheduled", adaID, ada, func(d *audit.Decision) {
					d.Source, d.EffectiveTime, d.ScheduledAs = "other", at(7200), 4
				})
			}, history.Scheduled, []string{"is to be signed out on 2026-03-01 13:00:00Z"},
		},
		"signed out at the date, a little early": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.due(0, 3600, "revoked", func(d *audit.Decision) { d.CallStart, d.CallEnd = at(3550), at(3551) })
				l.onwards()
			}, history.SignedOut, []string{"Yes: ", "Delivered at its date: device.stolen by intune"},
		},
		"not finished at first, and signed out a little early": {
			func(l *log) {
				l.decide(0, "unfinished", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(50) })
				l.decide(0, "revoked", adaID, ada, func(d *audit.Decision) {
					d.EffectiveTime, d.CallStart, d.CallEnd, d.Time = at(50), at(20), at(21), at(22)
				})
			}, history.SignedOut, nil,
		},
		"refused at the date": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.due(0, 3600, "dead_lettered", reason("Forbidden"))
			}, history.NotSignedOut, []string{"Forbidden"},
		},
		"no record after the date": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.onwards()
			}, history.NotSignedOut, []string{"was to be signed out on 2026-03-01 13:00:00Z, and nothing in this log, which ends"},
		},
		"signed out before, and no record after the date": {
			func(l *log) {
				l.decide(0, "revoked", adaID, ada, nil)
				l.plan(9, 4, 3600)
				l.onwards()
			}, history.NotSignedOut, []string{"signed out at 2026-03-01 12:00:01Z, but was to be on 2026-03-01 13:00:00Z"},
		},
		"signed out by another event after the date": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.decide(3700, "revoked", adaID, ada, nil)
				l.onwards()
			}, history.SignedOut, []string{"Yes: "},
		},
		"withdrawn as the date had come": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.due(0, 3600, "outdated", func(d *audit.Decision) { d.Time, d.SupersededBy = at(3700), 6 })
				l.decide(3690, "withdrawn", adaID, ada, nil)
				l.onwards()
			}, history.NotAsked, []string{"what was announced was taken back"},
		},
		"moved as the date had come": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.due(0, 3600, "outdated", func(d *audit.Decision) { d.Time, d.SupersededBy = at(3700), 6 })
				l.plan(3595, 6, 99_999) // while its message was on its way
				l.onwards()
			}, history.Scheduled, []string{"Not yet: ", "2026-03-02 15:46:39Z"},
		},
		"moved to a date that is past": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.decide(100, "revoked", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(90) })
				l.onwards()
			}, history.SignedOut, []string{"Yes: "},
		},
		"an older one comes late": {
			func(l *log) {
				l.plan(9, 4, 3600)
				l.decide(20, "outdated", adaID, ada, func(d *audit.Decision) { d.EventTime, d.EffectiveTime = at(1), at(3600) })
			}, history.Scheduled, []string{"Not yet: "},
		},
		"another one is refused at sight": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.decide(9, "dead_lettered", adaID, ada, func(d *audit.Decision) { d.Reason, d.EffectiveTime = "NoTrigger", at(3600) })
			}, history.Scheduled, []string{"Not yet: "},
		},
		"withdrawn, and the record of the cancellation was lost": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.decide(9, "withdrawn", adaID, ada, nil)
				l.onwards()
			}, history.NotAsked, nil,
		},
		"not finished at first, then scheduled": {
			func(l *log) {
				l.decide(0, "unfinished", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(3600) })
				l.plan(0, 4, 3600)
			}, history.Scheduled, []string{"Not yet: "},
		},
		"not finished at first, then scheduled, then withdrawn": {
			func(l *log) {
				l.decide(0, "unfinished", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(3600) })
				l.plan(0, 4, 3600)
				l.decide(9, "withdrawn", adaID, ada, nil)
				l.onwards()
			}, history.NotAsked, nil,
		},
		"too far ahead, replayed, and scheduled": {
			func(l *log) {
				l.tooFar(3600)
				l.decide(10, "scheduled", adaID, ada, func(d *audit.Decision) {
					d.EffectiveTime, d.ScheduledAs, d.ReplayRun, d.FirstEnqueued = at(3600), 4, run, at(0)
				})
			}, history.Scheduled, []string{"Not yet: "},
		},
		"too far ahead, and corrected": {
			func(l *log) {
				l.tooFar(99_999_999)
				l.decide(10, "revoked", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(9) })
			}, history.SignedOut, []string{"Yes: "},
		},
		"too far ahead": {
			func(l *log) {
				l.tooFar(99_999_999)
			}, history.NotSignedOut, []string{"(event of 2026-03-01 12:00:00Z)"},
		},
		"canceled by an operator": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled cancel", "3-5", "3-5")
			}, history.NotAsked, []string{
				"grace (root@jump) began to cancel the scheduled message 4; why: HR-2041.",
				"grace (root@jump) canceled the scheduled message 4.",
				"No: " + adaID + " is not to be signed out: the scheduled message 4 was canceled at 2026-03-01 12:00:21Z.",
			},
		},
		"canceled by an operator, who had found the date in the past": {
			func(l *log) {
				l.plan(0, 4, 19)
				l.change("scheduled cancel", "4", "")
				l.onwards()
			}, history.NotSignedOut, []string{"was to be signed out on 2026-03-01 12:00:19Z", "could not cancel all of"},
		},
		"canceled by an operator, who then failed with others": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled cancel", "4-5", "4")
			}, history.NotAsked, []string{"canceled the scheduled message 4.", "what they began with: no right to send"},
		},
		"canceled by an operator, by ranges that overlap": {
			func(l *log) {
				l.plan(0, 50, 3600)
				l.change("scheduled cancel", "1-99,5-6", "1-99,5-6")
			}, history.NotAsked, []string{"canceled the scheduled message 50."},
		},
		"another's was canceled by an operator": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled cancel", "5-9", "5-9")
			}, history.Scheduled, []string{"Not yet"},
		},
		"canceled by an operator, and then scheduled with the same number in a new queue": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled cancel", "4", "4")
				l.plan(86_400, 4, 99_999)
			}, history.Scheduled, []string{"2026-03-02 15:46:39Z"},
		},
		"a withdrawal's mark was canceled by an operator": {
			func(l *log) {
				l.decide(9, "withdrawn", adaID, ada, func(d *audit.Decision) { d.ScheduledAs, d.EffectiveTime = 4, at(-9000) })
				l.change("scheduled cancel", "4", "4")
			}, history.NotAsked, []string{"canceled the scheduled message 4."},
		},
		"without a known number, and others were canceled": {
			func(l *log) {
				l.plan(0, 0, 3600)
				l.change("scheduled cancel", "0-5", "0-5")
			}, history.Scheduled, []string{"Not yet"},
		},
		"brought forward by an operator, and done": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled now", "4", "4")
				l.decide(22, "revoked", adaID, ada, nil)
				l.onwards()
			}, history.SignedOut, []string{"Yes: ", "canceled the scheduled message 4, and had sent its event without a date before."},
		},
		"an older one comes when the newer one was acted on": {
			func(l *log) {
				l.decide(5, "revoked", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(4) })
				l.decide(9, "scheduled", adaID, ada, func(d *audit.Decision) {
					d.EventTime, d.EffectiveTime, d.ScheduledAs = at(1), at(3600), 4
				})
			}, history.Scheduled, []string{"Yes, and again later: "},
		},
		"not finished at first, and the date is ahead": {
			func(l *log) {
				l.decide(0, "unfinished", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(3600) })
			}, history.Scheduled, []string{"Not yet: " + adaID + " is to be signed out on 2026-03-01 13:00:00Z"},
		},
		"a withdrawal is not finished": {
			func(l *log) {
				l.decide(0, "revoked", adaID, ada, nil)
				l.decide(9, "unfinished", adaID, ada, func(d *audit.Decision) { d.Withdrawn = true })
			}, history.SignedOut, []string{"Yes: "},
		},
		"joined with a newer event a little early": {
			func(l *log) {
				l.decide(10, "superseded", adaID, ada, func(d *audit.Decision) { d.EffectiveTime, d.SupersededBy = at(66), 11 })
				l.decide(11, "revoked", adaID, ada, func(d *audit.Decision) { d.CallStart, d.CallEnd = at(60), at(61) })
			}, history.SignedOut, []string{"Yes: "},
		},
		"a command long after the date is about another message with the number": {
			func(l *log) {
				l.plan(-90_000, 4, -80_000)
				l.due(-90_000, -80_000, "revoked")
				l.change("scheduled now", "4", "4")
			}, history.SignedOut, []string{"Yes: "},
		},
		"an operator was killed while they canceled it": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.operate(audit.Operation{
					Time: at(20), Command: "scheduled cancel", Run: run, Outcome: audit.Started, Source: "q", Messages: "4",
				})
				l.onwards()
			}, history.NotSignedOut, []string{"grace (root@jump) began to cancel it, and nothing says that it was canceled"},
		},
		"an operator could not bring it forward": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled now", "4", "")
			}, history.Scheduled, []string{"Not yet: ", "could not bring forward all of"},
		},
		"brought forward by an operator whose clock is ahead": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.change("scheduled now", "4", "4")
				l.decide(14, "revoked", adaID, ada, nil)
			}, history.SignedOut, []string{"Yes: "},
		},
		"brought forward by an operator, and never done": {
			func(l *log) {
				l.decide(-99, "revoked", adaID, ada, nil)
				l.plan(1, 4, 3600)
				l.change("scheduled now", "4", "4")
				l.onwards()
			}, history.NotSignedOut, []string{"grace (root@jump) began to bring the date forward, and no call followed"},
		},
	} {
		l := newLog(t)
		one.log(l)
		t.Run(name, func(t *testing.T) { want(t, l.of(adaID, ""), one.state, one.texts...) })
	}
}

// The log of a worker that has stopped before the date cannot say whether it was kept.
func TestHistoryKnowsThatADateHasPassed(t *testing.T) {
	l := newLog(t)
	l.plan(0, 4, 3600)
	want(t, l.asked(adaID, "", at(3600+60)), history.Scheduled, "Not yet: ")
	want(t, l.asked(adaID, "", at(3600+601)), history.NotSignedOut, "this log, which ends at 2026-03-01 12:00:01Z, says")
}

// What one event asks for is not answered by the end of another one.
func TestHistoryKeepsWhatEachEventAsksFor(t *testing.T) {
	l := newLog(t)
	l.decide(-9, "revoked", adaID, ada, nil)
	l.decide(0, "dead_lettered", adaID, ada, reason("Forbidden"))
	l.decide(5, "unfinished", adaID, ada, nil)
	l.decide(5, "outdated", adaID, ada, nil)
	want(t, l.of(adaID, ""), history.NotSignedOut, "Not after the last event: ", "Forbidden")
}

// The files of two replicas are read one after the other, in any order.
func TestHistoryReadsFilesInAnyOrder(t *testing.T) {
	first, second := newLog(t), newLog(t)
	first.decide(5, "unfinished", adaID, ada, func(d *audit.Decision) { d.EffectiveTime = at(99) })
	second.decide(5, "outdated", adaID, ada, func(d *audit.Decision) { d.Time, d.EffectiveTime = at(9), at(99) })
	second.decide(7, "withdrawn", adaID, ada, nil)
	second.text.Write(first.text.Bytes())
	want(t, second.of(adaID, ""), history.NotAsked)

	first, second = newLog(t), newLog(t)
	first.plan(0, 4, 3600)
	second.due(0, 3600, "revoked", func(d *audit.Decision) { d.CallStart, d.CallEnd = at(3550), at(3551) })
	second.onwards()
	second.text.Write(first.text.Bytes())
	want(t, second.of(adaID, ""), history.SignedOut, "Yes: ")
}

// Records of somebody without the key end nothing, and move no date.
func TestHistoryDoesNotBelieveForgedAnnouncements(t *testing.T) {
	key, err := audit.NewKey(bytes.Repeat([]byte("k"), 48))
	if err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string]struct {
		log, forged func(*log)
		now         time.Time
		state       history.State
	}{
		"a later date": {
			func(l *log) { l.plan(0, 4, 3600) }, func(l *log) { l.plan(9, 4, 99_999) }, at(7200), history.NotSignedOut,
		},
		"an older date that ends an open event": {
			func(l *log) { l.decide(0, "dead_lettered", adaID, ada, reason("Forbidden")) },
			func(l *log) { l.decide(0, "outdated", adaID, ada, nil) }, at(60), history.NotSignedOut,
		},
		"a cancellation": {
			func(l *log) { l.plan(0, 4, 3600) }, func(l *log) { l.change("scheduled cancel", "4", "4") }, at(60), history.Scheduled,
		},
		"a withdrawal": {
			func(l *log) { l.plan(0, 4, 3600) }, func(l *log) { l.decide(9, "withdrawn", adaID, ada, nil) }, at(60), history.Scheduled,
		},
	} {
		l := &log{t: t, keys: []audit.Key{key}}
		l.log = audit.New(&l.text, key)
		one.log(l)
		l.log = audit.New(&l.text, audit.Key{})
		one.forged(l)
		t.Run(name, func(t *testing.T) { want(t, l.asked(adaID, "", one.now), one.state, "they are marked") })
	}
}
