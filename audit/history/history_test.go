package history_test

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/history"
	"github.com/session-revoker/session-revoker/event"
)

const (
	adaID   = "588d7c15-8565-448e-bc2d-57f2b7c4c58a"
	otherID = "688d7c15-8565-448e-bc2d-57f2b7c4c58b"
	ada     = "Ada@contoso.com"
	run     = "0b8f2a52-7d3c-4c0e-9d0b-6a4c9f6f0a11"
)

// at is a number of seconds after noon.
func at(s int) time.Time { return time.Date(2026, 3, 1, 12, 0, s, 0, time.UTC) }

// log is an audit log in memory.
type log struct {
	t    *testing.T
	text bytes.Buffer
	log  *audit.Log
	keys []audit.Key
	last time.Time // of the records
}

func newLog(t *testing.T) *log {
	l := &log{t: t}
	l.log = audit.New(&l.text, audit.Key{})
	return l
}

// decide adds a decision. Its time is that of the enqueueing plus one second unless it has its own.
func (l *log) decide(seconds int, outcome, id, name string, change func(*audit.Decision)) {
	l.t.Helper()
	d := audit.Decision{
		Time: at(seconds + 1), Outcome: outcome, UserID: id, UserPrincipalName: name, Source: "q", SequenceNumber: int64(seconds),
		Enqueued: at(seconds), EventType: "device.stolen", EventSource: "intune", Mapping: "intune-actions",
	}
	if outcome == "revoked" {
		d.Calls, d.CallStart, d.CallEnd, d.Status, d.RequestID = 1, at(seconds), at(seconds+1), 200, "r"
	}
	d.Withdrawn = outcome == "withdrawn"
	if change != nil {
		change(&d)
	}
	if d.Time.After(l.last) {
		l.last = d.Time
	}
	if _, err := l.log.Write(d); err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) operate(o audit.Operation) {
	l.t.Helper()
	o.By, o.Account = "grace", "root@jump"
	if o.Time.After(l.last) {
		l.last = o.Time
	}
	if _, err := l.log.WriteOperation(o); err != nil {
		l.t.Fatal(err)
	}
}

// change adds the records of a command that changes scheduled messages, and has canceled some of them.
func (l *log) change(command, messages, canceled string) {
	l.t.Helper()
	o := audit.Operation{Time: at(20), Command: command, Run: run, Outcome: audit.Started, Source: "q", Messages: messages, Why: "HR-2041"}
	l.operate(o)
	o.Time, o.Outcome, o.Messages = at(21), audit.Done, canceled
	if canceled != messages {
		o.Outcome, o.Error = audit.Failed, "no right to send"
	}
	l.operate(o)
}

// of returns the history of a person, as of the last record.
func (l *log) of(id, name string) history.History {
	l.t.Helper()
	return l.asked(id, name, l.last)
}

// asked returns the history of a person for somebody who asks at a time.
func (l *log) asked(id, name string, now time.Time) history.History {
	l.t.Helper()
	user, err := event.NewUser(id, name)
	if err != nil {
		l.t.Fatal(err)
	}
	h, err := history.Of(l.t.Context(), func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(l.text.Bytes())), nil
	}, user, now, audit.Options{Keys: l.keys})
	if err != nil {
		l.t.Fatal(err)
	}
	return h
}

func kinds(h history.History) (kinds []history.Kind) {
	for _, s := range h.Steps {
		kinds = append(kinds, s.Kind)
	}
	return kinds
}

// want fails the test unless the history has the state, and the answer or a warning each text.
func want(t *testing.T, h history.History, state history.State, texts ...string) {
	t.Helper()
	if h.State != state {
		t.Errorf("%s (%s), want %s", h.State, h.Answer, state)
	}
	all := h.Answer + "\n" + strings.Join(h.Warnings, "\n")
	for _, s := range h.Steps {
		all += "\n" + s.Text
	}
	for _, text := range texts {
		if !strings.Contains(all, text) {
			t.Errorf("no %q in:\n%s", text, all)
		}
	}
}

