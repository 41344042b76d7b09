package consumer_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// sendAs sends one message with this message id.
func (w *world) sendAs(id string, m *azservicebus.Message) {
	w.t.Helper()
	m.MessageID = &id
	w.send(m)
}

// The messages of one session use all slots of the source, and their users always fail.
func TestSessionThatFillsAllSlotsIsGivenUp(t *testing.T) {
	inBubble(t, settings{sessions: 2, concurrency: 4, maxInFlight: 8}, func(t *testing.T, w *world) {
		session, other := "fills", "waits"
		for i, u := range w.people(0, 20) {
			w.graph.Inject(graph.Fault{User: u.ID, Status: 503})
			m := about(u)
			m.SessionID = &session
			w.sendAs(fmt.Sprintf("fills-%d", i), m)
		}
		w.run()
		time.Sleep(5 * time.Second)
		m := about(ada)
		m.SessionID = &other
		w.sendAs("waits", m)
		w.calledWithin(ada, 2*time.Minute)
	})
}

// For some users Graph asks to wait for ten minutes. The messages of others are deferred, and these
// users can soon be revoked.
func TestDeferredMessagesWithALongRetryAfterDoNotKeepOthersFromComingBack(t *testing.T) {
	inBubble(t, settings{concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		for _, u := range w.people(0, 40) {
			w.graph.Inject(graph.Fault{User: u.ID, Status: 503, RetryAfter: "590"})
		}
		mend := w.graph.Inject(graph.Fault{User: ada.ID, Status: 503})
		w.sendAs("ada", about(ada))
		w.run()
		time.Sleep(time.Second)
		var all []graph.User
		for i := range 40 {
			all = append(all, person(i))
		}
		w.sendEach(all)
		time.Sleep(time.Minute)
		mend()
		start := time.Now()
		for {
			if _, ok := w.graph.Revoked(ada.ID); ok {
				break
			}
			if time.Since(start) > 2*time.Minute {
				t.Fatalf("ada can be revoked again, and was not called within two minutes: %d calls, %+v",
					len(w.graph.CallsFor(ada.ID)), w.counts())
			}
			time.Sleep(time.Second)
		}
	})
}

// Large messages about parked users must not use the memory that other messages need.
func TestLivenessBesideLargeMessagesOfParkedUsers(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{Delay: 5 * time.Millisecond})
		var sets [][]graph.User
		for i := range 4 {
			sets = append(sets, w.people(1000*i, 1000))
		}
		for round := range 10 {
			for i, set := range sets {
				w.sendAs(fmt.Sprintf("set-%d-%d", round, i), about(set...))
			}
		}
		w.run()
		time.Sleep(5 * time.Second)
		w.sendAs("batch", about(append(w.people(10_000, 99), ada)...))
		w.calledWithin(ada, 30*time.Second)
	})
}

// Graph always throttles one user, and nobody else.
func TestLivenessBesideAUserWhoIsAlwaysThrottled(t *testing.T) {
	inBubble(t, settings{concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Status: 429, RetryAfter: "5"})
		w.sendAs("ada", about(ada))
		w.run()
		time.Sleep(time.Second)
		w.sendAs("grace", about(grace))
		w.calledWithin(grace, time.Minute)
	})
}

func TestLivenessBesideAUserWhoIsAlwaysUnauthorized(t *testing.T) {
	inBubble(t, settings{concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Status: 401})
		w.sendAs("ada", about(ada))
		w.run()
		time.Sleep(time.Second)
		for i, u := range w.people(0, 20) {
			w.sendAs(fmt.Sprint("user-", i), about(u))
			w.calledWithin(u, 30*time.Second)
		}
	})
}

// Both users of a message fail for good, one sooner than the other. The message must be
// dead-lettered, although it is deferred in between.
func TestDeferredMessageWithManyUsersIsDecided(t *testing.T) {
	inBubble(t, settings{concurrency: 4, maxInFlight: 16}, func(t *testing.T, w *world) {
		nobody, fails := person(1), w.people(2, 1)[0]
		w.graph.Inject(graph.Fault{User: fails.ID, Status: 503})
		m := about(nobody, fails)
		m.Body = append(m.Body, []byte(strings.Repeat(" ", 5000))...) // a large message is deferred as soon as all its users have failed
		w.sendAs("both", m)
		w.run()
		for i := 0; i < 180 && len(w.dead()) == 0; i++ { // others succeed
			w.sendAs(fmt.Sprint("later-", i), about(w.people(100+i, 1)[0]))
			time.Sleep(10 * time.Second)
		}
		if len(w.dead()) == 0 {
			t.Errorf("not dead-lettered after half an hour: %d and %d calls, %+v",
				len(w.graph.CallsFor(nobody.ID)), len(w.graph.CallsFor(fails.ID)), w.counts())
		}
	})
}

