package dedupe

import (
	"math"
	"testing"
	"testing/synctest"
	"time"
)

// The clock was an hour ahead when the last attempt was decided, and was set back since.
func TestVerdictParksForAWindowOnceWhenAClockIsSetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{Window: time.Minute, SkewMargin: 5 * time.Second, Remember: time.Hour, MaxUsers: 10, MaxParked: 8, MaxFailing: 8})
		add := func(sequence int64) *Work {
			w, _ := l.Add("ada", &Event{
				Position: Position{Enqueued: time.Now(), Entity: "events", Sequence: sequence}, Message: NewMessage(0),
			})
			return w
		}
		begun := time.Now()
		l.verdicts.put("ada", verdict{until: instantOf(begun.Add(time.Hour)), covers: instantOf(begun.Add(-time.Hour))}, begun)
		w := add(1)
		if w.AwaitWindow(); time.Since(begun) != time.Minute {
			t.Errorf("parked for %s", time.Since(begun))
		}
		w.Start()
		w.Failed(Attempt{Start: time.Now()}, nil)
		if v, _ := l.verdicts.get("ada"); v.until.time().After(time.Now().Add(time.Minute)) {
			t.Errorf("the window lasts until %s", v.until.time())
		}
	})
}

func TestInstantKeepsMicroseconds(t *testing.T) {
	for _, c := range []struct{ at, want time.Time }{
		{time.Unix(1, 1999), time.Unix(1, 1000)},
		{time.Unix(-1, 999), time.Unix(-1, 0)},
		{time.Time{}, time.Time{}},
		{time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(1601, 1, 1, 0, 0, 0, 0, time.UTC)},
		{time.UnixMilli(math.MaxInt64), time.Date(9999, 12, 31, 23, 59, 59, 807_000_000, time.UTC)},
		{time.UnixMilli(math.MinInt64), time.Date(1, 1, 1, 0, 0, 0, 192_000_000, time.UTC)},
	} {
		if got := instantOf(c.at).time(); !got.Equal(c.want) {
			t.Errorf("%s: %s, want %s", c.at, got, c.want)
		}
	}
}
