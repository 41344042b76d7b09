package amqp

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"
)

// reader reads the fields of one composite in order. A missing field reads like null. After the
// first error every field reads like null, and done returns the error.
type reader struct {
	c    *composite
	b    []byte
	left int    // fields in b
	at   int    // fields read
	seen uint32 // a bit for each field that was not null
	err  error
}

// done returns the first error, or an error if a mandatory field is missing. The caller must have
// read all fields.
func (r *reader) done() error {
	if r.err != nil {
		return r.err
	}
	if missing := r.c.mandatory &^ r.seen; missing != 0 {
		i := bits.TrailingZeros32(missing)
		return fmt.Errorf("%s 0x%02x, field %d (%s): is missing", r.c.name, r.c.code, i+1, r.c.fields[i])
	}
	if err := trailing(r.b); err != nil {
		return r.fault(err)
	}
	return nil
}

func (r *reader) fail(err error) {
	if r.err == nil {
		r.err = fmt.Errorf("%s 0x%02x, field %d (%s): %w", r.c.name, r.c.code, r.at, r.c.fields[r.at-1], err)
	}
}

// wrong notes that the field has the wrong type.
func (r *reader) wrong(raw []byte, wanted string) {
	r.fail(fmt.Errorf("is %s, must be %s", typeName(raw[0]), wanted))
}

// raw returns the bytes of the next field, or nil if it is null or missing.
func (r *reader) raw() []byte {
	r.at++
	if r.err != nil || r.left == 0 {
		return nil
	}
	r.left--
	if len(r.b) > 0 && r.b[0] == codeNull {
		r.b = r.b[1:]
		return nil
	}
	value, rest, err := cut(r.b)
	if err != nil {
		r.fail(err)
		return nil
	}
	r.b = rest
	r.seen |= 1 << (r.at - 1)
	return value
}

// skip skips n fields.
func (r *reader) skip(n int) {
	for range n {
		r.raw()
	}
}

func (r *reader) bool() bool {
	raw := r.raw()
	if raw == nil {
		return false
	}
	switch {
	case raw[0] == codeTrue, raw[0] == codeBool && raw[1] == 1:
		return true
	case raw[0] == codeFalse, raw[0] == codeBool && raw[1] == 0:
	default:
		r.wrong(raw, "a boolean")
	}
	return false
}

func (r *reader) optUbyte() *uint8 {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	if raw[0] != codeUbyte {
		r.wrong(raw, "a ubyte")
		return nil
	}
	return new(raw[1])
}

func (r *reader) optUshort() *uint16 {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	if raw[0] != codeUshort {
		r.wrong(raw, "a ushort")
		return nil
	}
	return new(binary.BigEndian.Uint16(raw[1:]))
}

func (r *reader) uint() uint32 {
	v, _ := r.nextUint()
	return v
}

func (r *reader) nextUint() (v uint32, ok bool) {
	raw := r.raw()
	if raw == nil {
		return 0, false
	}
	switch raw[0] {
	case codeUint0:
		return 0, true
	case codeSmallUint:
		return uint32(raw[1]), true
	case codeUint:
		return binary.BigEndian.Uint32(raw[1:]), true
	}
	r.wrong(raw, "a uint")
	return 0, false
}

// optUint stores the value in slot and returns slot. The slot is part of the result's allocation,
// which saves one.
func (r *reader) optUint(slot *uint32) *uint32 {
	v, ok := r.nextUint()
	if !ok {
		return nil
	}
	*slot = v
	return slot
}

func (r *reader) ulong() uint64 {
	raw := r.raw()
	if raw == nil {
		return 0
	}
	switch raw[0] {
	case codeUlong0:
		return 0
	case codeSmallUlong:
		return uint64(raw[1])
	case codeUlong:
		return binary.BigEndian.Uint64(raw[1:])
	}
	r.wrong(raw, "a ulong")
	return 0
}

// sized returns the bytes of a value of one of two types. Each type has a short and a long form.
func (r *reader) sized(short, long, otherShort, otherLong byte, wanted string) []byte {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	switch raw[0] {
	case short, long, otherShort, otherLong:
		b, _, _ := span(raw[0], raw[1:]) // the error is always nil, because raw is one whole value
		return slices.Clip(b)
	}
	r.wrong(raw, wanted)
	return nil
}

// text reads a string. It accepts a symbol too, because some peers confuse the two.
func (r *reader) text() string {
	return string(r.sized(codeStr8, codeStr32, codeSym8, codeSym32, "a string"))
}

func (r *reader) symbol() Symbol {
	return Symbol(r.sized(codeSym8, codeSym32, codeStr8, codeStr32, "a symbol"))
}

func (r *reader) optText() *string {
	b := r.sized(codeStr8, codeStr32, codeSym8, codeSym32, "a string")
	if b == nil {
		return nil
	}
	return new(string(b))
}

// binary returns bytes that alias the input.
func (r *reader) binary() []byte {
	return r.sized(codeBin8, codeBin32, codeBin8, codeBin32, "a binary")
}

func (r *reader) optTime() *time.Time {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	if raw[0] != codeTimestamp {
		r.wrong(raw, "a timestamp")
		return nil
	}
	return new(time.UnixMilli(int64(binary.BigEndian.Uint64(raw[1:]))).UTC())
}

func (r *reader) mapping() Map {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	if raw[0] != codeMap8 && raw[0] != codeMap32 {
		r.wrong(raw, "a map")
		return nil
	}
	v, _, err := readValue(raw, 1)
	if err != nil {
		r.fail(err)
		return nil
	}
	m, _ := v.(Map)
	return m
}

// symbols reads a field with the attribute multiple: one symbol or an array of symbols (AMQP 1.0
// §1.4).
func (r *reader) symbols() []Symbol {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	v, _, err := readValue(raw, 1)
	if err != nil {
		r.fail(err)
		return nil
	}
	items, isArray := v.(Array)
	if !isArray {
		items = Array{v}
	}
	list := make([]Symbol, len(items))
	for i, item := range items {
		switch s := item.(type) {
		case Symbol:
			list[i] = s
		case string:
			list[i] = Symbol(s)
		default:
			r.wrong(raw, "a symbol or an array of symbols")
			return nil
		}
	}
	return list
}

// nested begins to read a composite in a field. The composite must have one of two codes. The
// caller reads its fields and passes it to keep.
func (r *reader) nested(code, other byte) (sub reader, ok bool) {
	raw := r.raw()
	if raw == nil {
		return sub, false
	}
	sub, _, err := readComposite(raw)
	if err == nil && sub.c.code != code && sub.c.code != other {
		err = fmt.Errorf("is a %s, must be a %s", sub.c.name, composites[code].name)
	}
	if err != nil {
		r.fail(err)
		return sub, false
	}
	return sub, true
}

func (r *reader) keep(sub *reader) {
	if err := sub.done(); err != nil {
		r.fail(err)
	}
}
