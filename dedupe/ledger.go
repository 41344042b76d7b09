package dedupe

import (
	"context"
	"sync"
	"time"
)

// Config bounds a Ledger. All fields are required and positive, except SkewMargin, which may be 0.
type Config struct {
	// Window is for how long after a verdict events about the same user wait for one more call, counted from the start of
	// the attempt that decided and never extended.
	Window time.Duration
	// SkewMargin is how much the broker's clock may differ from ours and Graph's without an event being taken for covered
	// that is not.
	SkewMargin time.Duration
	// Remember is for how long verdicts are kept at least, and MaxUsers how many at most. Window bounds Remember from below.
	Remember time.Duration
	MaxUsers int
	// MaxWaiting is how many users may be parked or between attempts at once: they hold messages, and must leave room for
	// others.
	MaxWaiting int
}

// Ledger knows, per user, the promise (the newest unsettled message), whether an attempt is on the wire, and the last
// verdict. One lock owns all of it, is held for a few map operations, and never while anything waits. It is safe for
// concurrent use.
//
// The caller enters each event, runs each Work that Enter returns in one goroutine, and settles an event's message by its
// End.
type Ledger struct {
	cfg Config

	mu       sync.Mutex
	works    map[string]*Work // users with unsettled events or an attempt on the wire
	verdicts memory
	waiting  int  // works that are parked or between attempts
	hurry    bool // nothing is parked any more
}

// New returns an empty Ledger.
func New(cfg Config) *Ledger {
	cfg.Remember = max(cfg.Remember, cfg.Window)
	return &Ledger{cfg: cfg, works: map[string]*Work{}, verdicts: memory{max: cfg.MaxUsers, keep: cfg.Remember}}
}

// Enter decides what an event of a user means, by what the ledger knows of the user. The event's Done may be closed on
// return. The caller must run the Work when isNew; otherwise the Work, if not nil, is one that is running already,
// and may have become more urgent.
//
// Only an event that is due now and will end in a call or a dead letter may enter, and one message may enter once per
// user.
func (l *Ledger) Enter(key string, e *Event) (w *Work, isNew bool) {
	e.done = make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	w = l.works[key]
	v, known := l.verdicts.get(key)
	switch {
	case w != nil && w.takeOver(e):
		// Redelivery: the same message again takes the held copy's place, with its new lock.
		return w, false
	case known && v.covered(e.Position):
		// Covered: completed without a call.
		e.finish(End{Fate: Covered})
		return nil, false
	case w != nil && w.onWire:
		// An attempt is on the wire: it may have started before this event was enqueued. The event waits beside it.
		w.beside = w.beside.add(e, now)
	case w != nil:
		// Before or between attempts, or parked: the newest becomes the promise, and keeps place, attempts and urgency.
		w.promise = w.promise.add(e, now)
	default:
		w = l.newWork(key)
		isNew = true
		w.promise = group{e}
		w.urgency = e.Urgency
		if known && now.UnixNano() < v.until {
			// Inside the window after a verdict: parked.
			w.park(time.Unix(0, v.until))
		}
		// Nothing known: call now.
	}
	w.urgency = min(w.urgency, e.Urgency)
	return w, isNew
}

func ended(e *Event) bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// Leave takes an event out whose lock is lost, or whose message is given back: nothing more is decided for it, and nobody is
// superseded by it. Its end may have been decided before; then Leave does nothing. Without any event left, the user's Work
// ends, but for an attempt on the wire.
func (l *Ledger) Leave(key string, e *Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ended(e) {
		return
	}
	e.finish(End{Fate: Undecided})
	if w := l.works[key]; w != nil {
		w.remove(e)
		if w.empty() && !w.onWire {
			l.drop(w)
		}
	}
}

// Hurry ends parking, for a worker that stops: what is parked is called now, and nothing is parked any more. An early call
// is always safe.
func (l *Ledger) Hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hurry = true
	for _, w := range l.works {
		w.unpark()
	}
}

// Crowded says that as many users as are allowed are parked or between attempts. Waiting that only serves patience should
// end then.
func (l *Ledger) Crowded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waiting >= l.cfg.MaxWaiting
}

// State is a picture of the ledger.
type State struct {
	// Promises is how many users have an unsettled event; Parked how many of them wait for the end of their window, OnWire
	// how many have an attempt under way.
	Promises, Parked, OnWire int
	// Remembered is how many verdicts are kept.
	Remembered int
}

// State returns a picture of the ledger; it takes time in proportion to the users in hand.
func (l *Ledger) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{Promises: len(l.works), Remembered: l.verdicts.len()}
	for _, w := range l.works {
		if w.onWire {
			s.OnWire++
		}
		if !w.parkedUntil.IsZero() {
			s.Parked++
		}
	}
	return s
}

// remember keeps a verdict of ours or of another replica. What was covered once stays so.
func (l *Ledger) remember(key string, known Verdict, now time.Time) verdict {
	v := verdict{until: known.Start.Add(l.cfg.Window).UnixNano(), message: markOf(known.Entity, known.Sequence)}
	if !known.Covers.IsZero() {
		v.covers = known.Covers.UnixNano()
	}
	if before, ok := l.verdicts.get(key); ok {
		if before.covers > v.covers {
			v.covers, v.message = before.covers, before.message
		}
		v.until = max(v.until, before.until)
	}
	l.verdicts.put(key, v, now)
	return v
}

func (l *Ledger) newWork(key string) *Work {
	w := &Work{ledger: l, key: key}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	l.works[key] = w
	return w
}

func (l *Ledger) drop(w *Work) {
	w.setWaiting(false)
	w.parkedUntil = time.Time{}
	w.cancel()
	delete(l.works, w.key)
}

// makeRoom calls the one that is parked for the shortest time to come, when more users wait than may.
func (l *Ledger) makeRoom() {
	if l.waiting <= l.cfg.MaxWaiting {
		return
	}
	var next *Work
	for _, w := range l.works {
		if !w.parkedUntil.IsZero() && (next == nil || w.parkedUntil.Before(next.parkedUntil)) {
			next = w
		}
	}
	if next != nil {
		next.unpark()
	}
}
