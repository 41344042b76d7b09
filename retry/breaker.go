package retry

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// suspectAfter is for how many distinct users attempts must fail in a row until the fault may be everyone's.
	suspectAfter = 3
	// entrants is how many attempts a new process makes at once before it knows that Graph answers.
	entrants = 3
	// cautiousEvery is how often first attempts begin after 5xx and timeouts: 10 a second. Those that are answered let others follow at once,
	// up to cautiousAtOnce.
	cautiousEvery  = 100 * time.Millisecond
	cautiousAtOnce = 16
	// canarySoon and canaryLater are the pauses between two canaries: after one that failed, and after one that was well.
	canarySoon  = 5 * time.Second
	canaryLater = 30 * time.Second
	// openAfter is how many canaries in a row must fail until the breaker opens.
	openAfter = 2
	// probeFirst and probeMax bound the wait between two probes, which doubles: an outage costs Graph two attempts in 10 s, a canary and
	// a user's.
	probeFirst = time.Second
	probeMax   = 10 * time.Second
	// soonAtMost is how many users are tried cautiously while it is open, beside the probes: a canary may lie, and whoever would succeed
	// must not wait for the probes of all who fail. It is what an outage costs Graph beside them.
	soonAtMost = 256
	// canary stands for the canary where users are named.
	canary = "\x00canary"
)

// CautiousTimeout bounds a first attempt after 5xx and timeouts, and a canary: neither waits long.
const CautiousTimeout = 5 * time.Second

// Breaker is the circuit breaker: it stops attempts while nothing can succeed, and tells that from users who fail for a
// reason of their own.
//
// It is closed while attempts go on. Three distinct users that fail in a row with Suspicious failures, without a success
// in between, raise suspicion: retries then go one at a time, first attempts go on, and a canary is asked, an attempt for
// nobody or for an account kept for it. While it is well the trouble is the users'. Two canaries in a row that fail open the
// breaker; so do a Systemic failure and a Retry-After beyond MaxRetryAfter, at once. While it is open, the canary and, right after it, a user
// who was not tried yet are probed. Any success closes it, and discredits a canary that says otherwise until that
// answers well again. After a Systemic failure any answer about a user closes it.
//
// A new Breaker is half-open: a few users and the canary are tried side by side, since one that hangs tells nothing. Suspicion
// slows it down like a closed one: where each attempt fails at once, a few side by side are thousands in a second.
//
// It is not safe for concurrent use: whoever lets attempts begin owns it.
type Breaker struct {
	account bool // the canary is an account: then answers about other users do not stand for it

	closed bool
	cause  error     // of the last failure while not closed; nil before the first attempt
	since  time.Time // when it opened
	next   time.Time // no probe before
	later  time.Time // no probe by a canary before
	waits  *backoff.ExponentialBackOff
	probe  string // who is probed, "" for nobody
	turn   bool   // the next probe is the canary's
	soon   int    // users tried cautiously since it opened
	extra  bool   // the attempt that Allow has allowed last, or the probe, is one of them

	entering map[string]struct{} // attempts in flight while half-open

	// row are the users that have failed since the last success; down says that one of them met a 5xx or no answer.
	row  map[string]bool
	down bool
	// suspected says that the fault may be everyone's.
	suspected bool
	cautious  time.Time // no first attempt before, but for answered
	answered  int       // how many first attempts may begin at once, because others were answered
	retrying  int       // retries in flight

	asked    bool      // a canary is in flight
	askNext  time.Time // no canary before
	askedAt  time.Time // the last one
	well     bool      // it was well
	failed   int       // canaries in a row that were not
	distrust bool      // a success has shown that the canary is wrong
	proof    bool      // somebody's failure counts only if an account's canary is well

	tried map[string]int // when each user was last tried since it opened, by count
	tries int
}

// NewBreaker returns a half-open Breaker. account says that the canary is an account kept for it, for which only success is
// well; otherwise it is nobody, and Graph's word that it does not know a user says as much as the canary does.
func NewBreaker(account bool) *Breaker {
	return &Breaker{
		account:  account,
		waits:    doubling(probeFirst, probeMax),
		entering: map[string]struct{}{},
		row:      map[string]bool{},
		tried:    map[string]int{},
	}
}

// Closed says that first attempts are not held back but for suspicion.
func (b *Breaker) Closed() bool { return b.closed }

// Open says since when attempts are held back, and by which failure. The time is zero when they are not, or when no attempt
// has failed yet.
func (b *Breaker) Open() (since time.Time, cause error) {
	if !b.holds() {
		return time.Time{}, nil
	}
	return b.since, b.cause
}

// halfOpen says that nothing is known of Graph yet.
func (b *Breaker) halfOpen() bool { return !b.closed && b.cause == nil }

// holds says that attempts are held back: it is open.
func (b *Breaker) holds() bool { return !b.closed && b.cause != nil }

// Suspicion says that users fail one after the other while the breaker is closed, and whose trouble it is as far as the
// canary can tell: users says that it is well.
func (b *Breaker) Suspicion() (suspected, users bool) {
	return b.closed && b.suspected, b.well && (b.account || !b.down)
}

