// Package amqp encodes and decodes AMQP 1.0: values, frames, performatives and message sections
// (OASIS AMQP 1.0, parts 1 to 3 and 5). It uses the standard library alone. Bytes from outside are decoded within bounds:
// nesting is limited, counts are checked against the bytes at hand before anything is allocated, and nothing panics.
//
// Functions named Append… append to dst and return it; on an error they return dst as it was. Nothing here is safe for
// concurrent use of the same value, and nothing keeps a reference to what it was given unless it says that it aliases it.
package amqp

import "fmt"

// Types without a Go counterpart. The others are: null nil, boolean bool, ubyte to ulong uint8 to uint64, byte to long
// int8 to int64, float float32, double float64, timestamp time.Time (UTC, milliseconds), binary []byte, string string,
// list []any (AMQP 1.0 §1.6).
type (
	// Symbol is a string from a constrained vocabulary.
	Symbol string
	// UUID is in network order.
	UUID [16]byte
	// Char is one Unicode character.
	Char rune
	// Decimal32 is kept as it comes: nobody here calculates with it.
	Decimal32 [4]byte
	// Decimal64 is kept as it comes.
	Decimal64 [8]byte
	// Decimal128 is kept as it comes.
	Decimal128 [16]byte
	// Array holds values of one type. An empty one does not remember which.
	Array []any
	// Map keeps the order of its pairs and the type of their keys.
	Map []Pair
	// Pair is one entry of a Map.
	Pair struct{ Key, Value any }
	// Described is a value with a descriptor, which is a Symbol or a uint64 (§1.5).
	Described struct{ Descriptor, Value any }
)

// Get returns the first value whose key is the string or the symbol key.
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

// maxDepth bounds nesting, when reading and when writing. What Service Bus' clients send is nested four deep.
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
