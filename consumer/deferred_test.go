package consumer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/internal/raced"
	"github.com/session-revoker/session-revoker/retry"
)

// failing makes many users fail for a reason of their own, so that some of their messages are
// deferred. It returns the users, and a function that ends the failures.
func (w *world) failing(n int) (users []graph.User, mend func()) {
	w.t.Helper()
	users = w.people(0, n)
	var ends []func()
	for _, u := range users {
		ends = append(ends, w.graph.Inject(graph.Fault{User: u.ID, Status: 403, ContentType: "application/json", Body: forbidden}))
	}
	w.sendEach(users)
	return users, func() {
		for _, end := range ends {
			end()
		}
	}
}

// wantRevocations fails unless the sessions of all these users are revoked.
func (w *world) wantRevocations(users []graph.User) {
	w.t.Helper()
	for _, u := range users {
		if _, ok := w.graph.Revoked(u.ID); !ok {
			w.t.Errorf("%s is not revoked", u.UserPrincipalName)
		}
	}
}

// deferred returns the sequence numbers of the messages that are deferred and not in flight.
func (w *world) deferred() (numbers []int64) {
	w.t.Helper()
	messages, err := w.broker.Peek(queue, 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, m := range messages {
		if m.State == "deferred" {
			numbers = append(numbers, m.SequenceNumber)
		}
	}
	return numbers
}

// Service Bus returns all deferred messages that are asked for, or none of them.
func TestDeferredMessageThatIsGoneKeepsNoOtherFromComing(t *testing.T) {
	inBubble(t, settings{concurrency: 16, maxInFlight: 64}, func(t *testing.T, w *world) {
		users, mend := w.failing(120)
		w.run()
		time.Sleep(20 * time.Second)
		other, err := w.client.NewReceiverForQueue(queue, nil)
		if err != nil {
			t.Fatal(err)
		}
		gone := w.deferred()
		if len(gone) < 40 {
			t.Fatalf("%d deferred", len(gone))
		}
		taken := 0
		for i := 0; i < len(gone); i += 3 { // an operator receives some of them
			messages, err := other.ReceiveDeferredMessages(t.Context(), gone[i:i+1], nil)
			if err != nil {
				continue // in flight now
			}
			taken++
			if err := other.CompleteMessage(t.Context(), messages[0], nil); err != nil {
				t.Fatal(err)
			}
		}
		mend()
		w.settled(3 * time.Minute)
		n := 0
		for _, u := range users {
			if _, ok := w.graph.Revoked(u.ID); ok {
				n++
			}
		}
		if taken < 10 || n != len(users)-taken {
			t.Errorf("%d of %d users are revoked, %d messages were removed", n, len(users), taken)
		}
		w.wantDead(nil)
		time.Sleep(2 * time.Minute) // the worker asks for each of them once more, when a lock would have expired
		if left := testutil.ToFloat64(w.metrics.Deferred.WithLabelValues(queue)); left != 0 {
			t.Errorf("%v are deferred by the metrics", left)
		}
	})
}

// fickle is a receiver whose deferred messages, settlements and renewals a test can break.
type fickle struct {
	consumer.Receiver
	fetch func([]int64) error
	renew func(*azservicebus.ReceivedMessage) error
	dead  atomic.Bool // it does not settle any more
}

var errDead = errors.New("the process is dead")

func (f *fickle) ReceiveDeferredMessages(ctx context.Context, numbers []int64,
	o *azservicebus.ReceiveDeferredMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	if f.fetch != nil {
		if err := f.fetch(numbers); err != nil {
			return nil, err
		}
	}
	return f.Receiver.ReceiveDeferredMessages(ctx, numbers, o)
}

func (f *fickle) RenewMessageLock(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.RenewMessageLockOptions) error {
	if f.renew != nil {
		if err := f.renew(m); err != nil {
			return err
		}
	}
	return f.Receiver.RenewMessageLock(ctx, m, o)
}

func (f *fickle) CompleteMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.CompleteMessageOptions) error {
	if f.dead.Load() {
		return errDead
	}
	return f.Receiver.CompleteMessage(ctx, m, o)
}

func (f *fickle) AbandonMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.AbandonMessageOptions) error {
	if f.dead.Load() {
		return errDead
	}
	return f.Receiver.AbandonMessage(ctx, m, o)
}

func (f *fickle) DeferMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.DeferMessageOptions) error {
	if f.dead.Load() {
		return errDead
	}
	return f.Receiver.DeferMessage(ctx, m, o)
}

