package dispatch

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/revoker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// These are the answers that a queue distinguishes.
var (
	unavailable = &revoker.Error{Kind: revoker.Unavailable, Attempt: revoker.Attempt{Status: 503}}
	notFound    = &revoker.Error{Kind: revoker.NotFound, Attempt: revoker.Attempt{Status: 404}}
	noToken     = &revoker.Error{Kind: revoker.NoToken}
)

// user is a user who waits in the queue.
type user struct {
	*permit
	name   string
	err    error
	over   chan struct{} // closed when the waiting is over
	cancel context.CancelFunc
}

// entry describes how a user waits in the queue.
type entry struct {
	ticket  int
	retry   bool
	own     bool
	urgency int
	kind    string
}

// ask makes a user wait in the queue, and returns when everything that follows at this instant has
// happened.
func ask(t *testing.T, q *queue, name string, w entry) *user {
	return askBy(t, q, name, w, constant(w.urgency, w.kind))
}

func askBy(t *testing.T, q *queue, name string, w entry, urgency urgencyFunc) *user {
	ctx, cancel := context.WithCancelCause(t.Context())
	u := &user{name: name, over: make(chan struct{}), cancel: func() { cancel(errCanceled) }}
	ticket := w.ticket
	if ticket == 0 {
		ticket = q.nextTicket()
	}
	go func() {
		u.permit, u.err = q.wait(ctx, request{user: name, ticket: ticket, retry: w.retry, own: w.own, urgency: urgency})
		close(u.over)
	}()
	synctest.Wait()
	return u
}

var errCanceled = errors.New("the user gave up")

// began reports whether the user's attempt has begun.
func (u *user) began() bool {
	synctest.Wait()
	select {
	case <-u.over:
		return u.err == nil
	default:
		return false
	}
}

func began(users []*user) (names []string) {
	for _, u := range users {
		if u.began() {
			names = append(names, u.name)
		}
	}
	return names
}

// bubble runs a test in a bubble with a queue that has no canaries, and whose breaker is closed.
func bubble(t *testing.T, concurrency int, volume guard.VolumeConfig, test func(t *testing.T, q *queue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(concurrency, volume, nil, false)
		defer q.stop()
		q.breaker.Begin("somebody", false, time.Now())
		q.breaker.End("somebody", false, nil, time.Now())
		test(t, q)
		synctest.Wait()
	})
}

// oneByOne ends each attempt with success when it has begun, and returns the order in which they
// began. holder has the only attempt that may be in flight until all others wait.
func oneByOne(t *testing.T, q *queue, holder *user, waiting []*user) string {
	t.Helper()
	var order []string
	for range waiting {
		_ = q.done(holder.permit, 0, false, nil)
		synctest.Wait()
		holder = nil
		waiting = slices.DeleteFunc(waiting, func(u *user) bool {
			if !u.began() {
				return false
			}
			if holder != nil {
				t.Fatalf("%s and %s began together", holder.name, u.name)
			}
			holder = u
			order = append(order, u.name)
			return true
		})
		if holder == nil {
			t.Fatalf("nobody began after %v", order)
		}
	}
	_ = q.done(holder.permit, 0, false, nil)
	return strings.Join(order, " ")
}

func TestQueueOrderOfPermits(t *testing.T) {
	first := func(urgency int) entry { return entry{urgency: urgency} }
	const alternate = "3 0 4 1 5 2"
	again := func(urgency int) entry { return entry{urgency: urgency, retry: true} }
	for name, c := range map[string]struct {
		waiting []entry
		want    string
	}{
		"first attempts by urgency, then by ticket": {[]entry{first(1), first(0), first(1), first(0)}, "1 3 0 2"},
		"retries too": {[]entry{again(1), again(0), again(1), again(0)}, "1 3 0 2"},
		"retries as urgent take every second permit":     {[]entry{first(0), first(0), first(0), again(0), again(0), again(0)}, alternate},
		"retries that are more urgent take no more":      {[]entry{first(1), first(1), first(1), again(0), again(0), again(0)}, alternate},
		"retries that are less urgent wait":              {[]entry{first(0), first(0), first(0), again(1), again(1)}, "0 1 2 3 4"},
		"the lanes meet by the urgency of their first":   {[]entry{first(2), first(0), again(1), again(1)}, "1 2 0 3"},
		"without first attempts every permit is a retry": {[]entry{again(0), again(0), first(0)}, "0 2 1"},
		"who waits again keeps their ticket":             {[]entry{{ticket: 9, retry: true}, {ticket: 3, retry: true}}, "1 0"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
				holder := ask(t, q, "holder", entry{})
				var waiting []*user
				for i, w := range c.waiting {
					waiting = append(waiting, ask(t, q, fmt.Sprint(i), w))
				}
				if early := began(waiting); early != nil {
					t.Fatalf("%v began although one attempt may be in flight", early)
				}
				if got := oneByOne(t, q, holder, waiting); got != c.want {
					t.Errorf("began in the order %s, want %s", got, c.want)
				}
			})
		})
	}
}

