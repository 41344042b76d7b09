package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"time"
)

// AppendValue appends v. Scalars have their smallest encoding. Lists, maps and arrays have sizes of
// 32 bits. An int becomes a long. It fails on a Go type without an AMQP counterpart, on an Array of
// mixed types, of described values or of nulls, and on nesting deeper than 32. v must be smaller
// than 4 GiB. AppendValue does not check that strings are UTF-8 and symbols are ASCII.
func AppendValue(dst []byte, v any) ([]byte, error) {
	out, err := appendValue(dst, v, 0)
	if err != nil {
		return dst, fmt.Errorf("amqp: %w", err)
	}
	return out, nil
}

func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	if depth > maxDepth {
		return nil, errDepth
	}
	switch v := v.(type) {
	case nil:
		return append(dst, codeNull), nil
	case bool:
		return appendBool(dst, v), nil
	case uint8:
		return append(dst, codeUbyte, v), nil
	case uint16:
		return binary.BigEndian.AppendUint16(append(dst, codeUshort), v), nil
	case uint32:
		return appendUint(dst, v), nil
	case uint64:
		return appendUlong(dst, v), nil
	case int8:
		return append(dst, codeByte, byte(v)), nil
	case int16:
		return binary.BigEndian.AppendUint16(append(dst, codeShort), uint16(v)), nil
	case int32:
		return appendInt(dst, v), nil
	case int64:
		return appendLong(dst, v), nil
	case int:
		return appendLong(dst, int64(v)), nil
	case float32:
		return binary.BigEndian.AppendUint32(append(dst, codeFloat), math.Float32bits(v)), nil
	case float64:
		return binary.BigEndian.AppendUint64(append(dst, codeDouble), math.Float64bits(v)), nil
	case Char:
		return binary.BigEndian.AppendUint32(append(dst, codeChar), uint32(v)), nil
	case Decimal32:
		return append(append(dst, codeDecimal32), v[:]...), nil
	case Decimal64:
		return append(append(dst, codeDecimal64), v[:]...), nil
	case Decimal128:
		return append(append(dst, codeDecimal128), v[:]...), nil
	case time.Time:
		return appendTimestamp(dst, v), nil
	case UUID:
		return append(append(dst, codeUUID), v[:]...), nil
	case []byte:
		return appendBinary(dst, v), nil
	case string:
		return appendSized(dst, codeStr8, codeStr32, v), nil
	case Symbol:
		return appendSized(dst, codeSym8, codeSym32, string(v)), nil
	case []any:
		return appendList(dst, v, depth)
	case Map:
		return appendMap(dst, v, depth)
	case Array:
		return appendArray(dst, v, depth)
	case Described:
		if _, described := v.Descriptor.(Described); described {
			return nil, errDescriptor
		}
		dst, err := appendValue(append(dst, codeDescribed), v.Descriptor, depth+1)
		if err != nil {
			return nil, err
		}
		return appendValue(dst, v.Value, depth+1)
	}
	return nil, fmt.Errorf("%s has no AMQP type", goType(v))
}

// goType names v's type. Formatting v with %T would make the caller's value escape to the heap on
// every call.
func goType(v any) string {
	if v == nil {
		return "nil"
	}
	return reflect.TypeOf(v).String()
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, codeTrue)
	}
	return append(dst, codeFalse)
}

func appendUint(dst []byte, v uint32) []byte {
	switch {
	case v == 0:
		return append(dst, codeUint0)
	case v <= math.MaxUint8:
		return append(dst, codeSmallUint, byte(v))
	}
	return binary.BigEndian.AppendUint32(append(dst, codeUint), v)
}

func appendUlong(dst []byte, v uint64) []byte {
	switch {
	case v == 0:
		return append(dst, codeUlong0)
	case v <= math.MaxUint8:
		return append(dst, codeSmallUlong, byte(v))
	}
	return binary.BigEndian.AppendUint64(append(dst, codeUlong), v)
}

func appendInt(dst []byte, v int32) []byte {
	if v >= math.MinInt8 && v <= math.MaxInt8 {
		return append(dst, codeSmallInt, byte(v))
	}
	return binary.BigEndian.AppendUint32(append(dst, codeInt), uint32(v))
}

