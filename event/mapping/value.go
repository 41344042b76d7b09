package mapping

import (
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
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

// object is a JSON object, an XML element with content, or the application properties. It reads its
// JSON when an expression asks for a member, because most objects of a message are never read.
type object struct {
	doc *document
	place
	raw     string // JSON that is not read yet
	members []member
	// folded has the indexes of the members by the name that loosely returns, if there are many.
	folded map[string][]int
}

type member struct {
	name  string
	raw   string  // JSON that is not read yet
	value ref.Val // nil if it is not read yet
}

// manyMembers is the number from which a map is faster than a look at each member.
const manyMembers = 24

func (o *object) load() {
	if o.raw == "" {
		return
	}
	o.members = make([]member, 0, 8)
	gjson.Parse(o.raw).ForEach(func(key, value gjson.Result) bool {
		o.members = append(o.members, member{name: key.Str, raw: value.Raw})
		return true
	})
	o.raw = ""
	o.fold()
}

func (o *object) fold() {
	if len(o.members) < manyMembers {
		return
	}
	o.folded = make(map[string][]int, len(o.members))
	for i, m := range o.members {
		name := loosely(m.name)
		o.folded[name] = append(o.folded[name], i)
	}
}

// foldName maps names that strings.EqualFold takes for equal to the same text.
func foldName(name string) string { return strings.ToLower(strings.ToUpper(name)) }

// candidates returns the indexes of the members that may have a name, if o.folded tells them. All
// others are to be looked at. The error says that too much was read.
func (o *object) candidates(name string) (same []int, err ref.Val) {
	o.load()
	if o.folded == nil {
		return nil, o.doc.spend(1 + len(o.members)/4)
	}
	same = o.folded[loosely(name)]
	return same, o.doc.spend(1 + 3*len(same)) // these are scattered
}

// get returns a member. A null counts as absent. A name that occurs twice, in whatever case, is an
// error: parsers disagree about which of the two counts, and it may name another person.
func (o *object) get(name string) (ref.Val, bool) {
	same, err := o.candidates(name)
	if err != nil {
		return err, false
	}
	found, times := -1, 0
	look := func(i int) {
		times++
		if o.members[i].name == name {
			found = i
		}
	}
	if o.folded != nil {
		for _, i := range same {
			if strings.EqualFold(o.members[i].name, name) {
				look(i)
			}
		}
	} else {
		for i := range o.members {
			if strings.EqualFold(o.members[i].name, name) {
				look(i)
			}
		}
	}
	if times > 1 {
		return o.twice(name), false
	}
	if found < 0 {
		return nil, false
	}
	v := o.member(found)
	return v, v != nil
}

// twice notes that a name is given twice, and returns the error.
func (o *object) twice(name string) ref.Val {
	field := (&place{parent: &o.place, name: name}).String()
	problem := &event.Error{Kind: event.Invalid, Field: field, Problem: "given twice; names that differ only in case count as one"}
	if o.doc.problem == nil {
		o.doc.problem = problem
	}
	return types.WrapErr(problem)
}

// getLoosely returns the member whose name equals name apart from case, underscores, hyphens, and
// spaces, or nil. Several such members must have the same value, apart from those that are null or
// "": otherwise nobody knows which of them counts.
func (o *object) getLoosely(name string) ref.Val {
	same, err := o.candidates(name)
	if err != nil {
		return err
	}
	var found ref.Val
	exact := false // name is there in its own spelling
	look := func(i int) bool {
		if !sameLoosely(o.members[i].name, name) {
			return true
		}
		if strings.EqualFold(o.members[i].name, name) {
			exact = true
		}
		v := o.member(i)
		if v == nil || found != nil && v == types.String("") {
			return true
		}
		if found != nil && found != types.String("") && types.Equal(found, v) != types.True {
			found = o.twice(name)
			return false
		}
		found = v
		return true
	}
	if o.folded != nil {
		for _, i := range same {
			if !look(i) {
				return found
			}
		}
	} else {
		for i := range o.members {
			if !look(i) {
				return found
			}
		}
	}
	if exact { // checks that it is there once
		if v, _ := o.get(name); types.IsError(v) {
			return v
		}
	}
	return found
}

// loosely returns a name without underscores, hyphens, and spaces, and without case.
func loosely(name string) string {
	isPlain := true // nearly all names are ASCII, and many are plain already
	for i := range len(name) {
		c := name[i]
		if c >= utf8.RuneSelf {
			return looselyUnicode(name)
		}
		isPlain = isPlain && !isSeparator(c) && toLower(c) == c
	}
	if isPlain {
		return name
	}
	plain := make([]byte, 0, len(name))
	for i := range len(name) {
		if c := name[i]; !isSeparator(c) {
			plain = append(plain, toLower(c))
		}
	}
	return string(plain)
}

func looselyUnicode(name string) string {
	return strings.Map(func(c rune) rune {
		if c == '_' || c == '-' || c == ' ' {
			return -1
		}
		return c
	}, foldName(name))
}

// sameLoosely reports whether loosely returns the same for two names. For ASCII it needs no memory.
func sameLoosely(a, b string) bool {
	i, j := 0, 0
	for {
		for i < len(a) && isSeparator(a[i]) {
			i++
		}
		for j < len(b) && isSeparator(b[j]) {
			j++
		}
		if i == len(a) || j == len(b) {
			return i == len(a) && j == len(b)
		}
		x, y := a[i], b[j]
		if x >= utf8.RuneSelf || y >= utf8.RuneSelf {
			return loosely(a) == loosely(b)
		}
		if x != y && toLower(x) != toLower(y) {
			return false
		}
		i++
		j++
	}
}

func isSeparator(c byte) bool { return c == '_' || c == '-' || c == ' ' }

func toLower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

// member returns the value of the member with an index, or nil for null.
func (o *object) member(i int) ref.Val {
	m := &o.members[i]
	if m.value == nil {
		m.value = o.doc.value(m.raw, place{parent: &o.place, name: m.name})
	}
	if m.value == types.NullValue {
		return nil
	}
	return o.doc.noted(m.value, &o.place, m.name, 0)
}

// The methods of traits.Mapper.

func (o *object) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return nil, false
	}
	return o.get(string(name))
}

