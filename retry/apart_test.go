//go:build !race

// One goroutine does everything here, so the race detector would find nothing, in minutes.

package retry_test

import (
	"flag"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/retry"
)

// maxUsers is how many users a replica has in flight. The others are in the queue.
const maxUsers = 32

// replica is a replica that shares nothing with the others but the queue and Graph's answers.
type replica struct {
	*retry.Limiter
	start   time.Time
	waiting int  // users in flight who wait for a call
	users   int  // users in flight
	well    bool // a call has succeeded
}

// atFirst is how many calls a replica begins before one succeeds, as the circuit breaker lets it.
const atFirst = 4

// driveApart makes n calls succeed, through replicas that start one after the other. They take users
// from one queue. It returns how long this took and how many calls were throttled. A call takes
// between shortest and longest. One goroutine does everything, so that all runs with one seed are the
// same.
func driveApart(starts []time.Duration, q *quota, n int, seed uint64, shortest, longest time.Duration) (took time.Duration, throttled int) {
	began := time.Now()
	var line timeline
	var replicas []*replica
	for _, after := range starts {
		replicas = append(replicas, &replica{Limiter: retry.NewLimiter(16), start: began.Add(after)})
	}
	queued, left := n, n
	draw := rand.New(rand.NewPCG(seed, 3))
	begin := func(r *replica) {
		call := r.Begin(time.Now())
		r.waiting--
		half := (shortest + time.Duration(draw.Int64N(int64(longest-shortest)+1))) / 2
		line.plan(time.Now().Add(half), func() {
			usage, err := q.call()
			line.plan(time.Now().Add(half), func() {
				r.End(call, err, usage, time.Now())
				if err != nil {
					throttled++
					r.waiting++
					return
				}
				r.well = true
				r.users--
				left--
			})
		})
	}
	for left > 0 {
		soonest, begun := time.Duration(0), false
		for _, r := range replicas {
			if wait := time.Until(r.start); wait > 0 {
				if soonest == 0 || wait < soonest {
					soonest = wait
				}
				continue
			}
			for r.users < maxUsers && queued > 0 {
				queued--
				r.users++
				r.waiting++
			}
			if r.waiting == 0 || !r.well && r.InFlight >= atFirst {
				continue
			}
			switch wait, ok := r.Allow(time.Now()); {
			case ok:
				begin(r)
				begun = true
			case wait > 0 && (soonest == 0 || wait < soonest):
				soonest = wait
			}
		}
		if !begun {
			line.wait(soonest)
		}
	}
	return time.Since(began), throttled
}

// far are how far apart the first and the last replica start, as parts of a window; random draws
// each start from three windows.
var far = []float64{0, 1. / 3, 1. / 2, 7. / 3, random}

const random = -1

// apart is a row of the table that these tests log: how replicas do that start at different times.
type apart struct {
	quota    graph.Quota
	users    int
	replicas int
	far      float64
}

// measure returns the worst of several runs: the time as a multiple of the least possible, and the
// refused calls in 100 successes.
func (a apart) measure(t *testing.T) (ratio, refused float64) {
	for run := range uint64(*runs) {
		synctest.Test(t, func(t *testing.T) {
			draw := rand.New(rand.NewPCG(*seed+run, 9))
			starts := make([]time.Duration, a.replicas)
			for i := 1; i < a.replicas; i++ {
				starts[i] = time.Duration(a.far * float64(i) / float64(a.replicas-1) * float64(a.quota.Per))
				if a.far == random {
					starts[i] = time.Duration(draw.Int64N(int64(3 * a.quota.Per)))
				}
			}
			took, throttled := driveApart(starts, newQuota(t, a.quota), a.users, *seed+run, 20*time.Millisecond, 150*time.Millisecond)
			ratio = max(ratio, took.Seconds()/a.quota.CheapestDone(a.users).Seconds())
			refused = max(refused, float64(throttled)*100/float64(a.users))
		})
	}
	t.Logf("%-7s %d replicas, %5.2f windows apart: %.3f × the least time, %.1f refused in 100",
		a.quota.Model, a.replicas, a.far, ratio, refused)
	return ratio, refused
}

var runs = flag.Int("runs", 1, "runs of each row about replicas that start at different times")

// Replicas that share nothing, and start at different times, meet Graph's own quota.
func TestLimiterMeetsGraphsQuotaApart(t *testing.T) {
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		for _, replicas := range []int{2, 4} {
			for _, far := range far {
				a := apart{graph.Quota{Model: model, Limit: 3000, Per: 150 * time.Second, Headers: true}, 14_500, replicas, far}
				if ratio, refused := a.measure(t); ratio > 1.15 || refused > 3 {
					t.Errorf("%+v: %.3f × the least time, %.1f refused in 100; want at most 1.15 and 3", a, ratio, refused)
				}
			}
		}
	}
}

// Windows of 15 s are ten times as frequent as Graph's. Each costs the same as one of Graph's: a
// Retry-After in whole seconds is half a second too long, each replica that starts at another time
// begins a pause of its own in each window, and some calls are refused at its end. The bounds are a
// little above what was reached.
func TestLimiterMeetsFrequentWindowsApart(t *testing.T) {
	type bound struct{ ratio, refused float64 }
	for model, most := range map[graph.QuotaModel]bound{
		graph.FixedWindow: {1.20, 7}, graph.SlidingWindow: {1.35, 7}, graph.TokenBucket: {1.06, 2},
	} {
		for _, replicas := range []int{2, 4} {
			for _, far := range far {
				a := apart{graph.Quota{Model: model, Limit: 300, Per: 15 * time.Second, Headers: true}, 2900, replicas, far}
				if ratio, refused := a.measure(t); ratio > most.ratio || refused > most.refused {
					t.Errorf("%+v: %.3f × the least time, %.1f refused in 100; want at most %v", a, ratio, refused, most)
				}
			}
		}
	}
}
