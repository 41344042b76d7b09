package amqp

import (
	"encoding/binary"
	"fmt"
)

// writer appends the fields of one composite: a descriptor and a list (part 1, §1.4).
type writer struct {
	dst   []byte
	start int // of the list's count
	count uint32
	err   error
}

func newWriter(dst []byte, code byte) *writer {
	// The descriptor must be a small ulong: go-amqp reads nothing else.
	dst = append(dst, codeDescribed, codeSmallUlong, code, codeList32, 0, 0, 0, 0, 0, 0, 0, 0)
	return &writer{dst: dst, start: len(dst) - 4}
}

func (w *writer) done() ([]byte, error) {
	binary.BigEndian.PutUint32(w.dst[w.start:], w.count)
	binary.BigEndian.PutUint32(w.dst[w.start-4:], uint32(len(w.dst)-w.start))
	return w.dst, w.err
}

func (w *writer) null() { w.dst, w.count = append(w.dst, codeNull), w.count+1 }

func (w *writer) any(v any) {
	dst, err := AppendValue(w.dst, v)
	if err != nil {
		w.err = err
		dst = append(w.dst, codeNull)
	}
	w.dst, w.count = dst, w.count+1
}

func (w *writer) bool(v bool) {
	code := byte(codeFalse)
	if v {
		code = codeTrue
	}
	w.dst, w.count = append(w.dst, code), w.count+1
}

func (w *writer) uint(v uint32)  { w.dst, w.count = appendUint(w.dst, v), w.count+1 }
func (w *writer) ulong(v uint64) { w.dst, w.count = appendUlong(w.dst, v), w.count+1 }

func (w *writer) ubyte(v uint8) { w.dst, w.count = append(w.dst, codeUbyte, v), w.count+1 }

func (w *writer) optUint(v *uint32) {
	if v == nil {
		w.null()
		return
	}
	w.uint(*v)
}

func (w *writer) optUbyte(v *uint8) {
	if v == nil {
		w.null()
		return
	}
	w.ubyte(*v)
}

// text writes a string, null when it is empty; symbol likewise.
func (w *writer) text(s string) {
	if s == "" {
		w.null()
		return
	}
	w.dst, w.count = appendSized(w.dst, codeStr8, codeStr32, s), w.count+1
}

func (w *writer) symbol(s Symbol) {
	if s == "" {
		w.null()
		return
	}
	w.dst, w.count = appendSized(w.dst, codeSym8, codeSym32, string(s)), w.count+1
}

func (w *writer) binary(b []byte) {
	if b == nil {
		w.null()
		return
	}
	w.dst, w.count = appendBinary(w.dst, b), w.count+1
}

func (w *writer) mapping(m Map) {
	if m == nil {
		w.null()
		return
	}
	w.any(m)
}

func (w *writer) symbols(s []Symbol) {
	if s == nil {
		w.null()
		return
	}
	items := make(Array, len(s))
	for i := range s {
		items[i] = s[i]
	}
	w.any(items)
}

// nested writes a composite in place of a field.
func (w *writer) nested(p interface {
	append(dst []byte) ([]byte, error)
},
) {
	dst, err := p.append(w.dst)
	if err != nil {
		w.err = err
		return
	}
	w.dst, w.count = dst, w.count+1
}

// reader reads the fields of one composite in order. Missing fields are as null ones; the first wrong type ends it.
type reader struct {
	code uint64
	b    []byte
	left int
	at   int
	err  error
}

// readComposite reads a descriptor and a list; rest is what follows.
func readComposite(src []byte) (code uint64, r *reader, rest []byte, err error) {
	if len(src) < 3 || src[0] != codeDescribed {
		return 0, nil, nil, fmt.Errorf("amqp: a composite must begin with a descriptor")
	}
	if src[1] == codeSmallUlong { // what everybody sends
		code, src = uint64(src[2]), src[3:]
	} else {
		descriptor, after, err := readValue(src[1:], 0)
		if err != nil {
			return 0, nil, nil, err
		}
		switch d := descriptor.(type) {
		case uint64:
			code = d
		case Symbol:
			code = descriptors[d]
		}
		src = after
	}
	if len(src) == 0 {
		return 0, nil, nil, errShort
	}
	format := src[0]
	b, rest, err := span(format, src[1:])
	if err != nil {
		return 0, nil, nil, err
	}
	r = &reader{code: code}
	switch format {
	case codeList0:
	case codeList8, codeList32:
		if r.left, r.b, err = count(format == codeList8, b); err != nil {
			return 0, nil, nil, err
		}
	default:
		return 0, nil, nil, fmt.Errorf("amqp: composite 0x%02x holds format code 0x%02x, not a list", code, format)
	}
	return code, r, rest, nil
}

