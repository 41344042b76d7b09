package retry_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/retry"
)

// seed decides the durations of calls. The bounds in the tests were chosen for seed 1.
var seed = flag.Uint64("seed", 1, "seed of the durations of calls")

// throttling is a 429 with the methods that retry looks for.
type throttling struct{ after time.Duration }

func (throttling) Error() string               { return "throttled" }
func (throttling) Throttled() bool             { return true }
func (t throttling) RetryAfter() time.Duration { return t.after }

// quota is one app that calls the Graph emulator, without a network.
type quota struct {
	server *graph.Server
	token  string
}

func newQuota(t *testing.T, q graph.Quota) *quota {
	t.Helper()
	t.Logf("seed %d", *seed)
	server, err := graph.New(graph.Config{Quota: q, MaxCalls: 100_000})
	if err != nil {
		t.Fatal(err)
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {"client"}, "client_secret": {"secret"},
		"scope": {"http://example.com/.default"},
	}
	r := httptest.NewRequest(http.MethodPost, "/tenant/oauth2/v2.0/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	_, rest, _ := strings.Cut(w.Body.String(), `"access_token":"`)
	token, _, _ := strings.Cut(rest, `"`)
	if token == "" {
		t.Fatalf("no token: %s", w.Body)
	}
	return &quota{server, token}
}

// call makes one call. It is for an unknown user, which costs as much quota as any other.
func (q *quota) call() (usage float64, err error) {
	r := httptest.NewRequest(http.MethodPost, "/v1.0/users/nobody@contoso.com/revokeSignInSessions", nil)
	r.Header.Set("Authorization", "Bearer "+q.token)
	w := httptest.NewRecorder()
	q.server.ServeHTTP(w, r)
	if w.Code != http.StatusNotFound && w.Code != http.StatusTooManyRequests {
		panic(w.Body.String())
	}
	usage, _ = strconv.ParseFloat(w.Header().Get("x-ms-throttle-limit-percentage"), 64)
	if w.Code == http.StatusTooManyRequests {
		seconds, _ := strconv.Atoi(w.Header().Get("Retry-After"))
		return usage, throttling{time.Duration(seconds) * time.Second}
	}
	return usage, nil
}

// happening is something that happens at a time: a call reaches the server, or its answer arrives.
type happening struct {
	at time.Time
	do func()
}

// timeline holds what will happen, the soonest first. It keeps the order of planning for what
// happens at the same instant.
type timeline []happening

func (l *timeline) plan(at time.Time, do func()) {
	i, _ := slices.BinarySearchFunc(*l, at, func(h happening, at time.Time) int {
		if h.at.After(at) {
			return 1
		}
		return -1
	})
	*l = slices.Insert(*l, i, happening{at, do})
}

// wait lets the next thing happen, or passes that much time, whichever is sooner. 0 is no bound.
func (l *timeline) wait(soonest time.Duration) {
	if len(*l) == 0 || soonest > 0 && time.Until((*l)[0].at) > soonest {
		time.Sleep(soonest)
		return
	}
	next := (*l)[0]
	*l = (*l)[1:]
	time.Sleep(time.Until(next.at))
	next.do()
}

// drive makes n calls succeed, an equal share through each of the limiters, which do not know of
// each other. It returns how long this took and how many calls were throttled. A call takes between
// shortest and longest. One goroutine does everything, so that all runs with one seed are the same.
func drive(limiters []*retry.Limiter, q *quota, n int, shortest, longest time.Duration) (took time.Duration, throttled int) {
	start := time.Now()
	var line timeline
	todo, inFlight := make([]int, len(limiters)), 0
	for i := range n {
		todo[i%len(limiters)]++
	}
	draw := rand.New(rand.NewPCG(*seed, 2))
	begin := func(i int) {
		call := limiters[i].Begin(time.Now())
		todo[i]--
		inFlight++
		half := (shortest + time.Duration(draw.Int64N(int64(longest-shortest)+1))) / 2
		line.plan(time.Now().Add(half), func() {
			usage, err := q.call()
			line.plan(time.Now().Add(half), func() {
				inFlight--
				limiters[i].End(call, err, usage, time.Now())
				if err != nil {
					throttled++
					todo[i]++
				}
			})
		})
	}
	for slices.Max(todo) > 0 || inFlight > 0 {
		soonest, begun := time.Duration(0), false
		for i, p := range limiters {
			if todo[i] == 0 {
				continue
			}
			wait, ok := p.Allow(time.Now())
			if !p.Plausible(time.Now()) {
				panic(fmt.Sprintf("it does not believe in itself: %+v", p))
			}
			switch {
			case ok:
				begin(i)
				begun = true
			case wait > 0 && (soonest == 0 || wait < soonest):
				soonest = wait
			}
		}
		if !begun {
			line.wait(soonest)
		}
	}
	return time.Since(start), throttled
}

func TestLimiterMeetsTheQuotaOfEachModel(t *testing.T) {
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		for _, headers := range []bool{true, false} {
			for _, limit := range []int{16, 64} {
				for _, latency := range []time.Duration{2 * time.Millisecond, 200 * time.Millisecond} {
					t.Run(fmt.Sprint(model, headers, limit, latency), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							quota := graph.Quota{Model: model, Limit: 300, Per: 15 * time.Second, Headers: headers}
							const users = 3000
							took, throttled := drive([]*retry.Limiter{retry.NewLimiter(limit)}, newQuota(t, quota), users, latency, latency)
							ratio := took.Seconds() / quota.CheapestDone(users).Seconds()
							t.Logf("%.3f × the least time, %d throttled", ratio, throttled)
							bound := 1.05
							if !headers {
								bound = 1.25
							}
							if latency > 100*time.Millisecond {
								bound += 0.05 // the last calls take their time, whatever the limiter does
							}
							if ratio > bound {
								t.Errorf("%.3f × the least time, want at most %.2f", ratio, bound)
							}
							if headers && throttled*100 > users {
								t.Errorf("%d of %d calls throttled, want at most 1 in 100 when Graph reports the usage", throttled, users)
							}
						})
					})
				}
			}
		}
	}
}