func appendLong(dst []byte, v int64) []byte {
	if v >= math.MinInt8 && v <= math.MaxInt8 {
		return append(dst, codeSmallLong, byte(v))
	}
	return binary.BigEndian.AppendUint64(append(dst, codeLong), uint64(v))
}

func appendTimestamp(dst []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(append(dst, codeTimestamp), uint64(t.UnixMilli()))
}

func appendBinary(dst, v []byte) []byte {
	if len(v) <= math.MaxUint8 {
		return append(append(dst, codeBin8, byte(len(v))), v...)
	}
	return append(binary.BigEndian.AppendUint32(append(dst, codeBin32), uint32(len(v))), v...)
}

func appendSized(dst []byte, short, long byte, s string) []byte {
	if len(s) <= math.MaxUint8 {
		return append(append(dst, short, byte(len(s))), s...)
	}
	return append(binary.BigEndian.AppendUint32(append(dst, long), uint32(len(s))), s...)
}

// begin appends the head of a list32, map32 or array32 without its size and count. start is where
// the content begins. The caller passes it to end.
func begin(dst []byte, code byte) (_ []byte, start int) {
	dst = append(dst, code, 0, 0, 0, 0, 0, 0, 0, 0)
	return dst, len(dst)
}

// end fills in the size and count that begin left out.
func end(dst []byte, start, count int) {
	binary.BigEndian.PutUint32(dst[start-8:], uint32(len(dst)-start+4))
	binary.BigEndian.PutUint32(dst[start-4:], uint32(count))
}

func appendList(dst []byte, list []any, depth int) (_ []byte, err error) {
	dst, start := begin(dst, codeList32)
	for _, item := range list {
		if dst, err = appendValue(dst, item, depth+1); err != nil {
			return nil, err
		}
	}
	end(dst, start, len(list))
	return dst, nil
}

func appendMap(dst []byte, m Map, depth int) (_ []byte, err error) {
	dst, start := begin(dst, codeMap32)
	for _, p := range m {
		if dst, err = appendValue(dst, p.Key, depth+1); err != nil {
			return nil, err
		}
		if dst, err = appendValue(dst, p.Value, depth+1); err != nil {
			return nil, err
		}
	}
	end(dst, start, 2*len(m))
	return dst, nil
}

// appendArray writes a constructor that can encode every value of the first item's type.
func appendArray(dst []byte, items Array, depth int) (_ []byte, err error) {
	dst, start := begin(dst, codeArray32)
	if len(items) == 0 {
		dst = append(dst, codeNull) // a constructor is required
	}
	var constructor byte
	for i, item := range items {
		at := len(dst)
		if dst, err = appendWide(dst, item, depth+1); err != nil {
			return nil, err
		}
		switch {
		case i == 0:
			constructor = dst[at]
			continue // the constructor is written once, before the first item
		case dst[at] != constructor:
			return nil, fmt.Errorf("an array of %s holds a %s", goType(items[0]), goType(item))
		}
		dst = append(dst[:at], dst[at+1:]...)
	}
	end(dst, start, len(items))
	return dst, nil
}

// appendWide appends v in the encoding that can represent every value of its type.
func appendWide(dst []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case bool:
		if v {
			return append(dst, codeBool, 1), nil
		}
		return append(dst, codeBool, 0), nil
	case uint32:
		return binary.BigEndian.AppendUint32(append(dst, codeUint), v), nil
	case uint64:
		return binary.BigEndian.AppendUint64(append(dst, codeUlong), v), nil
	case int32:
		return binary.BigEndian.AppendUint32(append(dst, codeInt), uint32(v)), nil
	case int64:
		return binary.BigEndian.AppendUint64(append(dst, codeLong), uint64(v)), nil
	case int:
		return binary.BigEndian.AppendUint64(append(dst, codeLong), uint64(v)), nil
	case string:
		return append(binary.BigEndian.AppendUint32(append(dst, codeStr32), uint32(len(v))), v...), nil
	case Symbol:
		return append(binary.BigEndian.AppendUint32(append(dst, codeSym32), uint32(len(v))), v...), nil
	case []byte:
		return append(binary.BigEndian.AppendUint32(append(dst, codeBin32), uint32(len(v))), v...), nil
	case Described, nil:
		return nil, fmt.Errorf("arrays of %s are not written", goType(v))
	}
	return appendValue(dst, v, depth) // the type has one encoding only
}
