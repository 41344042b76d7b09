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
	// together bounds the calls under way of all replicas. Each bounds its own.
	together = 4096
	// lookAgain is how soon the shared pace is asked again when calls of other replicas must end first; twice as long each time in vain, up to
	// lookSeldom.
	lookAgain  = 15 * time.Millisecond
	lookSeldom = 500 * time.Millisecond
	// lookAtMost is how long a pause is slept through before the shared pace is looked at again.
	lookAtMost = 5 * time.Second
	// seenEvery is how often a replica with calls under way says that it is there, and goneAfter when it is taken for dead, and its calls
	// for over.
	seenEvery = 2 * time.Second
	goneAfter = 8 * time.Second
	// keepPace is how long Redis keeps the pace without any call.
	keepPace = 15 * time.Minute
	// maxTries bounds how often a change is tried again because another replica came first.
	maxTries = 20
	// maxPace bounds the text of the pace in bytes: about 1 kB, and 100 bytes for each replica.
	maxPace = 64 << 10
)

// swapScript replaces the pace if it is still the one that the change was made from. It tells which one is there then, and Redis' time in
// microseconds, which Lua's numbers hold exactly. A text that is longer than any of ours is none.
// ARGV: the old one, the new one (empty only looks), for how long to keep it (ms), how long it can be.
var swapScript = redis.NewScript(`
	local t = redis.call('TIME')
	local current = redis.call('GET', KEYS[1]) or ''
	if #current > tonumber(ARGV[4]) then current = 'too long' end
	if ARGV[2] ~= '' and current == ARGV[1] then
		current = ARGV[2]
		redis.call('SET', KEYS[1], current, 'PX', ARGV[3])
	end
	return {current, t[1] * 1000000 + t[2]}`)

// Limiter is a retry.Pace that all replicas use together. Its state lies in Redis and is handed round: whoever changes it writes it back
// if nobody else came in between, and does the change again otherwise. Its clock is Redis'. While Redis is away each replica
// goes on alone with the state that it saw last.
//
// Want, Allow, Begin, Cancel and End are called under the lock of the owner of the calls, and never wait. Run, in a goroutine of its own,
// brings calls from Redis in advance.
type Limiter struct {
	store *Store
	key   string
	limit int // calls of this replica at once
	kick  chan struct{}

	mu       sync.Mutex
	alone    bool           // Redis is away: own decides
	own      *retry.Limiter // as last seen in Redis, or what became of it alone
	raw      string         // the same as text
	ahead    time.Duration  // Redis' clock before ours
	want     int            // calls that could begin
	stock    []int          // calls that may begin, by the pace's numbers
	underWay map[int]int    // the pace's numbers of calls that have begun, by ours; 0 is one that the pace does not know
	last     int            // our number
	again    time.Duration  // after which to look again while calls of others must end first
	over     []over         // not told Redis yet
}

// over is a call that has ended, or never begun.
type over struct {
	call     int // the pace's number
	canceled bool
	err      error
	usage    float64
}

// apply tells a pace of it.
func (o over) apply(limiter *retry.Limiter, now time.Time) {
	if o.canceled {
		limiter.Cancel(o.call)
	} else {
		limiter.End(o.call, o.err, o.usage, now)
	}
}

// NewLimiter returns a Pace of a replica that makes at most limit calls at once. app is the application whose calls Graph counts.
func (s *Store) NewLimiter(app string, limit int) *Limiter {
	return &Limiter{
		store: s, key: s.prefix + "pace:" + app, limit: limit, kick: make(chan struct{}, 1),
		own: retry.NewLimiter(together), underWay: map[int]int{},
	}
}

// Want says how many calls could begin, were they allowed.
func (p *Limiter) Want(calls int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.want = calls
}

