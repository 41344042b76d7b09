package mapping

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"github.com/session-revoker/session-revoker/event"
)

// wrappers are what senders put around a body. Each is taken off at most once.
var wrappers = []func(event.Message) (event.Message, bool){
	fromUTF16, fromBinaryXML, fromString, fromConnector, fromTrigger, fromContent, fromBase64,
}

// unwrap returns the message without what senders put around its body. changed is false if there is
// nothing around it. No result is larger than the body, apart from UTF-16, which can grow by half.
func unwrap(m event.Message) (_ event.Message, changed bool) {
	if len(m.Body) > event.MaxBodyBytes {
		return m, false
	}
	left := slices.Clone(wrappers)
	for i := 0; i < len(left); i++ {
		inner, ok := left[i](m)
		if !ok || len(inner.Body) > event.MaxBodyBytes {
			continue
		}
		m, changed = inner, true
		left = slices.Delete(left, i, i+1)
		i = -1 // another wrapper may be within this one
	}
	return m, changed
}

// fromUTF16 converts a body in UTF-16 with a byte order mark to UTF-8.
func fromUTF16(m event.Message) (event.Message, bool) {
	if len(m.Body) < 4 || len(m.Body)%2 != 0 {
		return m, false
	}
	var order binary.ByteOrder = binary.LittleEndian
	switch {
	case m.Body[0] == 0xfe && m.Body[1] == 0xff:
		order = binary.BigEndian
	case m.Body[0] != 0xff || m.Body[1] != 0xfe:
		return m, false
	}
	units := make([]uint16, 0, len(m.Body)/2)
	for i := 2; i < len(m.Body); i += 2 {
		units = append(units, order.Uint16(m.Body[i:]))
	}
	m.Body = []byte(string(utf16.Decode(units)))
	return m, true
}

// The records of MC-NBFX that .NET's binary XML writer uses for a string or bytes
// (https://learn.microsoft.com/openspecs/windows_protocols/mc-nbfx). A text record that ends the
// element has the next higher, odd number.
const (
	recordEndElement   = 0x01
	recordXmlns        = 0x08 // ShortXmlnsAttribute
	recordShortElement = 0x40
	recordChars8       = 0x98
	recordChars16      = 0x9a
	recordChars32      = 0x9c
	recordBytes8       = 0x9e
	recordBytes16      = 0xa0
	recordBytes32      = 0xa2
	recordEmpty        = 0xa8
)

const serialization = "http://schemas.microsoft.com/2003/10/Serialization/"

// fromBinaryXML returns the text that BrokeredMessage of the old .NET library wraps in a binary XML
// element: new BrokeredMessage(text) writes it with the DataContractSerializer.
func fromBinaryXML(m event.Message) (event.Message, bool) {
	if len(m.Body) == 0 || m.Body[0] != recordShortElement {
		return m, false
	}
	rest, ok := m.Body, false
	for _, name := range []string{"string", "base64Binary"} {
		head := append([]byte{recordShortElement, byte(len(name))}, name...)
		head = append(head, recordXmlns, byte(len(serialization)))
		if rest, ok = bytes.CutPrefix(m.Body, append(head, serialization...)); ok {
			break
		}
	}
	if !ok {
		return m, false
	}
	var text []byte
	for len(rest) > 0 {
		kind := rest[0]
		rest = rest[1:]
		if kind == recordEndElement && len(rest) == 0 {
			m.Body = text
			return m, true
		}
		length, size := 0, 0
		switch kind &^ 1 {
		case recordChars8, recordBytes8:
			size = 1
		case recordChars16, recordBytes16:
			size = 2
		case recordChars32, recordBytes32:
			size = 4
		case recordEmpty:
		default:
			return m, false
		}
		if len(rest) < size {
			return m, false
		}
		for i := range size { // little-endian
			length |= int(rest[i]) << (8 * i)
		}
		rest = rest[size:]
		if length < 0 || length > len(rest) {
			return m, false
		}
		text = append(text, rest[:length]...)
		rest = rest[length:]
		if kind&1 == 1 { // the text record ends the element
			if len(rest) > 0 {
				return m, false
			}
			m.Body = text
			return m, true
		}
	}
	return m, false
}

// fromString returns the text of a body that is a JSON string.
func fromString(m event.Message) (event.Message, bool) {
	body := bytes.TrimSpace(m.Body)
	var text string
	if len(body) < 2 || body[0] != '"' || json.Unmarshal(body, &text) != nil {
		return m, false
	}
	m.Body = []byte(text)
	return m, true
}

