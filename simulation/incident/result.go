package incident

import (
	"slices"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
)

// Point says how many people were signed out by a time.
type Point struct {
	Seconds float64 `json:"seconds"` // from the workers' start on
	People  int     `json:"people"`
}

// Stolen is a device that was reported.
type Stolen struct {
	Seconds float64 `json:"seconds"` // when it was enqueued, from the workers' start on
	Waited  float64 `json:"waited"`  // seconds until Graph saw the first call that it answered
	Away    bool    `json:"away"`    // Graph was away when it was enqueued
}

// Operations is how often something was done at Service Bus.
type Operations struct {
	Kind    string  `json:"kind"`
	Total   int     `json:"total"`
	Average float64 `json:"average"` // per second
	Peak    int     `json:"peak"`    // in one second
}

// Result is what the servers have recorded.
type Result struct {
	Config Config `json:"config"`
	// Seconds is the time until the last person was signed out, and Least the least possible.
	Seconds float64 `json:"seconds"`
	Least   float64 `json:"least"`
	// Curve and Ideal are how many people were signed out over time, and could have been.
	Curve []Point `json:"curve"`
	Ideal []Point `json:"ideal"`
	// Stolen are the devices in the order of their reports.
	Stolen []Stolen `json:"stolen"`
	// Back is the number of seconds from Graph's return to its first success.
	Back float64 `json:"back"`
	// Operations are those of all workers by kind. Credits are what they cost together.
	Operations []Operations `json:"operations"`
	Credits    Operations   `json:"credits"`
	// HeapInUse is the peak of the process' heap in bytes, with garbage and with the imitated servers.
	// Live is the largest size that was seen after a collection; Servers is the size that was there
	// without workers, before or after them, whichever is smaller.
	HeapInUse uint64 `json:"heapInUse"`
	Live      uint64 `json:"live"`
	Servers   uint64 `json:"servers"`
	// Successes are the calls that signed a person out, Refused those that met the quota, and Failed
	// those that met the outage.
	Successes int `json:"successes"`
	Refused   int `json:"refused"`
	Failed    int `json:"failed"`
	// Missed are people whom an event concerns and who were not signed out after it. Uncalled for are
	// people who were called without an event. Repeated are successful calls beyond the first.
	Missed      int `json:"missed"`
	UncalledFor int `json:"uncalledFor"`
	Repeated    int `json:"repeated"`
	// Problems are the broken guarantees, a sentence each.
	Problems []string `json:"problems"`
}

// curveStep is the least time between two points of a curve.
const curveStep = 10 * time.Second

// result reads the servers' records.
func (w *world) result(m *memory) Result {
	r := Result{
		Config: w.Config, Operations: w.ops.summary(), Credits: w.ops.credits(),
		HeapInUse: m.inUse, Live: m.live, Servers: min(m.before, m.after),
	}
	away := w.start.Add(w.AwayAt)
	back := away.Add(w.AwayFor)
	signedOut := map[string]int{}
	called, firstCall := map[string]bool{}, map[string]time.Time{}
	var last time.Time
	r.Back = -1
	for _, call := range w.graph.Calls() {
		called[call.UserID] = true
		if call.Status == 429 {
			r.Refused++
		}
		if call.Fault {
			r.Failed++
		}
		if !call.Revoked {
			continue
		}
		r.Successes++
		signedOut[call.UserID]++
		if signedOut[call.UserID] > 1 {
			r.Repeated++
			continue
		}
		firstCall[call.UserID] = call.Start
		last = call.Start
		if r.Back < 0 && !call.Start.Before(back) {
			r.Back = call.Start.Sub(back).Seconds()
		}
		at := call.Start.Sub(w.start)
		if n := len(r.Curve); n == 0 || at.Seconds()-r.Curve[n-1].Seconds >= curveStep.Seconds() {
			r.Curve = append(r.Curve, Point{at.Seconds(), len(signedOut)})
		}
	}
	r.Seconds = last.Sub(w.start).Seconds()
	r.Curve = append(r.Curve, Point{r.Seconds, len(signedOut)})
	people := w.People + len(w.enqueued)
	r.Ideal = ideal(w.Quota, people, w.AwayAt, w.AwayFor)
	r.Least = r.Ideal[len(r.Ideal)-1].Seconds

	for id, at := range w.enqueued {
		call, ok := firstCall[id]
		if !ok || call.Before(at) {
			r.Missed++
			continue
		}
		r.Stolen = append(r.Stolen, Stolen{
			Seconds: at.Sub(w.start).Seconds(), Waited: call.Sub(at).Seconds(), Away: !at.Before(away) && at.Before(back),
		})
	}
	slices.SortFunc(r.Stolen, func(a, b Stolen) int { return int(a.Seconds*1000) - int(b.Seconds*1000) })
	for i := range w.People {
		if signedOut[person("mass", i).ID] == 0 {
			r.Missed++
		}
	}
	for i := range bystanders {
		if called[person("mass", w.People+i).ID] {
			r.UncalledFor++
		}
	}
	workers := w.Replicas
	if w.Redis {
		workers = 1
	}
	r.Problems = w.journal.Check(w.calls(), invariants.Expected{
		Users: func(id string) []string { return []string{id} }, Window: time.Minute, Workers: workers,
	})
	return r
}

// summary describes the operations of each kind.
func (o *operations) summary() []Operations {
	var all []Operations
	for kind, name := range kindNames {
		all = append(all, o.describe(name, func(n [kinds]int) int { return n[kind] }))
	}
	return all
}

// credits describes what all operations cost.
func (o *operations) credits() Operations {
	return o.describe("credits", func(n [kinds]int) (sum int) {
		for kind, each := range n {
			sum += credits[kind] * each
		}
		return sum
	})
}

func (o *operations) describe(name string, of func([kinds]int) int) Operations {
	d := Operations{Kind: name}
	for _, n := range o.perSecond {
		d.Total += of(n)
		d.Peak = max(d.Peak, of(n))
	}
	d.Average = float64(d.Total) / float64(max(1, len(o.perSecond)))
	return d
}

// ideal returns how many calls the quota can let through by each time at most, if a caller who knows
// everything calls as early as possible from an idle start, and Graph is away for a while.
func ideal(q graph.Quota, n int, awayAt, awayFor time.Duration) []Point {
	back := awayAt + awayFor
	var points []Point
	add := func(at time.Duration, done int) { points = append(points, Point{at.Seconds(), min(n, done)}) }
	if q.Model != graph.TokenBucket {
		at := time.Duration(0)
		for done := 0; ; at += q.Per {
			if at >= awayAt && at < back {
				at = back
			}
			add(at, done)
			done += q.Limit
			add(at, done)
			if done >= n {
				return points
			}
		}
	}
	// A bucket is full at the start, and full again after an outage that is long enough.
	each := q.Per / time.Duration(q.Limit)
	regained := func(span time.Duration) int { return int(span / each) }
	before := q.Limit + regained(awayAt)
	add(0, 0)
	add(0, q.Limit)
	if before >= n {
		add(time.Duration(max(0, n-q.Limit))*each, n)
		return points
	}
	add(awayAt, before)
	add(back, before)
	burst := before + min(q.Limit, regained(awayFor))
	add(back, burst)
	add(back+time.Duration(max(0, n-burst))*each, n)
	return points
}
