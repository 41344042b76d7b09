package mapping

import (
	"reflect"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"github.com/tidwall/gjson"
)

// elementWork is what an element costs: most are read by a loop, whose steps cost more than the read.
const elementWork = 10

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
