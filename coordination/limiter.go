package coordination

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/session-revoker/session-revoker/retry"
)

const (
	// maxInFlight bounds the calls in flight of all replicas. Each replica has its own, lower
	// bound.
	maxInFlight = 4096
	// lookAgain is the delay before another look at the shared state while calls of other replicas
	// must end first. It doubles with each look in vain, up to lookSeldom.
	lookAgain  = 15 * time.Millisecond
	lookSeldom = 500 * time.Millisecond
	// lookAtMost bounds how long to sleep through a pause before another look at the shared state.
	lookAtMost = 5 * time.Second
	// seenEvery is how often a replica with calls in flight reports that it is alive. If it has not
	// for goneAfter, the others assume that it is dead, and that its calls have ended.
	seenEvery = 2 * time.Second
	goneAfter = 8 * time.Second
	// turnAfter is how long a replica waits in vain before the others leave it the next permit. If
	// its users are more urgent than theirs, they do so at once.
	turnAfter = 2 * time.Second
	// turnSpare is how much longer permits are left to a replica than until it said that it looks
	// again. It says so again when half of that has passed.
	turnSpare = 100 * time.Millisecond
	// keepState is how long Redis keeps the state without any call.
	keepState = 15 * time.Minute
	// maxTries bounds how often a change is tried again because another replica came first.
	maxTries = 20
	// maxState bounds the state's text in bytes: it has about 1 kB, and 100 bytes for each replica.
	maxState = 64 << 10
)

// swapScript replaces the state if it is still the one that the change was made from. It returns
// the state that is there then, and Redis' time in microseconds, which Lua's numbers hold exactly.
// It does not return a text that is longer than any of ours. ARGV: the old state, the new one
// (empty only looks), how long to keep it (ms), how long it can be (bytes).
var swapScript = redis.NewScript(`
	local t = redis.call('TIME')
	local current = redis.call('GET', KEYS[1]) or ''
	if #current > tonumber(ARGV[4]) then current = 'too long' end
	if ARGV[2] ~= '' and current == ARGV[1] then
		current = ARGV[2]
		redis.call('SET', KEYS[1], current, 'PX', ARGV[3])
	end
	return {current, t[1] * 1000000 + t[2]}`)

// Limiter is a rate limiter that all replicas use together. Its state is in Redis, and its clock is
// Redis'. A replica that changes the state writes it back if no other replica has changed it
// meanwhile, and otherwise repeats the change. While Redis is away, each replica goes on alone with
// the last state that it saw.
//
// Want, Allow, Begin, Cancel and End never wait, so the owner may call them under its lock. Run,
// which needs a goroutine of its own, fetches permissions for calls from Redis in advance.
type Limiter struct {
	store *Store
	key   string
	limit int // concurrent calls of this replica
	kick  chan struct{}

	mu       sync.Mutex
	alone    bool           // Redis is away: own decides
	own      *retry.Limiter // as last seen in Redis, or as changed alone since
	raw      string         // the same as text
	ahead    time.Duration  // Redis' clock minus ours
	want     int            // calls that could begin
	urgency  int            // of the first of them; a lower one is more urgent
	permits  []int          // permitted calls that have not begun, by the shared state's numbers
	inFlight map[int]int    // calls that have begun: from our number to the shared state's; 0 is unknown to it
	last     int            // our last number
	again    time.Duration  // the delay before another look while calls of others must end first
	finished []finished     // not yet reported to Redis
}

// finished is a call that has ended, or was never begun.
type finished struct {
	call     int // the shared state's number
	canceled bool
	err      error
	usage    float64
}

// apply reports it to a limiter.
func (o finished) apply(limiter *retry.Limiter, now time.Time) {
	if o.canceled {
		limiter.Cancel(o.call)
	} else {
		limiter.End(o.call, o.err, o.usage, now)
	}
}

// NewLimiter returns a Limiter for a replica that makes at most limit calls at once. app is the
// application whose calls Graph counts.
func (s *Store) NewLimiter(app string, limit int) *Limiter {
	return &Limiter{
		store: s, key: s.prefix + "limiter:" + app, limit: limit, kick: make(chan struct{}, 1),
		own: retry.NewLimiter(maxInFlight), inFlight: map[int]int{},
	}
}

