package rule

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"time"
)

// maxText bounds strings that expressions make, and operands of LIKE, in bytes. It is the maximum
// size of a property
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-quotas).
const maxText = 32 << 10

var (
	errZero     = errors.New("division by zero")
	errOverflow = errors.New("arithmetic overflow")
)

// calculate applies an arithmetic operator to two values that are not nil.
func calculate(operator string, a, b any) (any, error) {
	_, textA := a.(string)
	_, textB := b.(string)
	if operator == "+" && (textA || textB) {
		x, errX := format(a)
		y, errY := format(b)
		switch {
		case errX != nil || errY != nil:
			return nil, mismatch(operator, a, b)
		case len(x)+len(y) > maxText:
			return nil, fmt.Errorf("a string of %d bytes; at most %d are allowed", len(x)+len(y), maxText)
		}
		return x + y, nil
	}
	if v, ok, err := calculateTime(operator, a, b); ok {
		return v, err
	}
	x, okX := numberOf(a)
	y, okY := numberOf(b)
	if !okX || !okY {
		return nil, mismatch(operator, a, b)
	}
	r := max(x.rank, y.rank)
	switch {
	case r == rankDouble:
		return calculateFloat(operator, x.f, y.f), nil
	case r == rankFloat:
		return float32(calculateFloat(operator, x.f, y.f)), nil
	case r == rankUlong && x.rank != y.rank:
		return calculateMixed(operator, x, y, mismatch(operator, a, b))
	case r == rankUlong:
		return calculateUlong(operator, x.u, y.u)
	case r == rankUint && x.rank != y.rank:
		r = rankLong
	}
	i, err := calculateLong(operator, x.i, y.i)
	if err != nil {
		return nil, err
	}
	switch {
	case r == rankInt && i == int64(int32(i)):
		return int32(i), nil
	case r == rankUint && i == int64(uint32(i)):
		return uint32(i), nil
	case r == rankLong:
		return i, nil
	}
	return nil, errOverflow
}

// calculateMixed calculates with a ulong and another integer, which C# allows if the other one has
// no sign.
func calculateMixed(operator string, x, y number, problem error) (any, error) {
	for _, n := range []*number{&x, &y} {
		switch n.rank {
		case rankUint:
			n.u = uint64(n.i)
		case rankUlong:
		default:
			return nil, problem
		}
	}
	return calculateUlong(operator, x.u, y.u)
}

// calculateTime calculates with times and durations. ok is false if it does not know the types.
func calculateTime(operator string, a, b any) (v any, ok bool, err error) {
	d, isDuration := b.(time.Duration)
	isDuration = isDuration && (operator == "+" || operator == "-")
	switch a := a.(type) {
	case time.Time:
		from, isTime := b.(time.Time)
		switch {
		case operator == "-" && isTime:
			difference := a.Sub(from)
			if difference == math.MaxInt64 || difference == math.MinInt64 {
				return nil, true, errOverflow
			}
			return difference, true, nil
		case isDuration && operator == "-" && d == math.MinInt64:
			return nil, true, errOverflow
		case isDuration && operator == "-":
			return a.Add(-d), true, nil
		case isDuration:
			return a.Add(d), true, nil
		}
	case time.Duration:
		if isDuration {
			result, err := calculateLong(operator, int64(a), int64(d))
			return time.Duration(result), true, err
		}
	}
	return nil, false, nil
}

func calculateFloat(operator string, x, y float64) float64 {
	switch operator {
	case "+":
		return x + y
	case "-":
		return x - y
	case "*":
		return x * y
	case "/":
		return x / y
	}
	return math.Mod(x, y)
}

func calculateLong(operator string, x, y int64) (int64, error) {
	if (operator == "/" || operator == "%") && y == 0 {
		return 0, errZero
	}
	if (operator == "/" || operator == "%") && x == math.MinInt64 && y == -1 {
		return 0, errOverflow
	}
	var r int64
	ok := true
	switch operator {
	case "+":
		r = x + y
		ok = (x^r)&(y^r) >= 0
	case "-":
		r = x - y
		ok = (x^y)&(x^r) >= 0
	case "*":
		r = x * y
		ok = x == 0 || r/x == y && (x != -1 || y != math.MinInt64)
	case "/":
		r = x / y
	default:
		r = x % y
	}
	if !ok {
		return 0, errOverflow
	}
	return r, nil
}

func calculateUlong(operator string, x, y uint64) (any, error) {
	if (operator == "/" || operator == "%") && y == 0 {
		return nil, errZero
	}
	var r, over uint64
	switch operator {
	case "+":
		r, over = bits.Add64(x, y, 0)
	case "-":
		r, over = bits.Sub64(x, y, 0)
	case "*":
		over, r = bits.Mul64(x, y)
	case "/":
		r = x / y
	default:
		r = x % y
	}
	if over != 0 {
		return nil, errOverflow
	}
	return r, nil
}

// withSign applies a sign to a value that is not nil.
func withSign(sign string, v any) (any, error) {
	if d, ok := v.(time.Duration); ok {
		if sign == "+" {
			return d, nil
		}
		return calculate("-", time.Duration(0), d)
	}
	n, ok := numberOf(v)
	if !ok {
		return nil, fmt.Errorf("the sign %s cannot be applied to a value of type %s", sign, typeName(v))
	}
	switch {
	case sign == "+":
		return calculate("+", v, int32(0))
	case n.rank == rankUlong:
		return nil, fmt.Errorf("the sign %s cannot be applied to a value of type %s", sign, typeName(v))
	case n.rank == rankDouble:
		return -n.f, nil
	case n.rank == rankFloat:
		return float32(-n.f), nil
	}
	return calculate("-", int32(0), v)
}
