package main_test

import (
	be "encoding/binary"
	"strings"
)

// poisons are encoded messages with bodies that the client library cannot read. Some end its link,
// some its process, and some need 500 times their size in memory.
var poisons = [][]byte{
	hostile,
	encoded(0x77, "\x73\x00\x00\x00A"), // a char
	encoded(0x77, "\x94"+strings.Repeat("\x07", 16)),                                // a decimal128
	encoded(0x77, "\xc1\x09\x02\xa3\x01x\x74\x00\x00\x00\x07"),                      // a decimal32 in a map
	encoded(0x76, "\xc0\x06\x01\x73\x00\x00\x00A"),                                  // a sequence that holds a char
	encoded(0x77, nested(250, "\xd0", "\x40")),                                      // lists in lists
	encoded(0x77, nested(28_000, "\xd0", "\x40")),                                   // 255 KB of lists in lists
	encoded(0x77, nested(10_000, "\xd0", strings.Repeat("\x45", 80_000))),           // lists in lists, with many empty lists in the last
	encoded(0x77, nested(1, "\xd0", strings.Repeat("\x00\x53\x01", 80_000)+"\x40")), // described values
}

// encoded returns an encoded message of sections: each is a code and its content.
func encoded(sections ...any) []byte {
	var b []byte
	for _, s := range sections {
		switch s := s.(type) {
		case int:
			b = append(b, 0, 0x53, byte(s))
		case string:
			b = append(b, s...)
		}
	}
	return b
}

// nested returns a value in nested lists.
func nested(depth int, code, value string) string {
	b := make([]byte, 0, 9*depth+len(value))
	for i := depth; i > 0; i-- {
		b = append(b, code...)
		b = be.BigEndian.AppendUint32(b, uint32(4+9*(i-1)+len(value)))
		b = be.BigEndian.AppendUint32(b, 1)
	}
	return string(append(b, value...))
}