func TestLimiterMeetsTheQuotaTogetherWithOthersThatShareNothing(t *testing.T) {
	for _, model := range []graph.QuotaModel{graph.FixedWindow, graph.SlidingWindow, graph.TokenBucket} {
		for _, n := range []int{2, 4} {
			for _, latency := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond} {
				t.Run(fmt.Sprint(model, n, latency), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						quota := graph.Quota{Model: model, Limit: 300, Per: 15 * time.Second, Headers: true}
						const users = 1450 // with 1,500, one call too few in a window would cost another window
						var limiters []*retry.Limiter
						for range n {
							limiters = append(limiters, retry.NewLimiter(16))
						}
						took, throttled := drive(limiters, newQuota(t, quota), users, latency/2, latency*3/2)
						ratio := took.Seconds() / quota.CheapestDone(users).Seconds()
						t.Logf("%.3f × the least time, %d throttled", ratio, throttled)
						if ratio > 1.10 {
							t.Errorf("%.3f × the least time, want at most 1.10", ratio)
						}
						if throttled*100 > 3*users {
							t.Errorf("%d of %d calls throttled, want at most 3 in 100", throttled, users)
						}
					})
				})
			}
		}
	}
}

func TestLimiterSlowCallsAtTheEndOfASlidingWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quota := graph.Quota{Model: graph.SlidingWindow, Limit: 300, Per: 15 * time.Second, Headers: true}
		const users = 1450
		limiters := []*retry.Limiter{retry.NewLimiter(16)}
		took, throttled := drive(limiters, newQuota(t, quota), users, 300*time.Millisecond, 300*time.Millisecond)
		t.Logf("%v, %d throttled", took, throttled)
		// The calls of the last window take nearly 5 s.
		if most := quota.CheapestDone(users) + 15*time.Second; took > most {
			t.Errorf("%v, want at most %v", took, most)
		}
	})
}

