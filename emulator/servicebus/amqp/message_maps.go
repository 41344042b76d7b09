package amqp

import (
	"fmt"
	"time"
)

// ReadMapSection reads annotations, application properties or a footer. []byte values alias the
// section. For an absent section it returns nil. It fails like ReadValue, and on a section that
// does not hold a map.
func ReadMapSection(section []byte) (Map, error) {
	if len(section) == 0 {
		return nil, nil
	}
	code, _, err := sectionCode(section)
	if err != nil {
		return nil, fmt.Errorf("amqp: %w", err)
	}
	v, err := readSection(section, code)
	if err != nil {
		return nil, err
	}
	m, ok := v.(Map)
	if !ok {
		return nil, fmt.Errorf("amqp: message section 0x%02x does not hold a map", code)
	}
	return m, nil
}

// AppendMapSection appends a section that holds a map. It fails like AppendValue.
func AppendMapSection(dst []byte, code byte, m Map) ([]byte, error) {
	return appendSection(dst, code, m)
}

// MapWriter appends a section that holds a map, pair by pair. It needs no Map, which saves
// allocations: a broker writes such a section for every delivery. The keys are symbols, as
// annotations require (AMQP 1.0 §3.2.10).
type MapWriter struct {
	dst   []byte
	start int // where the pairs begin
	count int // keys and values
}

// NewMapWriter begins a section with the code.
func NewMapWriter(dst []byte, code byte) MapWriter {
	dst, start := begin(append(dst, codeDescribed, codeSmallUlong, code), codeMap32)
	return MapWriter{dst: dst, start: start}
}

func (w *MapWriter) key(name string) []byte {
	w.count += 2
	return appendSized(w.dst, codeSym8, codeSym32, name)
}

// Long appends a pair with a long.
func (w *MapWriter) Long(name string, v int64) { w.dst = appendLong(w.key(name), v) }

// Time appends a pair with a timestamp, in milliseconds.
func (w *MapWriter) Time(name string, t time.Time) { w.dst = appendTimestamp(w.key(name), t) }

// Int appends a pair with an int.
func (w *MapWriter) Int(name string, v int32) { w.dst = appendInt(w.key(name), v) }

// String appends a pair with a string.
func (w *MapWriter) String(name, v string) {
	w.dst = appendSized(w.key(name), codeStr8, codeStr32, v)
}

// UUID appends a pair with a uuid.
func (w *MapWriter) UUID(name string, v UUID) {
	w.dst = append(append(w.key(name), codeUUID), v[:]...)
}

// Raw appends n encoded pairs.
func (w *MapWriter) Raw(pairs []byte, n int) {
	w.dst = append(w.dst, pairs...)
	w.count += 2 * n
}

// Done ends the section and returns dst with the section.
func (w *MapWriter) Done() []byte {
	end(w.dst, w.start, w.count)
	return w.dst
}