func (o *object) Get(key ref.Val) ref.Val {
	v, found := o.Find(key)
	if !found && v == nil {
		return types.NewErr("%s%v", noSuchKey, key)
	}
	return v
}

func (o *object) Contains(key ref.Val) ref.Val {
	v, found := o.Find(key)
	if types.IsError(v) {
		return v
	}
	return types.Bool(found)
}

// Size returns the number of members.
func (o *object) Size() ref.Val {
	o.load()
	return types.Int(len(o.members))
}

func (o *object) Iterator() traits.Iterator {
	o.load()
	_ = o.doc.spend(len(o.members)) // the problem is noted
	names := make([]string, len(o.members))
	for i, m := range o.members {
		names[i] = m.name
	}
	return types.NewStringList(types.DefaultTypeAdapter, names).Iterator()
}

func (o *object) Type() ref.Type { return types.MapType }
func (o *object) Value() any     { return o.whole().Value() }

func (o *object) ConvertToNative(t reflect.Type) (any, error) { return o.whole().ConvertToNative(t) }

func (o *object) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.MapType:
		return o
	case types.TypeType:
		return types.MapType
	}
	return types.NewErr("an object cannot become %v", t)
}

func (o *object) Equal(other ref.Val) ref.Val {
	if o == other {
		return types.True
	}
	if o.load(); o.doc.spend(equalWork*len(o.members)) != nil {
		return types.False
	}
	return o.whole().Equal(other)
}

// equalWork is what a member costs if an object is compared: the library needs a map of each.
const equalWork = 20

// whole returns the object as a map of the library.
func (o *object) whole() traits.Mapper {
	o.load()
	values := make(map[ref.Val]ref.Val, len(o.members))
	for i := range o.members {
		if v := o.member(i); v != nil {
			values[types.String(o.members[i].name)] = v
		}
	}
	return types.NewRefValMap(types.DefaultTypeAdapter, values)
}

// list is a JSON array, or an XML element that occurs more than once.
type list struct {
	doc *document
	place
	raw    string // JSON that is not read yet
	values []ref.Val
}

func (l *list) load() {
	if l.raw == "" {
		return
	}
	gjson.Parse(l.raw).ForEach(func(_, value gjson.Result) bool {
		l.values = append(l.values, l.doc.value(value.Raw, place{parent: &l.place, at: len(l.values)}))
		return true
	})
	l.raw = ""
}

// elementWork is what an element costs: most are read by a loop, whose steps cost more than the read.
const elementWork = 10

func (l *list) element(i int) ref.Val {
	if err := l.doc.spend(elementWork); err != nil {
		return err
	}
	return l.doc.noted(l.values[i], &l.place, "", i)
}

// The methods of traits.Lister.

func (l *list) Get(index ref.Val) ref.Val {
	l.load()
	i, err := types.GetOrError(index)
	if err != nil {
		return types.WrapErr(err)
	}
	if i < 0 || i >= len(l.values) {
		return types.NewErr("%s%d", outOfBounds, i)
	}
	return l.element(i)
}

func (l *list) Contains(v ref.Val) ref.Val {
	l.load()
	if err := l.doc.spend(len(l.values)); err != nil {
		return err
	}
	for i := range l.values {
		if types.Equal(l.values[i], v) == types.True {
			return types.True
		}
	}
	return types.False
}

func (l *list) Size() ref.Val {
	l.load()
	return types.Int(len(l.values))
}

func (l *list) Iterator() traits.Iterator {
	l.load()
	return &iterator{list: l}
}

func (l *list) Add(other ref.Val) ref.Val { return l.whole().Add(other) }

func (l *list) Type() ref.Type { return types.ListType }
func (l *list) Value() any     { return l.whole().Value() }

func (l *list) ConvertToNative(t reflect.Type) (any, error) { return l.whole().ConvertToNative(t) }
func (l *list) ConvertToType(t ref.Type) ref.Val {
	switch t {
	case types.ListType:
		return l
	case types.TypeType:
		return types.ListType
	}
	return types.NewErr("a list cannot become %v", t)
}

func (l *list) Equal(other ref.Val) ref.Val {
	if l == other {
		return types.True
	}
	if l.load(); l.doc.spend(len(l.values)) != nil {
		return types.False
	}
	return l.whole().Equal(other)
}

// whole returns the list as one of the library.
func (l *list) whole() traits.Lister {
	l.load()
	return types.NewRefValList(types.DefaultTypeAdapter, l.values)
}

// iterator iterates over a list.
type iterator struct {
	*list
	next int
}

// HasNext ends a loop that has read too much. A macro would go on after an error.
func (i *iterator) HasNext() ref.Val {
	return types.Bool(i.next < len(i.values) && i.doc.spent <= maxWork)
}

func (i *iterator) Next() ref.Val {
	if i.next >= len(i.values) {
		return types.NewErr("%s%d", outOfBounds, i.next)
	}
	i.next++
	return i.element(i.next - 1)
}

func (i *iterator) Type() ref.Type { return types.IteratorType }
