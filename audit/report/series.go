package report

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Times are measured times. Percentiles are those of the nearest rank; they are at most 1 % higher
// than exact ones, and never lower.
type Times struct {
	Count int `json:"count"`
	// Within is the number of times that are not longer than the target.
	Within     int     `json:"within"`
	P50Seconds float64 `json:"p50Seconds"`
	P90Seconds float64 `json:"p90Seconds"`
	P99Seconds float64 `json:"p99Seconds"`
	MaxSeconds float64 `json:"maxSeconds"`
}

// series collects times in buckets, each 1 % wider than the one before. So a log of any size needs a
// few thousand buckets at most, and a small log has one bucket for each time and exact percentiles.
type series struct {
	buckets map[int]bucket
	within  int
	count   int
}

type bucket struct {
	count int
	max   time.Duration
}

// step is the ratio of two buckets.
const step = 1.01

// add adds a time, which is not negative.
func (s *series) add(d, target time.Duration) {
	if s.buckets == nil {
		s.buckets = map[int]bucket{}
	}
	key := int(math.Log(float64(d)/float64(time.Millisecond)+1) / math.Log(step))
	b := s.buckets[key]
	s.buckets[key] = bucket{b.count + 1, max(b.max, d)}
	s.count++
	if d <= target {
		s.within++
	}
}

// times returns the result.
func (s *series) times() Times {
	t := Times{Count: s.count, Within: s.within}
	if s.count == 0 {
		return t
	}
	keys := slices.SortedFunc(maps.Keys(s.buckets), cmp.Compare[int])
	at := func(share float64) float64 {
		rank := int(math.Ceil(share * float64(s.count)))
		for _, key := range keys {
			if rank -= s.buckets[key].count; rank <= 0 {
				return s.buckets[key].max.Seconds()
			}
		}
		return s.buckets[keys[len(keys)-1]].max.Seconds()
	}
	t.P50Seconds, t.P90Seconds, t.P99Seconds, t.MaxSeconds = at(.5), at(.9), at(.99), at(1)
	return t
}
