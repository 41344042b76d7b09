package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// series is the series of attempts for one user until their result is decided: the user's place in
// the call queue, and what their failures have used up. One goroutine uses it.
type series struct {
	queue    *queue
	user     string // the user's key
	budget   *retry.Budget
	sequence int
	retry    bool // the next attempt is a retry
	// own is Budget.Own. It is read here and not in the budget: when the user's events leave,
	// another series may go on with the budget, while this one finds out that nobody waits any
	// more.
	own bool
	// lastLogged is the text of the failure that was logged last.
	lastLogged string
}

func newSeries(q *queue, user string, budget *retry.Budget, sequence int) *series {
	return &series{queue: q, user: user, budget: budget, sequence: sequence}
}

// wait waits for the permit to the next attempt. Then try or queue.cancel must follow. Its errors
// are those of queue.wait.
func (s *series) wait(ctx context.Context, urgency urgencyFunc) (*permit, error) {
	return s.queue.wait(ctx, request{
		user: s.user, sequence: s.sequence, retry: s.retry, own: s.own, urgency: urgency,
	})
}

// ending is how one attempt ended.
type ending int

const (
	undecided  ending = iota // another attempt must follow
	succeeded                // Graph has revoked the sessions
	final                    // the failure is final
	cutOff                   // this process ended the attempt itself: it proves nothing
	redirected               // nobody was called: the name belongs to an account, see AccountOf
)

// outcome is what one attempt came to.
type outcome struct {
	// Decision holds the error that decides the user when the failure is final, and otherwise that
	// of the attempt.
	Decision
	ending ending
	wait   time.Duration // until the next attempt, when undecided
	err    error         // of the attempt
	graph  condition     // what the breaker knows after it
	nobody bool          // nobody was signed out
}

// try uses a permit: it makes one attempt, ends it in the queue and in the budget, and decides
// whether the answer is final. The end of ctx is what may cut the attempt off.
func (s *series) try(ctx context.Context, p *permit, revoke func() (revoker.Attempt, error)) outcome {
	s.budget.Attempt()
	attempt, err := revoke()
	o := outcome{Decision: Decision{Attempt: attempt, Attempts: s.budget.Attempts(), Err: err}, err: err}
	if err != nil && ctx.Err() != nil {
		s.queue.cancel(p)
		o.ending = cutOff
		return o
	}
	if _, ok := AccountOf(err); ok {
		s.queue.cancel(p)
		o.ending = redirected
		return o
	}
	o.nobody = nobodySignedOut(attempt, err)
	o.graph = s.queue.done(p, attempt.Usage, o.nobody, err)
	if err == nil {
		s.budget.Succeeded()
		o.ending = succeeded
		return o
	}
	wait, decided := s.budget.Failed(err)
	if decided != nil {
		o.ending, o.Err = final, decided
		return o
	}
	o.wait = wait
	if o.graph.cause != nil {
		o.wait = retry.After(err) // the breaker holds everyone back; its end must not find us asleep
	}
	if s.budget.Unproved() {
		s.queue.wantProof()
	}
	s.own = s.budget.Own()
	if s.retry = s.budget.HasFailed() || s.budget.Refused(); s.retry {
		s.sequence = s.queue.nextSequence() // retries take turns, however long some of them hang
	}
	return o
}

// nobodySignedOut reports whether the attempt has certainly signed nobody out: Graph was not asked, or
// gave a whole answer that is a failure. Without one, or where a 2xx broke off, it may be a success.
func nobodySignedOut(attempt revoker.Attempt, err error) bool {
	var failure *revoker.Error
	switch {
	case err == nil:
		return false
	case !errors.As(err, &failure) || failure.Kind == revoker.Unreachable:
		return !attempt.Sent
	}
	return true
}