// Want sets how many calls could begin if they were allowed, and how urgent the first of them is: the
// lower, the more urgent.
func (l *Limiter) Want(calls, urgency int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.want, l.urgency = calls, urgency
}

// Allow reports whether a call may begin now. If not, wait is the time until it is worth asking
// again; 0 means that a call must end first, or that Run calls granted.
func (l *Limiter) Allow(now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now = now.Add(l.ahead)
	switch pause := l.own.State().PausedUntil.Sub(now); {
	case len(l.inFlight) >= l.limit:
		return 0, false
	case l.alone:
		l.own.SetInFlight(len(l.inFlight))
		return l.own.Allow(now)
	case len(l.permits) > 0:
		return 0, true
	case pause > 0:
		return pause, false
	}
	l.wake()
	return 0, false
}

// Begin notes that a call begins, after Allow. The caller passes the returned number to End or
// Cancel.
func (l *Limiter) Begin(now time.Time) (call int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	if l.alone {
		l.inFlight[l.last] = l.own.Begin(now.Add(l.ahead))
	} else {
		l.inFlight[l.last], l.permits = l.permits[0], l.permits[1:]
	}
	return l.last
}

// Cancel takes a Begin back.
func (l *Limiter) Cancel(call int) { l.ended(call, finished{canceled: true}) }

// End reports the result of a call, like retry.Limiter's End.
func (l *Limiter) End(call int, err error, usage float64, _ time.Time) {
	l.ended(call, finished{err: err, usage: usage})
}

func (l *Limiter) ended(call int, o finished) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o.call = l.inFlight[call]
	if l.alone {
		l.own.SetInFlight(len(l.inFlight))
		o.apply(l.own, time.Now().Add(l.ahead))
	} else {
		l.finished = append(l.finished, o)
		l.wake()
	}
	delete(l.inFlight, call)
}

// State describes the state that all replicas share; only the calls in flight are this replica's.
func (l *Limiter) State() retry.LimiterState {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.own.State()
	s.InFlight = len(l.inFlight)
	s.PausedUntil = s.PausedUntil.Add(-l.ahead)
	return s
}

func (l *Limiter) wake() {
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// Run exchanges calls with Redis until ctx ends. When it is worth asking Allow again, it calls
// granted, which must return at once. Permitted calls that have not begun when granted returns are
// given back.
func (l *Limiter) Run(ctx context.Context, granted func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-l.kick:
		case <-timer.C:
		case <-ctx.Done():
			l.farewell(context.WithoutCancel(ctx))
			return
		}
		again, news := l.exchange(ctx)
		if news {
			granted()
			l.giveBack()
		}
		timer.Reset(again)
	}
}

// farewell reports the ended calls, so that others do not wait for them. If others come first again and
// again, it gives up after the Store's Timeout.
func (l *Limiter) farewell(ctx context.Context) {
	l.Want(0, 0)
	for end := time.Now().Add(l.store.cfg.Timeout); ; {
		l.exchange(ctx)
		l.mu.Lock()
		reported := len(l.finished) == 0
		l.mu.Unlock()
		if reported || !time.Now().Before(end) {
			return
		}
	}
}

// Try makes one exchange, to check what the Limiter may do in Redis.
func (l *Limiter) Try(ctx context.Context) { l.exchange(ctx) }

// giveBack returns the permitted calls that nobody began.
func (l *Limiter) giveBack() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.permits) == 0 {
		return
	}
	for _, call := range l.permits {
		l.finished = append(l.finished, finished{call: call, canceled: true})
	}
	l.permits, l.want = nil, 0
	l.wake()
}

// shared is the state in Redis.
type shared struct {
	Limiter  *retry.Limiter
	Replicas map[string]presence
}

