package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// horizon is short, because idle days take real time.
const horizon = 48 * time.Hour

// announced is what an HR system says about one person.
type announced struct {
	who       graph.User
	version   time.Time // zero leaves it out
	effective time.Time // zero leaves it out
	withdrawn bool
}

func (a announced) String() string {
	fields := []string{`"type":"user.offboarded"`, fmt.Sprintf(`"userId":%q`, a.who.ID)}
	for name, at := range map[string]time.Time{"time": a.version, "effectiveTime": a.effective} {
		if !at.IsZero() {
			fields = append(fields, fmt.Sprintf("%q:%q", name, at.UTC().Format(time.RFC3339Nano)))
		}
	}
	if a.withdrawn {
		fields = append(fields, `"withdrawn":true`)
	}
	return "{" + strings.Join(fields, ",") + "}"
}

// message returns one message with an event for each announcement.
func announcing(id string, list ...announced) *azservicebus.Message {
	var events []string
	for _, a := range list {
		events = append(events, a.String())
	}
	body := events[0]
	if len(events) > 1 {
		body = "[" + strings.Join(events, ",") + "]"
	}
	return &azservicebus.Message{MessageID: &id, Body: []byte(body)}
}

// handled waits until no message is active or deferred.
func (w *world) handled() { w.t.Helper(); w.settled(5 * time.Minute) }

// scheduledFor returns the times for which messages are scheduled.
func (w *world) scheduledFor() (times []time.Time) {
	w.t.Helper()
	messages, err := w.broker.Peek(queue, 0, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range messages {
		if m.State == "scheduled" {
			times = append(times, m.EnqueuedTime)
		}
	}
	slices.SortFunc(times, time.Time.Compare)
	return times
}

// wantScheduled fails unless messages are scheduled for exactly these times.
func (w *world) wantScheduled(want ...time.Time) {
	w.t.Helper()
	got := w.scheduledFor()
	if !slices.EqualFunc(got, want, func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Millisecond }) {
		w.t.Errorf("scheduled for %v, want %v; log: %s", got, want, strings.Join(w.lines(), "\n"))
	}
}

// calls returns when Graph was called for a user.
func (w *world) calls(u graph.User) (starts []time.Time) {
	for _, call := range w.graph.Calls() {
		if call.UserID == u.ID {
			starts = append(starts, call.Start)
		}
	}
	return starts
}

// pass lets time pass without a worker, which is cheap.
func (w *world) pass(until time.Time) {
	w.t.Helper()
	w.stop()
	time.Sleep(time.Until(until))
	w.restart()
}

func TestAnnouncementIsActedOnAtItsDateAndNotBefore(t *testing.T) {
	// The queue's time to live is shorter than the wait, and duplicate detection sees the copy.
	inBubble(t, settings{horizon: horizon, queueTTL: time.Hour, duplicateWindow: 10 * time.Minute}, func(t *testing.T, w *world) {
		effective := time.Now().Add(40 * time.Hour)
		w.run()
		w.send(announcing("m", announced{who: ada, version: time.Now(), effective: effective}))
		w.handled()
		w.wantScheduled(effective)
		w.pass(effective.Add(-3 * time.Minute))
		time.Sleep(2 * time.Minute)
		if calls := w.calls(ada); len(calls) > 0 {
			t.Fatalf("called at %v, before %v", calls, effective)
		}
		time.Sleep(2 * time.Minute)
		w.handled()
		calls := w.calls(ada)
		if len(calls) != 1 || calls[0].Before(effective) || calls[0].After(effective.Add(10*time.Second)) {
			t.Errorf("called at %v, want once at %v", calls, effective)
		}
		w.wantScheduled()
		w.wantDead(nil)
	})
}