// However many retries wait, a first attempt is the second to begin at the latest, and vice versa.
func TestQueueNoLaneStarvesTheOther(t *testing.T) {
	for _, retries := range []bool{true, false} {
		bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
			holder := ask(t, q, "holder", entry{retry: retries})
			var waiting []*user
			for i := range 50 {
				waiting = append(waiting, ask(t, q, fmt.Sprint(i), entry{retry: retries}))
			}
			waiting = append(waiting, ask(t, q, "other", entry{retry: !retries}))
			if order := strings.Fields(oneByOne(t, q, holder, waiting)); slices.Index(order, "other") > 1 {
				t.Errorf("many retries: %v, and the other began as number %d", retries, slices.Index(order, "other"))
			}
		})
	}
}

func TestQueueBoundsAttemptsInFlight(t *testing.T) {
	bubble(t, 3, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		var users []*user
		for i := range 5 {
			users = append(users, ask(t, q, fmt.Sprint(i), entry{}))
		}
		if got := began(users); len(got) != 3 {
			t.Errorf("%v began, want 3", got)
		}
		_ = q.done(users[0].permit, 0, true, notFound)
		if got := began(users); len(got) != 4 {
			t.Errorf("%v began, want one more", got)
		}
	})
}

func TestQueueAttemptWithoutAnAnswerIsLateAfterTwoSeconds(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		hangs := ask(t, q, "hangs", entry{})
		next := ask(t, q, "next", entry{})
		time.Sleep(2*time.Second - time.Nanosecond)
		if next.began() {
			t.Fatal("began beside an attempt that may soon be answered")
		}
		time.Sleep(time.Nanosecond)
		if !next.began() {
			t.Fatal("not begun after two seconds")
		}
		// The late answer does not make room for two.
		_ = q.done(hangs.permit, 0, false, nil)
		third := ask(t, q, "third", entry{})
		if third.began() || q.inFlight.running != 1 || q.inFlight.late != 0 {
			t.Errorf("the third began: %v, running %d, late %d", third.began(), q.inFlight.running, q.inFlight.late)
		}
		_ = q.done(next.permit, 0, false, nil)
		if !third.began() {
			t.Error("the third was not called")
		}
	})
}

func TestQueueOf64LateAttemptsAtMost32AreRetries(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		var retries, firsts []*user
		for i := range 40 {
			retries = append(retries, ask(t, q, fmt.Sprint("retry", i), entry{retry: true}))
		}
		time.Sleep(time.Hour)
		if got := began(retries); len(got) != maxLate/2 || maxLate/2 != 32 {
			t.Fatalf("%d retries hang at once, want 32", len(got))
		}
		for i := range 40 {
			firsts = append(firsts, ask(t, q, fmt.Sprint("first", i), entry{}))
		}
		time.Sleep(time.Hour)
		if got := began(firsts); len(got) != 33 { // no more than maxLate may be late, so one more is not
			t.Fatalf("%d first attempts hang beside them, want 33", len(got))
		}
		if q.inFlight.late != maxLate || q.inFlight.lateRetries != 32 || q.inFlight.running != 1 {
			t.Errorf("late %d, of these retries %d, running %d", q.inFlight.late, q.inFlight.lateRetries, q.inFlight.running)
		}
		// The end of a retry makes room for another one.
		_ = q.done(retries[0].permit, 0, false, unavailable)
		time.Sleep(lateAfter)
		if got := began(retries); len(got) != 33 {
			t.Errorf("%d retries began, want one more", len(got))
		}
		for _, u := range append(retries[1:], firsts...) {
			if u.began() {
				q.cancel(u.permit)
			}
		}
	})
}

