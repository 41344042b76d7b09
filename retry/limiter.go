package retry

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// exploreEvery is the time after the last throttled call in which the limiter does not try
	// whether more is allowed.
	exploreEvery = 15 * time.Second
	// forgetAfter is the time after which an allowance is forgotten if it has held no call back:
	// the quota is full again.
	forgetAfter = 5 * time.Minute
	// fewCalls is the number of calls in a round from which nothing can be learned about their rate:
	// other processes have used up the quota. The round is then at most twice as long as the pause
	// that the server asked for. Otherwise a process that came last would learn a rate near zero, and
	// the others would refuse it anything more.
	fewCalls = 2
	// shortPause is shorter than any pause that ends a fixed window. A server that asks for shorter
	// pauses seems to regain calls one by one, so the calls of a round are spread.
	shortPause = 2 * time.Second
	// slower is the part by which a spread round gets longer after a refused call. faster is the
	// part by which it gets shorter if no call was refused for long, and the server does not report
	// the usage.
	slower, faster = 1. / 16, 1. / 32
	// fastest is how many times faster a round gets shorter at most.
	fastest = 8
	// awaitAnswer is how long a call delays others at least while only few may be in flight at
	// once. It delays them for twice as long at most (see ages). A call that hangs must not delay
	// everybody for its whole timeout.
	awaitAnswer = 2 * time.Second
	// maxUnasked bounds how much longer a pause is than the server has asked for, because the pause
	// may outlast the fault by as much.
	maxUnasked = 15 * time.Second
	// maxPause bounds the time from the end of a round to the last answer's Retry-After, and
	// maxPeriod a round with it; see judge.
	maxPause  = 2 * MaxRetryAfter
	maxPeriod = 2 * maxPause
	// maxUnnamed bounds the count of pauses of unknown length, which double up to a bound.
	maxUnnamed = 8
	// usageFrom is the usage from which Graph reports it
	// (https://learn.microsoft.com/graph/throttling, x-ms-throttle-limit-percentage).
	usageFrom = 0.8
	// usageAim is the usage at which a spread round keeps its length. usageLow is the usage that is
	// assumed if a server that has reported the usage before does not report it now.
	usageAim, usageLow = 0.98, 0.4
)

// Limiter is the rate limiter: it lets calls begin as fast as the server allows. It does not know
// how the server counts (a fixed window, a sliding one, a token bucket), and learns from what
// happens: between two pauses that the server asked for, some number of calls went through in some
// time. This is a round. From then on each round allows as many calls, and ends with a pause that
// the limiter makes by itself. Now and then the limiter tries, one call at a time, whether more is
// allowed. If the pauses are short, the calls of a round are spread over it, and its length is
// corrected: by a refusal, by time without one, and by the usage that the server reports.
//
// Until the first signal all calls go at full speed. A throttled call delays all others until its
// Retry-After has passed.
//
// It is not safe for concurrent use: the owner must serialize all calls.
type Limiter struct {
	limit  int  // calls in flight
	awaits bool // see Awaits
	limiterMemory
}

// limiterMemory is what a Limiter counts and has learned. Its fields are exported for JSON alone:
// replicas exchange it.
type limiterMemory struct {
	InFlight int
	Hold     time.Time     // no call begins before
	Pauses   time.Duration // the sum of all pauses that the server asked for
	Careful  bool          // one call at a time until one succeeds
	Unnamed  int           // pauses in a row whose length the server did not give
	InVain   int           // pauses in a row after which the first call was refused again

	Last int // number of the last call that began; the first is 1
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
	Reports   bool    // the server reports the usage
	UsageAt   int     // number of the last call that had begun when it was reported
	Throttled time.Time
	HeldBack  time.Time // when a call was last held back
}

// endedRound is a round that the server ended.
type endedRound struct {
	First, OK  int
	Start, End time.Time
	Judged     bool
}

