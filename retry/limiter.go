package retry

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// exploreEvery is how long after the last throttled call more is tried than was allowed then.
	exploreEvery = 15 * time.Second
	// forgetAfter is after how much time without being held back an allowance is forgotten: the quota is full again.
	forgetAfter = 5 * time.Minute
	// shortPause is shorter than any that ends a window: after pauses like that the server seems to regain calls one by one, and rounds are spread.
	shortPause = 2 * time.Second
	// slower and faster are by which part of a spread round it is made longer when a call was refused, and shorter when none was for long
	// and the server does not report the usage.
	slower, faster = 1. / 16, 1. / 32
	// awaitAnswer is how long a call keeps others waiting where only few may be in flight at once,
	// up to twice that (see ages): one that hangs must not hold up everybody for its whole timeout.
	awaitAnswer = 2 * time.Second
	// maxUnasked bounds how much longer a pause is than the server has asked for, since it may
	// outlast the fault by as much.
	maxUnasked = 15 * time.Second
	// maxPause bounds a pause from the end of the round to the last answer's Retry-After, and maxPeriod a round with it: see judge.
	maxPause  = 2 * MaxRetryAfter
	maxPeriod = 2 * maxPause
	// maxUnnamed bounds the count of pauses of unknown length, which double up to a bound.
	maxUnnamed = 8
	// usageFrom is the usage from which Graph reports it (https://learn.microsoft.com/graph/throttling,
	// x-ms-throttle-limit-percentage).
	usageFrom = 0.8
	// usageAim is the usage at which a spread round is neither shortened nor made longer, and usageLow what is assumed when none is
	// reported by a server that would.
	usageAim, usageLow = 0.98, 0.4
)

// Limiter lets calls begin as fast as the server allows. It does not know how the server counts (a fixed window, a sliding
// one, a token bucket), and learns from what happens: between two pauses that the server asked for, so many calls went
// through in so much time. From then on each such round lets as many calls through, and pauses by itself; now and then it
// feels, one call at a time, whether more is allowed. Where the pauses are short the calls of a round are spread over it, and
// its length is what is corrected: by a refusal, by time without one, and by the usage that the server reports.
//
// Until the first signal all calls go at full speed. A throttled call holds all others until its Retry-After has passed.
//
// It is not safe for concurrent use: whoever lets calls begin owns it.
type Limiter struct {
	limit  int  // calls at once
	awaits bool // see Awaits
	limiterMemory
}

// limiterMemory is what a Pace counts and has learned. Its fields are exported for JSON alone: replicas hand it round.
type limiterMemory struct {
	InFlight int
	Hold     time.Time     // no call before
	Pauses   time.Duration // all that the server asked for, together
	Careful  bool          // one call at a time until one succeeds
	Unnamed  int           // pauses in a row for which the server did not say how long
	InVain   int           // pauses in a row after which the first call was refused again

	Last int // number of the last call that began, from 1
	Ages ages

	// The round: the calls since the last pause.
	First    int // number of its first call
	Begun    int
	OK       int
	Start    time.Time // of the round
	RoundEnd time.Time // only while an allowance is known

	// The last round that the server ended, until the next begins.
	Ended endedRound

	// What the server allows, as learned from such rounds.
	Allowance int // calls in a round; 0 is not known
	Confirmed bool
	Short     bool // the last round was much shorter than allowed
	Period    time.Duration
	Pause     time.Duration // at the end of it

	Usage     float64 // as last reported
	Reports   bool    // the server does report it
	UsageAt   int     // number of the last call that had begun when that was reported
	Throttled time.Time
	HeldBack  time.Time // when a call was last held back
}

// endedRound is a round that the server ended.
type endedRound struct {
	First, OK  int
	Start, End time.Time
	Judged     bool
}

// ages tells the calls in flight that began lately from the older ones, which hang. It counts them
// in two generations, since replicas hand it round and have too many calls to list. Each lasts
// awaitAnswer, so a call counts for one to two times that.
type ages struct {
	Since time.Time // when the younger generation began
	// First is the number of the first call of a generation, InFlight how many of its calls are;
	// index 0 is the younger one.
	First, InFlight [2]int
}

