package mapping_test

import (
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event/mapping"
)

// problemsOf returns the problems of a file of mappings.
func problemsOf(text string) string {
	_, err := mapping.New(mapping.Config{
		Files: []mapping.File{{Name: "my.yaml", Text: []byte(text)}}, Presets: []string{mapping.NoPresets},
	})
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestProblemsOfAFileNameLineAndColumn(t *testing.T) {
	const match = "mappings:\n  - name: a\n    match: "
	const rest = ", type: '\"device.lost\"', user: [{id: body.id}]}]"
	for text, want := range map[string]string{
		"":                      "my.yaml: empty",
		"mappings: []":          "my.yaml:1:1: no mappings",
		"mapings: []":           `my.yaml:1:1: unknown key "mapings"`,
		"mappings: [":           "my.yaml: no YAML: at line 1 or a little below: ",
		"mappings: []\n---\n{}": "more than one YAML document",
		"mappings:\n  - {name: a, match: 'true', on: 1" + rest[:len(rest)-1]:        `my.yaml:2:30: unknown key "on"`,
		"mappings: [{name: a, match: 'true', match: 'true'" + rest:                  "is given twice",
		"mappings: [{name: A b, match: 'true'" + rest:                               "small letters",
		"mappings: [{name: native, match: 'true'" + rest:                            "not native",
		"mappings: [{name: a" + rest:                                                "match: missing",
		"mappings: [{name: a, match: 'true', type: '\"device.lost\"'}]":             "user: missing",
		"mappings: [{name: a, match: 'true', user: [{id: body.id}]}]":               "type: missing",
		"mappings: [{name: a, match: 'true', type: device.lost}]":                   `needs quotes inside of quotes: '"device.lost"'`,
		"mappings: [{name: a, match: 'true', types: {of: body.x}}]":                 "needs of",
		"mappings: [{name: a, match: 'true', user: [{}], type: '\"device.lost\"'}]": "needs id, name, or mail",
		"mappings: [{name: a, match: 'true', refuse: [{when: 'true'}]}]":            "needs when (a condition) and reason",
		"mappings: [{name: a, match: 'true', refuse: [{kind: X}]}]":                 "kind: must be",
		"mappings: [{name: a, match: body.x + 1 == 'y', version: 0" + rest:          "version: must be a number from 1",
		"mappings: [{name: a, match: 'true', encoding: utf-16" + rest:               "only latin-1",
		"mappings: [{name: a, match: 'true', time_zone: Mars/Base" + rest:           "no IANA time zone",
		"mappings: [{name: a, match: 'true', time_format: [eu]" + rest:              `"eu" is none of rfc3339`,
		"mappings: [{name: a, match: 'true', end_of_day: yes" + rest:                "must be true or false",
		"mappings: [{name: a, match: 'true', requires: luck" + rest:                 "only resolve_devices",
		"mappings: [{name: a, match: " + rest[2:]:                                   "my.yaml",
		"mappings: [{name: a, match: &x 'true', doc: *x" + rest:                     "aliases are not read",
		"mappings: [{name: a, match: [1]" + rest:                                    "must be a single value",
		match + "body.kind == \n":                                                   "my.yaml:3:",
		match + "body.kind ==== 1\n":                                                "my.yaml:3:24: Syntax error",
		match + "bodi.kind == 1\n":                                                  "my.yaml:3:12: undeclared reference to 'bodi'",
		match + "'body.kind == bodi'\n":                                             "my.yaml:3:26: undeclared reference to 'bodi'",
		match + "|\n      body.kind == 1 &&\n      bodi.x\n":                        "my.yaml:5:7: undeclared reference to 'bodi'",
		match + ">-\n      body.kind == 1 &&\n      bodi.x\n":                       "my.yaml:3:12: at 1:19 of the expression",
		match + "body.kind + 1\n    each: '1'\n":                                    "my.yaml:4:12: the result is int, not list(dyn)",
		match + "size(body)\n":                                                      "the result is int, not bool",
		match + "''\n":                                                              "empty: write an expression",
		match + "" + strings.Repeat("body.x == 1 || ", 300) + "true\n":              "my.yaml:3:",
	} {
		if got := problemsOf(text); !strings.Contains(got, want) {
			t.Errorf("%s\n  got  %s\n  want %s", text, got, want)
		}
	}
	two := "mappings:\n  - {name: a, match: bodi" + rest[:len(rest)-1] + "\n  - {name: b, match: bodi" + rest[:len(rest)-1]
	if got := problemsOf(two); !strings.Contains(got, ":2:") || !strings.Contains(got, ":3:") {
		t.Errorf("all problems are listed: %s", got)
	}
	same := "mappings:\n  - {name: a, match: 'true'" + rest[:len(rest)-1] + "\n  - {name: a, match: 'true'" + rest[:len(rest)-1]
	if got := problemsOf(same); !strings.Contains(got, `there is a mapping "a" in my.yaml already`) {
		t.Error(got)
	}
}

func TestSettingsThatCannotBeUsed(t *testing.T) {
	for want, cfg := range map[string]mapping.Config{
		`"nobody" is no preset`: {Presets: []string{"nobody"}},
		"no IANA time zone":     {Presets: []string{mapping.NoPresets}, TimeZone: "Nowhere/Else"},
		"with spaces around it": {Types: []string{" x"}},
		"at most 1048576":       {Files: []mapping.File{{Name: "big", Text: make([]byte, mapping.MaxFileBytes+1)}}},
	} {
		if _, err := mapping.New(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