func TestLimiterCountsPausesOnce(t *testing.T) {
	p := retry.NewLimiter(4)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	first, second := p.Begin(now), p.Begin(now)
	p.End(first, throttling{10 * time.Second}, 0, now)
	p.End(second, throttling{12 * time.Second}, 0, now.Add(time.Second))
	if got := p.State().Pauses; got != 13*time.Second {
		t.Errorf("%v, want 13s: from the first answer to the end of the later pause", got)
	}
}

func TestLimiterPlausibleUnlessInTheFuture(t *testing.T) {
	p := retry.NewLimiter(4)
	begun := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	now := begun
	calls := []int{p.Begin(now), p.Begin(now), p.Begin(now)}
	p.End(calls[0], nil, 0, now)
	p.End(calls[1], throttling{24 * time.Hour}, 0, now)
	now = now.Add(2 * time.Minute) // a slow answer makes the pause longer
	p.End(calls[2], throttling{24 * time.Hour}, 0, now)
	if !p.Plausible(now) {
		t.Errorf("not plausible after the longest pause: %+v", p)
	}
	now = p.State().PausedUntil
	if _, ok := p.Allow(now); !ok || !p.Plausible(now) {
		t.Errorf("allowed %v, not plausible after the pause: %+v", ok, p)
	}
	if p.Plausible(begun.Add(-time.Hour)) {
		t.Error("plausible an hour before it happened, so that it would delay all calls for an hour")
	}
}

func TestLimiterIsNotPlausibleWithNonsense(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for _, text := range []string{
		`{"Hold":"2026-03-01T13:00:00Z"}`,
		`{"Throttled":"2026-03-01T13:00:00Z"}`, `{"HeldBack":"2026-03-01T13:00:00Z"}`, `{"Start":"2026-03-01T13:00:00Z"}`,
		`{"Ended":{"End":"2026-03-01T13:00:00Z"}}`, `{"Ended":{"Start":"2026-03-01T13:00:00Z"}}`,
		`{"RoundEnd":"2026-03-01T13:00:00Z"}`, `{"Period":3600000000000}`, `{"Pause":3600000000000}`,
		`{"Pauses":-1}`, `{"Period":-1}`, `{"Pause":-1}`,
		`{"Allowance":-1}`, `{"OK":9223372036854775807}`, `{"Begun":-1}`, `{"Unnamed":1000000000000}`, `{"First":1000}`, `{"Usage":-1}`,
	} {
		p := retry.NewLimiter(4)
		if err := json.Unmarshal([]byte(text), p); err != nil {
			t.Fatal(err)
		}
		if p.Plausible(now) {
			t.Errorf("%s is plausible", text)
		}
	}
}

// A rate that was learned in a fault, or beside other processes, may be far below what the server
// allows now.
func TestLimiterFindsOutWithinMinutesThatMuchMoreIsAllowed(t *testing.T) {
	p := retry.NewLimiter(8)
	learned := `{"First":1,"Allowance":1,"Confirmed":true,"Period":4000000000,"Pause":1000000000,
		"Throttled":"2026-03-01T11:59:59Z","HeldBack":"2026-03-01T11:59:59Z","Ended":{"Judged":true}}`
	if err := p.UnmarshalJSON([]byte(learned)); err != nil {
		t.Fatal(err)
	}
	now := noon
	calls := func(span time.Duration) (n int) {
		for end := now.Add(span); now.Before(end); {
			wait, ok := p.Allow(now)
			if !ok {
				now = now.Add(wait)
				continue
			}
			p.End(p.Begin(now), nil, 0, now)
			n++
		}
		return n
	}
	if n := calls(10 * time.Second); n > 5 {
		t.Fatalf("%d calls in the first 10 s", n)
	}
	calls(110 * time.Second)
	if n := calls(10 * time.Second); n < 100 {
		t.Errorf("%d calls in 10 s, two minutes later, although none was refused", n)
	}
}
