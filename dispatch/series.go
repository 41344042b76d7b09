package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// series is the series of attempts for one user until they are decided. It holds the user's ticket
// in the call queue, and what their failures have used up. One goroutine uses it.
type series struct {
	queue  *queue
	user   string // the user's key
	budget *retry.Budget
	ticket int
	retry  bool         // the next attempt is a retry
	by     event.Lookup // the attempts are look-ups of this way
	// own is a copy of Budget.Own. The user's events may be removed before they are decided. Then
	// another series goes on with the budget, although this one may not have noticed yet.
	own bool
	// lastLogged is the text of the failure that was logged last.
	lastLogged string
}

func newSeries(q *queue, user string, budget *retry.Budget, ticket int) *series {
	return &series{queue: q, user: user, budget: budget, ticket: ticket}
}

// wait waits for the permit to the next attempt. Then try or queue.cancel must follow. Its errors
// are those of queue.wait.
func (s *series) wait(ctx context.Context, urgency urgencyFunc) (*permit, error) {
	return s.queue.wait(ctx, request{
		user: s.user, ticket: s.ticket, retry: s.retry, own: s.own, lookup: s.by != event.NoLookup, urgency: urgency,
	})
}

// endingKind names how one attempt ended.
type endingKind int

const (
	// tryAgain: the failure is not final, and another attempt must follow.
	tryAgain endingKind = iota
	// succeeded: Graph has revoked the sessions.
	succeeded
	// final: the failure is final.
	final
	// cutOff: this process ended the attempt itself, which proves nothing.
	cutOff
	// redirected: nobody was called, because the user's name or device belongs to an account. See
	// AccountOf.
	redirected
	// refused: nobody was called, because the user must never be. See Refuse.
	refused
	// notStarted: nobody was called, because no event of the user waited any more.
	notStarted
	// postponed: no look-up of this way is possible now, and the user waits until one is.
	postponed
)

// ending is how one attempt ended. An attempt that was not made has an ending, too.
type ending struct {
	// Attempts are the attempts so far. If the failure is final, Err is the reason why, and
	// otherwise it is err.
	Attempts
	kind    endingKind
	wait    time.Duration // until the next attempt; only for tryAgain
	err     error         // of the attempt
	graph   condition     // what the breaker knows after it, if learned
	learned bool          // the breaker learned from it
	nobody  bool          // certainly nobody was signed out
}

// notStarted gives a permit back when no event of the user waits any more. It does not touch the
// budget, which an attempt for a new event of the user may use by now.
func (s *series) notStarted(p *permit) ending {
	s.queue.cancel(p)
	return ending{kind: notStarted, nobody: true}
}

// refused gives a permit back without an attempt, because the user must never be called.
func (s *series) refused(p *permit, err error) ending {
	s.queue.cancel(p)
	return ending{Attempts: Attempts{Count: s.budget.Attempts(), Err: err}, kind: refused, nobody: true}
}

// try uses a permit: it makes one attempt, ends it in the queue and in the budget, and decides
// whether the answer is final. The end of ctx cuts the attempt off.
func (s *series) try(ctx context.Context, p *permit, revoke func() (revoker.Attempt, error)) ending {
	s.budget.Attempt()
	attempt, err := revoke()
	e := ending{Attempts: Attempts{Last: attempt, Count: s.budget.Attempts(), Err: err}, err: err}
	if err != nil && ctx.Err() != nil {
		s.queue.cancel(p)
		e.kind = cutOff
		return e
	}
	if _, ok := AccountOf(err); ok {
		s.queue.cancel(p)
		if s.by != event.NoLookup {
			s.budget.Succeeded()
		}
		e.kind, e.nobody = redirected, true
		return e
	}
	e.nobody = nobodySignedOut(attempt, err)
	if s.by != event.NoLookup {
		if decided := s.lookedUp(p, &e); decided {
			return e
		}
	} else {
		e.graph, e.learned = s.queue.done(p, attempt.Usage, e.nobody, err), true
	}
	if err == nil {
		s.budget.Succeeded()
		e.kind = succeeded
		return e
	}
	wait, decided := s.budget.Failed(err)
	if decided != nil {
		e.kind, e.Err = final, decided
		return e
	}
	e.wait = wait
	if e.graph.cause != nil {
		e.wait = retry.After(err) // the breaker holds everyone back; its end must not find us asleep
	}
	if s.budget.Unproved() && s.by == event.NoLookup { // a canary proves nothing about look-ups
		s.queue.wantProof()
	}
	s.own = s.budget.Own()
	if s.retry = s.budget.HasFailed() || s.budget.Refused(); s.retry {
		s.ticket = s.queue.nextTicket() // retries take turns, however long some of them hang
	}
	return e
}

// lookedUp ends the permit of a look-up that has found no account. It reports whether the ending is
// known; if not, the budget decides. The limiter and the breaker only learn of failures that
// attempts would have, too.
func (s *series) lookedUp(p *permit, e *ending) (decided bool) {
	failure, _ := errors.AsType[*revoker.Error](e.err)
	switch {
	case failure != nil && (failure.Suspicious() || failure.Systemic() || failure.Excused()):
		e.graph, e.learned = s.queue.done(p, e.Last.Usage, e.nobody, e.err), true
		return false
	case failure != nil && failure.Permanent():
		s.budget.Succeeded() // it is an answer, so the failures of others are their own
		e.kind = final
	case failure != nil && failure.Postponed():
		e.kind = postponed
	}
	s.queue.cancel(p)
	return e.kind != tryAgain
}

// nobodySignedOut reports whether the attempt has certainly signed nobody out: Graph was not asked,
// or gave a whole answer that is a failure. Without one, or where a 2xx broke off, it may be a
// success.
func nobodySignedOut(attempt revoker.Attempt, err error) bool {
	if err == nil {
		return false
	}
	if failure, ok := errors.AsType[*revoker.Error](err); !ok || failure.Kind == revoker.Unreachable {
		return !attempt.Sent
	}
	return true
}