// presence is what the others need to know about a replica.
type presence struct {
	InFlight int
	Seen     time.Time
	// Waits is since when it wants more calls than it gets; zero if it does not. Urgency is how urgent
	// they are. Until is how long the others leave it the next permit, if it is before them.
	Waits   time.Time `json:",omitzero"`
	Urgency int       `json:",omitzero"`
	Until   time.Time `json:",omitzero"`
}

// before reports whether a replica that waits gets the next permit before another one.
func (p presence) before(other presence, now time.Time) bool {
	if p.Urgency != other.Urgency {
		return p.Urgency < other.Urgency
	}
	return now.Sub(p.Waits) >= turnAfter && (other.Waits.IsZero() || p.Waits.Before(other.Waits))
}

// waits reports whether others may have to leave it permits now. Nobody looks later than lookAtMost.
func (p presence) waits(now time.Time) bool {
	left := p.Until.Sub(now)
	return !p.Waits.IsZero() && left > 0 && left <= lookAtMost+turnSpare
}

// exchange reports ended calls to Redis and fetches permitted ones. again is the delay until the
// next exchange at the latest. news reports whether it is worth asking Allow again.
func (l *Limiter) exchange(ctx context.Context) (again time.Duration, news bool) {
	l.mu.Lock()
	done, raw, alone, ahead := l.finished, l.raw, l.alone, l.ahead
	mine := len(l.inFlight)
	room, urgency := min(l.want, l.limit-mine), l.urgency
	l.finished = nil
	l.mu.Unlock()

	now := time.Now().Add(ahead)
	for fresh, tries := false, 0; tries < maxTries; tries++ {
		state, calls, wait := l.change(raw, now, done, room, mine, urgency)
		text := ""
		if len(done)+len(calls) > 0 || state.changed {
			var err error
			if text, err = state.text(); err != nil {
				return l.goAlone(done)
			}
		} else if fresh {
			return l.adoptState(state, raw, calls, room, wait, now)
		}
		current, theirs, err := l.swap(ctx, raw, text)
		if err != nil {
			return l.goAlone(done)
		}
		now = theirs
		if text != "" && current == text {
			if state.replaced {
				l.store.cfg.Observe(BadLimiter)
			}
			return l.adoptState(state, text, calls, room, wait, now)
		}
		raw, fresh = current, true
	}
	// Others came first, again and again.
	l.mu.Lock()
	defer l.mu.Unlock()
	l.finished = append(done, l.finished...)
	return lookAgain, alone
}

// change makes a new state from the old one: it applies ended calls, and begins calls while that is
// allowed, there is room, and it is no other replica's turn.
func (l *Limiter) change(
	old string, now time.Time, done []finished, room, mine, urgency int,
) (state changed, calls []int, wait time.Duration) {
	state.Limiter = retry.NewLimiter(maxInFlight)
	if json.Unmarshal([]byte(old), &state.shared) != nil || state.Limiter == nil || !state.Limiter.Plausible(now) {
		state.shared = shared{Limiter: retry.NewLimiter(maxInFlight)} // nothing there yet, or nothing plausible
		state.replaced = old != ""
	}
	others := 0
	for id, r := range state.Replicas {
		switch {
		case id == l.store.id:
		case now.Sub(r.Seen).Abs() > goneAfter: // also if Redis' clock was set back
			delete(state.Replicas, id)
			state.changed = true
		default:
			others += min(max(0, r.InFlight), maxInFlight)
		}
	}
	state.Limiter.SetInFlight(others + mine + len(done))
	for _, o := range done {
		o.apply(state.Limiter, now)
	}
	before := state.Replicas[l.store.id]
	next := presence{Seen: now, Waits: before.Waits, Urgency: urgency, Until: before.Until}
	for len(calls) < room {
		var ok bool
		if wait, ok = state.Limiter.Allow(now); !ok || state.isTurnOfAnother(l.store.id, next, now) {
			break
		}
		calls = append(calls, state.Limiter.Begin(now))
		next.Waits = time.Time{}
	}
	mine += len(calls)
	next.InFlight = mine
	switch {
	case len(calls) >= room:
		next.Waits, next.Until, next.Urgency = time.Time{}, time.Time{}, 0
	case next.Waits.IsZero():
		next.Waits = now
	}
	if state.first = state.isFirst(l.store.id, next, now); state.first && next.Until.Sub(now) < max(wait, lookAgain)+turnSpare/2 {
		next.Until = now.Add(min(max(wait, lookAgain), lookAtMost) + turnSpare)
	}
	state.changed = state.changed || before.InFlight != mine || mine > 0 && now.Sub(before.Seen) > seenEvery ||
		!before.Waits.Equal(next.Waits) || !before.Until.Equal(next.Until) || before.Urgency != next.Urgency
	if state.Replicas == nil {
		state.Replicas = map[string]presence{}
	}
	state.Replicas[l.store.id] = next
	return state, calls, wait
}

