package guard_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/guard"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const (
	stolen = "device.stolen"
	leaver = "user.offboarded"
)

// signOut signs a user out if the volume grants it.
func signOut(v *guard.Volume, kind, user string, now time.Time) guard.Answer {
	r, answer := v.Reserve(kind, user, now)
	v.Confirm(r, now)
	return answer
}

// want checks the state of one kind.
func want(t *testing.T, v *guard.Volume, now time.Time, state guard.KindState) {
	t.Helper()
	for _, s := range v.State(now) {
		if s.Kind == state.Kind {
			if s != state {
				t.Errorf("%+v, want %+v", s, state)
			}
			return
		}
	}
	t.Errorf("nothing of %s in %+v", state.Kind, v.State(now))
}

func TestVolumeTripsWithinOneUserOfItsLimit(t *testing.T) {
	for _, limit := range []int{1, 10, 1000} {
		v := guard.NewVolume(guard.VolumeConfig{Max: limit, Window: time.Hour})
		granted := 0
		for i := range 2 * limit {
			if signOut(v, stolen, fmt.Sprint(i), noon.Add(time.Duration(i)*time.Millisecond)) == guard.Granted {
				granted++
			}
			if v.Blocked(stolen) != (i >= limit) {
				t.Fatalf("limit %d: blocked %v after user %d", limit, v.Blocked(stolen), i+1)
			}
		}
		if granted != limit {
			t.Errorf("limit %d: %d users were signed out", limit, granted)
		}
	}
}

func TestVolumeCountsEachKindByItself(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 2, Window: time.Hour})
	for i := range 5 {
		signOut(v, leaver, fmt.Sprint(i), noon)
	}
	if !v.Blocked(leaver) || v.Blocked(stolen) {
		t.Fatalf("blocked: leavers %v, stolen devices %v", v.Blocked(leaver), v.Blocked(stolen))
	}
	if signOut(v, stolen, "4", noon) != guard.Granted || signOut(v, stolen, "0", noon) != guard.Granted {
		t.Error("a stolen device waits for leavers")
	}
	want(t, v, noon, guard.KindState{Kind: stolen, Users: 2, Limit: 2})
	want(t, v, noon, guard.KindState{Kind: leaver, Users: 2, Limit: 2, Tripped: true})
	v.Trip(stolen)
	if !v.Blocked(stolen) || signOut(v, stolen, "0", noon) != guard.Tripped {
		t.Error("not tripped by Trip")
	}
}

func TestVolumeIsNotTrippedByUsersWhoCannotBeSignedOut(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 3, Window: time.Hour})
	signOut(v, leaver, "ada", noon)
	for i := range 1000 {
		r, answer := v.Reserve(leaver, fmt.Sprint("unknown ", i), noon)
		if answer != guard.Granted {
			t.Fatalf("unknown user %d: %v", i, answer)
		}
		v.Refund(r)
	}
	r, _ := v.Reserve(leaver, "ada", noon)
	v.Refund(r) // a user who was counted stays counted
	want(t, v, noon, guard.KindState{Kind: leaver, Users: 1, Limit: 3})
}

func TestVolumeIsNotExceededByAttemptsSideBySide(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 3, Window: time.Hour})
	signOut(v, leaver, "counted", noon)
	ada, _ := v.Reserve(leaver, "ada", noon)
	grace, answer := v.Reserve(leaver, "grace", noon)
	if answer != guard.Granted {
		t.Fatalf("the third of three: %v", answer)
	}
	if _, answer := v.Reserve(leaver, "alan", noon); answer != guard.Wait || v.Blocked(leaver) {
		t.Errorf("one more than the limit: %v, blocked %v; want a wait for the attempts in flight", answer, v.Blocked(leaver))
	}
	if r, answer := v.Reserve(leaver, "counted", noon); answer != guard.Granted {
		t.Errorf("a user who was counted: %v", answer)
	} else {
		v.Confirm(r, noon)
	}
	again, answer := v.Reserve(leaver, "ada", noon)
	if answer != guard.Granted {
		t.Errorf("a user who has a reservation: %v", answer)
	}
	v.Refund(again)
	if _, answer := v.Reserve(leaver, "alan", noon); answer != guard.Wait {
		t.Errorf("the end of a second attempt has freed the reservation of the first: %v", answer)
	}
	v.Refund(ada)
	if signOut(v, leaver, "alan", noon) != guard.Granted {
		t.Error("the reservation was not refunded")
	}
	v.Confirm(grace, noon)
	want(t, v, noon, guard.KindState{Kind: leaver, Users: 3, Limit: 3})
	if _, answer := v.Reserve(leaver, "edsger", noon); answer != guard.Tripped {
		t.Errorf("one more than the limit: %v", answer)
	}
	// Attempts in flight when the kind trips are counted all the same.
	v = guard.NewVolume(guard.VolumeConfig{Max: 3, Window: time.Hour})
	r, _ := v.Reserve(leaver, "ada", noon)
	v.Trip(leaver)
	v.Confirm(r, noon)
	want(t, v, noon, guard.KindState{Kind: leaver, Users: 1, Limit: 3, Tripped: true})
}