func TestHistoryTellsTheWholeWayOfAPerson(t *testing.T) {
	l := newLog(t)
	l.decide(0, "dead_lettered", adaID, ada, func(d *audit.Decision) { d.Reason, d.Error = "RetriesExhausted", "Graph answers 500" })
	l.decide(5, "revoked", otherID, "bob@contoso.com", nil)
	l.operate(audit.Operation{
		Time: at(10), Command: "dlq replay", Run: run, Outcome: audit.Started, Source: "q", Messages: "0-3,9", Why: "Graph is back",
	})
	l.decide(11, "revoked", adaID, ada, func(d *audit.Decision) { d.ReplayRun, d.FirstEnqueued = run, at(0) })
	l.operate(audit.Operation{Time: at(20), Command: "revoke", Run: "x", Outcome: audit.Started, Users: []string{strings.ToLower(ada)}})
	l.operate(audit.Operation{Time: at(21), Command: "revoke", Run: "x", Outcome: audit.Revoked, UserPrincipalName: strings.ToLower(ada)})
	h := l.of(adaID, "")
	want(t, h, history.SignedOut, "Yes: "+adaID+" was signed out at 2026-03-01 12:00:21Z by hand by grace (root@jump)",
		"Reported: device.stolen by intune (mapping intune-actions)", "RetriesExhausted (Graph failed", "Graph answers 500",
		"grace (root@jump) replayed the dead letter (run "+run+"); why: Graph is back", "Back in the queue")
	order := []history.Kind{
		history.Reported, history.DeadLettered, history.Replayed, history.Reported, history.Called, history.Revoked, history.Effect,
		history.ByHand, history.RevokedByHand,
	}
	if got := kinds(h); !slices.Equal(got, order) {
		t.Errorf("%v, want %v", got, order)
	}
	if len(h.Warnings) > 0 || len(h.Names) != 1 || !h.Revoked.Equal(at(21)) {
		t.Errorf("%+v", h)
	}
}

func TestHistoryIsTheSameByIDAndByName(t *testing.T) {
	l := newLog(t)
	l.decide(0, "revoked", adaID, "", nil)                    // before a record has both
	l.decide(10, "revoked", "", "ada.byron@contoso.com", nil) // her name before
	l.decide(20, "revoked", adaID, "ada.byron@contoso.com", nil)
	l.decide(30, "revoked", adaID, ada, nil)
	l.decide(40, "revoked", "", "ADA@CONTOSO.COM", nil)
	byID, byName := l.of(adaID, ""), l.of("", ada)
	if len(byID.Steps) != 20 || len(byName.Steps) != 20 || !slices.Equal(byID.Names, byName.Names) || len(byID.Names) != 2 {
		t.Errorf("%d steps by id (%v), %d by name (%v)", len(byID.Steps), byID.Names, len(byName.Steps), byName.Names)
	}
}

func TestHistorySaysThatANameWasUsedAgain(t *testing.T) {
	l := newLog(t)
	l.decide(0, "revoked", adaID, ada, nil)
	l.decide(10, "dead_lettered", otherID, ada, func(d *audit.Decision) { d.Reason = "Forbidden" })
	h := l.of(adaID, "")
	want(t, h, history.SignedOut, otherID+" has had the name")
	if len(h.Steps) != 4 {
		t.Errorf("the steps of another person are among %+v", h.Steps)
	}
	want(t, l.of("", ada), history.NotSignedOut, "object ids that have had the name ada@contoso.com: 2;")
}

