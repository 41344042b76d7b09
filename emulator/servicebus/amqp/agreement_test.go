package amqp

import (
	"bytes"
	"testing"
)

// FuzzCheckAgreesWithRead checks that check accepts exactly the values that readValue can read,
// because receivers must be able to read what SplitMessage accepts. Both and cut must agree on
// where a value ends.
func FuzzCheckAgreesWithRead(f *testing.F) {
	for _, seed := range []string{
		"\x40", "\x56\x02", "\xc0\x03\x01\x40\x40", "\xd1\x00\x00\x00\x07\x00\x00\x00\x02\xa1\x00\x41", "\xe0\x05\x01\x00\x53\x01\x41",
		"\x00\x53\x75\xa0\x01x", "\x00\x00\x53\x01\x40\x40", "\xf0\x00\x00\x00\x08\x00\x00\x00\x01\xc0\x02\x01\x40", "\xe0\x02\x09\x45",
		"\x70\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_, rest, readErr := readValue(b, 0)
		checked, checkErr := check(b, 0)
		if (readErr == nil) != (checkErr == nil) || readErr == nil && !bytes.Equal(rest, checked) {
			t.Fatalf("reading: %v, %d bytes left; checking: %v, %d bytes left", readErr, len(rest), checkErr, len(checked))
		}
		if readErr == nil {
			if value, behind, err := cut(b); err != nil || len(value)+len(behind) != len(b) || !bytes.Equal(behind, rest) {
				t.Fatalf("cut takes %d of %d bytes, %v; reading leaves %d", len(value), len(b), err, len(rest))
			}
		}
	})
}

func TestCheckDoesNotAllocate(t *testing.T) {
	value, err := AppendValue(nil, Map{
		{Symbol("a"), []any{"x", int64(1 << 40)}}, {"b", Array{UUID{1}, UUID{2}}}, {"c", Described{uint64(5), "x"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := check(value, 0); err != nil {
			t.Error(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
