package sanitizer

import (
	"encoding/binary"
	"errors"
)

// The bounds of what passes. The client library needs up to 100 bytes for each value, and about 500
// for a level of nesting, however few bytes they have on the wire.
const (
	// maxDepth bounds the nesting of values. go-amqp has no bound: 1 MB of nested lists costs it
	// 500 MB, and 4 MB overflow its stack.
	maxDepth = 32
	// maxValues bounds the values of a message, including keys and data sections. Events are data,
	// and one data section counts as one value.
	maxValues = 4096
	// maxCount is how many items go-amqp reads in one list, map or array.
	maxCount = 65536
)

// The reasons why a value cannot be read. The texts follow "…: ".
var (
	errShort      = errors.New("it is cut off")
	errTrailing   = errors.New("its sizes contradict each other")
	errType       = errors.New("it is of a type that cannot be read (such as char or decimal)")
	errDepth      = errors.New("values are nested more than 32 deep")
	errMany       = errors.New("it holds more than 4,096 values")
	errKey        = errors.New("its type cannot be a map's key")
	errFit        = errors.New("it has the wrong type")
	errDescriptor = errors.New("its descriptor cannot be read")
	errSection    = errors.New("it is not a section of a message")
	errTwice      = errors.New("it occurs twice")
	errOurs       = errors.New("only a sanitizer may write it")
)

