package mapping_test

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/session-revoker/session-revoker/event"
)

const notice = `
mappings:
  - name: notice
    match: body.?notice.?kind.orValue("") == "lost"
    type: '"device.lost"'
    user: [{name: body.notice.owner}]
    device: {name: 'body.notice.?device'}
    reason: list(body.notice.?note).map(n, text(n)).join("+")
`

func TestXMLIsReadLikeJSON(t *testing.T) {
	d := newDecoder(t, notice)
	for body, want := range map[string]string{ // owner, device, and notes
		`<notice><kind>lost</kind><owner>ada@contoso.com</owner></notice>`: "ada@contoso.com||",
		`<?xml version="1.0" encoding="utf-8"?><!-- c -->
			<n:notice xmlns:n="urn:x"><n:kind> lost </n:kind><owner>ada@contoso.com</owner>
			<note>a</note><note>b</note></n:notice>`: "ada@contoso.com||a+b",
		"\xef\xbb\xbf<notice kind2='x'><kind>lost</kind><owner>ada@contoso.com</owner>" +
			"<device>A &amp; B</device><note>a</note></notice>": "ada@contoso.com|A & B|a",
		`<notice><kind>lost</kind><owner>ada@contoso.com</owner>
			<device xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"/></notice>`: "ada@contoso.com||",
		`<notice><kind>lost</kind><owner><![CDATA[ada@contoso.com]]></owner></notice>`: "ada@contoso.com||",
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		got := item.Event.User.UPN() + "|" + item.Event.Device + "|" + item.Event.Reason
		if item.Err != nil || got != want || item.Event.Field != "body.notice.owner" {
			t.Errorf("%s: %+v", body, item)
		}
	}
}

func TestXMLAttributesAndText(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - name: m
    match: body.e["@kind"] == "lost"
    type: '"device.lost"'
    user: [{name: 'body.e.users.user.filter(u, u["@role"] == "owner").map(u, u["#text"])'}]
`)
	item := decode(t, d, event.Message{Body: []byte(`<e kind="lost"><users><user role="helper">eve@contoso.com</user>
		<user role="owner">ada@contoso.com</user></users></e>`)})
	if item.Err != nil || item.Event.User.UPN() != "ada@contoso.com" || item.Event.Field != `body.e.users.user[1]["#text"]` {
		t.Errorf("%+v", item)
	}
}

func TestXMLNameGivenTwiceNamesNobody(t *testing.T) {
	d := newDecoder(t, notice)
	for _, body := range []string{
		`<notice><kind>lost</kind><owner>ada@contoso.com</owner><owner>eve@contoso.com</owner></notice>`,
		`<notice xmlns:a="urn:a"><kind>lost</kind><a:owner>ada@contoso.com</a:owner><owner>eve@contoso.com</owner></notice>`,
		`<notice><kind>lost</kind><owner>ada@contoso.com</owner><Owner>eve@contoso.com</Owner></notice>`,
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		if p := problemOf(t, item); p.Kind != event.OwnerUnclear && p.Kind != event.Invalid || !item.Event.User.IsZero() {
			t.Errorf("%s: %+v", body, item)
		}
	}
}

func TestXMLThatIsDangerousOrBrokenIsRefused(t *testing.T) {
	d := newDecoder(t, notice)
	const good = `<notice><kind>lost</kind><owner>ada@contoso.com</owner>`
	for name, body := range map[string]string{
		"external entity": `<!DOCTYPE n [<!ENTITY x SYSTEM "file:///etc/passwd">]>` + good + `<note>&x;</note></notice>`,
		"entity bomb":     `<!DOCTYPE n [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + good + `<note>&b;</note></notice>`,
		"doctype":         `<!DOCTYPE notice>` + good + `</notice>`,
		"unknown entity":  good + `<note>&nbsp;</note></notice>`,
		"two roots":       good + `</notice>` + good + `</notice>`,
		"text behind":     good + `</notice>x`,
		"unclosed":        good,
		"depth":           good + strings.Repeat("<a>", 40) + strings.Repeat("</a>", 40) + `</notice>`,
		"elements":        good + strings.Repeat("<a/>", 20_001) + `</notice>`,
		"attributes":      good + `<a ` + attributes(20_001) + `/></notice>`,
		"encoding":        `<?xml version="1.0" encoding="ebcdic"?>` + good + `</notice>`,
	} {
		if item := decode(t, d, event.Message{Body: []byte(body)}); item.Err == nil {
			t.Errorf("%s: %+v", name, item)
		}
	}
}