func TestQueueForgetsAttemptsThatHaveEnded(t *testing.T) {
	bubble(t, 2, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		for i := range maxLate + 1 { // all late but the last, which stays at the head
			ask(t, q, fmt.Sprint("hangs", i), entry{})
			time.Sleep(lateAfter)
		}
		time.Sleep(lateAfter)
		for i := range 1000 {
			u := ask(t, q, fmt.Sprint(i), entry{})
			if !u.began() {
				t.Fatalf("attempt %d did not begin", i)
			}
			_ = q.done(u.permit, 0, true, notFound)
		}
		if most := 4*(2+maxLate) + 1; len(q.inFlight.begun) > most {
			t.Errorf("%d attempts are remembered, want at most %d", len(q.inFlight.begun), most)
		}
	})
}

func TestQueueRaiseMovesAUserForward(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		holder := ask(t, q, "holder", entry{})
		a := ask(t, q, "a", entry{urgency: 5})
		urgency, kind := 5, "offboarded"
		b := askBy(t, q, "b", entry{}, func(func(string) bool) (int, string) { return urgency, kind })
		c := ask(t, q, "c", entry{urgency: 5})
		q.raise("c", 7) // it is less urgent: nothing changes
		q.raise("b", 5) // nor does it when it is as urgent
		kind = "left"
		if q.raise("b", 6); q.waiting["b"].kind != "offboarded" {
			t.Error("a less urgent event has changed the type")
		}
		q.raise("nobody", 0)
		urgency, kind = 1, "stolen"
		q.raise("b", 1)
		if p := q.waiting["b"]; p.urgent != 1 || p.kind != "stolen" {
			t.Errorf("urgency %d, kind %s", p.urgent, p.kind)
		}
		if got := oneByOne(t, q, holder, []*user{a, b, c}); got != "b a c" {
			t.Errorf("began in the order %s", got)
		}
	})
}

func TestQueueRaisesTheLastPermitOfAUser(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		holder := ask(t, q, "holder", entry{})
		removed := ask(t, q, "a", entry{urgency: 5})
		b := ask(t, q, "b", entry{urgency: 5})
		urgency := 5
		again := askBy(t, q, "a", entry{}, func(func(string) bool) (int, string) { return urgency, "stolen" })
		_ = q.done(holder.permit, 0, true, notFound)
		if !removed.began() {
			t.Fatal("the first one did not begin")
		}
		urgency = 1
		q.raise("a", 1)
		if got := oneByOne(t, q, removed, []*user{b, again}); got != "a b" {
			t.Errorf("began in the order %s, want the urgent user first", got)
		}
	})
}

func TestQueueUserWhoGivesUpGetsNoPermit(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{Max: 1, Window: time.Hour}, func(t *testing.T, q *queue) {
		holder := ask(t, q, "holder", entry{kind: "stolen"})
		users := []*user{ask(t, q, "a", entry{}), ask(t, q, "b", entry{}), ask(t, q, "c", entry{retry: true})}
		users[0].cancel()
		users[2].cancel()
		synctest.Wait()
		for _, u := range []*user{users[0], users[2]} {
			if !errors.Is(u.err, errCanceled) || u.permit != nil {
				t.Errorf("%s: %v, want the cause of the context", u.name, u.err)
			}
		}
		if len(q.first)+len(q.retries) != 1 || len(q.waiting) != 1 {
			t.Errorf("%d first attempts, %d retries, %d users wait, want one", len(q.first), len(q.retries), len(q.waiting))
		}
		q.raise("a", -1) // nobody
		_ = q.done(holder.permit, 0, true, notFound)
		if !users[1].began() {
			t.Error("the user who stayed was not called")
		}
		_ = q.done(users[1].permit, 0, true, notFound)
	})
}

// A permit is granted at the instant at which the user gives up. They must get it, to give it back.
func TestQueuePermitGrantedAsTheUserGivesUpIsNotLost(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		for range 50 {
			holder := ask(t, q, "holder", entry{})
			u := ask(t, q, "gives up", entry{})
			q.mu.Lock() // the user has left, and waits for the lock, while the permit is granted
			u.cancel()
			for range 100 {
				runtime.Gosched()
			}
			q.limiter.Cancel(holder.call)
			q.end(holder.permit)
			q.mu.Unlock()
			if !u.began() {
				t.Fatalf("%v, want the permit", u.err)
			}
			q.cancel(u.permit)
			if q.inFlight.running != 0 {
				t.Fatalf("%d run", q.inFlight.running)
			}
		}
	})
}

