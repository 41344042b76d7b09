package console

import (
	"testing"
	"time"
)

// A console that has just started has not seen an hour.
func TestNowSaysSinceWhenItCounts(t *testing.T) {
	start := time.Date(2026, 3, 1, 14, 5, 0, 0, time.UTC)
	m := nowModel{now: start.Add(4 * time.Minute), points: []point{{at: start}}}
	if got := m.counted(); got != "since 14:05 UTC" {
		t.Errorf("after 4 minutes: %q", got)
	}
	m.now = start.Add(time.Hour)
	if got := m.counted(); got != "in the last hour" {
		t.Errorf("after an hour: %q", got)
	}
}
