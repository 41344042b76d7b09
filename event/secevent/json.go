package secevent

import (
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/session-revoker/session-revoker/event"
)

// maxDepth is the maximum nesting of a header and of claims.
const maxDepth = 16

// object is a JSON object: strings, bools, json.Numbers, nil, []any, and objects.
type object map[string]any

// readObject reads a JSON object. It refuses a name that occurs twice in one object, even in
// different case: parsers pick different ones, so the transmitter may have signed another person.
func readObject(field string, raw []byte) (object, *event.Error) {
	switch {
	case !utf8.Valid(raw):
		return nil, invalid(field, "not valid UTF-8")
	case !json.Valid(raw):
		return nil, invalid(field, "not JSON")
	}
	value, problem := convert(field, gjson.ParseBytes(raw), 0)
	if problem != nil {
		return nil, problem
	}
	o, ok := value.(object)
	if !ok {
		return nil, invalid(field, "must be a JSON object")
	}
	return o, nil
}

func convert(field string, value gjson.Result, depth int) (any, *event.Error) {
	switch {
	case depth > maxDepth:
		return nil, invalid(field, "nested deeper than %d", maxDepth)
	case value.IsObject():
		return convertObject(field, value, depth)
	case value.IsArray():
		return convertArray(field, value, depth)
	case value.Type == gjson.Number:
		return json.Number(value.Raw), nil
	}
	return value.Value(), nil // a string, a bool, or nil
}

func convertObject(field string, value gjson.Result, depth int) (any, *event.Error) {
	o := object{}
	seen := map[string]bool{}
	var problem *event.Error
	value.ForEach(func(key, member gjson.Result) bool {
		name := key.String()
		folded := strings.ToLower(strings.ToUpper(name))
		if seen[folded] {
			problem = invalid(field, "%s is given twice; names that differ only in case count as one", quote(name))
			return false
		}
		seen[folded] = true
		o[name], problem = convert(field, member, depth+1)
		return problem == nil
	})
	return o, problem
}

func convertArray(field string, value gjson.Result, depth int) (any, *event.Error) {
	list := []any{}
	var problem *event.Error
	value.ForEach(func(_, item gjson.Result) bool {
		var converted any
		converted, problem = convert(field, item, depth+1)
		list = append(list, converted)
		return problem == nil
	})
	return list, problem
}

// text returns a string member, or "" if it is absent or something else.
func (o object) text(name string) string {
	s, _ := o[name].(string)
	return s
}

// has reports whether the member is there and not null.
func (o object) has(name string) bool { return o[name] != nil }

func invalid(field, format string, args ...any) *event.Error {
	return problem(event.Invalid, field, format, args...)
}

func problem(kind event.Kind, field, format string, args ...any) *event.Error {
	return &event.Error{Kind: kind, Field: field, Problem: fmt.Sprintf(format, args...)}
}

// quote quotes text of a token, cut to 64 characters.
func quote(s string) string {
	const limit = 64
	if utf8.RuneCountInString(s) > limit {
		return fmt.Sprintf("%q…", string([]rune(s[:min(len(s), 4*limit)])[:limit]))
	}
	return fmt.Sprintf("%q", s)
}
