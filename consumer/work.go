package consumer

import (
	"context"
	"errors"
	"strconv"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// decision is what the calls for one user came to; it is shared by the results of all events that it decides.
type decision struct {
	attempt revoker.Attempt // the last call
	calls   int
	err     error // nil when revoked
}

// runWork calls Graph for one user until nothing about the user is unsettled. hard ends the calls under way.
func (c *Consumer) runWork(hard context.Context, w *dedupe.Work, user event.User) {
	for again := true; again; {
		w.AwaitWindow()
		again = c.callUntilDecided(hard, w, user)
	}
}

// callUntilDecided is the way to one verdict: wait for a turn, call, and depending on the answer decide or try again. It
// says whether something about the user is still unsettled.
func (c *Consumer) callUntilDecided(hard context.Context, w *dedupe.Work, user event.User) (again bool) {
	budget := c.Retrier.Budget()
	place := c.line.newPlace()
	var told string
	for {
		turn, err := c.line.wait(w.Context(), w.Key(), place, w.Urgency)
		if err != nil {
			return false
		}
		lease, next := c.lease(w)
		if next != mayCall {
			c.line.cancel(turn)
			if next == waitForRelease || next == waitForOther && c.awaitOther(w) {
				continue
			}
			return next == parkAgain
		}
		if !w.Start() {
			c.line.cancel(turn)
			lease.End(hard, dedupe.Verdict{})
			return false
		}
		budget.Attempt()
		span := c.callSpan(w)
		attempt, err := c.Revoker.Revoke(hard, user)
		endCallSpan(span, attempt, err)
		if err != nil && hard.Err() != nil {
			// A call that we cut off ourselves tells nothing. All messages are being given back.
			c.line.cancel(turn)
			lease.End(hard, dedupe.Verdict{})
			if w.Retry(false) {
				<-w.Context().Done()
			}
			return false
		}
		open, cause := c.line.done(turn, attempt.Usage, err)
		c.observe(attempt, err)
		c.reportGraph(cause)
		decided := &decision{attempt: attempt, calls: budget.Attempts(), err: err}
		if err == nil {
			budget.Succeeded()
			c.decided.Add(1)
			again = w.Succeeded(times(attempt), decided)
			lease.End(hard, w.Verdict())
			return again
		}
		wait, final := budget.Failed(err, c.ledger.Crowded())
		if final != nil {
			decided.err = final
			c.decided.Add(1)
			again = w.Failed(times(attempt), decided)
			lease.End(hard, w.Verdict())
			return again
		}
		lease.End(hard, dedupe.Verdict{})
		if open {
			wait = retry.After(err) // the breaker holds everyone back; its end must not find us asleep
		}
		// Once per distinct failure: a long outage must not flood the log.
		if text := c.text(err); text != told {
			told = text
			c.Log.Warn("attempt failed; trying again", zap.String("user", c.user(user)), zap.String("error", text),
				zap.Int("attempt", budget.Attempts()), zap.Duration("wait", wait))
		}
		if !w.Retry(wait > 0) {
			return false
		}
		_ = retry.Sleep(w.Context(), wait)
		w.Resume()
	}
}

func times(a revoker.Attempt) dedupe.Attempt {
	return dedupe.Attempt{Start: a.Start, Duration: a.Duration, ServerDate: a.ServerDate}
}

// observe counts one attempt's end.
func (c *Consumer) observe(attempt revoker.Attempt, err error) {
	result := "revoked"
	var failure *revoker.Error
	if errors.As(err, &failure) {
		result = string(failure.Kind)
	}
	status := "none"
	if attempt.Status != 0 {
		status = strconv.Itoa(attempt.Status)
	}
	c.Metrics.GraphCalls.WithLabelValues(result, status).Inc()
}

// reportGraph sets Graph's health and logs when it changes.
func (c *Consumer) reportGraph(err error) {
	if err == nil {
		if c.Health.Report(PartGraph, "") {
			c.Log.Info("Graph is usable")
		}
		return
	}
	problem := err.Error()
	var failure *revoker.Error
	if errors.As(err, &failure) {
		problem = failure.Brief()
	}
	if c.Health.Report(PartGraph, problem) {
		c.Log.Error("Graph is not usable: calls stop but for one probe at a time; messages wait, none is dead-lettered for it",
			zap.String("error", c.text(err)))
	}
}
