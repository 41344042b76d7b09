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

// ManualRevocation revokes the sessions of users without messages, with the same protected users,
// rate limiter, retries and outcomes as the worker. Its fields are not changed during Revoke.
type ManualRevocation struct {
	Protected *guard.Protected
	Retrier   *retry.Retrier
	// Concurrency is how many attempts are in flight at once; at least 1.
	Concurrency int
	// Call makes one attempt. ValidFrom reads since when a user's sessions are valid. It is called
	// before and after the attempts. It may be nil.
	Call      func(context.Context, event.User) (revoker.Attempt, error)
	ValidFrom func(context.Context, event.User) (time.Time, error)
}

// ManualResult is the result of one user.
type ManualResult struct {
	User event.User
	// Revoked reports whether Graph has revoked the sessions. If not, Err says why, and Reason
	// names it; Reason is empty for users whose attempts were stopped.
	Revoked bool
	Reason  deadletter.Reason
	Err     error
	Calls   int
	// Last is the failure of the last attempt, or nil. It says why there was another one if Err says
	// only that the attempts were stopped.
	Last error
	// Attempt is the last attempt. With ValidFrom it holds what was read about its effect.
	Attempt revoker.Attempt
}

// manualAttempts is the number of attempts after which Graph's answer about one user is final, even
// if no other user's success proves that Graph is well. A person waits for the result, and can
// judge it.
const manualAttempts = 3

// verifyTimeout bounds the wait until an effect can be read.
const verifyTimeout = 30 * time.Second

// Revoke revokes the sessions of each user. It reports each user's result once, in any order, from
// one goroutine at a time. A failure that hits everyone (no token, no permission) stops the
// attempts for all other users, and so does the end of ctx. Attempts in flight are finished first.
// Revoke returns when every user is reported.
func (b *ManualRevocation) Revoke(ctx context.Context, users []event.User, report func(ManualResult)) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	concurrency := max(1, b.Concurrency)
	// There is no volume guard: a person has counted the users.
	q := newQueue(concurrency, guard.VolumeConfig{}, nil, false)
	defer q.stop()
	todo := make(chan event.User)
	var workers sync.WaitGroup
	var mu sync.Mutex // of report
	for range min(concurrency, len(users)) {
		workers.Go(func() {
			for user := range todo {
				result := b.one(ctx, stop, q, user)
				mu.Lock()
				report(result)
				mu.Unlock()
			}
		})
	}
	for _, user := range users {
		todo <- user // after the end of ctx the workers only report, so this does not block for long
	}
	close(todo)
	workers.Wait()
}

// one handles one user: it checks that they are not protected, makes attempts until the result is
// decided, and verifies the effect.
func (b *ManualRevocation) one(
	ctx context.Context, stop context.CancelCauseFunc, q *queue, user event.User,
) ManualResult {
	result := ManualResult{User: user}
	if result.Err = Refuse(b.Protected, user); result.Err != nil {
		result.Reason = ReasonOf(result.Err)
		return result
	}
	if b.ValidFrom == nil || ctx.Err() != nil {
		b.makeAttempts(ctx, stop, q, &result)
		return result
	}
	read := func(ctx context.Context) (time.Time, error) { return b.ValidFrom(ctx, user) }
	before, err := read(ctx)
	b.makeAttempts(ctx, stop, q, &result)
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

// makeAttempts makes attempts until the user's result is decided, or the end of ctx stops them.
func (b *ManualRevocation) makeAttempts(
	ctx context.Context, stop context.CancelCauseFunc, q *queue, result *ManualResult,
) {
	s := newSeries(q, result.User.Key(), b.Retrier.Budget(), q.nextTicket())
	for {
		p, err := s.wait(ctx, func(func(string) bool) (int, string) { return 0, "" })
		if err == nil && ctx.Err() != nil {
			q.cancel(p)
			err = context.Cause(ctx)
		}
		if err != nil {
			result.Err = err
			return
		}
		// The end of ctx does not cut an attempt off, because nobody would know whether it has
		// revoked the sessions. Each attempt has a timeout of its own.
		uncut := context.WithoutCancel(ctx)
		e := s.try(uncut, p, func() (revoker.Attempt, error) { return b.Call(uncut, result.User) })
		result.Attempt, result.Calls, result.Err, result.Last = e.Last, e.Count, e.Err, e.Err
		failure, _ := errors.AsType[*revoker.Error](e.err)
		switch {
		case e.kind == succeeded:
			result.Revoked = true
			return
		case failure != nil && failure.Systemic():
			stop(e.err)
			return
		case e.kind != tryAgain, e.Count >= manualAttempts && aboutOneUser(failure):
			result.Reason = ReasonOf(e.Err)
			return
		}
		_ = retry.Sleep(ctx, e.wait)
	}
}

// aboutOneUser reports whether the failure is Graph's answer about one user.
func aboutOneUser(failure *revoker.Error) bool {
	return failure != nil && (failure.Kind == revoker.NotRevoked || failure.Kind == revoker.Forbidden)
}
