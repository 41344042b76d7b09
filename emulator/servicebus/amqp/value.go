// Package amqp encodes and decodes AMQP 1.0: values, frames, performatives and message sections
// (OASIS AMQP 1.0, parts 1 to 3). It uses the standard library alone, and decodes foreign bytes within bounds: nesting is
// limited, counts are checked against the bytes at hand before anything is allocated, and nothing panics.
package amqp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// Types without a Go counterpart. The others are: null nil, boolean bool, ubyte to ulong uint8 to uint64, byte to long
// int8 to int64, float float32, double float64, timestamp time.Time (UTC, milliseconds), binary []byte, string string,
// list []any.
type (
	// Symbol is a string from a constrained vocabulary.
	Symbol string
	// UUID is in network order.
	UUID [16]byte
	// Char is one Unicode character.
	Char rune
	// Decimal32 is kept as it comes.
	Decimal32 [4]byte
	// Decimal64 is kept as it comes.
	Decimal64 [8]byte
	// Decimal128 is kept as it comes.
	Decimal128 [16]byte
	// Array holds values of one type.
	Array []any
	// Map keeps the order of its pairs and the type of their keys.
	Map []Pair
	// Pair is one entry of a Map.
	Pair struct{ Key, Value any }
	// Described is a value with a descriptor.
	Described struct{ Descriptor, Value any }
)

// Get returns the value whose key is the string or symbol key.
func (m Map) Get(key string) (any, bool) {
	for _, p := range m {
		switch k := p.Key.(type) {
		case string:
			if k == key {
				return p.Value, true
			}
		case Symbol:
			if string(k) == key {
				return p.Value, true
			}
		}
	}
	return nil, false
}

// Set replaces the value of key, or adds the pair.
func (m *Map) Set(key string, value any) {
	for i, p := range *m {
		if p.Key == any(key) || p.Key == any(Symbol(key)) {
			(*m)[i].Value = value
			return
		}
	}
	*m = append(*m, Pair{key, value})
}

// maxDepth bounds nesting.
const maxDepth = 32

// Format codes (part 1, §1.6).
const (
	codeDescribed  = 0x00
	codeNull       = 0x40
	codeTrue       = 0x41
	codeFalse      = 0x42
	codeUint0      = 0x43
	codeUlong0     = 0x44
	codeList0      = 0x45
	codeUbyte      = 0x50
	codeByte       = 0x51
	codeSmallUint  = 0x52
	codeSmallUlong = 0x53
	codeSmallInt   = 0x54
	codeSmallLong  = 0x55
	codeBool       = 0x56
	codeUshort     = 0x60
	codeShort      = 0x61
	codeUint       = 0x70
	codeInt        = 0x71
	codeFloat      = 0x72
	codeChar       = 0x73
	codeDecimal32  = 0x74
	codeUlong      = 0x80
	codeLong       = 0x81
	codeDouble     = 0x82
	codeTimestamp  = 0x83
	codeDecimal64  = 0x84
	codeDecimal128 = 0x94
	codeUUID       = 0x98
	codeBin8       = 0xa0
	codeStr8       = 0xa1
	codeSym8       = 0xa3
	codeBin32      = 0xb0
	codeStr32      = 0xb1
	codeSym32      = 0xb3
	codeList8      = 0xc0
	codeMap8       = 0xc1
	codeList32     = 0xd0
	codeMap32      = 0xd1
	codeArray8     = 0xe0
	codeArray32    = 0xf0
)

var (
	errShort = errors.New("amqp: value is cut off")
	errDepth = fmt.Errorf("amqp: nested deeper than %d", maxDepth)
)

// AppendValue appends v in its smallest encoding. The error names a Go type that has no AMQP counterpart.
func AppendValue(dst []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(dst, codeNull), nil
	case bool:
		if v {
			return append(dst, codeTrue), nil
		}
		return append(dst, codeFalse), nil
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
		if v >= math.MinInt8 && v <= math.MaxInt8 {
			return append(dst, codeSmallInt, byte(v)), nil
		}
		return binary.BigEndian.AppendUint32(append(dst, codeInt), uint32(v)), nil
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
		return appendCompound(dst, codeList32, len(v), func(dst []byte) (_ []byte, err error) {
			for _, item := range v {
				if dst, err = AppendValue(dst, item); err != nil {
					return nil, err
				}
			}
			return dst, nil
		})
	case Map:
		return appendCompound(dst, codeMap32, 2*len(v), func(dst []byte) (_ []byte, err error) {
			for _, p := range v {
				if dst, err = AppendValue(dst, p.Key); err != nil {
					return nil, err
				}
				if dst, err = AppendValue(dst, p.Value); err != nil {
					return nil, err
				}
			}
			return dst, nil
		})
	case Array:
		return appendArray(dst, v)
	case Described:
		dst, err := AppendValue(append(dst, codeDescribed), v.Descriptor)
		if err != nil {
			return nil, err
		}
		return AppendValue(dst, v.Value)
	}
	return nil, fmt.Errorf("amqp: %T has no AMQP type", v)
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

// appendCompound appends a list32, map32 or array32 whose size is known only after its content.
func appendCompound(dst []byte, code byte, count int, content func([]byte) ([]byte, error)) ([]byte, error) {
	dst = append(dst, code, 0, 0, 0, 0)
	start := len(dst)
	dst, err := content(binary.BigEndian.AppendUint32(dst, uint32(count)))
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(dst[start-4:], uint32(len(dst)-start))
	return dst, nil
}

// appendArray writes the constructor that fits all items: the widest form of the first item's type.
func appendArray(dst []byte, items Array) ([]byte, error) {
	return appendCompound(dst, codeArray32, len(items), func(dst []byte) ([]byte, error) {
		if len(items) == 0 {
			return append(dst, codeNull), nil
		}
		wide, err := appendWide(nil, items[0])
		if err != nil {
			return nil, err
		}
		constructor := wide[0]
		dst = append(dst, constructor)
		for _, item := range items {
			if wide, err = appendWide(wide[:0], item); err != nil {
				return nil, err
			}
			if wide[0] != constructor {
				return nil, fmt.Errorf("amqp: an array of %T holds a %T", items[0], item)
			}
			dst = append(dst, wide[1:]...)
		}
		return dst, nil
	})
}

// appendWide appends v in the encoding that every value of its type has.
func appendWide(dst []byte, v any) ([]byte, error) {
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
	case string:
		return append(binary.BigEndian.AppendUint32(append(dst, codeStr32), uint32(len(v))), v...), nil
	case Symbol:
		return append(binary.BigEndian.AppendUint32(append(dst, codeSym32), uint32(len(v))), v...), nil
	case []byte:
		return append(binary.BigEndian.AppendUint32(append(dst, codeBin32), uint32(len(v))), v...), nil
	case Described, nil:
		return nil, fmt.Errorf("amqp: arrays of %T are not written", v)
	}
	return AppendValue(dst, v) // has one form only
}
