package amqp

import (
	"errors"
	"fmt"
	"slices"
)

// Descriptor codes of a message's sections (AMQP 1.0 §3.2).
const (
	SectionHeader                = 0x70
	SectionDeliveryAnnotations   = 0x71
	SectionMessageAnnotations    = 0x72
	SectionProperties            = 0x73
	SectionApplicationProperties = 0x74
	SectionData                  = 0x75
	SectionSequence              = 0x76
	SectionValue                 = 0x77
	SectionFooter                = 0x78
)

// BodyKind says which kind of sections a message's body has.
type BodyKind uint8

// The kinds of bodies.
const (
	BodyNone     BodyKind = 0
	BodyData     BodyKind = SectionData
	BodySequence BodyKind = SectionSequence
	BodyValue    BodyKind = SectionValue
)

// Sections are the encoded sections of a message. Each slice aliases the message and holds a whole
// section with its descriptor. Body holds all body sections in order. An absent section is nil. The
// sections stay encoded, because decoding and encoding them would lose distinctions that the sender
// made.
type Sections struct {
	Header, DeliveryAnnotations, MessageAnnotations, Properties, ApplicationProperties, Body, Footer []byte
	BodyKind                                                                                         BodyKind
}

// SplitMessage finds the sections of a message. A message may be empty. Otherwise SplitMessage
// fails unless the sections are in order, each occurs once, each holds the required type, and
// everything in them is well-formed and nested at most 32 deep. Data sections or sequence sections,
// but not both, may occur several times. The footer may also come before the body, where rhea and
// uamqp write it. A message that passes cannot break the receiver that it is delivered to.
// SplitMessage does not allocate.
func SplitMessage(b []byte) (Sections, error) { return split(b, checkSection) }

// SplitOpaque is SplitMessage, but checks only the sizes in the body and the footer, as Service Bus
// does. Their content is a matter between producers and receivers.
func SplitOpaque(b []byte) (Sections, error) {
	return split(b, func(code int, value []byte) (rest []byte, err error) {
		if code < SectionData {
			return checkSection(code, value)
		}
		if err = checkFormat(code, value); err == nil {
			_, rest, err = cut(value)
		}
		return rest, err
	})
}

func split(b []byte, check func(code int, value []byte) (rest []byte, err error)) (Sections, error) {
	var s Sections
	last, body := 0, 0 // the code of the section before, and where the body begins
	for at := 0; at < len(b); {
		code, value, err := sectionCode(b[at:])
		if err != nil {
			return Sections{}, fmt.Errorf("amqp: %w", err)
		}
		isBody := code >= SectionData && code <= SectionValue
		repeats := code == last && isBody && code != SectionValue
		earlyFooter := last == SectionFooter && isBody && s.Body == nil
		inOrder := code > last && (!isBody || last < SectionData) && (code != SectionFooter || s.Footer == nil)
		if !repeats && !earlyFooter && !inOrder {
			return Sections{}, fmt.Errorf("amqp: message section 0x%02x after 0x%02x", code, last)
		}
		rest, err := check(code, value)
		if err != nil {
			return Sections{}, fmt.Errorf("amqp: message section 0x%02x: %w", code, err)
		}
		end := len(b) - len(rest)
		section := b[at:end:end] // appending to it must not change what follows
		switch code {
		case SectionHeader:
			s.Header = section
		case SectionDeliveryAnnotations:
			s.DeliveryAnnotations = section
		case SectionMessageAnnotations:
			s.MessageAnnotations = section
		case SectionProperties:
			s.Properties = section
		case SectionApplicationProperties:
			s.ApplicationProperties = section
		case SectionFooter:
			s.Footer = section
		default:
			if !repeats {
				body = at
			}
			s.Body, s.BodyKind = b[body:end:end], BodyKind(code)
		}
		last, at = code, end
	}
	return s, nil
}

