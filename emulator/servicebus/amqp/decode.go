package amqp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

var (
	errShort      = errors.New("value is cut off")
	errDescriptor = errors.New("a descriptor is described itself")
)

// ReadValue reads one value and returns the bytes after it. []byte values alias src, including
// those inside lists, maps and arrays. It fails on bytes that are cut off or malformed, and on
// nesting deeper than 32. It allocates at most 100 times the size of src. It does not check that
// strings are UTF-8, and keeps their bytes.
func ReadValue(src []byte) (v any, rest []byte, err error) {
	v, rest, err = readValue(src, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("amqp: %w", err)
	}
	return v, rest, nil
}

func readValue(src []byte, depth int) (any, []byte, error) {
	if depth > maxDepth {
		return nil, nil, errDepth
	}
	if len(src) == 0 {
		return nil, nil, errShort
	}
	if src[0] == codeDescribed {
		raw, rest, err := cutDescriptor(src[1:])
		if err != nil {
			return nil, nil, err
		}
		descriptor, _, err := readValue(raw, depth+1)
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

// Values of layout that are not a number of bytes.
const (
	sized8  = -1 // a size field of one byte, and as many bytes
	sized32 = -4 // a size field of four bytes
	unknown = -128
)

// layout says what follows each format code: a fixed number of bytes, or one of the constants above
// (AMQP 1.0 §1.2).
var layout = func() (t [256]int8) {
	for code := range t {
		t[code] = unknown
	}
	for codes, width := range map[string]int8{
		"\x40\x41\x42\x43\x44\x45":     0,
		"\x50\x51\x52\x53\x54\x55\x56": 1,
		"\x60\x61":                     2,
		"\x70\x71\x72\x73\x74":         4,
		"\x80\x81\x82\x83\x84":         8,
		"\x94\x98":                     16,
		"\xa0\xa1\xa3\xc0\xc1\xe0":     sized8,
		"\xb0\xb1\xb3\xd0\xd1\xf0":     sized32,
	} {
		for i := range len(codes) {
			t[codes[i]] = width
		}
	}
	return t
}()

// span returns the bytes of a value and the bytes after it. src begins after the format code, with
// the size field if the value has one.
func span(code byte, src []byte) (body, rest []byte, err error) {
	n := int(layout[code])
	if n < 0 {
		switch {
		case n == unknown:
			return nil, nil, fmt.Errorf("unknown format code 0x%02x", code)
		case len(src) < -n:
			return nil, nil, errShort
		case n == sized8:
			n, src = int(src[0]), src[1:]
		default:
			n, src = int(binary.BigEndian.Uint32(src)), src[4:]
		}
	}
	if n > len(src) {
		return nil, nil, errShort
	}
	return src[:n], src[n:], nil
}

// cut returns the bytes of the first value and the bytes after it. It checks sizes only.
func cut(src []byte) (value, rest []byte, err error) {
	rest = src
	for described := 0; ; described++ {
		switch {
		case described > maxDepth:
			return nil, nil, errDepth
		case len(rest) == 0:
			return nil, nil, errShort
		}
		if rest[0] != codeDescribed {
			break
		}
		if _, rest, err = cutDescriptor(rest[1:]); err != nil {
			return nil, nil, err
		}
	}
	if _, rest, err = span(rest[0], rest[1:]); err != nil {
		return nil, nil, err
	}
	return src[:len(src)-len(rest)], rest, nil
}

// cutDescriptor returns the bytes of a descriptor and the bytes after it. A descriptor must not be
// a described value: AMQP 1.0 §1.5 reserves all types but symbol and ulong.
func cutDescriptor(src []byte) (descriptor, rest []byte, err error) {
	if len(src) == 0 {
		return nil, nil, errShort
	}
	if src[0] == codeDescribed {
		return nil, nil, errDescriptor
	}
	if _, rest, err = span(src[0], src[1:]); err != nil {
		return nil, nil, err
	}
	return src[:len(src)-len(rest)], rest, nil
}

// readBody reads a value from the bytes after its format code.
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
		v, err = b[0] == 1, checkBool(b)
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
		v = slices.Clip(b) // appending to it must not change what follows
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

func checkBool(b []byte) error {
	if b[0] > 1 {
		return fmt.Errorf("a boolean is 0x%02x", b[0])
	}
	return nil
}

// count reads the number of items of a list or map. Each item takes at least one byte.
func count(short bool, b []byte) (n int, items []byte, err error) {
	switch {
	case short && len(b) >= 1:
		n, items = int(b[0]), b[1:]
	case !short && len(b) >= 4:
		n, items = int(binary.BigEndian.Uint32(b)), b[4:]
	default:
		return 0, nil, errShort
	}
	if n > len(items) {
		return 0, nil, fmt.Errorf("%d items in %d bytes", n, len(items))
	}
	return n, items, nil
}

func pairs(short bool, b []byte) (n int, items []byte, err error) {
	n, items, err = count(short, b)
	if err == nil && n%2 != 0 {
		err = fmt.Errorf("a map of %d items, half of which must be keys", n)
	}
	return n / 2, items, err
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
	n, b, err := pairs(short, b)
	if err != nil {
		return nil, err
	}
	m := make(Map, n)
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

// maxFree bounds arrays of values that take no bytes (true, uint0, …), because their size does not
// bound their count. No client is known to send them.
const maxFree = 8

// array is an array's head and the bytes of its items.
type array struct {
	count      int
	descriptor []byte // encoded; nil unless the items are described
	code       byte   // of each item
	items      []byte
}

func arrayHead(short bool, b []byte, depth int) (a array, err error) {
	size := 4
	if short {
		size = 1
	}
	switch {
	case depth >= maxDepth: // the items are one level deeper
		return a, errDepth
	case len(b) < size+1:
		return a, errShort
	case short:
		a.count = int(b[0])
	default:
		a.count = int(binary.BigEndian.Uint32(b))
	}
	if b = b[size:]; b[0] == codeDescribed {
		if a.descriptor, b, err = cutDescriptor(b[1:]); err != nil {
			return a, err
		}
		if len(b) == 0 {
			return a, errShort
		}
	}
	a.code, a.items = b[0], b[1:]
	least := int(layout[a.code])
	if least == unknown {
		return a, fmt.Errorf("unknown format code 0x%02x", a.code)
	}
	if least < 0 {
		least = -least // the size field
	}
	if least == 0 && a.count > maxFree || least > 0 && a.count > len(a.items)/least {
		return a, fmt.Errorf("%d items in %d bytes", a.count, len(a.items))
	}
	return a, nil
}

func readArray(short bool, b []byte, depth int) (Array, error) {
	a, err := arrayHead(short, b, depth)
	if err != nil {
		return nil, err
	}
	var descriptor any
	if a.descriptor != nil {
		if descriptor, _, err = readValue(a.descriptor, depth+1); err != nil {
			return nil, err
		}
	}
	items := make(Array, a.count)
	b = a.items
	for i := range items {
		if items[i], b, err = readBody(a.code, b, depth+1); err != nil {
			return nil, err
		}
		if a.descriptor != nil {
			items[i] = Described{descriptor, items[i]}
		}
	}
	return items, trailing(b)
}

func trailing(b []byte) error {
	if len(b) > 0 {
		return fmt.Errorf("%d bytes after the last item", len(b))
	}
	return nil
}
