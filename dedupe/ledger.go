package dedupe

import (
	"context"
	"sync"
	"time"
)

// Config bounds a Ledger. All fields are required and positive, except SkewMargin, which may be 0.
type Config struct {
	// Window is how long new events about a user are parked after a verdict. It starts when the
	// decisive attempt starts, and is never extended.
	Window time.Duration
	// SkewMargin is how much the broker's clock may differ from Graph's and from this process's. An
	// event that was enqueued less than this before an attempt started is not covered by it.
	SkewMargin time.Duration
	// Remember is how long verdicts are kept at least. If it is shorter than Window, Window counts.
	// MaxUsers is how many verdicts are kept at most.
	Remember time.Duration
	MaxUsers int
	// MaxParked is how many messages of each source may be parked at once. Beyond that an attempt
	// is made for the user with the most parked messages.
	MaxParked int
	// MaxFailing is how many messages of each source may have a user who has failed. Beyond that
	// the message that has failed longest is deferred. The rest of a source's messages is for first
	// attempts.
	MaxFailing int
}

// Ledger knows, for each user, the pending events, whether an attempt is in flight, and the last
// verdict. One lock guards all of it. It is held for a few map operations, and never while anything
// waits. A Ledger is safe for concurrent use.
//
// The caller adds each event, runs each new Work that Add returns in one goroutine, and settles a
// message by the Result of its events.
type Ledger struct {
	cfg Config

	mu       sync.Mutex
	works    map[string]*Work   // users with undecided events or an attempt in flight
	parked   map[*Work]struct{} // of these, the ones that wait for the end of a window
	verdicts memory
	shares   []share // by source
	draining bool    // nothing is parked any more
}

// New returns an empty Ledger.
func New(cfg Config) *Ledger {
	cfg.Remember = max(cfg.Remember, cfg.Window)
	return &Ledger{
		cfg: cfg, works: map[string]*Work{}, parked: map[*Work]struct{}{},
		verdicts: memory{max: cfg.MaxUsers, keep: cfg.Remember},
	}
}

// Add adds an event of the user with this key, and decides what it needs. The event may be decided
// when Add returns. If isNew is true, the caller must run w. Otherwise w is nil, or the Work that
// runs for the user already, which may have become more urgent.
//
// The caller adds only events that are due now and that act on a user. It adds each message at most
// once for each user.
func (l *Ledger) Add(key string, e *Event) (w *Work, isNew bool) {
	e.ledger = l
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	w = l.works[key]
	v, found := l.verdicts.get(key)
	switch {
	case w != nil && w.takeOver(e):
		// Redelivery: the new delivery has replaced the old one.
		return w, false
	case found && v.covered(e.Position):
		// Covered: no attempt is needed.
		e.finish(Result{Disposition: Covered})
		return nil, false
	case w != nil && w.inFlight:
		// The attempt in flight may have started before this event was enqueued: the event waits
		// beside it.
		w.beside = w.add(w.beside, e, parked, now)
	case w != nil:
		// Before or between attempts, or parked: the newest event supersedes the others. The Work
		// keeps its urgency and attempts.
		w.pending = w.add(w.pending, e, w.stateOfNew(e), now)
		select {
		case w.more <- struct{}{}:
		default:
		}
	default:
		w = l.newWork(key)
		isNew = true
		w.pending = append(w.pending, e)
		w.urgency = e.Urgency
		l.setState(e, fresh)
		if found && now.Before(v.until.time()) {
			// Inside the window after a verdict: the event is parked.
			w.park(v.parkedUntil(now, l.cfg.Window))
		}
		// Nothing is known: an attempt is made now.
	}
	w.urgency = min(w.urgency, e.Urgency)
	l.enforceShares(e.Message.Source)
	return w, isNew
}

// Decides reports whether an attempt that has failed finally decides an event of its user, too, that
// was enqueued at this time and comes only now: the attempt began after that, and its window has not
// ended.
func (l *Ledger) Decides(a Attempt, enqueued time.Time) bool {
	return time.Since(a.Start) < l.cfg.Window && enqueued.Before(a.coversBefore(l.cfg.SkewMargin))
}

// AddFailed is Add for an event that a final failure decides; see Decides. The event ends at once.
// detail becomes the Detail of its Result.
func (l *Ledger) AddFailed(e *Event, detail any) {
	e.ledger = l
	l.mu.Lock()
	defer l.mu.Unlock()
	e.finish(Result{Disposition: Failed, Detail: detail})
}

// Remove removes an event whose message's lock is lost, or whose message is abandoned or deferred.
// The event supersedes nothing any more, and its disposition is Undecided. If the event has ended,
// Remove does nothing. When no event of the user is left, the Work is over; only an attempt in
// flight goes on.
func (l *Ledger) Remove(key string, e *Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Ended() {
		return
	}
	e.finish(Result{Disposition: Undecided})
	if w := l.works[key]; w != nil {
		w.remove(e)
		if w.empty() && !w.inFlight {
			l.drop(w)
		}
	}
}

// FlushParked makes the attempts for all parked users due now, and ends parking for good. A worker
// calls it when it stops. An attempt before the end of a window is always safe.
func (l *Ledger) FlushParked() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	for w := range l.parked {
		w.unpark()
	}
}

// FlushMessage makes the attempts for the parked users of one message due now, because the message
// cannot stay locked any longer.
func (l *Ledger) FlushMessage(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.parked > 0 {
		l.flush(m)
	}
}

// PendingUsers returns how many users have an undecided event.
func (l *Ledger) PendingUsers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.works)
}

// State is a picture of the ledger.
type State struct {
	// PendingUsers is how many users have an undecided event. Of these, Parked wait for the end of
	// their window, and InFlight have an attempt in flight.
	PendingUsers, Parked, InFlight int
	// Remembered is how many verdicts are kept.
	Remembered int
}

// State returns a picture of the ledger. It takes time in proportion to PendingUsers.
func (l *Ledger) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{PendingUsers: len(l.works), Parked: len(l.parked), Remembered: l.verdicts.len()}
	for _, w := range l.works {
		if w.inFlight {
			s.InFlight++
		}
	}
	return s
}

func (l *Ledger) newWork(key string) *Work {
	w := &Work{ledger: l, key: key}
	w.pending, w.startedFor = w.one.event[:0], w.one.position[:0]
	w.ctx, w.cancel = context.WithCancel(context.Background())
	l.works[key] = w
	return w
}

// drop ends a Work.
func (l *Ledger) drop(w *Work) {
	w.endPark()
	w.cancel()
	delete(l.works, w.key)
}
