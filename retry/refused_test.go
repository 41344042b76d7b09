package retry_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/retry"
)

// refuse begins one call, which must be allowed, and refuses it. It returns for how long the
// limiter then delays all calls, and when the delay ends.
func refuse(t *testing.T, p *retry.Limiter, asked time.Duration, now time.Time) (pause time.Duration, end time.Time) {
	t.Helper()
	p.End(begin(t, p, 1, now)[0], throttling{asked}, 0, now)
	end = p.State().PausedUntil
	return end.Sub(now), end
}

func TestLimiterSixtyRefusalsInARow(t *testing.T) {
	const unasked = 15 * time.Second
	for _, asked := range []time.Duration{0, time.Second, 20 * time.Second, time.Minute, retry.MaxRetryAfter, math.MaxInt64} {
		p := retry.NewLimiter(4)
		now := noon
		var first, last time.Duration
		for i := range 60 {
			var pause time.Duration
			pause, now = refuse(t, p, asked, now)
			least := max(min(asked, retry.MaxRetryAfter), 900*time.Millisecond)
			if most := max(least+unasked, unasked*11/10); pause < least || pause > most {
				t.Errorf("%v asked for: pause %d is %v, want %v to %v", asked, i+1, pause, least, most)
			}
			if !p.Plausible(now) {
				t.Fatalf("%v asked for: not plausible after pause %d: %+v", asked, i+1, p)
			}
			if i == 0 {
				first = pause
			}
			last = pause
		}
		if last < first+unasked/2 && last < unasked*8/10 {
			t.Errorf("%v asked for: the pauses grow from %v to %v only; the server's count may stay full", asked, first, last)
		}
	}
}

func TestLimiterPausesInVainDoubleUntilASuccess(t *testing.T) {
	p := retry.NewLimiter(4)
	now := noon
	for i, middle := range []time.Duration{1, 2, 4, 8} {
		var pause time.Duration
		if pause, now = refuse(t, p, time.Second, now); pause < middle*time.Second || pause > middle*time.Second*5/4 {
			t.Errorf("pause %d is %v, want %v and up to a quarter more", i+1, pause, middle*time.Second)
		}
	}
	p.End(begin(t, p, 1, now)[0], nil, 0, now)
	for range 2 {
		var pause time.Duration
		if pause, now = refuse(t, p, time.Second, next(t, p, now)); pause != time.Second {
			t.Errorf("after a success: %v, want what was asked for", pause)
		}
	}
}

func TestLimiterPausesAfterARefusalWithoutRetryAfter(t *testing.T) {
	p := retry.NewLimiter(4)
	now := noon
	for i, middle := range []time.Duration{1, 2, 4, 8, 15, 15} {
		var pause time.Duration
		if pause, now = refuse(t, p, 0, now); pause < middle*time.Second*9/10 || pause > middle*time.Second*11/10 {
			t.Errorf("pause %d is %v, want %v and a tenth more or less", i+1, pause, middle*time.Second)
		}
	}
	p.End(begin(t, p, 1, now)[0], nil, 0, now)
	if pause, _ := refuse(t, p, 0, next(t, p, now)); pause > 1100*time.Millisecond {
		t.Errorf("after a success: %v, want about a second", pause)
	}
}

func TestLimiterLateRefusalsDoNotMakePausesLonger(t *testing.T) {
	p := retry.NewLimiter(16)
	calls := begin(t, p, 16, noon)
	now := noon
	for i, call := range calls { // each is answered when the pause before has ended
		p.End(call, throttling{}, 0, now)
		pause := p.State().PausedUntil.Sub(now)
		if pause > 1100*time.Millisecond {
			t.Errorf("answer %d: a pause of %v, want about a second", i+1, pause)
		}
		now = now.Add(pause)
	}
}

