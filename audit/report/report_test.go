package report_test

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/audit/report"
)

// at is a number of seconds after noon.
func at(s int) time.Time { return time.Date(2026, 3, 1, 12, 0, s, 0, time.UTC) }

// log is an audit log in memory.
type log struct {
	t    *testing.T
	text bytes.Buffer
	log  *audit.Log
	next int64
}

func newLog(t *testing.T) *log {
	l := &log{t: t}
	l.log = audit.New(&l.text, audit.Key{})
	return l
}

// decide adds a decision about an event that happened at the time, came into the queue a second
// later, and was decided after took.
func (l *log) decide(seconds int, outcome, user string, took time.Duration, change func(*audit.Decision)) {
	l.t.Helper()
	l.next++
	d := audit.Decision{
		Time: at(seconds).Add(took), Outcome: outcome, UserPrincipalName: user, Source: "q", SequenceNumber: l.next,
		EventTime: at(seconds), Enqueued: at(seconds + 1), EventType: "device.stolen", EventSource: "intune",
	}
	if outcome == "revoked" {
		d.Calls, d.CallStart, d.CallEnd, d.Status = 1, at(seconds).Add(took-time.Second/2), at(seconds).Add(took), 200
	}
	if change != nil {
		change(&d)
	}
	if _, err := l.log.Write(d); err != nil {
		l.t.Fatal(err)
	}
}

func (l *log) report(o report.Options) report.Report {
	l.t.Helper()
	if o.Target == 0 {
		o.Target = time.Hour
	}
	r, err := report.Make(l.t.Context(), bytes.NewReader(l.text.Bytes()), o)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func exception(t *testing.T, r report.Report, kind string) report.Exception {
	t.Helper()
	i := slices.IndexFunc(r.Exceptions, func(e report.Exception) bool { return e.Kind == kind })
	if i < 0 {
		t.Fatalf("no exception %s in %+v", kind, r.Exceptions)
	}
	return r.Exceptions[i]
}

func dead(reason string) func(*audit.Decision) { return func(d *audit.Decision) { d.Reason = reason } }

func TestReportMeasuresAgainstTheTarget(t *testing.T) {
	l := newLog(t)
	for i := range 100 {
		l.decide(i, "revoked", fmt.Sprintf("user%d@contoso.com", i), time.Duration(i+2)*time.Minute, nil)
	}
	l.decide(0, "dead_lettered", "eve@contoso.com", time.Minute, dead("Forbidden"))
	l.decide(0, "dead_lettered", "glass@contoso.com", time.Minute, dead("ProtectedUser"))
	r := l.report(report.Options{})
	if r.Met != 59 || r.Missed != 41 || r.Failed != 1 || r.NotAsked != 1 || r.Events != 102 || r.People != 102 {
		t.Errorf("%+v", r)
	}
	if want := "59 of 101 events led to a revocation within 1h; took longer: 41; led to none: 1."; r.Answer != want {
		t.Errorf("%s", r.Answer)
	}
	all := r.Stages.EventToEnd
	if all.Count != 100 || all.P50Seconds != 51*60 || all.P90Seconds != 91*60 || all.P99Seconds != 100*60 || all.MaxSeconds != 101*60 ||
		all.Within != 59 {
		t.Errorf("%+v", all)
	}
	if s := r.Stages.QueueToEnd; s.P50Seconds != 51*60-1 || r.Stages.CallToEnd.MaxSeconds != .5 || r.Stages.EventToQueue.MaxSeconds != 1 {
		t.Errorf("%+v", r.Stages)
	}
	if worst := r.Misses.List[0]; r.Misses.Count != 41 || len(r.Misses.List) != 41 ||
		worst.User != "user99@contoso.com" || worst.Seconds != 101*60 {
		t.Errorf("%+v", r.Misses)
	}
	if g := r.Types[0]; len(r.Types) != 1 || g.Name != "device.stolen" || g.Failed != 1 || g.EventToEnd.Count != 100 {
		t.Errorf("%+v", r.Types)
	}
	if day := l.report(report.Options{Target: 24 * time.Hour}); day.Missed != 0 || day.Met != 100 {
		t.Errorf("%+v", day)
	}
	if part := l.report(report.Options{From: at(51), To: at(61)}); part.Events != 10 || part.Met != 9 || !part.First.Equal(at(51)) {
		t.Errorf("%+v", part)
	}
}

func TestReportPercentilesAreAtMostOnePercentTooHigh(t *testing.T) {
	l := newLog(t)
	var exact []float64
	random := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		took := time.Duration(random.ExpFloat64()*float64(time.Minute)).Round(time.Millisecond) + time.Second
		exact = append(exact, took.Seconds())
		l.decide(i%60, "revoked", "ada@contoso.com", took, nil)
	}
	slices.Sort(exact)
	s := l.report(report.Options{}).Stages.EventToEnd
	for _, one := range []struct{ got, want float64 }{
		{s.P50Seconds, exact[2499]}, {s.P90Seconds, exact[4499]}, {s.P99Seconds, exact[4949]}, {s.MaxSeconds, exact[4999]},
	} {
		if one.got < one.want || one.got > one.want*1.01+.001 {
			t.Errorf("%v for %v", one.got, one.want)
		}
	}
}

