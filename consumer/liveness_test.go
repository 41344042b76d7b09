package consumer_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// forbidden is Graph's answer for a user in a restricted administrative unit.
const forbidden = `{"error":{"code":"Authorization_RequestDenied","message":"Insufficient privileges to complete the operation."}}`

// person returns one of many users, by a number.
func person(i int) graph.User {
	return graph.User{
		ID:                fmt.Sprintf("00000000-0000-4000-8000-%012d", i),
		UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i), UserType: "Member", AccountEnabled: true,
	}
}

// people adds n users to the directory, starting with a number, and returns them.
func (w *world) people(from, n int) (all []graph.User) {
	w.t.Helper()
	for i := range n {
		all = append(all, person(from+i))
		if err := w.graph.AddUser(all[i]); err != nil {
			w.t.Fatal(err)
		}
	}
	return all
}

// sendEach sends a message about each user.
func (w *world) sendEach(users []graph.User) {
	w.t.Helper()
	var batch []*azservicebus.Message
	for _, u := range users {
		m := about(u)
		id := "about-" + u.ID
		m.MessageID = &id
		batch = append(batch, m)
	}
	w.send(batch...)
}

// calledWithin reports whether an attempt for the user begins within limit from now.
func (w *world) calledWithin(u graph.User, limit time.Duration) {
	w.t.Helper()
	start := time.Now()
	for len(w.graph.CallsFor(u.ID)) == 0 {
		if time.Since(start) > limit {
			w.t.Fatalf("%s was not called within %v", u.UserPrincipalName, limit)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// An event about a stolen device comes after those of users who fail, each for a reason of their
// own. The numbers are the defaults.
func TestLivenessBesideUsersWhoFail(t *testing.T) {
	for name, c := range map[string]struct {
		fault graph.Fault
		users int
		limit time.Duration
	}{
		"403":         {graph.Fault{Status: 403, ContentType: "application/json", Body: forbidden}, 2000, 30 * time.Second},
		"404":         {graph.Fault{}, 2000, 30 * time.Second},
		"value:false": {graph.Fault{ValueFalse: true}, 2000, 30 * time.Second},
		"503":         {graph.Fault{Status: 503}, 200, 30 * time.Second},
		"hang":        {graph.Fault{Delay: time.Hour}, 200, 75 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			if raced.Enabled {
				c.users = min(c.users, 100)
			}
			inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
				var users []graph.User
				if name == "404" {
					for i := range c.users {
						users = append(users, person(i))
					}
				} else {
					users = w.people(0, c.users)
				}
				for _, u := range users {
					fault := c.fault
					fault.User, fault.Delay = u.ID, max(fault.Delay, 20*time.Millisecond)
					w.graph.Inject(fault)
				}
				w.graph.Inject(graph.Fault{Delay: 20 * time.Millisecond})
				w.sendEach(users)
				w.run()
				w.send(about(ada))
				w.calledWithin(ada, c.limit)
				t.Logf("called after %v", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
				time.Sleep(time.Minute)
				// Those who were called first began at the same instant, so they fail in any order.
				again := 0
				for _, u := range users[:16] {
					if len(w.graph.CallsFor(u.ID)) > 1 {
						again++
					}
				}
				if again < 8 {
					t.Errorf("only %d of the first 16 users were called again, because of the others", again)
				}
			})
		})
	}
}

// With this mix of faults, an earlier version decided only 70 of 750 users in seven minutes.
func TestLivenessAmongMixedFaults(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		var users []graph.User
		healthy := map[string]bool{}
		for i := range 750 {
			u := person(i)
			users = append(users, u)
			if i%15 < 7 || i%15 >= 10 {
				w.people(i, 1)
			}
			switch {
			case i%15 < 4: // 200
				w.graph.Inject(graph.Fault{User: u.ID, Status: 503})
			case i%15 < 7: // 150
				w.graph.Inject(graph.Fault{User: u.ID, Status: 403, ContentType: "application/json", Body: forbidden})
			case i%15 < 10: // 150
				// Graph does not know them.
			default:
				healthy[u.ID] = true
			}
		}
		w.sendEach(users)
		w.run()
		time.Sleep(30 * time.Second)
		for id := range healthy {
			if len(w.graph.CallsFor(id)) == 0 {
				t.Errorf("%s was not called within 30 s", id)
			}
		}
		// A user is revoked now and then. This proves that Graph is well, and that the failures are
		// the users' own.
		for i := 0; i < 240 && w.counts().Active+w.counts().Deferred > 0; i++ {
			m, id := about(w.people(10_000+i, 1)[0]), fmt.Sprintf("later-%d", i)
			m.MessageID = &id
			w.send(m)
			time.Sleep(10 * time.Second)
		}
		reasons := map[string]int{}
		for _, letter := range w.dead() {
			reasons[letter.DeadLetterReason]++
		}
		if c := w.counts(); c.Active+c.Deferred > 0 ||
			reasons["RetriesExhausted"] != 200 || reasons["Forbidden"] != 150 || reasons["UserNotFound"] != 150 || len(reasons) != 3 {
			t.Errorf("%+v, dead letters %v", c, reasons)
		}
		t.Logf("everything was decided after %v with %d attempts",
			time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), len(w.graph.Calls()))
	})
}