// Timeout bounds the next attempt beside its own timeout; 0 does not.
func (b *Breaker) Timeout(retry bool) time.Duration {
	if !b.holds() && b.suspected && b.down && !retry || b.holds() && b.extra {
		return CautiousTimeout
	}
	return 0
}

// Allow says whether an attempt may begin: the first of a user, or a retry; while it is open, of somebody who was not tried since then, or who
// was. If not, wait is how long until it is worth asking again; 0 means when an attempt has ended.
func (b *Breaker) Allow(retry bool, now time.Time) (wait time.Duration, ok bool) {
	switch {
	case b.halfOpen() && len(b.entering) >= entrants:
		return 0, false
	case b.holds():
		return b.allowProbe(retry, now)
	case !b.suspected:
		return 0, true
	case retry:
		return 0, b.retrying == 0
	case (b.down || !b.well) && b.answered == 0:
		wait = max(0, b.cautious.Sub(now))
		return wait, wait == 0
	}
	return 0, true
}

// allowProbe says whether a probe may begin, of somebody who was not tried yet since it opened unless again. The canary and users are probed in
// turn; those who were not tried yet also in between, while the fault may be the users' and the canary's.
func (b *Breaker) allowProbe(again bool, now time.Time) (wait time.Duration, ok bool) {
	if b.probe != "" {
		return 0, false
	}
	if wait = max(0, b.next.Sub(now)); wait == 0 && !b.turn {
		b.extra = false
		return 0, true
	}
	if again || b.soon >= soonAtMost || systemic(b.cause) || throttled(b.cause) {
		if b.turn {
			wait = 0
		}
		return wait, false
	}
	wait = max(0, b.cautious.Sub(now))
	b.extra = wait == 0
	return wait, b.extra
}

// Tried is 0 for a user whose attempt was not tried since the breaker opened, and grows with each try of any user: a probe
// should go to the lowest. One user's own trouble must not be taken for everyone's.
func (b *Breaker) Tried(user string) int { return b.tried[user] }

// Begin tells of an attempt that begins, after Allow.
func (b *Breaker) Begin(user string, retry bool, now time.Time) {
	switch {
	case b.halfOpen():
		b.entering[user] = struct{}{}
	case !b.closed:
		b.probe = user
		if b.extra {
			b.soon++
		}
	}
	switch {
	case retry:
		b.retrying++
	case b.answered > 0:
		b.answered--
	default:
		b.cautious = now.Add(cautiousEvery)
	}
}

// Late says that an attempt has not been answered for long: it tells nothing, and others need not wait for it. Its End or
// Cancel comes with retry false.
func (b *Breaker) Late(user string, retry bool) {
	delete(b.entering, user)
	if retry {
		b.retrying--
	}
}

// Cancel takes a Begin back: no attempt was made, or it was cut off by ourselves.
func (b *Breaker) Cancel(user string, retry bool) {
	delete(b.entering, user)
	if b.probe == user {
		b.probe = ""
	}
	if retry {
		b.retrying--
	}
}

// End tells how an attempt ended; err is nil for success.
func (b *Breaker) End(user string, retry bool, err error, now time.Time) {
	wasProbe := b.probe == user
	b.Cancel(user, retry)
	if wasProbe && b.extra && suspicious(err) {
		b.try(user) // others were, and will be
		return
	}
	if !retry && (!suspicious(err) || forbids(err) && b.well) {
		// What is answered about a user, even that there is no such user, is no sign of a fault of everyone's: thousands of unknown users
		// must not hold up others, because a few met a 5xx.
		b.answered = min(b.answered+2, cautiousAtOnce)
	}
	switch after := After(err); {
	case err == nil:
		b.succeeded(wasProbe)
	case excused(err):
		return // the same user again, at once
	case throttled(err):
		if retryAfter(err) > MaxRetryAfter {
			b.open(err, now, after)
		}
	case systemic(err):
		b.try(user)
		if !b.holds() || wasProbe { // those that were in flight when it opened say nothing new
			b.open(err, now, max(after, b.waits.NextBackOff()))
		}
	case wasProbe && b.mended(err):
		b.close()
		if suspicious(err) {
			b.suspect(user, err, now)
		}
	case suspicious(err):
		b.suspect(user, err, now)
		if wasProbe {
			b.open(err, now, max(after, b.waits.NextBackOff()))
		}
	case !b.account && (!b.holds() || wasProbe):
		b.close() // an answer about one user: token and permission are good
	case wasProbe:
		b.try(user)
		if !b.extra {
			b.next = now.Add(b.waits.NextBackOff())
		}
	}
	if wasProbe && !b.extra {
		b.turn = true
	}
}

// succeeded closes the breaker. A success that began before it opened does not.
func (b *Breaker) succeeded(wasProbe bool) {
	if b.holds() && !wasProbe {
		return
	}
	if !b.closed && b.failed > 0 {
		b.distrust = true
	}
	b.failed = 0 // canaries in a row, with no success in between
	clear(b.row)
	b.down, b.suspected = false, false
	b.close()
}

