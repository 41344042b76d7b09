package retry_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/retry"
)

var midnight = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// These are the failures that a breaker distinguishes.
var (
	refused = failure{shared: true, suspicious: true, most: 2} // a 403
	down    = failure{shared: true, suspicious: true}          // a 503, or no answer
	unknown = failure{lagging: true}                           // a 404
)

// closed returns a breaker after its first success.
func closed(account bool) *retry.Breaker {
	b := retry.NewBreaker(account)
	try(b, "first", false, nil, midnight)
	return b
}

// try makes an attempt.
func try(b *retry.Breaker, user string, again bool, err error, now time.Time) {
	b.Begin(user, again, now)
	b.End(user, again, err, now)
}

// suspected returns a breaker after three users have failed in a row.
func suspected(account bool, err error) *retry.Breaker {
	b := closed(account)
	for _, user := range []string{"ada", "grace", "alan"} {
		try(b, user, false, err, midnight)
	}
	return b
}

// ask asks a canary.
func ask(b *retry.Breaker, err error, now time.Time) {
	b.CanaryBegin()
	b.CanaryEnd(err, false, now)
}

// opened returns a breaker that two canaries have opened.
func opened(t *testing.T, account bool) *retry.Breaker {
	t.Helper()
	b := suspected(account, down)
	ask(b, down, midnight)
	ask(b, down, midnight)
	if _, cause := b.Open(); cause == nil {
		t.Fatal("not open after two canaries that failed")
	}
	return b
}

func TestBreakerTriesAFewUsersAndTheCanarySideBySideWhenNew(t *testing.T) {
	b := retry.NewBreaker(false)
	for i := range 3 {
		if _, ok := b.Allow(false, midnight); !ok {
			t.Fatalf("user %d must not begin", i)
		}
		b.Begin(fmt.Sprint(i), false, midnight)
	}
	if _, ok := b.Allow(false, midnight); ok || b.Closed() {
		t.Error("more than a few begin before anything is known")
	}
	if _, due := b.CanaryDue(true, true, midnight); !due {
		t.Error("no canary beside them")
	}
	ask(b, nil, midnight)
	if _, ok := b.Allow(false, midnight); !ok || !b.Closed() {
		t.Error("although the canary is well, users that hang delay everybody")
	}
	if _, due := retry.NewBreaker(false).CanaryDue(false, false, midnight); due {
		t.Error("a canary although no user is in flight")
	}
}

func TestBreakerUsersThatHangAtTheStartDoNotHoldUpOthers(t *testing.T) {
	b := retry.NewBreaker(false)
	for i := range 3 {
		b.Begin(fmt.Sprint(i), false, midnight)
		b.Late(fmt.Sprint(i), false)
	}
	if _, ok := b.Allow(false, midnight); !ok {
		t.Error("delayed by users without an answer")
	}
}

// If connections break at once, three concurrent attempts would become a thousand in a second. Each
// of these users may have been signed out, so the volume guard would trip before the second canary.
func TestBreakerGoesSlowlyWhenUsersFailAtOnceAtTheStart(t *testing.T) {
	b := retry.NewBreaker(false)
	ask(b, down, midnight)
	now, began := midnight, 0
	for range 4 * 1000 { // 4 seconds
		now = now.Add(time.Millisecond)
		if _, ok := b.Allow(false, now); ok {
			try(b, fmt.Sprint(began), false, down, now)
			began++
		}
	}
	if began < 30 || began > 45 {
		t.Errorf("%d attempts in 4 s, want 10 in a second", began)
	}
	if got := b.Timeout(false); got != retry.CautiousTimeout {
		t.Errorf("a timeout of %v", got)
	}
	now = midnight.Add(5 * time.Second)
	if _, due := b.CanaryDue(true, true, now); !due {
		t.Fatal("no second canary")
	}
	ask(b, down, now)
	if _, cause := b.Open(); cause == nil {
		t.Error("not open after two canaries that failed")
	}
}

