package dispatch

import (
	"container/heap"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/coordination"
	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/retry"
)

const (
	// lateAfter is when an attempt without an answer gives its place to another, and maxLate how many may have done so:
	// users whose answers hang must not keep the others waiting.
	lateAfter = 2 * time.Second
	maxLate   = 64
)

// errTripped: the volume guard has tripped for the type of the user's event.
var errTripped = errors.New("the volume guard has tripped")

// queue is the call queue: users wait in it for a permit, the right to one attempt. It is the one place where attempts
// begin, when rate limiter, circuit breaker and volume guard allow, of which it is the owner. Its lock is held for a few
// steps, and never while waiting.
//
// It has two lanes, for first attempts and for retries; in each the most urgent goes first, and then in order of place. Of
// two permits in a row at most one is for a retry while first attempts wait, and at most one for a first attempt while a
// retry waits that is at least as urgent.
type queue struct {
	concurrency int
	// ask asks a canary, and returns at once; canaryDone must follow. nil for no canaries. active says whether anybody is in
	// flight at all.
	ask    func(call int, timeout time.Duration)
	active func() bool

	mu        sync.Mutex
	limiter   limiter
	shared    *coordination.Limiter // the same, if it is shared with other replicas; otherwise nil
	breaker   *retry.Breaker
	volume    *guard.Volume
	lanes                        // who may have the next permit
	full      map[string]*lanes  // who waits until a reservation of the volume guard is decided, by type
	waiting   map[string]*permit // all of these, by user
	last      bool               // the last permit was for a retry
	probes    int                // permits given while the breaker was open
	sequences int                // handed out
	running   int                // attempts in flight that are not late
	late      int                // those that are
	lateAgain int                // of them, retries
	begun     []*permit          // in flight, in the order in which they began; those that have ended may still be among them
	timer     *time.Timer
	closed    bool // no canary any more

	// changed are signaled when an attempt has ended: what may be received can be another number then.
	changed []chan struct{}
}

// limiter is the rate limiter: a retry.Pace of this process's own, or one that it shares.
type limiter interface {
	Allow(now time.Time) (wait time.Duration, ok bool)
	Begin(now time.Time) (call int)
	Cancel(call int)
	End(call int, err error, usage float64, now time.Time)
	State() retry.LimiterState
}

// request is what a user waits with.
type request struct {
	user     string
	sequence int
	// retry says that the user has failed before, own that they have while Graph was well for others. urgency and kind are asked under the queue's lock, so that an event that
	// makes the user more urgent is not missed; blocked says for which kinds nobody may be called.
	retry   bool
	own     bool
	urgency urgencyFunc
}

// urgencyFunc returns a user's urgency, and the type of the event that the attempt is for.
type urgencyFunc func(blocked func(kind string) bool) (urgency int, kind string)

// permit is one user's request, and then the right to one attempt.
type permit struct {
	request
	urgent int
	kind   string
	in     *lane // nil when granted or gone
	index  int   // there

	granted  chan struct{}
	err      error         // why it was not granted
	timeout  time.Duration // of the attempt, beside its own; 0 is none
	call     int           // the limiter's number of it
	reserved guard.Reservation
	shared   bool // the user was counted for it among those of all replicas
	began    time.Time
	late     bool
	ended    bool
}

func newQueue(concurrency int, volume guard.VolumeConfig, shared *coordination.Limiter, account bool) *queue {
	q := &queue{
		concurrency: concurrency,
		limiter:     retry.NewLimiter(concurrency + maxLate),
		breaker:     retry.NewBreaker(account),
		volume:      guard.NewVolume(volume),
		full:        map[string]*lanes{},
		waiting:     map[string]*permit{},
		active:      func() bool { return true },
	}
	if shared != nil {
		q.limiter, q.shared = shared, shared
	}
	q.timer = time.AfterFunc(time.Hour, q.tick)
	q.timer.Stop()
	return q
}

// nextSequence is the next place in the queue. Whoever waits again keeps it, but after a failure of their own.
func (q *queue) nextSequence() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sequences++
	return q.sequences
}

