package dispatch

import (
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/retry"
)

// next is what is to be done for a user who has a permit, after what the other replicas know.
type next int

const (
	// mayCall: nobody else is calling for the user.
	mayCall next = iota
	// nobodyWaits: another replica's call has covered all.
	nobodyWaits
	// parkAgain: what is left waits for the end of the window of another replica's verdict.
	parkAgain
	// waitForOther: another replica is calling.
	waitForOther
	// waitForRelease: all replicas together have called as many people as is plausible.
	waitForRelease
)

// How often it is looked whether another replica has ended its call for a user: soon, since most calls are short, and then ever less often.
const (
	askSoon   = 50 * time.Millisecond
	askSeldom = time.Second
)

// patience bounds how long one user's next call waits for what Redis says, whoever wrote it there: for the leases of others until one has lasted for as long as
// leases do and nothing was decided, and for all together until over.
type patience struct {
	leases coordination.Wait
	// decided is the start of the last verdict of another replica.
	decided time.Time
	// since is when another replica first made the call wait; zero when none has, or when another one has covered what waited then.
	since time.Time
}

// over says that others have made the call wait for long enough. A second success, a window after the first, covers what waited for the first, but
// for the margins of the clocks and for the seconds of Graph's Date; a verdict that only moves on is a failure, or a forgery.
func (p *patience) over(cfg dedupe.Config) bool {
	return !p.since.IsZero() && time.Since(p.since) > 2*cfg.Window+2*cfg.SkewMargin+time.Minute
}

// waits notes that another replica makes the call wait.
func (p *patience) waits() {
	if p.since.IsZero() {
		p.since = time.Now()
	}
}

// news says that another replica has decided something that is not known yet. Then the lease that is in the way is another one.
func (p *patience) news(known dedupe.Verdict, cfg dedupe.Config) bool {
	if !known.Start.After(p.decided) {
		return false
	}
	p.decided = known.Start
	if known.Covers.After(p.since) {
		p.since = time.Time{}
	}
	if !p.over(cfg) {
		p.leases = coordination.Wait{}
	}
	return true
}

// lease asks the other replicas whether the user is still to be called for, and makes them wait if so; the lease's End follows then.
func (d *Dispatcher) lease(w *dedupe.Work, permit *permit, p *patience) (*coordination.Lease, next) {
	if d.deps.Coordinator == nil {
		return nil, mayCall
	}
	lease, known, taken := d.deps.Coordinator.Lease(w.Context(), w.Key(), &p.leases)
	next := d.adopt(w, known, p)
	switch {
	case next == mayCall && taken:
		p.waits()
		next = waitForOther
	case next == mayCall && !d.plausible(w, permit):
		next = waitForRelease
	}
	if next != mayCall {
		lease.End(w.Context(), dedupe.Verdict{})
		return nil, next
	}
	p.since = time.Time{}
	return lease, mayCall
}

// adopt takes over the verdict of another replica, if there is one.
func (d *Dispatcher) adopt(w *dedupe.Work, known dedupe.Verdict, p *patience) next {
	if known.Start.IsZero() {
		return mayCall
	}
	p.news(known, d.cfg.Dedupe)
	if past := time.Now().Add(-d.cfg.Dedupe.Window); p.over(d.cfg.Dedupe) && known.Start.After(past) {
		known.Start = past // its window makes nobody wait any more
	}
	switch again, parked := w.Adopt(known); {
	case !again:
		d.deps.Coordinator.Adopted()
		return nobodyWaits
	case parked:
		p.waits()
		d.deps.Coordinator.Adopted()
		return parkAgain
	}
	return mayCall
}

// plausible reserves the user's place among those whom all replicas sign out. One too many trips the volume guard here; in
// the others it trips when they want to call one.
func (d *Dispatcher) plausible(w *dedupe.Work, p *permit) bool {
	if d.cfg.Volume.Max == 0 {
		return true
	}
	limit := d.volumeLimit(p.kind)
	most := limit
	if d.cfg.Volume.Observe {
		most = 0
	}
	may, added, total := d.deps.Coordinator.Reserve(w.Context(), p.kind, w.Key(), most, d.cfg.Volume.Window)
	p.shared = added
	if !may || total > limit {
		d.trip(p.kind)
	}
	return may
}

// refund takes back the place that plausible has reserved, when nobody was signed out.
func (d *Dispatcher) refund(w *dedupe.Work, p *permit) {
	if p.shared {
		p.shared = false
		d.deps.Coordinator.Refund(w.Context(), p.kind, w.Key())
	}
}

// awaitOther waits until another replica has decided something, or none is calling for the user, or leases have been in the way for long enough. It says whether somebody still waits.
func (d *Dispatcher) awaitOther(w *dedupe.Work, p *patience) bool {
	w.Pause()
	defer w.Resume()
	defer d.asleep(w, time.Now())() // the other one may have decided at any time
	for wait := askSoon; retry.Sleep(w.Context(), min(wait, p.leases.Left())) == nil; wait = min(2*wait, askSeldom) {
		known, taken := d.deps.Coordinator.Look(w.Context(), w.Key(), &p.leases)
		if news := p.news(known, d.cfg.Dedupe); news || !taken {
			return true // the next turn finds what that call has decided
		}
	}
	return false
}
