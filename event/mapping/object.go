package mapping

import (
	"reflect"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/tidwall/gjson"

	"github.com/session-revoker/session-revoker/event"
)

// manyMembers is the number from which a map is faster than a look at each member.
const manyMembers = 24

// equalWork is what a member costs if an object is compared: the library needs a map of each.
const equalWork = 20

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
