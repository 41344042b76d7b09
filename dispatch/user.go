package dispatch

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/revoker"
)

// Decision is what the attempts for one user came to. All events that they decide share it, as the
// Detail of their dedupe.Result.
type Decision struct {
	Attempt  revoker.Attempt // the last one
	Attempts int
	Err      error // nil when the sessions were revoked
}

// run makes attempts for one user until each of the user's events is decided.
func (d *Dispatcher) run(w *dedupe.Work, user event.User) {
	var others patience
	for again := true; again; {
		// Taken before the window: who is parked does not go behind those who come meanwhile.
		sequence := d.queue.nextSequence()
		w.AwaitWindow()
		again = d.decide(w, user, sequence, &others)
	}
}

// decide makes attempts until there is one verdict: it waits for a permit and, where replicas share
// their work, for the user's lease; then it makes an attempt. It reports whether some event of the
// user is still undecided.
func (d *Dispatcher) decide(w *dedupe.Work, user event.User, sequence int, others *patience) (again bool) {
	s := d.series(w, sequence)
	for {
		// This check comes before the permit, which reserves a place in the volume and may trip the
		// guard.
		if err := Refuse(d.deps.Protected, user); err != nil {
			return w.Start() && d.refuse(w, s, err)
		}
		permit, err := s.wait(w.Context(), w.Urgency)
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
		again, decided := d.attempt(w, user, s, permit, lease)
		if decided {
			return again
		}
	}
}

// series returns the series of attempts for a user: the one that was kept when the user's events
// left undecided, once its next attempt is due, or a new one with the given sequence.
func (d *Dispatcher) series(w *dedupe.Work, sequence int) *series {
	before, ok := d.budgets.of(w.Key(), w.Enqueued())
	if !ok {
		return newSeries(d.queue, w.Key(), d.deps.Retrier.Budget(), sequence)
	}
	kept := &series{queue: d.queue, user: w.Key(), budget: before.Budget, sequence: before.sequence, retry: true, own: before.Own()}
	w.SetFailing()
	d.sleep(w, before.next)
	return kept
}

// attempt uses a permit and a lease for one attempt, and tells the ledger what it came to. decided
// is false when another attempt must follow; otherwise again reports whether some event of the user
// is still undecided.
func (d *Dispatcher) attempt(w *dedupe.Work, user event.User, s *series, p *permit, lease *coordination.Lease) (again, decided bool) {
	if !w.Start() {
		d.queue.cancel(p)
		d.refund(w, p)
		lease.End(d.hard, dedupe.Verdict{})
		return false, true
	}
	// An operator may have protected the user while they waited: the list is read just before each
	// attempt.
	if err := Refuse(d.deps.Protected, user); err != nil {
		d.queue.cancel(p)
		d.refund(w, p)
		again = d.refuse(w, s, err)
		lease.End(d.hard, dedupe.Verdict{})
		return again, true
	}
	o := s.try(d.hard, p, func() (revoker.Attempt, error) { return d.revoke(w, user, p) })
	switch o.ending {
	case cutOff:
		lease.End(d.hard, dedupe.Verdict{})
		if w.Retry(false) {
			<-w.Context().Done() // the consumer gives all messages back now
		}
		return false, true
	case redirected:
		// The consumer adds the events of the name again, as the account's.
		d.refund(w, p)
		d.budgets.forget(w.Key())
		again = w.Failed(dedupe.Attempt{}, &Decision{Err: o.Err})
		lease.End(d.hard, dedupe.Verdict{})
		return again, true
	}
	if o.nobody {
		d.refund(w, p)
	}
	d.observe(o.Attempt, o.err)
	d.report(o.graph)
	if o.ending == undecided {
		lease.End(d.hard, dedupe.Verdict{})
		return false, !d.prepareRetry(w, user, s, o)
	}
	d.budgets.forget(w.Key())
	d.decided.Add(1)
	decide := w.Succeeded
	if o.ending == final {
		decide = w.Failed
	}
	again = decide(times(o.Attempt), &o.Decision)
	lease.End(d.hard, w.Verdict())
	return again, true
}

// prepareRetry ends an attempt that decided nothing, and waits until the next one is due. It
// reports whether an event still waits for it.
func (d *Dispatcher) prepareRetry(w *dedupe.Work, user event.User, s *series, o outcome) bool {
	// Each distinct failure is logged once: a long outage must not flood the log.
	if text := d.deps.Text(o.err); text != s.lastLogged {
		s.lastLogged = text
		d.deps.Log.Warn("attempt failed; trying again", zap.String("user", d.deps.Name(user)),
			zap.String("error", text), zap.Int("attempt", o.Attempts), zap.Duration("wait", o.wait))
	}
	next := time.Now().Add(o.wait)
	failed := s.budget.HasFailed()
	if failed {
		// Retry may end this Work. Another Work for the user can then take the budget from here,
		// and this one does not touch it any more.
		d.budgets.keep(w.Key(), kept{s.budget, next, s.sequence})
	}
	if !w.Retry(failed) {
		return false
	}
	d.sleep(w, next)
	return true
}

// refuse decides, without an attempt, that the user is never called. The Work must have started. It
// reports whether some event of the user is still undecided.
func (d *Dispatcher) refuse(w *dedupe.Work, s *series, err error) (again bool) {
	d.budgets.forget(w.Key())
	return w.Failed(dedupe.Attempt{}, &Decision{Attempts: s.budget.Attempts(), Err: err})
}

// Refuse returns why a user is never called, as a *revoker.Error; nil if they may be.
func Refuse(protected *guard.Protected, user event.User) error {
	switch {
	case protected.Has(user):
		return &revoker.Error{Kind: revoker.Protected}
	case user.External():
		return &revoker.Error{Kind: revoker.External}
	}
	return nil
}

// revoke sends one request, bounded by the permit's timeout.
func (d *Dispatcher) revoke(w *dedupe.Work, user event.User, p *permit) (revoker.Attempt, error) {
	ctx := d.hard
	if p.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(d.hard, p.timeout)
		defer cancel()
	}
	if d.deps.Tracer == nil {
		return d.deps.Revoker.Revoke(ctx, user)
	}
	return d.traced(ctx, w, user)
}

func times(a revoker.Attempt) dedupe.Attempt {
	return dedupe.Attempt{Start: a.Start, Duration: a.Duration, ServerDate: a.ServerDate}
}

// observe counts the result of one attempt.
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

// These are the warnings about users who fail one after the other.
const (
	usersFail = "users fail one after the other, and the canary is well: Graph refuses them for a reason of " +
		"their own (an administrative unit, a deleted account); worker dlq list and worker deferred list name them"
	graphMay = "users fail one after the other, and nothing shows that Graph is well: retries go one at a time " +
		"until one succeeds or the canary is well"
)

// report reports Graph's health and users who fail one after the other, and logs changes of these.
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
			d.deps.Log.Info("users no longer fail one after the other")
		} else {
			d.deps.Log.Warn(warning)
		}
	}
}

// ReportGraph reports Graph's health, and logs when it changes. A nil error means that Graph is
// usable.
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
		d.deps.Log.Error("Graph is not usable: only one probe at a time begins; messages wait, and none is dead-lettered for this",
			zap.String("error", d.deps.Text(err)))
	}
}
