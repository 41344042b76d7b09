package dispatch

import (
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/retry"
	"github.com/session-revoker/session-revoker/revoker"
)

// PartLookups is the part that a Dispatcher warns about while no look-ups are possible.
const PartLookups = "lookups"

const (
	// stopLookups is how many look-ups of one way must fail in a row to stop them.
	stopLookups = 3
	// lookupAgain is the time between two look-ups while they fail, and lookupLater while they are
	// not allowed or throttled without a Retry-After.
	lookupAgain = 10 * time.Second
	lookupLater = time.Minute
	// lookupWithin bounds the first look-up of a user, so that a service that hangs is noticed soon.
	lookupWithin = 5 * time.Second
)

// lookups knows for each way to look users up whether it works. Each has permissions, a quota, and
// often a service of its own: it can fail for everyone while attempts succeed, and attempts must
// not suffer from that. So look-ups that fail neither open the breaker nor slow the rate limiter,
// unless no token can be had or no answer comes. They stop by themselves: then one at a time tests
// whether they work again, and the users who wait need no permit. It is safe for concurrent use.
type lookups struct {
	mu   sync.Mutex
	ways [event.BySerialNumber + 1]way
}

// way is one way to look users up.
type way struct {
	// retrier knows the successes of this way: only these prove that it works, so that the failure
	// of a look-up is the device's own.
	retrier *retry.Retrier
	failed  int           // look-ups in a row
	cause   error         // why look-ups are stopped; nil if they are not
	pause   time.Duration // between two tests while they are
	next    time.Time     // of the next test
}

func newLookups(retrier *retry.Retrier) *lookups {
	l := &lookups{}
	for by := range l.ways {
		l.ways[by].retrier = retrier.Apart()
	}
	return l
}

// budget returns the budget of a user who must be looked up.
func (l *lookups) budget(by event.Lookup) *retry.Budget { return l.ways[by].retrier.Budget() }

// begin returns 0 if a look-up may begin, and otherwise how long to wait before asking again. While
// look-ups are stopped, each one that may begin is a test, and postpones the next.
func (l *lookups) begin(by event.Lookup, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.ways[by]
	if w.cause == nil {
		return 0
	}
	if wait = w.next.Sub(now); wait > 0 {
		return wait
	}
	w.next = now.Add(w.pause)
	return 0
}

// end notes how a look-up ended. changed reports whether look-ups have stopped now, or go on; why is
// then the failure that stopped them, or nil.
func (l *lookups) end(by event.Lookup, failure *revoker.Error, now time.Time) (changed bool, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := &l.ways[by]
	before := w.cause
	switch {
	case failure.Kind == revoker.Named, failure.Permanent():
		w.failed, w.cause = 0, nil
	case failure.Postponed():
		w.stop(failure, min(max(lookupLater, failure.After), retry.MaxRetryAfter), now)
	case failure.Systemic(), failure.Excused():
		// It is the token's, so attempts tell.
	default:
		if w.failed++; w.failed >= stopLookups {
			w.stop(failure, max(lookupAgain, retry.After(failure)), now)
		}
	}
	return (before == nil) != (w.cause == nil), w.cause
}

// stop stops look-ups, or keeps them stopped.
func (w *way) stop(cause error, pause time.Duration, now time.Time) {
	w.cause, w.pause, w.next = cause, pause, now.Add(pause)
}

// stopped returns the failure that has stopped look-ups of some way, or nil if all work.
func (l *lookups) stopped() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.ways {
		if w.cause != nil {
			return w.cause
		}
	}
	return nil
}

// awaitLookups waits until the user may be looked up. Meanwhile their messages may be deferred, like
// those of users who fail. It returns false if nobody waits for the user any more.
func (d *Dispatcher) awaitLookups(w *dedupe.Work, by event.Lookup) bool {
	for {
		wait := d.lookups.begin(by, time.Now())
		if wait == 0 {
			return true
		}
		w.SetFailing()
		d.sleep(w, time.Now().Add(wait))
		if w.Context().Err() != nil {
			return false
		}
	}
}

// known decides the user's events without an attempt, if a look-up has found the account since they
// were enqueued. If it did, again reports whether some event of the user is still undecided.
func (d *Dispatcher) known(w *dedupe.Work, user event.User) (known, again bool) {
	if d.deps.Known == nil {
		return false, false
	}
	if _, ok := d.deps.Known(user, w.Newest()); !ok || !w.Start() {
		return false, false
	}
	account, ok := d.deps.Known(user, w.Newest())
	if !ok { // another event has come before the Start
		w.Retry(false)
		return false, false
	}
	return true, d.refuse(w, Attempts{Err: &revoker.Error{Kind: revoker.Named, Account: account}})
}

// lookedUp counts a look-up, and reports when look-ups stop or go on.
func (d *Dispatcher) lookedUp(by event.Lookup, err error) {
	failure, ok := errors.AsType[*revoker.Error](err)
	if !ok {
		return
	}
	result := string(failure.Kind)
	if failure.Kind == revoker.Named {
		result = "found"
	}
	d.deps.Metrics.Lookups.WithLabelValues(by.String(), result).Inc()
	changed, why := d.lookups.end(by, failure, time.Now())
	if !changed {
		return
	}
	warning := ""
	if stopped, _ := errors.AsType[*revoker.Error](d.lookups.stopped()); stopped != nil {
		warning = "events that must be looked up by " + stopped.By.String() + " wait: " + stopped.Brief()
	}
	d.deps.Health.Warn(PartLookups, warning)
	if why != nil {
		d.deps.Log.Error("look-ups are stopped: their events wait, and none is dead-lettered for this; others go on",
			zap.String("by", by.String()), zap.String("error", d.deps.Text(why)))
	} else {
		d.deps.Log.Info("look-ups go on", zap.String("by", by.String()))
	}
}