func TestAnnouncementsInAnyOrderEndTheSame(t *testing.T) {
	start := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	leave := announced{who: ada, version: start.Add(-4 * time.Hour), effective: start.Add(10 * time.Hour)}
	corrected := announced{who: ada, version: start.Add(-3 * time.Hour), effective: start.Add(5 * time.Hour)}
	withdrawn := announced{who: ada, version: start.Add(-2 * time.Hour), withdrawn: true}
	again := announced{who: ada, version: start.Add(-1 * time.Hour), effective: start.Add(20 * time.Hour)}
	for n, order := range permutations([]announced{leave, corrected, withdrawn, again}) {
		if raced.Enabled && n%5 != 0 {
			continue
		}
		inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
			w.run()
			for i, a := range order {
				w.send(announcing(fmt.Sprintf("m%d", i), a))
				if n%2 == 0 { // otherwise several are in flight at once
					w.handled()
				}
			}
			w.handled()
			w.wantScheduled(again.effective)
			w.wantDead(nil)
			if calls := w.calls(ada); len(calls) > 0 {
				t.Errorf("called at %v", calls)
			}
		})
	}
	// Without the last one the date is withdrawn for good, and only the mark stays.
	for _, order := range permutations([]announced{leave, corrected, withdrawn}) {
		inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
			w.run()
			for i, a := range order {
				w.send(announcing(fmt.Sprintf("m%d", i), a))
			}
			w.handled()
			mark := w.scheduledFor()
			if len(mark) != 1 || mark[0].Before(start.Add(horizon)) {
				t.Fatalf("scheduled for %v, want the withdrawal until %v", mark, start.Add(horizon))
			}
			w.pass(mark[0].Add(-time.Minute))
			time.Sleep(3 * time.Minute)
			w.handled()
			w.wantScheduled()
			w.wantDead(nil)
			if calls := w.calls(ada); len(calls) > 0 {
				t.Errorf("called at %v", calls)
			}
		})
	}
}

// permutations returns all orders of a list.
func permutations(list []announced) (all [][]announced) {
	if len(list) == 0 {
		return [][]announced{nil}
	}
	for i := range list {
		for _, rest := range permutations(slices.Delete(slices.Clone(list), i, i+1)) {
			all = append(all, append([]announced{list[i]}, rest...))
		}
	}
	return all
}

// failing is a Scheduler that dies at a step: before or after what it does. Afterwards it works.
type failingScheduler struct {
	consumer.Scheduler
	steps  *atomic.Int64
	at     int64 // the step
	before bool
	kill   func()
}

var errKilled = errors.New("killed")

func (s *failingScheduler) step(do func() error) error {
	now := s.steps.Add(1) == s.at
	if now && s.before {
		s.kill()
		return errKilled
	}
	err := do()
	if now {
		s.kill()
		return errKilled
	}
	return err
}

func (s *failingScheduler) ScheduleAMQPAnnotatedMessages(ctx context.Context, messages []*azservicebus.AMQPAnnotatedMessage, at time.Time,
	o *azservicebus.ScheduleAMQPAnnotatedMessagesOptions,
) (numbers []int64, err error) {
	err = s.step(func() (err error) {
		numbers, err = s.Scheduler.ScheduleAMQPAnnotatedMessages(ctx, messages, at, o)
		return err
	})
	return numbers, err
}

func (s *failingScheduler) CancelScheduledMessages(
	ctx context.Context, numbers []int64, o *azservicebus.CancelScheduledMessagesOptions,
) error {
	return s.step(func() error { return s.Scheduler.CancelScheduledMessages(ctx, numbers, o) })
}