// turn begins a new generation when it is time. last is the number of the last call that began.
func (a *ages) turn(last int, now time.Time) {
	switch age := now.Sub(a.Since); {
	case age >= 0 && age < awaitAnswer:
		return
	case age >= 0 && age < 2*awaitAnswer:
		a.First[1], a.InFlight[1] = a.First[0], a.InFlight[0]
		a.Since = a.Since.Add(awaitAnswer)
	default: // nobody asked for long, or a clock was set back
		a.First[1], a.InFlight[1] = last+1, 0
		a.Since = now
	}
	a.First[0], a.InFlight[0] = last+1, 0
}

// ended tells of a call that is not in flight any more.
func (a *ages) ended(call int) {
	for i, first := range a.First {
		if call >= first {
			a.InFlight[i] = max(0, a.InFlight[i]-1)
			return
		}
	}
}

// NewLimiter returns a Pace that lets at most limit calls be under way at once.
func NewLimiter(limit int) *Limiter {
	p := &Limiter{limit: limit}
	p.Ended.Judged = true
	p.First = 1
	return p
}

// Allow says whether a call may begin now. If not, wait is how long until it is worth asking again
// if no call ends before; 0 means that one must.
func (p *Limiter) Allow(now time.Time) (wait time.Duration, ok bool) {
	p.awaits = false
	p.Ages.turn(p.Last, now)
	if p.InFlight >= p.limit {
		return 0, false
	}
	if wait := p.Hold.Sub(now); wait > 0 {
		p.HeldBack = now
		return wait, false
	}
	p.judge()
	if p.Allowance > 0 && now.Sub(p.HeldBack) >= forgetAfter {
		p.Allowance, p.Confirmed = 0, false
	}
	if p.Careful {
		if wait, ok := p.among(1, now); !ok {
			return wait, false
		}
	}
	if p.Allowance == 0 {
		return p.among(p.width(), now)
	}
	if p.Begun > 0 && !now.Before(p.RoundEnd) {
		p.adjust(now)
		p.newRound()
	}
	next := p.RoundEnd
	switch {
	case p.Begun < p.Allowance && p.spread():
		next = p.Start.Add(p.Period / time.Duration(p.Allowance) * time.Duration(p.Begun))
		if p.Begun == 0 || !now.Before(next) {
			return 0, true
		}
	case p.Begun < p.Allowance:
		return p.among(p.ramp(), now)
	case p.spread():
	case now.Sub(p.Throttled) >= exploreEvery:
		wait, ok := p.among(p.explore(), now)
		return min(wait, next.Sub(now)), ok
	default:
		next = earlier(next, p.Throttled.Add(exploreEvery))
	}
	p.HeldBack = now
	return next.Sub(now), false
}

// Awaits says that Allow has just refused because of calls in flight that should answer soon: it is
// worth asking again as soon as one has.
func (p *Limiter) Awaits() bool { return p.awaits }

