package dedupe

import (
	"context"
	"slices"
	"time"
)

// Work is one user's work until no event of the user is undecided. One goroutine runs it:
//
//	for again := true; again; {
//		w.AwaitWindow()             // returns at once when nothing is parked
//		if !w.Start() { return }    // nobody waits any more
//		… one attempt …
//		again = w.Succeeded(…)      // or w.Failed(…); or w.Retry(…), and after a wait another w.Start()
//	}
//
// The ledger has one Work for each user, so two attempts for one user are never in flight. The
// methods are safe for concurrent use, but Start and the methods that end an attempt must be called
// in the order shown.
type Work struct {
	ledger *Ledger
	key    string
	ctx    context.Context
	cancel context.CancelFunc

	// The ledger's lock guards the fields below.
	pending    group // events that wait for the next attempt
	attempting group // events that the attempt in flight was started for
	beside     group // events that arrived during the attempt
	inFlight   bool  // an attempt is in flight
	// startedFor are the messages that the attempt in flight was started for, including those whose
	// locks were lost since.
	startedFor []Position
	urgency    int
	last       Verdict // the last one of this Work; zero if there is none

	// Most users have one event: this is the memory of pending and startedFor for it.
	one struct {
		event    [1]*Event
		position [1]Position
	}

	failing     bool          // the user has failed since the last verdict
	paused      bool          // see Pause
	more        chan struct{} // see More; nil until More is called
	parkedUntil time.Time     // the end of the window; zero when nothing is parked
	parkedFor   time.Time     // the end of the last window: Adopt does not park for it again
	due         chan struct{} // closed when parked events are due before the end of the window
}

// Key returns the user's key.
func (w *Work) Key() string { return w.key }

// Context returns a context that ends when no event of the user waits for an attempt any more. It
// does not end while an attempt is in flight.
func (w *Work) Context() context.Context { return w.ctx }

// Urgency returns the user's urgency, and the type of event that the next attempt is for. The
// urgency is that of the most urgent event that waits or has waited; 0 is the most urgent. The type
// is that of the most urgent waiting event whose type is not blocked. If all types are blocked, it
// is that of the most urgent waiting event. If no event waits, it is empty. blocked may be nil.
func (w *Work) Urgency(blocked func(kind string) bool) (urgency int, kind string) {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	var most *Event
	stopped := false
	for _, e := range w.pending {
		stops := blocked != nil && blocked(e.Kind)
		if most == nil || stopped && !stops || stopped == stops && e.Urgency < most.Urgency {
			most, stopped = e, stops
		}
	}
	if most != nil {
		kind = most.Kind
	}
	return w.urgency, kind
}

// Enqueued returns when the oldest waiting event was enqueued, by the broker's clock. It returns
// the zero time if no event waits.
func (w *Work) Enqueued() (oldest time.Time) {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	for _, e := range w.pending {
		if oldest.IsZero() || e.Enqueued.Before(oldest) {
			oldest = e.Enqueued
		}
	}
	return oldest
}

// Newest returns when the newest event was enqueued that waits or that the attempt in flight was
// started for, by the broker's clock. It returns the zero time if there is none.
func (w *Work) Newest() (newest time.Time) {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	for _, g := range []group{w.pending, w.attempting} {
		for _, e := range g {
			if e.Enqueued.After(newest) {
				newest = e.Enqueued
			}
		}
	}
	return newest
}

// More returns a channel that is signaled when an event of the user is added after the first call
// of More.
func (w *Work) More() <-chan struct{} {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if w.more == nil {
		w.more = make(chan struct{}, 1)
	}
	return w.more
}

// AwaitWindow waits until parked events are due. This is at the end of the window, or earlier if
// the ledger needs room or is flushed. It also returns when no event waits any more, and at once
// when none is parked.
func (w *Work) AwaitWindow() {
	w.ledger.mu.Lock()
	until, due := w.parkedUntil, w.due
	w.ledger.mu.Unlock()
	if until.IsZero() {
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-due:
	case <-w.ctx.Done():
	}
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	w.unpark()
	w.ledger.enforceAllShares() // events of a failing user count as failing from now on
}

// Pause notes that the next attempt does not begin soon: another replica calls for the user, the
// volume guard has tripped, or a backoff is long. Meanwhile the user's messages may be deferred.
// Resume must follow.
func (w *Work) Pause() {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.empty() {
		return // the Work is over
	}
	w.paused = true
	w.refreshPending()
	w.deferEager()
}

// Resume ends a Pause: the pending events wait for a permit again.
func (w *Work) Resume() {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.paused = false
	w.refreshPending()
}