func TestQueueCancelGivesEverythingBack(t *testing.T) {
	for name, late := range map[string]time.Duration{"soon": 0, "late": lateAfter} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQueue(4, guard.VolumeConfig{Max: 4, Window: time.Hour}, nil, false) // its breaker is half-open
				defer q.stop()
				for range 3 { // three times, so that leaks add up
					var users []*user
					for i := range 4 {
						users = append(users, ask(t, q, fmt.Sprint(i), entry{kind: "stolen", retry: i%2 == 0}))
					}
					if late == 0 {
						if got := began(users); len(got) != 3 {
							t.Fatalf("%v began, want the three that a half-open breaker lets in", got)
						}
						q.cancel(users[0].permit)
						if !users[3].began() {
							t.Fatal("the slot in the half-open breaker was not given back")
						}
						users = users[1:]
					}
					time.Sleep(late)
					synctest.Wait()
					for _, u := range users {
						if !u.began() {
							t.Fatalf("%s has not begun", u.name)
						}
						q.cancel(u.permit)
					}
					if q.inFlight.running != 0 || q.inFlight.late != 0 || q.inFlight.lateRetries != 0 {
						t.Fatalf("running %d, late %d, of these retries %d", q.inFlight.running, q.inFlight.late, q.inFlight.lateRetries)
					}
					if n := q.limiter.State().InFlight; n != 0 {
						t.Fatalf("%d calls in flight for the limiter", n)
					}
				}
				users := []*user{}
				for i := range 3 { // the guard has counted nobody
					users = append(users, ask(t, q, fmt.Sprint("late comer ", i), entry{kind: "stolen"}))
				}
				if got := began(users); len(got) != 3 {
					t.Errorf("%v began", got)
				}
				for _, u := range users {
					q.cancel(u.permit)
				}
			})
		})
	}
}

func TestQueueUsersWaitForOthersReservationsOfTheVolume(t *testing.T) {
	bubble(t, 8, guard.VolumeConfig{Max: 2, Window: time.Hour}, func(t *testing.T, q *queue) {
		a, b := ask(t, q, "a", entry{kind: "left"}), ask(t, q, "b", entry{kind: "left"})
		c, d := ask(t, q, "c", entry{kind: "left"}), ask(t, q, "d", entry{kind: "left"})
		e := ask(t, q, "e", entry{kind: "left"})
		other := ask(t, q, "other", entry{kind: "stolen"})
		if got := began([]*user{a, b, c, d, e, other}); !slices.Equal(got, []string{"a", "b", "other"}) {
			t.Fatalf("%v began, want the two of the limit, and the one of another type", got)
		}
		e.cancel() // the user waits for the volume
		synctest.Wait()
		if waiters := len(q.volumeWaiters["left"].first); !errors.Is(e.err, errCanceled) || waiters != 2 || len(q.waiting) != 2 {
			t.Errorf("%v; %d wait for the guard, %d in all", e.err, waiters, len(q.waiting))
		}
		q.raise("d", -1) // the user is in neither of the two lanes now
		_ = q.done(a.permit, 0, false, nil)
		if got := began([]*user{c, d}); got != nil {
			t.Fatalf("%v began although one is signed out, and another may be", got)
		}
		_ = q.done(b.permit, 0, true, notFound) // a refund: nobody was signed out
		if got := began([]*user{c, d}); len(got) != 1 {
			t.Fatalf("%v began, want one", got)
		}
		one, last := c, d
		if d.began() {
			one, last = d, c
		}
		q.cancel(one.permit)
		if !last.began() {
			t.Fatal("the refunded reservation is lost")
		}
		_ = q.done(last.permit, 0, false, unavailable) // without an answer they may have been signed out, so they count
		late := ask(t, q, "late", entry{kind: "left"})
		if !errors.Is(late.err, errTripped) || len(q.waiting) != 0 {
			t.Errorf("%v, %d wait; want the guard tripped", late.err, len(q.waiting))
		}
		counted := ask(t, q, "a", entry{kind: "left"})
		if !errors.Is(counted.err, errTripped) { // a tripped type allows no attempt
			t.Errorf("%v", counted.err)
		}
		_ = q.done(other.permit, 0, false, nil)
	})
}