// wait returns when the user's attempt may begin; then done or cancel must follow. The error is the cause of ctx, or
// errTripped, and then there is nothing to end.
func (q *queue) wait(ctx context.Context, r request) (*permit, error) {
	p := &permit{request: r, granted: make(chan struct{})}
	q.mu.Lock()
	p.urgent, p.kind = r.urgency(q.volume.Blocked)
	q.push(p)
	q.waiting[p.user] = p
	q.grant()
	q.mu.Unlock()
	select {
	case <-p.granted:
		return p, p.err
	case <-ctx.Done():
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if p.call > 0 {
		return p, nil // granted at the same instant: the caller finds out that nobody waits any more
	}
	q.leave(p)
	q.breaker.Forget(p.user)
	q.grant() // a canary may be due now that nobody is to be probed
	return nil, context.Cause(ctx)
}

// leave takes a permit out that is not granted.
func (q *queue) leave(p *permit) {
	if p.in != nil {
		p.out()
		q.readmit(p.kind) // it may have been the one for whom there was a place
	}
	if q.waiting[p.user] == p {
		delete(q.waiting, p.user)
	}
}

// waitForOthers lets a user wait until an attempt for the same type of event has ended.
func (q *queue) waitForOthers(p *permit) {
	kind := q.volume.Name(p.kind)
	if q.full[kind] == nil {
		q.full[kind] = &lanes{}
	}
	q.full[kind].push(p)
}

// readmit lets the first of each lane ask again of those that wait for the volume guard with the type, since it may answer
// otherwise now. If it does, the next ones follow: many may wait, and not all of them can have one place.
func (q *queue) readmit(kind string) {
	full := q.full[q.volume.Name(kind)]
	if full == nil {
		return
	}
	for _, l := range []lane{full.first, full.retries} {
		if len(l) > 0 {
			p := l[0]
			p.out()
			q.push(p)
		}
	}
}

// raise makes a waiting user more urgent.
func (q *queue) raise(user string, urgency int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.waiting[user]
	if p == nil || urgency >= p.urgent {
		return
	}
	before := p.kind
	p.urgent, p.kind = p.urgency(q.volume.Blocked)
	heap.Fix(p.in, p.index)
	if p.kind != before && p.in != q.of(p) { // the volume guard is asked for another type
		p.out()
		q.push(p)
		q.grant()
	}
}

// done ends an attempt. nobody says that it has signed nobody out; without an answer it may have.
func (q *queue) done(p *permit, usage float64, nobody bool, err error) (c condition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	q.limiter.End(p.call, err, usage, now)
	q.breaker.End(p.user, p.retry && !p.late, err, now)
	if nobody {
		q.volume.Refund(p.reserved)
	} else {
		q.volume.Confirm(p.reserved, now)
	}
	q.end(p)
	return q.condition()
}

// condition is what the breaker knows of Graph: cause is why it lets only probes through, if it does; suspected that users fail
// one after the other, users that the trouble is theirs.
type condition struct {
	cause            error
	suspected, users bool
}

func (q *queue) condition() (c condition) {
	_, c.cause = q.breaker.Open()
	c.suspected, c.users = q.breaker.Suspicion()
	return c
}

// cancel gives a granted permit back: no attempt was made, or one that we cut off ourselves.
func (q *queue) cancel(p *permit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limiter.Cancel(p.call)
	q.breaker.Cancel(p.user, p.retry && !p.late)
	q.volume.Refund(p.reserved)
	q.end(p)
}

func (q *queue) end(p *permit) {
	p.ended = true
	switch {
	case !p.late:
		q.running--
	default:
		q.late--
		if p.retry {
			q.lateAgain--
		}
	}
	if len(q.begun) > 4*(q.concurrency+maxLate) { // the first ones last, and may not be late
		q.begun = slices.DeleteFunc(q.begun, func(p *permit) bool { return p.ended })
	}
	q.readmit(p.kind)
	q.grant()
	q.signal()
}

// wantProof asks an account's canary whether Graph is well, when one may be asked again.
func (q *queue) wantProof() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.breaker.WantProof()
	q.grant()
}

