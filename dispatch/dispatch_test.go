package dispatch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/telemetry"
)

// graph is a Revoker that succeeds, unless a test gives it other answers.
type graph struct {
	mu     sync.Mutex
	calls  []time.Time
	answer func(call int) error
	takes  time.Duration
	silent bool // the answers do not come from Graph itself
	unsent bool // no request was sent
}

func (g *graph) Revoke(ctx context.Context, _ event.User) (revoker.Attempt, error) {
	g.mu.Lock()
	g.calls = append(g.calls, time.Now())
	n := len(g.calls)
	g.mu.Unlock()
	start := time.Now()
	if err := retry.Sleep(ctx, g.takes); err != nil {
		return revoker.Attempt{Start: start, Sent: true}, &revoker.Error{Kind: revoker.Unreachable}
	}
	var err error
	if g.answer != nil {
		err = g.answer(n)
	}
	if g.silent {
		return revoker.Attempt{Start: start, Sent: !g.unsent}, err
	}
	status := http.StatusOK
	var failure *revoker.Error
	switch {
	case errors.As(err, &failure) && failure.Status != 0:
		status = failure.Status
	case errors.As(err, &failure) && failure.Kind == revoker.NotFound:
		status = http.StatusNotFound
	}
	return revoker.Attempt{Start: start, Duration: g.takes, Sent: true, Status: status, ServerDate: time.Now()}, err
}

func (g *graph) made() []time.Time {
	synctest.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls
}

var ada = func() event.User {
	u, err := event.NewUser("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01", "")
	if err != nil {
		panic(err)
	}
	return u
}()

var grace = func() event.User {
	u, err := event.NewUser("0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c02", "")
	if err != nil {
		panic(err)
	}
	return u
}()

// dispatching runs a test with a Dispatcher in a bubble.
func dispatching(t *testing.T, volume guard.VolumeConfig, g *graph, test func(t *testing.T, d *Dispatcher)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		protected, err := guard.NewProtected(nil)
		if err != nil {
			t.Fatal(err)
		}
		hard, stop := context.WithCancel(t.Context())
		d := New(Config{
			Concurrency: 2, Volume: volume,
			Dedupe: dedupe.Config{Window: time.Minute, Remember: time.Hour, MaxUsers: 100, MaxParked: 8, MaxFailing: 8},
		}, Dependencies{
			Revoker: g, Protected: protected, Log: zap.NewNop(), Metrics: telemetry.NewMetrics("test", "test"),
			Health: telemetry.NewHealth(time.Minute, PartGraph, PartGuard),
			Retrier: retry.New(retry.Policy{
				MaxAttempts: 3, InitialInterval: time.Second, MaxInterval: time.Second, MaxAge: time.Hour, LaggingFor: time.Minute,
			}),
			Name: event.User.Key, Text: error.Error,
		})
		d.EndAttemptsWith(hard)
		test(t, d)
		stop()
		d.Stop()
	})
}

var number int64

// add adds an event of a user, and waits until everything that follows at this instant has
// happened.
func add(d *Dispatcher, u event.User) *dedupe.Event {
	e := addAtOnce(d, u)
	synctest.Wait()
	return e
}

// addAtOnce adds an event of a user.
func addAtOnce(d *Dispatcher, u event.User) *dedupe.Event { return addFrom(d, u, time.Now()) }

// addFrom adds an event of a user that was enqueued at this time.
func addFrom(d *Dispatcher, u event.User, enqueued time.Time) *dedupe.Event {
	number++
	e := &dedupe.Event{Position: dedupe.Position{Enqueued: enqueued, Entity: "events", Sequence: number}, Message: dedupe.NewMessage(0)}
	e.Message.Lock.Renewed(time.Now().Add(24 * time.Hour))
	d.Add(u.Key(), u, e)
	d.AllAdded(e.Message)
	return e
}

// resultOf returns how the event ended. It waits for an hour at most.
func resultOf(t *testing.T, e *dedupe.Event) (dedupe.Disposition, *Attempts) {
	t.Helper()
	for limit := time.After(time.Hour); !e.Ended(); {
		select {
		case <-e.Message.Changed():
		case <-limit:
			t.Fatal("not decided within an hour")
		}
	}
	d, _ := e.Result().Detail.(*Attempts)
	return e.Result().Disposition, d
}