func TestVolumeBoundsKinds(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	for i := range 1000 {
		signOut(v, fmt.Sprint("type ", i), "ada", noon)
	}
	if states := v.State(noon); len(states) != 64 {
		t.Errorf("%d kinds, want 64", len(states))
	}
	if signOut(v, "one more", "grace", noon); !v.Blocked("another") || v.Blocked("type 1") {
		t.Error("the other kinds are not counted together")
	}
	released := v.Release(guard.Release{Until: noon.Add(time.Hour), MaxUsers: 9, Type: "another"}, noon)
	if !slices.Equal(released, []string{"other"}) {
		t.Errorf("released %q", released)
	}
}

func TestVolumeCountsUsersOnceAndForgetsThemAfterTheWindow(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 2, Window: time.Hour})
	for i := range 100 {
		if signOut(v, stolen, "ada", noon.Add(time.Duration(i)*time.Second)) != guard.Granted ||
			signOut(v, stolen, "grace", noon) != guard.Granted {
			t.Fatal("a user who was counted is refused")
		}
	}
	later := noon.Add(time.Hour)
	want(t, v, later.Add(-1), guard.KindState{Kind: stolen, Users: 2, Limit: 2})
	r, _ := v.Reserve(stolen, "ada", later.Add(-1))
	v.Confirm(r, later) // ada and grace are forgotten, and ada was signed out once more
	if signOut(v, stolen, "alan", later) != guard.Granted {
		t.Error("the window has passed")
	}
	want(t, v, later, guard.KindState{Kind: stolen, Users: 2, Limit: 2})
}

func TestVolumeForgetsAUserAWindowAfterTheFirstTime(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 2, Window: time.Hour})
	for _, minute := range []time.Duration{0, 30, 61} {
		signOut(v, stolen, "ada", noon.Add(minute*time.Minute))
	}
	want(t, v, noon.Add(120*time.Minute), guard.KindState{Kind: stolen, Users: 1, Limit: 2})
	want(t, v, noon.Add(121*time.Minute), guard.KindState{Kind: stolen, Limit: 2})
}

func TestVolumeKnowsTheKindsOfTheAllowListFromTheStart(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Kinds: []string{stolen, leaver}, Max: 5, Window: time.Hour})
	want(t, v, noon, guard.KindState{Kind: stolen, Limit: 5})
	want(t, v, noon, guard.KindState{Kind: leaver, Limit: 5})
	v.Confirm(guard.Reservation{}, noon)
	v.Refund(guard.Reservation{}) // the zero Reservation: nothing happens
	want(t, v, noon, guard.KindState{Kind: leaver, Limit: 5})
}