func TestAnnouncementsSurviveAKillAtEachStep(t *testing.T) {
	for step := range int64(4) { // two are scheduled, and one is canceled: the fourth step does not come
		for _, before := range []bool{true, false} {
			if raced.Enabled && before != (step%2 == 0) {
				continue
			}
			var w *world
			fails := &failingScheduler{steps: new(atomic.Int64), at: step + 1, before: before, kill: func() { w.stopSoft(); w.stopHard() }}
			inBubble(t, settings{horizon: horizon, lock: 5 * time.Second, wrapScheduler: func(s consumer.Scheduler) consumer.Scheduler {
				fails.Scheduler = s
				return fails
			}}, func(t *testing.T, world *world) {
				w = world
				start := time.Now()
				first := announced{who: ada, version: start.Add(-2 * time.Hour), effective: start.Add(3 * time.Hour)}
				second := announced{who: ada, version: start.Add(-time.Hour), effective: start.Add(5 * time.Hour)}
				w.run()
				for i, a := range []announced{first, second} {
					w.send(announcing(fmt.Sprintf("m%d", i), a))
					time.Sleep(10 * time.Second)
				}
				if w.hard.Err() != nil {
					<-w.ended
					w.hard, w.stopHard = context.WithCancel(context.Background())
					w.restart()
				}
				w.handled()
				w.wantScheduled(second.effective)
				time.Sleep(time.Until(second.effective.Add(time.Minute)))
				w.handled()
				if calls := w.calls(ada); len(calls) != 1 || calls[0].Before(second.effective) {
					t.Errorf("step %d, before %v: called at %v, want once at %v", step, before, calls, second.effective)
				}
				w.wantDead(nil)
			})
		}
	}
}

func TestAnnouncementsOfManyPeopleInOneMessage(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		start := time.Now()
		one, two := start.Add(2*time.Hour), start.Add(3*time.Hour)
		w.run()
		w.send(announcing("report",
			announced{who: ada, version: start, effective: one},
			announced{who: grace, version: start, effective: two},
			announced{who: alan}, // at once
			announced{who: glass, version: start, effective: two},
		))
		time.Sleep(20 * time.Second)
		w.wantRevoked(alan)
		w.wantScheduled(one, two)
		w.wantDead(map[string]string{"report": "ProtectedUser"})
		// A correction for one of them leaves the others alone.
		w.send(announcing("rehired", announced{who: ada, version: start.Add(time.Minute), withdrawn: true}))
		w.handled()
		time.Sleep(time.Until(two.Add(time.Minute)))
		w.handled()
		w.wantRevoked(alan, grace)
		if calls := w.calls(grace); len(calls) != 1 || calls[0].Before(two) {
			t.Errorf("called at %v, want %v", calls, two)
		}
	})
}

func TestTwoWorkersAgreeOnOneAnnouncement(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		start := time.Now()
		other, err := w.client.NewReceiverForQueue(queue, nil)
		if err != nil {
			t.Fatal(err)
		}
		deps := w.deps
		deps.Sources = []consumer.Source{{Entity: queue, Receiver: other, Scheduler: w.sender}}
		second, err := consumer.New(w.cfg, deps)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan int, 1)
		go func() { ended <- second.Run(w.soft, w.hard) }()
		w.run()
		var newest time.Time
		for i := range 30 {
			newest = start.Add(time.Duration(40-i) * time.Hour)
			w.send(announcing(fmt.Sprintf("m%d", i), announced{
				who: ada, version: start.Add(time.Duration(i-60) * time.Minute), effective: newest,
			}))
		}
		w.handled()
		w.wantScheduled(newest)
		w.wantDead(nil)
		w.stopSoft()
		<-ended
	})
}

// An event that comes late may be too late for the scheduled message, but never for the call.
func TestWithdrawalWinsWhileTheCallIsDelayed(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		start := time.Now()
		effective := start.Add(time.Hour)
		w.run()
		w.send(announcing("leaves", announced{who: ada, version: start, effective: effective}))
		time.Sleep(time.Until(effective.Add(-time.Minute)))
		mend := w.graph.Inject(graph.Fault{Status: 503})
		w.send(announcing("stolen", announced{who: grace}))     // opens the breaker
		time.Sleep(time.Until(effective.Add(10 * time.Minute))) // the message is active, and waits for Graph
		tried := len(w.calls(ada))
		w.send(announcing("stays", announced{who: ada, version: start.Add(time.Minute), withdrawn: true}))
		time.Sleep(time.Minute)
		mend()
		time.Sleep(5 * time.Minute)
		w.handled()
		w.wantRevoked(grace)
		if after := len(w.calls(ada)); after > tried+1 { // one may have begun in the meantime
			t.Errorf("%d calls after the date was withdrawn", after-tried)
		}
		w.wantDead(nil)
	})
}

