package retry_test

import (
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/retry"
)

// noon is the time at which each of these tests begins. The tests pass the time to the limiter.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// begin begins n calls, each of which must be allowed.
func begin(t *testing.T, p *retry.Limiter, n int, now time.Time) (calls []int) {
	t.Helper()
	for range n {
		if wait, ok := p.Allow(now); !ok {
			t.Fatalf("call %d is not allowed at %s for %v", len(calls)+1, now.Format(time.TimeOnly), wait)
		}
		calls = append(calls, p.Begin(now))
	}
	return calls
}

// next returns the time at which the next call is allowed, if nothing happens until then. It fails
// if the limiter returns a wait of 0, which would never end.
func next(t *testing.T, p *retry.Limiter, now time.Time) time.Time {
	t.Helper()
	for range 1000 {
		wait, ok := p.Allow(now)
		if ok {
			return now
		}
		if wait <= 0 {
			t.Fatalf("delayed at %s until a call ends", now.Format(time.TimeOnly))
		}
		now = now.Add(wait)
	}
	t.Fatal("asked a thousand times in vain")
	return now
}

// slow is the time after which the limiter treats every unanswered call as one that hangs.
const slow = 4 * time.Second

func TestLimiterCallsThatHangHoldNobodyUp(t *testing.T) {
	for name, prepare := range map[string]func(t *testing.T, p *retry.Limiter) (now time.Time){
		"the first call after a pause": func(t *testing.T, p *retry.Limiter) time.Time {
			p.End(begin(t, p, 1, noon)[0], throttling{10 * time.Second}, 0, noon)
			now := noon.Add(10 * time.Second)
			begin(t, p, 1, now)
			return now
		},
		"calls from before a pause": func(t *testing.T, p *retry.Limiter) time.Time {
			calls := begin(t, p, 8, noon)
			now := noon.Add(30 * time.Second)
			p.End(calls[0], throttling{time.Second}, 0, now)
			return now.Add(time.Second)
		},
		"the one call that the usage leaves": func(t *testing.T, p *retry.Limiter) time.Time {
			p.End(begin(t, p, 1, noon)[0], nil, 0.99, noon)
			begin(t, p, 1, noon)
			return noon
		},
		"the first call of a round": func(t *testing.T, p *retry.Limiter) time.Time {
			now := learned(t, p, 10, 20*time.Second)
			now = now.Add(time.Minute) // the round that followed is over
			begin(t, p, 1, now)
			return now
		},
		"a call beyond what is known to be allowed": func(t *testing.T, p *retry.Limiter) time.Time {
			now := learned(t, p, 2, 100*time.Second)
			for range 2 {
				p.End(begin(t, p, 1, now)[0], nil, 0, now)
			}
			now = next(t, p, now) // a quarter of a minute after the refusal
			begin(t, p, 1, now)
			return now
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := retry.NewLimiter(16)
			now := prepare(t, p)
			if _, ok := p.Allow(now); ok == p.Awaits() {
				t.Errorf("allowed %v, awaits an answer %v", ok, p.Awaits())
			}
			if wait := next(t, p, now).Sub(now); wait > slow {
				t.Errorf("the next call waits for %v, want at most %v", wait, slow)
			}
		})
	}
}

// learned makes the limiter learn an allowance: a number of calls, and then a refusal that asks for
// a pause. It returns the time at which the pause ends.
func learned(t *testing.T, p *retry.Limiter, calls int, pause time.Duration) (now time.Time) {
	t.Helper()
	for range calls {
		p.End(begin(t, p, 1, noon)[0], nil, 0, noon)
	}
	p.End(begin(t, p, 1, noon)[0], throttling{pause}, 0, noon)
	return noon.Add(pause)
}

func TestLimiterFewCallsAtOnceWhileAllHang(t *testing.T) {
	const limit, timeout = 8, 30 * time.Second
	p := retry.NewLimiter(limit)
	p.End(begin(t, p, 1, noon)[0], throttling{time.Second}, 0, noon)
	now := noon.Add(time.Second)
	start, began := now, 0
	for now.Sub(start) < timeout {
		now = next(t, p, now)
		p.Begin(now)
		if began++; began == limit {
			break
		}
	}
	if took := now.Sub(start); took < (limit-1)*slow/2 {
		t.Errorf("%d calls that hang began in %v, want no more than one in %v", began, took, slow/2)
	}
	if wait, ok := p.Allow(now.Add(time.Hour)); ok || wait != 0 {
		t.Errorf("more than %d calls at once: allowed %v, or in %v", limit, ok, wait)
	}
}

func TestLimiterPauseIsNotTakenForACallThatShouldAnswer(t *testing.T) {
	p := retry.NewLimiter(4)
	p.End(begin(t, p, 1, noon)[0], throttling{10 * time.Second}, 0, noon)
	if wait, ok := p.Allow(noon); ok || wait != 10*time.Second || p.Awaits() {
		t.Errorf("allowed %v in %v, awaits an answer %v", ok, wait, p.Awaits())
	}
}