func TestBreakerSuspectsAfterThreeDistinctUsersInARow(t *testing.T) {
	b := closed(false)
	for range 20 {
		try(b, "ada", true, down, midnight)
	}
	try(b, "grace", false, down, midnight)
	if suspicious, _ := b.Suspicion(); suspicious {
		t.Fatal("two users raise suspicion")
	}
	try(b, "alan", false, nil, midnight)
	try(b, "edsger", false, down, midnight)
	try(b, "edgar", false, unknown, midnight) // it is neutral
	try(b, "barbara", false, down, midnight)
	if suspicious, _ := b.Suspicion(); suspicious {
		t.Fatal("suspected although an attempt succeeded in between")
	}
	try(b, "tony", false, down, midnight)
	if suspicious, users := b.Suspicion(); !suspicious || users || !b.Closed() {
		t.Errorf("suspected %v, of the users %v, closed %v", suspicious, users, b.Closed())
	}
	try(b, "ole", false, nil, midnight)
	if suspicious, _ := b.Suspicion(); suspicious {
		t.Error("a success has not ended the suspicion")
	}
}

func TestBreakerUnderSuspicionAllowsSingleRetriesAndFirstAttempts(t *testing.T) {
	for name, c := range map[string]struct {
		err      error
		canary   error
		perTenth int // first attempts that begin in 100 ms
		timeout  time.Duration
	}{
		"403s, and the canary is well":        {refused, nil, 50, 0},
		"403s, and the canary has failed":     {refused, refused, 1, 0},
		"no answers, and the canary is well":  {down, nil, 1, retry.CautiousTimeout},
		"503s, and the canary has failed too": {down, down, 1, retry.CautiousTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			b := suspected(false, c.err)
			if _, due := b.CanaryDue(true, true, midnight); !due {
				t.Fatal("no canary")
			}
			now := midnight.Add(time.Second)
			ask(b, c.canary, now)
			if _, ok := b.Allow(true, now); !ok {
				t.Fatal("not one retry")
			}
			b.Begin("again", true, now)
			if _, ok := b.Allow(true, now); ok {
				t.Error("two retries at once")
			}
			b.Late("again", true)
			if _, ok := b.Allow(true, now); !ok {
				t.Error("a retry that hangs delays the others")
			}
			began := 0
			for i := range 50 {
				if _, ok := b.Allow(false, now); ok {
					b.Begin(fmt.Sprint("user", i), false, now)
					began++
				}
			}
			if began != c.perTenth || b.Timeout(false) != c.timeout || b.Timeout(true) != 0 {
				t.Errorf("%d first attempts at once with a timeout of %v, want %d and %v", began, b.Timeout(false), c.perTenth, c.timeout)
			}
			if wait, ok := b.Allow(false, now); !ok && (wait <= 0 || wait > 100*time.Millisecond) {
				t.Errorf("the next first attempt in %v", wait)
			}
		})
	}
}

func TestBreakerOpensOnlyAfterTwoCanariesInARow(t *testing.T) {
	b := suspected(false, down)
	now := midnight
	ask(b, down, now)
	ask(b, throttling{time.Second}, now) // no verdict
	b.CanaryBegin()
	b.CanaryEnd(down, true, now) // this process has cut it off
	if !b.Closed() {
		t.Fatal("opened by one canary")
	}
	ask(b, nil, now)
	ask(b, down, now)
	if !b.Closed() {
		t.Fatal("opened although one was well in between")
	}
	ask(b, down, now)
	if b.Closed() {
		t.Error("not opened by two in a row")
	}
}

func TestBreakerAsksCanariesRarely(t *testing.T) {
	b := suspected(false, refused)
	now, asked := midnight, 0
	for range 10 * 60 * 5 { // 5 minutes
		if _, due := b.CanaryDue(true, true, now); due {
			asked++
			ask(b, nil, now)
		}
		now = now.Add(100 * time.Millisecond)
	}
	if asked < 10 || asked > 11 {
		t.Errorf("%d canaries in 5 minutes of suspicion, want one in 30 s", asked)
	}
	try(b, "ole", false, nil, now)
	if _, due := b.CanaryDue(true, true, now.Add(time.Hour)); due {
		t.Error("a canary without a suspicion")
	}
}

