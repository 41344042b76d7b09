// Package amqp encodes and decodes AMQP 1.0: values, frames, performatives and message sections
// (OASIS AMQP 1.0, parts 1 to 3 and 5). It needs the standard library only. It is safe for bytes
// from untrusted peers: it limits nesting, it checks counts against the number of available bytes
// before it allocates, and it does not panic.
//
// Functions named Append… append to dst and return it. On an error they return dst unchanged. No
// value of this package is safe for concurrent use. A result that aliases an argument shares its
// memory, and the documentation says so. All other results do not.
package amqp

import "fmt"

// These are the AMQP types without a counterpart in Go. The others are: null is nil, boolean is
// bool, ubyte to ulong are uint8 to uint64, byte to long are int8 to int64, float is float32,
// double is float64, timestamp is time.Time (UTC, milliseconds), binary is []byte, string is
// string, list is []any (AMQP 1.0 §1.6).
type (
	// Symbol is a string from a constrained vocabulary.
	Symbol string
	// UUID is in network byte order.
	UUID [16]byte
	// Char is one Unicode character.
	Char rune
	// Decimal32 is kept in its encoded form.
	Decimal32 [4]byte
	// Decimal64 is kept in its encoded form.
	Decimal64 [8]byte
	// Decimal128 is kept in its encoded form.
	Decimal128 [16]byte
	// Array holds values of one type. An empty Array has no type.
	Array []any
	// Map keeps the order of its pairs and the type of their keys.
	Map []Pair
	// Pair is one entry of a Map.
	Pair struct{ Key, Value any }
	// Described is a value with a descriptor, which is a Symbol or a uint64 (§1.5).
	Described struct{ Descriptor, Value any }
)

// Get returns the first value whose key is a string or Symbol equal to key. ok is false if there is
// none.
func (m Map) Get(key string) (value any, ok bool) {
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

// Set replaces the first value whose key is a string or Symbol equal to key, or adds a pair.
func (m *Map) Set(key string, value any) {
	for i, p := range *m {
		if p.Key == any(key) || p.Key == any(Symbol(key)) {
			(*m)[i].Value = value
			return
		}
	}
	*m = append(*m, Pair{key, value})
}

// maxDepth bounds nesting, both for reading and for writing. Clients of Service Bus nest values
// four deep.
const maxDepth = 32

var errDepth = fmt.Errorf("nested deeper than %d", maxDepth)

// Format codes (AMQP 1.0 §1.6).
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

// typeName names the type of an encoded value, for errors.
func typeName(code byte) string {
	switch code {
	case codeDescribed:
		return "a described value"
	case codeNull:
		return "null"
	case codeTrue, codeFalse, codeBool:
		return "a boolean"
	case codeUbyte:
		return "a ubyte"
	case codeUshort:
		return "a ushort"
	case codeUint, codeUint0, codeSmallUint:
		return "a uint"
	case codeUlong, codeUlong0, codeSmallUlong:
		return "a ulong"
	case codeBin8, codeBin32:
		return "a binary"
	case codeStr8, codeStr32:
		return "a string"
	case codeSym8, codeSym32:
		return "a symbol"
	case codeTimestamp:
		return "a timestamp"
	case codeUUID:
		return "a uuid"
	case codeList0, codeList8, codeList32:
		return "a list"
	case codeMap8, codeMap32:
		return "a map"
	case codeArray8, codeArray32:
		return "an array"
	}
	return fmt.Sprintf("of format code 0x%02x", code)
}