// fromConnector returns the message in what the Service Bus connector of Logic Apps calls a message:
// {"ContentData": base64, "ContentType", "Label", "Properties"}. A workflow can send this object
// itself by mistake.
func fromConnector(m event.Message) (event.Message, bool) {
	if !bytes.Contains(m.Body, []byte("ontentData")) { // nearly all bodies: spares the search
		return m, false
	}
	o, ok := members(m.Body, "contentData", "contentType", "label", "properties")
	if !ok || o["contentData"].Type != gjson.String {
		return m, false
	}
	m.Body = decoded(o["contentData"].Str)
	if o["contentType"].Type == gjson.String {
		m.ContentType = o["contentType"].Str
	}
	if o["label"].Type == gjson.String {
		m.Subject = o["label"].Str
	}
	if o["properties"].IsObject() {
		// What the message itself says counts: worker ingest says there which source it has proven.
		own, all := m.Properties, maps.Clone(m.Properties)
		if all == nil {
			all = map[string]any{}
		}
		o["properties"].ForEach(func(name, value gjson.Result) bool {
			if value.Type == gjson.String && !hasLoosely(own, name.Str) {
				all[name.Str] = value.Str
			}
			return true
		})
		m.Properties = all
	}
	return m, true
}

// hasLoosely reports whether a property has a name, as expressions compare names.
func hasLoosely(properties map[string]any, name string) bool {
	for own := range properties {
		if sameLoosely(own, name) {
			return true
		}
	}
	return false
}

// fromTrigger returns the body of what triggerOutputs() of Logic Apps returns: {"headers", "body"}.
func fromTrigger(m event.Message) (event.Message, bool) {
	if !bytes.Contains(m.Body, []byte(`"headers"`)) {
		return m, false
	}
	o, ok := members(m.Body, "headers", "body")
	if !ok || !o["headers"].IsObject() {
		return m, false
	}
	switch body := o["body"]; {
	case body.Type == gjson.String:
		m.Body = decoded(body.Str)
	case body.Get("$content").Type == gjson.String:
		m.Body = decoded(body.Get("$content").Str)
		m.ContentType = body.Get("$content-type").String()
	case body.IsObject() || body.IsArray():
		m.Body = []byte(body.Raw)
	default:
		return m, false
	}
	return m, true
}

// fromContent returns what Logic Apps write of a body that is neither JSON nor plain text, such as
// XML: {"$content-type", "$content": base64}. It is what triggerBody() is then.
func fromContent(m event.Message) (event.Message, bool) {
	if !bytes.Contains(m.Body, []byte(`"$content"`)) {
		return m, false
	}
	o, ok := members(m.Body, "$content", "$content-type")
	if !ok || o["$content"].Type != gjson.String {
		return m, false
	}
	m.Body = decoded(o["$content"].Str)
	m.ContentType = o["$content-type"].String()
	return m, true
}

// fromBase64 returns the JSON or XML in a body that is base64.
func fromBase64(m event.Message) (event.Message, bool) {
	body := bytes.TrimSpace(m.Body)
	if len(body) < 8 || strings.IndexByte("{[<\"@", body[0]) >= 0 {
		return m, false
	}
	inner, err := base64.StdEncoding.DecodeString(string(body))
	if err != nil || !looksLikeText(inner) {
		return m, false
	}
	m.Body = inner
	return m, true
}

// members returns the members of a JSON object by the lower-case names that are asked for. ok is
// false if the body is no JSON object, lacks the first name, or has one of the names twice.
func members(body []byte, names ...string) (found map[string]gjson.Result, ok bool) {
	body = bytes.TrimSpace(bytes.TrimPrefix(body, []byte("\xef\xbb\xbf")))
	if len(body) == 0 || body[0] != '{' {
		return nil, false
	}
	if _, err := event.CheckBody(body); err != nil {
		return nil, false
	}
	found, ok = map[string]gjson.Result{}, true
	gjson.ParseBytes(body).ForEach(func(key, value gjson.Result) bool {
		for _, name := range names {
			if strings.EqualFold(key.Str, name) {
				_, twice := found[name]
				ok = ok && !twice
				found[name] = value
			}
		}
		return ok
	})
	return found, ok && found[names[0]].Exists()
}

// decoded returns what text contains in base64, or the text itself: connectors differ.
func decoded(text string) []byte {
	if inner, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text)); err == nil && len(inner) > 0 {
		return inner
	}
	return []byte(text)
}

// looksLikeText reports whether bytes begin as a body does that a mapping can read.
func looksLikeText(b []byte) bool {
	if bytes.HasPrefix(b, []byte("\xff\xfe")) || bytes.HasPrefix(b, []byte("\xfe\xff")) {
		return true
	}
	b = bytes.TrimSpace(bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")))
	return len(b) > 1 && strings.IndexByte("{[<@", b[0]) >= 0
}

// toUTF8 converts Latin-1 to UTF-8.
func toUTF8(latin1 []byte) []byte {
	text := make([]byte, 0, len(latin1)+len(latin1)/8)
	for _, b := range latin1 {
		text = utf8.AppendRune(text, rune(b))
	}
	return text
}