func TestBreakerAsksForProofSoon(t *testing.T) {
	b := closed(true)
	b.WantProof()
	ask(b, nil, midnight)
	if _, due := b.CanaryDue(false, true, midnight.Add(time.Minute)); due {
		t.Error("a canary although nobody needs proof")
	}
	b.WantProof()
	if wait, due := b.CanaryDue(false, true, midnight.Add(time.Second)); due || wait != 4*time.Second {
		t.Errorf("due %v, else in %v; want one 5 s after the last", due, wait)
	}
	if _, due := b.CanaryDue(false, true, midnight.Add(5*time.Second)); !due {
		t.Error("not due after 5 s, so a user who alone fails waits for minutes")
	}
}

func TestBreakerOpensAtOnceWhenNobodyCanSucceed(t *testing.T) {
	for name, err := range map[string]error{
		"no permission":         failure{systemic: true},
		"a Retry-After of days": throttling{48 * time.Hour},
		"no token":              failure{systemic: true, after: time.Minute},
	} {
		b := closed(false)
		try(b, "ada", false, err, midnight)
		if _, ok := b.Allow(false, midnight); ok || b.Closed() {
			t.Errorf("%s: allowed %v, closed %v", name, ok, b.Closed())
		}
		wait, due := b.CanaryDue(true, true, midnight)
		if due || wait <= 0 || wait > retry.MaxRetryAfter {
			t.Errorf("%s: a canary is due: %v, in %v", name, due, wait)
		}
	}
	b := closed(false)
	try(b, "ada", false, throttling{time.Minute}, midnight)
	if !b.Closed() {
		t.Error("opened by an ordinary 429, which only the rate limiter handles")
	}
}

func TestBreakerProbesCanaryAndUntriedUsersInTurnWhileOpen(t *testing.T) {
	b := opened(t, false)
	if b.Tried("tony") != 0 || b.Tried("alan") == 0 {
		t.Error("the probe should go to a user who did not fail")
	}
	now := midnight
	var order []string
	var last time.Duration
	for len(order) < 12 {
		if wait, ok := b.Allow(true, now); ok {
			order = append(order, "user")
			try(b, fmt.Sprint(len(order)), false, down, now)
			continue
		} else if wait > 0 {
			last = wait
		}
		if wait, due := b.CanaryDue(true, true, now); due {
			order = append(order, "canary")
			ask(b, down, now)
			continue
		} else if wait > 0 {
			last = wait
		}
		now = now.Add(max(last, time.Millisecond))
	}
	for i, probe := range order {
		if want := []string{"user", "canary"}[i%2]; probe != want {
			t.Fatalf("probes %v, want users and canaries in turn", order)
		}
	}
	if last > 15*time.Second {
		t.Errorf("%v between probes: after the outage a stolen device waits as long", last)
	}
}

// A canary may fail although attempts for users would succeed, and many users who fail may wait
// before one who would succeed. The breaker therefore allows a limited number of attempts for users
// who were not tried yet, in addition to the probes.
func TestBreakerTriesUntriedUsersSoonWhileOpen(t *testing.T) {
	b := opened(t, true)
	now := midnight
	tried, canaries := 0, 0
	for ; now.Before(midnight.Add(time.Minute)); now = now.Add(50 * time.Millisecond) {
		if _, due := b.CanaryDue(true, true, now); due {
			canaries++
			ask(b, unknown, now) // the account was deleted
		}
		if _, ok := b.Allow(false, now); ok {
			tried++
			try(b, fmt.Sprint("fails", tried), false, refused, now)
		}
		if tried == 200 {
			break
		}
	}
	if took := now.Sub(midnight); tried < 200 || took > 30*time.Second || canaries == 0 {
		t.Errorf("%d users and %d canaries were tried within %s", tried, canaries, took)
	}
	if _, cause := b.Open(); cause == nil {
		t.Fatal("closed by failures")
	}
	now = now.Add(time.Second)
	if _, ok := b.Allow(true, now); ok {
		t.Error("a user who was tried before is tried as soon")
	}
	if _, ok := b.Allow(false, now); !ok || b.Timeout(false) != retry.CautiousTimeout {
		t.Error("not tried soon, with a short timeout")
	}
	try(b, "tony", false, nil, now)
	if !b.Closed() {
		t.Error("not closed by a success")
	}
	// The number of these attempts is bounded.
	b = opened(t, true)
	now, tried = midnight, 0
	for ; now.Before(midnight.Add(2 * time.Minute)); now = now.Add(100 * time.Millisecond) {
		if _, ok := b.Allow(false, now); ok {
			tried++
			try(b, fmt.Sprint("fails", tried), false, down, now)
		}
		if _, due := b.CanaryDue(true, true, now); due {
			ask(b, down, now)
		}
	}
	if tried < 256 || tried > 300 {
		t.Errorf("%d attempts in two minutes of an outage", tried)
	}
	// Without a token no attempt can succeed.
	b = closed(true)
	try(b, "ada", false, failure{systemic: true}, midnight)
	if _, ok := b.Allow(false, midnight.Add(200*time.Millisecond)); ok {
		t.Error("tried soon without a token")
	}
}

