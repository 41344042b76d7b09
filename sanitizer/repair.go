package sanitizer

import (
	"encoding/binary"
	"strconv"
	"strings"
)

// The bounds of notes about a message, in bytes. The names in them come from the producer.
const (
	maxNote = 512
	maxName = 64
)

// repaired is a message that can be read.
type repaired struct {
	encoded []byte
	// changed is false if nothing except a forged property was left out.
	changed  bool
	sequence int64 // 0 if it has none
}

// repair makes a message readable. It leaves out what cannot be read; if that is the body or the
// structure, it builds a stand-in of the readable parts. It needs linear time, and as much memory
// as the message is long. broken, if not empty, is a reason for a stand-in that comes from outside
// the message.
func repair(b []byte, broken string) repaired {
	r := repairer{whole: scanner{left: maxValues}, broken: broken}
	for len(b) > 0 {
		code, rest, err := head(b)
		if err != nil {
			r.structure("a section of the message", err)
			break
		}
		var value []byte
		section := b
		if value, b, err = cut(rest); err != nil {
			r.take(code, section, rest) // a part of it may have come
			r.structure(sectionNames[code-sectionHeader], err)
			break
		}
		r.take(code, section[:len(section)-len(b)], value)
	}
	return r.done()
}

var sectionNames = [...]string{
	"the header", "the delivery annotations", "the message annotations", "the properties", "the application properties",
	"the body", "the body", "the body", "the footer",
}

// repairer collects a message's readable parts.
type repairer struct {
	whole    scanner
	seen     int
	broken   string // why the message must be replaced
	note     strings.Builder
	stripped bool

	header, properties []byte // sections
	maps               [sectionFooter - sectionHeader + 1]pairs
	body               []byte // sections
	sequence           int64
}

// pairs are a map's encoded keys and values.
type pairs struct {
	encoded []byte
	count   int
	present bool
}

func (p *pairs) add(encoded ...[]byte) {
	for _, e := range encoded {
		p.encoded = append(p.encoded, e...)
	}
	p.count += 2
}

// structure notes that the message must be replaced.
func (r *repairer) structure(what string, err error) {
	if r.broken == "" {
		r.broken = what + ": " + err.Error()
	}
}

// leftOut notes an omitted part that the message can do without.
func (r *repairer) leftOut(what string, name []byte, err error) {
	if r.note.Len() >= maxNote {
		return
	}
	if r.note.Len() > 0 {
		r.note.WriteString("; ")
	}
	r.note.WriteString(what)
	if name != nil {
		r.note.WriteByte(' ')
		r.note.WriteString(strconv.QuoteToASCII(string(name[:min(len(name), maxName)])))
	}
	r.note.WriteString(": " + err.Error())
}

// take sorts one section. value is its value, or as much of it as has come.
func (r *repairer) take(code byte, section, value []byte) {
	what := sectionNames[code-sectionHeader]
	bit := 1 << (code - sectionHeader)
	if r.seen&bit != 0 && code != sectionData && code != sectionSequence {
		r.structure(what, errTwice)
		return
	}
	r.seen |= bit
	switch {
	case isBody(code):
		err := r.try(func(s *scanner) error {
			rest, err := s.section(code, value)
			if err == nil && len(rest) > 0 {
				err = errTrailing
			}
			return err
		})
		if err != nil {
			r.structure(what, err)
		}
		if r.broken == "" {
			r.body = append(r.body, section...)
		}
	case code == sectionHeader:
		r.header = r.fields(code, "header field", headerNames, value, headerFields)
	case code == sectionProperties:
		r.properties = r.fields(code, "property", propertyNames, value, propertiesFields)
	default:
		r.pairs(code, what, value)
	}
}

// try reads with the whole message's budget, and returns the budget of a failed read: what is left
// out costs nothing.
func (r *repairer) try(read func(s *scanner) error) error {
	before := r.whole
	err := read(&r.whole)
	if err != nil {
		r.whole = before
	}
	return err
}

// fields copies a list of fields, with null for each one that cannot be read.
func (r *repairer) fields(code byte, what string, names []string, value []byte, want []field) []byte {
	section := sectionNames[code-sectionHeader]
	n, items, _, err := listOf(value)
	if err == nil && n > len(want) {
		err = errTrailing
	}
	if err != nil {
		r.structure(section, err)
		return nil
	}
	fields := make([]byte, 0, len(items))
	for i := range n {
		one, rest, err := cut(items)
		if err != nil {
			r.structure(section, err)
			n = i
			break
		}
		items = rest
		err = errFit
		if want[i].fits(one[0]) {
			err = r.try(func(s *scanner) error { _, err := s.value(one, 1); return err })
		}
		if err != nil {
			r.leftOut(what, []byte(names[i]), err)
			one = []byte{codeNull}
		}
		fields = append(fields, one...)
	}
	if len(items) > 0 {
		r.structure(section, errTrailing)
	}
	return appendCompound([]byte{codeDescribed, codeSmallUlong, code}, codeList32, n, fields)
}

var (
	headerNames   = []string{"durable", "priority", "ttl", "first-acquirer", "delivery-count"}
	propertyNames = []string{
		"message-id", "user-id", "to", "subject", "reply-to", "correlation-id", "content-type", "content-encoding",
		"absolute-expiry-time", "creation-time", "group-id", "group-sequence", "reply-to-group-id",
	}
)

// whatIn names the pairs of a section.
var whatIn = [...]string{1: "delivery annotation", 2: "annotation", 4: "application property", 8: "footer"}

