package retry

import (
	"time"

	"github.com/cenkalti/backoff/v4"
)

const (
	// suspectAfter is how many distinct users must fail in a row to raise suspicion: the fault may
	// be everyone's.
	suspectAfter = 3
	// halfOpenAtOnce is how many attempts a new process makes at once before it knows that Graph
	// answers.
	halfOpenAtOnce = 3
	// cautiousEvery is the time between two first attempts under suspicion after 5xx and timeouts:
	// 10 begin in a second. Each one that is answered allows two others at once, up to
	// cautiousAtOnce.
	cautiousEvery  = 100 * time.Millisecond
	cautiousAtOnce = 16
	// canarySoon is the pause after a canary that failed, and canaryLater the pause after one that
	// was well.
	canarySoon  = 5 * time.Second
	canaryLater = 30 * time.Second
	// openAfter is how many canaries in a row must fail to open the breaker.
	openAfter = 2
	// probeFirst is the first wait between two probes. The waits double up to probeMax. So an
	// outage costs Graph two attempts in 10 s, a canary and one for a user.
	probeFirst = time.Second
	probeMax   = 10 * time.Second
	// maxCautiousTries is how many users are tried cautiously while the breaker is open, in
	// addition to the probes. A canary can fail although Graph is well for users, and a user who
	// would succeed must not wait until all others who fail were probed. The bound limits what an
	// outage costs Graph.
	maxCautiousTries = 256
	// canary identifies the canary among users.
	canary = "\x00canary"
)

// CautiousTimeout bounds a first attempt under suspicion after 5xx and timeouts, and a canary.
const CautiousTimeout = 5 * time.Second

// Breaker is the circuit breaker: it stops attempts while none can succeed, and distinguishes that
// from users who fail for a reason of their own.
//
// While it is closed, attempts go on. If attempts for three distinct users in a row fail with
// Suspicious errors, without a success in between, suspicion arises: retries go one at a time,
// first attempts go on, and a canary is asked. A canary is an attempt for nobody, or for an account
// kept for it. If the canary is well, the fault is the users' own.
//
// The breaker opens when two canaries in a row fail, and at once after a Systemic failure or a
// Retry-After beyond MaxRetryAfter. While it is open, each probe by a canary is followed at once by
// a probe for a user who was not tried yet. Any success closes it. A canary that has failed
// meanwhile is not believed until it is well again. After a Systemic failure, any answer about a
// user closes the breaker.
//
// A new Breaker is half-open: the canary and a few users are tried at the same time, because an
// attempt that hangs says nothing. Suspicion slows it down, too: if each attempt fails at once,
// even a few at a time are thousands in a second.
//
// It is not safe for concurrent use: the owner must serialize all calls.
type Breaker struct {
	account bool // the canary is an account, so answers about other users do not replace it

	closed          bool
	cause           error     // the last failure while not closed; nil before the first attempt
	since           time.Time // when it opened
	nextProbe       time.Time // no probe begins before this time
	nextCanaryProbe time.Time // no probe by a canary begins before this time
	waits           *backoff.ExponentialBackOff
	probe           string // who is probed; "" for nobody
	canaryNext      bool   // the next probe is the canary's
	cautiousTries   int    // how many users were tried cautiously since it opened
	cautiousTry     bool   // the attempt that Allow has just allowed, or the probe in flight, is such a try

	whileHalfOpen map[string]struct{} // users with an attempt in flight while half-open

	failedUsers  map[string]bool // users who have failed since the last success
	down         bool            // one of them got a 5xx or no answer
	suspected    bool            // the fault may be everyone's
	nextCautious time.Time       // no first attempt begins before this time, apart from answered
	answered     int             // how many first attempts may begin at once because others were answered
	retrying     int             // retries in flight

	canaryInFlight bool      // a canary is in flight
	nextCanary     time.Time // no canary begins before this time
	canaryEnded    time.Time // when the last canary ended
	canaryWell     bool      // the last canary was well
	canariesFailed int       // how many canaries in a row failed
	distrustCanary bool      // a success has shown that the canary is wrong
	wantsProof     bool      // a canary that is an account must show whether Graph is well

	tried map[string]int // the number of each user's last try since the breaker opened
	tries int            // how many numbers were given out
}

