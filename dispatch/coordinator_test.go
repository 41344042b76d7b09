package dispatch

import (
	"context"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/dedupe"
	"github.com/session-revoker/session-revoker/guard"
)

// replicas is a Coordinator that says what a test gives it. A nil lease is valid: its End does nothing.
type replicas struct {
	taken             bool
	known             dedupe.Verdict
	full              bool
	adopted, reserved int
}

func (r *replicas) Lease(context.Context, string, *coordination.Wait) (*coordination.Lease, dedupe.Verdict, bool) {
	return nil, r.known, r.taken
}

func (r *replicas) Look(context.Context, string, *coordination.Wait) (dedupe.Verdict, bool) {
	return r.known, r.taken
}

func (r *replicas) Adopted() { r.adopted++ }

func (r *replicas) Reserve(context.Context, string, string, int, time.Duration) (may, added bool, total int) {
	if r.full {
		return false, false, 2
	}
	r.reserved++
	return true, true, r.reserved
}

func (r *replicas) Refund(context.Context, string, string) { r.reserved-- }

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
			g, others := &graph{}, &replicas{taken: true}
			dispatching(t, guard.VolumeConfig{}, g, func(t *testing.T, d *Dispatcher) {
				d.deps.Coordinator = others
				e := enter(d, ada)
				time.Sleep(5 * time.Second)
				if n := len(g.made()); n != 0 {
					t.Fatalf("%d calls while another replica has the lease", n)
				}
				others.taken, others.known = false, c.verdict
				if got, _ := decision(t, e); got != c.want || len(g.made()) != c.calls {
					t.Errorf("%s after %d calls, want %s after %d", got, len(g.made()), c.want, c.calls)
				}
				if others.adopted != 1-c.calls {
					t.Errorf("%d verdicts were adopted", others.adopted)
				}
			})
		})
	}
}

func TestDispatcherTripsWhenAllReplicasTogetherReachTheLimit(t *testing.T) {
	g, others := &graph{}, &replicas{full: true}
	dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 1, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		d.deps.Coordinator = others
		e := enter(d, ada)
		if len(g.made()) != 0 || !d.Blocked("") || d.State().Blocked != 1 {
			t.Fatalf("%d calls, %+v", len(g.made()), d.State())
		}
		others.full = false
		d.release(guard.Release{Until: time.Now().Add(time.Hour), MaxUsers: 5})
		if got, _ := decision(t, e); got != dedupe.Revoked || others.reserved != 1 {
			t.Errorf("%s, %d reserved", got, others.reserved)
		}
	})
}

func TestDispatcherRefundsTheReplicasCountWhenNobodyWasSignedOut(t *testing.T) {
	g := &graph{answer: func(int) error { return notFound }}
	others := &replicas{}
	dispatching(t, guard.VolumeConfig{Kinds: []string{""}, Max: 5, Window: time.Hour}, g, func(t *testing.T, d *Dispatcher) {
		d.deps.Coordinator = others
		e := enter(d, ada)
		if got, _ := decision(t, e); got != dedupe.Failed || others.reserved != 0 {
			t.Errorf("%s, %d reserved", got, others.reserved)
		}
	})
}