func (b *Breaker) close() {
	if b.closed {
		return
	}
	b.closed, b.cause, b.turn, b.failed = true, nil, false, 0
	b.waits.Reset()
	clear(b.tried)
}

// mended says that Graph has answered about a user, or about the canary's account, after there was no token or no permission: whatever
// it said, there is one again.
func (b *Breaker) mended(err error) bool {
	answered := !suspicious(err) || forbids(err)
	return systemic(b.cause) && answered && !systemic(err) && !throttled(err) && !excused(err)
}

// suspect adds to the failures in a row.
func (b *Breaker) suspect(user string, err error, now time.Time) {
	if b.holds() {
		b.try(user)
		return
	}
	b.row[user] = true
	b.down = b.down || !forbids(err)
	if len(b.row) < suspectAfter {
		return
	}
	if !b.suspected {
		b.suspected, b.answered = true, 0
		// A canary that has just been asked still tells; soon it must be asked again.
		soon := b.askedAt.Add(canarySoon)
		b.well = b.well && now.Before(soon)
		if soon.Before(b.askNext) {
			b.askNext = soon
		}
	}
	if len(b.row) > 2*suspectAfter { // more are not needed, and may be many
		clear(b.row)
		b.row[user], b.row[canary], b.row[""] = true, true, true
	}
}

// CanaryDue says whether a canary is to be asked now. waiting is whether somebody waits for a permit, active whether anybody
// is in flight at all. If not, wait is when to look again, 0 when an attempt or a canary has ended.
func (b *Breaker) CanaryDue(waiting, active bool, now time.Time) (wait time.Duration, due bool) {
	switch {
	case b.asked, b.closed && !b.suspected && !b.proof, !b.holds() && !active:
		return 0, false
	case b.holds():
		if b.probe != "" || waiting && !b.turn {
			return 0, false
		}
		if wait = b.next.Sub(now); b.later.After(b.next) {
			wait = b.later.Sub(now)
		}
	default:
		next := b.askNext
		if soon := b.askedAt.Add(canarySoon); b.proof && b.well && soon.Before(next) {
			next = soon // who alone fails in a quiet tenant is decided in half a minute, not in minutes
		}
		wait = next.Sub(now)
	}
	return max(0, wait), wait <= 0
}

// WantProof says that somebody fails, and that nobody else's success tells whether Graph is well: in a quiet tenant an
// account's canary does. A canary for nobody proves nothing.
func (b *Breaker) WantProof() { b.proof = b.account }

// NoCanary says that nobody asks canaries: then every probe is a user's.
func (b *Breaker) NoCanary() { b.turn = false }

// CanaryBegin tells of a canary that begins, after CanaryDue. Its timeout is returned, 0 for that of every attempt.
func (b *Breaker) CanaryBegin() (timeout time.Duration) {
	b.asked = true
	if b.holds() {
		b.probe = canary
		return 0
	}
	return CautiousTimeout
}

// CanaryEnd tells how a canary ended; err is nil when it was well, and is no verdict when it is throttled or canceled says
// that we cut it off ourselves.
func (b *Breaker) CanaryEnd(err error, canceled bool, now time.Time) {
	wasProbe := b.probe == canary
	b.asked, b.proof = false, false
	if wasProbe {
		b.probe, b.turn = "", false
	}
	after := After(err)
	b.askedAt, b.askNext = now, now.Add(max(canarySoon, after))
	switch {
	case canceled:
		if soon := now.Add(probeFirst); wasProbe && soon.After(b.next) {
			b.next = soon // another replica asks: the next one must not be asked for at once, again and again
		}
	case excused(err):
	case throttled(err):
		if wasProbe {
			b.next = now.Add(max(b.waits.NextBackOff(), after))
		}
	case err == nil:
		b.well, b.failed, b.distrust = true, 0, false
		b.askNext = now.Add(canaryLater)
		if wasProbe || b.cause == nil { // one that began before it opened does not close it
			b.close()
		}
	case wasProbe && b.mended(err):
		b.well = false
		b.close()
	default:
		b.well = false
		b.failed++
		if wasProbe || systemic(err) || b.failed >= openAfter && !b.distrust {
			wait := b.waits.NextBackOff()
			b.later = now.Add(wait)
			if wasProbe && !systemic(err) {
				wait = 0 // a user follows at once: what the canary meets may be its own trouble
			}
			b.open(err, now, max(after, wait))
		}
	}
}

func (b *Breaker) try(user string) {
	b.tries++
	b.tried[user] = b.tries
}

func (b *Breaker) open(err error, now time.Time, wait time.Duration) {
	if !b.holds() {
		b.since = now
		b.turn = b.failed == 0 // otherwise the canary has just spoken
		for user := range b.row {
			b.try(user)
		}
		clear(b.row)
		clear(b.entering)
		b.suspected, b.down = false, false
		b.soon, b.extra = 0, false
	}
	b.closed, b.cause = false, err
	b.next = now.Add(wait)
}

// Forget drops what is known of a user who is not in flight any more.
func (b *Breaker) Forget(user string) { delete(b.tried, user) }
