package event

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"
)

// checkJSON returns the body without a byte order mark if it is one JSON document within the bounds. It runs before any
// parser: parsers differ in what they do with invalid UTF-8, deep nesting and text behind the document.
func checkJSON(body []byte) ([]byte, *Error) {
	body = bytes.TrimPrefix(body, []byte("\xef\xbb\xbf"))
	switch {
	case len(body) == 0:
		return nil, invalid("body", "empty")
	case len(body) > MaxBodyBytes:
		return nil, invalid("body", "%d bytes, at most %d are read", len(body), MaxBodyBytes)
	case !utf8.Valid(body):
		return nil, invalid("body", "not valid UTF-8")
	case tooDeep(body):
		return nil, invalid("body", "JSON nested deeper than %d", MaxDepth)
	}
	var syntax json.RawMessage
	if err := json.Unmarshal(body, &syntax); err != nil {
		return nil, invalid("body", "not JSON: %v", err)
	}
	return bytes.TrimSpace(body), nil
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

// object is a JSON object whose names are all different, even without regard to case.
type object map[string]json.RawMessage

// readObject reads the members. Two names that differ only in case are refused: of {"userId":A,"UserId":B} parsers pick
// different people.
func readObject(raw json.RawMessage) (object, *Error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return nil, invalid("", "must be a JSON object")
	}
	members := object{}
	folded := map[string]bool{}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, invalid("", "not readable: %v", err)
		}
		name, _ := token.(string)
		if fold := strings.ToLower(name); folded[fold] {
			return nil, invalid(name, "given twice")
		} else {
			folded[fold] = true
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, invalid(name, "not readable: %v", err)
		}
		members[name] = value
	}
	return members, nil
}

// readArray splits an array of at most MaxEvents values.
func readArray(raw json.RawMessage) ([]json.RawMessage, *Error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if start, err := decoder.Token(); err != nil || start != json.Delim('[') {
		return nil, invalid("body", "must be a JSON array")
	}
	var values []json.RawMessage
	for decoder.More() {
		if len(values) == MaxEvents {
			return nil, invalid("body", "more than %d events in one message", MaxEvents)
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, invalid("body", "not readable: %v", err)
		}
		values = append(values, value)
	}
	if len(values) == 0 {
		return nil, invalid("body", "an array without events")
	}
	return values, nil
}

// text returns a member's string; "" when it is absent or null.
func (o object) text(name string) (string, *Error) {
	raw, ok := o[name]
	if !ok || string(raw) == "null" {
		return "", nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", invalid(name, "must be a string, not %s", describe(raw))
	}
	return s, nil
}

func (o object) has(name string) bool {
	_, ok := o[name]
	return ok
}

func describe(raw json.RawMessage) string {
	switch raw[0] {
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	}
	return fmt.Sprintf("the number %s", quote(string(raw)))
}
