package sanitizer

import (
	"encoding/binary"
	"strings"
)

// Descriptor codes of a message's sections (AMQP 1.0 part 3, §3.2).
const (
	sectionHeader                = 0x70
	sectionDeliveryAnnotations   = 0x71
	sectionMessageAnnotations    = 0x72
	sectionProperties            = 0x73
	sectionApplicationProperties = 0x74
	sectionData                  = 0x75
	sectionSequence              = 0x76
	sectionValue                 = 0x77
	sectionFooter                = 0x78
)

// Names with a meaning and a type for azservicebus (message.go, newReceivedMessage).
const (
	annotationSequence = "x-opt-sequence-number"
	propertyReason     = "DeadLetterReason"
	propertyText       = "DeadLetterErrorDescription"
)

// head returns a section's code and the bytes after its descriptor. go-amqp only reads numbers, and
// uses their lowest byte.
func head(b []byte) (code byte, rest []byte, err error) {
	switch {
	case len(b) < 3:
		return 0, nil, errShort
	case b[0] != codeDescribed:
		return 0, nil, errSection
	case b[1] == codeSmallUlong:
		code, rest = b[2], b[3:]
	case b[1] == codeUlong && len(b) >= 10 && binary.BigEndian.Uint64(b[2:]) <= 0xff:
		code, rest = b[9], b[10:]
	default:
		return 0, nil, errSection
	}
	if code < sectionHeader || code > sectionFooter {
		return 0, nil, errSection
	}
	return code, rest, nil
}

// isBody reports whether a section is the body or a part of it. Parts may repeat.
func isBody(code byte) bool { return code >= sectionData && code <= sectionValue }

// message returns nil if the message can pass unchanged, or else the reason why not.
func (s *scanner) message(b []byte) error {
	seen := 0
	for len(b) > 0 {
		code, rest, err := head(b)
		if err != nil {
			return err
		}
		bit := 1 << (code - sectionHeader)
		if seen&bit != 0 && code != sectionData && code != sectionSequence {
			return errTwice
		}
		seen |= bit
		if b, err = s.section(code, rest); err != nil {
			return err
		}
	}
	return nil
}

// section reads one section's value.
func (s *scanner) section(code byte, b []byte) (rest []byte, err error) {
	if len(b) == 0 {
		return nil, errShort
	}
	format := b[0]
	switch code {
	case sectionHeader:
		return s.fields(b, headerFields)
	case sectionProperties:
		return s.fields(b, propertiesFields)
	case sectionData:
		if format != codeNull && !isBinary(format) {
			return nil, errFit
		}
		return s.value(b, 0)
	case sectionSequence:
		if format != codeNull && forms[format] != list {
			return nil, errFit
		}
		return s.value(b, 0)
	case sectionValue:
		return s.value(b, 0)
	}
	if format == codeNull {
		return b[1:], nil
	}
	if forms[format] != mapping {
		return nil, errFit
	}
	body, rest, err := span(format, b[1:])
	if err != nil {
		return nil, err
	}
	n, items, err := counted(format, body)
	if err != nil {
		return nil, err
	}
	if n%2 != 0 {
		return nil, errTrailing
	}
	for range n / 2 {
		if items, err = s.pair(code, items); err != nil {
			return nil, err
		}
	}
	if len(items) > 0 {
		return nil, errTrailing
	}
	return rest, nil
}

// pair reads a key and its value in a section that is a map.
func (s *scanner) pair(section byte, b []byte) (rest []byte, err error) {
	behind, err := s.key(b)
	if err != nil {
		return nil, err
	}
	if len(behind) == 0 {
		return nil, errShort
	}
	name := text(b)
	format := behind[0]
	switch section {
	case sectionApplicationProperties:
		if !isText(b[0]) {
			return nil, errKey
		}
		switch string(name) {
		case propertyReason, propertyText:
			if !isText(format) {
				return nil, errFit
			}
		}
		if isOurs(name) {
			return nil, errOurs
		}
	case sectionMessageAnnotations:
		if !annotationFits(name, format) {
			return nil, errFit
		}
	}
	return s.value(behind, 1)
}

// annotationFits reports whether azservicebus can read the annotation. The library asserts the type
// without a check.
func annotationFits(name []byte, format byte) bool {
	switch string(name) {
	case "x-opt-locked-until", "x-opt-enqueued-time", "x-opt-scheduled-enqueue-time":
		return format == codeTimestamp
	case annotationSequence, "x-opt-enqueue-sequence-number":
		return format == codeLong || format == codeSmallLong
	case "x-opt-partition-key", "x-opt-deadletter-source":
		return format == codeNull || isText(format)
	}
	return true
}

// isOurs reports whether only a sanitizer may write this property. It ignores case, since other
// tools do.
func isOurs(name []byte) bool {
	return len(name) == len(PropertyUnreadable) && strings.EqualFold(string(name), PropertyUnreadable) ||
		len(name) == len(PropertyMended) && strings.EqualFold(string(name), PropertyMended)
}

// text returns the text at the beginning of b; nil if there is none.
func text(b []byte) []byte {
	if len(b) == 0 || !isText(b[0]) {
		return nil
	}
	body, _, err := span(b[0], b[1:])
	if err != nil {
		return nil
	}
	return body
}

// field is a type that go-amqp accepts in a field of the header or the properties. It always
// accepts null.
type field uint8

const (
	anything field = iota
	boolean
	ubyte
	number // of milliseconds: unsigned, of any width
	uint32s
	binaries
	texts
	timestamp
)

var (
	headerFields     = []field{boolean, ubyte, number, boolean, uint32s}
	propertiesFields = []field{anything, binaries, texts, texts, texts, anything, texts, texts, timestamp, timestamp, texts, uint32s, texts}
)

func (f field) fits(format byte) bool {
	if format == codeNull {
		return true
	}
	switch f {
	case anything:
		return true
	case boolean:
		return format == 0x56 || format == 0x41 || format == 0x42
	case ubyte:
		return format == 0x50
	case number:
		return strings.IndexByte("\x43\x44\x50\x52\x53\x60\x70\x80", format) >= 0
	case uint32s:
		return format == codeUint0 || format == 0x52 || format == 0x70
	case binaries:
		return isBinary(format)
	case texts:
		return isText(format)
	case timestamp:
		return format == codeTimestamp
	}
	return false
}

// fields reads a section that is a list of fields.
func (s *scanner) fields(b []byte, want []field) (rest []byte, err error) {
	n, items, rest, err := listOf(b)
	if err != nil {
		return nil, err
	}
	if n > len(want) {
		return nil, errTrailing
	}
	for _, f := range want[:n] {
		if len(items) == 0 {
			return nil, errShort
		}
		if !f.fits(items[0]) {
			return nil, errFit
		}
		if items, err = s.value(items, 1); err != nil {
			return nil, err
		}
	}
	if len(items) > 0 {
		return nil, errTrailing
	}
	return rest, nil
}

// listOf opens the list at the beginning of b.
func listOf(b []byte) (n int, items, rest []byte, err error) {
	if len(b) == 0 {
		return 0, nil, nil, errShort
	}
	if forms[b[0]] != list {
		return 0, nil, nil, errFit
	}
	body, rest, err := span(b[0], b[1:])
	if err != nil || b[0] == codeList0 {
		return 0, nil, rest, err
	}
	n, items, err = counted(b[0], body)
	return n, items, rest, err
}
