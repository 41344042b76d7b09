package rule

import (
	"cmp"
	"fmt"
	"math"
	"time"
)

var (
	timeLike     = time.Time{}
	durationLike = time.Duration(0)
)

// typeName names the type of a value as C# does, because Service Bus' operators are those of C#.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "bool"
	case string:
		return "string"
	case int8:
		return "sbyte"
	case uint8:
		return "byte"
	case int16:
		return "short"
	case uint16:
		return "ushort"
	case int32:
		return "int"
	case uint32:
		return "uint"
	case int64, int:
		return "long"
	case uint64:
		return "ulong"
	case float32:
		return "float"
	case float64:
		return "double"
	case time.Time:
		return "DateTime"
	case time.Duration:
		return "TimeSpan"
	case GUID:
		return "Guid"
	}
	return fmt.Sprintf("%T", v)
}

// usable reports whether expressions can use a value, except nil.
func usable(v any) bool {
	switch v.(type) {
	case bool, string, time.Time, time.Duration, GUID:
		return true
	}
	_, ok := numberOf(v)
	return ok
}

// rank orders the types of numbers by C#'s promotions. Smaller integers become rankInt.
type rank int

const (
	rankInt rank = iota
	rankUint
	rankLong
	rankUlong
	rankFloat
	rankDouble
)

// number is a number of any type. Integers up to long are in i, ulong is in u, and every number is
// in f, rounded.
type number struct {
	rank rank
	i    int64
	u    uint64
	f    float64
}

func numberOf(v any) (n number, ok bool) {
	switch v := v.(type) {
	case int8:
		return number{i: int64(v), f: float64(v)}, true
	case int16:
		return number{i: int64(v), f: float64(v)}, true
	case int32:
		return number{i: int64(v), f: float64(v)}, true
	case uint8:
		return number{i: int64(v), f: float64(v)}, true
	case uint16:
		return number{i: int64(v), f: float64(v)}, true
	case uint32:
		return number{rank: rankUint, i: int64(v), f: float64(v)}, true
	case int64:
		return number{rank: rankLong, i: v, f: float64(v)}, true
	case int:
		return number{rank: rankLong, i: int64(v), f: float64(v)}, true
	case uint64:
		return number{rank: rankUlong, u: v, f: float64(v)}, true
	case float32:
		return number{rank: rankFloat, f: float64(v)}, true
	case float64:
		return number{rank: rankDouble, f: v}, true
	}
	return number{}, false
}

// order is the result of a comparison.
type order int

const (
	unordered order = iota // not equal, and neither is less
	less
	equal
	greater
)

// orderOf returns the order for a result of cmp.Compare.
func orderOf(sign int) order { return equal + order(sign) }

// compare orders two values. ok is false if their types cannot be compared. Strings, booleans and
// GUIDs that differ are unordered.
func compare(a, b any) (result order, ok bool) {
	same := func(isSame, ok bool) (order, bool) {
		if isSame {
			return equal, ok
		}
		return unordered, ok
	}
	switch a := a.(type) {
	case string:
		b, ok := b.(string)
		return same(a == b, ok)
	case bool:
		b, ok := b.(bool)
		return same(a == b, ok)
	case GUID:
		b, ok := b.(GUID)
		return same(a == b, ok)
	case time.Time:
		b, ok := b.(time.Time)
		return orderOf(a.Compare(b)), ok
	case time.Duration:
		b, ok := b.(time.Duration)
		return orderOf(cmp.Compare(a, b)), ok
	}
	x, okX := numberOf(a)
	y, okY := numberOf(b)
	return compareNumbers(x, y), okX && okY
}

// compareNumbers compares integers exactly, and other numbers as float64.
func compareNumbers(x, y number) order {
	switch {
	case x.rank >= rankFloat || y.rank >= rankFloat:
		if math.IsNaN(x.f) || math.IsNaN(y.f) {
			return unordered
		}
		return orderOf(cmp.Compare(x.f, y.f))
	case x.rank == rankUlong && y.rank == rankUlong:
		return orderOf(cmp.Compare(x.u, y.u))
	case x.rank == rankUlong:
		if y.i < 0 {
			return greater
		}
		return orderOf(cmp.Compare(x.u, uint64(y.i)))
	case y.rank == rankUlong:
		return greater + less - compareNumbers(y, x)
	}
	return orderOf(cmp.Compare(x.i, y.i))
}

// relate applies a comparison operator to two values that are not nil.
func relate(operator string, a, b any) (truth, error) {
	o, ok := compare(a, b)
	equality := operator == "=" || operator == "<>" || operator == "!="
	if _, isNumber := numberOf(a); !equality && !isNumber {
		switch a.(type) {
		case time.Time, time.Duration:
		default:
			ok = false // C# does not order strings
		}
	}
	if !ok {
		return unknown, mismatch(operator, a, b)
	}
	switch operator {
	case "=":
		return truthOf(o == equal), nil
	case "<":
		return truthOf(o == less), nil
	case "<=":
		return truthOf(o == less || o == equal), nil
	case ">":
		return truthOf(o == greater), nil
	case ">=":
		return truthOf(o == greater || o == equal), nil
	}
	return truthOf(o != equal), nil
}

func mismatch(operator string, a, b any) error {
	return fmt.Errorf("the operator %s cannot be applied to values of the types %s and %s", operator, typeName(a), typeName(b))
}
