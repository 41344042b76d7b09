package console

import (
	"strconv"
	"time"

	"github.com/session-revoker/session-revoker/replay"
)

// histogram counts dead letters by the time at which they were enqueued.
type histogram struct {
	from    time.Time
	step    time.Duration
	bars    []int // dead letters that the filter picks
	beneath []int // all others that are shown in gray
}

// minBars and maxBars limit the number of bars.
const (
	minBars = 24
	maxBars = 60
)

// steps are widths of bars that people can name. Each is at most two and a half times the one
// before, so that one of them gives a number of bars between the limits.
var steps = []time.Duration{
	10 * time.Second, 20 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute, 10 * time.Minute, 15 * time.Minute,
	30 * time.Minute, time.Hour, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour, 2 * 24 * time.Hour,
	4 * 24 * time.Hour, 7 * 24 * time.Hour, 14 * 24 * time.Hour, 30 * 24 * time.Hour,
}

// span is the time that histograms show.
type span struct {
	from time.Time
	step time.Duration
	n    int
}

// spanOf returns a span that holds all groups. What is too old for the widest bars counts in the
// first one.
func spanOf(groups []replay.Group) span {
	if len(groups) == 0 {
		return span{}
	}
	oldest, newest := groups[0].Oldest, groups[0].Newest
	for _, g := range groups {
		if g.Oldest.Before(oldest) {
			oldest = g.Oldest
		}
		if g.Newest.After(newest) {
			newest = g.Newest
		}
	}
	s := span{}
	for _, s.step = range steps {
		last := newest.UTC().Truncate(s.step)
		s.n = max(minBars, int(last.Sub(oldest.UTC().Truncate(s.step))/s.step)+1)
		if s.from = last.Add(-time.Duration(s.n-1) * s.step); s.n <= maxBars {
			return s
		}
	}
	s.n = maxBars
	s.from = newest.UTC().Truncate(s.step).Add(-(maxBars - 1) * s.step)
	return s
}

func (s span) histogram() histogram {
	return histogram{from: s.from, step: s.step, bars: make([]int, s.n), beneath: make([]int, s.n)}
}

func (h *histogram) add(t time.Time) { h.addTo(t, true) }

// addTo counts one dead letter. What is older than the span counts in its first bar.
func (h *histogram) addTo(t time.Time, picked bool) {
	if len(h.bars) == 0 {
		return
	}
	i := min(max(0, int(t.Sub(h.from)/h.step)), len(h.bars)-1)
	if picked {
		h.bars[i]++
	} else {
		h.beneath[i]++
	}
}

// most is the height of the highest bar.
func (h histogram) most() int {
	most := 1
	for i := range h.bars {
		most = max(most, h.bars[i]+h.beneath[i])
	}
	return most
}

// end is the end of the last bar.
func (h histogram) end() time.Time { return h.from.Add(time.Duration(len(h.bars)) * h.step) }

// height is the height of a bar of n, in a box of 100. A bar can always be seen.
func (h histogram) height(n int) string {
	return strconv.FormatFloat(max(2, 100*float64(n)/float64(h.most())), 'f', 1, 64)
}

// y is the top of a bar of n.
func (h histogram) y(n int) string {
	return strconv.FormatFloat(100-max(2, 100*float64(n)/float64(h.most())), 'f', 1, 64)
}
