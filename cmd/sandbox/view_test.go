package main

import (
	"bytes"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/cmd/internal/help"
	"github.com/session-revoker/session-revoker/telemetry"
)

func TestViewSaysInWordsWhoIsSignedOutAndWhoWaits(t *testing.T) {
	full := math.Inf(1)
	for want, c := range map[string]struct {
		people, letters int
		state           telemetry.State
	}{
		"0 people signed out":                      {state: telemetry.State{PerSecond: full}},
		"1 person signed out, 2 wait":              {1, 0, telemetry.State{Pending: 2, PerSecond: full}},
		"2 people signed out, 1 again in a moment": {2, 0, telemetry.State{Pending: 1, Parked: 1, PerSecond: full}},
		"3 people signed out, 1 waits (Graph allows 4.3 a second), 12 dead letters": {
			3, 12, telemetry.State{Pending: 1, PerSecond: 4.3},
		},
		"3 people signed out, 5 wait (Graph throttles for 8s), 1 again in a moment, 1 dead letter": {
			3, 1, telemetry.State{Pending: 6, Parked: 1, PerSecond: 4.3, HeldFor: 8 * time.Second},
		},
		"3 people signed out, 5 wait (Graph is not usable)": {3, 0, telemetry.State{Pending: 5, BreakerOpen: true}},
		"3 people signed out, 5 wait (the volume guard has tripped)": {
			3, 0, telemetry.State{Pending: 5, PerSecond: full, Guard: []telemetry.Guard{{Tripped: true}}},
		},
	} {
		if got := answer(c.people, c.state, c.letters); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestHelpFitsInItsWidth(t *testing.T) {
	var text bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, &text, &text); code != 0 {
		t.Fatal(code)
	}
	for line := range strings.Lines(text.String()) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > help.Width {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}
