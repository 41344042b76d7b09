package sanitizer

import (
	"encoding/binary"
)

// answerValues bounds the values of all messages in one answer: the client library keeps all of
// them in memory at the same time.
const answerValues = 16 * maxValues

// answer makes the messages readable that are inside a $management node's answer, to a peek or to a
// request by sequence numbers. They are in a value body of the form {"messages": [{"message":
// binary, …}, …]}. cutOff means that encoded is the beginning of a longer answer; the result then
// ends with its last message. keep gets each message that was changed. The result is nil if nothing
// has to change.
func answer(encoded []byte, cutOff bool, limit int, keep func(original []byte, sequence int64)) []byte {
	whole := scanner{left: 4 * answerValues}
	if err := whole.message(encoded); err != nil && !cutOff {
		return nil // from Service Bus itself: the client reports its error
	}
	for at := 0; at < len(encoded); {
		code, value, err := head(encoded[at:])
		if err != nil {
			return nil
		}
		if code == sectionValue {
			value = rebuildAnswer(value, &messages{cutOff: cutOff, limit: limit, keep: keep, left: answerValues})
			if value == nil {
				return nil
			}
			out := make([]byte, 0, at+3+len(value))
			out = append(out, encoded[:at]...)
			return append(append(out, codeDescribed, codeSmallUlong, sectionValue), value...)
		}
		_, rest, err := cut(value)
		if err != nil {
			return nil
		}
		at = len(encoded) - len(rest)
	}
	return nil
}

// messages makes the messages of one answer readable.
type messages struct {
	cutOff  bool
	limit   int // bytes of a message
	keep    func(original []byte, sequence int64)
	left    int // values that may still come
	changed bool
}

// rebuildAnswer returns the value of an answer's body with readable messages; nil if nothing has to
// change.
func rebuildAnswer(value []byte, m *messages) []byte {
	n, items, err := mapOf(value)
	if err != nil {
		return nil
	}
	out := make([]byte, 0, len(items)+maxNote)
	count := 0
	for range n / 2 {
		_, value, err := cut(items)
		if err != nil || len(value) == 0 {
			break
		}
		_, rest, err := cut(value)
		if err != nil && !m.cutOff {
			return nil
		}
		key := items[:len(items)-len(value)]
		if string(text(key)) == "messages" && forms[value[0]] == list {
			out = m.list(append(out, key...), value)
		} else if err == nil {
			out = append(out, items[:len(items)-len(rest)]...)
		} else {
			break
		}
		count += 2
		if items = rest; err != nil {
			break // that was the last pair
		}
	}
	if !m.changed && !m.cutOff {
		return nil
	}
	return appendCompound(nil, codeMap32, count, out)
}

// list appends the list of messages.
func (m *messages) list(out, value []byte) []byte {
	n, items, err := opened(value)
	if err != nil {
		return append(out, codeList0)
	}
	start := len(out)
	out = appendCompound(out, codeList32, 0, nil)
	count := 0
	for ; count < n && len(items) > 0 && (m.left > 0 || count == 0); count++ {
		entry, rest, err := cut(items)
		if err != nil {
			// The answer ends here. Without any message the list would seem to be empty.
			if !m.cutOff || count > 0 {
				break
			}
			entry, rest = items, nil
		}
		longer, ok := m.entry(out, entry)
		if !ok {
			break
		}
		out, items = longer, rest
	}
	if count < n {
		m.changed = true
	}
	binary.BigEndian.PutUint32(out[start+1:], uint32(len(out)-start-5))
	binary.BigEndian.PutUint32(out[start+5:], uint32(count))
	return out
}

// entry appends the map with one message. ok is false if there is none.
func (m *messages) entry(out, entry []byte) (longer []byte, ok bool) {
	n, items, err := mapOf(entry)
	if err != nil {
		return nil, false
	}
	start := len(out)
	out = appendCompound(out, codeMap32, 0, nil)
	count := 0
	for range n / 2 {
		_, value, err := cut(items)
		if err != nil || len(value) == 0 {
			break
		}
		_, rest, err := cut(value)
		key := items[:len(items)-len(value)]
		if string(text(key)) == "message" && isBinary(value[0]) {
			out, ok = m.message(append(out, key...), value[:len(value)-len(rest)], err != nil), true // a lock token may follow
		} else if err == nil {
			out = append(out, items[:len(items)-len(rest)]...)
		} else {
			break
		}
		count += 2
		if items = rest; err != nil {
			break
		}
	}
	binary.BigEndian.PutUint32(out[start+1:], uint32(len(out)-start-5))
	binary.BigEndian.PutUint32(out[start+5:], uint32(count))
	return out, ok
}

// message appends one message, which is binary.
func (m *messages) message(out, value []byte, cutOff bool) []byte {
	body, _, err := span(value[0], value[1:])
	broken := ""
	if err != nil {
		width := -int(widths[value[0]>>4])
		body = value[min(len(value), 1+width):]
		broken = tooLarge
	}
	if len(body) > m.limit {
		body, broken, cutOff = body[:m.limit], tooLarge, true
	}
	s := scanner{left: maxValues}
	if broken == "" && s.message(body) == nil {
		m.left -= maxValues - s.left
		return append(out, value...)
	}
	m.changed = true
	fixed := repair(body, broken)
	if fixed.changed && !cutOff {
		m.keep(body, fixed.sequence)
	}
	m.left -= maxValues / 4 // an estimate that also bounds repaired messages
	out = binary.BigEndian.AppendUint32(append(out, codeBin32), uint32(len(fixed.encoded)))
	return append(out, fixed.encoded...)
}

// tooLarge is the reason for replacing a message that has more bytes than are read.
const tooLarge = "the message: it is larger than the sanitizer reads"