// raw returns the next field's bytes, nil for null or none.
func (r *reader) raw() []byte {
	r.at++
	if r.err != nil || r.left == 0 {
		return nil
	}
	r.left--
	value, rest, err := skipValue(r.b)
	if err != nil {
		r.err = fmt.Errorf("amqp: composite 0x%02x, field %d: %w", r.code, r.at, err)
		return nil
	}
	r.b = rest
	if value[0] == codeNull {
		return nil
	}
	return value
}

func (r *reader) any() any {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	v, _, err := readValue(raw, 1)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("amqp: composite 0x%02x, field %d: %w", r.code, r.at, err)
	}
	return v
}

// typed returns the next field if it is a T.
func typed[T any](r *reader) (value T, ok bool) {
	v := r.any()
	if v == nil {
		return value, false
	}
	if value, ok = v.(T); !ok && r.err == nil {
		r.err = fmt.Errorf("amqp: composite 0x%02x, field %d: is a %T, must be a %T", r.code, r.at, v, value)
	}
	return value, ok
}

func (r *reader) bool() bool {
	raw := r.raw()
	if len(raw) == 1 && (raw[0] == codeTrue || raw[0] == codeFalse) {
		return raw[0] == codeTrue
	}
	return r.decode(raw) == any(true)
}

// uint reads a uint without allocating.
func (r *reader) uint() (uint32, bool) {
	raw := r.raw()
	if len(raw) > 0 {
		switch raw[0] {
		case codeUint0:
			return 0, true
		case codeSmallUint:
			return uint32(raw[1]), true
		case codeUint:
			return binary.BigEndian.Uint32(raw[1:]), true
		}
		r.wrong(raw, "a uint")
	}
	return 0, false
}

func (r *reader) optUint() *uint32 {
	v, ok := r.uint()
	if !ok {
		return nil
	}
	return &v
}

func (r *reader) ulong() uint64 {
	raw := r.raw()
	if raw == nil {
		return 0
	}
	v, ok := r.decode(raw).(uint64)
	if !ok {
		r.wrong(raw, "a ulong")
	}
	return v
}

func (r *reader) optUbyte() *uint8 {
	v, ok := typed[uint8](r)
	if !ok {
		return nil
	}
	return &v
}

func (r *reader) text() string {
	raw := r.raw()
	if raw == nil {
		return ""
	}
	switch v := r.decode(raw).(type) {
	case string:
		return v
	case Symbol:
		return string(v)
	}
	r.wrong(raw, "a string")
	return ""
}

func (r *reader) symbol() Symbol { return Symbol(r.text()) }

func (r *reader) binary() []byte {
	raw := r.raw()
	if raw == nil {
		return nil
	}
	if raw[0] == codeBin8 || raw[0] == codeBin32 {
		b, _, _ := span(raw[0], raw[1:]) // raw is one whole value
		return b
	}
	r.wrong(raw, "a binary")
	return nil
}

func (r *reader) mapping() Map {
	m, _ := typed[Map](r)
	return m
}

// symbols reads one symbol or an array of them.
func (r *reader) symbols() []Symbol {
	switch v := r.any().(type) {
	case Symbol:
		return []Symbol{v}
	case Array:
		var list []Symbol
		for _, item := range v {
			s, ok := item.(Symbol)
			if !ok {
				r.err = fmt.Errorf("amqp: composite 0x%02x, field %d: an array of %T, must be symbols", r.code, r.at, item)
				return nil
			}
			list = append(list, s)
		}
		return list
	}
	return nil
}

func (r *reader) decode(raw []byte) any {
	if raw == nil {
		return nil
	}
	v, _, err := readValue(raw, 1)
	if err != nil && r.err == nil {
		r.err = err
	}
	return v
}

func (r *reader) wrong(raw []byte, wanted string) {
	if r.err == nil {
		r.err = fmt.Errorf("amqp: composite 0x%02x, field %d: has format code 0x%02x, must be %s", r.code, r.at, raw[0], wanted)
	}
}
