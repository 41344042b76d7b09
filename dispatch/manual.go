package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// ManualRevocation revokes users without messages: with the same guard, pace, retries and outcomes.
type ManualRevocation struct {
	Protected *guard.Protected
	Retrier   *retry.Retrier
	// Concurrency bounds the calls at once; at least 1.
	Concurrency int
	// Call makes one attempt. ValidFrom, if not nil, reads from when on sessions are valid, before and after it.
	Call      func(context.Context, event.User) (revoker.Attempt, error)
	ValidFrom func(context.Context, event.User) (time.Time, error)
}

// ManualResult is what became of one user.
type ManualResult struct {
	User event.User
	// Revoked says that Graph has revoked the sessions. If not, Reason and Err say why; Reason is empty for those that were
	// stopped.
	Revoked bool
	Reason  deadletter.Reason
	Err     error
	Calls   int
	// Attempt is the last call, with the proof of its effect if ValidFrom was given.
	Attempt revoker.Attempt
}

// manualAttempts is after how many attempts Graph's word about one user is believed, though nobody else's success proves that it
// is well: a person waits, and can judge.
const manualAttempts = 3

// verifyTimeout is how long an effect may take to be readable.
const verifyTimeout = 30 * time.Second

// Revoke revokes the users, each once, and tells each one's end by report, which is called by one goroutine at a time, in any order. A failure that
// hits everyone (no token, no permission) ends it for all; so does the end of ctx, after the calls under way. Each user is
// reported either way.
func (b *ManualRevocation) Revoke(ctx context.Context, users []event.User, report func(ManualResult)) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	concurrency := max(1, b.Concurrency)
	calls := newQueue(concurrency, guard.VolumeConfig{}, nil, false) // a person has counted
	defer calls.stop()
	todo := make(chan event.User)
	var workers sync.WaitGroup
	var mu sync.Mutex // of report
	for range min(concurrency, len(users)) {
		workers.Go(func() {
			for user := range todo {
				result := b.one(ctx, stop, calls, user)
				mu.Lock()
				report(result)
				mu.Unlock()
			}
		})
	}
	for _, user := range users {
		todo <- user // never for long: a worker whose context has ended takes it and reports
	}
	close(todo)
	workers.Wait()
}

// one is the way of one user: guard, call until decided, look for the effect.
func (b *ManualRevocation) one(ctx context.Context, stop context.CancelCauseFunc, calls *queue, user event.User) ManualResult {
	result := ManualResult{User: user}
	if result.Err = Refuse(b.Protected, user); result.Err != nil {
		result.Reason = ReasonOf(result.Err)
		return result
	}
	if b.ValidFrom == nil || ctx.Err() != nil {
		b.call(ctx, stop, calls, &result)
		return result
	}
	read := func(ctx context.Context) (time.Time, error) { return b.ValidFrom(ctx, user) }
	before, err := read(ctx)
	b.call(ctx, stop, calls, &result)
	a := &result.Attempt
	a.ValidFromBefore = before
	switch {
	case err != nil:
		a.Unverified = revoker.Unreadable(err)
	case result.Revoked:
		a.ValidFromAfter, a.Unverified = revoker.VerifyEffect(ctx, read, before, a.ServerDate, verifyTimeout)
	}
	return result
}

// call calls until the user's end is decided.
func (b *ManualRevocation) call(ctx context.Context, stop context.CancelCauseFunc, calls *queue, result *ManualResult) {
	budget := b.Retrier.Budget()
	sequence := calls.nextSequence()
	for {
		granted, err := calls.wait(ctx, request{user: result.User.Key(), sequence: sequence, retry: budget.HasFailed() || budget.Refused(), urgency: func(func(string) bool) (int, string) { return 0, "" }})
		if err != nil {
			result.Err = err
			return
		}
		if ctx.Err() != nil {
			calls.cancel(granted)
			result.Err = context.Cause(ctx)
			return
		}
		budget.Attempt()
		// Not ended by ctx: whether a call that is cut off has revoked, nobody knows. It has a limit of its own.
		attempt, err := b.Call(context.WithoutCancel(ctx), result.User)
		_ = calls.done(granted, attempt.Usage, nobodySignedOut(attempt, err), err)
		result.Attempt, result.Calls = attempt, budget.Attempts()
		if err == nil {
			budget.Succeeded()
			result.Revoked = true
			return
		}
		var failure *revoker.Error
		if errors.As(err, &failure) && failure.Systemic() {
			result.Err = err
			stop(err)
			return
		}
		wait, final := budget.Failed(err)
		if final == nil && budget.Attempts() >= manualAttempts && failure != nil && (failure.Kind == revoker.NotRevoked || failure.Kind == revoker.Forbidden) {
			final = err
		}
		if final != nil {
			result.Err, result.Reason = final, ReasonOf(final)
			return
		}
		_ = retry.Sleep(ctx, wait)
	}
}