func TestHistoryAnswers(t *testing.T) {
	dead := func(reason string) func(*audit.Decision) { return func(d *audit.Decision) { d.Reason = reason } }
	for name, one := range map[string]struct {
		log   func(*log)
		state history.State
		texts []string
	}{
		"nothing": {func(*log) {}, history.NoRecord, []string{"no record in this log names"}},
		"protected": {
			func(l *log) { l.decide(0, "dead_lettered", adaID, "", dead("ProtectedUser")) }, history.NotSignedOut,
			[]string{"ProtectedUser", "guard.protected_users"},
		},
		"an event that asks for nothing": {
			func(l *log) { l.decide(0, "dead_lettered", adaID, "", dead("NoTrigger")) }, history.NotAsked,
			[]string{"no event in this log asks"},
		},
		"a failure after a success": {
			func(l *log) {
				l.decide(0, "revoked", adaID, ada, nil)
				l.decide(9, "dead_lettered", adaID, ada, dead("Forbidden"))
			}, history.NotSignedOut, []string{"was signed out at 2026-03-01 12:00:01Z, but not since the event of 2026-03-01 12:00:09Z"},
		},
		"a success after a failure": {
			func(l *log) {
				l.decide(0, "dead_lettered", adaID, ada, dead("Forbidden"))
				l.decide(9, "revoked", adaID, ada, nil)
			}, history.SignedOut, []string{"12:00:10Z"},
		},
		"a call that began before the event does not answer it": {
			func(l *log) {
				l.decide(9, "revoked", adaID, ada, func(d *audit.Decision) { d.CallStart, d.CallEnd = at(9), at(20) })
				l.decide(15, "dead_lettered", adaID, ada, dead("Forbidden"))
			}, history.NotSignedOut, nil,
		},
		"a call before the date at which the event takes effect": {
			func(l *log) {
				l.decide(10, "revoked", adaID, ada, nil)
				l.decide(100, "dead_lettered", adaID, ada, func(d *audit.Decision) {
					d.Reason, d.FirstEnqueued, d.EffectiveTime = "Forbidden", at(1), at(99)
				})
			}, history.NotSignedOut, nil,
		},
		"joined with a newer one that has no end": {
			func(l *log) { l.decide(0, "superseded", adaID, ada, func(d *audit.Decision) { d.SupersededBy = 7 }) }, history.NotSignedOut,
			[]string{"has no result in this log", "newer message 7"},
		},
		"joined with a newer one": {
			func(l *log) {
				l.decide(0, "superseded", adaID, ada, func(d *audit.Decision) { d.SupersededBy = 7 })
				l.decide(7, "revoked", adaID, ada, nil)
			}, history.SignedOut, nil,
		},
		"waiting": {
			func(l *log) {
				l.decide(0, "unfinished", adaID, ada, func(d *audit.Decision) { d.Error = "the lock was lost" })
			},
			history.NotSignedOut,
			[]string{"not finished", "the lock was lost"},
		},
		"given back and then answered elsewhere": {
			func(l *log) {
				l.decide(5, "unfinished", adaID, ada, nil)
				l.decide(5, "covered", adaID, ada, nil)
			}, history.SignedOut, nil,
		},
		"given back and then not to be acted on": {
			func(l *log) {
				l.decide(5, "unfinished", adaID, ada, nil)
				l.decide(5, "outdated", adaID, ada, nil)
			}, history.NotAsked, nil,
		},
		"planned": {
			func(l *log) {
				l.plan(0, 4, 3600)
			},
			history.Scheduled,
			[]string{"Not yet", "2026-03-01 13:00:00Z"},
		},
		"planned and taken back": {
			func(l *log) {
				l.plan(0, 4, 3600)
				l.decide(9, "withdrawn", adaID, ada, func(d *audit.Decision) { d.Canceled = []int64{4} })
			}, history.NotAsked, []string{" is not to be signed out: what was announced was taken back", "message 4 was canceled"},
		},
		"answered by a call of another log": {
			func(l *log) { l.decide(5, "covered", adaID, ada, nil) }, history.SignedOut,
			[]string{"was signed out at 2026-03-01 12:00:06Z at the latest; the record of the call is in another log"},
		},
		"answered by a call of this log": {
			func(l *log) {
				l.decide(5, "revoked", adaID, ada, nil)
				l.decide(4, "covered", adaID, ada, func(d *audit.Decision) { d.Time = at(9) })
			}, history.SignedOut, []string{"was signed out at 2026-03-01 12:00:06Z; Graph confirmed it"},
		},
		"not verified": {
			func(l *log) {
				l.decide(0, "revoked", adaID, ada, func(d *audit.Decision) { d.Unverified = "no permission" })
			},
			history.SignedOut,
			[]string{"as far as Graph says", "no permission"},
		},
		"perhaps a guest": {
			func(l *log) { l.decide(0, "revoked", adaID, "", nil) }, history.SignedOut, []string{"whether this is a guest"},
		},
		"of a later version": {
			func(l *log) { l.decide(0, "teleported", adaID, ada, nil) }, history.NotAsked, []string{"does not know", `"teleported"`},
		},
	} {
		l := newLog(t)
		one.log(l)
		t.Run(name, func(t *testing.T) { want(t, l.of(adaID, ""), one.state, one.texts...) })
	}
}