// ages counts the calls in flight that began lately, as opposed to the older ones, which hang. It
// counts them in two generations, because replicas exchange it and have too many calls to list.
// Each generation lasts awaitAnswer, so a call counts for awaitAnswer at least, and twice that at
// most.
type ages struct {
	Since time.Time // when the younger generation began
	// First is the number of the first call of a generation, and InFlight is how many of its calls
	// are in flight. Index 0 is the younger generation.
	First, InFlight [2]int
}

// rotate begins a new generation when it is due. last is the number of the last call that began.
func (a *ages) rotate(last int, now time.Time) {
	switch age := now.Sub(a.Since); {
	case age >= 0 && age < awaitAnswer:
		return
	case age >= 0 && age < 2*awaitAnswer:
		a.First[1], a.InFlight[1] = a.First[0], a.InFlight[0]
		a.Since = a.Since.Add(awaitAnswer)
	default: // nobody has asked for long, or a clock was set back
		a.First[1], a.InFlight[1] = last+1, 0
		a.Since = now
	}
	a.First[0], a.InFlight[0] = last+1, 0
}

// ended notes that a call is not in flight any more.
func (a *ages) ended(call int) {
	for i, first := range a.First {
		if call >= first {
			a.InFlight[i] = max(0, a.InFlight[i]-1)
			return
		}
	}
}

// NewLimiter returns a Limiter that lets at most limit calls be in flight at once.
func NewLimiter(limit int) *Limiter {
	l := &Limiter{limit: limit}
	l.Ended.Judged = true
	l.First = 1
	return l
}

// Allow reports whether a call may begin now. If not, wait is the time until it is worth asking
// again, unless a call ends before; 0 means that one must end.
func (l *Limiter) Allow(now time.Time) (wait time.Duration, ok bool) {
	l.awaits = false
	l.Ages.rotate(l.Last, now)
	if l.InFlight >= l.limit {
		return 0, false
	}
	if wait := l.Hold.Sub(now); wait > 0 {
		l.HeldBack = now
		return wait, false
	}
	l.judge()
	if l.Allowance > 0 && now.Sub(l.HeldBack) >= forgetAfter {
		l.Allowance, l.Confirmed = 0, false
	}
	if l.Careful {
		if wait, ok := l.among(1, now); !ok {
			return wait, false
		}
	}
	if l.Allowance == 0 {
		return l.among(l.width(), now)
	}
	if l.Begun > 0 && !now.Before(l.RoundEnd) {
		l.adjust(now)
		l.newRound()
	}
	next := l.RoundEnd
	switch {
	case l.spread() && l.muchLeft():
		return l.among(l.ramp(), now)
	case l.Begun < l.Allowance && l.spread():
		next = l.Start.Add(l.Period / time.Duration(l.Allowance) * time.Duration(l.Begun))
		if l.Begun == 0 || !now.Before(next) {
			return 0, true
		}
	case l.Begun < l.Allowance:
		return l.among(l.ramp(), now)
	case l.spread():
	case now.Sub(l.Throttled) >= exploreEvery || l.muchLeft():
		wait, ok := l.among(l.explore(), now)
		return min(wait, next.Sub(now)), ok
	default:
		next = earlier(next, l.Throttled.Add(exploreEvery))
	}
	l.HeldBack = now
	return next.Sub(now), false
}

// Awaits reports whether Allow has just refused because of calls in flight that should be answered
// soon: it is worth asking again as soon as one is.
func (l *Limiter) Awaits() bool { return l.awaits }

