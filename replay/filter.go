package replay

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Filter picks dead letters. A letter must match each field that is set. The zero Filter picks all.
type Filter struct {
	// Reasons are compared ignoring case.
	Reasons []string
	// User is an object id or user principal name. It is compared with each user whose event
	// failed, ignoring case.
	User string
	// Producer is a part of an event's source.
	Producer string
	// Since and Until limit the enqueued time. Since is inclusive, Until is exclusive.
	Since, Until time.Time
	// Sequences are ranges of sequence numbers.
	Sequences []Range
	// Limit is the maximum number of letters to pick, oldest first. 0 means no limit.
	Limit int
}

// Range is a range of sequence numbers, including both ends.
type Range struct{ From, To int64 }

// ParseRanges parses sequence numbers and ranges of them, such as 5, 7 and 10-20.
func ParseRanges(list []string) ([]Range, error) {
	var ranges []Range
	for _, text := range list {
		from, to, isRange := strings.Cut(text, "-")
		r := Range{}
		var err error
		if r.From, err = strconv.ParseInt(from, 10, 64); err == nil {
			r.To = r.From
			if isRange {
				r.To, err = strconv.ParseInt(to, 10, 64)
			}
		}
		if err != nil || r.From < 0 || r.To < r.From {
			return nil, fmt.Errorf("%q is not a sequence number or a range like 10-20", text)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}

// ParseTime parses a time, a day (UTC), or an age. "" is the zero time.
func ParseTime(text string, now time.Time) (time.Time, error) {
	return parseTime(text, now, -1, "an age")
}

// ParseDate is ParseTime for times that lie ahead: 7d is in seven days.
func ParseDate(text string, now time.Time) (time.Time, error) {
	return parseTime(text, now, 1, "a time from now")
}

func parseTime(text string, now time.Time, direction time.Duration, what string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.ParseFloat(days, 64); err == nil && n >= 0 && n < 36500 {
			return now.Add(direction * time.Duration(n*24*float64(time.Hour))), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(direction * d), nil
	}
	return time.Time{}, fmt.Errorf("%q is not a time (2026-03-01T12:00:00Z), a day (2026-03-01) or %s (90m, 7d)", text, what)
}

func (r Range) has(sequence int64) bool { return r.From <= sequence && sequence <= r.To }

// IsZero reports whether the filter picks everything. It ignores Limit.
func (f Filter) IsZero() bool {
	return len(f.Reasons) == 0 && f.User == "" && f.Producer == "" && f.Since.IsZero() && f.Until.IsZero() && len(f.Sequences) == 0
}

// Match reports whether the filter picks the letter. Limit is up to the caller.
func (f Filter) Match(l Letter) bool {
	same := func(text string) func(string) bool {
		return func(other string) bool { return strings.EqualFold(text, other) }
	}
	switch {
	case len(f.Reasons) > 0 && !slices.ContainsFunc(f.Reasons, same(l.Reason)),
		f.User != "" && !slices.ContainsFunc(l.Users, same(f.User)),
		f.Producer != "" && !slices.ContainsFunc(l.Producers, func(p string) bool { return strings.Contains(p, f.Producer) }),
		!f.Since.IsZero() && l.Enqueued.Before(f.Since),
		!f.Until.IsZero() && !l.Enqueued.Before(f.Until),
		len(f.Sequences) > 0 && !slices.ContainsFunc(f.Sequences, func(r Range) bool { return r.has(l.SequenceNumber) }):
		return false
	}
	return true
}

// first returns the lowest sequence number that can match.
func (f Filter) first() int64 {
	var lowest int64
	for i, r := range f.Sequences {
		if i == 0 || r.From < lowest {
			lowest = r.From
		}
	}
	return lowest
}

// beyond reports whether no dead letter from this sequence number on can match.
func (f Filter) beyond(sequence int64) bool {
	return len(f.Sequences) > 0 && !slices.ContainsFunc(f.Sequences, func(r Range) bool { return sequence <= r.To })
}

// GroupKey is what dead letters are grouped by.
type GroupKey string

// The keys.
const (
	ByReason GroupKey = "reason"
	ByUser   GroupKey = "user"
	ByHour   GroupKey = "hour"
	ByDay    GroupKey = "day"
)

// GroupKeys returns all keys.
func GroupKeys() []GroupKey { return []GroupKey{ByReason, ByUser, ByHour, ByDay} }

// Group counts the dead letters with the same reason, user, hour or day (UTC).
type Group struct {
	Key    string    `json:"key"`
	Count  int       `json:"count"`
	Oldest time.Time `json:"oldest"`
	Newest time.Time `json:"newest"`
}

// Groups counts dead letters by By, which must be set. It must not be used concurrently.
type Groups struct {
	By     GroupKey
	groups map[string]*Group
}

// Add counts a letter: once for each of its users, or once for its reason, hour or day.
func (g *Groups) Add(l Letter) {
	keys := []string{l.Reason}
	switch g.By {
	case ByUser:
		if keys = l.Users; len(keys) == 0 {
			keys = []string{""}
		}
	case ByHour:
		keys = []string{l.Enqueued.UTC().Format("2006-01-02 15:00Z")}
	case ByDay:
		keys = []string{l.Enqueued.UTC().Format(time.DateOnly)}
	}
	if g.groups == nil {
		g.groups = map[string]*Group{}
	}
	for _, key := range keys {
		one := g.groups[strings.ToLower(key)]
		if one == nil {
			one = &Group{Key: key, Oldest: l.Enqueued, Newest: l.Enqueued}
			g.groups[strings.ToLower(key)] = one
		}
		one.Count++
		if l.Enqueued.Before(one.Oldest) {
			one.Oldest = l.Enqueued
		}
		if l.Enqueued.After(one.Newest) {
			one.Newest = l.Enqueued
		}
	}
}

// All returns the groups: hours and days in chronological order, others by count, largest first.
func (g *Groups) All() []Group {
	all := make([]Group, 0, len(g.groups))
	for _, one := range g.groups {
		all = append(all, *one)
	}
	slices.SortFunc(all, func(a, b Group) int {
		if g.By == ByDay || g.By == ByHour {
			return cmp.Compare(a.Key, b.Key)
		}
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key))
	})
	return all
}