func TestLivenessOfParkingBesideUnknownUsers(t *testing.T) {
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		var nobodies []graph.User
		for i := range 130 {
			nobodies = append(nobodies, person(i))
		}
		w.sendEach(nobodies)
		w.run()
		for i := range 200 {
			m, id := about(ada), fmt.Sprintf("storm-%d", i)
			m.MessageID = &id
			w.send(m)
			time.Sleep(100 * time.Millisecond)
		}
		if calls := len(w.graph.CallsFor(ada.ID)); calls > 1 {
			t.Errorf("%d attempts for 200 events of one user within 20 s, want one", calls)
		}
	})
}

func TestLivenessBesideMessagesThatCannotSupersedeOneAnother(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Delay: 25 * time.Second}) // more messages come while the attempt is in flight
		var storm []*azservicebus.Message
		for i := range 2000 {
			ttl, id := 10*time.Hour-time.Duration(i)*10*time.Second, fmt.Sprintf("storm-%d", i)
			m := about(ada)
			m.MessageID, m.TimeToLive = &id, &ttl
			storm = append(storm, m)
		}
		w.send(storm...)
		w.run()
		time.Sleep(time.Second)
		w.send(about(grace))
		w.calledWithin(grace, 10*time.Second)
		w.settled(30 * time.Minute)
		w.wantRevoked(ada, grace)
		w.wantDead(nil)
		if calls := len(w.graph.CallsFor(ada.ID)); calls > 20 {
			t.Errorf("%d attempts for one user", calls)
		}
	})
}

func TestLivenessInsideAMessageWithManyUsersWhoFail(t *testing.T) {
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		users := w.people(0, 360)
		for _, u := range users[:300] {
			w.graph.Inject(graph.Fault{
				User: u.ID, Delay: 20 * time.Millisecond, Status: 403, ContentType: "application/json", Body: forbidden,
			})
		}
		w.graph.Inject(graph.Fault{Delay: 20 * time.Millisecond})
		w.send(about(users...))
		w.run()
		for _, u := range users[300:] {
			w.calledWithin(u, 5*time.Second)
		}
	})
}

func TestLivenessBesideManyLargeMessages(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: 5 * time.Millisecond})
		for i := range 10 {
			m, id := about(w.people(1000*i, 1000)...), fmt.Sprintf("large-%d", i)
			m.MessageID = &id
			w.send(m)
		}
		w.run()
		time.Sleep(50 * time.Millisecond)
		if n := w.metrics.State().Pending; n > 5000 {
			t.Errorf("%d users in flight", n)
		}
		w.send(about(ada))
		w.calledWithin(ada, 5*time.Second)
		w.settled(10 * time.Minute)
		if calls := len(w.graph.Calls()); calls < 10_001 || calls > 10_010 {
			t.Errorf("%d attempts for 10,001 users", calls)
		}
	})
}

func TestLivenessBesideAUserWhoHangsAtTheStart(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Delay: time.Hour})
		w.send(about(ada), about(grace))
		w.run()
		w.calledWithin(grace, time.Second)
	})
}

func TestSessionsAreServedInOrder(t *testing.T) {
	inBubble(t, settings{sessions: 1, concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		feed := func(session string, u graph.User, i int) {
			m, id := about(u), fmt.Sprintf("%s-%d", session, i)
			m.SessionID, m.MessageID = &session, &id
			w.send(m)
		}
		feed("fed", person(0), 0)
		w.run()
		feed("waits", ada, 0)
		for i := 1; i < 120 && len(w.graph.CallsFor(ada.ID)) == 0; i++ { // one unknown user per second keeps the session busy
			feed("fed", person(i), i)
			time.Sleep(time.Second)
		}
		if calls := w.graph.CallsFor(ada.ID); len(calls) == 0 ||
			calls[0].Start.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) > time.Minute {
			t.Errorf("the other session was not served: %v", calls)
		}
	})
}

// Service Bus offers the sessions with the oldest messages first. Two of these, whose users fail,
// must not alternate without end.
func TestSessionsWhoseUsersFailDoNotKeepOthersWaiting(t *testing.T) {
	inBubble(t, settings{sessions: 1, concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		feed := func(session string, u graph.User) {
			m := about(u)
			m.SessionID = &session
			w.send(m)
		}
		for i := range 3 {
			w.graph.Inject(graph.Fault{User: person(i).ID, Status: 503})
			feed(fmt.Sprint("fails", i), person(i))
			time.Sleep(time.Second)
		}
		for i := range 5 {
			u := leaver(i)
			if err := w.graph.AddUser(u); err != nil {
				t.Fatal(err)
			}
			feed(fmt.Sprint("waits", i), u)
		}
		w.run()
		w.calledWithin(leaver(4), 3*40*time.Second)
	})
}