// When a message comes back, its user's failures have used up the same part of the budget.
func TestDispatcherBudgetOutlivesTheEventThatLeaves(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		e := add(d, ada)
		d.Remove(ada.Key(), e)
		time.Sleep(2 * time.Minute) // longer than LaggingFor
		before := len(g.made())
		got, decided := resultOf(t, add(d, ada))
		if got != dedupe.Failed || decided.Count != before+1 || len(g.made()) != before+1 {
			t.Errorf("%v after %+v and %d calls, want one more call to decide", got, decided, len(g.made()))
		}
		// An event that comes after the decision has a new budget.
		if _, ok := d.budgets.of(ada.Key(), time.Now(), time.Now()); ok {
			t.Error("the budget applies although the user was decided before")
		}
	})
}

// Messages of one user are deferred, and come back after an attempt has decided others of them.
func TestDispatcherFinalFailureDecidesWhatWasEnqueuedBefore(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		before := time.Now()
		time.Sleep(time.Second)
		_, first := resultOf(t, add(d, ada))
		calls := len(g.made())
		late := addFrom(d, ada, before)
		if got, a := resultOf(t, late); got != dedupe.Failed || a != first || len(g.made()) != calls {
			t.Errorf("%v with %+v after %d calls more", got, a, len(g.made())-calls)
		}
		// After the window an attempt asks again, and decides.
		time.Sleep(5 * time.Minute)
		later := addFrom(d, ada, before)
		if got, a := resultOf(t, later); got != dedupe.Failed || a.Count != first.Count+1 || len(g.made()) != calls+1 {
			t.Errorf("%v with %+v after %d calls more", got, a, len(g.made())-calls)
		}
		// A new event has nothing to do with these failures.
		time.Sleep(5 * time.Minute)
		calls = len(g.made())
		if got, a := resultOf(t, add(d, ada)); got != dedupe.Failed || a.Count < 2 || a.Count != len(g.made())-calls {
			t.Errorf("%v with %+v after %d calls more, want a series of its own", got, a, len(g.made())-calls)
		}
	})
}

// An answer without a Date proves nothing about when it was given: this process's clock may be hours
// ahead.
func TestDispatcherFinalFailureWithoutADateDecidesNothingElse(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }, silent: true}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		before := time.Now()
		time.Sleep(time.Second)
		resultOf(t, add(d, ada))
		calls := len(g.made())
		resultOf(t, addFrom(d, ada, before))
		if len(g.made()) == calls {
			t.Error("decided without an attempt")
		}
	})
}

// While the breaker is open, hours may pass until a user is tried again. Their failures must add up
// all the same, or the event would never be decided. An event that is enqueued later gets a new
// budget.
func TestBudgetsApplyToEventsThatWereEnqueuedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b budgets
		enqueued := time.Now()
		time.Sleep(time.Minute)
		b.keep("ada", kept{Budget: retry.New(retry.Policy{MaxAttempts: 1, InitialInterval: 1, MaxInterval: 1}).Budget(), next: time.Now()})
		time.Sleep(3 * time.Hour)
		if _, ok := b.of("ada", enqueued, enqueued); !ok {
			t.Error("forgotten before the event was decided")
		}
		if _, ok := b.of("ada", time.Now(), time.Now()); ok {
			t.Error("a new event has the budget of the first one")
		}
	})
}

// Again and again one message of a user is removed as another is added. The Work of the second
// finds the budget of the first.
func TestDispatcherHandsABudgetOverWithoutAGap(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		e := add(d, ada)
		for range 100 {
			d.Remove(ada.Key(), e)
			e = addAtOnce(d, ada)
		}
		if n := len(g.made()); n != 1 {
			t.Errorf("%d attempts, want one: the next is due in a second", n)
		}
		resultOf(t, e)
	})
}

func TestDispatcherUserWhoComesBackIsARetryAndWaitsForTheirTime(t *testing.T) {
	g := &graph{answer: func(n int) error {
		if n == 1 {
			return &revoker.Error{Kind: revoker.Unavailable, Attempt: revoker.Attempt{Status: 503}, After: 5 * time.Minute}
		}
		return nil
	}}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		start := time.Now()
		e := add(d, ada)
		d.Remove(ada.Key(), e)
		synctest.Wait()
		if s := d.State(); s.Ledger.PendingUsers != 0 {
			t.Fatalf("%+v", s)
		}
		e = add(d, ada)
		if e.Message == nil || len(g.made()) != 1 {
			t.Fatalf("%d calls: Graph has asked for five minutes", len(g.made()))
		}
		got, decided := resultOf(t, e)
		if waited := time.Since(start); got != dedupe.Revoked || decided.Count != 2 || waited < 5*time.Minute {
			t.Errorf("%v after %d attempts and %s", got, decided.Count, waited)
		}
	})
}

