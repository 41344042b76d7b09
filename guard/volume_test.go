package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/guard"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestTheVolumeTripsWithinOneUserOfItsLimit(t *testing.T) {
	for _, limit := range []int{1, 10, 1000} {
		v := guard.NewVolume(guard.VolumeConfig{Max: limit, Window: time.Hour})
		allowed := 0
		for i := range 2 * limit {
			if v.Allow(fmt.Sprint(i), noon.Add(time.Duration(i)*time.Millisecond)) {
				allowed++
			}
		}
		if allowed != limit || !v.Blocked() {
			t.Errorf("limit %d: %d users were allowed, blocked %v", limit, allowed, v.Blocked())
		}
	}
}

func TestUsersAreCountedOnceAndForgottenAfterTheWindow(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 2, Window: time.Hour})
	for i := range 100 {
		if !v.Allow("ada", noon.Add(time.Duration(i)*time.Second)) || !v.Allow("grace", noon) {
			t.Fatal("a user who was counted is refused")
		}
	}
	if !v.Allow("alan", noon.Add(time.Hour+time.Minute)) { // ada and grace are forgotten
		t.Error("the window has passed")
	}
	if s := v.State(noon.Add(time.Hour + time.Minute)); s.Users != 1 || s.Limit != 2 || s.Tripped {
		t.Errorf("%+v", s)
	}
}

func TestATripLastsUntilItIsReleased(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	if !v.Allow("ada", noon) || v.Allow("grace", noon) || v.Allow("ada", noon) {
		t.Fatal("not tripped by the second user, for all")
	}
	later := noon.Add(48 * time.Hour)
	if v.Allow("grace", later) {
		t.Error("time alone has released it")
	}
	if v.Release(guard.Release{Until: later.Add(-time.Hour), MaxUsers: 10}, later) || v.Allow("grace", later) {
		t.Error("a release that has ended has released it")
	}
	if !v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 3}, later) {
		t.Error("not released")
	}
	for i := range 3 {
		if !v.Allow(fmt.Sprint(i), later) {
			t.Errorf("user %d of 3", i)
		}
	}
	if v.Allow("one more", later) {
		t.Error("the release has no limit")
	}
	if v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 3}, later) {
		t.Error("the same release again has released it")
	}
	if !v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 4}, later) || !v.Allow("one more", later) {
		t.Error("a larger one has not")
	}
	// When the release ends, the configured limit counts again.
	if end := later.Add(61 * time.Minute); !v.Allow("after", end) || v.Allow("after that", end) {
		t.Error("the release goes on")
	}
}

func TestObservingStopsNobody(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour, Observe: true})
	for i := range 5 {
		if !v.Allow(fmt.Sprint(i), noon) {
			t.Error("stopped")
		}
	}
	if s := v.State(noon); !s.Tripped || v.Blocked() || s.Users != 1 {
		t.Errorf("%+v", s)
	}
	if !v.Allow("later", noon.Add(2*time.Hour)) || v.State(noon.Add(2*time.Hour)).Tripped {
		t.Error("still told of, though the window has passed")
	}
	off := guard.NewVolume(guard.VolumeConfig{})
	for i := range 10 {
		if !off.Allow(fmt.Sprint(i), noon) {
			t.Error("without a bound somebody is stopped")
		}
	}
}

func TestReleaseFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "release.json")
	for text, ok := range map[string]bool{
		"": true,
		`{"until":"2026-03-01T13:00:00Z","maxUsers":5000,"by":"ada"}`: true,
		`{"until":"2026-03-03T13:00:00Z","maxUsers":5000}`:            false, // too long
		`{"until":"2026-03-01T13:00:00Z"}`:                            false,
		`{`:                                                           false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := guard.ReadRelease(file, noon)
		if (err == nil) != ok || ok && text != "" && (r.MaxUsers != 5000 || r.By != "ada" || !r.Until.Equal(noon.Add(time.Hour))) {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
	}
	for _, r := range []guard.Release{{}, {MaxUsers: 1}, {MaxUsers: 1, Until: noon.Add(25 * time.Hour)}, {Until: noon.Add(time.Hour)}} {
		if r.Check(noon) == nil {
			t.Errorf("%+v was accepted", r)
		}
	}
	if err := (guard.Release{MaxUsers: 1, Until: noon.Add(time.Hour)}).Check(noon); err != nil {
		t.Error(err)
	}
}