func TestReportCountsEventsByTheCallThatAnswersThem(t *testing.T) {
	l := newLog(t)
	joined := func(by int64) func(*audit.Decision) { return func(d *audit.Decision) { d.SupersededBy = by } }
	l.decide(0, "superseded", "ada@contoso.com", time.Second, joined(2))
	l.decide(1, "superseded", "ada@contoso.com", time.Second, joined(3))
	l.decide(3601, "revoked", "ada@contoso.com", 5*time.Second, nil)      // answers all three; for two of them too late
	l.decide(3602, "superseded", "ada@contoso.com", time.Hour, joined(3)) // recorded after the end of the newer one
	l.decide(3603, "covered", "ada@contoso.com", 2*time.Second, nil)
	l.decide(10, "superseded", "eve@contoso.com", time.Second, joined(7))
	l.decide(20, "dead_lettered", "eve@contoso.com", time.Second, dead("Forbidden"))
	l.decide(30, "superseded", "bob@contoso.com", time.Second, joined(99))
	r := l.report(report.Options{})
	if r.Events != 8 || r.Met != 3 || r.Missed != 2 || r.Failed != 3 {
		t.Errorf("%+v", r)
	}
	if e := exception(t, r, "Forbidden"); e.Count != 2 || !e.Failed {
		t.Errorf("%+v", e)
	}
	if e := exception(t, r, "joined without an end"); e.Count != 1 || e.List[0].User != "bob@contoso.com" {
		t.Errorf("%+v", e)
	}
}

// An event whose date is refused has not waited for the date.
func TestReportSaysWhenARefusedAnnouncementCame(t *testing.T) {
	l := newLog(t)
	l.decide(0, "dead_lettered", "ada@contoso.com", time.Second, func(d *audit.Decision) {
		d.Reason, d.EffectiveTime = "TooFarAhead", at(99_999_999)
	})
	e := exception(t, l.report(report.Options{}), "TooFarAhead")
	if c := e.List[0]; c.Enqueued.After(at(60)) || c.EventTime.After(at(60)) {
		t.Errorf("%+v", c)
	}
}

func TestReportKnowsScheduledUnfinishedAndReplayedEvents(t *testing.T) {
	l := newLog(t)
	leaver := func(d *audit.Decision) { d.EffectiveTime, d.EventType = at(7200), "user.offboarded" }
	l.decide(0, "scheduled", "ada@contoso.com", time.Second, leaver)
	l.decide(7199, "revoked", "ada@contoso.com", 6*time.Second, func(d *audit.Decision) {
		leaver(d)
		d.EventTime, d.FirstEnqueued, d.Enqueued = at(0), at(1), at(7201)
	})
	l.decide(0, "unfinished", "bob@contoso.com", time.Second, func(d *audit.Decision) { d.SequenceNumber = 50 })
	l.decide(0, "revoked", "bob@contoso.com", 9*time.Second, func(d *audit.Decision) { d.SequenceNumber = 50 })
	l.decide(0, "unfinished", "eve@contoso.com", time.Second, nil)
	l.decide(0, "withdrawn", "joe@contoso.com", time.Second, nil)
	l.decide(5000, "revoked", "zoe@contoso.com", 9*time.Second, func(d *audit.Decision) {
		d.ReplayRun, d.EventTime, d.FirstEnqueued = "x", at(0), at(1)
	})
	r := l.report(report.Options{})
	if r.Events != 5 || r.Met != 2 || r.Missed != 1 || r.Failed != 1 || r.NotAsked != 1 || r.Replayed != 1 || r.Outcomes["scheduled"] != 1 {
		t.Errorf("%+v", r)
	}
	if e := exception(t, r, "no end"); e.Count != 1 || e.List[0].User != "eve@contoso.com" {
		t.Errorf("%+v", e)
	}
	if m := r.Misses.List[0]; m.User != "zoe@contoso.com" || m.Seconds != 5009 || !m.Replayed {
		t.Errorf("%+v", m)
	}
	if leaver := r.Types[1]; leaver.Name != "user.offboarded" || leaver.EventToEnd.MaxSeconds != 5 {
		t.Errorf("%+v", r.Types)
	}
}