func attributes(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `a%d="" `, i)
	}
	return b.String()
}

func TestLatin1IsReadOnlyWhereTheMappingSaysSo(t *testing.T) {
	latin1 := strings.Replace(notice, "match:", "encoding: latin-1\n    match:", 1)
	for _, body := range []string{
		"{\"notice\":{\"kind\":\"lost\",\"owner\":\"ada@contoso.com\",\"device\":\"Jos\xe9\"}}",
		"<notice><kind>lost</kind><owner>ada@contoso.com</owner><device>Jos\xe9</device></notice>",
	} {
		m := event.Message{Body: []byte(body)}
		if item := decode(t, newDecoder(t, latin1), m); item.Err != nil || item.Event.Device != "José" {
			t.Errorf("%+v", item)
		}
		if p := problemOf(t, decode(t, newDecoder(t, notice), m)); !strings.Contains(p.Problem, "not valid UTF-8") {
			t.Error(p)
		}
		m.Body = []byte(strings.ReplaceAll(body, "\xe9", "é"))
		if item := decode(t, newDecoder(t, latin1), m); item.Err != nil || item.Event.Device != "José" {
			t.Errorf("UTF-8 stays UTF-8: %+v", item)
		}
	}
	declared := "<?xml version=\"1.0\" encoding=\"ISO-8859-1\"?>" +
		"<notice><kind>lost</kind><owner>ada@contoso.com</owner><device>Jos\xe9</device></notice>"
	if item := decode(t, newDecoder(t, notice), event.Message{Body: []byte(declared)}); item.Err != nil || item.Event.Device != "José" {
		t.Errorf("XML can say it itself: %+v", item)
	}
}

// binaryXML returns what new BrokeredMessage(text) of the old .NET library sends.
func binaryXML(text string) []byte {
	body := "@\x06string\x083http://schemas.microsoft.com/2003/10/Serialization/"
	switch n := len(text); {
	case n < 1<<8:
		return append([]byte(body+"\x99"), append([]byte{byte(n)}, text...)...)
	case n < 1<<16:
		return append(binary.LittleEndian.AppendUint16([]byte(body+"\x9b"), uint16(n)), text...)
	default:
		return append(binary.LittleEndian.AppendUint32([]byte(body+"\x9d"), uint32(n)), text...)
	}
}

func TestWrappersAreTakenOff(t *testing.T) {
	d := newDecoder(t, notice)
	const lost = `{"notice":{"kind":"lost","owner":"ada@contoso.com"}}`
	const xml = `<notice><kind>lost</kind><owner>ada@contoso.com</owner></notice>`
	const native = `{"type":"device.lost","userPrincipalName":"ada@contoso.com"}`
	b64 := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	inUTF16 := func(s string, order binary.AppendByteOrder) []byte {
		var b []byte
		for _, unit := range utf16.Encode([]rune("\ufeff" + s)) {
			b = order.AppendUint16(b, unit)
		}
		return b
	}
	split := "@\x06string\x083http://schemas.microsoft.com/2003/10/Serialization/\x98\x0a" +
		lost[:10] + "\x98" + string(rune(len(lost)-10)) + lost[10:] + "\x01"
	long := lost[:len(lost)-1] + `,"padding":"` + strings.Repeat("x", 70_000) + `"}`
	middle := lost[:len(lost)-1] + `,"padding":"` + strings.Repeat("x", 7_000) + `"}`
	for name, body := range map[string][]byte{
		"UTF-16 LE":                     inUTF16(lost, binary.LittleEndian),
		"UTF-16 BE":                     inUTF16(xml, binary.BigEndian),
		"binary XML":                    binaryXML(lost),
		"binary XML, 2 bytes of length": binaryXML(middle),
		"binary XML, 4 bytes of length": binaryXML(long),
		"binary XML, two records":       []byte(split),
		"binary XML with XML":           binaryXML(xml),
		"binary XML, native":            binaryXML(native),
		"base64Binary": []byte("@\x0cbase64Binary\x083http://schemas.microsoft.com/2003/10/Serialization/\x9f" +
			string(rune(len(native))) + native),
		"ContentData":              []byte(`{"ContentData":"` + b64(lost) + `","ContentType":"application/json","Label":"x"}`),
		"$content":                 []byte(`{"$content-type":"application/octet-stream","$content":"` + b64(lost) + `"}`),
		"$content, native":         []byte(`{"$content-type":"application/json","$content":"` + b64(native) + `"}`),
		"ContentData, native":      []byte(`{"ContentData":"` + b64(native) + `"}`),
		"contentData that is text": []byte(`{"contentData":"` + strings.ReplaceAll(lost, `"`, `\"`) + `"}`),
		"base64":                   []byte(b64(lost)),
		"base64 in a JSON string":  []byte(`"` + b64(xml) + `"`),
		"JSON string":              []byte(`"` + strings.ReplaceAll(lost, `"`, `\"`) + `"`),
		"trigger":                  []byte(b64(`{"headers":{"Host":"x"},"body":` + lost + `}`)),
		"trigger with text":        []byte(b64(`{"headers":{},"body":"` + strings.ReplaceAll(lost, `"`, `\"`) + `"}`)),
		"trigger with $content": []byte(b64(`{"headers":{},"body":{"$content-type":"application/json",
			"$content":"` + b64(lost) + `"}}`)),
		"ContentData with a trigger": []byte(`{"ContentData":"` + b64(`{"headers":{},"body":`+lost+`}`) + `"}`),
	} {
		if item := decode(t, d, event.Message{Body: body}); item.Err != nil || item.Event.User.UPN() != "ada@contoso.com" {
			t.Errorf("%s: %+v", name, item)
		}
	}
}

