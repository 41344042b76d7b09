package rule_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func message() *rule.Message {
	return &rule.Message{
		System: func(key string) any {
			return map[string]any{
				"label": "stolen", "sessionid": "ada", "timetolive": time.Hour, "sequencenumber": int64(12), "enqueuedtimeutc": noon,
			}[key]
		},
		User: map[string]any{
			"color": "red", "Count": int32(7), "ratio": 0.5, "big": uint64(1 << 63), "urgent": true, "it's": "odd", "empty": "",
			"nothing": nil,
			"sent":    noon, "took": 90 * time.Second, "id": rule.GUID{1}, "percent": "100%_[a]", "lines": "one\ntwo",
			"most": int64(math.MaxInt64),
			"top":  int32(math.MaxInt32), "half": float32(0.5), "tiny": int8(3), "umlaut": "größe", "twin": "low", "TWIN": "high",
		},
	}
}

func TestCorrelation(t *testing.T) {
	cases := []struct {
		system map[string]string
		user   map[string]any
		want   bool
	}{
		{map[string]string{"Subject": "stolen"}, nil, true},
		{map[string]string{"Label": "stolen"}, nil, true},
		{map[string]string{"Subject": "Stolen"}, nil, false},
		{map[string]string{"Subject": "stolen", "SessionId": ""}, nil, true},
		{map[string]string{"MessageId": "x"}, nil, false},
		{nil, map[string]any{"color": "red", "count": int64(7)}, true},
		{nil, map[string]any{"color": "red", "Count": int64(8)}, false},
		{nil, map[string]any{"color": 7}, false},
		{nil, map[string]any{"missing": "x"}, false},
		{nil, map[string]any{"sent": noon, "took": 90 * time.Second, "id": rule.GUID{1}, "urgent": true, "ratio": 0.5}, true},
		{map[string]string{"Subject": "stolen"}, map[string]any{"color": "blue"}, false},
	}
	for _, c := range cases {
		filter, err := rule.NewCorrelation(c.system, c.user)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := filter.Match(message()); got != c.want || err != nil {
			t.Errorf("%v %v: %v, %v", c.system, c.user, got, err)
		}
	}
	for want, c := range map[string]struct {
		system map[string]string
		user   map[string]any
	}{
		"cannot compare \"Size\"": {system: map[string]string{"Size": "3"}},
		"at least one":            {},
		"the property \"x\"":      {user: map[string]any{"x": nil}},
		"type []uint8":            {user: map[string]any{"x": []byte{1}}},
	} {
		if _, err := rule.NewCorrelation(c.system, c.user); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