// NewBreaker returns a half-open Breaker. account says whether the canary is an account kept for
// it. Such a canary is well only if its attempt succeeds. Otherwise the canary is an attempt for
// nobody, and the answer that a user does not exist proves as much as the canary does.
func NewBreaker(account bool) *Breaker {
	return &Breaker{
		account:       account,
		waits:         doubling(probeFirst, probeMax),
		whileHalfOpen: map[string]struct{}{},
		failedUsers:   map[string]bool{},
		tried:         map[string]int{},
	}
}

// Closed reports whether the breaker is closed: only suspicion delays attempts.
func (b *Breaker) Closed() bool { return b.closed }

// Open returns the time since which the breaker is open, and the failure that opened it. Both are
// zero if it is not open.
func (b *Breaker) Open() (since time.Time, cause error) {
	if !b.isOpen() {
		return time.Time{}, nil
	}
	return b.since, b.cause
}

// halfOpen reports whether nothing is known about Graph yet.
func (b *Breaker) halfOpen() bool { return !b.closed && b.cause == nil }

// isOpen reports whether the breaker is open.
func (b *Breaker) isOpen() bool { return !b.closed && b.cause != nil }

// Suspicion reports whether users fail one after the other while the breaker is closed. usersFault
// reports whether the fault is their own, because the canary is well.
func (b *Breaker) Suspicion() (suspected, usersFault bool) {
	return b.closed && b.suspected, b.canaryWell && (b.account || !b.down)
}

// Timeout returns a bound for the next attempt, in addition to its own timeout; 0 is no bound.
func (b *Breaker) Timeout(retry bool) time.Duration {
	if !b.isOpen() && b.suspected && b.down && !retry || b.isOpen() && b.cautiousTry {
		return CautiousTimeout
	}
	return 0
}

// Allow reports whether an attempt may begin. retry says whether it is a retry, or while the
// breaker is open, whether the user was tried since it opened. If the attempt may not begin, wait
// is the time until it is worth asking again; 0 means that an attempt must end first.
func (b *Breaker) Allow(retry bool, now time.Time) (wait time.Duration, ok bool) {
	switch {
	case b.halfOpen() && len(b.whileHalfOpen) >= halfOpenAtOnce:
		return 0, false
	case b.isOpen():
		return b.allowProbe(retry, now)
	case !b.suspected:
		return 0, true
	case retry:
		return 0, b.retrying == 0
	case (b.down || !b.canaryWell) && b.answered == 0:
		wait = max(0, b.nextCautious.Sub(now))
		return wait, wait == 0
	}
	return 0, true
}

// allowProbe reports whether a probe may begin. again says whether the user was tried since the
// breaker opened. Probes by a canary and probes for users alternate. Users who were not tried yet
// are also tried in between, as long as the fault may be the users' own or the canary's.
func (b *Breaker) allowProbe(again bool, now time.Time) (wait time.Duration, ok bool) {
	if b.probe != "" {
		return 0, false
	}
	if wait = max(0, b.nextProbe.Sub(now)); wait == 0 && !b.canaryNext {
		b.cautiousTry = false
		return 0, true
	}
	if again || b.cautiousTries >= maxCautiousTries || systemic(b.cause) || throttled(b.cause) {
		if b.canaryNext {
			wait = 0
		}
		return wait, false
	}
	wait = max(0, b.nextCautious.Sub(now))
	b.cautiousTry = wait == 0
	return wait, b.cautiousTry
}

// Tried returns the number of the user's last try since the breaker opened, or 0 if there was none.
// The tries of all users are numbered together. A probe should go to the user with the lowest
// number, so that one user's own fault is not taken for everyone's.
func (b *Breaker) Tried(user string) int { return b.tried[user] }

// Begin notes that an attempt begins, after Allow. End or Cancel must follow.
func (b *Breaker) Begin(user string, retry bool, now time.Time) {
	switch {
	case b.halfOpen():
		b.whileHalfOpen[user] = struct{}{}
	case !b.closed:
		b.probe = user
		if b.cautiousTry {
			b.cautiousTries++
		}
	}
	switch {
	case retry:
		b.retrying++
	case b.answered > 0:
		b.answered--
	default:
		b.nextCautious = now.Add(cautiousEvery)
	}
}