// canaryDone ends a canary, which is an attempt for the limiter too.
func (q *queue) canaryDone(call int, usage float64, err error, canceled bool) (c condition) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	if canceled {
		q.limiter.Cancel(call)
	} else {
		q.limiter.End(call, err, usage, now)
	}
	q.breaker.CanaryEnd(err, canceled, now)
	q.grant()
	q.signal()
	return q.condition()
}

func (q *queue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.running
	q.grant()
	if q.running != before {
		q.signal()
	}
}

// stop ends the queue's timer, and canaries; nobody may wait any more.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.timer.Stop()
}

// grant lets attempts begin while it may. The caller holds the lock.
func (q *queue) grant() {
	if q.closed {
		return
	}
	var again time.Duration // until it is worth asking again
	later := func(wait time.Duration) {
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	q.canary(later)
	for len(q.first)+len(q.retries) > 0 {
		now := time.Now()
		if !q.room(now, later) {
			break
		}
		p := q.next(now, later)
		if p == nil {
			break
		}
		q.want()
		wait, ok := q.limiter.Allow(now)
		if !ok {
			later(wait)
			break
		}
		p.out()
		var outcome guard.Outcome
		if p.reserved, outcome = q.volume.Reserve(p.kind, p.user, now); outcome == guard.Wait {
			q.waitForOthers(p)
			continue
		}
		delete(q.waiting, p.user)
		if outcome == guard.Tripped {
			p.err = errTripped
			close(p.granted)
		} else {
			q.begin(p, now)
		}
		q.readmit(p.kind)
	}
	if again > 0 {
		q.timer.Reset(again)
	}
}

func (q *queue) begin(p *permit, now time.Time) {
	p.timeout = q.breaker.Timeout(p.retry)
	if _, cause := q.breaker.Open(); cause != nil {
		q.probes++
	}
	q.breaker.Begin(p.user, p.retry, now)
	p.call, p.began = q.limiter.Begin(now), now
	q.running++
	q.begun = append(q.begun, p)
	q.last = p.retry
	close(p.granted)
}

// room says whether another attempt may be in flight. Attempts that are not answered for long do not count, up to a number
// of them.
func (q *queue) room(now time.Time, later func(time.Duration)) bool {
	for len(q.begun) > 0 && q.late < maxLate {
		p := q.begun[0]
		if !p.ended && !p.late {
			if wait := p.began.Add(lateAfter).Sub(now); wait > 0 {
				later(wait)
				break
			}
			p.late = true
			q.running--
			q.late++
			if p.retry {
				q.lateAgain++
			}
			q.breaker.Late(p.user, p.retry)
		}
		q.begun = q.begun[1:]
	}
	return q.running < q.concurrency
}

// next is who may begin now; nil for nobody.
func (q *queue) next(now time.Time, later func(time.Duration)) *permit {
	if _, cause := q.breaker.Open(); cause != nil {
		p := q.untried(q.probes%probesForAnybody == probesForAnybody-1)
		wait, ok := q.breaker.Allow(q.breaker.Tried(p.user) > 0, now)
		if !ok {
			later(wait)
			return nil
		}
		return p
	}
	lanes := []*lane{&q.first, &q.retries}
	if q.retryFirst() {
		lanes[0], lanes[1] = lanes[1], lanes[0]
	}
	for _, l := range lanes {
		if len(*l) == 0 {
			continue
		}
		if l == &q.retries && q.lateAgain >= maxLate/2 {
			continue // retries that hang leave the rest to first attempts
		}
		wait, ok := q.breaker.Allow(l == &q.retries, now)
		if ok {
			return (*l)[0]
		}
		later(wait)
	}
	return nil
}

// retryFirst says whether the next permit is for a retry, if there is one and it may.
func (q *queue) retryFirst() bool {
	switch {
	case len(q.retries) == 0:
		return false
	case len(q.first) == 0:
		return true
	}
	return !q.last && q.retries[0].urgent <= q.first[0].urgent
}

// probesForAnybody: one probe in so many goes to anybody, the others to users who have not failed while Graph was well for others.
const probesForAnybody = 3

// untried is who was not tried since the breaker opened, or longest ago: probes go round. First attempts go before retries, and unless anybody
// may be probed, both go before users who have failed while Graph was well: these may fail again for a reason of their own.
func (q *queue) untried(anybody bool) (best *permit) {
	for _, l := range []lane{q.first, q.retries} {
		for _, p := range l {
			if best == nil {
				best = p
				continue
			}
			if !anybody && p.own != best.own {
				if best.own {
					best = p
				}
				continue
			}
			if a, b := q.breaker.Tried(p.user), q.breaker.Tried(best.user); a < b || a == b && p.retry == best.retry && p.before(best) {
				best = p
			}
		}
	}
	return best
}

// canary asks a canary if one is due.
func (q *queue) canary(later func(time.Duration)) {
	if q.ask == nil {
		q.breaker.NoCanary()
		return
	}
	waits := len(q.first)+len(q.retries) > 0
	now := time.Now()
	if wait, due := q.breaker.CanaryDue(waits, true, now); !due && wait == 0 {
		return // nearly always; the rest takes longer to find out
	}
	if !waits && q.tripped() {
		return // nobody is to be called until an operator says so
	}
	wait, due := q.breaker.CanaryDue(waits, waits || q.active(), now)
	if !due {
		later(wait)
		return
	}
	q.want()
	if wait, due = q.limiter.Allow(now); !due {
		later(wait)
		return
	}
	call := q.limiter.Begin(now)
	timeout := q.breaker.CanaryBegin()
	q.ask(call, timeout)
}

// tripped says that the volume guard stops some type of events.
func (q *queue) tripped() bool {
	return slices.ContainsFunc(q.volume.State(time.Now()), func(s guard.KindState) bool { return q.volume.Blocked(s.Kind) })
}

// want tells the other replicas how many attempts could begin.
func (q *queue) want() {
	switch {
	case q.shared == nil:
	case q.breaker.Closed():
		q.shared.Want(max(1, len(q.first)+len(q.retries)))
	default:
		q.shared.Want(1)
	}
}

// limit is how many messages may be received: any number while the breaker is closed. While it is not, one at a time, up to a
// number in flight, and only if a probe would otherwise have to go to somebody who failed already, so that the trouble of
// the users in flight is not taken for everyone's.
func (q *queue) limit(inFlight, most int) int {
	const unlimited = 1 << 20
	q.mu.Lock()
	defer q.mu.Unlock()
	_, cause := q.breaker.Open()
	switch {
	case q.breaker.Closed():
		return unlimited
	case inFlight >= most:
		return 0
	case cause == nil:
		return entering
	case q.running > 0:
		return 0
	}
	for _, p := range q.first {
		if q.breaker.Tried(p.user) == 0 {
			return 0
		}
	}
	return 1
}

// entering is how many messages a new process receives at once before it knows that Graph answers.
const entering = 4

func (q *queue) signal() {
	for _, changed := range q.changed {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// lanes are one lane for first attempts, and one for retries.
type lanes struct{ first, retries lane }

func (l *lanes) of(p *permit) *lane {
	if p.retry {
		return &l.retries
	}
	return &l.first
}

func (l *lanes) push(p *permit) {
	p.in = l.of(p)
	heap.Push(p.in, p)
}

// out takes a permit out of its lane.
func (p *permit) out() {
	heap.Remove(p.in, p.index)
	p.in = nil
}

// lane is a heap (container/heap) of permits.
type lane []*permit

func (p *permit) before(other *permit) bool {
	return p.urgent < other.urgent || p.urgent == other.urgent && p.sequence < other.sequence
}

func (l lane) Len() int           { return len(l) }
func (l lane) Less(i, j int) bool { return l[i].before(l[j]) }
func (l lane) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].index, l[j].index = i, j
}

// Push adds a permit.
func (l *lane) Push(x any) {
	p := x.(*permit)
	p.index = len(*l)
	*l = append(*l, p)
}

// Pop takes the last permit off.
func (l *lane) Pop() any {
	last := len(*l) - 1
	p := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	return p
}