// SetFailing notes that the user has failed in an earlier Work, and that no verdict was reached
// since.
func (w *Work) SetFailing() {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.failing = true
	w.refreshPending()
}

// Unsure returns the pending events that may not stand any more. The caller asks each of them before
// Start, and removes from the ledger those that do not.
func (w *Work) Unsure() (unsure []*Event) {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	for _, e := range w.pending {
		if e.Stands != nil {
			unsure = append(unsure, e)
		}
	}
	return unsure
}

// Start starts an attempt for the pending events. It returns false if no event waits any more. Then
// no attempt must be made, and the Work is over.
func (w *Work) Start() bool {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if w.empty() {
		return false
	}
	w.attempting, w.pending = w.pending, nil
	w.startedFor = w.startedFor[:0]
	for _, e := range w.attempting {
		w.startedFor = append(w.startedFor, e.Position)
	}
	w.inFlight = true
	return true
}

// Tag returns the Tag of the newest event that the attempt in flight was started for, or nil if
// there is none.
func (w *Work) Tag() any {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if len(w.attempting) == 0 {
		return nil
	}
	newest := w.attempting[0]
	for _, e := range w.attempting[1:] {
		if e.Compare(newest.Position) > 0 {
			newest = e
		}
	}
	return newest.Tag
}

// Succeeded ends the attempt in flight with success. The events that it was started for are
// revoked. Of the events beside it, those that it covers are covered, and the others are parked. It
// reports whether some event is undecided; if none is, the Work is over. detail becomes the Detail
// of the revoked events' Result.
func (w *Work) Succeeded(a Attempt, detail any) (again bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	// The newest message counts even if its lock was lost meanwhile, because it is delivered again.
	newest := w.newestStarted()
	w.last = Verdict{Start: a.Start, Covers: a.coversBefore(l.cfg.SkewMargin), Entity: newest.Entity, Sequence: newest.Sequence}
	v := l.remember(w.key, w.last, now)
	for _, e := range w.attempting {
		e.finish(Result{Disposition: Revoked, Detail: detail})
	}
	beside := w.beside
	w.attempting, w.beside = nil, nil
	for _, e := range beside {
		if v.covered(e.Position) {
			e.finish(Result{Disposition: Covered})
		} else {
			w.pending = w.add(w.pending, e, parked, now)
		}
	}
	return w.applyVerdict(v)
}

// Failed ends the attempt in flight with a final failure: the events that it was started for have
// failed. Those beside it are parked, since another attempt may succeed. It reports whether some
// event is undecided; if none is, the Work is over. detail becomes the Detail of the failed events'
// Result.
func (w *Work) Failed(a Attempt, detail any) (again bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.last = Verdict{Start: a.Start}
	v := l.remember(w.key, w.last, time.Now())
	for _, e := range w.attempting {
		e.finish(Result{Disposition: Failed, Detail: detail})
	}
	w.pending, w.attempting, w.beside = w.beside, nil, nil
	return w.applyVerdict(v)
}

// Retry ends the attempt in flight without a decision: all events of the user wait for the next
// one, and the newest supersedes those that it may. failed says whether the fault may be the user's
// own. Retry reports whether some event is undecided; if none is, the Work is over.
func (w *Work) Retry(failed bool) (again bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	w.inFlight = false
	w.failing = w.failing || failed
	w.pending, w.attempting = w.attempting, nil
	for _, e := range w.pending {
		e.triedOnce()
	}
	beside := w.beside
	w.beside = nil
	for _, e := range beside {
		w.pending = w.add(w.pending, e, w.state(), now)
	}
	if w.empty() {
		l.drop(w)
		return false
	}
	w.refreshPending()
	if failed {
		w.deferEager()
	}
	return true
}

// triedOnce notes that an attempt for the event has ended without a decision.
func (e *Event) triedOnce() {
	if !e.tried && e.state == failing {
		e.Message.untried--
	}
	e.tried = true
}

// deferEager defers those eager messages whose users have all had their attempt.
func (w *Work) deferEager() {
	for _, e := range w.pending {
		if e.Message.Eager && e.Message.mayDefer() && e.Message.untried == 0 {
			w.ledger.deferMessage(e.Message)
		}
	}
}

// Verdict returns the last verdict of this Work, or the zero Verdict if there is none.
func (w *Work) Verdict() Verdict {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	return w.last
}

