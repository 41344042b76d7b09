package mapping

import (
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/ext"

	"github.com/session-revoker/session-revoker/event"
)

// The beginnings of the errors that mean that a field is missing. The library uses the same words.
const (
	noSuchKey   = "no such key: "
	outOfBounds = "index out of bounds: "
)

// Bounds of an expression. They limit what a mapping file can cost at start, and an evaluation.
const (
	maxExpression = 4096    // characters
	maxNodes      = 500     // parts of an expression
	maxCost       = 2000000 // of one evaluation, in the library's units: about a tenth of a second
)

// newEnvironment returns the names and functions that expressions may use.
func newEnvironment() (*cel.Env, error) {
	return cel.NewCustomEnv(
		cel.StdLib(), cel.OptionalTypes(), ext.Strings(),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.ParserExpressionSizeLimit(maxExpression),
		cel.ParserRecursionLimit(64),
		cel.ExpressionNodeLimit(maxNodes),
		cel.Variable("body", cel.DynType),
		cel.Variable("item", cel.DynType),
		cel.Variable("index", cel.IntType),
		cel.Variable("properties", cel.MapType(cel.StringType, cel.DynType)),
		cel.Variable("contentType", cel.StringType),
		cel.Variable("subject", cel.StringType),
		cel.Function("get", cel.MemberOverload("session_revoker_get",
			[]*cel.Type{cel.DynType, cel.StringType}, cel.DynType, cel.BinaryBinding(get))),
		unary("text", cel.StringType, text),
		unary("list", cel.ListType(cel.DynType), asList),
		cel.Function("flatten", cel.MemberOverload("session_revoker_flatten",
			[]*cel.Type{cel.ListType(cel.DynType)}, cel.ListType(cel.DynType), cel.UnaryBinding(flatten))),
		unary("first", cel.DynType, first),
		unary("json", cel.DynType, parsed),
		unary("fold", cel.StringType, func(v ref.Val) ref.Val { return types.String(loosely(textOf(v))) }),
	)
}

// withTimes adds the function when, which reads times as a mapping does.
func withTimes(env *cel.Env, read func(ref.Val) (time.Time, bool)) (*cel.Env, error) {
	return env.Extend(unary("when", cel.TimestampType, func(v ref.Val) ref.Val {
		at, ok := read(plain(v))
		if !ok {
			return types.NewErr("when: not a time of this mapping's forms")
		}
		return types.Timestamp{Time: at}
	}))
}

func unary(name string, result *cel.Type, f func(ref.Val) ref.Val) cel.EnvOption {
	return cel.Function(name, cel.Overload("session_revoker_"+name, []*cel.Type{cel.DynType}, result, cel.UnaryBinding(f)))
}

// plain returns the value in an optional. It returns nil for no value and for null.
func plain(v ref.Val) ref.Val {
	if o, ok := v.(*types.Optional); ok {
		if !o.HasValue() {
			return nil
		}
		v = o.GetValue()
	}
	if v == types.NullValue {
		return nil
	}
	return v
}

// get is x.get("name"): a member by its name, apart from case, underscores, hyphens, and spaces. It
// returns null if x is no object, or has no such member.
func get(v, name ref.Val) ref.Val {
	o, ok := plain(v).(*object)
	if !ok {
		return types.NullValue
	}
	found := o.getLoosely(string(name.(types.String)))
	if found == nil {
		return types.NullValue
	}
	return found
}

// text is text(x): a string without spaces around it. Numbers and booleans become text; null,
// objects, and lists become "".
func text(v ref.Val) ref.Val { return types.String(textOf(v)) }

func textOf(v ref.Val) string {
	switch v := plain(v).(type) {
	case types.String:
		return strings.TrimSpace(string(v))
	case types.Int:
		return strconv.FormatInt(int64(v), 10)
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10)
	case types.Double:
		return strconv.FormatFloat(float64(v), 'f', -1, 64)
	case types.Bool:
		return strconv.FormatBool(bool(v))
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano)
	}
	return ""
}

// asList is list(x): a list as it is, an empty one for null, and otherwise a list of x. XML shows a
// list of one as the element itself.
func asList(v ref.Val) ref.Val {
	switch v := plain(v).(type) {
	case nil:
		return types.NewRefValList(types.DefaultTypeAdapter, nil)
	case traits.Lister:
		return v
	default:
		return types.NewRefValList(types.DefaultTypeAdapter, []ref.Val{v})
	}
}

// first is first(list): the first element, or "" if there is none.
func first(v ref.Val) ref.Val {
	l, ok := asList(v).(traits.Lister)
	if !ok || l.Size() == types.IntZero {
		return types.String("")
	}
	return l.Get(types.IntZero)
}

// flatten is list.flatten(): the elements of the lists in a list. Other elements stay.
func flatten(v ref.Val) ref.Val {
	l, ok := v.(traits.Lister)
	if !ok {
		return types.NoSuchOverloadErr()
	}
	var all []ref.Val
	for i := l.Iterator(); i.HasNext() == types.True; {
		inner := i.Next()
		within, ok := plain(inner).(traits.Lister)
		if !ok {
			all = append(all, inner)
			continue
		}
		for j := within.Iterator(); j.HasNext() == types.True; {
			all = append(all, j.Next())
		}
	}
	return types.NewRefValList(types.DefaultTypeAdapter, all)
}

// parsed is json(x): the value of a string that holds JSON, and any other value as it is. It
// returns null for a string that is no JSON within the bounds of a body.
func parsed(v ref.Val) ref.Val {
	s, ok := plain(v).(types.String)
	if !ok {
		if v := plain(v); v != nil {
			return v
		}
		return types.NullValue
	}
	body, err := event.CheckBody([]byte(s))
	if err != nil {
		return types.NullValue
	}
	return new(document).value(string(body), place{name: "json"})
}
