package amqp_test

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

var when = time.Date(2026, 3, 1, 12, 0, 0, 123_000_000, time.UTC)

// values has values of every AMQP type, at the bounds of the type.
var values = []any{
	nil, true, false,
	uint8(0), uint8(255), uint16(0), uint16(65535), uint32(0), uint32(1), uint32(255), uint32(256), uint32(math.MaxUint32),
	uint64(0), uint64(1), uint64(255), uint64(256), uint64(math.MaxUint64),
	int8(-128), int8(127), int16(-32768), int16(32767), int32(-129), int32(-128), int32(127), int32(128), int32(math.MinInt32),
	int64(-129), int64(-128), int64(0), int64(127), int64(128), int64(math.MinInt64), int64(math.MaxInt64),
	float32(1.5), float64(-2.25), amqp.Char('語'), when, time.UnixMilli(0).UTC(), time.UnixMilli(-1).UTC(),
	amqp.Decimal32{1, 2, 3, 4},
	amqp.Decimal64{7: 1},
	amqp.Decimal128{15: 7},
	amqp.UUID{1, 15: 2},
	[]byte{},
	[]byte("x"), bytes.Repeat([]byte("x"), 255), bytes.Repeat([]byte("x"), 256),
	"", "é", strings.Repeat("x", 255), strings.Repeat("x", 256), amqp.Symbol("a:b"), amqp.Symbol(strings.Repeat("s", 300)),
	[]any{},
	[]any{nil, "a", []any{uint32(1)}},
	amqp.Map{},
	amqp.Map{{"a", int64(1)}, {amqp.Symbol("b"), amqp.Map{{int32(5), nil}}}},
	amqp.Array{},
	amqp.Array{int64(1), int64(-500)},
	amqp.Array{"a", strings.Repeat("x", 300)},
	amqp.Array{amqp.Symbol("x")},
	amqp.Array{amqp.UUID{1}, amqp.UUID{2}},
	amqp.Array{when},
	amqp.Array{uint32(0), uint32(7)},
	amqp.Array{uint64(1)},
	amqp.Array{int32(-1)},
	amqp.Array{true, false},
	amqp.Array{amqp.Map{{"k", "v"}}, amqp.Map{}},
	amqp.Array{[]any{"a"}, []any{}},
	amqp.Array{[]byte("b")},
	amqp.Described{uint64(0x137000000c), "x"},
	amqp.Described{amqp.Symbol("a:b"), []any{amqp.Described{uint64(1), nil}}},
}

func TestValueRoundTrip(t *testing.T) {
	for _, v := range values {
		b, err := amqp.AppendValue([]byte("before"), v)
		if err != nil {
			t.Errorf("%T %v: %v", v, v, err)
			continue
		}
		got, rest, err := amqp.ReadValue(append(b, "after"...)[len("before"):])
		if err != nil || !reflect.DeepEqual(got, v) || string(rest) != "after" {
			t.Errorf("%T %v came back as %T %v, rest %q, %v", v, v, got, got, rest, err)
		}
	}
}

func TestValueHasTheSmallestEncoding(t *testing.T) {
	for want, v := range map[string]any{
		"\x43": uint32(0), "\x52\x07": uint32(7), "\x44": uint64(0), "\x53\xff": uint64(255), "\x54\xff": int32(-1),
		"\x55\x80": int64(-128),
		"\x40":     nil, "\x41": true, "\xa1\x01a": "a", "\xa3\x01a": amqp.Symbol("a"), "\xa0\x00": []byte{}, "\x55\x05": 5,
	} {
		if b, err := amqp.AppendValue(nil, v); err != nil || string(b) != want {
			t.Errorf("%T %v: %x, want %x, %v", v, v, b, want, err)
		}
	}
}

func TestValueWithoutAnAMQPTypeIsAnError(t *testing.T) {
	for _, v := range []any{
		struct{}{},
		make(chan int),
		map[string]any{},
		[]string{"a"},
		[]any{struct{}{}},
		amqp.Map{{"k", struct{}{}}},
		amqp.Array{int64(1), "a"},
		amqp.Array{nil},
	} {
		if b, err := amqp.AppendValue(nil, v); err == nil {
			t.Errorf("%T was encoded as %x", v, b)
		}
	}
}

func TestValueErrors(t *testing.T) {
	for name, b := range map[string]string{
		"nothing":                       "",
		"an unknown code":               "\x3f",
		"a reserved code":               "\x46",
		"a string longer than its data": "\xb1\xff\xff\xff\xffabc",
		"a list of 2^32 items":          "\xd0\x00\x00\x00\x08\xff\xff\xff\xff\x00\x00\x00\x00",
		"a list size beyond the data":   "\xd0\x7f\xff\xff\xff\x00\x00\x00\x01\x40",
		"a map of an odd count":         "\xc1\x02\x01\x40",
		"a list with bytes behind":      "\xc0\x03\x01\x40\x40",
		"an array of 2^32 nulls":        "\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x40",
		"an array of 2^32 lists":        "\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x45",
		"an array of more than it has":  "\xe0\x03\x05\x50\x01",
		"an array without a type":       "\xe0\x01\x05",
		"lists in lists":                strings.Repeat("\xc0\xff\x01", 100),
		"descriptors in descriptors":    strings.Repeat("\x00", 60_000),
		"a descriptor without a value":  "\x00\x53\x01",
		"a compound without a count":    "\xd0\x00\x00\x00\x02\x00\x00",
	} {
		if v, _, err := amqp.ReadValue([]byte(b)); err == nil {
			t.Errorf("%s: read as %v", name, v)
		}
	}
	for _, v := range values { // cut at every byte
		b, _ := amqp.AppendValue(nil, v)
		for n := range b {
			if got, _, err := amqp.ReadValue(b[:n:n]); err == nil {
				t.Errorf("%T cut to %d of %d bytes was read as %v", v, n, len(b), got)
			}
		}
	}
}

func TestValueInAnyEncodingIsRead(t *testing.T) {
	for b, want := range map[string]any{
		"\x56\x01": true, "\x56\x00": false, "\x70\x00\x00\x00\x01": uint32(1), "\x80\x00\x00\x00\x00\x00\x00\x00\x01": uint64(1),
		"\x45": []any{}, "\xd1\x00\x00\x00\x04\x00\x00\x00\x00": amqp.Map{}, "\xe0\x04\x02\x55\x01\xff": amqp.Array{int64(1), int64(-1)},
		"\xe0\x05\x01\x00\x53\x01\x41": amqp.Array{amqp.Described{uint64(1), true}}, "\xb3\x00\x00\x00\x01a": amqp.Symbol("a"),
	} {
		if v, rest, err := amqp.ReadValue([]byte(b)); err != nil || len(rest) > 0 || !reflect.DeepEqual(v, want) {
			t.Errorf("%x: %T %v, want %v, %v", b, v, v, want, err)
		}
	}
}

func TestMapGetAndSet(t *testing.T) {
	m := amqp.Map{{"a", 1}, {amqp.Symbol("b"), 2}}
	m.Set("a", 3)
	m.Set("b", 4)
	m.Set("c", 5)
	if want := (amqp.Map{{"a", 3}, {amqp.Symbol("b"), 4}, {"c", 5}}); !reflect.DeepEqual(m, want) {
		t.Errorf("%v, want %v", m, want)
	}
	if v, ok := m.Get("b"); !ok || v != 4 {
		t.Errorf("b is %v, %v", v, ok)
	}
	if _, ok := m.Get("d"); ok {
		t.Error("d was found")
	}
}