// Adopt applies a verdict of another replica. The events that it covers are completed as covered.
// The others are parked, once for each window. No attempt may be in flight. again reports whether
// some event is undecided; if none is, the Work is over. parked reports whether AwaitWindow must be
// called before the next attempt.
func (w *Work) Adopt(theirs Verdict) (again, parked bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.plausible(theirs, now) {
		return !w.empty(), !w.parkedUntil.IsZero()
	}
	v := l.remember(w.key, theirs, now)
	if w.empty() {
		return false, false // the last event was removed, and the Work is over
	}
	kept := w.pending[:0]
	for _, e := range w.pending {
		if v.covered(e.Position) {
			e.finish(Result{Disposition: Covered})
		} else {
			kept = append(kept, e)
		}
	}
	clear(w.pending[len(kept):])
	w.pending = kept
	if w.empty() {
		l.drop(w)
		return false, false
	}
	if until := v.parkedUntil(now, l.cfg.Window); now.Before(until) && until.After(w.parkedFor) {
		w.park(until)
	}
	return true, !w.parkedUntil.IsZero()
}

// applyVerdict ends an attempt that has reached a verdict, and parks the events that are left.
func (w *Work) applyVerdict(v verdict) (again bool) {
	w.inFlight, w.failing = false, false
	if w.empty() {
		w.ledger.drop(w)
		return false
	}
	w.urgency = w.pending[0].Urgency
	for _, e := range w.pending {
		w.urgency = min(w.urgency, e.Urgency)
	}
	w.park(v.parkedUntil(time.Now(), w.ledger.cfg.Window))
	return true
}

// takeOver replaces the older delivery of a message by a redelivery. The older one may have been
// removed already, because its lock was lost after the attempt in flight was started for it. It
// reports whether there was an older one.
func (w *Work) takeOver(e *Event) bool {
	if w.pending.takeOver(e) || w.attempting.takeOver(e) || w.beside.takeOver(e) {
		return true
	}
	if w.inFlight {
		for _, p := range w.startedFor {
			if p.same(e.Position) {
				w.attempting = append(w.attempting, e)
				w.ledger.setState(e, w.state())
				return true
			}
		}
	}
	return false
}

// newestStarted returns the newest message that the attempt in flight was started for.
func (w *Work) newestStarted() Position {
	newest := w.startedFor[0]
	for _, p := range w.startedFor[1:] {
		if p.Compare(newest) > 0 {
			newest = p
		}
	}
	return newest
}

// remove removes the event from its group.
func (w *Work) remove(e *Event) {
	for _, g := range []*group{&w.pending, &w.attempting, &w.beside} {
		var found bool
		if *g, found = g.remove(e); found {
			return
		}
	}
}

// empty reports whether no event of the user is undecided.
func (w *Work) empty() bool { return len(w.pending)+len(w.attempting)+len(w.beside) == 0 }

// add adds an event to a group of the Work, in that state unless another event supersedes it.
func (w *Work) add(g group, e *Event, in state, now time.Time) group {
	g = g.add(e, now)
	if !e.Ended() {
		w.ledger.setState(e, in)
	}
	return g
}

// state returns what the pending events wait for.
func (w *Work) state() state {
	switch {
	case !w.parkedUntil.IsZero():
		return parked
	case w.paused:
		return paused
	case w.failing:
		return failing
	}
	return fresh
}

// stateOfNew returns the state of an event that is added while others are pending. If the Work is
// paused, an event of a new type may be what ends the pause, because the volume guard does not stop
// this type. So such an event is not paused, and not deferred, before the Work has checked.
func (w *Work) stateOfNew(e *Event) state {
	if in := w.state(); in != paused || slices.ContainsFunc(w.pending, func(p *Event) bool { return p.Kind == e.Kind }) {
		return in
	}
	if w.failing {
		return failing
	}
	return fresh
}

// refreshPending sets the state of the pending events to the Work's, and enforces the shares.
func (w *Work) refreshPending() {
	for _, e := range w.pending {
		w.ledger.setState(e, w.state())
	}
	w.ledger.enforceAllShares()
}

// park parks the pending events until the window ends. If too many events are parked, the shares
// end the parking of some users at once.
func (w *Work) park(until time.Time) {
	if w.ledger.draining || !time.Now().Before(until) {
		w.refreshPending()
		return
	}
	w.parkedUntil, w.parkedFor = until, until
	w.ledger.parked[w] = struct{}{}
	w.due = make(chan struct{})
	w.refreshPending()
	for _, e := range w.pending {
		w.ledger.deferIdle(e.Message)
	}
}

// endPark notes that no event of the Work is parked.
func (w *Work) endPark() {
	w.parkedUntil = time.Time{}
	delete(w.ledger.parked, w)
}

// unpark makes parked events due.
func (w *Work) unpark() {
	if w.parkedUntil.IsZero() {
		return
	}
	w.endPark()
	close(w.due)
	for _, e := range w.pending {
		w.ledger.setState(e, w.state())
	}
}
