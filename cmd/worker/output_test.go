package main

import (
	"strings"
	"testing"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/session-revoker/session-revoker/status"
)

// Those whom the guard stops wait for an operator: no forecast is true for them.
func TestStatusForecastsNothingForPeopleWhomTheGuardStops(t *testing.T) {
	s := status.Status{UsersWaiting: 3, Replicas: []status.Replica{{Guard: []status.Guard{{Type: "device.lost", Tripped: true}}}}}
	var text strings.Builder
	printStatus(&text, s)
	if got := strings.Join(strings.Fields(text.String()), " "); !strings.Contains(got, "wait for a release (worker guard release)") ||
		strings.Contains(got, "the last of them for") {
		t.Errorf("%s", text.String())
	}
}

// The group without a name has its dash in a narrow terminal as well.
func TestBlockBeginsWithTheFirstCellAlways(t *testing.T) {
	if got := block(table.Row{"USER", "DATE", "ANNOUNCED"}, table.Row{"ada", "2026-03-01 12:00:00Z", "2026-02-01 12:00:00Z"}, 70); got !=
		"ada  2026-03-01 12:00:00Z  announced 2026-02-01 12:00:00Z" {
		t.Errorf("%q", got)
	}
	if got := block(table.Row{"USER", "COUNT", "OLDEST"}, table.Row{"–", 201, "–"}, 40); got != "–  count 201" {
		t.Errorf("%q", got)
	}
}
