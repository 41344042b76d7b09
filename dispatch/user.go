package dispatch

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// Decision is what the attempts for one user came to; it is shared by the results of all events that it decides, as the
// Detail of their End.
type Decision struct {
	Attempt  revoker.Attempt // the last one
	Attempts int
	Err      error // nil when revoked
}

// run makes attempts for one user until nothing about the user is unsettled.
func (d *Dispatcher) run(w *dedupe.Work, user event.User) {
	d.mu.Lock()
	hard := d.hard
	d.mu.Unlock()
	var others patience
	for again := true; again; {
		w.AwaitWindow()
		again = d.decide(hard, w, user, &others)
	}
}

// decide is the way to one verdict: wait for a permit, make an attempt, and depending on the answer decide or try again. It
// says whether something about the user is still unsettled. hard ends the attempt in flight.
func (d *Dispatcher) decide(hard context.Context, w *dedupe.Work, user event.User, others *patience) (again bool) {
	before, known := d.budgets.of(w.Key(), w.Enqueued())
	budget := before.Budget
	if !known {
		budget = d.deps.Retrier.Budget()
	}
	if known {
		w.SetFailing()
		d.sleep(w, before.next)
	}
	sequence, retries := before.sequence, known
	if !known {
		sequence = d.queue.nextSequence()
	}
	var lastLogged string
	refused := func(err error) bool {
		d.budgets.forget(w.Key())
		return w.Failed(dedupe.Attempt{}, &Decision{Attempts: budget.Attempts(), Err: err})
	}
	for {
		if err := Refuse(d.deps.Protected, user); err != nil {
			return w.Start() && refused(err) // before they take a place in the volume, which may trip the guard
		}
		permit, err := d.queue.wait(w.Context(), request{user: w.Key(), sequence: sequence, retry: retries, own: budget.Own(), urgency: w.Urgency})
		if errors.Is(err, errTripped) && d.awaitRelease(w) {
			continue
		}
		if err != nil {
			return false
		}
		lease, what := d.lease(w, permit, others)
		if what != mayCall {
			d.queue.cancel(permit)
			if what == waitForRelease && d.awaitRelease(w) || what == waitForOther && d.awaitOther(w, others) {
				continue
			}
			return what == parkAgain
		}
		if !w.Start() {
			d.queue.cancel(permit)
			d.refund(w, permit)
			lease.End(hard, dedupe.Verdict{})
			return false
		}
		if err := Refuse(d.deps.Protected, user); err != nil {
			// Protected since the event was received: the list is asked again just before each attempt.
			d.queue.cancel(permit)
			d.refund(w, permit)
			again = refused(err)
			lease.End(hard, dedupe.Verdict{})
			return again
		}
		budget.Attempt()
		attempt, err := d.attempt(hard, w, user, permit)
		if err != nil && hard.Err() != nil {
			// An attempt that we cut off ourselves tells nothing. All messages are being given back.
			d.queue.cancel(permit)
			lease.End(hard, dedupe.Verdict{})
			if w.Retry(false) {
				<-w.Context().Done()
			}
			return false
		}
		if _, ok := AccountOf(err); ok {
			// Nobody was called. The events of the name enter again, as the account's.
			d.queue.cancel(permit)
			d.refund(w, permit)
			d.budgets.forget(w.Key())
			again = w.Failed(dedupe.Attempt{}, &Decision{Err: err})
			lease.End(hard, dedupe.Verdict{})
			return again
		}
		nobody := nobodySignedOut(attempt, err)
		graph := d.queue.done(permit, attempt.Usage, nobody, err)
		if nobody {
			d.refund(w, permit)
		}
		d.observe(attempt, err)
		d.report(graph)
		decision := &Decision{Attempt: attempt, Attempts: budget.Attempts(), Err: err}
		if err == nil {
			budget.Succeeded()
			d.budgets.forget(w.Key())
			d.count()
			again = w.Succeeded(times(attempt), decision)
			lease.End(hard, w.Verdict())
			return again
		}
		wait, final := budget.Failed(err)
		if final != nil {
			decision.Err = final
			d.budgets.forget(w.Key())
			d.count()
			again = w.Failed(times(attempt), decision)
			lease.End(hard, w.Verdict())
			return again
		}
		lease.End(hard, dedupe.Verdict{})
		if graph.cause != nil {
			wait = retry.After(err) // the breaker holds everyone back; its end must not find us asleep
		}
		// Once per distinct failure: a long outage must not flood the log.
		if text := d.deps.Text(err); text != lastLogged {
			lastLogged = text
			d.deps.Log.Warn("attempt failed; trying again", zap.String("user", d.deps.Name(user)), zap.String("error", text),
				zap.Int("attempt", budget.Attempts()), zap.Duration("wait", wait))
		}
		if budget.Unproved() {
			d.queue.wantProof()
		}
		failed := budget.HasFailed()
		if retries = failed || budget.Refused(); retries {
			sequence = d.queue.nextSequence() // retries go round, however long some of them hang
		}
		next := time.Now().Add(wait)
		if failed {
			// The events may leave, and the user come again. From the end of the attempt on somebody else may work for the user, who finds
			// the budget here; we do not touch it any more then.
			d.budgets.keep(w.Key(), kept{budget, next, sequence})
		}
		if !w.Retry(failed) {
			return false
		}
		d.sleep(w, next)
	}
}

