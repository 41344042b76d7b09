package rule

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// format returns a value as text, in the form of .NET's invariant culture.
func format(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case bool:
		if v {
			return "True", nil
		}
		return "False", nil
	case time.Time:
		return v.UTC().Format("01/02/2006 15:04:05"), nil
	case time.Duration:
		return formatDuration(v), nil
	case GUID:
		return v.String(), nil
	case float32:
		return strings.ToUpper(strconv.FormatFloat(float64(v), 'g', -1, 32)), nil
	case float64:
		return strings.ToUpper(strconv.FormatFloat(v, 'g', -1, 64)), nil
	}
	if _, ok := numberOf(v); !ok {
		return "", fmt.Errorf("a value of type %s cannot become a string", typeName(v))
	}
	return fmt.Sprint(v), nil
}

// formatDuration returns the form [-][d.]hh:mm:ss[.fffffff] of a TimeSpan.
func formatDuration(d time.Duration) string {
	var b strings.Builder
	ticks := uint64(d / 100)
	if d < 0 {
		b.WriteByte('-')
		ticks = -ticks
	}
	seconds, fraction := ticks/1e7, ticks%1e7
	if days := seconds / 86400; days > 0 {
		fmt.Fprintf(&b, "%d.", days)
	}
	fmt.Fprintf(&b, "%02d:%02d:%02d", seconds/3600%24, seconds/60%60, seconds%60)
	if fraction > 0 {
		fmt.Fprintf(&b, ".%07d", fraction)
	}
	return b.String()
}

// convert returns a value in the type of another value. SET does that when it replaces a property
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-messaging-sql-rule-action).
func convert(v, like any) (any, error) {
	if v == nil {
		if _, ok := like.(string); ok {
			return nil, nil
		}
		return nil, fmt.Errorf("a missing value cannot replace a value of type %s", typeName(like))
	}
	problem := fmt.Errorf("a value of type %s cannot become one of type %s", typeName(v), typeName(like))
	if typeName(v) == typeName(like) {
		return v, nil
	}
	written, isText := v.(string)
	switch like.(type) {
	case string:
		return format(v)
	case time.Time:
		for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "01/02/2006 15:04:05", "2006-01-02"} {
			if t, err := time.Parse(layout, strings.TrimSpace(written)); isText && err == nil {
				return t, nil
			}
		}
		return nil, problem
	case time.Duration:
		if d, ok := parseDuration(written); isText && ok {
			return d, nil
		}
		return nil, problem
	case GUID:
		if g, ok := ParseGUID(written); isText && ok {
			return g, nil
		}
		return nil, problem
	}
	n, ok := numberFrom(v)
	if _, isBool := like.(bool); ok && isBool {
		return n.f != 0, nil
	}
	if result, fits := n.as(like); ok && fits {
		return result, nil
	}
	return nil, problem
}

// numberFrom reads a number from a number, a boolean or text.
func numberFrom(v any) (number, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return numberOf(int64(1))
		}
		return numberOf(int64(0))
	case string:
		v = strings.TrimSpace(v)
		if i, err := strconv.ParseInt(v, 10, 64); err == nil {
			return numberOf(i)
		}
		if u, err := strconv.ParseUint(v, 10, 64); err == nil {
			return numberOf(u)
		}
		if b, err := strconv.ParseBool(strings.ToLower(v)); err == nil && len(v) > 1 {
			return numberFrom(b)
		}
		f, err := strconv.ParseFloat(v, 64)
		n, _ := numberOf(f)
		return n, err == nil && !strings.ContainsAny(v, "xXpP_")
	}
	return numberOf(v)
}

// as returns the number in the type of another number. Fractions are rounded to even. fits is false
// if the number is out of range.
func (n number) as(like any) (result any, fits bool) {
	switch like.(type) {
	case float32:
		return float32(n.f), true
	case float64:
		return n.f, true
	case uint64:
		switch {
		case n.rank == rankUlong:
			return n.u, true
		case n.rank < rankFloat:
			return uint64(n.i), n.i >= 0
		}
		f := math.RoundToEven(n.f)
		return uint64(max(f, 0)), f >= 0 && f < 1<<64
	}
	i := n.i
	switch {
	case n.rank == rankUlong:
		if n.u > math.MaxInt64 {
			return nil, false
		}
		i = int64(n.u)
	case n.rank >= rankFloat:
		f := math.RoundToEven(n.f)
		if !(f >= -1<<63 && f < 1<<63) {
			return nil, false
		}
		i = int64(f)
	}
	switch like.(type) {
	case int8:
		return int8(i), i == int64(int8(i))
	case uint8:
		return uint8(i), i == int64(uint8(i))
	case int16:
		return int16(i), i == int64(int16(i))
	case uint16:
		return uint16(i), i == int64(uint16(i))
	case int32:
		return int32(i), i == int64(int32(i))
	case uint32:
		return uint32(i), i == int64(uint32(i))
	case int64, int:
		return i, true
	}
	return nil, false
}

// parseDuration reads [-][d.]hh:mm[:ss[.fffffff]].
func parseDuration(text string) (time.Duration, bool) {
	rest, negative := strings.CutPrefix(strings.TrimSpace(text), "-")
	clock := strings.Split(rest, ":")
	if len(clock) < 2 || len(clock) > 3 {
		return 0, false
	}
	var days int
	if d, hours, ok := strings.Cut(clock[0], "."); ok {
		var err error
		if days, err = strconv.Atoi(d); err != nil || days < 0 || days > 100_000 {
			return 0, false
		}
		clock[0] = hours
	}
	total := time.Duration(days) * 24 * time.Hour
	for i, part := range clock {
		unit := []time.Duration{time.Hour, time.Minute, time.Second}[i]
		f, err := strconv.ParseFloat(part, 64)
		limit := []float64{24, 60, 60}[i]
		if err != nil || f < 0 || f >= limit || strings.Trim(part, "0123456789.") != "" || i < 2 && strings.Contains(part, ".") {
			return 0, false
		}
		total += time.Duration(math.Round(f * float64(unit)))
	}
	if negative {
		total = -total
	}
	return total, true
}

// ParseGUID reads the form of GUID.String, in any case and with or without braces and hyphens. ok is
// false for another text.
func ParseGUID(text string) (g GUID, ok bool) {
	digits := strings.ReplaceAll(strings.Trim(strings.TrimSpace(text), "{}"), "-", "")
	if len(digits) != 32 {
		return g, false
	}
	for i := range g {
		b, err := strconv.ParseUint(digits[2*i:2*i+2], 16, 8)
		if err != nil {
			return g, false
		}
		g[i] = byte(b)
	}
	return g, true
}
