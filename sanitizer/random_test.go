package sanitizer

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"testing"
)

var seed = flag.Uint64("seed", 15, "seed of random messages")

// newMaker logs the seed. stream selects one of several sequences of random messages.
func newMaker(t testing.TB, stream uint64) maker {
	t.Helper()
	t.Logf("again with: -args -seed %d", *seed)
	return maker{rand.New(rand.NewPCG(*seed, stream))}
}

// maker makes random messages: mostly valid, with everything that AMQP allows and some things that
// it does not.
type maker struct{ *rand.Rand }

func (m maker) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(m.Uint32())
	}
	return b
}

func (m maker) pick(codes string) byte { return codes[m.IntN(len(codes))] }

func (m maker) sized(code byte, body []byte) []byte {
	if widths[code>>4] == -1 {
		if len(body) > 255 {
			body = body[:255]
		}
		return append([]byte{code, byte(len(body))}, body...)
	}
	return append(binary.BigEndian.AppendUint32([]byte{code}, uint32(len(body))), body...)
}

func (m maker) compound(code byte, n int, items []byte) []byte {
	if code == codeList8 || code == codeMap8 || code == codeArray8 {
		if len(items) < 250 {
			return append([]byte{code, byte(len(items) + 1), byte(n)}, items...)
		}
		code += 0x10
	}
	return appendCompound(nil, code, n, items)
}

const (
	scalars = "\x40\x41\x42\x43\x44\x50\x51\x52\x53\x54\x55\x56\x60\x61\x70\x71\x72\x80\x81\x82\x83\x98"
	odd     = "\x73\x74\x84\x94\x46\x62\x99"
)

func (m maker) text(s string) []byte { return m.sized(m.pick("\xa1\xa3\xb1\xb3"), []byte(s)) }

func (m maker) value(depth int) []byte {
	switch k := m.IntN(40); {
	case k < 14:
		code := m.pick(scalars)
		return append([]byte{code}, m.bytes(int(widths[code>>4]))...)
	case k < 24:
		return m.sized(m.pick("\xa0\xa1\xa3\xb0\xb1\xb3"), m.bytes(m.IntN(20)))
	case k == 24:
		code := m.pick(odd)
		return append([]byte{code}, m.bytes(int(widths[code>>4]))...)
	case k == 25:
		return []byte{codeList0}
	case depth > 5:
		return []byte{codeNull}
	case k < 30:
		n := m.IntN(4)
		var items []byte
		for range n {
			items = append(items, m.value(depth+1)...)
		}
		return m.compound(m.pick("\xc0\xd0"), n, items)
	case k < 34:
		n := m.IntN(3)
		return m.compound(m.pick("\xc1\xd1"), 2*n, m.pairs(n, depth))
	case k < 37:
		return m.array(depth)
	default:
		descriptor := m.text("com.microsoft:timespan")
		switch m.IntN(5) {
		case 0:
			descriptor = append([]byte{codeUlong}, m.bytes(8)...)
		case 1:
			descriptor = []byte{codeSmallUlong, m.pick("\x1d\x23\x24\x25\x26\x27\x2b\x77\x99")}
		case 2:
			descriptor = m.value(depth + 1)
		}
		return append(append([]byte{0}, descriptor...), m.value(depth+1)...)
	}
}

func (m maker) pairs(n, depth int) (items []byte) {
	for range n {
		if m.IntN(4) > 0 {
			items = append(items, m.text(string(m.bytes(m.IntN(4))))...)
		} else {
			items = append(items, m.value(depth+1)...)
		}
		items = append(items, m.value(depth+1)...)
	}
	return items
}

