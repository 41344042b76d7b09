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

// errTripped: the volume guard has tripped for the type of the user's event.
var errTripped = errors.New("the volume guard has tripped")

// queue is the call queue: users wait in it for a permit, the right to one attempt. All attempts
// begin here, when the rate limiter, the circuit breaker and the volume guard allow it; the queue
// owns these three. Its lock is held for a few steps, and never while anything waits.
//
// The queue has two lanes, one for first attempts and one for retries. In each lane the most urgent
// user goes first, then the one with the lowest ticket. Of two consecutive permits at most one is
// for a retry while first attempts wait, and at most one is for a first attempt while a retry waits
// that is at least as urgent.
type queue struct {
	// ask starts a canary and returns at once; canaryDone must follow. If it is nil, there are no
	// canaries.
	// active reports whether any user has an undecided event.
	ask    func(call int, timeout time.Duration)
	active func() bool

	mu            sync.Mutex
	limiter       limiter
	shared        *coordination.Limiter // the limiter, if replicas share it; otherwise nil
	breaker       *retry.Breaker
	volume        *guard.Volume
	blocked       func(kind string) bool // is volume.Blocked
	inFlight      inFlight
	lanes                            // the users who may have the next permit
	volumeWaiters map[string]*lanes  // the users who wait for others' reservations in the volume guard, by type
	waiting       map[string]*permit // all of these users

	lastWasRetry bool // the last permit was for a retry
	probes       int  // permits granted while the breaker was open
	tickets      int  // given out so far
	timer        *time.Timer
	closed       bool // nothing begins any more

	// changed are signaled when an attempt has ended, since another number of messages may be
	// received then.
	changed []chan struct{}
}

// limiter is the rate limiter: this process's own *retry.Limiter, or one that replicas share.
type limiter interface {
	Allow(now time.Time) (wait time.Duration, ok bool)
	Begin(now time.Time) (call int)
	Cancel(call int)
	End(call int, err error, usage float64, now time.Time)
	State() retry.LimiterState
}

// request is what a user asks the queue for.
type request struct {
	user   string // their key
	ticket int
	// retry reports whether the user has failed before, and own whether they have failed while
	// Graph was well for others.
	retry bool
	own   bool
	// lookup reports whether the attempt is a look-up, which signs nobody out: the volume guard does
	// not count it.
	lookup bool
	// urgency is called under the queue's lock, so that no event is missed that makes the user more
	// urgent.
	urgency urgencyFunc
}

// urgencyFunc returns a user's urgency, and the type of the event that the next attempt is for.
// blocked reports for which types the volume guard has tripped.
type urgencyFunc func(blocked func(kind string) bool) (urgency int, kind string)

// permit is a user's request, and once it is granted, the right to one attempt.
type permit struct {
	request
	urgent int
	kind   string
	in     *lane // where it waits; nil when it does not
	index  int   // there

	granted      chan struct{} // closed when it is granted, or err is set
	err          error         // why it was not granted
	timeout      time.Duration // bounds the attempt in addition to its own timeout; 0 does not
	call         int           // the limiter's number of the attempt
	reserved     guard.Reservation
	countedByAll bool // the user was added to the count of all replicas
	began        time.Time
	late         bool
	ended        bool
}

// newQueue returns a queue; stop must follow. shared may be nil. account reports whether the canary
// is an account, see retry.NewBreaker.
func newQueue(concurrency int, volume guard.VolumeConfig, shared *coordination.Limiter, account bool) *queue {
	q := &queue{
		limiter:       retry.NewLimiter(concurrency + maxLate),
		breaker:       retry.NewBreaker(account),
		volume:        guard.NewVolume(volume),
		inFlight:      inFlight{concurrency: concurrency},
		volumeWaiters: map[string]*lanes{},
		waiting:       map[string]*permit{},
		active:        func() bool { return true },
	}
	q.blocked = q.volume.Blocked
	if shared != nil {
		q.limiter, q.shared = shared, shared
	}
	q.timer = time.AfterFunc(time.Hour, q.tick)
	q.timer.Stop()
	return q
}

// nextTicket returns the next ticket: of two equally urgent users the one with the lower ticket
// goes first. A user who waits again keeps their ticket, unless they have failed.
func (q *queue) nextTicket() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.tickets++
	return q.tickets
}