// among reports whether a call may begin while only few may be in flight at once. Calls that hang
// do not count, since the limit bounds them. While all hang, one more begins every awaitAnswer.
func (l *Limiter) among(few int, now time.Time) (wait time.Duration, ok bool) {
	if min(l.InFlight, l.Ages.InFlight[0]+l.Ages.InFlight[1]) < few {
		return 0, true
	}
	l.awaits = true
	return l.Ages.Since.Add(awaitAnswer).Sub(now), false
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// spread reports whether the calls of a round are spread over it. Then few calls are in flight that
// could be refused together, and processes that share a quota do not all use it up at once.
func (l *Limiter) spread() bool { return l.Confirmed && l.Allowance > 0 && l.Pause < shortPause }

// muchLeft reports whether the server, which reports a high usage, did not report one with the last
// answer. What was learned is then too little: it was learned while other processes, which may be
// gone, had used up the quota.
func (l *Limiter) muchLeft() bool { return l.Reports && l.Usage < usageFrom }

// adjust corrects what is allowed after a round without a refusal.
func (l *Limiter) adjust(now time.Time) {
	since := now.Sub(l.Throttled)
	often := min(1, l.Period.Seconds()) // it takes about a second until the answers show it
	switch {
	case !l.spread():
		if l.OK > l.Allowance && since >= 2*exploreEvery {
			l.Allowance = l.OK
		}
	case l.Begun < l.Allowance: // fewer were wanted than were allowed
	case l.Reports:
		usage := l.Usage
		if usage < usageFrom {
			usage = usageLow
		}
		l.lengthen((min(usage, 1) - usageAim) / 2 * often)
	case since >= exploreEvery:
		// The longer no call was refused, the further the rate may be below what the server allows.
		// It may have been learned in a short fault, or beside other processes that are gone.
		long := since.Seconds() / exploreEvery.Seconds()
		l.lengthen(-faster * often * min(long*long, fastest))
	}
}

// lengthen makes a round longer by a part of it, or shorter if the part is negative.
func (l *Limiter) lengthen(part float64) {
	l.Period = min(l.Period+time.Duration(float64(l.Period)*part), maxPeriod)
}

// width returns how many calls may be in flight by the usage that the server reports: half of what
// seems to be left of the quota, so that few are refused. What is left is computed from the calls
// of this round. The server has counted at least these.
func (l *Limiter) width() int {
	if l.Usage < usageFrom {
		return l.limit
	}
	left := float64(l.OK) / l.Usage * (1 - l.Usage)
	return min(l.limit, max(1, int(left/2)))
}

// ramp returns how many calls may be in flight in a round that is not spread. With each call that
// goes through, one more may be. So a pause that was too short costs one refused call, and not all
// that may be in flight. After a short pause the usage counts, too, because the allowance may have
// been left over from a quiet time. After a longer one it counts when the quota is nearly used up,
// because processes that share nothing may have used what this one expects.
func (l *Limiter) ramp() int {
	if l.Pause >= shortPause && l.Usage < usageAim {
		return min(l.limit, 1+l.OK)
	}
	return min(l.width(), 1+l.OK)
}

// explore returns how many calls may be in flight when the allowance is used up: one, and one more
// for each call beyond the allowance that has gone through. What was learned in a short fault may
// be far below what the server allows. One call at a time would then outlast the fault by minutes.
// The usage bounds them, so that the end of the quota refuses few.
func (l *Limiter) explore() int { return min(l.width(), 1+max(0, l.OK-l.Allowance)) }

// Begin notes that a call begins, after Allow. End or Cancel must follow with the number it
// returns.
func (l *Limiter) Begin(now time.Time) (call int) {
	if l.Begun == 0 {
		l.Start, l.RoundEnd = now, now.Add(l.Period)
	}
	l.Begun++
	l.InFlight++
	l.Ages.rotate(l.Last, now)
	l.Ages.InFlight[0]++
	l.Last++
	return l.Last
}

// Cancel takes back a Begin: no call was made, or this process has cut it off.
func (l *Limiter) Cancel(call int) {
	l.InFlight--
	l.Ages.ended(call)
	if call >= l.First && l.Begun > 0 {
		l.Begun--
	}
}

// End notes how a call ended. usage is the part of the quota that is used, as the server reports
// it; 0 when it does not.
func (l *Limiter) End(call int, err error, usage float64, now time.Time) {
	l.InFlight--
	l.Ages.ended(call)
	if throttled(err) {
		l.refused(call, err, now)
		return
	}
	l.Unnamed, l.InVain = 0, 0
	if call < l.First && call >= l.Ended.First && !l.Ended.Judged {
		l.Ended.OK++ // it was in flight when the server ended the round
	}
	if call < l.First {
		return
	}
	l.Careful = false
	if usage >= l.Usage || call > l.UsageAt { // answers overtake each other
		l.Usage, l.UsageAt, l.Reports = usage, l.Last, l.Reports || usage > 0
	}
	l.OK++
	l.Confirmed = l.Confirmed || l.Allowance > 0 && l.OK >= l.Allowance
}

// refused learns from a throttled call.
func (l *Limiter) refused(call int, err error, now time.Time) {
	wait := After(err)
	named := wait > 0
	if !named && !now.Before(l.Hold) {
		wait = l.guess(call >= l.First)
	}
	if call >= l.First {
		if l.OK > 0 && l.muchLeft() {
			l.Reports = false // it did not report what led to this; the next report is believed again
		}
		if l.OK == 0 {
			l.InVain++
			if l.spread() && wait >= shortPause {
				// The server counts in windows after all, and this round is too short to learn from. Its
				// length followed the usage of a window that was nearly empty.
				l.Allowance, l.Confirmed = 0, false
			}
			if named {
				wait = l.patient(wait)
			}
		}
		if l.OK > 0 {
			l.Ended.First, l.Ended.OK, l.Ended.Judged = l.First, l.OK, false
			l.Ended.Start, l.Ended.End = l.Start, now
		}
		l.newRound()
	}
	if until := now.Add(wait); until.After(l.Hold) {
		from := now
		if l.Hold.After(now) {
			from = l.Hold
		}
		l.Pauses += until.Sub(from)
		l.Hold = until
	}
	if l.Reports {
		l.Usage, l.UsageAt = 1, l.Last // what was reported before is out of date
	}
	l.Careful, l.Throttled, l.HeldBack = true, now, now
}

// patient makes a pause longer after pauses that were in vain, twice as long each time. If the
// server counts refused calls, too, processes that do not know of each other and ask again in the
// same second would otherwise keep its count full forever.
func (l *Limiter) patient(wait time.Duration) time.Duration {
	if l.InVain < 2 {
		return wait
	}
	longer := wait << min(l.InVain-1, 10)
	longer += time.Duration(rand.Int64N(int64(longer)/4 + 1)) // not all at the same time
	return min(longer, wait+time.Duration(rand.Int64N(int64(maxUnasked)/2))+maxUnasked/2)
}

// guess returns how long to pause if the server does not say: twice as long each time. current says
// whether the refused call began after the last pause. Only such a call shows that the pause was
// too short.
func (l *Limiter) guess(current bool) time.Duration {
	if current {
		l.Unnamed = min(l.Unnamed+1, maxUnnamed)
	}
	waits := doubling(time.Second, maxUnasked, backoff.WithRandomizationFactor(0.1))
	for range l.Unnamed - 1 {
		waits.NextBackOff()
	}
	return waits.NextBackOff()
}

// judge learns what the server allows from the round that the server has ended. It does so when the
// pause after the round is over.
func (l *Limiter) judge() {
	if l.Ended.Judged {
		return
	}
	l.Ended.Judged = true
	n, before := l.Ended.OK, l.Allowance
	pause := l.Hold.Sub(l.Ended.End)
	switch {
	case l.spread() && pause < shortPause:
		// The number of its calls says nothing: they came one by one, as the server regains them,
		// but a little too fast.
		l.lengthen(slower)
		l.Short = false
		return
	case n < l.Allowance/2 && !l.Short:
		// A round that is much shorter is believed only the second time, because a sliding window
		// counts calls from before the round.
		l.Short = true
		return
	case l.Allowance > 0 && n >= l.Allowance:
		// Calls beyond the allowance may have been left over from a quiet time. A few more are
		// noise, and many more are believed in steps.
		if step := max(1, l.Allowance/8); n > l.Allowance+step {
			l.Allowance += step
		}
		l.Confirmed = true
	default:
		l.Allowance, l.Confirmed = n, false
	}
	l.Short = false
	// The round may have started long ago. Its period must still fit the server's pause.
	longest := max(2*pause, 2*exploreEvery)
	if n <= fewCalls {
		longest = max(2*pause, 2*shortPause)
	}
	period := min(l.Hold.Sub(l.Ended.Start), longest)
	if l.Pause >= shortPause && n >= before-before/8 && period < l.Period {
		return // slow calls came at the end of a sliding window, when its first calls no longer counted
	}
	l.Period, l.Pause = period, pause
}

func (l *Limiter) newRound() {
	l.First = l.Last + 1
	l.Begun, l.OK = 0, 0
}

// SetInFlight corrects how many calls are in flight. Processes that exchange a Limiter's state know
// the number better than the Limiter.
func (l *Limiter) SetInFlight(n int) { l.InFlight = n }

// MarshalJSON writes what the Limiter counts and has learned, for another process.
func (l *Limiter) MarshalJSON() ([]byte, error) { return json.Marshal(l.limiterMemory) }

// UnmarshalJSON replaces what the Limiter counts and has learned.
func (l *Limiter) UnmarshalJSON(text []byte) error {
	var m limiterMemory
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	l.limiterMemory = m
	return nil
}

// Plausible reports whether the Limiter can have learned by now what it knows. A store may have
// somebody else's data, or data from before a clock was set back. Its pauses and rounds would last
// too long, and its counts would never be right.
func (l *Limiter) Plausible(now time.Time) bool {
	const slack = time.Minute // by which clocks may differ
	for _, past := range []time.Time{l.Start, l.Ended.Start, l.Ended.End, l.Throttled, l.HeldBack, l.Ages.Since} {
		if past.Sub(now) > slack {
			return false
		}
	}
	for _, n := range []int{
		l.Unnamed, l.InVain, l.Last, l.First, l.Begun, l.OK, l.Ended.First, l.Ended.OK, l.Allowance, l.UsageAt,
		l.Ages.First[0], l.Ages.First[1], l.Ages.InFlight[0], l.Ages.InFlight[1],
	} {
		if n < 0 || n > math.MaxInt/2 {
			return false
		}
	}
	return l.Hold.Sub(now) <= MaxRetryAfter+slack && l.RoundEnd.Sub(now) <= maxPeriod+slack &&
		l.Pauses >= 0 && l.Period >= 0 && l.Period <= maxPeriod && l.Pause >= 0 && l.Pause <= maxPause &&
		l.Usage >= 0 && l.Unnamed <= maxUnnamed && l.First <= l.Last+1 && l.Ages.First[0] <= l.Last+1
}

// LimiterState is a picture of a Limiter.
type LimiterState struct {
	// PerSecond is how many calls per second the server allowed when it last asked for a pause;
	// +Inf when it never did.
	PerSecond float64
	// PausedUntil is when the pause that the server asked for ends. It is in the past if there is
	// no pause.
	PausedUntil time.Time
	// Pauses is the sum of all pauses that the server asked for.
	Pauses   time.Duration
	InFlight int
}

// State returns a picture of the Limiter.
func (l *Limiter) State() LimiterState {
	s := LimiterState{PerSecond: math.Inf(1), PausedUntil: l.Hold, Pauses: l.Pauses, InFlight: l.InFlight}
	if l.Allowance > 0 && l.Period > 0 {
		s.PerSecond = float64(l.Allowance) / l.Period.Seconds()
	}
	return s
}