// Late notes that an attempt has had no answer for long, so that others do not wait for it. Its End
// or Cancel must then have retry false.
func (b *Breaker) Late(user string, retry bool) {
	delete(b.whileHalfOpen, user)
	if retry {
		b.retrying--
	}
}

// Cancel takes back a Begin: no attempt was made, or this process has cut it off.
func (b *Breaker) Cancel(user string, retry bool) {
	delete(b.whileHalfOpen, user)
	if b.probe == user {
		b.probe = ""
	}
	if retry {
		b.retrying--
	}
}

// End notes how an attempt ended; err is nil for success.
func (b *Breaker) End(user string, retry bool, err error, now time.Time) {
	wasProbe := b.probe == user
	b.Cancel(user, retry)
	if wasProbe && b.cautiousTry && suspicious(err) {
		b.try(user) // only probes decide, and this was a try in addition
		return
	}
	if !retry && (!suspicious(err) || forbids(err) && b.canaryWell) {
		// An answer about a user is no sign of everyone's fault, even if it is that the user does
		// not exist. After a few 5xx, thousands of unknown users must not slow others down.
		b.answered = min(b.answered+2, cautiousAtOnce)
	}
	switch after := After(err); {
	case err == nil:
		b.succeeded(wasProbe)
	case excused(err):
		return // the same user is tried again at once
	case throttled(err):
		if retryAfter(err) > MaxRetryAfter {
			b.open(err, now, after)
		}
	case systemic(err):
		b.try(user)
		if !b.isOpen() || wasProbe { // attempts that were in flight when it opened say nothing new
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
	case !b.account && (!b.isOpen() || wasProbe):
		b.close() // it is an answer about one user, so token and permission are good
	case wasProbe:
		b.try(user)
		if !b.cautiousTry {
			b.nextProbe = now.Add(b.waits.NextBackOff())
		}
	}
	if wasProbe && !b.cautiousTry {
		b.canaryNext = true
	}
}

// succeeded closes the breaker, unless the successful attempt began before the breaker opened.
func (b *Breaker) succeeded(wasProbe bool) {
	if b.isOpen() && !wasProbe {
		return
	}
	if !b.closed && b.canariesFailed > 0 {
		b.distrustCanary = true
	}
	b.canariesFailed = 0 // it counts canaries in a row, without a success in between
	clear(b.failedUsers)
	b.down, b.suspected = false, false
	b.close()
}

func (b *Breaker) close() {
	if b.closed {
		return
	}
	b.closed, b.cause, b.canaryNext, b.canariesFailed = true, nil, false, 0
	b.waits.Reset()
	clear(b.tried)
}

// mended reports whether err shows that a Systemic failure is over: Graph has answered about a user
// or the canary's account, so there are a token and a permission again.
func (b *Breaker) mended(err error) bool {
	answered := !suspicious(err) || forbids(err)
	return systemic(b.cause) && answered && !systemic(err) && !throttled(err) && !excused(err)
}

// suspect notes a failure, and raises suspicion if enough users have failed in a row.
func (b *Breaker) suspect(user string, err error, now time.Time) {
	if b.isOpen() {
		b.try(user)
		return
	}
	b.failedUsers[user] = true
	b.down = b.down || !forbids(err)
	if len(b.failedUsers) < suspectAfter {
		return
	}
	if !b.suspected {
		b.suspected, b.answered = true, 0
		// The result of a canary that ended less than canarySoon ago still counts until then.
		soon := b.canaryEnded.Add(canarySoon)
		b.canaryWell = b.canaryWell && now.Before(soon)
		if soon.Before(b.nextCanary) {
			b.nextCanary = soon
		}
	}
	if len(b.failedUsers) > 2*suspectAfter { // no more are needed, and there may be many
		clear(b.failedUsers)
		b.failedUsers[user], b.failedUsers[canary], b.failedUsers[""] = true, true, true
	}
}

// CanaryDue reports whether a canary must be asked now. waiting says whether somebody waits for a
// permit, and active whether any user has an undecided event. If no canary is due, wait is the time
// until it is worth asking again; 0 means that an attempt or a canary must end first.
func (b *Breaker) CanaryDue(waiting, active bool, now time.Time) (wait time.Duration, due bool) {
	switch {
	case b.canaryInFlight, b.closed && !b.suspected && !b.wantsProof, !b.isOpen() && !active:
		return 0, false
	case b.isOpen():
		if b.probe != "" || waiting && !b.canaryNext {
			return 0, false
		}
		if wait = b.nextProbe.Sub(now); b.nextCanaryProbe.After(b.nextProbe) {
			wait = b.nextCanaryProbe.Sub(now)
		}
	default:
		next := b.nextCanary
		if soon := b.canaryEnded.Add(canarySoon); b.wantsProof && b.canaryWell && soon.Before(next) {
			next = soon // so that a single failing user of a quiet tenant is decided in half a minute
		}
		wait = next.Sub(now)
	}
	return max(0, wait), wait <= 0
}

// WantProof notes that a user fails, and that no other user's success shows whether Graph is well.
// In a quiet tenant, a canary that is an account can show it. A canary for nobody proves nothing.
func (b *Breaker) WantProof() { b.wantsProof = b.account }

// NoCanary notes that there are no canaries, so that every probe is for a user.
func (b *Breaker) NoCanary() { b.canaryNext = false }

// CanaryBegin notes that a canary begins, after CanaryDue; CanaryEnd must follow. It returns the
// canary's timeout; 0 leaves it to the timeout of every attempt.
func (b *Breaker) CanaryBegin() (timeout time.Duration) {
	b.canaryInFlight = true
	if b.isOpen() {
		b.probe = canary
		return 0
	}
	return CautiousTimeout
}

// CanaryEnd notes how a canary ended; err is nil if it was well. A canary says nothing if it was
// throttled or this process has canceled it.
func (b *Breaker) CanaryEnd(err error, canceled bool, now time.Time) {
	wasProbe := b.probe == canary
	b.canaryInFlight, b.wantsProof = false, false
	if wasProbe {
		b.probe, b.canaryNext = "", false
	}
	after := After(err)
	b.canaryEnded, b.nextCanary = now, now.Add(max(canarySoon, after))
	switch {
	case canceled:
		if soon := now.Add(probeFirst); wasProbe && soon.After(b.nextProbe) {
			b.nextProbe = soon // another replica asks: do not try again at once, and again
		}
	case excused(err):
	case throttled(err):
		if wasProbe {
			b.nextProbe = now.Add(max(b.waits.NextBackOff(), after))
		}
	case err == nil:
		b.canaryWell, b.canariesFailed, b.distrustCanary = true, 0, false
		b.nextCanary = now.Add(canaryLater)
		if wasProbe || b.cause == nil { // a canary that began before it opened does not close it
			b.close()
		}
	case wasProbe && b.mended(err):
		b.canaryWell = false
		b.close()
	default:
		b.canaryWell = false
		b.canariesFailed++
		if wasProbe || systemic(err) || b.canariesFailed >= openAfter && !b.distrustCanary {
			wait := b.waits.NextBackOff()
			b.nextCanaryProbe = now.Add(wait)
			if wasProbe && !systemic(err) {
				wait = 0 // a user is probed at once, since the fault may be the canary's own
			}
			b.open(err, now, max(after, wait))
		}
	}
}

// try notes that the user was tried while the breaker is open.
func (b *Breaker) try(user string) {
	b.tries++
	b.tried[user] = b.tries
}

// open opens the breaker, or keeps it open. No probe begins until the wait is over.
func (b *Breaker) open(err error, now time.Time, wait time.Duration) {
	if !b.isOpen() {
		b.since = now
		b.canaryNext = b.canariesFailed == 0 // otherwise the canary has just answered
		for user := range b.failedUsers {
			b.try(user)
		}
		clear(b.failedUsers)
		clear(b.whileHalfOpen)
		b.suspected, b.down = false, false
		b.cautiousTries, b.cautiousTry = 0, false
	}
	b.closed, b.cause = false, err
	b.nextProbe = now.Add(wait)
}

// Forget forgets a user who no longer waits and has no attempt in flight.
func (b *Breaker) Forget(user string) { delete(b.tried, user) }
