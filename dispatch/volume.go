package dispatch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/guard"
)

// watchVolumeEvery is how often the worker checks for trips of the guard and for releases.
const watchVolumeEvery = 5 * time.Second

// watchVolume reports trips of the volume guard, and applies an operator's releases, until ctx
// ends.
func (d *Dispatcher) watchVolume(ctx context.Context) {
	d.deps.Health.Report(PartGuard, "")
	tick := time.NewTicker(watchVolumeEvery)
	defer tick.Stop()
	lastLogged := ""
	for tripped := map[string]bool{}; ; {
		d.readRelease(&lastLogged)
		for _, state := range d.volumeState() {
			if state.Tripped != tripped[state.Kind] {
				tripped[state.Kind] = state.Tripped
				d.logVolume(state)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// logVolume logs that the guard has tripped for one type of events, or that it no longer is.
func (d *Dispatcher) logVolume(state guard.KindState) {
	about := []zap.Field{
		zap.String("type", state.Kind), zap.Int("limit", state.Limit), zap.Duration("window", d.cfg.Volume.Window),
	}
	switch {
	case !state.Tripped:
		d.deps.Log.Info("the guard is no longer tripped", about...)
	case d.cfg.Volume.Observe:
		d.deps.Log.Warn("more people are signed out than the limit allows; the guard only observes (guard.mode)", about...)
	default:
		d.deps.Log.Error("the guard has tripped: more people would be signed out than the limit allows. "+
			"Events of this type wait, and none is lost. Find out why, then run worker guard release", about...)
	}
	d.deps.Health.Report(PartGuard, d.guardProblem())
}

// guardProblem names the types of events that wait for a release; it is empty when none does.
func (d *Dispatcher) guardProblem() string {
	var types []string
	for _, state := range d.volumeState() {
		if state.Tripped && !d.cfg.Volume.Observe {
			types = append(types, fmt.Sprintf("%s (%d people)", cmp.Or(state.Kind, "any"), state.Limit))
		}
	}
	if types == nil {
		return ""
	}
	return fmt.Sprintf("tripped: more people than the limit within %s for %s; "+
		"nobody is signed out for these until an operator releases the guard (worker guard release)",
		d.cfg.Volume.Window, strings.Join(types, ", "))
}

// readRelease reads and applies a release. lastLogged is the last problem with it, which is logged
// once.
func (d *Dispatcher) readRelease(lastLogged *string) {
	if d.cfg.ReadRelease == nil {
		return
	}
	r, err := d.cfg.ReadRelease()
	if err == nil && r.Type != "" && !slices.Contains(d.cfg.Volume.Kinds, r.Type) {
		err = fmt.Errorf("its type %q is not one of events.types", r.Type)
	}
	if err != nil {
		if err.Error() != *lastLogged {
			*lastLogged = err.Error()
			d.deps.Log.Error("the release of the guard is not usable", zap.Error(err))
		}
		return
	}
	*lastLogged = ""
	if released := d.release(r); released != nil {
		d.deps.Log.Warn("an operator has released the guard", zap.Strings("types", released),
			zap.String("by", r.By), zap.String("why", r.Reason), zap.Time("until", r.Until), zap.Int("maxUsers", r.MaxUsers))
	}
}

// release applies a release of the volume guard. It returns the types of events that were tripped
// and no longer are.
func (d *Dispatcher) release(r guard.Release) (released []string) {
	q := d.queue
	q.mu.Lock()
	released = q.volume.Release(r, time.Now())
	for kind := range q.volumeWaiters {
		q.readmit(kind) // the limit may have changed
	}
	q.grant()
	q.mu.Unlock()
	if released != nil {
		d.releases.announce()
		d.Signal()
	}
	return released
}

// trip trips the volume guard. Attempts for events of the type stop until a release.
func (d *Dispatcher) trip(kind string) {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	d.queue.volume.Trip(kind)
	d.queue.readmit(kind)
	d.queue.grant()
}

// volumeState returns a picture of the volume guard.
func (d *Dispatcher) volumeState() []guard.KindState {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	return d.queue.volume.State(time.Now())
}

// volumeLimit returns how many people may be signed out within the window for events of the type.
func (d *Dispatcher) volumeLimit(kind string) int {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	return d.queue.volume.Limit(kind, time.Now())
}

// stopped reports whether the volume guard stops every type of event that the user waits for.
func (d *Dispatcher) stopped(w *dedupe.Work) bool {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	_, kind := w.Urgency(d.queue.volume.Blocked)
	return kind == "" || d.queue.volume.Blocked(kind) // nobody waits any more, or all types are stopped
}

// awaitRelease waits until the volume guard is released, or until an event arrives whose type the
// guard does not stop. It reports whether somebody still waits then. Meanwhile the user's messages
// may be deferred, since nobody knows how long this takes.
func (d *Dispatcher) awaitRelease(w *dedupe.Work) bool {
	released, cancel := d.releases.wait()
	defer cancel()
	w.Pause()
	defer w.Resume()
	more := w.More() // before the first check, so that no event is missed that arrives after it
	for d.stopped(w) {
		select {
		case <-released:
			return true
		case <-more:
			if d.stopped(w) {
				w.Pause() // the event that has arrived waits, too
			}
		case <-w.Context().Done():
			return false
		}
	}
	return w.Context().Err() == nil
}

// releases signals releases of the volume guard to those who wait for one.
type releases struct {
	mu    sync.Mutex
	users int           // who wait
	next  chan struct{} // closed at the next release
}

// wait returns a channel that is closed at the next release. cancel must follow.
func (r *releases) wait() (released <-chan struct{}, cancel func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users++
	return r.next, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.users--
	}
}

func (r *releases) released() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next
}

func (r *releases) announce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.next)
	r.next = make(chan struct{})
}

// waiting returns how many users wait for a release.
func (r *releases) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.users
}