func TestWrappersThatAreBrokenAreLeftAlone(t *testing.T) {
	d := newDecoder(t, notice)
	const lost = `{"notice":{"kind":"lost","owner":"ada@contoso.com"}}`
	whole := binaryXML(lost)
	twice := base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(lost))))
	for name, body := range map[string][]byte{
		"cut":                     whole[:len(whole)-1],
		"more behind":             append(append([]byte{}, whole...), 'x'),
		"another element":         []byte(strings.Replace(string(whole), "\x06string", "\x06strong", 1)),
		"another namespace":       []byte(strings.Replace(string(whole), "2003", "2004", 1)),
		"another record":          []byte(strings.Replace(string(whole), "\x99", "\x88", 1)),
		"a length that is huge":   []byte("@\x06string\x083http://schemas.microsoft.com/2003/10/Serialization/\x9d\xff\xff\xff\xff" + lost),
		"base64 of base64":        []byte(twice),
		"ContentData given twice": []byte(`{"ContentData":"` + base64.StdEncoding.EncodeToString([]byte(lost)) + `","contentData":"e30="}`),
		"UTF-16 without a mark":   []byte("{\x00\"\x00a\x00\"\x00:\x001\x00}\x00"),
		"UTF-16, odd":             []byte("\xff\xfe{\x00}"),
	} {
		if item := decode(t, d, event.Message{Body: body}); item.Err == nil {
			t.Errorf("%s: %+v", name, item)
		}
	}
}

func TestConnectorsMessageBringsItsProperties(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - {name: m, match: 'subject == "lost" && contentType == "text/x" && properties["who"] == "ada@contoso.com"', type: '"device.lost"',
     user: [{name: 'properties["who"]'}]}
`)
	body := `{"ContentData":"e30=","ContentType":"text/x","Label":"lost","Properties":{"who":"ada@contoso.com","n":1}}`
	if item := decode(t, d, event.Message{Body: []byte(body)}); item.Err != nil || item.Event.Field != "properties.who" {
		t.Errorf("%+v", item)
	}
}

// TestConnectorsMessageCannotBeOfAnotherSource: worker ingest writes into the message which source has
// proven itself. The body of that source must not name another one.
func TestConnectorsMessageCannotBeOfAnotherSource(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - {name: hr, match: 'properties["source"] == "hr" || properties.get("source") == "hr"', type: '"user.offboarded"',
     user: [{name: body.who}]}
`)
	for _, name := range []string{"source", "Source", "SOURCE", "so-urce", "_source"} {
		body := `{"ContentData":{},"Properties":{"` + name + `":"hr","other":"x"}}`
		body = strings.Replace(body, "{}", `"`+base64.StdEncoding.EncodeToString([]byte(`{"who":"ada@contoso.com"}`))+`"`, 1)
		if item := decode(t, d, event.Message{Body: []byte(body), Properties: map[string]any{"source": "mdm"}}); item.Err == nil {
			t.Errorf("a message of mdm is taken for one of hr by its property %s", name)
		}
	}
}

