package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"time"
)

// Volume stops the worker before it signs out an implausible number of people: more than Max distinct users within Window trip it,
// and then nobody is called until an operator releases it. It is not safe for concurrent use: whoever lets calls begin owns it.
type Volume struct {
	cfg     VolumeConfig
	seed    maphash.Seed
	counted map[uint64]struct{} // hashes of the users who were called within the window
	order   []counted           // in the order of time; from head on
	head    int
	tripped bool
	release Release
}

// counted is a user, by a hash that takes less than a name (about 40 bytes of memory in all), and when he was called first within the
// window, as Unix time in nanoseconds. Two users with one hash count as one, which nobody will see.
type counted struct {
	user uint64
	at   int64
}

// VolumeConfig bounds the volume.
type VolumeConfig struct {
	// Max is how many distinct users may be called within Window; 0 is no bound.
	Max    int
	Window time.Duration
	// Observe says that a trip is only told, and stops nobody.
	Observe bool
}

// NewVolume returns a Volume that has counted nobody.
func NewVolume(cfg VolumeConfig) *Volume {
	return &Volume{cfg: cfg, counted: map[uint64]struct{}{}, seed: maphash.MakeSeed()}
}

// Allow says whether the user may be called now, and counts him if so. The user who is one too many trips the guard.
func (v *Volume) Allow(user string, now time.Time) bool {
	if v.cfg.Max == 0 {
		return true
	}
	v.forget(now)
	if v.Blocked() {
		return false
	}
	hash := maphash.String(v.seed, user)
	if _, known := v.counted[hash]; known {
		return true
	}
	if len(v.counted) >= v.limit(now) {
		v.tripped = true
		return v.cfg.Observe
	}
	if v.cfg.Observe {
		v.tripped = false
	}
	v.counted[hash] = struct{}{}
	v.order = append(v.order, counted{hash, now.UnixNano()})
	return true
}

// forget drops users whose window has passed.
func (v *Volume) forget(now time.Time) {
	for v.head < len(v.order) && now.UnixNano()-v.order[v.head].at >= int64(v.cfg.Window) {
		delete(v.counted, v.order[v.head].user)
		v.head++
	}
	if v.head > len(v.order)/2 {
		v.order = append(v.order[:0], v.order[v.head:]...)
		v.head = 0
	}
}

func (v *Volume) limit(now time.Time) int {
	if now.Before(v.release.Until) {
		return max(v.cfg.Max, v.release.MaxUsers)
	}
	return v.cfg.Max
}

// Blocked says that nobody may be called until the guard is released.
func (v *Volume) Blocked() bool { return v.tripped && !v.cfg.Observe }

// Release lets calls go on, up to the release's own limit until it ends; a release that has ended, or is none, changes nothing. It says
// whether the guard was tripped and is not any more.
func (v *Volume) Release(r Release, now time.Time) (released bool) {
	if r == v.release || !now.Before(r.Until) {
		return false
	}
	v.release = r
	v.forget(now)
	if !v.tripped || len(v.counted) >= v.limit(now) {
		return false
	}
	v.tripped = false
	return true
}

// Trip stops calls until a release, since all replicas together have called as many users as may be.
func (v *Volume) Trip() { v.tripped = true }

// VolumeState is a picture of the volume.
type VolumeState struct {
	// Users were called within the window; Limit is how many may be.
	Users, Limit int
	// Tripped says that one more wanted to be called than is allowed.
	Tripped bool
}

// State returns a picture of the volume.
func (v *Volume) State(now time.Time) VolumeState {
	v.forget(now)
	return VolumeState{Users: len(v.counted), Limit: v.limit(now), Tripped: v.tripped}
}

// MaxRelease bounds how long a release lasts.
const MaxRelease = 24 * time.Hour

// Release is an operator's word that a larger number of people is meant to be signed out.
type Release struct {
	// Until is when it ends, MaxUsers how many distinct users may be called within the window until then.
	Until    time.Time `json:"until"`
	MaxUsers int       `json:"maxUsers"`
	// By, At and Reason are for the record.
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// ReadRelease reads a release file; an empty one holds none. A release that would last longer than MaxRelease from now is refused.
func ReadRelease(file string, now time.Time) (Release, error) {
	text, err := readFile(file)
	if err != nil {
		return Release{}, err
	}
	if len(text) == 0 {
		return Release{}, nil
	}
	var r Release
	if err := json.Unmarshal(text, &r); err != nil {
		return Release{}, fmt.Errorf("%s: %w", file, err)
	}
	r.Until, r.At = r.Until.UTC(), r.At.UTC()
	switch {
	case r.MaxUsers < 1:
		return Release{}, fmt.Errorf("%s: maxUsers is %d", file, r.MaxUsers)
	case r.Until.Sub(now) > MaxRelease:
		return Release{}, fmt.Errorf("%s: it would last until %s, which is more than %s away", file, r.Until.Format(time.RFC3339), MaxRelease)
	}
	return r, nil
}

// Check says what is wrong with a release that is about to be written.
func (r Release) Check(now time.Time) error {
	switch {
	case r.MaxUsers < 1:
		return errors.New("a release needs a number of users of at least 1")
	case !r.Until.After(now) || r.Until.Sub(now) > MaxRelease:
		return fmt.Errorf("a release lasts from now on and at most %s", MaxRelease)
	}
	return nil
}