func TestVolumeTripLastsUntilItIsReleased(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	if signOut(v, stolen, "ada", noon) != guard.Granted || signOut(v, stolen, "grace", noon) != guard.Tripped ||
		signOut(v, stolen, "ada", noon) != guard.Tripped {
		t.Fatal("not tripped by the second user")
	}
	later := noon.Add(48 * time.Hour)
	if signOut(v, stolen, "grace", later) != guard.Tripped {
		t.Error("time alone has released it")
	}
	if v.Release(guard.Release{Until: later.Add(-time.Hour), MaxUsers: 10}, later) != nil ||
		v.Release(guard.Release{Until: later, MaxUsers: 10}, later) != nil {
		t.Error("a release that has ended has released it")
	}
	if released := v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 3}, later); len(released) != 1 || released[0] != stolen {
		t.Errorf("released %q", released)
	}
	for i := range 3 {
		if signOut(v, stolen, fmt.Sprint(i), later) != guard.Granted {
			t.Errorf("user %d of 3", i)
		}
	}
	if signOut(v, stolen, "one more", later) != guard.Tripped {
		t.Error("the release has no limit")
	}
	if v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 3}, later) != nil {
		t.Error("the same release again has released it")
	}
	if v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 3, By: "ada"}, later) != nil || !v.Blocked(stolen) {
		t.Error("a release for no more users than were signed out has released it")
	}
	if v.Release(guard.Release{Until: later.Add(time.Hour), MaxUsers: 4}, later) == nil ||
		signOut(v, stolen, "one more", later) != guard.Granted {
		t.Error("a release for more users has not released it")
	}
	// When the release ends, the configured limit counts again.
	if end := later.Add(61 * time.Minute); signOut(v, stolen, "after", end) != guard.Granted ||
		signOut(v, stolen, "after that", end) != guard.Tripped {
		t.Error("the release goes on")
	}
}

func TestVolumeSameReleaseDoesNotReleaseTheNextTrip(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Minute})
	r := guard.Release{Until: noon.Add(time.Hour), MaxUsers: 2}
	if v.Release(r, noon) != nil {
		t.Error("released although nothing was tripped")
	}
	for i, answer := range []guard.Answer{guard.Granted, guard.Granted, guard.Tripped} { // a release applies before a trip, too
		if got := signOut(v, stolen, fmt.Sprint(i), noon); got != answer {
			t.Errorf("user %d: %v, want %v", i, got, answer)
		}
	}
	if later := noon.Add(2 * time.Minute); v.Release(r, later) != nil || !v.Blocked(stolen) { // the window has passed
		t.Error("the release was used twice")
	}
}

func TestVolumeReleaseOfOneKindLeavesTheOthersTripped(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	for _, kind := range []string{leaver, stolen} {
		signOut(v, kind, "ada", noon)
		signOut(v, kind, "grace", noon)
	}
	passed := noon.Add(time.Hour) // the window
	released := v.Release(guard.Release{Until: passed.Add(time.Hour), MaxUsers: 5, Type: leaver}, passed)
	if len(released) != 1 || !v.Blocked(stolen) {
		t.Errorf("released %q, stolen devices blocked %v", released, v.Blocked(stolen))
	}
	v = guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	for _, kind := range []string{leaver, stolen} {
		signOut(v, kind, "ada", noon)
		signOut(v, kind, "grace", noon)
	}
	until := noon.Add(time.Hour)
	released = v.Release(guard.Release{Until: until, MaxUsers: 5, Type: leaver}, noon)
	if !slices.Equal(released, []string{leaver}) || !v.Blocked(stolen) {
		t.Errorf("released %q, stolen devices blocked %v", released, v.Blocked(stolen))
	}
	want(t, v, noon, guard.KindState{Kind: leaver, Users: 1, Limit: 5})
	want(t, v, noon, guard.KindState{Kind: stolen, Users: 1, Limit: 1, Tripped: true})
	if released := v.Release(guard.Release{Until: until, MaxUsers: 3}, noon); len(released) != 1 || released[0] != stolen {
		t.Errorf("released %q", released)
	}
	want(t, v, noon, guard.KindState{Kind: leaver, Users: 1, Limit: 3}) // the release of all has replaced it
}

func TestVolumeObservingStopsNobody(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour, Observe: true})
	for i := range 5 {
		if signOut(v, stolen, fmt.Sprint(i), noon) != guard.Granted {
			t.Error("stopped")
		}
	}
	if v.Blocked(stolen) {
		t.Error("blocked")
	}
	want(t, v, noon, guard.KindState{Kind: stolen, Users: 1, Limit: 1, Tripped: true})
	later := noon.Add(2 * time.Hour)
	signOut(v, stolen, "later", later)
	want(t, v, later, guard.KindState{Kind: stolen, Users: 1, Limit: 1}) // no longer tripped
	off := guard.NewVolume(guard.VolumeConfig{})
	for i := range 10 {
		if signOut(off, stolen, fmt.Sprint(i), noon) != guard.Granted {
			t.Error("a Volume without a limit has stopped a user")
		}
	}
}