// Allow says whether a call may begin now. If not, wait is how long until it is worth asking again; 0 means when a call has ended, or when Run
// tells.
func (p *Limiter) Allow(now time.Time) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = now.Add(p.ahead)
	switch held := p.own.State().PausedUntil.Sub(now); {
	case len(p.underWay) >= p.limit:
		return 0, false
	case p.alone:
		p.own.SetInFlight(len(p.underWay))
		return p.own.Allow(now)
	case len(p.stock) > 0:
		return 0, true
	case held > 0:
		return held, false
	}
	p.wake()
	return 0, false
}

// Begin tells of a call that begins, after Allow; its number is given back to End or Cancel.
func (p *Limiter) Begin(now time.Time) (call int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last++
	if p.alone {
		p.underWay[p.last] = p.own.Begin(now.Add(p.ahead))
	} else {
		p.underWay[p.last], p.stock = p.stock[0], p.stock[1:]
	}
	return p.last
}

// Cancel takes a Begin back.
func (p *Limiter) Cancel(call int) { p.ended(call, over{canceled: true}) }

// End tells how a call ended, as that of retry.Pace.
func (p *Limiter) End(call int, err error, usage float64, _ time.Time) {
	p.ended(call, over{err: err, usage: usage})
}

func (p *Limiter) ended(call int, o over) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.call = p.underWay[call]
	if p.alone {
		p.own.SetInFlight(len(p.underWay))
		o.apply(p.own, time.Now().Add(p.ahead))
	} else {
		p.over = append(p.over, o)
		p.wake()
	}
	delete(p.underWay, call)
}

// State is a picture of the pace of all replicas together; only the calls under way are this replica's.
func (p *Limiter) State() retry.LimiterState {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.own.State()
	s.InFlight = len(p.underWay)
	s.PausedUntil = s.PausedUntil.Add(-p.ahead)
	return s
}

func (p *Limiter) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run exchanges calls with Redis until ctx ends. granted is called when it is worth asking Allow again, and must return at once; calls
// that were not begun then are given back.
func (p *Limiter) Run(ctx context.Context, granted func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.kick:
		case <-timer.C:
		case <-ctx.Done():
			p.Want(0)
			p.exchange(context.WithoutCancel(ctx)) // what has ended; the others must not wait for it
			return
		}
		again, news := p.exchange(ctx)
		if news {
			granted()
			p.giveBack()
		}
		timer.Reset(again)
	}
}

// Try exchanges once, for a check of what the Pace may do in Redis.
func (p *Limiter) Try(ctx context.Context) { p.exchange(ctx) }

// giveBack returns the calls that nobody began.
func (p *Limiter) giveBack() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.stock) == 0 {
		return
	}
	for _, call := range p.stock {
		p.over = append(p.over, over{call: call, canceled: true})
	}
	p.stock, p.want = nil, 0
	p.wake()
}

// shared is what lies in Redis.
type shared struct {
	Limiter     *retry.Limiter
	Replicas map[string]presence
}

// presence is what the others need to know of a replica.
type presence struct {
	InFlight int
	Seen     time.Time
}

// exchange tells Redis what has ended and brings calls that may begin. again is when to exchange at the latest; news says that it is worth asking
// Allow again.
func (p *Limiter) exchange(ctx context.Context) (again time.Duration, news bool) {
	p.mu.Lock()
	done, raw, alone, ahead := p.over, p.raw, p.alone, p.ahead
	mine := len(p.underWay)
	room := min(p.want, p.limit-mine)
	p.over = nil
	p.mu.Unlock()

	now := time.Now().Add(ahead)
	for fresh, tries := false, 0; tries < maxTries; tries++ {
		state, calls, wait := p.change(raw, now, done, room, mine)
		text := ""
		if len(done)+len(calls) > 0 || state.changed {
			var err error
			if text, err = state.text(); err != nil {
				return p.goAlone(done)
			}
		} else if fresh {
			return p.take(state, raw, calls, room, wait, now)
		}
		current, theirs, err := p.swap(ctx, raw, text)
		if err != nil {
			return p.goAlone(done)
		}
		now = theirs
		if text != "" && current == text {
			if state.replaced {
				p.store.cfg.Observe(Pacing)
			}
			return p.take(state, text, calls, room, wait, now)
		}
		raw, fresh = current, true
	}
	// Others came first, again and again.
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = append(done, p.over...)
	return lookAgain, alone
}

