package rule_test

import (
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

var message = rule.Message{
	System: map[string]any{"subject": "stolen", "label": "stolen", "sessionid": "ada"},
	User: map[string]any{
		"color": "red", "Count": int32(7), "ratio": 0.5, "big": uint64(1 << 63), "urgent": true, "it's": "odd", "empty": "", "nothing": nil,
	},
}

func TestSQL(t *testing.T) {
	cases := map[string]bool{
		"color = 'red'":             true,
		"COLOR = 'red'":             true, // names have no case
		"color = 'RED'":             false,
		"user.color <> 'blue'":      true,
		"color != 'red'":            false,
		"count = 7":                 true,
		"count = 7.0":               true,
		"count > 6 AND count < 8":   true,
		"count >= 7 and count <= 7": true,
		"ratio = 0.5":               true,
		"big > 5":                   false, // out of range: not comparable
		"urgent = TRUE":             true,
		"urgent = false":            false,
		"sys.Subject = 'stolen'":    true,
		"sys.label = 'stolen' AND sys.SessionId = 'ada'":  true,
		"sys.MessageId IS NULL":                           true,
		"[it's] = 'odd'":                                  true,
		"\"it's\" = 'odd'":                                true,
		"color = 'it''s'":                                 false,
		"color IN ('blue', 'red')":                        true,
		"color NOT IN ('blue', 'red')":                    false,
		"count IN (1, 7)":                                 true,
		"color IN ('blue', missing)":                      false,
		"color NOT IN ('blue', missing)":                  false, // unknown
		"missing IS NULL":                                 true,
		"missing IS NOT NULL":                             false,
		"empty IS NULL":                                   false,
		"nothing IS NULL":                                 true,
		"EXISTS(color)":                                   true,
		"exists(missing)":                                 false,
		"missing = 'x'":                                   false,
		"NOT missing = 'x'":                               false, // unknown stays unknown
		"NOT color = 'blue'":                              true,
		"NOT NOT color = 'red'":                           true,
		"missing = 'x' OR color = 'red'":                  true,
		"missing = 'x' AND color = 'blue' OR count = 7":   true, // AND binds more tightly
		"color = 'red' OR color = 'blue' AND count = 0":   true,
		"(color = 'red' OR color = 'blue') AND count = 0": false,
		"color = 7":                                       false,
		"NOT color = 7":                                   false,
		"color = null":                                    false,
		"-1 < count":                                      true,
		"1=1":                                             true,
		"1 = 1 AND 2 <> 2":                                false,
	}
	for text, want := range cases {
		filter, err := rule.NewSQL(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := filter.Match(message); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

func TestSQLErrors(t *testing.T) {
	cases := map[string]string{
		"":                              "expected a property",
		"color":                         "expected a comparison",
		"color = ":                      "expected a property or a value at character 9",
		"color LIKE 'r%'":               "LIKE is not supported",
		"color NOT LIKE 'r%'":           "LIKE is not supported",
		"count + 1 = 8":                 "'+' is not supported",
		"color = @p":                    "'@' is not supported",
		"newid() = 'x'":                 "functions",
		"sys.Size > 3":                  "sys.Size is not supported",
		"other.color = 'red'":           "scope",
		"color = 'red":                  "not terminated",
		"(color = 'red'":                "expected )",
		"color = 'red')":                "expected AND, OR or the end at character 14",
		"color = 'red' color = 'red'":   "expected AND, OR or the end",
		"color IN ()":                   "expected a property or a value",
		"AND color = 'red'":             "not AND",
		"count = 0x7":                   "not a number",
		"count = 1.2.3":                 "not a number",
		strings.Repeat("NOT ", 200):     "too deeply",
		strings.Repeat("(", 200):        "too deeply",
		strings.Repeat("a", 2000):       "at most 1024",
		"color = 'red' SET color = 'x'": "expected AND, OR or the end",
	}
	for text, want := range cases {
		if _, err := rule.NewSQL(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
}

func TestCorrelation(t *testing.T) {
	cases := []struct {
		system map[string]string
		user   map[string]any
		want   bool
	}{
		{map[string]string{"Subject": "stolen"}, nil, true},
		{map[string]string{"Subject": "Stolen"}, nil, false},
		{map[string]string{"Subject": "stolen", "SessionId": ""}, nil, true},
		{map[string]string{"MessageId": "x"}, nil, false},
		{nil, map[string]any{"color": "red", "Count": int64(7)}, true},
		{nil, map[string]any{"color": "red", "Count": int64(8)}, false},
		{nil, map[string]any{"missing": "x"}, false},
		{map[string]string{"Subject": "stolen"}, map[string]any{"color": "blue"}, false},
	}
	for _, c := range cases {
		filter, err := rule.NewCorrelation(c.system, c.user)
		if err != nil {
			t.Fatal(err)
		}
		if got := filter.Match(message); got != c.want {
			t.Errorf("%v %v: %v", c.system, c.user, got)
		}
	}
	if _, err := rule.NewCorrelation(map[string]string{"Size": "3"}, nil); err == nil {
		t.Error("a property that no filter can compare is accepted")
	}
	if _, err := rule.NewCorrelation(nil, nil); err == nil {
		t.Error("a filter that compares nothing is accepted")
	}
}

// FuzzSQL checks laws of logic: parentheses and a double negation change nothing, and no message
// matches both a filter and its negation.
func FuzzSQL(f *testing.F) {
	for _, seed := range []string{
		"color = 'red' AND NOT (count IN (1, 2.5) OR sys.Subject IS NOT NULL)", "[a]]b] <> \"c\"", "exists(x)",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := rule.NewSQL(text)
		if err != nil {
			return
		}
		if filter.String() != text {
			t.Errorf("%q became %q", text, filter)
		}
		matches := filter.Match(message)
		for _, same := range []string{"(" + text + ")", "NOT (NOT (" + text + "))"} {
			if again, err := rule.NewSQL(same); err == nil && again.Match(message) != matches {
				t.Errorf("%q matches: %v, %q: %v", text, matches, same, !matches)
			}
		}
		if negated, err := rule.NewSQL("NOT (" + text + ")"); err == nil && matches && negated.Match(message) {
			t.Errorf("both %q and its negation match", text)
		}
	})
}