func TestReportCountsAReplayedEventOnce(t *testing.T) {
	l := newLog(t)
	again := func(d *audit.Decision) {
		d.ReplayRun, d.EventTime, d.FirstEnqueued, d.Reason = "x", at(0), at(1), "Forbidden"
	}
	l.decide(0, "dead_lettered", "ada@contoso.com", time.Second, dead("Forbidden"))
	l.decide(0, "dead_lettered", "bob@contoso.com", time.Second, dead("ProtectedUser"))
	l.decide(100, "dead_lettered", "ada@contoso.com", time.Second, again)
	l.decide(200, "dead_lettered", "ADA@contoso.com", time.Second, again)
	r := l.report(report.Options{})
	if e := exception(t, r, "Forbidden"); r.Events != 2 || r.Failed != 1 || e.Count != 1 || len(e.List) != 1 || !e.List[0].Replayed ||
		r.Types[0].Failed != 1 {
		t.Errorf("%+v", r)
	}
	l.decide(300, "revoked", "ada@contoso.com", time.Second, again)
	l.decide(300, "revoked", "bob@contoso.com", time.Second, again)
	if r = l.report(report.Options{}); r.Events != 2 || r.Met != 2 || r.Failed+r.NotAsked != 0 || len(r.Exceptions) != 0 ||
		r.Types[0].Failed != 0 {
		t.Errorf("%+v", r)
	}
}

func TestReportSaysWhereClocksDisagree(t *testing.T) {
	l := newLog(t)
	l.decide(100, "revoked", "ada@contoso.com", 9*time.Second, func(d *audit.Decision) { d.EventTime = at(90_000) })
	l.decide(10, "revoked", "bob@contoso.com", 9*time.Second, func(d *audit.Decision) { d.EventTime = time.Time{} })
	r := l.report(report.Options{})
	if e := exception(t, r, "clocks disagree"); e.Count != 1 || r.Met != 2 || r.Stages.EventToEnd.MaxSeconds != 8 ||
		!strings.Contains(strings.Join(r.Warnings, "\n"), "jumped back") {
		t.Errorf("%+v; %v", r.Stages.EventToEnd, r.Warnings)
	}
}

// hostile is text as a producer may send it.
const hostile = "=cmd|'/c calc'!A0<script>alert(1)</script>\u202e\u0007\"&'\r\n"

func TestReportIsHarmlessWhateverAProducerSends(t *testing.T) {
	l := newLog(t)
	for i := range 2000 {
		l.decide(i, "dead_lettered", "", time.Second, func(d *audit.Decision) {
			d.Reason, d.Error, d.EventSource, d.EventType = "OwnerUnclear", hostile, hostile+fmt.Sprint(i), hostile+fmt.Sprint(i)
			d.LookedUp, d.MessageID = hostile, "-1+"+hostile
		})
	}
	l.text.WriteString(hostile + "\n")
	r := l.report(report.Options{})
	if len(r.Types) > 201 || len(r.Producers) > 201 || r.Failed != 2000 || r.Log.Unreadable == 0 {
		t.Errorf("%d types, %d producers; %d", len(r.Types), len(r.Producers), r.Failed)
	}
	var page, table bytes.Buffer
	if err := r.WriteHTML(&page, at(0)); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteCSV(&table); err != nil {
		t.Fatal(err)
	}
	if text := page.String(); strings.Contains(text, "<script") || strings.ContainsAny(text, "\u202e\u0007\r") ||
		!strings.Contains(text, "&lt;script&gt;alert(1)") {
		t.Error("the page contains what a producer wrote")
	}
	rows, err := csv.NewReader(&table).ReadAll()
	if err != nil || len(rows) != 2001 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	for _, cell := range slices.Concat(rows...) {
		if cell != "" && strings.ContainsRune("=+-@\t\r", rune(cell[0])) || strings.ContainsAny(cell, "\u202e\u0007\r\n") {
			t.Fatalf("%q is a formula, or holds control characters", cell)
		}
	}
}

func TestReportOfADamagedLogSaysSo(t *testing.T) {
	l := newLog(t)
	l.decide(0, "revoked", "ada@contoso.com", time.Second, nil)
	l.decide(0, "revoked", "bob@contoso.com", time.Second, nil)
	l.decide(0, "revoked", "eve@contoso.com", time.Second, nil)
	lines := strings.SplitAfter(l.text.String(), "\n")
	l.text = *bytes.NewBufferString(lines[0] + "rubbish\n" + lines[2])
	r := l.report(report.Options{})
	all := strings.Join(r.Warnings, "\n")
	for _, text := range []string{"cannot be read: 1;", "other problems of the log: 1;", "without an end: 1;"} {
		if !strings.Contains(all, text) {
			t.Errorf("no %q in %s", text, all)
		}
	}
	if r.Met != 2 {
		t.Errorf("%+v", r)
	}
	l.text = *bytes.NewBufferString(strings.Replace(lines[0]+lines[1], "ada@", "eve@", 1))
	if r = l.report(report.Options{}); r.Met != 1 || exception(t, r, "changed record").Count != 1 {
		t.Errorf("%+v", r)
	}
}