func TestPropertiesOfAllKinds(t *testing.T) {
	d := newDecoder(t, `
mappings:
  - name: m
    match: properties["n"] == 7 && properties["ok"] && properties["f"] > 1.0 && properties[?"odd"].orValue("") == ""
    type: '"device.lost"'
    user: [{name: 'properties["who"]'}]
    time: properties["at"]
    id: properties["n"]
`)
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	item := decode(t, d, event.Message{Body: []byte(`{}`), Properties: map[string]any{
		"who": "ada@contoso.com", "n": int32(7), "ok": true, "f": float32(2), "at": at, "odd": []byte("x"),
	}})
	if item.Err != nil || !item.Event.Time.Equal(at) || item.Event.ID != "7" {
		t.Errorf("%+v", item)
	}
}

func TestFunctions(t *testing.T) {
	for expression, want := range map[string]string{
		`body.get("user_name")`:             "ada@contoso.com",
		`body.get("USERNAME")`:              "ada@contoso.com",
		`body.get("nothing").get("deeper")`: "",
		`body.get("list").get("x")`:         "",
		`text(body.get("number"))`:          "",
		`text(body.?nothing)`:               "",
		`first(body.list)`:                  "ada@contoso.com",
		`first([])`:                         "",
		`first(list(body.get("userName")))`: "ada@contoso.com",
		`body.lists.flatten()[1]`:           "grace@contoso.com",
		`json(body.text).who`:               "ada@contoso.com",
		`json(body.userName)`:               "",
		`json(body.inner).who`:              "ada@contoso.com",
		`fold("User Name-X_y") == "usernamexy" ? body.userName : ""`: "ada@contoso.com",
		`when(body.at) > when("2026-01-01") ? body.userName : ""`:    "ada@contoso.com",
		`body.list.first()`: "ada@contoso.com",
		`body.?userName`:    "ada@contoso.com",
		`text(1.5) + text(2) + text(true) == "1.52true" ? body.userName : ""`: "ada@contoso.com",
		`body.userName.split("@")[0] + "@contoso.com"`:                        "ada@contoso.com",
		`body.userName.lowerAscii()`:                                          "ada@contoso.com",
	} {
		d := newDecoder(t, asUser(expression, ""))
		item := decode(t, d, event.Message{Body: []byte(`{"kind":1,"userName":"ada@contoso.com","list":["ada@contoso.com"],
			"at":"2026-03-01",
			"lists":[["ada@contoso.com"],"grace@contoso.com"],"text":"{\"who\":\"ada@contoso.com\"}","inner":{"who":"ada@contoso.com"}}`)})
		if item.Event.User.UPN() != want {
			t.Errorf("%s: %+v", expression, item)
		}
		if want == "" && problemOf(t, item).Kind != event.OwnerUnclear {
			t.Errorf("%s: %+v", expression, item)
		}
	}
	d := newDecoder(t, asUser(`body.get("username")`, ""))
	p := problemOf(t, decode(t, d, event.Message{Body: []byte(`{"kind":1,"user_name":"ada@contoso.com","userName":"eve@contoso.com"}`)}))
	if p.Kind != event.Invalid {
		t.Error(p)
	}
	for body, want := range map[string]string{
		`{"kind":1,"user_name":"eve@contoso.com","username":"ada@contoso.com"}`:   "",
		`{"kind":1,"user_name":"ada@contoso.com","username":"ada@contoso.com"}`:   "ada@contoso.com",
		`{"kind":1,"user_name":"ada@contoso.com","username":"","USER-NAME":null}`: "ada@contoso.com",
		`{"kind":1,"username":"ada@contoso.com","username":"ada@contoso.com"}`:    "",
		`{"kind":1,"username":"ada@contoso.com","userName":"ada@contoso.com"}`:    "",
	} {
		item := decode(t, d, event.Message{Body: []byte(body)})
		if item.Event.User.UPN() != want || want == "" && problemOf(t, item).Kind != event.Invalid {
			t.Errorf("%s: %+v", body, item)
		}
	}
}