func TestBreakerIsClosedByTheCanaryWhenNobodyWaits(t *testing.T) {
	b := opened(t, true)
	now := midnight.Add(time.Minute)
	if _, due := b.CanaryDue(false, false, now); !due {
		t.Fatal("no canary, so the breaker stays open until the next message")
	}
	ask(b, nil, now)
	if !b.Closed() {
		t.Error("not closed by a canary that is well")
	}
}

func TestBreakerIsClosedByASuccessWhichDiscreditsTheCanary(t *testing.T) {
	b := opened(t, true)
	now := midnight.Add(time.Minute)
	if _, ok := b.Allow(false, now); !ok {
		t.Fatal("no probe")
	}
	try(b, "tony", false, nil, now)
	if !b.Closed() || b.Tried("alan") != 0 {
		t.Fatal("not closed by a success")
	}
	for _, user := range []string{"ada", "grace", "alan"} {
		try(b, user, false, refused, now)
	}
	for range 5 {
		ask(b, down, now)
	}
	if !b.Closed() {
		t.Fatal("a canary that was shown to be wrong is believed")
	}
	ask(b, nil, now)
	ask(b, down, now)
	ask(b, down, now)
	if b.Closed() {
		t.Error("a canary that was well again is not believed")
	}
}

// The canary's account may be deleted. Then users wait for the probes of other users, but not for
// those of the canary as well. The canary is not asked more often than otherwise.
func TestBreakerProbesAUserRightAfterTheCanary(t *testing.T) {
	b := opened(t, true)
	now, users, canaries := midnight, 0, 0
	for range 600 * 10 { // 10 minutes
		now = now.Add(100 * time.Millisecond)
		if _, due := b.CanaryDue(true, true, now); due {
			ask(b, down, now)
			canaries++
			if wait, ok := b.Allow(true, now); !ok {
				t.Fatalf("a user waits for %s after the canary", wait)
			}
		}
		if _, ok := b.Allow(true, now); ok {
			try(b, fmt.Sprint(users), true, down, now)
			users++
		}
	}
	if canaries < 40 || canaries > 80 || users < canaries-1 || users > canaries+1 {
		t.Errorf("%d canaries and %d users in 10 minutes, want one of each in 10 s", canaries, users)
	}
	alone := 0
	for range 600 * 10 {
		now = now.Add(100 * time.Millisecond)
		if _, due := b.CanaryDue(false, false, now); due {
			ask(b, down, now)
			alone++
		}
	}
	if alone < 40 || alone > 80 {
		t.Errorf("%d canaries in 10 minutes while nobody waits", alone)
	}
}

// A canary for nobody shows that the token and the permission are valid. So does Graph's answer
// that it does not know a user.
func TestBreakerTakesAnAnswerAboutOneUserForACanaryForNobody(t *testing.T) {
	b := opened(t, false)
	try(b, "tony", false, unknown, midnight.Add(time.Minute))
	if !b.Closed() {
		t.Error("not closed by a 404 from Graph itself")
	}
	b = opened(t, true)
	try(b, "tony", false, unknown, midnight.Add(time.Minute))
	if b.Closed() {
		t.Error("closed by a 404 although the canary is an account")
	}
}