func TestStolenDeviceDoesNotWaitForTheDate(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		start := time.Now()
		effective := start.Add(2 * time.Hour)
		w.run()
		w.send(announcing("leaves", announced{who: ada, version: start, effective: effective}))
		w.handled()
		const stolen = `{"type":"device.stolen","userId":%q,"time":"2099-01-01T00:00:00Z"}`
		w.send(&azservicebus.Message{Body: []byte(fmt.Sprintf(stolen, ada.ID))})
		time.Sleep(10 * time.Second)
		if calls := w.calls(ada); len(calls) != 1 {
			t.Fatalf("called at %v, want now", calls)
		}
		time.Sleep(time.Until(effective.Add(time.Minute)))
		w.handled()
		if calls := w.calls(ada); len(calls) != 2 || calls[1].Before(effective) {
			t.Errorf("called at %v, want once more at %v", calls, effective)
		}
	})
}

func TestAnnouncementBeyondTheHorizonIsRejectedAndReplacesTheOlderOne(t *testing.T) {
	inBubble(t, settings{horizon: 24 * time.Hour}, func(t *testing.T, w *world) {
		start := time.Now()
		w.run()
		w.send(announcing("near", announced{who: ada, version: start.Add(-time.Hour), effective: start.Add(time.Hour)}))
		w.handled()
		w.send(announcing("far", announced{who: ada, version: start, effective: start.Add(25 * time.Hour)}))
		w.handled()
		w.wantDead(map[string]string{"far": "TooFarAhead"})
		w.wantScheduled()
	})
}

func TestWhereNothingCanBeScheduledNobodyIsSignedOutEarly(t *testing.T) {
	for name, s := range map[string]settings{"no horizon": {}, "sessions": {sessions: 2, horizon: horizon}} {
		inBubble(t, s, func(t *testing.T, w *world) {
			w.run()
			messages := []*azservicebus.Message{
				announcing("later", announced{who: ada, effective: time.Now().Add(time.Hour)}),
				announcing("never", announced{who: ada, withdrawn: true}),
				announcing("past", announced{who: grace, effective: time.Now().Add(-time.Hour)}),
			}
			if s.sessions > 0 {
				for _, m := range messages {
					m.SessionID = m.MessageID
				}
			}
			w.send(messages...)
			w.handled()
			w.wantDead(map[string]string{"later": "TooFarAhead"})
			w.wantRevoked(grace)
			if len(w.calls(ada)) > 0 {
				t.Errorf("%s: called", name)
			}
		})
	}
}

// refusing is a Scheduler without the right to send.
type refusing struct {
	consumer.Scheduler
	allowed *atomic.Bool
}

func (r refusing) ScheduleAMQPAnnotatedMessages(ctx context.Context, messages []*azservicebus.AMQPAnnotatedMessage, at time.Time,
	o *azservicebus.ScheduleAMQPAnnotatedMessagesOptions,
) ([]int64, error) {
	if !r.allowed.Load() {
		return nil, &azservicebus.Error{Code: azservicebus.CodeUnauthorizedAccess}
	}
	return r.Scheduler.ScheduleAMQPAnnotatedMessages(ctx, messages, at, o)
}

