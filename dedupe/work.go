package dedupe

import (
	"context"
	"slices"
	"time"
)

// Work is what is to be done for one user until nothing about the user is unsettled. One goroutine runs it:
//
//	for again := true; again; {
//		w.Parked(ctx)                 // the end of the window, if there is one to wait for
//		if !w.Start() { return }      // nobody waits any more
//		… one attempt …
//		again = w.Succeeded(…)        // or w.Failed(…), or w.Retry() and another w.Start()
//	}
//
// So there are never two attempts for one user on the wire.
type Work struct {
	ledger *Ledger
	key    string
	ctx    context.Context
	cancel context.CancelFunc

	// The ledger's lock guards all below.
	pending group // waits for the next attempt
	caller  group // the attempt on the wire was started for these
	beside  group // came during the attempt
	onWire  bool
	// startedFor are the messages that caller held when the attempt started, those included whose lock was lost since.
	startedFor []Position
	urgency    int
	last       Verdict // the last one, if any

	failing     bool // the user has failed since the last verdict, or waits for somebody else
	paused      bool
	more        chan struct{} // is signaled when another event has come; nil until somebody asks for it
	parkedUntil time.Time
	parkedFor   time.Time     // the end of the last window that they were parked for: it is not parked for it again
	called      chan struct{} // closed when a parked event is to be called now
}

// Key is the user's key.
func (w *Work) Key() string { return w.key }

// Context ends when nobody waits for this user any more: then waiting for the next attempt is over. It does not end while
// an attempt is on the wire.
func (w *Work) Context() context.Context { return w.ctx }

// Urgency is that of the most urgent event that waits, or has waited, and kind the type of the most urgent one that waits and
// is not blocked, or else of the most urgent one; 0 is the most urgent. blocked may be nil.
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

// Enqueued is when the oldest event that waits was enqueued, by the broker's clock; zero when none waits.
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

// More is signaled when another event has come since More was first called.
func (w *Work) More() <-chan struct{} {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if w.more == nil {
		w.more = make(chan struct{}, 1)
	}
	return w.more
}

// AwaitWindow returns when a parked event is to be called: at the end of the window, or earlier when the ledger hurries
// or needs room, or when nobody waits any more. It returns at once when nothing is parked.
func (w *Work) AwaitWindow() {
	w.ledger.mu.Lock()
	until, called := w.parkedUntil, w.called
	w.ledger.mu.Unlock()
	if until.IsZero() {
		return
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-called:
	case <-w.ctx.Done():
	}
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	w.unpark()
}

// Pause says that the next attempt does not begin soon: another replica calls, the volume guard has tripped, or a backoff is
// long. Resume follows.
func (w *Work) Pause() {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if w.empty() {
		return // the Work is over
	}
	w.paused = true
	w.markPending()
	w.deferEager()
}

// Resume says that the Pause is over; what waits now waits for its permit.
func (w *Work) Resume() {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.paused = false
	w.markPending()
}

// SetFailing says that the user has failed in an earlier Work, and not been decided since.
func (w *Work) SetFailing() {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.failing = true
	w.markPending()
}

// Start puts an attempt on the wire for the pending events. False says that nobody waits any more: no attempt may be made, and the
// Work is over.
func (w *Work) Start() bool {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if w.empty() {
		return false
	}
	w.caller, w.pending = w.pending, nil
	w.startedFor = w.startedFor[:0]
	for _, e := range w.caller {
		w.startedFor = append(w.startedFor, e.Position)
	}
	w.onWire = true
	return true
}

// Tag is that of the newest event that the attempt on the wire was started for; nil when there is none.
func (w *Work) Tag() any {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	if len(w.caller) == 0 {
		return nil
	}
	newest := w.caller[0]
	for _, e := range w.caller[1:] {
		if e.Compare(newest.Position) > 0 {
			newest = e
		}
	}
	return newest.Tag
}

// Succeeded ends the attempt on the wire: it is the end of the events that it was started for, and of those beside that it
// covers. What came too late is parked. It says whether there is more to do; otherwise the Work is over.
func (w *Work) Succeeded(a Attempt, detail any) (again bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	// The message that the attempt was made for, even if its lock was lost in between: it will come again.
	newest := w.newestStarted()
	w.last = Verdict{Start: a.Start, Covers: a.coversBefore(l.cfg.SkewMargin), Entity: newest.Entity, Sequence: newest.Sequence}
	v := l.remember(w.key, w.last, now)
	for _, e := range w.caller {
		e.finish(Result{Disposition: Revoked, Detail: detail})
	}
	beside := w.beside
	w.caller, w.beside = nil, nil
	for _, e := range beside {
		if v.covered(e.Position) {
			e.finish(Result{Disposition: Covered})
		} else {
			w.pending = w.add(w.pending, e, parked, now)
		}
	}
	return w.decided(v)
}