// A reservation is refunded, but the user who could have it gives up before an attempt may begin.
// Then it is the next user's.
func TestQueueReservationIsNotLostWithAUserWhoGivesUp(t *testing.T) {
	bubble(t, 2, guard.VolumeConfig{Max: 1, Window: time.Hour}, func(t *testing.T, q *queue) {
		a := ask(t, q, "a", entry{kind: "left"})
		b, c := ask(t, q, "b", entry{kind: "left"}), ask(t, q, "c", entry{kind: "left"})
		again := ask(t, q, "again", entry{kind: "left", retry: true})
		other := ask(t, q, "other", entry{kind: "stolen"})
		q.mu.Lock()
		q.inFlight.concurrency = 1
		q.mu.Unlock()
		_ = q.done(a.permit, 0, true, notFound)
		if got := began([]*user{b, c, again}); got != nil {
			t.Fatalf("%v began: there is no room", got)
		}
		b.cancel()
		again.cancel()
		synctest.Wait()
		_ = q.done(other.permit, 0, false, nil)
		if !c.began() {
			t.Fatal("the last of three did not begin, although two have left")
		}
		_ = q.done(c.permit, 0, false, nil)
	})
}

func TestQueueEventOfAnotherTypeDoesNotWaitForTheVolumeOfTheFirst(t *testing.T) {
	bubble(t, 8, guard.VolumeConfig{Max: 1, Window: time.Hour}, func(t *testing.T, q *queue) {
		a := ask(t, q, "a", entry{kind: "left"})
		urgency, kind := 5, "left"
		b := askBy(t, q, "b", entry{}, func(func(string) bool) (int, string) { return urgency, kind })
		if b.began() {
			t.Fatal("began beyond the limit")
		}
		urgency, kind = 0, "stolen"
		if q.raise("b", 0); !b.began() {
			t.Error("waits for the volume of the first type")
		}
		_ = q.done(a.permit, 0, false, nil)
		_ = q.done(b.permit, 0, false, nil)
	})
}

// Of several users who wait, the one whose type has tripped is refused, and the next one begins.
func TestQueueTrippedTypeIsInNobodysWay(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{Max: 1, Window: time.Hour}, func(t *testing.T, q *queue) {
		holder := ask(t, q, "holder", entry{kind: "left"})
		tripped := ask(t, q, "tripped", entry{kind: "left"})
		other := ask(t, q, "other", entry{kind: "stolen"})
		_ = q.done(holder.permit, 0, false, nil)
		if synctest.Wait(); !errors.Is(tripped.err, errTripped) || !other.began() {
			t.Fatalf("%v, the other began: %v", tripped.err, other.began())
		}
		_ = q.done(other.permit, 0, true, notFound)
	})
}

// canaryQueue runs a test with a queue whose canaries are counted. The test ends them.
func canaryQueue(t *testing.T, volume guard.VolumeConfig, account bool, test func(t *testing.T, q *queue, asked chan int)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan int, 100)
		q := newQueue(1, volume, nil, account)
		defer q.stop()
		q.ask = func(call int, _ time.Duration) { asked <- call }
		test(t, q, asked)
		synctest.Wait()
	})
}

func TestQueueUserWhoGivesUpMakesWayForACanary(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, false, func(t *testing.T, q *queue, asked chan int) {
		q.active = func() bool { return false }
		u := ask(t, q, "u", entry{})
		<-asked // at the same time
		_ = q.canaryDone(q.limiter.Begin(time.Now()), 0, noToken, true)
		_ = q.done(u.permit, 0, false, noToken)
		<-after(t, 10*time.Second, asked) // the next probe is the canary's
		_ = q.canaryDone(1, 0, noToken, false)
		u = ask(t, q, "u", entry{retry: true})
		if u.began() || len(asked) > 0 {
			t.Fatal("a probe too early")
		}
		u.cancel()
		<-after(t, 15*time.Second, asked)
		if c := q.canaryDone(1, 0, nil, false); c.cause != nil {
			t.Errorf("a canary that is well leaves the breaker open: %v", c.cause)
		}
	})
}

// after checks that one canary is asked within the limit.
func after(t *testing.T, limit time.Duration, asked chan int) <-chan int {
	t.Helper()
	time.Sleep(limit)
	synctest.Wait()
	if len(asked) != 1 {
		t.Fatalf("%d canaries within %s, want one", len(asked), limit)
	}
	return asked
}