// A user whose message was deferred keeps their ticket. Otherwise users who have come meanwhile
// would always go first.
func TestDispatcherUserWhoComesBackKeepsTheirSequence(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		d.Remove(ada.Key(), add(d, ada))
		before, _ := d.budgets.of(ada.Key(), time.Now(), time.Now())
		for range 10 {
			d.queue.nextTicket()
		}
		time.Sleep(2 * time.Second)
		d.queue.mu.Lock()
		d.queue.inFlight.running += d.cfg.Concurrency // no attempt may begin
		d.queue.mu.Unlock()
		e := add(d, ada)
		if p := d.queue.waiting[ada.Key()]; p == nil || before.ticket == 0 || p.ticket != before.ticket {
			t.Errorf("waits with %+v, had ticket %d", p, before.ticket)
		}
		d.queue.mu.Lock()
		d.queue.inFlight.running -= d.cfg.Concurrency
		d.queue.mu.Unlock()
		d.queue.tick()
		resultOf(t, e)
	})
}

// A parked event came before what came during its window, and goes first when the window ends.
func TestDispatcherParkedUserHasTheirSequenceFromTheStart(t *testing.T) {
	g := &graph{}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		add(d, ada)
		parked := add(d, ada)
		d.queue.mu.Lock()
		d.queue.inFlight.running += d.cfg.Concurrency // no attempt may begin
		d.queue.mu.Unlock()
		synctest.Wait()
		later := add(d, grace)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		first, second := d.queue.waiting[ada.Key()], d.queue.waiting[grace.Key()]
		if first == nil || second == nil || !first.before(second) {
			t.Errorf("%+v goes after %+v", first, second)
		}
		d.queue.mu.Lock()
		d.queue.inFlight.running -= d.cfg.Concurrency
		d.queue.mu.Unlock()
		d.queue.tick()
		resultOf(t, parked)
		resultOf(t, later)
	})
}

// A 429 is not the user's failure, and begins no budget.
func TestDispatcherKeepsNoBudgetOfAThrottledUser(t *testing.T) {
	g := &graph{answer: func(int) error {
		return &revoker.Error{Kind: revoker.Throttled, Attempt: revoker.Attempt{Status: 429}, After: time.Minute}
	}}
	dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
		d.Remove(ada.Key(), add(d, ada))
		synctest.Wait()
		if _, ok := d.budgets.of(ada.Key(), time.Now(), time.Now()); ok {
			t.Error("a budget is kept")
		}
	})
}

func TestBudgetsAreBounded(t *testing.T) {
	var b budgets
	if _, ok := b.of("nobody", time.Now(), time.Now()); ok {
		t.Error("a budget of an unknown user")
	}
	r := retry.New(retry.Policy{MaxAttempts: 1, InitialInterval: 1, MaxInterval: 1})
	mine := r.Budget()
	for i := range 3 * maxBudgets {
		b.keep(fmt.Sprint(i), kept{Budget: r.Budget()})
		if n := b.users.Len(); n > maxBudgets {
			t.Fatalf("%d are kept", n)
		}
	}
	at := time.Now()
	b.keep("ada", kept{Budget: mine, next: at})
	for i := range maxBudgets/2 - 1 { // a generation later it is still kept
		b.keep(fmt.Sprint("other", i), kept{Budget: r.Budget()})
	}
	if found, ok := b.of("ada", time.Now(), time.Now()); !ok || found.Budget != mine || !found.next.Equal(at) {
		t.Errorf("%+v %v", found, ok)
	}
	b.forget("ada")
	if _, ok := b.of("ada", time.Now(), time.Now()); ok {
		t.Error("not forgotten")
	}
	// Once the newer budget is forgotten, neither generation returns an older one.
	b = budgets{}
	b.keep("grace", kept{Budget: r.Budget()})
	for i := range maxBudgets / 2 {
		b.keep(fmt.Sprint("more", i), kept{Budget: r.Budget()})
	}
	b.keep("grace", kept{Budget: mine, next: at})
	if found, ok := b.of("grace", time.Now(), time.Now()); !ok || found.Budget != mine {
		t.Error("the older budget was found")
	}
	b.forget("grace")
	if _, ok := b.of("grace", time.Now(), time.Now()); ok {
		t.Error("an older budget was left behind")
	}
}

