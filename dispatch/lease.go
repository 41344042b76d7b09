package dispatch

import (
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/retry"
)

// next is what must be done for a user who has a permit, by what the other replicas know.
type next int

const (
	// mayCall: no other replica has the user's lease, so an attempt may be made.
	mayCall next = iota
	// nobodyWaits: another replica's attempt has covered all events.
	nobodyWaits
	// parkAgain: the events that are left wait for the end of the window of another replica's
	// verdict.
	parkAgain
	// waitForOther: another replica has the user's lease, and makes an attempt.
	waitForOther
	// waitForRelease: all replicas together have signed out as many people as the limit allows.
	waitForRelease
)

// A user whose lease another replica has is looked up again after askSoon, since most attempts are
// short, and then after ever longer waits up to askSeldom.
const (
	askSoon   = 50 * time.Millisecond
	askSeldom = time.Second
)

// patience bounds how long one user's next attempt waits because of what Redis says, whoever wrote
// it there. It waits for leases of other replicas for as long as one lease lasts. A new verdict of
// another replica begins that time anew, until over reports true.
type patience struct {
	leases coordination.Wait
	// decided is when the attempt started that reached the last verdict of another replica.
	decided time.Time
	// since is when another replica first made the attempt wait. It is zero when none has, or when
	// another replica has covered what waited then.
	since time.Time
}

// over reports whether the attempt has waited for other replicas for long enough. Another replica's
// second success, a window after its first, covers what waited for the first, apart from the
// margins of the clocks and the whole seconds of Graph's Date. Verdicts that are newer, and still
// do not cover it, are failures, or somebody has forged them.
func (p *patience) over(cfg dedupe.Config) bool {
	return !p.since.IsZero() && time.Since(p.since) > 2*cfg.Window+2*cfg.SkewMargin+time.Minute
}

// waits notes that another replica makes the attempt wait.
func (p *patience) waits() {
	if p.since.IsZero() {
		p.since = time.Now()
	}
}

// news reports whether the verdict is a new one. If so, a lease that is in the way is a new one,
// too.
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

// lease takes the user's lease, unless other replicas have made the attempt unnecessary or must be
// waited for. On mayCall the lease's End must follow; the lease may be nil, whose End does nothing.
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

// adopt gives the ledger the last verdict of another replica, if there is one.
func (d *Dispatcher) adopt(w *dedupe.Work, known dedupe.Verdict, p *patience) next {
	if known.Start.IsZero() {
		return mayCall
	}
	p.news(known, d.cfg.Dedupe)
	if past := time.Now().Add(-d.cfg.Dedupe.Window); p.over(d.cfg.Dedupe) && known.Start.After(past) {
		known.Start = past // so that its window is over
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

// plausible counts the user among the people whom all replicas sign out, and reports whether the
// attempt may begin. If the count exceeds the limit it trips this replica's volume guard; the other
// replicas trip theirs at their next attempt.
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

// refund takes back what plausible has counted, when nobody was signed out.
func (d *Dispatcher) refund(w *dedupe.Work, p *permit) {
	if p.shared {
		p.shared = false
		d.deps.Coordinator.Refund(w.Context(), p.kind, w.Key())
	}
}

// awaitOther waits until another replica has decided something, or none calls for the user, or
// leases have been in the way for long enough. It reports whether somebody still waits.
func (d *Dispatcher) awaitOther(w *dedupe.Work, p *patience) bool {
	w.Pause()
	defer w.Resume()
	d.sleepers.add(w, time.Now()) // the other replica may decide at any time
	defer d.sleepers.remove(w)
	for wait := askSoon; retry.Sleep(w.Context(), min(wait, p.leases.Left())) == nil; wait = min(2*wait, askSeldom) {
		known, taken := d.deps.Coordinator.Look(w.Context(), w.Key(), &p.leases)
		if news := p.news(known, d.cfg.Dedupe); news || !taken {
			return true // the next lease finds what the other replica has decided
		}
	}
	return false
}