// A revocation is in the audit log, whatever happens to the message's other users.
func TestAuditRecordsWhoWasRevokedInADeferredMessage(t *testing.T) {
	var records []audit.Decision
	s := settings{concurrency: 4, maxInFlight: 16, audit: func(d audit.Decision) { records = append(records, d) }}
	inBubble(t, s, func(t *testing.T, w *world) {
		fails := w.people(2, 1)[0]
		mend := w.graph.Inject(graph.Fault{User: fails.ID, Status: 503})
		m := about(ada, fails)
		m.Body = append(m.Body, []byte(strings.Repeat(" ", 5000))...)
		w.sendAs("both", m)
		w.run()
		time.Sleep(30 * time.Second)
		mend()
		w.settled(5 * time.Minute)
		for _, r := range records {
			if r.UserID == ada.ID && r.Outcome == "revoked" && r.RequestID != "" {
				return
			}
		}
		t.Errorf("no record of ada's revocation: %+v", records)
	})
}

// The volume guard stops a mass offboarding. A device of one of its users is stolen.
func TestVolumeGuardTrippedForOneTypeDoesNotStopAnotherTypeOfTheSameUser(t *testing.T) {
	s := settings{concurrency: 4, maxInFlight: 64, volume: guard.VolumeConfig{Kinds: event.DefaultTypes, Max: 3, Window: time.Hour}}
	inBubble(t, s, func(t *testing.T, w *world) {
		for i, u := range append(w.people(0, 10), ada) {
			w.sendAs(fmt.Sprint("off-", i), &azservicebus.Message{
				Body: fmt.Appendf(nil, `{"type":"user.offboarded","userId":%q}`, u.ID),
			})
		}
		w.run()
		time.Sleep(20 * time.Second)
		w.sendAs("stolen", about(ada))
		w.calledWithin(ada, 30*time.Second)
	})
}

// Attempts that hang must not keep users who can be revoked again out of the retry lane.
func TestLivenessOfRetriesBesideHangingUsers(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{concurrency: 16, maxInFlight: 256}, func(t *testing.T, w *world) {
		users := w.people(0, 600)
		for _, u := range users {
			w.graph.Inject(graph.Fault{User: u.ID, Delay: time.Hour})
		}
		mend := w.graph.Inject(graph.Fault{User: ada.ID, Status: 503})
		w.sendEach(users[:300])
		w.run()
		w.sendAs("ada", about(ada))
		w.sendEach(users[300:])
		time.Sleep(5 * time.Minute)
		mend()
		start := time.Now()
		for time.Since(start) < time.Hour {
			if _, ok := w.graph.Revoked(ada.ID); ok {
				t.Logf("revoked after %v", time.Since(start))
				return
			}
			time.Sleep(time.Second)
		}
		t.Fatalf("ada can be revoked again, and was not called within an hour: %d calls, %+v", len(w.graph.CallsFor(ada.ID)), w.counts())
	})
}

// Service Bus has settled the message, and its answer is lost.
func TestDeferredMessageWhoseAnswerWasLostComesBackWithinSeconds(t *testing.T) {
	d := &lossy{}
	s := settings{concurrency: 4, maxInFlight: 8}
	s.wrap = func(r consumer.Receiver) consumer.Receiver {
		d.Receiver = r
		return d
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		users := w.people(0, 30)
		var mend []func()
		for _, u := range users {
			mend = append(mend, w.graph.Inject(graph.Fault{User: u.ID, Status: 503}))
		}
		w.sendEach(users)
		w.run()
		time.Sleep(15 * time.Second)
		for _, m := range mend {
			m()
		}
		start := time.Now()
		w.settled(20 * time.Minute)
		t.Logf("settled after %v, %d defers lost", time.Since(start), d.lost.Load())
		if time.Since(start) > 3*time.Minute {
			t.Errorf("took %v", time.Since(start))
		}
	})
}

type lossy struct {
	consumer.Receiver
	lost atomic.Int64
}

func (l *lossy) DeferMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.DeferMessageOptions) error {
	err := l.Receiver.DeferMessage(ctx, m, o)
	if err == nil {
		l.lost.Add(1)
		return context.DeadlineExceeded
	}
	return err
}

// Manual revocation has no canary, and must not wait for one.
func TestManualRevocationGoesOnAfterTheBreakerHasOpened(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Count: 1, Status: 429, RetryAfter: "3600"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		all := results(ctx, manual(t, w), users(t, ada.UserPrincipalName, grace.UserPrincipalName))
		if !all[ada.UserPrincipalName].Revoked || !all[grace.UserPrincipalName].Revoked {
			t.Errorf("not revoked within an hour: %+v", all)
		}
	})
}

// A message with many users that is deferred again and again must not cause one log line per user
// each time.
func TestDeferredMessageDoesNotFloodTheLog(t *testing.T) {
	raced.Skip(t)
	inBubble(t, settings{concurrency: 16, maxInFlight: 16}, func(t *testing.T, w *world) {
		users := w.people(0, 500)
		for _, u := range users {
			w.graph.Inject(graph.Fault{User: u.ID, Status: 503})
		}
		w.sendAs("batch", about(users...))
		w.run()
		time.Sleep(30 * time.Minute)
		n := 0
		for _, line := range w.lines() {
			if strings.HasPrefix(line, "event ") {
				n++
			}
		}
		if n > 100 {
			t.Errorf("%d lines about events of one message of which nothing is decided", n)
		}
	})
}