func TestDispatcherStuckWhenNothingCanEnd(t *testing.T) {
	const drain = 25 * time.Second
	oneUser := guard.VolumeConfig{Kinds: []string{""}, Max: 1, Window: time.Hour}
	fails := func(err error) *graph { return &graph{answer: func(int) error { return err }} }
	hangs := &graph{takes: time.Hour}
	busy := &graph{takes: 20 * time.Second}
	later := &revoker.Error{Kind: revoker.NotFound, After: time.Minute}
	pause := func(after time.Duration) *graph {
		return fails(&revoker.Error{Kind: revoker.Throttled, Attempt: revoker.Attempt{Status: 429}, After: after})
	}
	for name, c := range map[string]struct {
		graph  *graph
		volume guard.VolumeConfig
		add    bool
		want   bool
	}{
		"nobody":                {graph: &graph{}, want: true},
		"a call in flight":      {graph: busy, add: true},
		"one that hangs":        {graph: hangs, add: true},
		"a retry in a second":   {graph: fails(notFound), add: true},
		"a retry too late":      {graph: fails(later), add: true, want: true},
		"a short pause":         {graph: pause(drain - time.Second), add: true},
		"a pause for too long":  {graph: pause(drain + 5*time.Second), add: true, want: true},
		"nobody can be called":  {graph: fails(noToken), add: true, want: true},
		"the guard has tripped": {graph: &graph{}, volume: oneUser, add: true, want: true},
		"a pause of a second":   {graph: pause(time.Second), add: true},
	} {
		t.Run(name, func(t *testing.T) {
			dispatching(t, c.volume, c.graph, func(t *testing.T, d *Dispatcher) {
				if c.volume.Max > 0 {
					d.trip("")
				}
				var e *dedupe.Event
				if c.add {
					e = add(d, ada)
				}
				if name == "one that hangs" {
					time.Sleep(2 * lateAfter)
					d.queue.markLate(time.Now(), func(time.Duration) {})
					if d.queue.inFlight.late != 1 || d.queue.inFlight.running != 0 {
						t.Error("not late")
					}
				}
				if got := d.Stuck(time.Now().Add(drain)); got != c.want {
					t.Errorf("stuck: %v, want %v", got, c.want)
				}
				if e != nil {
					d.Remove(ada.Key(), e)
				}
			})
		})
	}
}

func TestDispatcherDoesNotRetryAUserWhoWasProtectedMeanwhile(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 1, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		e := add(d, ada)
		protect(t, d)
		got, decided := resultOf(t, e)
		var failure *revoker.Error
		if got != dedupe.Failed || !errors.As(decided.Err, &failure) || failure.Kind != revoker.Protected || len(g.made()) != 1 {
			t.Errorf("%v, %v after %d calls", got, decided.Err, len(g.made()))
		}
		// They do not count as in flight, nor in the volume.
		if d.queue.inFlight.running != 0 || d.queue.limiter.State().InFlight != 0 {
			t.Errorf("%d run", d.queue.inFlight.running)
		}
		if _, answer := d.queue.volume.Reserve("", "grace", time.Now()); answer != guard.Granted {
			t.Errorf("answer %v: a user who was not called is counted", answer)
		}
	})
}

