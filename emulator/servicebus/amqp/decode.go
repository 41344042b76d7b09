package amqp

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
)

// ReadValue reads one value and returns the bytes behind it. []byte values alias src.
func ReadValue(src []byte) (v any, rest []byte, err error) {
	return readValue(src, 0)
}

func readValue(src []byte, depth int) (any, []byte, error) {
	if depth > maxDepth {
		return nil, nil, errDepth
	}
	if len(src) == 0 {
		return nil, nil, errShort
	}
	if src[0] == codeDescribed {
		descriptor, rest, err := readValue(src[1:], depth+1)
		if err != nil {
			return nil, nil, err
		}
		value, rest, err := readValue(rest, depth+1)
		if err != nil {
			return nil, nil, err
		}
		return Described{descriptor, value}, rest, nil
	}
	return readBody(src[0], src[1:], depth)
}

// width returns how many bytes follow the constructor: a fixed number, or a size field of this width and then as many.
func width(code byte) (fixed, size int, ok bool) {
	switch code >> 4 {
	case 0x4:
		return 0, 0, code <= codeList0
	case 0x5:
		return 1, 0, code <= codeBool
	case 0x6:
		return 2, 0, code <= codeShort
	case 0x7:
		return 4, 0, code <= codeDecimal32
	case 0x8:
		return 8, 0, code <= codeDecimal64
	case 0x9:
		return 16, 0, code == codeDecimal128 || code == codeUUID
	case 0xa:
		return 0, 1, code == codeBin8 || code == codeStr8 || code == codeSym8
	case 0xb:
		return 0, 4, code == codeBin32 || code == codeStr32 || code == codeSym32
	case 0xc:
		return 0, 1, code == codeList8 || code == codeMap8
	case 0xd:
		return 0, 4, code == codeList32 || code == codeMap32
	case 0xe:
		return 0, 1, code == codeArray8
	case 0xf:
		return 0, 4, code == codeArray32
	}
	return 0, 0, false
}

// span cuts the bytes of a value's body off src.
func span(code byte, src []byte) (body, rest []byte, err error) {
	fixed, size, ok := width(code)
	if !ok {
		return nil, nil, fmt.Errorf("amqp: unknown format code 0x%02x", code)
	}
	if len(src) < size {
		return nil, nil, errShort
	}
	n := fixed
	switch size {
	case 1:
		n = int(src[0])
	case 4:
		n = int(binary.BigEndian.Uint32(src))
	}
	if n > len(src)-size {
		return nil, nil, errShort
	}
	return src[size : size+n], src[size+n:], nil
}

// readBody reads what follows the constructor code.
func readBody(code byte, src []byte, depth int) (any, []byte, error) {
	b, rest, err := span(code, src)
	if err != nil {
		return nil, nil, err
	}
	var v any
	switch code {
	case codeNull:
	case codeTrue:
		v = true
	case codeFalse:
		v = false
	case codeUint0:
		v = uint32(0)
	case codeUlong0:
		v = uint64(0)
	case codeList0:
		v = []any{}
	case codeUbyte:
		v = b[0]
	case codeByte:
		v = int8(b[0])
	case codeSmallUint:
		v = uint32(b[0])
	case codeSmallUlong:
		v = uint64(b[0])
	case codeSmallInt:
		v = int32(int8(b[0]))
	case codeSmallLong:
		v = int64(int8(b[0]))
	case codeBool:
		v = b[0] != 0
	case codeUshort:
		v = binary.BigEndian.Uint16(b)
	case codeShort:
		v = int16(binary.BigEndian.Uint16(b))
	case codeUint:
		v = binary.BigEndian.Uint32(b)
	case codeInt:
		v = int32(binary.BigEndian.Uint32(b))
	case codeFloat:
		v = math.Float32frombits(binary.BigEndian.Uint32(b))
	case codeChar:
		v = Char(binary.BigEndian.Uint32(b))
	case codeDecimal32:
		v = Decimal32(b)
	case codeUlong:
		v = binary.BigEndian.Uint64(b)
	case codeLong:
		v = int64(binary.BigEndian.Uint64(b))
	case codeDouble:
		v = math.Float64frombits(binary.BigEndian.Uint64(b))
	case codeTimestamp:
		v = time.UnixMilli(int64(binary.BigEndian.Uint64(b))).UTC()
	case codeDecimal64:
		v = Decimal64(b)
	case codeDecimal128:
		v = Decimal128(b)
	case codeUUID:
		v = UUID(b)
	case codeBin8, codeBin32:
		v = b
	case codeStr8, codeStr32:
		v = string(b)
	case codeSym8, codeSym32:
		v = Symbol(b)
	case codeList8, codeList32:
		v, err = readList(code == codeList8, b, depth)
	case codeMap8, codeMap32:
		v, err = readMap(code == codeMap8, b, depth)
	case codeArray8, codeArray32:
		v, err = readArray(code == codeArray8, b, depth)
	}
	return v, rest, err
}