// among says whether a call may begin where only few may be in flight at once. Those that hang do
// not count: their number is bounded by the limit, and as long as all do, one more begins in
// awaitAnswer.
func (p *Limiter) among(few int, now time.Time) (wait time.Duration, ok bool) {
	if min(p.InFlight, p.Ages.InFlight[0]+p.Ages.InFlight[1]) < few {
		return 0, true
	}
	p.awaits = true
	return p.Ages.Since.Add(awaitAnswer).Sub(now), false
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// spread says that the calls of a round are spread over it. A refusal costs the calls under way, few then, and processes
// that share a quota do not all spend at once what was regained.
func (p *Limiter) spread() bool { return p.Confirmed && p.Allowance > 0 && p.Pause < shortPause }

// adjust corrects what is allowed after a round without a refusal.
func (p *Limiter) adjust(now time.Time) {
	since := now.Sub(p.Throttled)
	often := min(1, p.Period.Seconds()) // it takes about a second until the answers show it
	switch {
	case !p.spread():
		if p.OK > p.Allowance && since >= 2*exploreEvery {
			p.Allowance = p.OK
		}
	case p.Begun < p.Allowance: // not even that many were wanted
	case p.Reports:
		usage := p.Usage
		if usage < usageFrom {
			usage = usageLow
		}
		p.lengthen((min(usage, 1) - usageAim) / 2 * often)
	case since >= exploreEvery:
		p.lengthen(-faster * often)
	}
}

// lengthen makes a round longer by a part of it, or shorter.
func (p *Limiter) lengthen(part float64) {
	p.Period = min(p.Period+time.Duration(float64(p.Period)*part), maxPeriod)
}

// width is how many calls may be under way by the usage that the server reports: half of what seems to be left, so that
// few are refused. How much that is follows from the calls of this round, which are at most all that were counted.
func (p *Limiter) width() int {
	if p.Usage < usageFrom {
		return p.limit
	}
	left := float64(p.OK) / p.Usage * (1 - p.Usage)
	return min(p.limit, max(1, int(left/2)))
}

// ramp is how many calls may be under way in a round that is not spread: more with each that goes through, so that a pause that
// was too short costs one refused call and not all that may be under way. After a short pause the allowance may be what was
// left over from a quiet time, and the usage counts too.
func (p *Limiter) ramp() int {
	if p.Pause >= shortPause {
		return min(p.limit, 1+p.OK)
	}
	return min(p.width(), 1+p.OK)
}

// explore is how many calls may be in flight beyond those that are known to be allowed: one, and
// one more for each of them that has gone through. What was learned in a short fault may be far
// below what the server allows, and then one at a time would outlast the fault by minutes.
func (p *Limiter) explore() int { return 1 + max(0, p.OK-p.Allowance) }

// Begin tells of a call that begins, after Allow; its number is given back to End or Cancel.
func (p *Limiter) Begin(now time.Time) (call int) {
	if p.Begun == 0 {
		p.Start, p.RoundEnd = now, now.Add(p.Period)
	}
	p.Begun++
	p.InFlight++
	p.Ages.turn(p.Last, now)
	p.Ages.InFlight[0]++
	p.Last++
	return p.Last
}

// Cancel takes a Begin back: no call was made, or it was cut off by ourselves.
func (p *Limiter) Cancel(call int) {
	p.InFlight--
	p.Ages.ended(call)
	if call >= p.First && p.Begun > 0 {
		p.Begun--
	}
}

// End tells how a call ended. usage is the part of the quota that is used, as the server reports it; 0 when it does not.
func (p *Limiter) End(call int, err error, usage float64, now time.Time) {
	p.InFlight--
	p.Ages.ended(call)
	if throttled(err) {
		p.refused(call, err, now)
		return
	}
	p.Unnamed, p.InVain = 0, 0
	if call < p.First && call >= p.Ended.First && !p.Ended.Judged {
		p.Ended.OK++ // was under way when the round was ended
	}
	if call < p.First {
		return
	}
	p.Careful = false
	if usage >= p.Usage || call > p.UsageAt { // answers overtake each other
		p.Usage, p.UsageAt, p.Reports = usage, p.Last, p.Reports || usage > 0
	}
	p.OK++
	p.Confirmed = p.Confirmed || p.Allowance > 0 && p.OK >= p.Allowance
}

// refused learns from a throttled call.
func (p *Limiter) refused(call int, err error, now time.Time) {
	wait := After(err)
	named := wait > 0
	if !named && !now.Before(p.Hold) {
		wait = p.guess(call >= p.First)
	}
	if call >= p.First {
		if p.OK == 0 {
			p.InVain++
			if named {
				wait = p.patient(wait)
			}
		}
		if p.OK > 0 {
			p.Ended.First, p.Ended.OK, p.Ended.Judged = p.First, p.OK, false
			p.Ended.Start, p.Ended.End = p.Start, now
		}
		p.newRound()
	}
	if until := now.Add(wait); until.After(p.Hold) {
		from := now
		if p.Hold.After(now) {
			from = p.Hold
		}
		p.Pauses += until.Sub(from)
		p.Hold = until
	}
	p.Careful, p.Throttled, p.HeldBack = true, now, now
}

// patient makes a pause longer, twice each time, after pauses that were in vain. Where refused
// calls count too, processes that know nothing of each other and ask again to the second would keep
// the server's count full for ever, and nobody would ever get through.
func (p *Limiter) patient(wait time.Duration) time.Duration {
	if p.InVain < 2 {
		return wait
	}
	longer := wait << min(p.InVain-1, 10)
	longer += time.Duration(rand.Int64N(int64(longer)/4 + 1)) // not all at the same time
	return min(longer, wait+time.Duration(rand.Int64N(int64(maxUnasked)/2))+maxUnasked/2)
}

// guess is how long to pause when the server does not say: twice as long each time. A call from
// before the last pause does not say that that was too short.
func (p *Limiter) guess(current bool) time.Duration {
	if current {
		p.Unnamed = min(p.Unnamed+1, maxUnnamed)
	}
	waits := doubling(time.Second, maxUnasked, backoff.WithRandomizationFactor(0.1))
	for range p.Unnamed - 1 {
		waits.NextBackOff()
	}
	return waits.NextBackOff()
}

// judge takes the round that the server ended for what it allows, when the pause that followed is over.
func (p *Limiter) judge() {
	if p.Ended.Judged {
		return
	}
	p.Ended.Judged = true
	n, known := p.Ended.OK, p.Allowance
	pause := p.Hold.Sub(p.Ended.End)
	switch {
	case p.spread() && pause < shortPause:
		// Where it was cut tells nothing: its calls came one by one, as the server regains them, only a little too fast.
		p.lengthen(slower)
		p.Short = false
		return
	case n < p.Allowance/2 && !p.Short:
		// Much shorter than the last is not trusted before it has happened twice: a sliding window remembers earlier calls.
		p.Short = true
		return
	case p.Allowance > 0 && n >= p.Allowance:
		// What was found by feeling may be left over from a quiet time: a little more is noise, much more is believed in steps.
		if step := max(1, p.Allowance/8); n > p.Allowance+step {
			p.Allowance += step
		}
		p.Confirmed = true
	default:
		p.Allowance, p.Confirmed = n, false
	}
	p.Short = false
	// A round that began long before must not make us pause for longer than makes sense of the server's pause.
	period := min(p.Hold.Sub(p.Ended.Start), max(2*pause, 2*exploreEvery))
	if p.Pause >= shortPause && n >= known-known/8 && period < p.Period {
		return // as many as in the whole window: slow calls at the end of a sliding one met the first that left it
	}
	p.Period, p.Pause = period, pause
}

func (p *Limiter) newRound() {
	p.First = p.Last + 1
	p.Begun, p.OK = 0, 0
}

// SetInFlight corrects how many calls are under way, for a Pace that several processes hand round: they know best.
func (p *Limiter) SetInFlight(n int) { p.InFlight = n }

// MarshalJSON writes what the Pace has learned, for another process to go on with.
func (p *Limiter) MarshalJSON() ([]byte, error) { return json.Marshal(p.limiterMemory) }

// UnmarshalJSON replaces what the Pace has learned.
func (p *Limiter) UnmarshalJSON(text []byte) error {
	var m limiterMemory
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	p.limiterMemory = m
	return nil
}

// Plausible says whether what the Pace has learned can have come about by now. What lies in a store may be somebody else's, or from before a
// clock was set back; its pauses and rounds would last for too long, and its counts never come right.
func (p *Limiter) Plausible(now time.Time) bool {
	const slack = time.Minute // by which clocks may differ
	for _, past := range []time.Time{p.Start, p.Ended.Start, p.Ended.End, p.Throttled, p.HeldBack, p.Ages.Since} {
		if past.Sub(now) > slack {
			return false
		}
	}
	for _, n := range []int{
		p.Unnamed, p.InVain, p.Last, p.First, p.Begun, p.OK, p.Ended.First, p.Ended.OK, p.Allowance, p.UsageAt,
		p.Ages.First[0], p.Ages.First[1], p.Ages.InFlight[0], p.Ages.InFlight[1],
	} {
		if n < 0 || n > math.MaxInt/2 {
			return false
		}
	}
	return p.Hold.Sub(now) <= MaxRetryAfter+slack && p.RoundEnd.Sub(now) <= maxPeriod+slack &&
		p.Pauses >= 0 && p.Period >= 0 && p.Period <= maxPeriod && p.Pause >= 0 && p.Pause <= maxPause &&
		p.Usage >= 0 && p.Unnamed <= maxUnnamed && p.First <= p.Last+1 && p.Ages.First[0] <= p.Last+1
}

// LimiterState is a picture of the pace.
type LimiterState struct {
	// PerSecond is the rate that the server allowed when it last asked for a pause; +Inf when it never did.
	PerSecond float64
	// PausedUntil is when the pause ends that the server asked for; in the past when there is none.
	PausedUntil time.Time
	// Pauses are all that the server asked for, together.
	Pauses   time.Duration
	InFlight int
}

// State returns a picture of the pace.
func (p *Limiter) State() LimiterState {
	s := LimiterState{PerSecond: math.Inf(1), PausedUntil: p.Hold, Pauses: p.Pauses, InFlight: p.InFlight}
	if p.Allowance > 0 && p.Period > 0 {
		s.PerSecond = float64(p.Allowance) / p.Period.Seconds()
	}
	return s
}