func TestWithoutTheRightToSendAnnouncementsWaitAndNothingIsLost(t *testing.T) {
	var allowed atomic.Bool
	wrap := func(s consumer.Scheduler) consumer.Scheduler { return refusing{s, &allowed} }
	inBubble(t, settings{horizon: horizon, wrapScheduler: wrap}, func(t *testing.T, w *world) {
		effective := time.Now().Add(2 * time.Hour)
		w.run()
		w.send(announcing("leaves", announced{who: ada, version: time.Now(), effective: effective}),
			announcing("now", announced{who: grace}))
		time.Sleep(30 * time.Minute)
		w.wantRevoked(grace)
		w.wantDead(nil)
		if len(w.health.Warnings()) == 0 {
			t.Error("nothing warns that events cannot be scheduled")
		}
		allowed.Store(true)
		time.Sleep(2 * time.Minute)
		w.wantScheduled(effective)
		if warnings := w.health.Warnings(); len(warnings) > 0 {
			t.Errorf("still warns: %v", warnings)
		}
		allowed.Store(false)
		time.Sleep(time.Until(effective.Add(time.Minute)))
		w.handled()
		if calls := w.calls(ada); len(calls) != 1 || calls[0].Before(effective) {
			t.Errorf("called at %v, want once at %v", calls, effective)
		}
	})
}

// A producer who may send can write any property.
// A scheduled message has the date as its enqueued time, so a forged one could claim that it was made
// in the future. It must not win against what is announced after it was sent.
func TestForgedScheduleOfTheFutureDoesNotWin(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		start := time.Now()
		at, effective := start.Add(47*time.Hour), start.Add(2*time.Hour)
		future := announcing("forged", announced{who: ada, withdrawn: true})
		future.ScheduledEnqueueTime = &at
		future.ApplicationProperties = map[string]any{
			deadletter.PropertyScheduled: at.Format(time.RFC3339), deadletter.PropertyScheduledFrom: "x",
			deadletter.PropertyFirstEnqueued: start.Add(46 * time.Hour).Format(time.RFC3339),
		}
		w.send(future)
		w.run()
		time.Sleep(10 * time.Minute)
		w.send(announcing("leaves", announced{who: ada, version: time.Now(), effective: effective}))
		time.Sleep(time.Until(effective.Add(10 * time.Minute)))
		w.wantRevoked(ada)
		w.wantDead(nil)
	})
}

func TestForgedSchedulesDoNothingToOthers(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		start := time.Now()
		effective := start.Add(2 * time.Hour)
		w.run()
		w.send(announcing("leaves", announced{who: ada, version: start, effective: effective}))
		w.handled()
		forged := map[string]any{
			deadletter.PropertyScheduled: start.Format(time.RFC3339), deadletter.PropertyScheduledFrom: "leaves",
			deadletter.PropertyFirstEnqueued: start.Add(-1000 * time.Hour).Format(time.RFC3339),
			"revoker-person":                 ada.ID, "revoker-withdrawn": "true",
			deadletter.PropertyOnly: "1", deadletter.PropertyOnlyOf: "x",
		}
		// Its body is about somebody else, or about a date that has not come.
		withdrawal := announcing("other", announced{who: grace, version: start.Add(time.Minute), withdrawn: true})
		withdrawal.ApplicationProperties = forged
		early := announcing("early", announced{who: alan, effective: effective})
		early.ApplicationProperties = forged
		at := start.Add(time.Hour)
		waiting := announcing("waiting", announced{who: grace, version: start.Add(time.Minute), withdrawn: true})
		waiting.ApplicationProperties, waiting.ScheduledEnqueueTime = forged, &at
		w.send(withdrawal, early, waiting)
		time.Sleep(time.Until(effective.Add(-5 * time.Minute)))
		if calls := w.graph.Calls(); len(calls) > 0 {
			t.Errorf("called early: %v", calls)
		}
		time.Sleep(10 * time.Minute)
		w.handled()
		w.wantRevoked(ada, alan)
		w.wantDead(nil)
	})
}

