package guard

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"time"
)

// maxKinds bounds how many types of events are counted by themselves. All others, which no
// reasonable allow-list has, are counted together as otherKind.
const (
	maxKinds  = 64
	otherKind = "other"
)

// Volume is the volume guard: it stops the worker before it signs out an implausible number of
// people. It counts distinct users for each type of event (kind). When more than Max of them are to
// be signed out within Window for a kind, that kind trips: no attempt is made for it until an
// operator releases it. Other kinds go on.
//
// A user is counted in two steps: Reserve before the attempt, then Confirm or Refund, depending on
// the answer. So users who cannot be signed out do not trip the guard, and attempts side by side
// cannot exceed the limit.
//
// It is not safe for concurrent use: the owner must serialize all calls.
type Volume struct {
	cfg   VolumeConfig
	seed  maphash.Seed
	kinds map[string]*kind
	last  Release // the last one given to Release
	all   Release // the one of all kinds
}

// kind is the count for one type of event.
type kind struct {
	counted  map[uint64]struct{} // hashes of the users who were signed out within the window
	order    []counted           // in the order in which they were counted; entries before head are dropped
	head     int
	reserved map[uint64]int // attempts in flight for users who are not counted yet
	tripped  bool
	release  Release // the one of this kind alone
}

// counted is a user, by a hash that takes less memory than a name (about 40 bytes in all), and when
// they were first signed out within the window, as Unix time in nanoseconds. Two users with the
// same hash count as one; the chance is negligible.
type counted struct {
	user uint64
	at   int64
}

// VolumeConfig bounds the volume.
type VolumeConfig struct {
	// Kinds are the types of events, the most urgent first. They are counted from the start, so
	// they do not count as otherKind; other types are counted from their first use on.
	Kinds []string
	// Max is how many distinct users may be signed out within Window for each kind; 0 is no limit.
	Max    int
	Window time.Duration
	// Observe reports whether a trip is only reported, and stops nothing.
	Observe bool
}

// NewVolume returns a Volume that has counted nobody.
func NewVolume(cfg VolumeConfig) *Volume {
	v := &Volume{cfg: cfg, kinds: map[string]*kind{}, seed: maphash.MakeSeed()}
	for _, name := range cfg.Kinds {
		v.kind(name)
	}
	return v
}

// Answer is the answer to Reserve.
type Answer int

// The answers.
const (
	// Granted: the attempt may begin; Confirm or Refund must follow.
	Granted Answer = iota
	// Wait: attempts in flight may use up the limit. Ask again when one of them has been confirmed
	// or refunded.
	Wait
	// Tripped: no attempt may be made for this kind until it is released.
	Tripped
)

// Reservation reserves one of the limit for a user during one attempt. The zero Reservation
// reserves nothing, and confirming or refunding it does nothing.
type Reservation struct {
	kind  *kind
	user  uint64
	isNew bool // the user was not counted yet, so the reservation uses up one of the limit
}

// Reserve asks whether an attempt may be made for a user because of an event of the kind.
func (v *Volume) Reserve(name, user string, now time.Time) (Reservation, Answer) {
	if v.cfg.Max == 0 {
		return Reservation{}, Granted
	}
	k := v.kind(name)
	v.forget(k, now)
	if v.Blocked(name) {
		return Reservation{}, Tripped
	}
	r := Reservation{kind: k, user: maphash.String(v.seed, user)}
	if _, counted := k.counted[r.user]; counted {
		return r, Granted
	}
	_, reserved := k.reserved[r.user]
	switch limit := v.limit(k, now); {
	case v.cfg.Observe, reserved, len(k.counted)+len(k.reserved) < limit:
		k.reserved[r.user]++
		r.isNew = true
		return r, Granted
	case len(k.counted) < limit:
		return Reservation{}, Wait
	}
	k.tripped = true
	return Reservation{}, Tripped
}

// Confirm counts the user, who was signed out or may have been: an attempt without an answer
// counts, too.
func (v *Volume) Confirm(r Reservation, now time.Time) {
	if r.kind == nil {
		return
	}
	k := r.kind
	v.Refund(r)
	v.forget(k, now)
	if _, counted := k.counted[r.user]; counted {
		return
	}
	if v.cfg.Observe {
		if k.tripped = len(k.counted) >= v.limit(k, now); k.tripped {
			return
		}
	}
	k.counted[r.user] = struct{}{}
	k.order = append(k.order, counted{r.user, now.UnixNano()})
}

// Refund gives the reservation back, because the answer shows that nobody was signed out, or
// because no attempt was made. A user who was counted before stays counted.
func (v *Volume) Refund(r Reservation) {
	if !r.isNew {
		return
	}
	if r.kind.reserved[r.user]--; r.kind.reserved[r.user] <= 0 {
		delete(r.kind.reserved, r.user)
	}
}

// Name returns the name under which a kind is counted: beyond a number of kinds, the others are
// counted together.
func (v *Volume) Name(kind string) string {
	if v.kinds[kind] == nil && len(v.kinds) >= maxKinds-1 {
		return otherKind
	}
	return kind
}

