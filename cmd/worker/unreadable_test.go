package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

// TestDLQReplayAndImportNameWhatTheyLeaveOut checks that the commands also give the reason.
func TestDLQReplayAndImportNameWhatTheyLeaveOut(t *testing.T) {
	var printed bytes.Buffer
	replayOutcome{RunID: "run", To: "events", Plan: &replay.Plan{
		Source: "events", Selected: 2, Unreadable: 1, Mended: 1,
		Skipped: []string{"sequence number 7: its body cannot be read (a key), so there is nothing to send"},
	}, Result: replay.Result{Replayed: 2}}.print(&printed)
	for _, want := range []string{
		"2 of 2 dead letters", "1 left out because of an unreadable body", "1 without a part",
		"left out: sequence number 7: its body cannot be read (a key)",
	} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the output does not contain %q:\n%s", want, &printed)
		}
	}

	text := `{"deadLetter":{"unreadable":"why"},"originalAmqp":"AAEC"}
{"body":{}}
`
	read, err := readRecords([]byte(text), 1, replay.NewRun(""))
	if err != nil || len(read.messages) != 1 || !slices.Equal(read.lines, []int{2}) || !slices.Equal(read.skipped, []int{1}) {
		t.Errorf("%v, %d messages, %v: %v", read.lines, len(read.messages), read.skipped, err)
	}
	printed.Reset()
	sendOutcome{Sent: 1, Of: 1, To: "events", Skipped: read.skipped}.print(&printed)
	if !strings.Contains(printed.String(), "line 1 left out: the message could not be read") {
		t.Errorf("%s", &printed)
	}
}

func TestDLQPurgeNamesWhatItLeaves(t *testing.T) {
	var printed bytes.Buffer
	purgeOutcome{Export: "f", PurgeResult: replay.PurgeResult{
		Purged: 1, Refused: 1,
		Problems: []string{"sequence number 7: \u202ewhy"},
	}}.print(&printed)
	for _, want := range []string{"1 dead letter removed", "1 not removed", "sequence number 7: ·why"} {
		if !strings.Contains(printed.String(), want) {
			t.Errorf("the output does not contain %q:\n%s", want, &printed)
		}
	}
}

func TestDLQShowsUnreadableLetters(t *testing.T) {
	for name, c := range map[string]struct {
		letter replay.Letter
		want   []string
	}{
		"unreadable": {
			replay.Letter{Unreadable: "a map with a key that is a list"},
			[]string{"Unreadable         a map with a key that is a list: the worker cannot handle it", "(cannot be read: a map"},
		},
		"mended": {
			replay.Letter{Mended: "property grade"},
			[]string{"Partly unreadable  property grade: the worker ignores this part"},
		},
		"forged": {
			replay.Letter{NotBelieved: map[string]any{deadletter.PropertyFailed: "0"}},
			[]string{"Not believed: properties with the worker's names that the worker did not write\n  revoker-failed-events = \"0\""},
		},
	} {
		var printed bytes.Buffer
		showLetter(&printed, false, replay.Found{Letter: c.letter}, replay.Record{Letter: c.letter, BodyText: new("x")},
			deadletter.GuideTo("UserNotFound"))
		for _, want := range c.want {
			if !strings.Contains(printed.String(), want) {
				t.Errorf("%s: the output does not contain %q:\n%s", name, want, &printed)
			}
		}
	}
	if row := letterRow(replay.Letter{Unreadable: "x", Description: "why"}, false); !slices.Contains(row, any("[unreadable] why")) {
		t.Errorf("%v", row)
	}
}

func TestDeferredAgeIsNeverNegative(t *testing.T) {
	now := time.Now()
	if m := newDeferred(replay.Letter{Enqueued: now.Add(time.Hour)}, now); m.AgeSeconds != 0 {
		t.Errorf("%+v", m)
	}
	if m := newDeferred(replay.Letter{Enqueued: now.Add(-time.Hour)}, now); m.AgeSeconds != 3600 || m.row(false)[2] != "1h0m0s" {
		t.Errorf("%+v", m)
	}
}