// Format codes (AMQP 1.0 part 1, §1.6).
const (
	codeDescribed  = 0x00
	codeNull       = 0x40
	codeUint0      = 0x43
	codeUlong0     = 0x44
	codeList0      = 0x45
	codeSmallUlong = 0x53
	codeUlong      = 0x80
	codeLong       = 0x81
	codeSmallLong  = 0x55
	codeTimestamp  = 0x83
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

// form is what go-amqp reads after a format code.
type form uint8

const (
	unreadable form = iota
	fixed
	variable // text and binary
	list
	mapping
	array
)

// forms has every format code that go-amqp v1.7.0 reads (internal/encoding/decode.go, ReadAny): all
// except char and the decimals.
var forms = func() (t [256]form) {
	for codes, f := range map[string]form{
		"\x40\x41\x42\x43\x44\x50\x51\x52\x53\x54\x55\x56\x60\x61\x70\x71\x72\x80\x81\x82\x83\x98": fixed,
		"\xa0\xa1\xa3\xb0\xb1\xb3": variable,
		"\x45\xc0\xd0":             list,
		"\xc1\xd1":                 mapping,
		"\xe0\xf0":                 array,
	} {
		for i := range len(codes) {
			t[codes[i]] = f
		}
	}
	return t
}()

// widths is the number of bytes after a format code, by its upper half. -1 and -4 mean a size of 1
// or 4 bytes, and then as many bytes as it says (AMQP 1.0 part 1, §1.2: this also holds for
// undefined codes).
var widths = [16]int8{0x4: 0, 0x5: 1, 0x6: 2, 0x7: 4, 0x8: 8, 0x9: 16, 0xa: -1, 0xb: -4, 0xc: -1, 0xd: -4, 0xe: -1, 0xf: -4}

func isText(code byte) bool {
	return code == codeStr8 || code == codeSym8 || code == codeStr32 || code == codeSym32
}

func isBinary(code byte) bool { return code == codeBin8 || code == codeBin32 }

// span returns the bytes of the value after a format code, without its size, and the rest of b.
func span(code byte, b []byte) (body, rest []byte, err error) {
	n := int(widths[code>>4])
	switch {
	case code < 0x40:
		return nil, nil, errType
	case n == -1:
		if len(b) < 1 {
			return nil, nil, errShort
		}
		n, b = int(b[0]), b[1:]
	case n == -4:
		if len(b) < 4 {
			return nil, nil, errShort
		}
		size := binary.BigEndian.Uint32(b)
		if b = b[4:]; uint64(size) > uint64(len(b)) {
			return nil, nil, errShort
		}
		n = int(size)
	}
	if n > len(b) {
		return nil, nil, errShort
	}
	return b[:n], b[n:], nil
}

// cut returns the first value and the rest of b. It only looks at sizes, so it can skip values that
// cannot be read.
func cut(b []byte) (value, rest []byte, err error) {
	rest = b
	for range maxDepth {
		if len(rest) == 0 {
			return nil, nil, errShort
		}
		if rest[0] != codeDescribed {
			if _, rest, err = span(rest[0], rest[1:]); err != nil {
				return nil, nil, err
			}
			return b[:len(b)-len(rest)], rest, nil
		}
		if len(rest) < 2 {
			return nil, nil, errShort
		}
		if _, rest, err = span(rest[1], rest[2:]); err != nil { // the descriptor
			return nil, nil, err
		}
	}
	return nil, nil, errDepth
}

// counted splits a list's, map's or array's body into its count and its items.
func counted(code byte, body []byte) (n int, items []byte, err error) {
	switch {
	case widths[code>>4] == -1 && len(body) >= 1:
		n, items = int(body[0]), body[1:]
	case widths[code>>4] == -4 && len(body) >= 4:
		count := binary.BigEndian.Uint32(body)
		if count > maxCount {
			return 0, nil, errMany
		}
		n, items = int(count), body[4:]
	default:
		return 0, nil, errShort
	}
	if n > len(items) { // like go-amqp's bound: an item has at least one byte
		return 0, nil, errTrailing
	}
	return n, items, nil
}

// scanner finds out whether go-amqp v1.7.0 and azservicebus v1.11.0 can read a message. It builds
// and allocates nothing. Where sizes contradict contents it is stricter than they are: go-amqp only
// looks at counts, other libraries at sizes, and nobody sends such a message in good faith.
type scanner struct {
	left int // values that may still come
}

// value returns the bytes after the first value.
func (s *scanner) value(b []byte, depth int) (rest []byte, err error) {
	if s.left--; s.left < 0 {
		return nil, errMany
	}
	if len(b) == 0 {
		return nil, errShort
	}
	code := b[0]
	if code == codeDescribed {
		return s.described(b[1:], depth)
	}
	f := forms[code]
	if f == unreadable {
		return nil, errType
	}
	body, rest, err := span(code, b[1:])
	if err != nil || f <= variable || code == codeList0 {
		return rest, err
	}
	if depth >= maxDepth {
		return nil, errDepth
	}
	if f == array {
		return rest, s.array(code, body, depth)
	}
	n, items, err := counted(code, body)
	if err != nil {
		return nil, err
	}
	if f == mapping {
		return rest, s.pairs(n, items, depth)
	}
	for range n {
		if items, err = s.value(items, depth+1); err != nil {
			return nil, err
		}
	}
	if len(items) > 0 {
		return nil, errTrailing
	}
	return rest, nil
}

// described reads a value with a descriptor: a name, or a number outside AMQP's own range. go-amqp
// reads AMQP's own descriptors in special ways, or not at all (readComposite).
func (s *scanner) described(b []byte, depth int) (rest []byte, err error) {
	if depth >= maxDepth {
		return nil, errDepth
	}
	if len(b) == 0 {
		return nil, errShort
	}
	body, rest, err := span(b[0], b[1:])
	if err != nil {
		return nil, err
	}
	switch b[0] {
	case codeSym8, codeSym32:
	case codeUlong:
		if binary.BigEndian.Uint64(body) <= 0xff {
			return nil, errDescriptor
		}
	default:
		return nil, errDescriptor
	}
	return s.value(rest, depth+1)
}

// pairs reads a map's keys and values. Go cannot use binary or compound values as keys. It panics
// if one is inside a described key, or if the map is an annotations section, which go-amqp does not
// check.
func (s *scanner) pairs(n int, items []byte, depth int) (err error) {
	if n%2 != 0 {
		return errTrailing
	}
	for range n / 2 {
		if items, err = s.key(items); err != nil {
			return err
		}
		if items, err = s.value(items, depth+1); err != nil {
			return err
		}
	}
	if len(items) > 0 {
		return errTrailing
	}
	return nil
}

func (s *scanner) key(b []byte) (rest []byte, err error) {
	if len(b) > 0 && forms[b[0]] != fixed && !isText(b[0]) {
		return nil, errKey
	}
	return s.value(b, maxDepth)
}

// array reads an array's items, all of one type that go-amqp supports (readAnyArray).
func (s *scanner) array(code byte, body []byte, depth int) error {
	n, items, err := counted(code, body)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return errShort
	}
	item, items := items[0], items[1:]
	f, width := forms[item], int(widths[item>>4])
	switch {
	case f == fixed && item != codeNull:
		if n*width != len(items) {
			return errTrailing
		}
		return nil // a few bytes each, whatever they are
	case f == variable && 2*n > len(items)+1: // go-amqp's bound: an item has at least two bytes
		return errTrailing
	case f != variable && f != mapping:
		return errType
	}
	for range n {
		if s.left--; s.left < 0 {
			return errMany
		}
		var one []byte
		if one, items, err = span(item, items); err != nil {
			return err
		}
		if f == mapping {
			if depth+1 >= maxDepth {
				return errDepth
			}
			count, pairs, err := counted(item, one)
			if err != nil {
				return err
			}
			if err := s.pairs(count, pairs, depth+1); err != nil {
				return err
			}
		}
	}
	if len(items) > 0 {
		return errTrailing
	}
	return nil
}
