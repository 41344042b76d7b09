package servicebus

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// forever is the largest time span of .NET, as Service Bus writes it.
const forever = "P10675199DT2H48M5.4775807S"

var isoDuration = regexp.MustCompile(`^P(?:(\d{1,8})D)?(?:T(?:(\d{1,8})H)?(?:(\d{1,8})M)?(?:(\d{1,10}(?:\.\d{1,9})?)S)?)?$`)

// ParseDuration reads an ISO 8601 duration of days, hours, minutes and seconds, like PT1M30S. A
// duration longer than time.Duration can represent becomes math.MaxInt64. The value with which
// Service Bus expresses "forever" is one.
func ParseDuration(text string) (time.Duration, error) {
	match := isoDuration.FindStringSubmatch(text)
	if match == nil || text == "P" || text[len(text)-1] == 'T' {
		return 0, fmt.Errorf("%q is not an ISO 8601 duration like PT1M30S", text)
	}
	total := 0.0 // in seconds
	for i, unit := range []float64{86400, 3600, 60, 1} {
		if match[i+1] == "" {
			continue
		}
		n, err := strconv.ParseFloat(match[i+1], 64)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", text, err)
		}
		total += n * unit
	}
	if total >= math.MaxInt64/1e9 {
		return math.MaxInt64, nil
	}
	return time.Duration(math.Round(total * 1e9)), nil
}

// formatDuration returns a duration in ISO 8601. 0 and math.MaxInt64 become forever.
func formatDuration(d time.Duration) string {
	if d == 0 || d == math.MaxInt64 {
		return forever
	}
	days := d / (24 * time.Hour)
	rest := d % (24 * time.Hour)
	var text strings.Builder
	text.WriteString("P")
	if days > 0 {
		fmt.Fprintf(&text, "%dD", days)
	}
	if rest > 0 {
		text.WriteString("T")
	}
	for _, unit := range []struct {
		size time.Duration
		mark string
	}{{time.Hour, "H"}, {time.Minute, "M"}} {
		if n := rest / unit.size; n > 0 {
			fmt.Fprintf(&text, "%d%s", n, unit.mark)
		}
		rest %= unit.size
	}
	if rest > 0 {
		text.WriteString(strconv.FormatFloat(rest.Seconds(), 'f', -1, 64) + "S")
	}
	return text.String()
}