func (m maker) array(depth int) []byte {
	n := m.IntN(4)
	var items []byte
	switch m.IntN(4) {
	case 0:
		code := m.pick("\xa0\xa1\xa3\xb0\xb1\xb3")
		items = []byte{code}
		for range n {
			items = append(items, m.sized(code, m.bytes(m.IntN(5)))[1:]...)
		}
	case 1:
		items = []byte{codeMap32}
		for range n {
			items = append(items, appendCompound(nil, codeMap32, 2, m.pairs(1, depth+1))[1:]...)
		}
	default:
		code := m.pick(scalars + odd)
		items = append([]byte{code}, m.bytes(n*int(widths[code>>4]))...)
	}
	return m.compound(m.pick("\xe0\xf0"), n, items)
}

var names = []string{
	"x-opt-locked-until", "x-opt-enqueued-time", "x-opt-scheduled-enqueue-time", annotationSequence, "x-opt-enqueue-sequence-number",
	"x-opt-partition-key", "x-opt-deadletter-source", "x-opt-message-state", propertyReason, propertyText, PropertyMended,
	"Revoker-Unreadable", "color",
}

// section makes a section that is a map.
func (m maker) section(code byte) []byte {
	n := m.IntN(4)
	var items []byte
	for range n {
		if m.IntN(10) > 0 {
			items = append(items, m.text(names[m.IntN(len(names))])...)
		} else {
			items = append(items, m.value(1)...)
		}
		switch m.IntN(3) {
		case 0:
			items = append(items, m.value(1)...)
		case 1:
			items = append(append(items, codeTimestamp), m.bytes(8)...)
		default:
			items = append(items, m.text("green")...)
		}
	}
	return append([]byte{0, codeSmallUlong, code}, m.compound(m.pick("\xc1\xd1"), 2*n, items)...)
}

func (m maker) fields(code byte, of []field) []byte {
	n := m.IntN(len(of) + 1)
	var items []byte
	for _, f := range of[:n] {
		one := []byte{codeNull}
		switch {
		case m.IntN(30) == 0:
			one = m.value(1)
		case m.IntN(3) == 0:
		case f == texts:
			one = m.text("x")
		case f == timestamp:
			one = append([]byte{codeTimestamp}, m.bytes(8)...)
		case f == boolean:
			one = []byte{0x41}
		case f == number:
			one = []byte{0x70, 0x7f, 0, 0, 0} // time to live in milliseconds
		case f == uint32s:
			one = []byte{0x52, 7}
		case f == anything:
			one = m.text("id")
		}
		items = append(items, one...)
	}
	return append([]byte{0, codeSmallUlong, code}, m.compound(m.pick("\xc0\xd0"), n, items)...)
}

// message makes a message. With damaged, some messages have bytes changed, removed or added.
func (m maker) message(damaged bool) (b []byte) {
	if m.IntN(2) == 0 {
		b = append(b, m.fields(sectionHeader, headerFields)...)
	}
	for _, code := range []byte{sectionDeliveryAnnotations, sectionMessageAnnotations} {
		if m.IntN(2) == 0 {
			b = append(b, m.section(code)...)
		}
	}
	if m.IntN(2) == 0 {
		b = append(b, m.fields(sectionProperties, propertiesFields)...)
	}
	if m.IntN(2) == 0 {
		b = append(b, m.section(sectionApplicationProperties)...)
	}
	switch m.IntN(4) {
	case 0:
		b = append(append(b, 0, codeSmallUlong, sectionValue), m.value(0)...)
	case 1:
		b = append(append(b, 0, codeSmallUlong, sectionSequence), m.compound(codeList32, 1, m.value(1))...)
	case 2:
		b = append(append(b, 0, codeSmallUlong, sectionData), m.sized(codeBin32, m.bytes(m.IntN(30)))...)
	}
	if m.IntN(4) == 0 {
		b = append(b, m.section(sectionFooter)...)
	}
	if damaged && len(b) > 0 && m.IntN(2) == 0 {
		switch at := m.IntN(len(b)); m.IntN(4) {
		case 0:
			b[at] = byte(m.Uint32())
		case 1:
			b[at]++
		case 2:
			b = b[:at]
		case 3:
			b = append(b, m.bytes(3)...)
		}
	}
	return b
}
