package mapping

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // adds 450 KB; images and Windows machines often have no time zones of their own

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// The forms of times, as time_format names them.
const (
	formRFC3339 = "rfc3339"  // 2026-03-01T12:00:00.1234567Z
	formISO     = "iso"      // 2026-03-01T12:00:00 or 2026-03-01 12:00:00: no zone
	formISODate = "iso-date" // 2026-03-01
	formUS      = "us"       // 3/1/2026 6:43:08 PM: month first, no zone
	formUSDate  = "us-date"  // 03/01/2026: month first
	formEpochS  = "epoch-s"  // seconds since 1970
	formEpochMS = "epoch-ms" // milliseconds since 1970
	formMSDate  = "msdate"   // /Date(1368076195887)/, with or without +hhmm
)

// allForms are the forms; defaultForms those of a mapping without time_format. The American forms
// must be asked for: most of the world writes the day first.
var (
	allForms     = []string{formRFC3339, formISO, formISODate, formUS, formUSDate, formEpochS, formEpochMS, formMSDate}
	defaultForms = []string{formRFC3339, formISO, formISODate, formEpochS, formEpochMS, formMSDate}
)

// clock reads times in the forms of a mapping.
type clock struct {
	forms []string
	zone  *time.Location // of times without a zone
}

// Numbers below epochMillis are seconds, if both forms are accepted; others are milliseconds. The
// numbers stand for times from 1973 to 5138 in both.
const (
	epochLeast  = 1e8
	epochMillis = 1e11
	epochMost   = 1e14
)

// read returns the time of a value: a string, a number, or a timestamp. ok is false if it is in none
// of the forms, or not from 1970 to 9999. isDate reports a date without a time of day; then the time
// is the beginning of that day.
func (c clock) read(v ref.Val) (at time.Time, isDate, ok bool) {
	switch v := v.(type) {
	case types.Timestamp:
		at, ok = v.Time, true
	case types.Int:
		at, ok = c.epoch(float64(v))
	case types.Uint:
		at, ok = c.epoch(float64(v))
	case types.Double:
		at, ok = c.epoch(float64(v))
	case types.String:
		at, isDate, ok = c.parse(strings.TrimSpace(string(v)))
	}
	at = at.UTC()
	if !ok || at.Year() < 1970 || at.Year() > 9999 {
		return time.Time{}, false, false
	}
	return at, isDate, true
}

// epoch converts a number of seconds or milliseconds since 1970.
func (c clock) epoch(n float64) (time.Time, bool) {
	seconds, millis := slices.Contains(c.forms, formEpochS), slices.Contains(c.forms, formEpochMS)
	if seconds && millis {
		seconds, millis = n < epochMillis, n >= epochMillis
	}
	switch {
	case !(n >= epochLeast && n < epochMost): // also NaN
		return time.Time{}, false
	case millis:
		return time.UnixMilli(int64(n)), true
	case seconds && n < epochMillis:
		whole, fraction := math.Modf(n)
		return time.Unix(int64(whole), int64(fraction*1e9)), true
	}
	return time.Time{}, false
}

var (
	rfc3339Text = lazily(`^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$`)
	isoText     = lazily(`^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?$`)
	usText      = lazily(`^\d{1,2}/\d{1,2}/\d{4},? \d{1,2}:\d{2}(:\d{2}(\.\d{1,9})?)?( ?[AaPp][Mm])?$`)
	epochText   = lazily(`^\d{9,14}(\.\d{1,9})?$`)
	msDateText  = lazily(`^\\?/Date\((\d{1,15})([+-]\d{4})?\)\\?/$`)
)

// lazily returns a function that compiles an expression when it is first needed: a worker that gets
// events in its own forms needs none.
func lazily(expression string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })
}

const longestTime = 64

// parse returns the time of a text. Local times that a change of the clocks skips or repeats are
// valid: package time picks one of the two offsets.
func (c clock) parse(text string) (at time.Time, isDate, ok bool) {
	if len(text) > longestTime {
		return time.Time{}, false, false
	}
	for _, form := range c.forms {
		switch form {
		case formRFC3339:
			if rfc3339Text().MatchString(text) {
				at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(text))
				return at, false, err == nil
			}
		case formISO:
			if isoText().MatchString(text) {
				at, ok := c.local(strings.Replace(text, "T", " ", 1), "2006-01-02 15:04:05", "2006-01-02 15:04")
				return at, false, ok
			}
		case formISODate:
			if at, ok := c.local(text, time.DateOnly); ok {
				return at, true, true
			}
		case formUS:
			if usText().MatchString(text) {
				text := strings.Replace(strings.ToUpper(text), ",", "", 1)
				at, ok := c.local(text, "1/2/2006 3:04:05 PM", "1/2/2006 3:04 PM", "1/2/2006 3:04:05PM", "1/2/2006 3:04PM",
					"1/2/2006 15:04:05", "1/2/2006 15:04")
				return at, false, ok
			}
		case formUSDate:
			if at, ok := c.local(text, "1/2/2006"); ok {
				return at, true, true
			}
		case formEpochS, formEpochMS:
			if epochText().MatchString(text) {
				n, _ := strconv.ParseFloat(text, 64)
				at, ok := c.epoch(n)
				return at, false, ok
			}
		case formMSDate:
			if found := msDateText().FindStringSubmatch(text); found != nil {
				n, _ := strconv.ParseInt(found[1], 10, 64) // the zone is only for display: the number is UTC
				return time.UnixMilli(n), false, true
			}
		}
	}
	return time.Time{}, false, false
}

// local parses a time without a zone in the first layout that fits.
func (c clock) local(text string, layouts ...string) (time.Time, bool) {
	for _, layout := range layouts {
		if at, err := time.ParseInLocation(layout, text, c.zone); err == nil {
			return at, true
		}
	}
	return time.Time{}, false
}

// endOfDay returns the end of the day that begins at a time in the zone.
func (c clock) endOfDay(start time.Time) time.Time {
	// A change of the clocks can skip midnight, and then the day seems to begin an hour before it.
	y, m, d := start.Add(3 * time.Hour).In(c.zone).Date()
	return time.Date(y, m, d+1, 0, 0, 0, 0, c.zone).UTC()
}