// change makes a new state of the old one: what has ended is told, and calls begin while they may and there is room.
func (p *Limiter) change(old string, now time.Time, done []over, room, mine int) (state changed, calls []int, wait time.Duration) {
	state.Limiter = retry.NewLimiter(together)
	if json.Unmarshal([]byte(old), &state.shared) != nil || state.Limiter == nil || !state.Limiter.Plausible(now) {
		state.shared = shared{Limiter: retry.NewLimiter(together)} // nothing there yet, or nothing that makes sense
		state.replaced = old != ""
	}
	others := 0
	for id, r := range state.Replicas {
		switch {
		case id == p.store.id:
		case now.Sub(r.Seen).Abs() > goneAfter: // also when Redis' clock was set back
			delete(state.Replicas, id)
			state.changed = true
		default:
			others += min(max(0, r.InFlight), together)
		}
	}
	state.Limiter.SetInFlight(others + mine + len(done))
	for _, o := range done {
		o.apply(state.Limiter, now)
	}
	for len(calls) < room {
		var ok bool
		if wait, ok = state.Limiter.Allow(now); !ok {
			break
		}
		calls = append(calls, state.Limiter.Begin(now))
	}
	mine += len(calls)
	before := state.Replicas[p.store.id]
	state.changed = state.changed || before.InFlight != mine || mine > 0 && now.Sub(before.Seen) > seenEvery
	if state.Replicas == nil {
		state.Replicas = map[string]presence{}
	}
	state.Replicas[p.store.id] = presence{InFlight: mine, Seen: now}
	return state, calls, wait
}

// changed is a state of which is known whether it must be written, and whether it replaces one that made no sense.
type changed struct {
	shared
	changed, replaced bool
}

func (s changed) text() (string, error) {
	text, err := json.Marshal(s.shared)
	return string(text), err
}

// swap writes the new state if the old one is still there; "" only looks. It returns what is there then, and Redis' time.
func (p *Limiter) swap(ctx context.Context, old, state string) (current string, now time.Time, err error) {
	answer, err := p.store.run(ctx, swapScript, []string{p.key}, old, state, keepPace.Milliseconds(), maxPace)
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

// take puts what Redis has answered into use.
func (p *Limiter) take(state changed, raw string, calls []int, room int, wait time.Duration, now time.Time) (again time.Duration, news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news = p.alone || len(calls) > 0
	if p.alone {
		for call := range p.underWay {
			p.underWay[call] = 0 // numbers of ours alone
		}
	}
	p.alone, p.own, p.raw, p.ahead = false, state.Limiter, raw, time.Until(now)
	p.stock = append(p.stock, calls...)
	p.again = min(max(lookAgain, 2*p.again), lookSeldom)
	if len(calls) > 0 {
		p.again = lookAgain
	}
	switch {
	case len(calls) < room && wait > 0 && !state.Limiter.Awaits():
		p.again = 0 // when the pause is over another replica's first call soon tells whether all may go on
		return min(wait, lookAtMost), news
	case len(calls) < room:
		return p.again, news
	case len(p.underWay)+len(calls) > 0:
		return seenEvery, news
	}
	return time.Minute, news
}

// goAlone goes on without Redis.
func (p *Limiter) goAlone(done []over) (again time.Duration, news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now().Add(p.ahead)
	news = !p.alone
	p.alone = true
	p.own.SetInFlight(len(p.underWay) + len(done))
	for _, o := range append(done, p.over...) {
		o.apply(p.own, now)
	}
	p.over = nil
	return awayFor, news
}
