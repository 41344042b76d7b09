package coordination

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/retry"
)

// FuzzLimiter reads any text as the shared state. Its property: a call may begin within an hour,
// and what is written back can be read.
func FuzzLimiter(f *testing.F) {
	fresh, err := json.Marshal(shared{
		Limiter:  retry.NewLimiter(maxInFlight),
		Replicas: map[string]presence{"x": {InFlight: 3, Seen: time.Unix(1_800_000_000, 0)}},
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{
		"", "hello", "null", `{"Limiter":null}`, string(fresh), `{"Limiter":{"Allowance":-1,"Period":-1,"Begun":-9}}`,
		`{"Limiter":{"InFlight":1e9,"Careful":true}}`,
		`{"Limiter":{"Hold":"2027-01-15T08:00:30Z","First":9223372036854775807,"Last":-1,"Usage":1e308,"InVain":1000000}}`,
		`{"Limiter":{"Allowance":9223372036854775807,"Confirmed":true,"Pause":9223372036854775807,"Ended":{"OK":9223372036854775807}}}`,
		`{"Limiter":{},"Replicas":{"other":{"InFlight":9223372036854775807,"Seen":"2027-01-15T08:00:00Z"}}}`,
		`{"Limiter":{},"Replicas":{"other":{"InFlight":7000,"Seen":"2027-01-17T08:00:00Z"}}}`,
		`{"Limiter":{},"Replicas":{"one":{"InFlight":9223372036854775807,"Seen":"2027-01-15T08:00:00Z"},` +
			`"two":{"InFlight":9223372036854775807,"Seen":"2027-01-15T08:00:00Z"}}}`,
		`{"Limiter":{"Allowance":1,"Begun":5,"RoundEnd":"2027-02-15T08:00:00Z","Throttled":"2027-02-15T08:00:00Z"}}`,
		`{"Limiter":{"Allowance":5,"Confirmed":true,"Period":100000000000000000,` +
			`"Throttled":"2027-01-15T08:00:00Z","HeldBack":"2027-01-15T08:00:00Z"}}`,
		`{"Limiter":{"Allowance":-5,"Throttled":"2027-01-15T07:59:59Z"}}`,
		`{"Limiter":{"Allowance":5,"Pause":5000000000,"OK":9223372036854775807}}`,
		`{"Limiter":{"Unnamed":1000000000000}}`,
		`{"Limiter":{"Ended":{"Start":"2020-01-15T08:00:00Z","End":"2028-01-15T08:00:00Z","OK":-3},"Hold":"2027-01-15T07:00:00Z"}}`,
	} {
		f.Add(text)
	}
	p := (&Store{id: "me"}).NewLimiter("app", 8)
	f.Fuzz(func(t *testing.T, text string) {
		for _, done := range [][]finished{nil, {{call: 1}, {call: -1, canceled: true}, {call: 1 << 40, err: tooMany{}}}} {
			recovers(t, p, text, done)
		}
	})
}

// recovers fails the test unless a call may begin within an hour after the state was text, with no
// other replica alive.
func recovers(t *testing.T, p *Limiter, text string, done []finished) {
	now := time.Unix(1_800_000_000, 0)
	state, calls, wait := p.change(text, now, done, 4, 2, 0)
	if len(calls) > 4 || wait < 0 {
		t.Fatalf("%d calls, wait %s; from %q", len(calls), wait, text)
	}
	written, err := state.text()
	if err != nil {
		t.Fatal(err)
	}
	for at := now.Add(time.Minute); ; at = at.Add(time.Minute) {
		if at.Sub(now) > time.Hour {
			t.Fatalf("no call may begin an hour later; from %q came %q", text, written)
		}
		next, calls, wait := p.change(written, at, nil, 1, 0, 0)
		if len(calls) > 0 {
			return
		}
		if wait < 0 {
			t.Fatalf("wait %s; from %q came %q", wait, text, written)
		}
		if written, err = next.text(); err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzVerdict reads any text as a verdict. Its property: the verdict is never from the future.
func FuzzVerdict(f *testing.F) {
	for _, v := range [][4]string{
		{"", "", "", ""},
		{"1800000000000000", "1799999995000000", "events", "7"},
		{"9223372036854775807", "1", "e", "1"},
		{"-1", "-1", "", "-1"},
		{"1", "9223372036854775807", "", "0"},
		{"1e9", "0x10", "\x00", " 1"},
	} {
		f.Add(v[0], v[1], v[2], v[3])
	}
	f.Fuzz(func(t *testing.T, start, covers, entity, sequence string) {
		s := New(Config{SkewMargin: margin, Observe: func(Observation) {}})
		v := s.read([]any{start, covers, entity, sequence})
		if latest := time.Now().Add(margin + time.Second); v.Start.After(latest) || v.Covers.After(latest) {
			t.Fatalf("%+v lies in the future", v)
		}
	})
}