// Another process has deferred these messages, and has ended.
func TestDeferredMessagesThatNobodyRemembersAreFound(t *testing.T) {
	inBubble(t, settings{concurrency: 16, maxInFlight: 8}, func(t *testing.T, w *world) {
		users := w.people(0, 50)
		var mend []func()
		for _, u := range users {
			mend = append(mend, w.graph.Inject(graph.Fault{User: u.ID, Status: 403, ContentType: "application/json", Body: forbidden}))
		}
		w.sendEach(users)
		w.run()
		time.Sleep(20 * time.Second)
		if c := w.counts(); c.Deferred < 10 {
			t.Fatalf("%+v, want most of them deferred", c)
		}
		w.stopHard()
		w.stop()
		for _, end := range mend {
			end()
		}
		w.hard, w.stopHard = context.WithCancel(context.Background())
		w.restart()
		w.settled(10 * time.Minute)
		w.wantRevoked(users...)
		w.wantDead(nil)
	})
}

func TestStopWaitsForNothingThatCannotBeFinished(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"Graph is away":    func(w *world) { w.graph.Inject(graph.Fault{Status: 503}) },
		"no token":         func(w *world) { w.graph.Inject(graph.Fault{Token: true, Status: 503}); w.graph.RevokeTokens() },
		"a pause of hours": func(w *world) { w.graph.Inject(graph.Fault{Status: 429, RetryAfter: "500"}) },
		"one user fails":   func(w *world) { w.graph.Inject(graph.Fault{User: ada.ID, Status: 503, RetryAfter: "300"}) },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{concurrency: 16, maxInFlight: 64}, func(t *testing.T, w *world) {
				w.run()
				w.send(about(alan))
				time.Sleep(5 * time.Second)
				prepare(w)
				w.sendEach(w.people(0, 5))
				w.send(about(ada))
				time.Sleep(20 * time.Second)
				start := time.Now()
				w.stop()
				if took := time.Since(start); took > 3*time.Second {
					t.Errorf("the worker needed %v to stop, and could finish nothing", took)
				}
				if c := w.counts(); c.DeadLetter > 0 || c.Locked > 0 {
					t.Errorf("%+v", c)
				}
			})
		})
	}
}

func TestStopDoesNotWaitForATrippedGuard(t *testing.T) {
	s := settings{maxInFlight: 64, volume: guard.VolumeConfig{Kinds: event.DefaultTypes, Max: 3, Window: time.Hour}}
	inBubble(t, s, func(t *testing.T, w *world) {
		w.sendEach(w.people(0, 20))
		w.run()
		time.Sleep(time.Minute)
		start := time.Now()
		w.stop()
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("the worker needed %v to stop", took)
		}
	})
}

// With a clock that is 61 s ahead of the broker's, each lock would seem to expire as it is renewed.
func TestLockIsNotRenewedMoreOftenWithAClockThatRunsAhead(t *testing.T) {
	r := &trap{}
	r.receive = func(ctx context.Context, limit int, o *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error) {
		messages, err := r.Receiver.ReceiveMessages(ctx, limit, o)
		for _, m := range messages {
			until := m.LockedUntil.Add(-61 * time.Second)
			m.LockedUntil = &until
		}
		return messages, err
	}
	r.renew = func(ctx context.Context, m *azservicebus.ReceivedMessage) error {
		err := r.Receiver.RenewMessageLock(ctx, m, nil)
		if m.LockedUntil != nil {
			until := m.LockedUntil.Add(-61 * time.Second)
			m.LockedUntil = &until
		}
		return err
	}
	inBubble(t, trapped(settings{maxInFlight: 256, lock: time.Minute}, r), func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Status: 503})
		w.sendEach(w.people(0, 100))
		w.run()
		time.Sleep(10 * time.Minute)
		renewed := testutil.ToFloat64(w.metrics.Renewals.WithLabelValues("ok"))
		locksLost := testutil.ToFloat64(w.metrics.LocksLost)
		if renewed > 100*10*60/25 || locksLost > 0 {
			t.Errorf("%v renewals of at most 100 locks in ten minutes, %v locks lost", renewed, locksLost)
		}
	})
}

func TestHealthNamesThePartThatFails(t *testing.T) {
	inBubble(t, settings{concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		users := w.people(0, 5)
		for _, u := range users {
			w.graph.Inject(graph.Fault{User: u.ID, Status: 403, ContentType: "application/json", Body: forbidden})
		}
		w.sendEach(users)
		w.run()
		time.Sleep(20 * time.Second)
		if s := w.metrics.State(); !s.SuspectedUsers || s.SuspectedGraph || s.BreakerOpen {
			t.Errorf("users fail, and the metrics say %+v", s)
		}
		if problem := w.health.Problems()[consumer.PartGraph]; problem != "" {
			t.Errorf("users fail, and Graph is reported as the cause: %s", problem)
		}
		if warning := w.health.Warnings()[consumer.PartGraph]; !strings.Contains(warning, "users") {
			t.Errorf("no warning of users who fail: %q", warning)
		}
	})
}