// protect adds ada to the protected users.
func protect(t *testing.T, d *Dispatcher) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "protected")
	if err := os.WriteFile(file, []byte(ada.ID()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.deps.Protected.Load(file); err != nil {
		t.Fatal(err)
	}
}

func TestDispatcherDoesNotCallAUserWhoWasProtectedWhileTheyWaited(t *testing.T) {
	g := &graph{takes: time.Second}
	dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 3, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		var others []*dedupe.Event
		for i := range 2 {
			u, err := event.NewUser(fmt.Sprintf("00000000-0000-4000-8000-%012d", i), "")
			if err != nil {
				t.Fatal(err)
			}
			others = append(others, add(d, u))
		}
		e := add(d, ada)
		protect(t, d)
		got, decided := resultOf(t, e)
		var failure *revoker.Error
		if got != dedupe.Failed || !errors.As(decided.Err, &failure) || failure.Kind != revoker.Protected || decided.Count != 0 {
			t.Errorf("%v, %+v", got, decided)
		}
		for _, other := range others {
			if got, _ := resultOf(t, other); got != dedupe.Revoked {
				t.Errorf("%v", got)
			}
		}
		if n := len(g.made()); n != 2 {
			t.Errorf("%d calls", n)
		}
		if d.queue.inFlight.running != 0 || d.queue.limiter.State().InFlight != 0 {
			t.Errorf("%d run", d.queue.inFlight.running)
		}
		if _, answer := d.queue.volume.Reserve("", "grace", time.Now()); answer != guard.Granted {
			t.Errorf("answer %v: a user who was not called is counted", answer)
		}
	})
}

func TestDispatcherTrippedTypeWaitsForItsRelease(t *testing.T) {
	g := &graph{}
	var mu sync.Mutex
	var release guard.Release
	dispatching(t, guard.VolumeConfig{Kinds: []string{"stolen"}, Max: 1, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		d.cfg.ReadRelease = func() (guard.Release, error) {
			mu.Lock()
			defer mu.Unlock()
			return release, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			d.Run(ctx)
			close(done)
		}()
		d.trip("stolen")
		e := &dedupe.Event{
			Position: dedupe.Position{Enqueued: time.Now(), Entity: "events", Sequence: 1},
			Message:  dedupe.NewMessage(0), Kind: "stolen",
		}
		d.Add(ada.Key(), ada, e)
		time.Sleep(time.Hour)
		if s := d.State(); s.Blocked != 1 || s.Waiting != 0 || len(g.made()) != 0 {
			t.Errorf("%d calls, %+v", len(g.made()), s)
		}
		if d.deps.Health.Problems()[PartGuard] == "" {
			t.Error("the trip is not reported")
		}
		mu.Lock()
		release = guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 5, Type: "nonsense"}
		mu.Unlock()
		time.Sleep(time.Minute)
		if len(g.made()) != 0 {
			t.Error("a release of another type has released this one")
		}
		mu.Lock()
		release.Type = "stolen"
		mu.Unlock()
		if got, _ := resultOf(t, e); got != dedupe.Revoked || d.State().Blocked != 0 {
			t.Errorf("%v, %+v", got, d.State())
		}
		time.Sleep(watchVolumeEvery)
		if problem := d.deps.Health.Problems()[PartGuard]; problem != "" {
			t.Error(problem)
		}
		cancel()
		<-done
	})
}

// Whoever may have been signed out counts for the volume guard, although the answer is of no use.
func TestDispatcherAttemptsWhoseAnswerIsOfNoUseCountForTheGuard(t *testing.T) {
	unusable := &revoker.Error{Kind: revoker.Unreachable, Attempt: revoker.Attempt{Status: 200}} // it broke off
	for name, c := range map[string]struct {
		err   error
		users int
	}{"broken off": {unusable, 1}, "value: false": {&revoker.Error{Kind: revoker.NotRevoked}, 0}} {
		g := &graph{answer: func(int) error { return c.err }}
		dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 5, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
			d.Remove(ada.Key(), add(d, ada))
			synctest.Wait()
			if s := d.State().Volume; s[0].Users != c.users {
				t.Errorf("%s: %d people count, want %d", name, s[0].Users, c.users)
			}
		})
	}
}

// An attempt without a token, or whose user could not be read, was not sent, so it has signed
// nobody out.
func TestDispatcherAttemptsThatWereNotSentDoNotCountForTheGuard(t *testing.T) {
	for name, g := range map[string]*graph{
		"no token": {answer: func(int) error { return noToken }, silent: true, unsent: true},
		"not sent": {answer: func(int) error { return &revoker.Error{Kind: revoker.Unreachable} }, silent: true, unsent: true},
	} {
		dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 1, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
			d.Remove(ada.Key(), add(d, ada))
			synctest.Wait()
			for _, s := range d.State().Volume {
				if s.Users != 0 || s.Tripped {
					t.Errorf("%s: %+v", name, s)
				}
			}
		})
	}
}