func TestHistoryFindsTheMailAddressThatNobodyHas(t *testing.T) {
	l := newLog(t)
	l.decide(0, "dead_lettered", "", "", func(d *audit.Decision) { d.Reason, d.LookedUp = "OwnerUnclear", "mail:ada@contoso.com" })
	want(t, l.of("", ada), history.NotSignedOut, "it named mail:ada@contoso.com, and nobody was found for that")
}

func TestHistoryShowsDamageAndClocksThatJump(t *testing.T) {
	l := newLog(t)
	l.decide(100, "revoked", adaID, ada, nil)
	l.decide(10, "revoked", adaID, ada, nil)
	l.text.WriteString("{\"record\":{\"chain\"\n" + strings.Repeat("y", 2<<20) + "\n")
	l.decide(11, "revoked", adaID, ada, nil)
	want(t, l.of(adaID, ""), history.SignedOut, "Yes: "+adaID+" was signed out at 2026-03-01 12:01:41Z") // not by the last record
	l.decide(200, "dead_lettered", adaID, ada, func(d *audit.Decision) { d.Reason, d.RequestID = "Forbidden", "last" })
	forged := bytes.Replace(l.text.Bytes(), []byte(`"outcome":"dead_lettered","reason":"Forbidden"`), []byte(`"outcome":"revoked"`), 1)
	l.text = *bytes.NewBuffer(forged)
	want(t, l.of(adaID, ""), history.NotSignedOut, "the record that says so was changed")
	changed := bytes.Replace(l.text.Bytes(), []byte(`"requestId":"r"`), []byte(`"requestId":"s"`), 1)
	l.text = *bytes.NewBuffer(changed)
	h := l.of(adaID, "")
	want(t, h, history.NotSignedOut, "cannot be read: 2;", "jumped back: 1, by up to 1m30s", "that were changed: 2;")
	if !slices.ContainsFunc(h.Steps, func(s history.Step) bool { return s.Changed }) {
		t.Error("no step is marked")
	}
	if !slices.IsSortedFunc(h.Steps, func(a, b history.Step) int { return a.Time.Compare(b.Time) }) {
		t.Error("the steps are not in order of time")
	}
}

func TestHistoryIsBounded(t *testing.T) {
	l := newLog(t)
	for i := range 5_500 {
		l.decide(i, "covered", adaID, ada, nil)
	}
	if h := l.of(adaID, ""); len(h.Steps) != 5_000 || h.Omitted != 6_000 {
		t.Errorf("%d steps, %d omitted", len(h.Steps), h.Omitted)
	}
}

func TestOfRunCountsWhatBecameOfARun(t *testing.T) {
	l := newLog(t)
	l.operate(audit.Operation{Time: at(0), Command: "dlq replay", Run: run, Outcome: audit.Started, Count: 3})
	l.operate(audit.Operation{
		Time: at(1), Command: "dlq replay", Run: run, Outcome: audit.Done, Counts: map[string]int{"replayed": 2, "sentButNotCompleted": 1},
	})
	l.decide(2, "revoked", adaID, ada, func(d *audit.Decision) { d.ReplayRun = strings.ToUpper(run) })
	l.decide(3, "dead_lettered", adaID, ada, func(d *audit.Decision) { d.ReplayRun, d.Reason = run, "Forbidden" })
	l.decide(4, "revoked", adaID, ada, nil)
	r, err := history.OfRun(t.Context(), func() (io.ReadCloser, error) { return io.NopCloser(&l.text), nil }, run, audit.Options{})
	if err != nil || r.Sent != 3 || r.Outcomes["revoked"] != 1 || r.Reasons["Forbidden"] != 1 || r.By != "grace" || !r.Ended.Equal(at(1)) {
		t.Errorf("%+v, %v", r, err)
	}
}