// count reads a compound's count, each item of which takes at least one byte unless free says otherwise.
func count(short bool, b []byte) (n int, rest []byte, err error) {
	switch {
	case short && len(b) >= 1:
		n, rest = int(b[0]), b[1:]
	case !short && len(b) >= 4:
		n, rest = int(binary.BigEndian.Uint32(b)), b[4:]
	default:
		return 0, nil, errShort
	}
	if n > len(rest) {
		return 0, nil, fmt.Errorf("amqp: %d items in %d bytes", n, len(rest))
	}
	return n, rest, nil
}

func readList(short bool, b []byte, depth int) ([]any, error) {
	n, b, err := count(short, b)
	if err != nil {
		return nil, err
	}
	list := make([]any, n)
	for i := range list {
		if list[i], b, err = readValue(b, depth+1); err != nil {
			return nil, err
		}
	}
	return list, trailing(b)
}

func readMap(short bool, b []byte, depth int) (Map, error) {
	n, b, err := count(short, b)
	if err != nil {
		return nil, err
	}
	if n%2 != 0 {
		return nil, fmt.Errorf("amqp: a map of %d items", n)
	}
	m := make(Map, n/2)
	for i := range m {
		if m[i].Key, b, err = readValue(b, depth+1); err != nil {
			return nil, err
		}
		if m[i].Value, b, err = readValue(b, depth+1); err != nil {
			return nil, err
		}
	}
	return m, trailing(b)
}

// maxFree bounds arrays of values that take no bytes (null, true, uint0 …), whose count nothing else bounds.
const maxFree = 64

func readArray(short bool, b []byte, depth int) (Array, error) {
	size := 4
	if short {
		size = 1
	}
	if len(b) < size+1 {
		return nil, errShort
	}
	n := int(b[0])
	if !short {
		n = int(binary.BigEndian.Uint32(b))
	}
	b = b[size:]
	code := b[0]
	b = b[1:]
	var descriptor any
	described := code == codeDescribed
	if described {
		var err error
		if descriptor, b, err = readValue(b, depth+1); err != nil {
			return nil, err
		}
		if len(b) == 0 {
			return nil, errShort
		}
		code, b = b[0], b[1:]
	}
	fixed, sized, ok := width(code)
	if !ok {
		return nil, fmt.Errorf("amqp: unknown format code 0x%02x", code)
	}
	if least := max(fixed, sized); n > len(b)/max(least, 1) && (least > 0 || n > maxFree) {
		return nil, fmt.Errorf("amqp: %d items in %d bytes", n, len(b))
	}
	if depth >= maxDepth {
		return nil, errDepth
	}
	items := make(Array, n)
	for i := range items {
		var err error
		if items[i], b, err = readBody(code, b, depth+1); err != nil {
			return nil, err
		}
		if described {
			items[i] = Described{descriptor, items[i]}
		}
	}
	return items, trailing(b)
}

func trailing(b []byte) error {
	if len(b) > 0 {
		return fmt.Errorf("amqp: %d bytes behind the last item", len(b))
	}
	return nil
}

// skipValue returns the bytes of the first value without decoding it; it checks sizes, not the content of compounds.
func skipValue(src []byte) (value, rest []byte, err error) { return skip(src, 0) }

func skip(src []byte, depth int) (value, rest []byte, err error) {
	if depth > maxDepth {
		return nil, nil, errDepth
	}
	if len(src) == 0 {
		return nil, nil, errShort
	}
	if src[0] == codeDescribed {
		_, rest, err = skip(src[1:], depth+1)
		if err == nil {
			_, rest, err = skip(rest, depth+1)
		}
	} else {
		_, rest, err = span(src[0], src[1:])
	}
	if err != nil {
		return nil, nil, err
	}
	return src[:len(src)-len(rest)], rest, nil
}