func TestLimiterMeetsAQuotaWithoutRetryAfter(t *testing.T) {
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		for _, headers := range []bool{true, false} {
			t.Run(fmt.Sprint(model, headers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					quota := graph.Quota{Model: model, Limit: 300, Per: 15 * time.Second, Headers: headers, NoRetryAfter: true}
					const users = 1500
					limiters := []*retry.Limiter{retry.NewLimiter(16)}
					took, throttled := drive(limiters, newQuota(t, quota), users, 20*time.Millisecond, 20*time.Millisecond)
					ratio := took.Seconds() / quota.CheapestDone(users).Seconds()
					t.Logf("%.3f × the least time, %d throttled", ratio, throttled)
					if ratio > 2 || throttled*10 > users {
						t.Errorf("%.3f × the least time, %d of %d calls throttled, want at most twice and a tenth", ratio, throttled, users)
					}
				})
			})
		}
	}
}

func TestLimiterFollowsAQuotaThatRises(t *testing.T) {
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		t.Run(fmt.Sprint(model), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				small := graph.Quota{Model: model, Limit: 30, Per: 15 * time.Second}
				q := newQuota(t, small)
				p := []*retry.Limiter{retry.NewLimiter(16)}
				drive(p, q, 150, 20*time.Millisecond, 20*time.Millisecond)
				large := small
				large.Limit = 300
				if err := q.server.SetQuota(large); err != nil {
					t.Fatal(err)
				}
				const users = 3000
				took, throttled := drive(p, q, users, 20*time.Millisecond, 20*time.Millisecond)
				ratio := took.Seconds() / large.CheapestDone(users).Seconds()
				t.Logf("%.3f × the least time, %d throttled, %.1f a second", ratio, throttled, p[0].State().PerSecond)
				if ratio > 1.5 || p[0].State().PerSecond < 2*30/15 {
					t.Errorf("%.3f × the least time, want at most 1.5; %.1f a second, want more than twice the small quota",
						ratio, p[0].State().PerSecond)
				}
			})
		})
	}
}

func TestLimiterAllowsInTheNextRoundWhatWentThroughBeyondTheAllowance(t *testing.T) {
	p := retry.NewLimiter(16)
	learned(t, p, 2, 10*time.Second)
	for _, c := range []struct {
		after time.Duration // since the refusal
		calls int
		want  float64 // a second, in the round that follows
	}{
		{15 * time.Second, 8, 0.2}, // too early to be believed
		{40 * time.Second, 8, 0.8},
		{50 * time.Second, 3, 0.8}, // no more were wanted
		{60 * time.Second, 8, 0.8},
	} {
		now := noon.Add(c.after)
		for range c.calls {
			p.End(begin(t, p, 1, now)[0], nil, 0, now)
		}
		end := now.Add(10 * time.Second)
		p.Allow(end)
		if got := p.State().PerSecond; math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%d calls %v after the refusal: then %v a second, want %v", c.calls, c.after, got, c.want)
		}
	}
}

// Where calls are slow, those at the end of a sliding window meet the first ones that leave it. The
// short pause that they see is not the window.
func TestLimiterShortPauseAfterAWholeWindowDoesNotShortenIt(t *testing.T) {
	for _, c := range []struct {
		calls int
		asked time.Duration
		want  float64 // a second
	}{
		{8, 3 * time.Second, 8. / 20},
		{7, 3 * time.Second, 7. / 20},  // nearly as many
		{8, 30 * time.Second, 8. / 30}, // a longer window is believed
		{5, 3 * time.Second, 5. / 3},   // far fewer calls: what is allowed has changed
	} {
		p := retry.NewLimiter(8)
		now := learned(t, p, 8, 20*time.Second)
		for range c.calls {
			p.End(begin(t, p, 1, now)[0], nil, 0, now)
		}
		_, end := refuse(t, p, c.asked, now)
		p.Allow(end)
		if got := p.State().PerSecond; math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%d of 8 calls, then a pause of %v: %v a second, want %v", c.calls, c.asked, got, c.want)
		}
	}
}