func TestEventOfABackfillIsTooOld(t *testing.T) {
	var records []audit.Decision
	inBubble(t, settings{maxAge: 24 * time.Hour, horizon: horizon, audit: func(d audit.Decision) { records = append(records, d) }},
		func(t *testing.T, w *world) {
			start := time.Now()
			replayed := announcing("replayed", announced{who: grace, version: start.Add(-30 * time.Hour)})
			replayed.ApplicationProperties = map[string]any{
				deadletter.PropertyReplays: "1", deadletter.PropertyRun: "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01",
				deadletter.PropertyReplayedAt: start.Format(time.RFC3339), deadletter.PropertyReplayedBy: "an operator",
				deadletter.PropertyOriginalID: "m", deadletter.PropertyFirstEnqueued: start.Add(-29 * time.Hour).Format(time.RFC3339),
			}
			w.send(
				announcing("old", announced{who: ada, version: start.Add(-25 * time.Hour)}),
				announcing("long gone", announced{who: ada, version: start.Add(-50 * time.Hour), effective: start.Add(-48 * time.Hour)},
					announced{who: ada, effective: start.Add(-48 * time.Hour)}),
				announcing("fresh", announced{who: alan, version: start.Add(-23 * time.Hour)},
					announced{who: alan, version: start.Add(-time.Hour), effective: start.Add(-48 * time.Hour)}), // entered late
				replayed,
			)
			time.Sleep(48 * time.Hour) // an outage makes nothing old
			w.run()
			w.handled()
			w.wantDead(map[string]string{"old": "TooOld", "long gone": "TooOld"})
			w.wantRevoked(alan, grace)
		})
	if len(records) != 6 {
		t.Errorf("%d audit records, want one for each event", len(records))
	}
}

func TestAnnouncementsAreRecorded(t *testing.T) {
	var records []audit.Decision
	inBubble(t, settings{horizon: horizon, audit: func(d audit.Decision) { records = append(records, d) }}, func(t *testing.T, w *world) {
		start := time.Now()
		w.run()
		w.send(announcing("leaves", announced{who: ada, version: start.Add(-2 * time.Hour), effective: start.Add(time.Hour)}))
		w.handled()
		w.send(announcing("stays", announced{who: ada, version: start, withdrawn: true}))
		w.handled()
		w.send(announcing("late", announced{who: ada, version: start.Add(-time.Hour), effective: start.Add(time.Hour)}))
		w.handled()
		w.send(announcing("leaves after all", announced{who: ada, version: start.Add(time.Second), effective: start.Add(time.Hour)}))
		w.handled()
		w.send(announcing("has left", announced{who: ada, version: start.Add(2 * time.Second), effective: start.Add(-time.Minute)}))
		w.handled()
	})
	var outcomes []string
	for _, r := range records {
		outcomes = append(outcomes, r.Outcome)
	}
	if !slices.Equal(outcomes, []string{"scheduled", "withdrawn", "outdated", "scheduled", "revoked"}) {
		t.Fatalf("outcomes %v", outcomes)
	}
	ends := func(r, canceled audit.Decision) bool { return slices.Equal(r.Canceled, []int64{canceled.ScheduledAs}) }
	if records[0].ScheduledAs == 0 || !ends(records[1], records[0]) || !ends(records[3], records[1]) || !ends(records[4], records[3]) {
		t.Errorf("records %+v", records)
	}
	if records[2].SupersededBy != records[1].ScheduledAs || records[2].ScheduledAs != 0 || records[0].EffectiveTime.IsZero() {
		t.Errorf("records %+v", records)
	}
}

func TestDryRunSaysWhatItWouldSchedule(t *testing.T) {
	inBubble(t, settings{horizon: horizon}, func(t *testing.T, w *world) {
		later := time.Now().Add(time.Hour)
		w.send(
			announcing("a", announced{who: ada, effective: later}), announcing("b", announced{who: ada, withdrawn: true}),
			announcing("c", announced{who: ada}), announcing("d", announced{who: ada, effective: later.Add(horizon)}),
		)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		w.worker.DryRun(ctx)
		synctest.Wait()
		log := strings.Join(w.lines(), "\n")
		for id, outcome := range map[string]string{
			"a": "would_schedule", "b": "would_withdraw", "c": "would_revoke", "d": "would_dead_letter",
		} {
			if !slices.ContainsFunc(w.lines(), func(l string) bool {
				return strings.Contains(l, `"messageId":"`+id+`"`) && strings.Contains(l, outcome)
			}) {
				t.Errorf("%s: no %s in %s", id, outcome, log)
			}
		}
	})
}
