package rule_test

import (
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

var parameters = map[string]any{
	"@text": "red", "@int": int32(7), "@long": int64(7), "@real": 0.5, "@yes": true, "@day": noon, "@span": 2 * time.Minute,
}

func TestSQL(t *testing.T) {
	cases := map[string]bool{
		"color = 'red'":             true,
		"COLOR = 'red'":             true, // names have no case
		"color = 'RED'":             false,
		"twin = 'low'":              true, // the name in the same case counts
		"TWIN = 'high'":             true,
		"user.color <> 'blue'":      true,
		"color != 'red'":            false,
		"count = 7":                 true,
		"count = 7.0":               true,
		"count = 70E-1":             true,
		"count > 6 AND count < 8":   true,
		"count >= 7 and count <= 7": true,
		"ratio = 0.5":               true,
		"half = ratio":              true,
		"tiny = 3":                  true,
		"big > 5":                   true,
		"big = 9223372036854775807": false, // exact
		"big > most":                true,
		"-1 < big":                  true,
		"urgent = TRUE":             true,
		"urgent = false":            false,

		"sys.Subject = 'stolen'":                          true,
		"sys.label = 'stolen' AND SYS.SessionId = 'ada'":  true,
		"sys.MessageId IS NULL":                           true,
		"EXISTS(sys.MessageId)":                           false,
		"sys.SequenceNumber = 12":                         true,
		"[sys].[Label] LIKE 'st%'":                        true,
		"[it's] = 'odd'":                                  true,
		"\"it's\" = 'odd'":                                true,
		"color = 'it''s'":                                 false,
		"color IN ('blue', 'red')":                        true,
		"color NOT IN ('blue', 'red')":                    false,
		"count IN (1, 3 + 4)":                             true,
		"color IN ('blue', missing)":                      false,
		"color NOT IN ('blue', missing)":                  false, // unknown
		"missing NOT IN ('blue')":                         false,
		"missing IS NULL":                                 true,
		"missing IS NOT NULL":                             false,
		"empty IS NULL":                                   false,
		"nothing IS NULL":                                 true,
		"EXISTS(nothing)":                                 true,
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
		"color = null":                                    false,
		"NOT (color = NULL)":                              false,
		"-1 < count":                                      true,
		"1=1":                                             true,
		"1 = 1 AND 2 <> 2":                                false,
		"color = 'blue' AND color = 7":                    false, // not evaluated
		"color = 'red' OR 1 / 0 = 1":                      true,
		"color LIKE 'r%'":                                 true,
		"color LIKE 'R%'":                                 false,
		"color LIKE '_e_'":                                true,
		"color LIKE '%'":                                  true,
		"color LIKE 'e'":                                  false,
		"color LIKE '%r%e%d%'":                            true,
		"color LIKE ''":                                   false,
		"empty LIKE ''":                                   true,
		"color NOT LIKE 'b%'":                             true,
		"missing LIKE '%'":                                false,
		"NOT (missing LIKE '%')":                          false,
		"color LIKE missing":                              false,
		"umlaut LIKE 'gr_ße'":                             true,
		"lines LIKE 'one%two'":                            true,
		"percent LIKE '100\\%%' ESCAPE '\\'":              true,
		"percent LIKE '100!%!_[a]' ESCAPE '!'":            true,
		"color LIKE 'r!%' ESCAPE '!'":                     false,
		"count LIKE '7'":                                  true,
		"color LIKE 'r' + '%'":                            true,
		"color LIKE color":                                true,
		"count + 1 = 8 AND count - 1 = 6":                 true,
		"count - -1 = 8":                                  true,
		"count-1=6":                                       true,
		"2 + 3 * 4 = 14 AND (2 + 3) * 4 = 20":             true,
		"10 - 4 - 3 = 3 AND 100 / 10 / 5 = 2":             true,
		"7 / 2 = 3 AND -7 / 2 = -3 AND 7 % 4 = 3 AND -7 % 4 =-3": true,
		"7 / 2.0 = 3.5": true,
		"+count = 7 AND - - count = 7 AND -ratio = -0.5": true,
		"(count) = (7)": true,
		"((count + 1) * 2) > 15 AND ((color = 'red'))":          true,
		"-9223372036854775808 < most":                           true,
		"color + '-' + count = 'red-7'":                         true,
		"urgent + '' = 'True' AND ratio + '' = '0.5'":           true,
		"missing + 1 = 1 OR missing + 'x' = 'x'":                false,
		"1.0 / 0 > 5":                                           true, // infinity, as in C#
		"0.0 / 0 = 0.0 / 0":                                     false,
		"0.0 / 0 <> 0.0 / 0":                                    true,
		"p('color') = 'red' AND PROPERTY('co' + 'lor') = 'red'": true,
		"p(missing) IS NULL":                                    true,
		"p = 1 OR newid IS NULL":                                true, // names, not functions
		"newid() = newid()":                                     false,
		"id = id AND id <> newid()":                             true,
		"sent - sent < @span AND took < @span AND sent = @day AND color = @TEXT AND count = @int AND count = @long" +
			" AND ratio = @real AND urgent = @yes": true,
		"sent + took > sent AND sent - took < sent AND -took < took AND took + took = took - -took": true,
		"sys.TimeToLive > took": true,
	}
	for text, want := range cases {
		given := map[string]any{}
		for name, value := range parameters {
			if strings.Contains(strings.ToLower(text), name) {
				given[name] = value
			}
		}
		filter, err := rule.NewSQL(text, given)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := filter.Match(message()); got != want || err != nil {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
}

func TestSQLErrors(t *testing.T) {
	cases := map[string]string{
		"":                                "column 1: expected a property",
		"color":                           "column 6: expected a comparison",
		"TRUE":                            "expected a comparison",
		"color = ":                        "column 9: expected a property or a value",
		"grüße = ":                        "column 9: expected", // characters, not bytes
		"newid(1) = 'x'":                  "expected )",
		"foo() = 'x'":                     "column 1: there is no function \"foo\"",
		"p() = 'x'":                       "expected a property or a value",
		"sys.Foo > 3":                     "there is no system property sys.Foo",
		"other.color = 'red'":             "scope",
		"color = 'red":                    "column 9: the string or name that begins here has no end",
		"[color = 'red'":                  "column 1",
		"(color = 'red'":                  "expected )",
		"color = 'red')":                  "column 14: expected AND, OR or the end",
		"color = 'red' color = 'red'":     "expected AND, OR or the end",
		"color = 'a' = 'b'":               "expected AND, OR or the end",
		"color IN ()":                     "expected a property or a value",
		"color IN 'red'":                  "expected (",
		"AND color = 'red'":               "not AND",
		"count = 0x7":                     "a number is malformed",
		"count = 1.2.3":                   "a number is malformed",
		"count = 1.":                      "a number is malformed",
		"count = 1e":                      "a number is malformed",
		"count = 9223372036854775808":     "an integer must be",
		"count = 1e999":                   "too large",
		"count BETWEEN 1 AND 2":           "BETWEEN is not part",
		"count NOT BETWEEN 1 AND 2":       "IN or LIKE after NOT",
		"1 AND 2 = 2":                     "column 3: expected a comparison",
		"NOT 1":                           "expected a comparison",
		"(color = 'red') + 1 = 2":         "column 1: expected a value, not a condition",
		"color = (1 = 1)":                 "expected a value, not a condition",
		"1 IS NULL":                       "IS NULL expects a property",
		"EXISTS(1)":                       "EXISTS expects the name of a property",
		"EXISTS color":                    "expected (",
		"color IS 'x'":                    "expected NULL",
		"color LIKE 'a' ESCAPE 'xy'":      "ESCAPE expects a string of one character",
		"color LIKE 'a' ESCAPE 1":         "ESCAPE expects a string of one character",
		"color = @p":                      "column 9: the parameter @p has no value",
		"color = @":                       "expected the name of a parameter",
		"color = 'x' ; ":                  "expected AND, OR or the end",
		"_x = 1":                          "must begin with a letter",
		"color ~ 'x'":                     "column 7: unexpected '~'",
		"set = 1":                         "not SET; put it in brackets",
		"sys. = 1":                        "expected the name of a property",
		strings.Repeat("NOT ", 200):       "nested more than",
		strings.Repeat("(", 200):          "nested more than",
		"1 = " + strings.Repeat("-", 200): "nested more than",
		strings.Repeat("p(", 200):         "nested more than",
		strings.Repeat("a", 2000):         "at most 1024",
		"color = 'red' SET color = 'x'":   "expected AND, OR or the end",
	}
	for text, want := range cases {
		if _, err := rule.NewSQL(text, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want one with %q", text, err, want)
		}
	}
	for want, given := range map[string]map[string]any{
		"@extra does not occur": {"@extra": 1}, "does not begin with @": {"extra": 1}, "of type []uint8": {"@p": []byte("x")},
	} {
		if _, err := rule.NewSQL("1 = 1", given); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: error %v, want one with %q", given, err, want)
		}
	}
}

// An operator that C# does not have for these types, or cannot compute, is an error and no match.
func TestSQLThatCannotBeEvaluated(t *testing.T) {
	cases := map[string]string{
		"color = 7":                   "column 1: the operator = cannot be applied to values of the types string and long",
		"NOT color = 7":               "string and long",
		"color > 'a'":                 "string and string",
		"urgent < TRUE":               "bool and bool",
		"count IN ('a', 7)":           "int and string",
		"color - 1 = 0":               "column 7: the operator - cannot be applied",
		"id = 'x'":                    "Guid and string",
		"sent = 5":                    "DateTime and long",
		"big + 1 = 2":                 "ulong and long",
		"-big = 2":                    "ulong",
		"-color = 2":                  "string",
		"count / 0 = 1":               "column 7: division by zero",
		"count % 0 = 1":               "division by zero",
		"big / (big - big) = 1":       "division by zero",
		"most + 1 = 2":                "overflow",
		"-most - 2 = 2":               "overflow",
		"most * 2 = 2":                "overflow",
		"(0 - most - 1) / -1 = 2":     "overflow",
		"top + top = 2":               "overflow", // two ints stay an int, as in C#
		"big + big = 2":               "overflow",
		"big * big = 2":               "overflow",
		"p(count) = 1":                "the name of a property must be a string",
		"color LIKE count":            "the pattern of LIKE must be a string",
		"color LIKE 'x' ESCAPE color": "ESCAPE expects",
		"took * 2 > took":             "TimeSpan and long",
		"missing = 'x' AND color = 7": "string and long",
	}
	for text, want := range cases {
		filter, err := rule.NewSQL(text, nil)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got, err := filter.Match(message()); got || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, error %v, want one with %q", text, got, err, want)
		}
	}
}

// The time for LIKE and the size of strings are bounded.
func TestSQLIsBounded(t *testing.T) {
	long := &rule.Message{User: map[string]any{
		"a": strings.Repeat("a", 32<<10), "b": strings.Repeat("a", 33<<10), "half": strings.Repeat("a", 10<<10),
	}}
	filter, err := rule.NewSQL("a LIKE '"+strings.Repeat("%a", 400)+"b'", nil)
	if err != nil {
		t.Fatal(err)
	}
	if matches, err := filter.Match(long); matches || err != nil {
		t.Errorf("%v, %v", matches, err)
	}
	for text, want := range map[string]string{
		"b LIKE '%'": "33792 bytes", "a + a = 'x'": "65536 bytes", "'x' LIKE b": "33792 bytes", "a LIKE '%' + a": "32769 bytes",
		"a LIKE '%' + half + 'b'": "column 1: LIKE takes more than 5000000 steps",
	} {
		filter, err := rule.NewSQL(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		if matches, err := filter.Match(long); matches || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, error %v, want one with %q", text, matches, err, want)
		}
	}
}

// FuzzSQL checks laws of logic: parentheses and a double negation change nothing, no message
// matches both a filter and its negation, and NOT neither makes nor hides an error.
func FuzzSQL(f *testing.F) {
	for _, seed := range []string{
		"color = 'red' AND NOT (count IN (1, 2.5) OR sys.Subject IS NOT NULL)", "[a]]b] <> \"c\"", "exists(x)",
		"color LIKE '%e!_' ESCAPE '!' OR count + 2 * -ratio % 3 >= p('big') - 1e3", "newid() = id OR sent - sent < took",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		filter, err := rule.NewSQL(text, nil)
		if err != nil || strings.Contains(strings.ToLower(text), "newid") { // which is random
			return
		}
		if filter.String() != text {
			t.Errorf("%q became %q", text, filter)
		}
		matches, failure := filter.Match(message())
		if matches && failure != nil {
			t.Errorf("%q matches although it fails: %v", text, failure)
		}
		for _, same := range []string{"(" + text + ")", "NOT (NOT (" + text + "))"} {
			if again, err := rule.NewSQL(same, nil); err == nil {
				if got, err := again.Match(message()); got != matches || (err == nil) != (failure == nil) {
					t.Errorf("%q: %v, %v, but %q: %v, %v", text, matches, failure, same, got, err)
				}
			}
		}
		if negated, err := rule.NewSQL("NOT ("+text+")", nil); err == nil {
			if got, err := negated.Match(message()); got && matches || (err == nil) != (failure == nil) {
				t.Errorf("%q: %v, %v, and its negation: %v, %v", text, matches, failure, got, err)
			}
		}
	})
}