// Refuse says why a user is never called, as an *revoker.Error; nil if they may be.
func Refuse(protected *guard.Protected, user event.User) error {
	switch {
	case protected.Has(user):
		return &revoker.Error{Kind: revoker.Protected}
	case user.External():
		return &revoker.Error{Kind: revoker.External}
	}
	return nil
}

// nobodySignedOut reports whether the attempt has certainly signed nobody out: Graph was not asked, or
// answered with another status than 2xx, or with value false. A 2xx that broke off or was unreadable
// may be a success.
func nobodySignedOut(attempt revoker.Attempt, err error) bool {
	switch {
	case err == nil:
		return false
	case attempt.Status/100 != 2:
		return attempt.Status != 0 || !attempt.Sent
	}
	var failure *revoker.Error
	return errors.As(err, &failure) && failure.Kind == revoker.NotRevoked
}

// attempt makes one attempt.
func (d *Dispatcher) attempt(hard context.Context, w *dedupe.Work, user event.User, p *permit) (revoker.Attempt, error) {
	ctx := hard
	if p.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(hard, p.timeout)
		defer cancel()
	}
	if d.deps.Tracer == nil {
		return d.deps.Revoker.Revoke(ctx, user)
	}
	return d.traced(ctx, w, user)
}

// longSleep is how long a wait is at least that messages are not kept in flight for which have been set aside before: as long
// as they are set aside at least.
const longSleep = 2 * time.Second

// sleep waits until the next attempt of a user, or until nobody waits for the user any more.
func (d *Dispatcher) sleep(w *dedupe.Work, until time.Time) {
	wait := time.Until(until)
	if wait <= 0 {
		return
	}
	if wait > longSleep {
		w.Pause() // meanwhile its messages need not be in flight
		defer w.Resume()
	}
	defer d.asleep(w, until)()
	_ = retry.Sleep(w.Context(), wait)
}

// asleep says that a user waits until then, and for no permit. awake must follow.
func (d *Dispatcher) asleep(w *dedupe.Work, until time.Time) (awake func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sleeping[w] = until
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.sleeping, w)
	}
}

func (d *Dispatcher) count() {
	d.mu.Lock()
	d.decided++
	d.mu.Unlock()
}

func times(a revoker.Attempt) dedupe.Attempt {
	return dedupe.Attempt{Start: a.Start, Duration: a.Duration, ServerDate: a.ServerDate}
}

// observe counts one attempt's end.
func (d *Dispatcher) observe(attempt revoker.Attempt, err error) {
	result := "revoked"
	if failure, ok := errors.AsType[*revoker.Error](err); ok {
		result = string(failure.Kind)
	}
	status := "none"
	if attempt.Status != 0 {
		status = strconv.Itoa(attempt.Status)
	}
	d.deps.Metrics.GraphCalls.WithLabelValues(result, status).Inc()
}

// What is said of users who fail one after the other.
const (
	usersFail = "users fail one after the other, and the canary is well: Graph refuses them for a reason of their own (an administrative unit, a deleted account); worker dlq list and worker deferred list name them"
	graphMay  = "users fail one after the other, and nothing tells that Graph is well: retries go one at a time until one succeeds or the canary tells"
)

// report sets Graph's health, and warns of users who fail, when it changes.
func (d *Dispatcher) report(c condition) {
	d.ReportGraph(c.cause)
	warning := ""
	switch {
	case c.suspected && c.users:
		warning = usersFail
	case c.suspected:
		warning = graphMay
	}
	if d.deps.Health.Warn(PartGraph, warning) {
		if warning == "" {
			d.deps.Log.Info("users do not fail one after the other any more")
		} else {
			d.deps.Log.Warn(warning)
		}
	}
}

// ReportGraph sets Graph's health and logs when it changes.
func (d *Dispatcher) ReportGraph(err error) {
	if err == nil {
		if d.deps.Health.Report(PartGraph, "") {
			d.deps.Log.Info("Graph is usable")
		}
		return
	}
	problem := err.Error()
	if failure, ok := errors.AsType[*revoker.Error](err); ok {
		problem = failure.Brief()
	}
	if d.deps.Health.Report(PartGraph, problem) {
		d.deps.Log.Error("Graph is not usable: attempts stop but for one probe at a time; messages wait, none is dead-lettered for it",
			zap.String("error", d.deps.Text(err)))
	}
}