func (f *fickle) wrap(s settings) settings {
	s.wrap = func(wrapped consumer.Receiver) consumer.Receiver {
		f.Receiver = wrapped
		return f
	}
	return s
}

func TestDeferredMessagesComeBackAfterServiceBusCouldNotGiveThem(t *testing.T) {
	for name, err := range map[string]error{
		"a lost link": &azservicebus.Error{Code: azservicebus.CodeConnectionLost},
		"anything":    errors.New("server busy"),
		"unreadable":  nil, // the SDK panics
	} {
		t.Run(name, func(t *testing.T) {
			f := &fickle{}
			var down atomic.Bool
			var fetches atomic.Int64
			f.fetch = func([]int64) error {
				fetches.Add(1)
				switch {
				case !down.Load():
					return nil
				case err == nil:
					panic("the SDK cannot read it")
				}
				return err
			}
			inBubble(t, f.wrap(settings{concurrency: 16, maxInFlight: 8}), func(t *testing.T, w *world) {
				users, mend := w.failing(30)
				w.run()
				time.Sleep(20 * time.Second)
				if n := len(w.deferred()); n < 5 {
					t.Fatalf("%d deferred", n)
				}
				mend()
				down.Store(true)
				before := fetches.Load()
				time.Sleep(4 * time.Minute)
				if n := fetches.Load() - before; n > 300 || n == 0 {
					t.Errorf("asked for them %d times in four minutes", n)
				}
				down.Store(false)
				w.settled(3 * time.Minute)
				w.wantRevocations(users)
				w.wantDead(nil)
			})
		})
	}
}

func TestDeferredMessageThatIsNotSettledComesBack(t *testing.T) {
	for _, name := range []string{"its lock is lost", "its settlement fails"} {
		t.Run(name, func(t *testing.T) {
			f := &fickle{}
			var lose, lockLost atomic.Bool
			f.renew = func(m *azservicebus.ReceivedMessage) error {
				if !lose.Load() || m.State != azservicebus.MessageStateDeferred {
					return nil
				}
				lockLost.Store(true)
				return &azservicebus.Error{Code: azservicebus.CodeLockLost}
			}
			// A lock is renewed before the message makes room for others.
			inBubble(t, f.wrap(settings{concurrency: 16, maxInFlight: 8, lock: 14 * time.Second}), func(t *testing.T, w *world) {
				users, mend := w.failing(30)
				w.run()
				time.Sleep(20 * time.Second)
				mend()
				if name == "its lock is lost" {
					slow := w.graph.Inject(graph.Fault{Delay: 25 * time.Second})
					lose.Store(true)
					for began := time.Now(); !lockLost.Load() && time.Since(began) < 2*time.Minute; {
						time.Sleep(time.Second) // a message may come back only after half a minute
					}
					time.Sleep(15 * time.Second)
					lose.Store(false)
					slow()
					if !lockLost.Load() {
						t.Fatal("no lock was lost")
					}
				} else {
					f.dead.Store(true)
					time.Sleep(10 * time.Second)
					f.dead.Store(false)
				}
				w.settled(3 * time.Minute) // before the worker looks for forgotten messages
				w.wantRevocations(users)
				w.wantDead(nil)
			})
		})
	}
}

func TestDeferredMessagesStayDeferredWhenTheWorkerStops(t *testing.T) {
	inBubble(t, settings{concurrency: 16, maxInFlight: 8}, func(t *testing.T, w *world) {
		users, mend := w.failing(30)
		w.run()
		time.Sleep(20 * time.Second)
		mend()
		hang := w.graph.Inject(graph.Fault{Delay: time.Hour}) // messages that have come back are in flight at the stop
		time.Sleep(10 * time.Second)
		before := w.counts()
		if before.Deferred < 10 || before.Locked == 0 {
			t.Fatalf("%+v", before)
		}
		w.stop()
		after := w.counts()
		if after.DeadLetter != 0 || after.Active+after.Deferred != 30 || after.Deferred < before.Deferred {
			t.Errorf("%+v, before %+v", after, before)
		}
		messages, err := w.broker.Peek(queue, 0, 100)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if m.State == "deferred" && m.DeliveryCount != 0 {
				t.Errorf("%s: %d deliveries failed", m.MessageID, m.DeliveryCount)
			}
		}
		hang()
		w.restart()
		w.settled(10 * time.Minute)
		w.wantRevocations(users)
		w.wantDead(nil)
	})
}

