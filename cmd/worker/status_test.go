package main

import (
	"strings"
	"testing"

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
