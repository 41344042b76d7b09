package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"
)

// checkJSON returns the body without a byte order mark if it is one JSON document within the
// bounds. It runs before any parser, because parsers treat invalid UTF-8, deep nesting, and text
// after the document in different ways.
func checkJSON(field string, body []byte) ([]byte, *Error) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	switch {
	case len(body) == 0:
		return nil, invalid(field, "empty")
	case len(body) > MaxBodyBytes:
		return nil, invalid(field, "%d bytes, at most %d are read", len(body), MaxBodyBytes)
	case !utf8.Valid(body):
		return nil, invalid(field, "not valid UTF-8")
	case tooDeep(body):
		return nil, invalid(field, "JSON nested deeper than %d", MaxDepth)
	}
	if !json.Valid(body) {
		var syntax json.RawMessage
		return nil, invalid(field, "not JSON: %v", json.Unmarshal(body, &syntax))
	}
	return bytes.TrimSpace(body), nil
}

// CheckBody returns the body without a byte order mark and without spaces around it, if it is one
// JSON document within the bounds of a message. The error is an *Error.
func CheckBody(body []byte) ([]byte, error) {
	checked, problem := checkJSON("body", body)
	if problem != nil {
		return nil, problem
	}
	return checked, nil
}

func tooDeep(body []byte) bool {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '[' || c == '{':
			if depth++; depth > MaxDepth {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}

// object holds the members of a JSON object that the decoder reads.
type object struct {
	prefix  string // precedes the names of members in errors, for example "data."
	members []member
}

type member struct {
	name    string
	value   string // as JSON; empty for null, which is the same as absent (CloudEvents JSON Event Format §2.2)
	written string // the last spelling of the name
	times   int    // number of occurrences of the name, in any case
}

// readObject reads the members with the given names. raw must have passed checkJSON. self is the
// name of the object in errors.
func readObject(self, prefix, raw string, names []string) (object, *Error) {
	o := object{prefix: prefix, members: make([]member, 0, 4)}
	if raw[0] != '{' {
		return o, invalid(self, "must be a JSON object")
	}
	gjson.Parse(raw).ForEach(func(key, value gjson.Result) bool {
		written := key.String()
		for _, name := range names {
			if !strings.EqualFold(written, name) {
				continue
			}
			at := o.index(name)
			if at < 0 {
				at = len(o.members)
				o.members = append(o.members, member{name: name})
			}
			m := &o.members[at]
			m.written = written
			m.times++
			if written == name && value.Type != gjson.Null {
				m.value = value.Raw
			}
		}
		return true
	})
	return o, nil
}

// member returns the member with this name, or the zero member if there is none.
func (o object) member(name string) member {
	if at := o.index(name); at >= 0 {
		return o.members[at]
	}
	return member{}
}

func (o object) index(name string) int {
	return slices.IndexFunc(o.members, func(m member) bool { return m.name == name })
}

// value returns the value of a member as JSON, or "" if it is absent. Names are case-sensitive. A name
// that occurs twice is refused, even in different case, because parsers pick different users from
// {"userId":A,"UserId":B}. A name of dataNames in other case is refused as well, because the user
// or the date in it would be ignored.
func (o object) value(name string) (string, *Error) {
	m := o.member(name)
	switch {
	case m.times > 1:
		return "", invalid(o.prefix+name, "given twice; names that differ only in case count as one")
	case m.times == 1 && m.written != name && slices.Contains(dataNames, name):
		return "", invalid(o.prefix+name, "written %s: names are case-sensitive", quote(m.written))
	}
	return m.value, nil
}

// text returns the string value of a member, or "" if it is absent.
func (o object) text(name string) (string, *Error) {
	raw, problem := o.value(name)
	if problem != nil || raw == "" {
		return "", problem
	}
	if raw[0] == '"' && !strings.ContainsRune(raw, '\\') {
		// checkJSON has validated it, and there are no escapes. A copy, because raw keeps the whole body.
		return strings.Clone(raw[1 : len(raw)-1]), nil
	}
	var s string
	if err := json.Unmarshal([]byte(raw), &s); err != nil {
		return "", invalid(o.prefix+name, "must be a string, not %s", describe(raw))
	}
	return s, nil
}

// boolean returns the value of a member, or false if it is absent.
func (o object) boolean(name string) (bool, *Error) {
	raw, problem := o.value(name)
	if problem != nil || raw == "" {
		return false, problem
	}
	if raw != "true" && raw != "false" {
		return false, invalid(o.prefix+name, "must be true or false")
	}
	return raw[0] == 't', nil
}

// has reports whether the object has a member with exactly this name.
func (o object) has(name string) bool { return o.member(name).value != "" }

func describe(raw string) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	}
	return fmt.Sprintf("the number %s", quote(raw))
}

// readArray returns the values of an array with 1 to MaxEvents values.
func readArray(raw string) ([]string, *Error) {
	if raw[0] != '[' {
		return nil, invalid("body", "must be a JSON object, or an array of objects")
	}
	var values []string
	gjson.Parse(raw).ForEach(func(_, value gjson.Result) bool {
		values = append(values, value.Raw)
		return len(values) <= MaxEvents
	})
	switch {
	case len(values) == 0:
		return nil, invalid("body", "an array without events")
	case len(values) > MaxEvents:
		return nil, invalid("body", "more than %d events in one message", MaxEvents)
	}
	return values, nil
}