func TestLimiterLongQuietRoundDoesNotStretchThePeriod(t *testing.T) {
	for calls, want := range map[int]float64{
		3: 3. / 30,
		2: 2. / 20, // few calls say nothing about the rate: twice the pause
	} {
		p := retry.NewLimiter(4)
		p.End(begin(t, p, 1, noon)[0], nil, 0, noon)
		later := noon.Add(time.Hour)
		for range calls - 1 {
			p.End(begin(t, p, 1, later)[0], nil, 0, later)
		}
		_, end := refuse(t, p, 10*time.Second, later)
		p.Allow(end) // it judges the round
		if got := p.State().PerSecond; math.Abs(got-want) > 1e-9 {
			t.Errorf("after %d calls: %v a second, want %v", calls, got, want)
		}
	}
}

func TestLimiterKnowsTheRateOnlyAfterARefusalAndForgetsIt(t *testing.T) {
	p := retry.NewLimiter(4)
	if got := p.State().PerSecond; !math.IsInf(got, 1) {
		t.Errorf("before any call: %v", got)
	}
	now := learned(t, p, 5, 10*time.Second)
	p.Allow(now)
	if got := p.State().PerSecond; got != 0.5 {
		t.Errorf("%v, want 5 calls in 10 s", got)
	}
	now = now.Add(5 * time.Minute)
	p.Allow(now)
	if got := p.State().PerSecond; !math.IsInf(got, 1) {
		t.Errorf("%v after five quiet minutes, want no rate: the quota is full again", got)
	}
}

func TestLimiterDoesNotCountACanceledCall(t *testing.T) {
	t.Run("among those in flight", func(t *testing.T) {
		p := retry.NewLimiter(2)
		calls := begin(t, p, 2, noon)
		if _, ok := p.Allow(noon); ok {
			t.Fatal("three calls at once")
		}
		p.Cancel(calls[0])
		if p.State().InFlight != 1 {
			t.Errorf("%d in flight, want 1", p.State().InFlight)
		}
		begin(t, p, 1, noon)
	})
	t.Run("among those that are awaited after a pause", func(t *testing.T) {
		p := retry.NewLimiter(4)
		now := learned(t, p, 4, time.Second)
		p.Cancel(begin(t, p, 1, now)[0])
		p.End(begin(t, p, 1, now)[0], nil, 0, now)
	})
	t.Run("beside one that hangs", func(t *testing.T) {
		p := retry.NewLimiter(4)
		begin(t, p, 1, noon)
		now := learned(t, p, 4, slow)
		p.Cancel(begin(t, p, 1, now)[0])
		begin(t, p, 1, now)
	})
	t.Run("in the round", func(t *testing.T) {
		p := retry.NewLimiter(4)
		now := learned(t, p, 2, 3*time.Second)
		for range 5 {
			p.Cancel(begin(t, p, 1, now)[0])
		}
		for range 2 {
			p.End(begin(t, p, 1, now)[0], nil, 0, now)
		}
		if _, ok := p.Allow(now); ok {
			t.Error("more calls than are allowed in a round")
		}
	})
	t.Run("in a round that had begun after it", func(t *testing.T) {
		p := retry.NewLimiter(4)
		old := begin(t, p, 1, noon)[0]
		now := learned(t, p, 2, slow)
		for range 2 {
			p.End(begin(t, p, 1, now)[0], nil, 0, now)
		}
		p.Cancel(old)
		if _, ok := p.Allow(now); ok {
			t.Error("a call from before the pause has made room for one more")
		}
	})
	t.Run("in a round without any", func(t *testing.T) {
		p := retry.NewLimiter(4)
		call := begin(t, p, 1, noon)[0]
		p.Cancel(call)
		p.Cancel(call)
		if p.SetInFlight(0); !p.Plausible(noon) {
			t.Errorf("a call that was canceled twice: %+v", p)
		}
	})
}

func TestLimiterRefusesStateOfTheWrongTypes(t *testing.T) {
	for _, text := range []string{`{"Allowance":"many"}`, `{"Hold":5}`, `[]`, `"limiter"`, `{"Ages":{"First":[1.5]}}`} {
		p := retry.NewLimiter(4)
		learned(t, p, 2, time.Minute)
		before := p.State()
		if err := json.Unmarshal([]byte(text), p); err == nil || p.State() != before {
			t.Errorf("%s: error %v, %+v, want %+v", text, err, p.State(), before)
		}
	}
}