// Service Bus dead-letters a message that was deferred too often. Users who fail for hours without
// proof that it is their own fault must not end like that.
func TestDeferralsDoNotUseUpTheDeliveryCount(t *testing.T) {
	raced.Skip(t)
	s := settings{
		concurrency: 16, maxInFlight: 8,
		retry: retry.Policy{
			MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: 24 * time.Hour, LaggingFor: time.Minute,
		},
	}
	inBubble(t, s, func(t *testing.T, w *world) {
		users, mend := w.failing(30)
		w.run()
		time.Sleep(18 * time.Hour)
		mend()
		w.settled(2 * time.Hour)
		w.wantRevocations(users)
		w.wantDead(nil)
	})
}

// A producer reports one person again and again, and Graph refuses them. What decides some of the
// messages decides the others, too, whether they are in flight at that time or not.
func TestDeferredMessagesOfOneUserAreNotDecidedOneByOne(t *testing.T) {
	policy := retry.Policy{
		MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: 30 * time.Minute, LaggingFor: time.Minute,
	}
	inBubble(t, settings{concurrency: 8, maxInFlight: 8, retry: policy}, func(t *testing.T, w *world) {
		w.graph.Inject(graph.Fault{User: ada.ID, Status: 403, ContentType: "application/json", Body: forbidden})
		reasons := map[string]string{}
		for i := range 100 {
			id, ttl := fmt.Sprint("again-", i), 24*time.Hour-time.Duration(i)*time.Second // none may supersede another
			m := about(ada)
			m.MessageID, m.TimeToLive = &id, &ttl
			w.send(m)
			reasons[id] = "Forbidden"
		}
		w.run()
		w.settled(time.Hour)
		w.wantDead(reasons)
	})
}

// While attempts are rare, a message with many users leaves after a few of them only if another one
// is due. Otherwise each return costs it a delivery, and decides nobody.
func TestDeferredMessageStaysWhileNoOtherIsDue(t *testing.T) {
	raced.Skip(t)
	policy := retry.Policy{
		MaxAttempts: 8, InitialInterval: time.Second, MaxInterval: time.Minute, MaxAge: 24 * time.Hour, LaggingFor: time.Minute,
	}
	inBubble(t, settings{concurrency: 16, maxInFlight: 8, maxDeliveries: 40, retry: policy}, func(t *testing.T, w *world) {
		users := w.people(0, 300)
		mend := w.graph.Inject(graph.Fault{Status: 503})
		m := about(users...)
		m.Body = append(m.Body, []byte(strings.Repeat(" ", 5000))...)
		w.sendAs("many", m)
		w.run()
		time.Sleep(6 * time.Hour)
		mend()
		w.settled(2 * time.Hour)
		w.wantRevocations(users)
		w.wantDead(nil)
	})
}

func TestDeferredMessagesAreFoundAfterAKill(t *testing.T) {
	f := &fickle{}
	inBubble(t, f.wrap(settings{concurrency: 16, maxInFlight: 8, lock: 20 * time.Second}), func(t *testing.T, w *world) {
		users, mend := w.failing(30)
		w.run()
		time.Sleep(20 * time.Second)
		mend()
		hang := w.graph.Inject(graph.Fault{Delay: time.Hour})
		time.Sleep(10 * time.Second)
		f.dead.Store(true)
		w.stopHard()
		w.stop()
		f.dead.Store(false)
		hang()
		if c := w.counts(); c.Deferred < 10 || c.Active+c.Deferred != 30 {
			t.Fatalf("%+v", c)
		}
		w.hard, w.stopHard = context.WithCancel(context.Background())
		w.restart()
		w.settled(15 * time.Minute)
		w.wantRevocations(users)
		w.wantDead(nil)
		synctest.Wait()
	})
}

// The next attempt for the user of a deferred message begins when it is due, as if the message were
// in flight: the backoff doubles up to 30 s, plus up to half of that at random.
func TestDeferredMessageComesBackForItsUsersNextAttempt(t *testing.T) {
	policy := retry.Policy{MaxAttempts: 4, InitialInterval: time.Second, MaxInterval: 30 * time.Second, MaxAge: time.Hour}
	inBubble(t, settings{maxInFlight: 16, retry: policy}, func(t *testing.T, w *world) {
		users, mend := w.failing(60)
		w.run()
		time.Sleep(10*time.Minute + 5*time.Second)
		if len(w.deferred()) == 0 {
			t.Fatal("nothing is deferred")
		}
		mend()
		time.Sleep(46 * time.Second)
		w.wantRevocations(users)
	})
}
