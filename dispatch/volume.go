package dispatch

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/guard"
)

// watchVolumeEvery is how often a trip of the guard is looked for, and a release of it.
const watchVolumeEvery = 5 * time.Second

// watchVolume tells of trips of the guard against implausible volumes, and carries an operator's release to the queue, until ctx ends.
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

// logVolume tells that one type of events has tripped the guard, or has not any more.
func (d *Dispatcher) logVolume(state guard.KindState) {
	about := []zap.Field{zap.String("type", state.Kind), zap.Int("limit", state.Limit), zap.Duration("window", d.cfg.Volume.Window)}
	switch {
	case !state.Tripped:
		d.deps.Log.Info("the guard is not tripped any more", about...)
	case d.cfg.Volume.Observe:
		d.deps.Log.Warn("more people are signed out than is plausible; the guard only observes (guard.mode)", about...)
	default:
		d.deps.Log.Error("the guard has tripped: more people would be signed out than is plausible. Events of this type wait, nothing is lost; find out why, then worker guard release", about...)
	}
	d.deps.Health.Report(PartGuard, d.guardProblem())
}

// guardProblem names the types of events that wait for a release; empty when none does.
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
	return fmt.Sprintf("tripped: more people than the limit within %s for %s; nobody is signed out for these until an operator releases it (worker guard release)",
		d.cfg.Volume.Window, strings.Join(types, ", "))
}

// readRelease looks for a release. told is the last problem with it, so that it is logged once.
func (d *Dispatcher) readRelease(lastLogged *string) {
	if d.cfg.ReadRelease == nil {
		return
	}
	r, err := d.cfg.ReadRelease()
	if err == nil && r.Type != "" && !slices.Contains(d.cfg.Volume.Kinds, r.Type) {
		err = fmt.Errorf("it is for events of the type %q, which is not one of events.types", r.Type)
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
		d.deps.Log.Warn("an operator has released the guard", zap.Strings("types", released), zap.String("by", r.By), zap.String("why", r.Reason), zap.Time("until", r.Until), zap.Int("maxUsers", r.MaxUsers))
	}
}

// release lets attempts go on that the volume guard has stopped. It returns for which types of events.
func (d *Dispatcher) release(r guard.Release) (released []string) {
	q := d.queue
	q.mu.Lock()
	released = q.volume.Release(r, time.Now())
	for kind := range q.full {
		q.readmit(kind) // the limit may be another one
	}
	q.grant()
	q.mu.Unlock()
	if released != nil {
		d.mu.Lock()
		close(d.released)
		d.released = make(chan struct{})
		d.mu.Unlock()
		d.Signal()
	}
	return released
}

// trip stops attempts for events of the type until a release.
func (d *Dispatcher) trip(kind string) {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	d.queue.volume.Trip(kind)
	d.queue.readmit(kind)
	d.queue.grant()
}

// volumeState is a picture of the volume guard.
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

// stopped says that the volume guard stops every type of event that the user waits with.
func (d *Dispatcher) stopped(w *dedupe.Work) bool {
	d.queue.mu.Lock()
	defer d.queue.mu.Unlock()
	_, kind := w.Urgency(d.queue.volume.Blocked)
	return kind == "" || d.queue.volume.Blocked(kind) // nobody waits any more, or with a type that is stopped
}

// awaitRelease waits until the volume guard was released, or an event has come of a type that it does not stop, and says
// whether the user still waits then. Meanwhile the user's messages may be set aside: nobody knows for how long it is.
func (d *Dispatcher) awaitRelease(w *dedupe.Work) bool {
	d.mu.Lock()
	released := d.released
	d.blocked++
	d.mu.Unlock()
	w.Pause()
	defer func() {
		w.Resume()
		d.mu.Lock()
		d.blocked--
		d.mu.Unlock()
	}()
	more := w.More() // before it is looked: an event that comes in between is not missed
	for d.stopped(w) {
		select {
		case <-released:
			return true
		case <-more:
			if d.stopped(w) {
				w.Pause() // what has come waits, too
			}
		case <-w.Context().Done():
			return false
		}
	}
	return w.Context().Err() == nil
}