func TestQueueProbesUntriedUsersFirstWhileOpen(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, false, func(t *testing.T, q *queue, asked chan int) {
		fail := func(u *user) {
			t.Helper()
			if !u.began() {
				t.Fatalf("%s was not probed", u.name)
			}
			_ = q.done(u.permit, 0, false, noToken)
		}
		canary := func() {
			t.Helper()
			_ = q.canaryDone(<-after(t, time.Minute, asked), 0, noToken, false)
			time.Sleep(time.Minute)
		}
		tried := ask(t, q, "tried", entry{})
		q.cancelCanary(<-asked)
		fail(tried)
		tried = ask(t, q, "tried", entry{retry: true, ticket: 1})
		fresh := ask(t, q, "fresh", entry{ticket: 20, urgency: 3})
		urgent := ask(t, q, "urgent", entry{ticket: 21})
		canary()
		if tried.began() || fresh.began() {
			t.Fatal("somebody else was probed first")
		}
		fail(urgent)
		canary()
		fail(fresh)
		urgent = ask(t, q, "urgent", entry{ticket: 21, retry: true})
		canary()
		fail(tried) // longest ago
		canary()
		fail(urgent)
	})
}

// Many users may have failed while Graph was well for others. Two probes of three go to other
// users.
func TestQueueSeldomProbesUsersWithFaultsOfTheirOwnWhileOpen(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, true, func(t *testing.T, q *queue, asked chan int) {
		u := ask(t, q, "u", entry{})
		q.cancelCanary(<-asked)
		_ = q.done(u.permit, 0, false, noToken)
		users := []*user{ask(t, q, "u", entry{retry: true})}
		for i := range 5 {
			users = append(users, ask(t, q, fmt.Sprint("own", i), entry{retry: true, own: true, ticket: 10 + i}))
		}
		var probed []string
		for len(probed) < 9 {
			time.Sleep(time.Minute)
			synctest.Wait()
			select {
			case call := <-asked:
				_ = q.canaryDone(call, 0, noToken, false)
			default:
			}
			for i, one := range users {
				if one.began() {
					probed = append(probed, one.name)
					_ = q.done(one.permit, 0, false, noToken)
					users[i] = ask(t, q, one.name, entry{retry: true, own: i > 0})
				}
			}
		}
		if want := "u u own0 u u own1 u u own2"; strings.Join(probed, " ") != want {
			t.Errorf("probed %v, want %s", probed, want)
		}
	})
}

// The result of a user who failed for a reason of their own before the breaker opened has the least
// value as a probe.
func TestQueueProbesAFirstAttemptBeforeARetryWhileOpen(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, false, func(t *testing.T, q *queue, asked chan int) {
		u := ask(t, q, "u", entry{})
		q.cancelCanary(<-asked)
		_ = q.done(u.permit, 0, false, noToken)
		again := ask(t, q, "again", entry{retry: true, ticket: 1})
		if got := q.limit(1, 10); got != 1 {
			t.Errorf("%d may be received while only a retry waits, want one to be probed", got)
		}
		fresh := ask(t, q, "fresh", entry{ticket: 20, urgency: 3})
		_ = q.canaryDone(<-after(t, time.Minute, asked), 0, noToken, false)
		time.Sleep(time.Minute)
		if again.began() || !fresh.began() {
			t.Fatal("the retry was probed first")
		}
		_ = q.done(fresh.permit, 0, false, nil)
		if !again.began() {
			t.Fatal("not called after the breaker closed")
		}
		_ = q.done(again.permit, 0, false, nil)
	})
}

// cancelCanary ends a canary without a verdict.
func (q *queue) cancelCanary(call int) { _ = q.canaryDone(call, 0, nil, true) }

func TestQueueAsksNoCanaryForNobodyWhileTheGuardHasTripped(t *testing.T) {
	for _, observe := range []bool{false, true} {
		volume := guard.VolumeConfig{Max: 1, Window: time.Hour, Observe: observe}
		canaryQueue(t, volume, false, func(t *testing.T, q *queue, asked chan int) {
			q.volume.Trip("stolen")
			q.tick()
			if n := len(asked); n > 0 != observe {
				t.Fatalf("observe %v: %d canaries", observe, n)
			}
			if observe {
				return
			}
			q.volume.Release(guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 10}, time.Now())
			q.tick()
			if len(asked) != 1 {
				t.Error("no canary after the release")
			}
		})
	}
}