// wait returns when the user's attempt may begin. Then done or cancel must follow. After an error,
// which is the cause of ctx or errTripped, neither may.
func (q *queue) wait(ctx context.Context, r request) (*permit, error) {
	p := &permit{request: r, granted: make(chan struct{})}
	q.mu.Lock()
	p.urgent, p.kind = r.urgency(q.blocked)
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
		return p, nil // it was granted at the same instant; the caller checks ctx
	}
	q.withdraw(p)
	q.breaker.Forget(p.user)
	q.grant() // with nobody left to probe, a canary may be due
	return nil, context.Cause(ctx)
}

// withdraw removes a permit that was not granted.
func (q *queue) withdraw(p *permit) {
	if p.in != nil {
		p.out()
		q.readmit(p.kind) // the next one may get the reservation that this one would have got
	}
	q.forget(p)
}

// forget notes that a permit no longer waits. A user whose event has been removed may ask for another
// one, for a new event, before the first is withdrawn.
func (q *queue) forget(p *permit) {
	if q.waiting[p.user] == p {
		delete(q.waiting, p.user)
	}
}

// awaitVolume makes a user wait until an attempt for the same type of event has ended. Before that,
// the volume guard cannot say whether the user may be called.
func (q *queue) awaitVolume(p *permit) {
	kind := q.volume.Name(p.kind)
	if q.volumeWaiters[kind] == nil {
		q.volumeWaiters[kind] = &lanes{}
	}
	q.volumeWaiters[kind].push(p)
}

// readmit moves the first user of each lane of volumeWaiters back to the lanes that get permits,
// because the volume guard may have another answer for the type now. If it has, the next users
// follow one by one, since many may wait for the same reservation.
func (q *queue) readmit(kind string) {
	waiters := q.volumeWaiters[q.volume.Name(kind)]
	if waiters == nil {
		return
	}
	for _, l := range []lane{waiters.first, waiters.retries} {
		if len(l) > 0 {
			p := l[0]
			p.out()
			q.push(p)
		}
	}
}

// raise makes a user who waits more urgent.
func (q *queue) raise(user string, urgency int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.waiting[user]
	if p == nil || urgency >= p.urgent {
		return
	}
	before := p.kind
	p.urgent, p.kind = p.urgency(q.blocked)
	heap.Fix(p.in, p.index)
	if p.kind != before && p.in != q.of(p) { // they waited for the volume of another type
		p.out()
		q.push(p)
		q.grant()
	}
}

// done ends an attempt. nobody reports whether it has certainly signed nobody out.
func (q *queue) done(p *permit, usage float64, nobody bool, err error) condition {
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

// condition is what the breaker knows about Graph.
type condition struct {
	cause      error // why only probes begin; nil when other attempts do too
	suspected  bool  // users fail one after the other
	usersFault bool  // the canary is well, so the fault is the users' own
}

func (q *queue) condition() (c condition) {
	_, c.cause = q.breaker.Open()
	c.suspected, c.usersFault = q.breaker.Suspicion()
	return c
}

// cancel gives a granted permit back: no attempt was made, or this process has cut it off.
func (q *queue) cancel(p *permit) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limiter.Cancel(p.call)
	q.breaker.Cancel(p.user, p.retry && !p.late)
	q.volume.Refund(p.reserved)
	q.end(p)
}

// end ends a granted permit, after limiter, breaker and volume guard. The caller holds the lock.
func (q *queue) end(p *permit) {
	q.inFlight.end(p)
	q.readmit(p.kind)
	q.grant()
	q.signal()
}

// wantProof asks a canary that is an account whether Graph is well, as soon as it may be asked
// again.
func (q *queue) wantProof() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.breaker.WantProof()
	q.grant()
}

// canaryDone ends a canary. For the limiter a canary is an attempt like any other.
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

// tick grants permits that have become due.
func (q *queue) tick() {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.inFlight.running
	q.grant()
	if q.inFlight.running != before {
		q.signal()
	}
}

// stop ends the timer; no attempt and no canary begins afterwards. Nobody may wait any more.
func (q *queue) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.timer.Stop()
}