// pairs copies the pairs of a section that can be read.
func (r *repairer) pairs(code byte, what string, value []byte) {
	if len(value) > 0 && value[0] == codeNull {
		return
	}
	kept := &r.maps[code-sectionHeader]
	n, items, err := mapOf(value)
	if err != nil {
		r.unsoundMap(code, what, err)
		return
	}
	kept.present = true
	kept.encoded = make([]byte, 0, len(items))
	for range n / 2 {
		key, rest, err := cut(items)
		var value []byte
		if err == nil {
			value, rest, err = cut(rest)
		}
		if err != nil {
			r.unsoundMap(code, what, err)
			return
		}
		pair := items[:len(items)-len(rest)]
		items = rest
		name := text(key)
		err = r.try(func(s *scanner) error {
			behind, err := s.pair(code, pair)
			if err == nil && len(behind) > 0 {
				err = errTrailing
			}
			return err
		})
		switch {
		case err == errOurs: //nolint:errorlint // ours, never wrapped
			r.stripped = true
		case err != nil:
			r.leftOut(whatIn[code-sectionHeader], name, err)
		default:
			kept.add(pair)
			if code == sectionMessageAnnotations && string(name) == annotationSequence {
				r.sequence = long(value)
			}
		}
	}
	if len(items) > 0 || n%2 != 0 {
		r.unsoundMap(code, what, errTrailing)
	}
}

// unsoundMap handles a map whose end is unknown. A message can do without its footer and delivery
// annotations. With half of another map it would be a different message.
func (r *repairer) unsoundMap(code byte, what string, err error) {
	if code == sectionFooter || code == sectionDeliveryAnnotations {
		r.leftOut(what, nil, err)
		return
	}
	r.structure(what, err)
}

// mapOf opens the map at the beginning of b, as far as it has come.
func mapOf(b []byte) (n int, items []byte, err error) {
	if len(b) == 0 {
		return 0, nil, errShort
	}
	if forms[b[0]] != mapping {
		return 0, nil, errFit
	}
	return opened(b)
}

// opened returns the count and items of the list or map at the beginning of b, as far as they have
// come.
func opened(b []byte) (n int, items []byte, err error) {
	if b[0] == codeList0 {
		return 0, nil, nil
	}
	body, _, err := span(b[0], b[1:])
	if err != nil {
		width := -int(widths[b[0]>>4])
		if len(b) < 1+width {
			return 0, nil, errShort
		}
		body = b[1+width:]
		if width == 4 && len(body) >= 4 {
			n := binary.BigEndian.Uint32(body)
			return int(min(n, maxCount)), body[4:], nil
		}
		if width == 1 && len(body) >= 1 {
			return int(body[0]), body[1:], nil
		}
		return 0, nil, errShort
	}
	return counted(b[0], body)
}

// long reads a value that has passed annotationFits.
func long(b []byte) int64 {
	switch {
	case len(b) == 2:
		return int64(int8(b[1]))
	case len(b) == 9:
		return int64(binary.BigEndian.Uint64(b[1:]))
	}
	return 0
}

// done assembles the message.
func (r *repairer) done() repaired {
	out := make([]byte, 0, len(r.header)+len(r.properties)+len(r.body)+r.mapBytes()+maxNote+256)
	out = append(out, r.header...)
	out = r.appendMap(out, sectionDeliveryAnnotations)
	out = r.appendMap(out, sectionMessageAnnotations)
	out = append(out, r.properties...)
	properties := &r.maps[sectionApplicationProperties-sectionHeader]
	switch {
	case r.broken != "":
		properties.keepOurs()
		properties.note(PropertyUnreadable, r.broken)
	case r.note.Len() > 0:
		properties.note(PropertyMended, "left out: "+r.note.String())
	}
	out = r.appendMap(out, sectionApplicationProperties)
	if r.broken == "" {
		out = append(out, r.body...)
		out = r.appendMap(out, sectionFooter)
	}
	return repaired{encoded: out, changed: r.broken != "" || r.note.Len() > 0, sequence: r.sequence}
}

func (r *repairer) mapBytes() (n int) {
	for _, p := range r.maps {
		n += len(p.encoded)
	}
	return n
}

func (r *repairer) appendMap(out []byte, code byte) []byte {
	p := r.maps[code-sectionHeader]
	if !p.present {
		return out
	}
	return appendCompound(append(out, codeDescribed, codeSmallUlong, code), codeMap32, p.count, p.encoded)
}

// keepOurs keeps only the application properties that say why the message is in the dead-letter
// queue: ours and Service Bus' own.
func (p *pairs) keepOurs() {
	all := p.encoded
	p.encoded, p.count = nil, 0
	for len(all) > 0 {
		_, value, err := cut(all)
		if err != nil {
			return // cut has already succeeded on them
		}
		_, rest, err := cut(value)
		if err != nil {
			return
		}
		name := string(text(all))
		if name == propertyReason || name == propertyText || strings.HasPrefix(name, "revoker-") {
			p.add(all[:len(all)-len(rest)])
		}
		all = rest
	}
}

// note adds a property of ours.
func (p *pairs) note(name, value string) {
	p.present = true
	if len(value) > maxNote {
		value = value[:maxNote]
	}
	p.add([]byte{codeStr8, byte(len(name))}, []byte(name),
		binary.BigEndian.AppendUint32([]byte{codeStr32}, uint32(len(value))), []byte(value))
}

// appendCompound appends a list or map of n items.
func appendCompound(out []byte, code byte, n int, items []byte) []byte {
	out = binary.BigEndian.AppendUint32(append(out, code), uint32(len(items)+4))
	out = binary.BigEndian.AppendUint32(out, uint32(n))
	return append(out, items...)
}
