package amqp

import (
	"encoding/binary"
	"time"
)

// writer appends one composite: a descriptor and a list of fields in order. It leaves out null
// fields at the end, as AMQP 1.0 §1.4 allows. It continues after an error, and done returns the
// first one.
type writer struct {
	dst       []byte
	list      int // where the list begins
	start     int // where its content begins
	count     int
	kept      int // the length of dst after the last field that is not null
	keptCount int
	err       error
}

// newWriter writes the descriptor as a small ulong, because some clients compare the first bytes.
func newWriter(dst []byte, code byte) writer {
	dst = append(dst, codeDescribed, codeSmallUlong, code)
	w := writer{list: len(dst)}
	w.dst, w.start = begin(dst, codeList32)
	w.kept = w.start
	return w
}

func (w *writer) done() ([]byte, error) {
	if w.err != nil {
		return nil, w.err
	}
	if w.keptCount == 0 {
		return append(w.dst[:w.list], codeList0), nil
	}
	dst := w.dst[:w.kept]
	end(dst, w.start, w.keptCount)
	return dst, nil
}

func (w *writer) null() {
	w.dst = append(w.dst, codeNull)
	w.count++
}

// field adopts dst with one more field in it.
func (w *writer) field(dst []byte) {
	w.dst, w.kept = dst, len(dst)
	w.count++
	w.keptCount = w.count
}

// nested is field for a field whose encoding may have failed.
func (w *writer) nested(dst []byte, err error) {
	if err != nil {
		if w.err == nil {
			w.err = err
		}
		w.null()
		return
	}
	w.field(dst)
}

func (w *writer) any(v any) {
	if v == nil {
		w.null()
		return
	}
	w.nested(appendValue(w.dst, v, 1))
}

func (w *writer) bool(v bool)    { w.field(appendBool(w.dst, v)) }
func (w *writer) ubyte(v uint8)  { w.field(append(w.dst, codeUbyte, v)) }
func (w *writer) uint(v uint32)  { w.field(appendUint(w.dst, v)) }
func (w *writer) ulong(v uint64) { w.field(appendUlong(w.dst, v)) }
func (w *writer) ushort(v uint16) {
	w.field(append(w.dst, codeUshort, byte(v>>8), byte(v)))
}

// string and symbol write a value even if it is empty. text and name write null instead.
func (w *writer) string(s string) { w.field(appendSized(w.dst, codeStr8, codeStr32, s)) }
func (w *writer) symbol(s Symbol) { w.field(appendSized(w.dst, codeSym8, codeSym32, string(s))) }

func (w *writer) text(s string) {
	if s == "" {
		w.null()
		return
	}
	w.string(s)
}

func (w *writer) name(s Symbol) {
	if s == "" {
		w.null()
		return
	}
	w.symbol(s)
}

func (w *writer) optText(s *string) {
	if s == nil {
		w.null()
		return
	}
	w.string(*s)
}

// optTrue writes false as null. It is for fields whose default is false.
func (w *writer) optTrue(v bool) {
	if !v {
		w.null()
		return
	}
	w.bool(v)
}

func (w *writer) optUbyte(v *uint8) {
	if v == nil {
		w.null()
		return
	}
	w.ubyte(*v)
}

func (w *writer) optUshort(v *uint16) {
	if v == nil {
		w.null()
		return
	}
	w.ushort(*v)
}

func (w *writer) optUint(v *uint32) {
	if v == nil {
		w.null()
		return
	}
	w.uint(*v)
}

// positive writes 0 as null.
func (w *writer) positive(v uint32) {
	if v == 0 {
		w.null()
		return
	}
	w.uint(v)
}

func (w *writer) optTime(t *time.Time) {
	if t == nil {
		w.null()
		return
	}
	w.field(appendTimestamp(w.dst, *t))
}

func (w *writer) binary(b []byte) {
	if b == nil {
		w.null()
		return
	}
	w.field(appendBinary(w.dst, b))
}

func (w *writer) mapping(m Map) {
	if m == nil {
		w.null()
		return
	}
	w.nested(appendMap(w.dst, m, 1))
}

// symbols writes an array even for one symbol or none, because a mandatory field must not become
// null.
func (w *writer) symbols(list []Symbol) {
	if list == nil {
		w.null()
		return
	}
	dst, start := begin(w.dst, codeArray32)
	dst = append(dst, codeSym32)
	for _, s := range list {
		dst = append(binary.BigEndian.AppendUint32(dst, uint32(len(s))), s...)
	}
	end(dst, start, len(list))
	w.field(dst)
}
