package dispatch

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/guard"
)

// replicas is a Coordinator whose answers a test sets. A nil lease is valid, and its End does
// nothing.
type replicas struct {
	mu sync.Mutex
	answers
}

type answers struct {
	taken             bool
	last              dedupe.Verdict
	overLimit         bool
	adopted, reserved int
}

// change changes the answers, and returns them.
func (r *replicas) change(f func(*answers)) answers {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.answers)
	return r.answers
}

// now returns the answers.
func (r *replicas) now() answers { return r.change(func(*answers) {}) }

func (r *replicas) Lease(context.Context, string, *coordination.Wait) (*coordination.Lease, dedupe.Verdict, bool) {
	a := r.now()
	return nil, a.last, a.taken
}

func (r *replicas) Look(context.Context, string, *coordination.Wait) (dedupe.Verdict, bool) {
	a := r.now()
	return a.last, a.taken
}

func (r *replicas) Adopted() { r.change(func(a *answers) { a.adopted++ }) }

func (r *replicas) Reserve(context.Context, string, string, int, time.Duration) (may, added bool, total int) {
	a := r.change(func(a *answers) {
		if !a.overLimit {
			a.reserved++
		}
	})
	if a.overLimit {
		return false, false, 2
	}
	return true, true, a.reserved
}

func (r *replicas) Refund(context.Context, string, string) {
	r.change(func(a *answers) { a.reserved-- })
}

func (r *replicas) MayAsk(context.Context, string, time.Duration) (may, ok bool) { return true, true }

func TestDispatcherWaitsForTheLeaseOfAnotherReplica(t *testing.T) {
	for name, c := range map[string]struct {
		verdict dedupe.Verdict // of the other replica
		calls   int
		want    dedupe.Disposition
	}{
		"that then covers the event": {dedupe.Verdict{
			Start: time.Date(2000, 1, 1, 0, 0, 2, 0, time.UTC), Covers: time.Date(2000, 1, 1, 0, 0, 2, 0, time.UTC),
		}, 0, dedupe.Covered},
		"that then dies": {dedupe.Verdict{}, 1, dedupe.Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			g, others := &graph{}, &replicas{answers: answers{taken: true}}
			dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
				d.deps.Coordinator = others
				e := add(d, ada)
				time.Sleep(5 * time.Second)
				if n := len(g.made()); n != 0 {
					t.Fatalf("%d calls while another replica has the lease", n)
				}
				others.change(func(a *answers) { a.taken, a.last = false, c.verdict })
				if got, _ := resultOf(t, e); got != c.want || len(g.made()) != c.calls {
					t.Errorf("%s after %d calls, want %s after %d", got, len(g.made()), c.want, c.calls)
				}
				if n := others.now().adopted; n != 1-c.calls {
					t.Errorf("%d verdicts were adopted", n)
				}
			})
		})
	}
}

func TestDispatcherTripsWhenAllReplicasTogetherReachTheLimit(t *testing.T) {
	g, others := &graph{}, &replicas{answers: answers{overLimit: true}}
	dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 1, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		d.deps.Coordinator = others
		e := add(d, ada)
		if len(g.made()) != 0 || !d.Blocked("") || d.State().Blocked != 1 {
			t.Fatalf("%d calls, %+v", len(g.made()), d.State())
		}
		others.change(func(a *answers) { a.overLimit = false })
		d.release(guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 5})
		if got, _ := resultOf(t, e); got != dedupe.Revoked || others.now().reserved != 1 {
			t.Errorf("%s, %d reserved", got, others.now().reserved)
		}
	})
}

func TestDispatcherRefundsTheReplicasCountWhenNobodyWasSignedOut(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	others := &replicas{}
	dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 5, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		d.deps.Coordinator = others
		e := add(d, ada)
		if got, _ := resultOf(t, e); got != dedupe.Failed || others.now().reserved != 0 {
			t.Errorf("%s, %d reserved", got, others.now().reserved)
		}
	})
}