// kind returns the count for a name.
func (v *Volume) kind(name string) *kind {
	name = v.Name(name)
	if k := v.kinds[name]; k != nil {
		return k
	}
	k := &kind{counted: map[uint64]struct{}{}, reserved: map[uint64]int{}}
	v.kinds[name] = k
	return k
}

// forget drops users whose window has passed.
func (v *Volume) forget(k *kind, now time.Time) {
	for k.head < len(k.order) && now.UnixNano()-k.order[k.head].at >= int64(v.cfg.Window) {
		delete(k.counted, k.order[k.head].user)
		k.head++
	}
	if k.head > len(k.order)/2 {
		k.order = append(k.order[:0], k.order[k.head:]...)
		k.head = 0
	}
}

// limit returns how many users may be signed out, with the releases that have not ended.
func (v *Volume) limit(k *kind, now time.Time) int {
	limit := v.cfg.Max
	for _, r := range []Release{v.all, k.release} {
		if now.Before(r.Until) {
			limit = max(limit, r.MaxUsers)
		}
	}
	return limit
}

// Limit returns how many distinct users may be signed out within Window for the kind.
func (v *Volume) Limit(name string, now time.Time) int { return v.limit(v.kind(name), now) }

// Blocked reports whether no attempt may be made for the kind until it is released.
func (v *Volume) Blocked(name string) bool { return v.kind(name).tripped && !v.cfg.Observe }

// Trip trips the kind, because all replicas together have signed out as many users as the limit
// allows.
func (v *Volume) Trip(name string) { v.kind(name).tripped = true }

// Release applies an operator's release: attempts go on, up to the release's own limit until it
// ends. A release that has ended, that is the same as the last one, or that is the zero Release
// changes nothing. A later release of a kind replaces an earlier one of that kind, and a release of
// all kinds replaces all others. It returns the kinds that were tripped and no longer are.
func (v *Volume) Release(r Release, now time.Time) (released []string) {
	if r == v.last || !now.Before(r.Until) {
		return nil
	}
	v.last = r
	if r.Type == "" {
		v.all = r
	} else {
		v.kind(r.Type).release = r
	}
	for _, name := range slices.Sorted(maps.Keys(v.kinds)) {
		k := v.kinds[name]
		switch {
		case r.Type == "":
			k.release = Release{}
		case k != v.kind(r.Type):
			continue
		}
		v.forget(k, now)
		if k.tripped && len(k.counted) < v.limit(k, now) {
			k.tripped = false
			released = append(released, name)
		}
	}
	return released
}

// KindState is a picture of one kind.
type KindState struct {
	Kind string
	// Users is how many were signed out within the window; Limit is how many may be.
	Users, Limit int
	// Tripped reports whether one more was to be signed out than the limit allows.
	Tripped bool
}

// State returns a picture of each kind, by name.
func (v *Volume) State(now time.Time) []KindState {
	states := make([]KindState, 0, len(v.kinds))
	for name, k := range v.kinds {
		v.forget(k, now)
		states = append(states, KindState{Kind: name, Users: len(k.counted), Limit: v.limit(k, now), Tripped: k.tripped})
	}
	slices.SortFunc(states, func(a, b KindState) int { return cmp.Compare(a.Kind, b.Kind) })
	return states
}

// MaxRelease bounds how long a release lasts.
const MaxRelease = 24 * time.Hour

// Release is an operator's decision that a larger number of people may be signed out.
type Release struct {
	// Until is when it ends. MaxUsers is how many distinct users may be signed out within the
	// window until then.
	Until    time.Time `json:"until"`
	MaxUsers int       `json:"maxUsers"`
	// Type is the type of events that it is for; empty for all types.
	Type string `json:"type,omitempty"`
	// By, At and Reason are for logs and audit records.
	By     string    `json:"by,omitempty"`
	At     time.Time `json:"at,omitzero"`
	Reason string    `json:"reason,omitempty"`
}

// ReadRelease reads a release from a file. An empty file holds the zero Release. ReadRelease
// refuses a release that would last for longer than MaxRelease from now.
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
		return Release{}, fmt.Errorf("%s: maxUsers is %d, want at least 1", file, r.MaxUsers)
	case r.Until.Sub(now) > MaxRelease:
		return Release{}, fmt.Errorf("%s: the release would last until %s, which is more than %s away",
			file, r.Until.Format(time.RFC3339), MaxRelease)
	}
	return r, nil
}

// Check returns what is wrong with a release that is about to be written; nil if nothing is.
func (r Release) Check(now time.Time) error {
	switch {
	case r.MaxUsers < 1:
		return errors.New("a release needs a number of users of at least 1")
	case !r.Until.After(now) || r.Until.Sub(now) > MaxRelease:
		return fmt.Errorf("a release must end after now, and at most %s from now", MaxRelease)
	}
	return nil
}