// Any answer of Graph about a user, or about the account of the canary, shows that the worker has a
// token and the permission again.
func TestBreakerWithoutTokenOrPermissionIsClosedByAnyAnswer(t *testing.T) {
	own := failure{} // value: false
	for name, err := range map[string]error{"unknown": unknown, "refused": refused, "value: false": own} {
		for _, account := range []bool{false, true} {
			b := closed(account)
			try(b, "ada", false, failure{systemic: true}, midnight)
			try(b, "tony", false, err, midnight.Add(time.Minute))
			if !b.Closed() {
				t.Errorf("%s, account %v: not closed by a user's answer", name, account)
			}
			b = closed(account)
			try(b, "ada", false, failure{systemic: true}, midnight)
			ask(b, err, midnight.Add(time.Minute))
			if !b.Closed() {
				t.Errorf("%s, account %v: not closed by the canary's answer", name, account)
			}
		}
	}
	for name, err := range map[string]error{"a 503": down, "still no token": failure{systemic: true}, "a 429": throttling{time.Second}} {
		b := closed(true)
		try(b, "ada", false, failure{systemic: true}, midnight)
		try(b, "tony", false, err, midnight.Add(time.Minute))
		ask(b, err, midnight.Add(2*time.Minute))
		if b.Closed() {
			t.Errorf("closed by %s", name)
		}
	}
}

func TestBreakerUnderSuspicionAsksACanaryAlthoughOneWasWellAMomentAgo(t *testing.T) {
	b := retry.NewBreaker(false)
	ask(b, nil, midnight) // at the start
	now := midnight.Add(time.Second)
	for _, user := range []string{"ada", "grace", "alan"} {
		try(b, user, false, refused, now)
	}
	wait, due := b.CanaryDue(true, true, now)
	if due || wait > 5*time.Second {
		t.Fatalf("the next canary is due %v in %s: it must not follow at once, and first attempts go slowly until it is well", due, wait)
	}
	if _, due := b.CanaryDue(true, true, now.Add(wait)); !due {
		t.Fatal("not due then")
	}
	ask(b, nil, now.Add(wait))
	if _, users := b.Suspicion(); !users {
		t.Error("the fault is not the users' own although the canary is well")
	}
	if wait, _ := b.CanaryDue(true, true, now.Add(wait)); wait != 30*time.Second {
		t.Errorf("the canary after that is due in %s", wait)
	}
}

func TestBreakerUnknownUsersDoNotSlowOthersDownAfterServerFaults(t *testing.T) {
	b, now := suspected(false, down), midnight
	began := 0
	for range 50 {
		now = now.Add(100 * time.Millisecond)
		for i := range 20 {
			if _, ok := b.Allow(false, now); !ok {
				break
			}
			began++
			try(b, fmt.Sprint("unknown", i), false, unknown, now)
		}
	}
	if began < 50*20 {
		t.Errorf("%d users whom Graph does not know were tried in 5 s", began)
	}
	failed := 0
	for range 50 {
		now = now.Add(100 * time.Millisecond)
		for i := range 20 {
			if _, ok := b.Allow(false, now); !ok {
				break
			}
			failed++
			try(b, fmt.Sprint("down", i), false, down, now)
		}
	}
	if failed < 50 || failed > 50+20 {
		t.Errorf("%d users met a 503 in 5 s, want 10 a second after a few", failed)
	}
}

// Another replica has just asked a canary.
func TestBreakerCanceledCanaryIsNotDueAtOnce(t *testing.T) {
	b, now := retry.NewBreaker(false), time.Unix(1000, 0)
	b.Begin("ada", false, now)
	b.End("ada", false, failure{systemic: true}, now)
	now = now.Add(time.Minute)
	if _, due := b.CanaryDue(false, false, now); !due {
		t.Fatal("the canary is not due")
	}
	b.CanaryBegin()
	b.CanaryEnd(nil, true, now)
	if wait, due := b.CanaryDue(false, false, now); due || wait != time.Second {
		t.Errorf("due %v, in %s", due, wait)
	}
}
