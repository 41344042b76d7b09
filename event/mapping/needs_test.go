package mapping

import (
	"slices"
	"strings"
	"testing"
)

// TestNeedsAreWhatAConditionCannotDoWithout checks the names by which mappings are passed over. A
// name too many would pass over a mapping that matches.
func TestNeedsAreWhatAConditionCannotDoWithout(t *testing.T) {
	env, err := newEnvironment()
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string][]string{
		`has(body.kind)`:                                      {"kind"},
		`body.kind == "x"`:                                    {"kind"},
		`body.a.b == "x"`:                                     {"a"},
		`body.?kind.orValue("") == "x"`:                       {"kind"},
		`body.get("Event_Type").get("x") != null`:             {"eventtype"},
		`text(body.get("kind")) == "x" && body.other == 1`:    {"kind"},
		`body.n > 1 && has(body.kind)`:                        {"kind"},
		`has(body.a) || has(body.b)`:                          {"a", "b"},
		`text(body.get("a")) + text(body.get("b")) == "x"`:    {"a", "b"},
		`text(first(list(body)).get("kind")).startsWith("x")`: {"kind"},
		`body.kind == "x" ? true : false`:                     nil,
		`body.?kind.orValue("x") == "x"`:                      nil,
		`has(body.a) || true`:                                 nil,
		`!has(body.kind)`:                                     nil,
		`body.get("kind") == null`:                            nil,
		`text(body.get("kind")) == ""`:                        nil,
		`text(body.get("kind")) != "x"`:                       nil,
		`text(body.get("kind")).contains("")`:                 nil,
		`text(body.get("a")) + "x" == "x"`:                    nil,
		`(has(body.a) ? body.b : "x") == "x"`:                 nil,
		`properties["a"] == "x"`:                              nil,
		`body[0].kind == "x"`:                                 nil,
		`body.exists(k, k == "kind")`:                         nil,
		`true`:                                                nil,
	} {
		x, problem := compile(env, text, aBool, nil)
		if problem != nil {
			t.Fatalf("%s: %+v", text, problem)
		}
		if got := slices.Sorted(slices.Values(x.needs)); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// FuzzNames checks that the short ways of comparing names agree with the long one.
func FuzzNames(f *testing.F) {
	f.Add("User_Name-x", "username X")
	f.Add("na\u212ae", "nake")
	f.Add("a\u017f", "AS")
	f.Fuzz(func(t *testing.T, a, b string) {
		if got, want := loosely(a), looselyUnicode(a); got != want {
			t.Errorf("%q: %q, want %q", a, got, want)
		}
		if got, want := sameLoosely(a, b), looselyUnicode(a) == looselyUnicode(b); got != want {
			t.Errorf("%q, %q: %v", a, b, got)
		}
		if strings.EqualFold(a, b) && !sameLoosely(a, b) {
			t.Errorf("%q and %q are the same but for case", a, b)
		}
	})
}
