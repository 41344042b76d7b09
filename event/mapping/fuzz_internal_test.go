package mapping

import (
	"encoding/xml"
	"strings"
	"testing"
	"time"

	"cel.dev/cel-go/common/types"
)

// FuzzXML checks that what is accepted is well-formed XML, and stays within its bounds.
func FuzzXML(f *testing.F) {
	for _, seed := range []string{
		`<a/>`, `<a b="1">t<c/><c>x</c></a>`, `<?xml version="1.0"?><n:a xmlns:n="u"><![CDATA[x]]></n:a>`, `<!DOCTYPE a><a/>`,
		`<a>&lt;&x;</a>`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		doc := new(document)
		root, err := doc.readXML([]byte(body))
		if err != nil {
			return
		}
		var anything struct{}
		decoder := xml.NewDecoder(strings.NewReader(body))
		decoder.CharsetReader = newXMLReader(doc, nil).decoder.CharsetReader
		if err := decoder.Decode(&anything); err != nil {
			t.Fatalf("%q is accepted, but %v", body, err)
		}
		if len(root.members) != 1 {
			t.Fatalf("%q: %d roots", body, len(root.members))
		}
		root.Equal(root.whole())
	})
}

// FuzzTime checks that no text makes a clock panic or yield a time that JSON cannot write.
func FuzzTime(f *testing.F) {
	for _, seed := range []string{
		"2026-03-01T12:00:00Z", "2/12/2026 6:43:08 AM", "01/03/2025", "1725443872001", "/Date(1368076195887+0200)/", "2026-03-01 12:00",
		"9999-12-31T23:59:59-10:00",
	} {
		f.Add(seed)
	}
	k := clock{forms: allForms, zone: zone(f, "America/Sao_Paulo")}
	f.Fuzz(func(t *testing.T, text string) {
		at, isDate, ok := k.read(types.String(text))
		if !ok {
			if !at.IsZero() {
				t.Fatal(at)
			}
			return
		}
		if _, err := at.MarshalJSON(); err != nil {
			t.Fatal(err)
		}
		if isDate {
			if day := k.endOfDay(at).Sub(at); day < 22*time.Hour || day > 26*time.Hour {
				t.Fatalf("%q: a day of %v", text, day)
			}
		}
	})
}
