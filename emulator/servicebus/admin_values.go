package servicebus

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/rule"
)

// keyValue is a parameter of an expression, or an application property of a correlation filter.
type keyValue struct {
	Key   string `xml:"Key"`
	Value struct {
		Type string `xml:"http://www.w3.org/2001/XMLSchema-instance type,attr"`
		Null bool   `xml:"http://www.w3.org/2001/XMLSchema-instance nil,attr"`
		Text string `xml:",chardata"`
	} `xml:"Value"`
}

// readValues returns the values by their keys.
func readValues(pairs []keyValue) (map[string]any, error) {
	values := map[string]any{}
	for _, p := range pairs {
		if _, twice := values[p.Key]; twice {
			return nil, fmt.Errorf("%q occurs twice", p.Key)
		}
		value, err := p.read()
		if err != nil {
			return nil, fmt.Errorf("%q: %w", p.Key, err)
		}
		values[p.Key] = value
	}
	return values, nil
}

// read reads a value of an XML Schema type, such as xs:int. Its Go type is the one that AMQP has for
// the type. The prefix of the type can have any name.
func (p keyValue) read() (any, error) {
	value := p.Value.Text
	_, name, prefixed := strings.Cut(p.Value.Type, ":")
	if !prefixed {
		name = p.Value.Type
	}
	signed := func(bits int) (int64, error) { return strconv.ParseInt(strings.TrimSpace(value), 10, bits) }
	unsigned := func(bits int) (uint64, error) { return strconv.ParseUint(strings.TrimSpace(value), 10, bits) }
	switch {
	case p.Value.Null:
		return nil, fmt.Errorf("null is not a value that a filter or an action can use")
	case name == "string", name == "anyURI", name == "char":
		return value, nil
	case name == "int":
		i, err := signed(32)
		return int32(i), err
	case name == "long":
		return signed(64)
	case name == "short":
		i, err := signed(16)
		return int16(i), err
	case name == "byte":
		i, err := signed(8)
		return int8(i), err
	case name == "unsignedInt":
		u, err := unsigned(32)
		return uint32(u), err
	case name == "unsignedLong":
		return unsigned(64)
	case name == "unsignedShort":
		u, err := unsigned(16)
		return uint16(u), err
	case name == "unsignedByte":
		u, err := unsigned(8)
		return uint8(u), err
	case name == "double", name == "decimal":
		return strconv.ParseFloat(strings.TrimSpace(value), 64)
	case name == "float":
		f, err := strconv.ParseFloat(strings.TrimSpace(value), 32)
		return float32(f), err
	case name == "boolean":
		return strconv.ParseBool(strings.ToLower(strings.TrimSpace(value)))
	case name == "guid":
		g, ok := rule.ParseGUID(value)
		if !ok {
			return nil, fmt.Errorf("%q is not a GUID", value)
		}
		return g, nil
	case name == "dateTime":
		return readTime(strings.TrimSpace(value))
	case name == "duration":
		return readDuration(strings.TrimSpace(value))
	}
	return nil, fmt.Errorf("the type %q is not supported by this emulator", p.Value.Type)
}

// readTime reads a time, which is UTC if it does not name its zone.
func readTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05", text)
	}
	return t.UTC(), err
}

// readDuration reads a duration that may be negative.
func readDuration(text string) (time.Duration, error) {
	positive, negative := strings.CutPrefix(text, "-")
	d, err := ParseDuration(positive)
	if negative {
		d = -d
	}
	return d, err
}

// valueEntry is a keyValue as clients read it. They read names with the prefixes of the service.
type valueEntry struct {
	Key   string `xml:"Key"`
	Value struct {
		Type   string `xml:"i:type,attr"`
		Schema string `xml:"xmlns:d6p1,attr"`
		Text   string `xml:",chardata"`
	} `xml:"Value"`
}

// writeValues returns the values in the order of their keys.
func writeValues(values map[string]any) *valueEntries {
	if len(values) == 0 {
		return nil
	}
	var list valueEntries
	for key, value := range values {
		var e valueEntry
		e.Key, e.Value.Schema = key, nsSchema
		if _, isGUID := value.(rule.GUID); isGUID {
			e.Value.Schema = nsSerialization
		}
		e.Value.Type, e.Value.Text = written(value)
		list.Pairs = append(list.Pairs, e)
	}
	slices.SortFunc(list.Pairs, func(a, b valueEntry) int { return strings.Compare(a.Key, b.Key) })
	return &list
}

type valueEntries struct {
	Pairs []valueEntry `xml:"KeyValueOfstringanyType"`
}

// written is the opposite of read. The clients for Go and JavaScript know no integer but int, so
// that long is only used for what is not an int.
func written(value any) (schemaType, text string) {
	switch v := value.(type) {
	case bool:
		return "d6p1:boolean", strconv.FormatBool(v)
	case float32:
		return "d6p1:double", strconv.FormatFloat(float64(v), 'g', -1, 32)
	case float64:
		return "d6p1:double", strconv.FormatFloat(v, 'g', -1, 64)
	case int8, int16, int32, uint8, uint16:
		return "d6p1:int", fmt.Sprint(v)
	case int, int64, uint32, uint64:
		text = fmt.Sprint(v)
		if _, err := strconv.ParseInt(text, 10, 32); err == nil {
			return "d6p1:int", text
		}
		if _, err := strconv.ParseInt(text, 10, 64); err == nil {
			return "d6p1:long", text
		}
		return "d6p1:unsignedLong", text
	case time.Time:
		return "d6p1:dateTime", v.UTC().Format(time.RFC3339Nano)
	case time.Duration:
		return "d6p1:duration", xsDuration(v)
	case rule.GUID:
		return "d6p1:guid", v.String()
	}
	return "d6p1:string", fmt.Sprint(value)
}

// xsDuration writes a duration that may be 0 or negative.
func xsDuration(d time.Duration) string {
	switch {
	case d == 0:
		return "PT0S"
	case d < 0 && d != math.MinInt64:
		return "-" + formatDuration(-d)
	}
	return formatDuration(d)
}
