package consumer

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"github.com/session-revoker/session-revoker/guard"
	"github.com/session-revoker/session-revoker/replicas"
	"github.com/session-revoker/session-revoker/retry"
)

// line is where users wait for their call, and the one place where calls begin: the most urgent first and then in order of
// place, when the pace, the breaker and the guard against implausible volumes allow. It owns them; its lock is held for a few steps, and never while waiting.
type line struct {
	maxOpen int // messages in hand up to which more are received while the breaker is open

	mu      sync.Mutex
	pace    pace
	shared  *replicas.Pace // the same, if it is shared with other replicas; otherwise nil
	breaker *retry.Breaker
	volume  *guard.Volume
	waiting turns
	byUser  map[string]*turn
	places  int // handed out
	timer   *time.Timer

	// changed are signalled when a call has ended: what may be received can be another number then.
	changed []chan struct{}
}

// pace is what Graph allows: a retry.Pace of this process's own, or one that it shares.
type pace interface {
	Allow(now time.Time) (wait time.Duration, ok bool)
	Begin(now time.Time) (call int)
	Cancel(call int)
	End(call int, err error, usage float64, now time.Time)
	State() retry.PaceState
}

// turn is one user's place in the line, and then the right to one call.
type turn struct {
	user    string
	urgency int
	place   int
	index   int // in the heap; -1 when granted or gone
	call    int // the pace's number of it
	granted chan struct{}
}

func newLine(concurrency, maxInHand int, volume guard.VolumeConfig, shared *replicas.Pace) *line {
	l := &line{
		maxOpen: max(3, maxInHand/2),
		pace:    retry.NewPace(concurrency),
		breaker: retry.NewBreaker(),
		volume:  guard.NewVolume(volume),
		byUser:  map[string]*turn{},
	}
	if shared != nil {
		l.pace, l.shared = shared, shared
	}
	l.timer = time.AfterFunc(time.Hour, l.tick)
	l.timer.Stop()
	return l
}

// newPlace is the next place in line. Whoever waits again after a failed attempt keeps the place.
func (l *line) newPlace() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.places++
	return l.places
}

// wait returns when the user's call may begin; then done or cancel must follow. The error is the cause of ctx, and then
// there is nothing to end. urgency is asked once, under the line's lock, so that a raise that comes later is not lost.
func (l *line) wait(ctx context.Context, user string, place int, urgency func() int) (*turn, error) {
	t := &turn{user: user, place: place, granted: make(chan struct{})}
	l.mu.Lock()
	t.urgency = urgency()
	heap.Push(&l.waiting, t)
	l.byUser[user] = t
	l.grant()
	l.mu.Unlock()
	select {
	case <-t.granted:
		return t, nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.index < 0 {
		return t, nil // granted at the same instant: the caller finds out that nobody waits any more
	}
	heap.Remove(&l.waiting, t.index)
	l.forget(t)
	l.breaker.Forget(user)
	return nil, context.Cause(ctx)
}

func (l *line) forget(t *turn) {
	if l.byUser[t.user] == t {
		delete(l.byUser, t.user)
	}
}

// raise makes a waiting user more urgent.
func (l *line) raise(user string, urgency int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t := l.byUser[user]; t != nil && urgency < t.urgency {
		t.urgency = urgency
		heap.Fix(&l.waiting, t.index)
	}
}

// done ends a call. It says whether the breaker lets only probes through now, and because of which failure; there may be
// none yet.
func (l *line) done(t *turn, usage float64, err error) (open bool, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.pace.End(t.call, err, usage, now)
	l.breaker.End(t.user, err, now)
	l.grant()
	l.signal()
	_, cause = l.breaker.Open()
	return !l.breaker.Closed(), cause
}

// cancel gives a granted turn back: no call was made, or one that we cut off ourselves.
func (l *line) cancel(t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pace.Cancel(t.call)
	l.breaker.Cancel(t.user)
	l.grant()
	l.signal()
}

func (l *line) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.grant()
}

// stop ends the line's timer; nobody may wait any more.
func (l *line) stop() { l.timer.Stop() }

// grant lets calls begin while pace and breaker allow. The caller holds the lock.
func (l *line) grant() {
	for len(l.waiting) > 0 {
		now := time.Now()
		wait, ok := l.breaker.Allow(now)
		if ok {
			l.want()
			wait, ok = l.pace.Allow(now)
		}
		if !ok {
			if wait > 0 {
				l.timer.Reset(wait)
			}
			return
		}
		t := l.next()
		if !l.volume.Allow(t.user, now) {
			return // until release
		}
		heap.Remove(&l.waiting, t.index)
		l.forget(t)
		l.breaker.Begin(t.user)
		t.call = l.pace.Begin(now)
		close(t.granted)
	}
}

// want tells the other replicas how many calls could begin.
func (l *line) want() {
	switch {
	case l.shared == nil:
	case l.breaker.Closed():
		l.shared.Want(len(l.waiting))
	default:
		l.shared.Want(1)
	}
}

// next is who may call. While the breaker is open, probes go round: first those who were not tried since it opened.
func (l *line) next() *turn {
	best := l.waiting[0]
	if l.breaker.Closed() {
		return best
	}
	for _, t := range l.waiting[1:] {
		if a, b := l.breaker.Tried(t.user), l.breaker.Tried(best.user); a < b || a == b && t.before(best) {
			best = t
		}
	}
	return best
}

// limit is how many messages may be received: any number while the breaker is closed; while it is not, one at a time, and
// only if a probe would otherwise have to go to somebody who failed already, so that the trouble of the users in hand is
// not taken for everyone's.
func (l *line) limit(inHand int) int {
	const any = 1 << 20
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.volume.Blocked() {
		return 0 // what is in hand waits already
	}
	if l.breaker.Closed() {
		return any
	}
	if l.pace.State().UnderWay > 0 || inHand >= l.maxOpen {
		return 0
	}
	for _, t := range l.waiting {
		if l.breaker.Tried(t.user) == 0 {
			return 0
		}
	}
	return 1
}

// release lets calls go on that the guard against implausible volumes has stopped. It says whether it had.
func (l *line) release(r guard.Release) (released bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if released = l.volume.Release(r, time.Now()); released {
		l.grant()
		l.signal()
	}
	return released
}

// trip stops calls until the guard against implausible volumes is released.
func (l *line) trip() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.volume.Trip()
	l.signal()
}

// blocked says that nobody is called until the guard against implausible volumes is released.
func (l *line) blocked() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.volume.Blocked()
}

// volumeState is a picture of the guard.
func (l *line) volumeState() guard.VolumeState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.volume.State(time.Now())
}

func (l *line) signal() {
	for _, changed := range l.changed {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// state is a picture of the line.
func (l *line) state() (waiting int, pace retry.PaceState, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, cause := l.breaker.Open()
	return len(l.waiting), l.pace.State(), cause != nil
}

// turns is a heap (container/heap).
type turns []*turn

func (t *turn) before(other *turn) bool {
	return t.urgency < other.urgency || t.urgency == other.urgency && t.place < other.place
}

func (h turns) Len() int           { return len(h) }
func (h turns) Less(i, j int) bool { return h[i].before(h[j]) }
func (h turns) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}

// Push adds a turn.
func (h *turns) Push(x any) {
	t := x.(*turn)
	t.index = len(*h)
	*h = append(*h, t)
}

// Pop takes the last turn off.
func (h *turns) Pop() any {
	last := len(*h) - 1
	t := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	t.index = -1
	return t
}