// Failed ends the attempt on the wire with a final failure of the events that it was started for. What came beside is parked:
// it may fare better. It says whether there is more to do; otherwise the Work is over.
func (w *Work) Failed(a Attempt, detail any) (again bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	w.last = Verdict{Start: a.Start}
	v := l.remember(w.key, w.last, time.Now())
	for _, e := range w.caller {
		e.finish(Result{Disposition: Failed, Detail: detail})
	}
	w.pending, w.caller, w.beside = w.beside, nil, nil
	return w.decided(v)
}

// Retry ends the attempt on the wire without a decision: all wait for the next one, and the newest stands for the others.
// failed says that the fault may be the user's own. It says whether somebody still waits; otherwise the Work is over.
func (w *Work) Retry(failed bool) (again bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	w.onWire = false
	w.failing = w.failing || failed
	w.pending, w.caller = w.caller, nil
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
	w.markPending()
	if failed {
		w.deferEager()
	}
	return true
}

func (e *Event) triedOnce() {
	if !e.tried && e.state == failing {
		e.Message.untried--
	}
	e.tried = true
}

// deferEager sets the messages aside that wait for no more than one attempt for each user.
func (w *Work) deferEager() {
	for _, e := range w.pending {
		if e.Message.Eager && e.Message.mayDefer() && e.Message.untried == 0 {
			w.ledger.deferMessage(e.Message)
		}
	}
}

// Verdict is what the last attempt of this Work decided; zero before.
func (w *Work) Verdict() Verdict {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	return w.last
}

// Adopt takes over a verdict that another replica has reached: the events that it covers end, and what is left waits once for the end of
// its window. No attempt may be on the wire. again says that somebody still waits, otherwise the Work is over; parked that AwaitWindow comes
// before the next attempt.
func (w *Work) Adopt(known Verdict) (again, parked bool) {
	l := w.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.plausible(known, now) {
		return !w.empty(), !w.parkedUntil.IsZero()
	}
	v := l.remember(w.key, known, now)
	if w.empty() {
		return false, false // the last event has left, and the Work with it
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

// decided parks what is left until the window ends.
func (w *Work) decided(v verdict) (again bool) {
	w.onWire, w.failing = false, false
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

// takeOver gives a redelivery the place that its message has: that of the held copy, or of the one that the attempt on the
// wire was started for and whose lock was lost since.
func (w *Work) takeOver(e *Event) bool {
	if w.pending.takeOver(e) || w.caller.takeOver(e) || w.beside.takeOver(e) {
		return true
	}
	if w.onWire {
		for _, p := range w.startedFor {
			if p.same(e.Position) {
				w.caller = append(w.caller, e)
				w.ledger.mark(e, w.state())
				return true
			}
		}
	}
	return false
}

func (w *Work) newestStarted() Position {
	newest := w.startedFor[0]
	for _, p := range w.startedFor[1:] {
		if p.Compare(newest) > 0 {
			newest = p
		}
	}
	return newest
}

func (w *Work) remove(e *Event) {
	for _, g := range []*group{&w.pending, &w.caller, &w.beside} {
		var found bool
		if *g, found = g.remove(e); found {
			return
		}
	}
}

func (w *Work) empty() bool { return len(w.pending)+len(w.caller)+len(w.beside) == 0 }

// add adds an event to a group of the Work; in that state, unless another stands for it.
func (w *Work) add(g group, e *Event, in state, now time.Time) group {
	g = g.add(e, now)
	if !ended(e) {
		w.ledger.mark(e, in)
	}
	return g
}

// state is what the pending events wait for.
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

// entering is what an event waits for that comes while others are pending. One of another type may be what a paused Work waits for, such as
// one that the volume guard does not stop: until the Work has looked, it does not count as held, and is not set aside.
func (w *Work) entering(e *Event) state {
	if in := w.state(); in != paused || slices.ContainsFunc(w.pending, func(p *Event) bool { return p.Kind == e.Kind }) {
		return in
	}
	if w.failing {
		return failing
	}
	return fresh
}

// markPending moves the pending events to the Work's state, and keeps the shares.
func (w *Work) markPending() {
	for _, e := range w.pending {
		w.ledger.mark(e, w.state())
	}
	for source := range w.ledger.shares {
		w.ledger.enforceShares(source)
	}
}

// park makes the pending events wait until the window ends. Some of them may have to be called earlier, to make room.
func (w *Work) park(until time.Time) {
	if w.ledger.draining || !time.Now().Before(until) {
		w.markPending()
		return
	}
	w.parkedUntil, w.parkedFor = until, until
	w.ledger.parked[w] = struct{}{}
	w.called = make(chan struct{})
	w.markPending()
	for _, e := range w.pending {
		w.ledger.deferIdle(e.Message)
	}
}

func (w *Work) endPark() {
	w.parkedUntil = time.Time{}
	delete(w.ledger.parked, w)
}

func (w *Work) unpark() {
	if w.parkedUntil.IsZero() {
		return
	}
	w.endPark()
	close(w.called)
	for _, e := range w.pending {
		w.ledger.mark(e, w.state())
	}
}