func TestLimiterCallThatHangsDoesNotHoldUpTheNextRound(t *testing.T) {
	p := retry.NewLimiter(4)
	now := learned(t, p, 2, 10*time.Second).Add(time.Minute) // rounds of ten seconds
	for range 2 {
		p.End(begin(t, p, 1, now)[0], nil, 0, now)
	}
	now = now.Add(9 * time.Second)
	begin(t, p, 1, now) // beyond what is known to be allowed
	if wait, ok := p.Allow(now); ok || wait != time.Second {
		t.Errorf("allowed %v in %v, want when the next round begins", ok, wait)
	}
}

func TestLimiterDoesNotAwaitCallsOfAProcessThatDied(t *testing.T) {
	p := retry.NewLimiter(4)
	now := learned(t, p, 2, 10*time.Second)
	begin(t, p, 1, now)
	p.SetInFlight(0)
	begin(t, p, 1, now)
}

func TestLimiterCallThatHangsIsOldAlsoWhenNobodyAskedForLong(t *testing.T) {
	p := retry.NewLimiter(4)
	now := learned(t, p, 2, 10*time.Second)
	begin(t, p, 1, now)
	if _, ok := p.Allow(now.Add(slow / 2)); ok {
		t.Fatal("too early")
	}
	begin(t, p, 1, now.Add(time.Minute))
}

func TestLimiterClockThatIsSetBackHoldsNobodyUp(t *testing.T) {
	p := retry.NewLimiter(4)
	ahead := noon.Add(time.Hour)
	p.End(begin(t, p, 1, ahead)[0], nil, 0.99, ahead)
	begin(t, p, 1, ahead)
	if wait := next(t, p, noon).Sub(noon); wait > slow {
		t.Errorf("delayed for %v", wait)
	}
}

func TestLimiterPromptAnswerLetsTheNextCallBeginAtOnce(t *testing.T) {
	p := retry.NewLimiter(8)
	now := learned(t, p, 1, 10*time.Second)
	call := begin(t, p, 1, now)[0]
	if _, ok := p.Allow(now.Add(slow/2 - 1)); ok {
		t.Fatal("two calls at once, right after a pause")
	}
	p.End(call, failure{}, 0, now) // any answer but a refusal
	if _, ok := p.Allow(now.Add(exploring)); !ok {
		t.Error("still delayed")
	}
}

// exploring is the time after a refusal from which the limiter tries more than was allowed then.
const exploring = 15 * time.Second

func TestLimiterTriesMoreInTimeAfterARefusal(t *testing.T) {
	p := retry.NewLimiter(8)
	now := learned(t, p, 1, 10*time.Minute-time.Second)
	p.End(begin(t, p, 1, now)[0], nil, 0, now)
	// The round lasts nearly twenty minutes, and allows one call. More than exploring has passed
	// since the refusal.
	if wait := next(t, p, now).Sub(now); wait > 0 {
		t.Errorf("delayed for %v", wait)
	}
	p = retry.NewLimiter(8)
	now = learned(t, p, 1, 5*time.Second)
	p.End(begin(t, p, 1, now)[0], nil, 0, now)
	if at := next(t, p, now).Sub(noon); at > exploring {
		t.Errorf("the next call begins %v after the refusal, want %v", at, exploring)
	}
}

// A fault in which no call is allowed says nothing about what is allowed afterwards.
func TestLimiterShortFaultDoesNotSlowDownWhatFollows(t *testing.T) {
	for _, latency := range []time.Duration{50 * time.Millisecond, time.Second} {
		const users, limit, fault = 1000, 16, 10 * time.Second
		p := retry.NewLimiter(limit)
		for range 3 { // a quiet day
			p.End(begin(t, p, 1, noon)[0], nil, 0, noon)
		}
		var line timeline
		now, done := noon.Add(time.Hour), 0
		start, todo := now, users
		for done < users {
			wait, ok := p.Allow(now)
			switch {
			case ok && todo > 0:
				todo--
				call, at := p.Begin(now), now
				line.plan(now.Add(latency), func() {
					if at.Sub(start) < fault {
						p.End(call, throttling{3 * time.Second}, 0, now)
						todo++
						return
					}
					p.End(call, nil, 0, now)
					done++
				})
			case len(line) > 0 && (wait == 0 || todo == 0 || line[0].at.Sub(now) <= wait):
				event := line[0]
				line = line[1:]
				now = event.at
				event.do()
			default:
				now = now.Add(wait)
			}
		}
		most := fault + 45*time.Second + users/limit*latency
		t.Logf("%v a call: %v", latency, now.Sub(start))
		if took := now.Sub(start); took > most {
			t.Errorf("%v a call: it took %v, want at most %v", latency, took, most)
		}
	}
}