func TestVolumeNeedsFewBytesPerUser(t *testing.T) {
	const users, most = 100_000, 64 // bytes
	v := guard.NewVolume(guard.VolumeConfig{Max: users, Window: time.Hour})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range users {
		signOut(v, stolen, strconv.Itoa(i), noon)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / users; each > most {
		t.Errorf("%d bytes, want at most %d", each, most)
	}
	want(t, v, noon, guard.KindState{Kind: stolen, Users: users, Limit: users})
}

func TestReadRelease(t *testing.T) {
	file := filepath.Join(t.TempDir(), "release.json")
	for text, ok := range map[string]bool{
		"": true,
		`{"until":"2026-03-01T13:00:00Z","maxUsers":5000,"by":"ada"}`: true,
		`{"until":"2026-03-01T18:30:00+05:30","maxUsers":5000,` +
			`"by":"ada","at":"2026-03-01T17:30:00+05:30","type":"user.offboarded"}`: true,
		`{"until":"2026-03-03T13:00:00Z","maxUsers":5000}`: false, // too long
		`{"until":"2026-03-01T13:00:00Z"}`:                 false,
		`{`:                                                false,
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := guard.ReadRelease(file, noon)
		if (err == nil) != ok || ok && text != "" && (r.MaxUsers != 5000 || r.By != "ada" || !r.Until.Equal(noon.Add(time.Hour))) {
			t.Errorf("%s: %+v, %v", text, r, err)
		}
		if again, _ := guard.ReadRelease(file, noon); again != r { // otherwise it would release every few seconds
			t.Errorf("%s: reading it twice returns two releases: %+v, %+v", text, r, again)
		}
	}
	if _, err := guard.ReadRelease(filepath.Join(t.TempDir(), "none"), noon); err == nil {
		t.Error("no error for a file that cannot be read")
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

func TestVolumeLimitIsThatOfOneKindUntilItsReleaseEnds(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Kinds: []string{stolen, leaver}, Max: 10, Window: time.Hour})
	until := noon.Add(time.Hour)
	v.Release(guard.Release{Until: until, MaxUsers: 50, Type: leaver}, noon)
	for _, c := range []struct {
		kind string
		now  time.Time
		want int
	}{{stolen, noon, 10}, {leaver, noon, 50}, {leaver, until, 10}, {"unheard of", noon, 10}} {
		if got := v.Limit(c.kind, c.now); got != c.want {
			t.Errorf("the limit of %s at %v is %d, want %d", c.kind, c.now, got, c.want)
		}
	}
	if v.Release(guard.Release{Until: until, MaxUsers: 20}, noon); v.Limit("unheard of", noon) != 20 {
		t.Errorf("a release of all kinds leaves %d to a kind that was not counted before", v.Limit("unheard of", noon))
	}
}

func TestVolumeLimitOfKindsBeyondTheBoundIsThatOfTheirSharedName(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	for i := range 100 {
		v.Reserve(fmt.Sprint("kind ", i), "ada", noon)
	}
	v.Release(guard.Release{Until: noon.Add(time.Hour), MaxUsers: 7, Type: "kind 99"}, noon)
	if own, shared := v.Limit("kind 0", noon), v.Limit("kind 98", noon); own != 1 || shared != 7 {
		t.Errorf("limits %d and %d, want 1 and 7", own, shared)
	}
}

func TestVolumeKindsBeyondTheBoundShareAName(t *testing.T) {
	v := guard.NewVolume(guard.VolumeConfig{Max: 1, Window: time.Hour})
	for i := range 100 {
		v.Reserve(fmt.Sprint("kind ", i), "ada", time.Now())
	}
	if v.Name("kind 0") != "kind 0" || v.Name("kind 98") != "other" || v.Name("kind 99") != v.Name("unheard of") {
		t.Errorf("%q, %q, %q", v.Name("kind 0"), v.Name("kind 98"), v.Name("kind 99"))
	}
}