// sectionCode reads the descriptor of a section. It must be a number: sections are delivered
// unchanged, and clients do not understand symbolic descriptors there.
func sectionCode(b []byte) (code int, value []byte, err error) {
	number, value, err := readDescriptor(b)
	switch {
	case err != nil:
		return 0, nil, fmt.Errorf("a message section is malformed: %w", err)
	case b[1] != codeSmallUlong && b[1] != codeUlong:
		return 0, nil, errors.New("a message section's descriptor must be a number")
	case number < SectionHeader || number > SectionFooter:
		return 0, nil, fmt.Errorf("no message section has the code 0x%02x", number)
	}
	return int(number), value, nil
}

// sectionValue returns the value of the section at the beginning of b, which must have the code.
func sectionValue(b []byte, code int) (value, rest []byte, err error) {
	got, value, err := sectionCode(b)
	if err != nil {
		return nil, nil, err
	}
	if got != code {
		return nil, nil, fmt.Errorf("message section 0x%02x instead of 0x%02x", got, code)
	}
	return cut(value)
}

// checkSection checks a section's value and returns what follows it.
func checkSection(code int, value []byte) (rest []byte, err error) {
	if err := checkFormat(code, value); err != nil {
		return nil, err
	}
	return check(value, 0)
}

// checkFormat checks that a section's value has the required type.
func checkFormat(code int, value []byte) error {
	if len(value) == 0 {
		return errShort
	}
	format := value[0]
	var ok bool
	switch code {
	case SectionHeader, SectionProperties, SectionSequence:
		ok = format == codeList0 || format == codeList8 || format == codeList32
	case SectionData:
		ok = format == codeBin8 || format == codeBin32
	case SectionValue:
		ok = true
	default:
		ok = format == codeMap8 || format == codeMap32
	}
	if !ok {
		return fmt.Errorf("must not hold %s", typeName(format))
	}
	return nil
}

// DataSections calls yield with the payload of each data section of a body, until yield fails. The
// payload aliases the body. It returns yield's error, or an error if the body has other sections.
// An empty body has no data sections.
func DataSections(body []byte, yield func(payload []byte) error) error {
	for len(body) > 0 {
		value, rest, err := sectionValue(body, SectionData)
		if err == nil && value[0] != codeBin8 && value[0] != codeBin32 {
			err = fmt.Errorf("a data section holds %s", typeName(value[0]))
		}
		if err != nil {
			return fmt.Errorf("amqp: %w", err)
		}
		payload, _, _ := span(value[0], value[1:]) // value is one whole value
		if err := yield(slices.Clip(payload)); err != nil {
			return err
		}
		body = rest
	}
	return nil
}

// AppendData appends a data section.
func AppendData(dst, data []byte) []byte {
	return appendBinary(append(dst, codeDescribed, codeSmallUlong, SectionData), data)
}

// AppendAMQPValue appends a value section. It fails as AppendValue does.
func AppendAMQPValue(dst []byte, v any) ([]byte, error) {
	return appendSection(dst, SectionValue, v)
}

func appendSection(dst []byte, code byte, v any) ([]byte, error) {
	out, err := appendValue(append(dst, codeDescribed, codeSmallUlong, code), v, 0)
	if err != nil {
		return dst, fmt.Errorf("amqp: message section 0x%02x: %w", code, err)
	}
	return out, nil
}

// ReadAMQPValue reads the value of a body that is one value section, as ReadValue does. It returns
// nil for an empty body. It fails on a body of another kind.
func ReadAMQPValue(body []byte) (any, error) {
	if len(body) == 0 {
		return nil, nil
	}
	return readSection(body, SectionValue)
}

func readSection(section []byte, code int) (any, error) {
	value, rest, err := sectionValue(section, code)
	if err == nil {
		err = trailing(rest)
	}
	if err != nil {
		return nil, fmt.Errorf("amqp: %w", err)
	}
	v, _, err := readValue(value, 0)
	if err != nil {
		return nil, fmt.Errorf("amqp: message section 0x%02x: %w", code, err)
	}
	return v, nil
}
