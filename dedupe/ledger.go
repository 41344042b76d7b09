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
	// MaxParked is how many messages of each source may wait for the end of a window at once; past that the user with the most
	// of them is called. MaxFailing is how many messages of each source may hold a user that has failed; past that the one
	// that has failed longest is set aside. What is left of a source's messages is for first attempts.
	MaxParked, MaxFailing int
}

// Ledger knows, per user, the pending message (the newest unsettled one), whether an attempt is on the wire, and the last
// verdict. One lock owns all of it, is held for a few map operations, and never while anything waits. It is safe for
// concurrent use.
//
// The caller enters each event, runs each Work that Enter returns in one goroutine, and settles an event's message by its
// End.
type Ledger struct {
	cfg Config

	mu       sync.Mutex
	works    map[string]*Work   // users with unsettled events or an attempt on the wire
	parked   map[*Work]struct{} // of them, those that wait for the end of a window
	verdicts memory
	shares   []share // by source
	draining bool    // nothing is parked any more
}

// New returns an empty Ledger.
func New(cfg Config) *Ledger {
	cfg.Remember = max(cfg.Remember, cfg.Window)
	return &Ledger{cfg: cfg, works: map[string]*Work{}, parked: map[*Work]struct{}{}, verdicts: memory{max: cfg.MaxUsers, keep: cfg.Remember}}
}

// Add decides what an event of a user means, by what the ledger knows of the user. The event's Done may be closed on
// return. The caller must run the Work when isNew; otherwise the Work, if not nil, is one that is running already,
// and may have become more urgent.
//
// Only an event that is due now and will end in a call or a dead letter may enter, and one message may enter once per
// user.
func (l *Ledger) Add(key string, e *Event) (w *Work, isNew bool) {
	e.done = make(chan struct{})
	e.ledger = l
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
		e.finish(Result{Disposition: Covered})
		return nil, false
	case w != nil && w.onWire:
		// An attempt is on the wire: it may have started before this event was enqueued. The event waits beside it.
		w.beside = w.add(w.beside, e, parked, now)
	case w != nil:
		// Before or between attempts, or parked: the newest becomes pending, and keeps place, attempts and urgency.
		w.pending = w.add(w.pending, e, w.entering(e), now)
		select {
		case w.more <- struct{}{}:
		default:
		}
	default:
		w = l.newWork(key)
		isNew = true
		w.pending = group{e}
		w.urgency = e.Urgency
		l.mark(e, fresh)
		if known && now.Before(v.until.time()) {
			// Inside the window after a verdict: parked.
			w.park(v.parkedUntil(now, l.cfg.Window))
		}
		// Nothing known: call now.
	}
	w.urgency = min(w.urgency, e.Urgency)
	l.enforceShares(e.Message.Source)
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

// Remove takes an event out whose lock is lost, or whose message is given back: nothing more is decided for it, and nobody is
// superseded by it. Its end may have been decided before; then Leave does nothing. Without any event left, the user's Work
// ends, but for an attempt on the wire.
func (l *Ledger) Remove(key string, e *Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ended(e) {
		return
	}
	e.finish(Result{Disposition: Undecided})
	if w := l.works[key]; w != nil {
		w.remove(e)
		if w.empty() && !w.onWire {
			l.drop(w)
		}
	}
}

// FlushParked ends parking, for a worker that stops: what is parked is called now, and nothing is parked any more. An early call
// is always safe.
func (l *Ledger) FlushParked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	for w := range l.parked {
		w.unpark()
	}
}

// FlushMessage calls now for the users of one message that are parked, for a message that cannot be held any longer.
func (l *Ledger) FlushMessage(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.parked > 0 {
		l.flush(m)
	}
}

// Pending is how many users have an unsettled event.
func (l *Ledger) Pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.works)
}

// State is a picture of the ledger.
type State struct {
	// Pending is how many users have an unsettled event; Parked how many of them wait for the end of their window, OnWire
	// how many have an attempt under way.
	Pending, Parked, OnWire int
	// Remembered is how many verdicts are kept.
	Remembered int
}

// State returns a picture of the ledger; it takes time in proportion to the users in hand.
func (l *Ledger) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{Pending: len(l.works), Parked: len(l.parked), Remembered: l.verdicts.len()}
	for _, w := range l.works {
		if w.onWire {
			s.OnWire++
		}
	}
	return s
}

func (l *Ledger) newWork(key string) *Work {
	w := &Work{ledger: l, key: key}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	l.works[key] = w
	return w
}

func (l *Ledger) drop(w *Work) {
	w.endPark()
	w.cancel()
	delete(l.works, w.key)
}