// grant lets attempts begin until nobody waits or something does not allow the next one. The caller
// holds the lock.
func (q *queue) grant() {
	if q.closed {
		return
	}
	var again time.Duration // until the timer calls grant again; 0 for not
	later := func(wait time.Duration) {
		if wait > 0 && (again == 0 || wait < again) {
			again = wait
		}
	}
	q.canary(later)
	for q.len() > 0 {
		now := time.Now()
		if q.markLate(now, later); q.inFlight.full() {
			break
		}
		p := q.next(now, later)
		if p == nil {
			break
		}
		q.want(p.urgent)
		wait, ok := q.limiter.Allow(now)
		if !ok {
			later(wait)
			break
		}
		p.out()
		answer := guard.Granted
		if !p.lookup {
			p.reserved, answer = q.volume.Reserve(p.kind, p.user, now)
		}
		if answer == guard.Wait {
			q.awaitVolume(p)
			continue
		}
		q.forget(p)
		if answer == guard.Tripped {
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
	q.inFlight.begin(p)
	q.lastWasRetry = p.retry
	close(p.granted)
}

// markLate gives the slots of late attempts to others.
func (q *queue) markLate(now time.Time, later func(time.Duration)) {
	late, next := q.inFlight.markLate(now)
	for _, p := range late {
		q.breaker.Late(p.user, p.retry)
	}
	later(next)
}

// next returns who may begin now; nil for nobody.
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
		if l == &q.retries && q.inFlight.lateRetries >= maxLate/2 {
			continue // retries that hang leave the other half to first attempts
		}
		wait, ok := q.breaker.Allow(l == &q.retries, now)
		if ok {
			return (*l)[0]
		}
		later(wait)
	}
	return nil
}

// retryFirst reports whether the next permit is for a retry, if one may begin.
func (q *queue) retryFirst() bool {
	switch {
	case len(q.retries) == 0:
		return false
	case len(q.first) == 0:
		return true
	}
	return !q.lastWasRetry && q.retries[0].urgent <= q.first[0].urgent
}

// probesForAnybody is the number of probes of which one may go to any user. The others go to users
// who have not failed while Graph was well for others.
const probesForAnybody = 3

// untried returns the user to probe next: one who was not tried since the breaker opened, or else
// the one who was tried longest ago. First attempts go before retries. Users who have failed while
// Graph was well for others go last, because they may fail again for a reason of their own; but if
// anybody may be probed, this does not count.
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

// canary starts a canary if one is due.
func (q *queue) canary(later func(time.Duration)) {
	if q.ask == nil {
		q.breaker.NoCanary()
		return
	}
	waits := q.len() > 0
	now := time.Now()
	if wait, due := q.breaker.CanaryDue(waits, true, now); !due && wait == 0 {
		return // nearly always; what follows takes longer
	}
	if !waits && q.tripped() {
		return // no attempt begins until an operator releases the guard
	}
	wait, due := q.breaker.CanaryDue(waits, waits || q.active(), now)
	if !due {
		later(wait)
		return
	}
	q.want(0)
	if wait, due = q.limiter.Allow(now); !due {
		later(wait)
		return
	}
	call := q.limiter.Begin(now)
	timeout := q.breaker.CanaryBegin()
	q.ask(call, timeout)
}

// tripped reports whether the volume guard stops some type of events.
func (q *queue) tripped() bool {
	return slices.ContainsFunc(q.volume.State(time.Now()), func(s guard.KindState) bool { return q.volume.Blocked(s.Kind) })
}

// want tells the limiter that replicas share how many attempts could begin here, and how urgent the
// first of them is.
func (q *queue) want(urgency int) {
	switch {
	case q.shared == nil:
	case q.breaker.Closed():
		q.shared.Want(max(1, q.len()), urgency)
	default:
		q.shared.Want(1, urgency)
	}
}

// limit returns how many more messages may be received: any number while the breaker is closed, and
// a few while nothing is known about Graph. While the breaker is open, it is one at a time, up to
// most in flight, and only if the next probe would otherwise go to a user who has failed already.
// Otherwise the faults of the users in flight could be taken for everyone's.
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
		return firstMessages
	case q.inFlight.running > 0:
		return 0
	}
	for _, p := range q.first {
		if q.breaker.Tried(p.user) == 0 {
			return 0
		}
	}
	return 1
}

// firstMessages is how many messages are received at once while nothing is known about Graph.
const firstMessages = 4

// signal signals the channels in changed. The caller holds the lock.
func (q *queue) signal() {
	for _, changed := range q.changed {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}
