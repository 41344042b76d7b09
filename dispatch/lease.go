package dispatch

import (
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/retry"
)

// next is what to do for a user who has a permit. It depends on the other replicas.
type next int

const (
	// mayCall: no other replica has the user's lease, so an attempt may be made.
	mayCall next = iota
	// nobodyWaits: another replica's attempt has covered all events.
	nobodyWaits
	// parkAgain: another replica has reached a verdict, and the events that it does not cover wait
	// for the end of its window.
	parkAgain
	// waitForOther: another replica has the user's lease, and makes an attempt.
	waitForOther
	// waitForRelease: all replicas together have signed out as many people as the limit allows.
	waitForRelease
)

// These are the waits before the next look at a lease that another replica has. The first wait is
// askSoon, since most attempts are short. Each further one is twice as long, up to askSeldom.
const (
	askSoon   = 50 * time.Millisecond
	askSeldom = time.Second
)

// patience bounds how long data in Redis can delay one user's next attempt, whoever wrote the data.
// The attempt waits for other replicas' leases for as long as one lease lasts. A new verdict of
// another replica restarts this time, until over reports true.
type patience struct {
	leases coordination.Wait
	// verdictStart is when another replica's last decided attempt started.
	verdictStart time.Time
	// since is when another replica first delayed the attempt. It is zero when none has, or when
	// another replica's verdict covers the events that waited then.
	since time.Time
}

// over reports whether the attempt has waited for other replicas for long enough. An honest replica
// makes an event wait for two windows at most: its next success, one window after the last, covers
// the event, apart from the clocks' margins and Graph's Date in whole seconds. If its verdicts
// still do not cover the event after that, they are failures, or somebody has forged them.
func (p *patience) over(cfg dedupe.Config) bool {
	return !p.since.IsZero() && time.Since(p.since) > 2*cfg.Window+2*cfg.SkewMargin+time.Minute
}

// waits notes that another replica delays the attempt.
func (p *patience) waits() {
	if p.since.IsZero() {
		p.since = time.Now()
	}
}

// news reports whether the verdict is new. If it is, a lease that still blocks the attempt is new,
// too, so the time for leases starts again.
func (p *patience) news(last dedupe.Verdict, cfg dedupe.Config) bool {
	if !last.Start.After(p.verdictStart) {
		return false
	}
	p.verdictStart = last.Start
	if last.Covers.After(p.since) {
		p.since = time.Time{}
	}
	if !p.over(cfg) {
		p.leases = coordination.Wait{}
	}
	return true
}

// lease takes the user's lease, unless other replicas have made the attempt unnecessary or must go
// first. If it returns mayCall, the lease's End must follow. The lease may be nil, whose End does
// nothing.
func (d *Dispatcher) lease(w *dedupe.Work, permit *permit, p *patience) (*coordination.Lease, next) {
	if d.deps.Coordinator == nil {
		return nil, mayCall
	}
	lease, last, taken := d.deps.Coordinator.Lease(w.Context(), w.Key(), &p.leases)
	next := d.adopt(w, last, p)
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
func (d *Dispatcher) adopt(w *dedupe.Work, last dedupe.Verdict, p *patience) next {
	if last.Start.IsZero() {
		return mayCall
	}
	p.news(last, d.cfg.Dedupe)
	if past := time.Now().Add(-d.cfg.Dedupe.Window); p.over(d.cfg.Dedupe) && last.Start.After(past) {
		last.Start = past // so that its window is over
	}
	switch again, parked := w.Adopt(last); {
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

// plausible counts the user among the people whom all replicas together sign out, and reports
// whether the attempt may begin. If the count exceeds the limit, it trips this replica's volume
// guard. The other replicas trip theirs at their next attempt.
func (d *Dispatcher) plausible(w *dedupe.Work, p *permit) bool {
	if d.cfg.Volume.Max == 0 || p.lookup {
		return true
	}
	limit := d.volumeLimit(p.kind)
	most := limit
	if d.cfg.Volume.Observe {
		most = 0
	}
	may, added, total := d.deps.Coordinator.Reserve(w.Context(), p.kind, w.Key(), most, d.cfg.Volume.Window)
	p.countedByAll = added
	if !may || total > limit {
		d.trip(p.kind)
	}
	return may
}

// refund takes back the user that plausible has counted, because nobody was signed out. It does
// nothing if plausible has counted nobody.
func (d *Dispatcher) refund(w *dedupe.Work, p *permit) {
	if p.countedByAll {
		p.countedByAll = false
		d.deps.Coordinator.Refund(w.Context(), p.kind, w.Key())
	}
}

// awaitOther waits until another replica has reached a verdict, no replica has the user's lease any
// more, or leases have blocked the attempt for long enough. It reports whether somebody still
// waits.
func (d *Dispatcher) awaitOther(w *dedupe.Work, p *patience) bool {
	w.Pause()
	defer w.Resume()
	d.sleepers.add(w, time.Now()) // the other replica may reach a verdict at any time
	defer d.sleepers.remove(w)
	for wait := askSoon; retry.Sleep(w.Context(), min(wait, p.leases.Left())) == nil; wait = min(2*wait, askSeldom) {
		last, taken := d.deps.Coordinator.Look(w.Context(), w.Key(), &p.leases)
		if news := p.news(last, d.cfg.Dedupe); news || !taken {
			return true // the next call of lease adopts the verdict
		}
	}
	return false
}
