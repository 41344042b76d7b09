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

// Attempts are the attempts that were made for one user until they were decided. All events that
// they decide share it, as the Detail of their dedupe.Result.
type Attempts struct {
	Last  revoker.Attempt
	Count int
	Err   error // nil when the sessions were revoked
}

// run makes attempts for one user until each of the user's events is decided.
func (d *Dispatcher) run(w *dedupe.Work, user event.User) {
	var others patience
	for again := true; again; {
		// The user takes the ticket before the window, so users who come meanwhile go after them.
		ticket := d.queue.nextTicket()
		w.AwaitWindow()
		again = d.makeAttempts(w, user, ticket, &others)
	}
}

// makeAttempts makes attempts until there is one verdict. Before each attempt it waits for a permit
// and, where replicas share their work, for the user's lease. It reports whether some event of the
// user is still undecided.
func (d *Dispatcher) makeAttempts(w *dedupe.Work, user event.User, ticket int, others *patience) (again bool) {
	s := d.series(w, user, ticket)
	for {
		// This check comes before the permit, because a permit reserves a person in the volume
		// guard, and may trip it.
		if err := Refuse(d.deps.Protected, user); err != nil {
			return w.Start() && d.refuse(w, Attempts{Count: s.budget.Attempts(), Err: err})
		}
		if s.by != event.NoLookup {
			if known, again := d.known(w, user); known {
				return again
			}
			if !d.awaitLookups(w, s.by) {
				return false
			}
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

// series returns the series of attempts for a user. If the user's events were removed before they
// were decided, it goes on with the series that was kept, once the next attempt is due. Otherwise
// it returns a new one with the ticket.
func (d *Dispatcher) series(w *dedupe.Work, user event.User, ticket int) *series {
	by, _ := user.Lookup()
	before, ok := d.budgets.of(w.Key(), w.Enqueued(), w.Newest())
	switch {
	case !ok && by != event.NoLookup:
		s := newSeries(d.queue, w.Key(), d.lookups.budget(by), ticket)
		s.by = by
		return s
	case !ok:
		return newSeries(d.queue, w.Key(), d.deps.Retrier.Budget(), ticket)
	}
	kept := &series{queue: d.queue, user: w.Key(), budget: before.Budget, ticket: before.ticket, retry: true, own: before.Own(), by: by}
	w.SetFailing()
	d.sleep(w, before.next)
	return kept
}

// attempt uses a permit and a lease for one attempt, and applies its ending. Whatever the ending
// is, the permit ends first (in notStarted, refused, or try), then the count of all replicas is
// corrected, the ledger learns the ending, and the lease ends. decided is false when another attempt
// must follow. Otherwise again reports whether some event of the user is still undecided.
func (d *Dispatcher) attempt(w *dedupe.Work, user event.User, s *series, p *permit, lease *coordination.Lease) (again, decided bool) {
	var e ending
	d.removeFallen(w)
	if !w.Start() {
		e = s.notStarted(p)
	} else if err := Refuse(d.deps.Protected, user); err != nil {
		// An operator may have protected the user while they waited, so the list is read just
		// before each attempt.
		e = s.refused(p, err)
	} else {
		e = s.try(d.hard, p, func() (revoker.Attempt, error) { return d.revoke(w, user, p) })
	}
	if e.nobody {
		d.refund(w, p)
	}
	if s.by != event.NoLookup && e.kind != cutOff {
		d.lookedUp(s.by, e.err)
	}
	again, verdict := d.apply(w, user, s, e)
	lease.End(d.hard, verdict)

	switch e.kind {
	case postponed:
		return false, !w.Retry(true)
	case tryAgain:
		return false, !d.prepareRetry(w, user, s, e)
	case cutOff:
		if w.Retry(false) {
			<-w.Context().Done() // the consumer gives all messages back now
		}
	}
	return again, true
}

// standsWithin bounds the question whether an event still stands.
const standsWithin = 5 * time.Second

// removeFallen removes the user's pending events that do not ask for an attempt any more: a date that
// was withdrawn while its event waited for its turn.
func (d *Dispatcher) removeFallen(w *dedupe.Work) {
	for _, e := range w.Unsure() {
		ctx, cancel := context.WithTimeout(d.hard, standsWithin)
		if !e.Stands(ctx) {
			d.ledger.Remove(w.Key(), e)
		}
		cancel()
	}
}

// apply observes an ending and, if the ending decides the events of the attempt, ends the attempt
// in the ledger. again reports whether some event of the user is still undecided then. verdict is
// what other replicas must know.
func (d *Dispatcher) apply(w *dedupe.Work, user event.User, s *series, e ending) (again bool, verdict dedupe.Verdict) {
	switch e.kind {
	case notStarted, cutOff, postponed:
		return false, dedupe.Verdict{}
	case refused:
		return d.refuse(w, e.Attempts), dedupe.Verdict{}
	case redirected: // the consumer adds the events of the name again, as the account's
		return d.refuse(w, Attempts{Err: e.Err}), dedupe.Verdict{}
	}
	if by, _ := user.Lookup(); by == event.NoLookup {
		d.observe(e.Last, e.err)
	}
	if e.learned {
		d.report(e.graph)
	}
	if e.kind == tryAgain {
		return false, dedupe.Verdict{}
	}
	d.decided.Add(1)
	end := w.Succeeded
	if e.kind == final {
		end = w.Failed
	}
	attempts := e.Attempts
	if e.kind == final && s.budget.HasFailed() {
		d.budgets.keep(w.Key(), kept{Budget: s.budget, ticket: s.ticket, final: &attempts})
	} else {
		d.budgets.forget(w.Key())
	}
	again = end(times(e.Last), &attempts)
	return again, w.Verdict()
}

// prepareRetry ends an attempt that decided nothing, and waits until the next one is due. It
// reports whether an event still waits for it.
func (d *Dispatcher) prepareRetry(w *dedupe.Work, user event.User, s *series, e ending) bool {
	// Each distinct failure is logged once: a long outage must not flood the log.
	if text := d.deps.Text(e.err); text != s.lastLogged {
		s.lastLogged = text
		d.deps.Log.Warn("attempt failed; trying again", zap.String("user", d.deps.Name(user)),
			zap.String("error", text), zap.Int("attempt", e.Count), zap.Duration("wait", e.wait))
	}
	next := time.Now().Add(e.wait)
	failed := s.budget.HasFailed()
	if failed {
		// Retry may end this Work. From then on another Work for the user may use the budget, so
		// this one must not touch it any more.
		d.budgets.keep(w.Key(), kept{Budget: s.budget, next: next, ticket: s.ticket})
	}
	if !w.Retry(failed) {
		return false
	}
	d.sleep(w, next)
	return true
}

// refuse decides the user's events without an attempt, because the user must not be called. The
// Work must have started. It reports whether some event of the user is still undecided.
func (d *Dispatcher) refuse(w *dedupe.Work, a Attempts) (again bool) {
	d.budgets.forget(w.Key())
	return w.Failed(dedupe.Attempt{}, &a)
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
	ctx, timeout := d.hard, p.timeout
	if p.lookup && !p.retry {
		timeout = lookupWithin
	}
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(d.hard, timeout)
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
	if err == nil {
		d.deps.Metrics.LastRevoked.SetToCurrentTime()
	}
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
	case c.suspected && c.usersFault:
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