// isTurnOfAnother reports whether the next permit is left to another replica. Without turns, the
// replica whose call has just ended would always be the first to ask for the next one, as long as few
// calls may be in flight.
func (s shared) isTurnOfAnother(id string, me presence, now time.Time) bool {
	for other, p := range s.Replicas {
		if other != id && p.waits(now) && p.before(me, now) {
			return true
		}
	}
	return false
}

// isFirst reports whether a replica waits, and is before all others that wait.
func (s shared) isFirst(id string, me presence, now time.Time) (first bool) {
	if me.Waits.IsZero() {
		return false
	}
	for other, p := range s.Replicas {
		if other == id || p.Waits.IsZero() {
			continue
		}
		if !me.before(p, now) {
			return false
		}
		first = true
	}
	return first
}

// changed is a state with three flags: whether it must be written, whether it replaces an implausible
// one, and whether the others leave the next permit to this replica.
type changed struct {
	shared
	changed, replaced, first bool
}

func (s changed) text() (string, error) {
	text, err := json.Marshal(s.shared)
	return string(text), err
}

// swap replaces the old state by the new one, if the old one is still there. It writes nothing if
// the new one is "". It returns the state that is there then, and Redis' time.
func (l *Limiter) swap(ctx context.Context, old, state string) (current string, now time.Time, err error) {
	answer, err := l.store.run(ctx, swapScript, []string{l.key}, old, state, keepState.Milliseconds(), maxState)
	if err != nil {
		return "", now, err
	}
	fields, _ := answer.([]any)
	if len(fields) != 2 {
		return "", now, fmt.Errorf("redis answered %d values instead of 2", len(fields))
	}
	current, _ = fields[0].(string)
	micros, ok := fields[1].(int64)
	if !ok {
		return "", now, fmt.Errorf("redis answered %T instead of its time", fields[1])
	}
	return current, time.UnixMicro(micros), nil
}

// adoptState goes on with the state that is in Redis.
func (l *Limiter) adoptState(
	state changed, raw string, calls []int, room int, wait time.Duration, now time.Time,
) (again time.Duration, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	news = l.alone || len(calls) > 0
	if l.alone {
		for call := range l.inFlight {
			l.inFlight[call] = 0 // their numbers are unknown to Redis
		}
	}
	l.alone, l.own, l.raw, l.ahead = false, state.Limiter, raw, time.Until(now)
	l.permits = append(l.permits, calls...)
	l.again = min(max(lookAgain, 2*l.again), lookSeldom)
	if len(calls) > 0 || state.first {
		l.again = lookAgain
	}
	switch {
	case len(calls) < room && wait > 0 && !state.Limiter.Awaits():
		l.again = 0 // after the pause, another replica's first call soon shows whether all may go on
		return min(wait, lookAtMost), news
	case len(calls) < room:
		return l.again, news
	case len(l.inFlight)+len(calls) > 0:
		return seenEvery, news
	}
	return time.Minute, news
}

// goAlone goes on without Redis.
func (l *Limiter) goAlone(done []finished) (again time.Duration, news bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().Add(l.ahead)
	news = !l.alone
	l.alone = true
	l.own.SetInFlight(len(l.inFlight) + len(done))
	for _, o := range append(done, l.finished...) {
		o.apply(l.own, now)
	}
	l.finished = nil
	return awayFor, news
}