func TestQueueProbesUsersWithoutACanary(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		u := ask(t, q, "u", entry{})
		_ = q.done(u.permit, 0, false, noToken)
		u = ask(t, q, "u", entry{})
		time.Sleep(time.Hour)
		if !u.began() {
			t.Fatal("nobody is probed, as if there were a canary to probe")
		}
		if c := q.done(u.permit, 0, false, nil); c.cause != nil {
			t.Errorf("open after a success: %v", c.cause)
		}
	})
}

func TestQueueLimitsReceivedMessages(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, false, func(t *testing.T, q *queue, asked chan int) {
		want := func(inFlight, n int) {
			t.Helper()
			synctest.Wait()
			if got := q.limit(inFlight, 10); got != n {
				t.Errorf("with %d in flight %d may be received, want %d", inFlight, got, n)
			}
		}
		want(0, firstMessages)
		want(10, 0)
		u := ask(t, q, "u", entry{})
		q.cancelCanary(<-asked)
		want(1, firstMessages) // half-open: a few concurrently
		_ = q.done(u.permit, 0, false, noToken)
		want(0, 1) // open: one, which is to be probed
		u = ask(t, q, "u", entry{retry: true})
		want(1, 1) // the probe has failed, and another user must be probed
		want(10, 0)
		fresh := ask(t, q, "fresh", entry{})
		want(2, 0) // the user who waits has not been probed yet
		_ = q.canaryDone(<-after(t, time.Minute, asked), 0, noToken, false)
		for i := 0; i < 600 && !fresh.began(); i++ {
			time.Sleep(100 * time.Millisecond)
		}
		want(2, 0) // a probe is in flight
		_ = q.done(fresh.permit, 0, false, nil)
		want(1000, 1<<20)
		if !u.began() {
			t.Error("the breaker is closed, and the user who waits is not called")
		}
		_ = q.done(u.permit, 0, false, nil)
	})
}

func TestQueueUserWhoGivesUpIsForgottenByTheBreaker(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, false, func(t *testing.T, q *queue, asked chan int) {
		u := ask(t, q, "u", entry{})
		q.cancelCanary(<-asked)
		_ = q.done(u.permit, 0, false, noToken)
		u = ask(t, q, "u", entry{retry: true})
		if q.breaker.Tried("u") == 0 {
			t.Fatal("not tried")
		}
		u.cancel()
		if synctest.Wait(); q.breaker.Tried("u") != 0 {
			t.Error("the breaker remembers a user who has left")
		}
	})
}

// A new process allows three attempts. One that hangs makes room for another.
func TestQueueUserWhoHangsAtTheStartMakesRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(16, guard.VolumeConfig{}, nil, false)
		defer q.stop()
		var users []*user
		for i := range 5 {
			users = append(users, ask(t, q, fmt.Sprint(i), entry{}))
		}
		if got := began(users); len(got) != 3 {
			t.Fatalf("%v began", got)
		}
		time.Sleep(lateAfter)
		if got := began(users); len(got) != 5 {
			t.Errorf("%v began after two seconds, want all", got)
		}
		for _, u := range users {
			q.cancel(u.permit)
		}
	})
}

func TestQueueNothingBeginsAfterTheStop(t *testing.T) {
	canaryQueue(t, guard.VolumeConfig{}, false, func(t *testing.T, q *queue, asked chan int) {
		q.stop()
		q.tick()
		u := ask(t, q, "u", entry{})
		time.Sleep(time.Hour)
		if len(asked) > 0 || u.began() {
			t.Errorf("%d canaries, an attempt: %v", len(asked), u.began())
		}
		u.cancel()
		synctest.Wait()
	})
}

func TestQueueSignalsEachEnd(t *testing.T) {
	bubble(t, 1, guard.VolumeConfig{}, func(t *testing.T, q *queue) {
		q.changed = []chan struct{}{make(chan struct{}, 1), make(chan struct{}, 1)}
		signaled := func(what string) {
			t.Helper()
			for _, c := range q.changed {
				select {
				case <-c:
				default:
					t.Errorf("%s is not signaled", what)
				}
			}
		}
		u := ask(t, q, "u", entry{})
		next := ask(t, q, "next", entry{})
		_ = q.done(u.permit, 0, false, nil)
		signaled("an attempt's end")
		if !next.began() {
			t.Fatal("not begun")
		}
		q.cancel(next.permit)
		signaled("a permit that was given back")
		_ = q.canaryDone(q.limiter.Begin(time.Now()), 0, nil, false)
		signaled("a canary's end")
	})
}
