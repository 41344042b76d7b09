package mapping

import (
	"strconv"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"github.com/tidwall/gjson"

	"github.com/session-revoker/session-revoker/event"
)

// document is what expressions read while one message is decoded. It notes what they read: a name
// that is given twice refuses the event, and the last texts show which field named the user.
// Expressions can hide both, with || for example. A document belongs to one goroutine.
type document struct {
	// problem is the first read that must refuse the event, or nil.
	problem *event.Error
	reads   [16]read
	n       int // number of reads so far; the newest is at (n-1)%16
	// spent is how much expressions have read so far, in the units of maxWork.
	spent int
}

// maxWork bounds how much the expressions may read of one message, in units of some 50 ns of a
// processor. The expressions are evaluated for each event, so a body of 1 MiB with 1,000 events could
// otherwise take minutes: by a long text, or by an object with many members, that stands beside the
// events. Real messages of that size need a fifth.
const maxWork = 5_000_000

// spend notes work. It returns an error, and refuses what is decoded, once there was too much of it.
func (d *document) spend(n int) ref.Val {
	if d.spent += n; d.spent <= maxWork {
		return nil
	}
	problem := invalid("body", "takes too long to read: it has too many elements, or too many events for what they share: "+
		"send fewer events in one message")
	if d.problem == nil {
		d.problem = problem
	}
	return types.WrapErr(problem)
}

// read is a text that an expression has read, and its place.
type read struct {
	in   *place
	name string // of a member; "" for an element
	at   int    // the index of an element
	text string
}

// place is where an object or a list stands in a document.
type place struct {
	parent *place // nil for the root
	name   string // the name in an object, or of the root
	at     int    // the index in a list, if name is ""
}

// String returns the path, for example body.data.events[2].
func (p *place) String() string {
	switch {
	case p.parent == nil:
		return p.name
	case p.name == "":
		return p.parent.String() + "[" + strconv.Itoa(p.at) + "]"
	}
	return p.parent.String() + segment(p.name)
}

// segment returns a name as a part of a path. It cuts names that are too long to read.
func segment(name string) string {
	const limit = 64
	if isIdentifier(name) && len(name) <= limit {
		return "." + name
	}
	if len(name) > limit {
		name = name[:limit] + "…"
	}
	return "[" + strconv.QuoteToASCII(name) + "]"
}

func isIdentifier(s string) bool {
	for i, c := range s {
		letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// noted notes that an expression has read a value, and returns it.
func (d *document) noted(v ref.Val, in *place, name string, at int) ref.Val {
	if text, ok := v.(types.String); ok {
		if err := d.spend(len(text) / 4); err != nil {
			return err
		}
		d.reads[d.n%len(d.reads)] = read{in, name, at, string(text)}
		d.n++
	}
	return v
}

// whereRead returns the path of the text that was read last, or "" if it was not read as it is: an
// expression put it together from others.
func (d *document) whereRead(text string) string {
	for i := range min(d.n, len(d.reads)) {
		r := d.reads[(d.n-1-i)%len(d.reads)]
		if strings.TrimSpace(r.text) != text {
			continue
		}
		return (&place{parent: r.in, name: r.name, at: r.at}).String()
	}
	return ""
}

// value returns the value of a valid JSON text at a place.
func (d *document) value(raw string, at place) ref.Val {
	switch raw[0] {
	case '{':
		return &object{doc: d, place: at, raw: raw}
	case '[':
		return &list{doc: d, place: at, raw: raw}
	case '"':
		return types.String(unquote(raw))
	case 't':
		return types.True
	case 'f':
		return types.False
	case 'n':
		return types.NullValue
	}
	if n, err := strconv.ParseInt(raw, 10, 64); err == nil {
		return types.Int(n)
	}
	n, _ := strconv.ParseFloat(raw, 64) // out of range is infinite, which equals no number of a mapping
	return types.Double(n)
}

// unquote returns the text of a valid JSON string.
func unquote(raw string) string {
	if strings.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	return gjson.Parse(raw).Str
}
