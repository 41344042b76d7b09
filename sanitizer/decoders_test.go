package sanitizer

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/Azure/go-amqp"

	"github.com/session-revoker/session-revoker/internal/raced"
)

// realDecoder reads a message like go-amqp and azservicebus. The error reports their failure, also
// if it was a panic.
func realDecoder(encoded []byte) (m amqp.Message, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	if err := m.UnmarshalBinary(encoded); err != nil {
		return m, err
	}
	// These are azservicebus v1.11.0's assertions without a check (message.go, newReceivedMessage).
	// TestSanitizerRealClientReadsRandomMessages runs the library's own code.
	for _, name := range []string{propertyReason, propertyText} {
		if v, ok := m.ApplicationProperties[name]; ok {
			_ = v.(string)
		}
	}
	for _, name := range []string{"x-opt-locked-until", "x-opt-enqueued-time", "x-opt-scheduled-enqueue-time"} {
		if v, ok := m.Annotations[name]; ok {
			_ = v.(time.Time)
		}
	}
	for _, name := range []string{annotationSequence, "x-opt-enqueue-sequence-number"} {
		if v, ok := m.Annotations[name]; ok {
			_ = v.(int64)
		}
	}
	for _, name := range []string{"x-opt-partition-key", "x-opt-deadletter-source"} {
		if v, ok := m.Annotations[name]; ok && v != nil {
			_ = v.(string)
		}
	}
	return m, nil
}

// The scanner copies the rules of these versions. For others, read their sources again:
// internal/encoding/decode.go and types.go and message.go of go-amqp, message.go of azservicebus.
func TestScannerRulesMatchLibraryVersions(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "github.com/Azure/go-amqp",
		"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus").Output()
	if err != nil {
		t.Skip("no go command: ", err)
	}
	for _, want := range []string{"go-amqp v1.7.0\n", "azservicebus v1.11.0\n"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the rules are those of %q, but these are in use:\n%s", want, out)
		}
	}
}

// checkAgainstReal fails if a message passes, or is repaired, and the real decoders cannot read it.
// refusedForNothing reports that they could read what was refused.
func checkAgainstReal(t *testing.T, encoded []byte) (refused, refusedForNothing bool) {
	t.Helper()
	s := scanner{left: maxValues}
	verdict := s.message(encoded)
	if verdict == nil {
		if _, err := realDecoder(encoded); err != nil {
			t.Fatalf("passed, but the real decoders fail: %v\n%x", err, encoded)
		}
		return false, false
	}
	r := repair(encoded, "")
	m, err := realDecoder(r.encoded)
	if err != nil {
		t.Fatalf("repaired, but the real decoders fail: %v\n%x\n%x", err, encoded, r.encoded)
	}
	_, mended := m.ApplicationProperties[PropertyMended].(string)
	_, replaced := m.ApplicationProperties[PropertyUnreadable].(string)
	if (mended || replaced) != r.changed || mended && replaced {
		t.Fatalf("mended %v, replaced %v, changed %v\n%x", mended, replaced, r.changed, encoded)
	}
	if replaced && (m.Value != nil || m.Data != nil || m.Sequence != nil) {
		t.Fatalf("a stand-in has a body\n%x", encoded)
	}
	for name := range m.ApplicationProperties {
		if isOurs([]byte(name)) && name != PropertyMended && name != PropertyUnreadable {
			t.Fatalf("%q of a producer passed\n%x", name, encoded)
		}
	}
	if len(r.encoded) > len(encoded)+maxNote+256 {
		t.Fatalf("%d bytes became %d", len(encoded), len(r.encoded))
	}
	_, err = realDecoder(encoded)
	return true, err == nil && verdict != errOurs //nolint:errorlint // ours, never wrapped
}

func TestScannerPassesOnlyWhatRealDecodersRead(t *testing.T) {
	n := 200_000
	if raced.Enabled || testing.Short() {
		n /= 10
	}
	m := newMaker(t, 1)
	refused, forNothing := 0, 0
	for range n {
		no, nothing := checkAgainstReal(t, m.message(true))
		if no {
			refused++
		}
		if nothing {
			forNothing++
		}
	}
	t.Logf("%d messages: %d refused, of which the real decoders can read %d", n, refused, forNothing)
	// These have maps whose sizes contradict their contents, numeric descriptors that AMQP
	// reserves, or sections that occur twice.
	if forNothing*100 > 3*n {
		t.Errorf("%d of %d messages were changed without need", forNothing, n)
	}
}

// FuzzMessage reads any message. Its properties: what passes or is repaired is readable for the
// real decoders; and a complete answer that was made readable is, and grows only by notes.
func FuzzMessage(f *testing.F) {
	m := newMaker(f, 2)
	for range 100 {
		f.Add(m.message(false))
	}
	for _, a := range attacks {
		f.Add(a.message())
	}
	f.Fuzz(func(t *testing.T, encoded []byte) {
		if len(encoded) > 64<<10 {
			return
		}
		checkAgainstReal(t, encoded)
		for _, cutOff := range []bool{false, true} {
			read := answer(encoded, cutOff, 1<<20, func([]byte, int64) {})
			if len(read) > len(encoded)+(len(encoded)/8+1)*(maxNote+256) {
				t.Fatalf("cut off %v: an answer of %d bytes became %d", cutOff, len(encoded), len(read))
			}
			whole := scanner{left: 4 * answerValues}
			if err := whole.message(read); err != nil && !cutOff {
				t.Fatalf("the answer is not readable: %v\n%x\n%x", err, encoded, read)
			}
		}
	})
}

// attack is one of the messages that stopped the worker.
type attack struct {
	name       string
	section    byte // the section of the value
	value      string
	unreadable string // part of the reason; empty if the message is mended
	mended     string
}

func (a attack) message() []byte {
	value, err := hex.DecodeString(strings.ReplaceAll(a.value, " ", ""))
	if err != nil {
		panic(err)
	}
	section := append([]byte{0, codeSmallUlong, a.section}, value...)
	body := append([]byte{0, codeSmallUlong, sectionData, codeBin8, 2}, "{}"...)
	switch {
	case isBody(a.section):
		return section
	case a.section == sectionFooter:
		return append(body, section...)
	}
	return append(section, body...)
}

var attacks = []attack{
	{"a char property", sectionApplicationProperties, "c1 09 02 a1 01 78 73 00 00 00 41", "", `application property "x"`},
	{"a decimal32 property", sectionApplicationProperties, "c1 09 02 a1 01 78 74 00 00 00 41", "", `application property "x"`},
	{
		"a decimal128 property", sectionApplicationProperties, "c1 15 02 a1 01 78 94" + strings.Repeat("00", 16), "",
		`application property "x"`,
	},
	{"an unknown type", sectionApplicationProperties, "c1 05 02 a1 01 78 46", "", `application property "x"`},
	{"a char body", sectionValue, "73 00 00 00 41", "the body", ""},
	{"a decimal body", sectionValue, "84 00 00 00 00 00 00 00 41", "the body", ""},
	{"a char in a sequence", sectionSequence, "c0 06 01 73 00 00 00 41", "the body", ""},
	{"a described key", sectionValue, "c1 07 02 00 a3 01 78 45 40", "map's key", ""},
	{"a list as a footer's key", sectionFooter, "c1 03 02 45 40", "", "footer"},
	{"binary as an annotation's key", sectionMessageAnnotations, "c1 04 02 a0 00 40", "", "annotation"},
	{
		"a numeric partition key", sectionMessageAnnotations, "c1 18 02 a3 13" +
			hex.EncodeToString([]byte("x-opt-partition-key")) + "54 05",
		"", `annotation "x-opt-partition-key"`,
	},
	{
		"a numeric reason", sectionApplicationProperties, "c1 15 02 a1 10" + hex.EncodeToString([]byte(propertyReason)) + "54 05", "",
		`application property "DeadLetterReason"`,
	},
	{
		"no reason", sectionApplicationProperties, "c1 14 02 a1 10" + hex.EncodeToString([]byte(propertyReason)) + "40", "",
		`application property "DeadLetterReason"`,
	},
	{
		"a numeric description", sectionApplicationProperties, "c1 1f 02 a1 1a" + hex.EncodeToString([]byte(propertyText)) + "54 05", "",
		`application property "DeadLetterErrorDescription"`,
	},
	{"garbage", 0x99, "00 01 02", "not a section", ""},
	{"data that is a string", sectionData, "a1 02 7b 7d", "the wrong type", ""},
	{"a reserved descriptor", sectionValue, "00 53 73 45", "descriptor", ""},
	{"nested lists", sectionValue, nestedHex(33), "nested", ""},
	{"a list that claims 2^32 items", sectionValue, "d0 00 00 00 04 ff ff ff ff", "the body", ""},
}

func nestedHex(depth int) string { return hex.EncodeToString(nested(depth)) }

// nested returns depth lists inside one another.
func nested(depth int) []byte {
	b := []byte{codeList0}
	for range depth {
		b = appendCompound(make([]byte, 0, len(b)+9), codeList32, 1, b)
	}
	return b
}

func TestRepairMendsOrReplacesEachAttack(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			encoded := a.message()
			if _, err := realDecoder(encoded); err == nil && a.name != "a reserved descriptor" && !strings.HasPrefix(a.name, "nested") {
				t.Error("the real decoders can read this, so it is no attack")
			}
			checkAgainstReal(t, encoded)
			m, err := realDecoder(repair(encoded, "").encoded)
			if err != nil {
				t.Fatal(err)
			}
			mended, _ := m.ApplicationProperties[PropertyMended].(string)
			unreadable, _ := m.ApplicationProperties[PropertyUnreadable].(string)
			if !strings.Contains(mended, a.mended) || !strings.Contains(unreadable, a.unreadable) || (a.mended == "") != (mended == "") {
				t.Errorf("mended: %q, unreadable: %q", mended, unreadable)
			}
			if a.mended != "" && !bytes.Equal(m.GetData(), []byte("{}")) {
				t.Errorf("the body is %q", m.GetData())
			}
		})
	}
}

// The types that .NET's client sends for a TimeSpan, a Uri and a DateTimeOffset are readable.
func TestScannerPassesDotNETTypes(t *testing.T) {
	for _, value := range []string{
		"00 a3 16" + hex.EncodeToString([]byte("com.microsoft:timespan")) + "81 00 00 00 00 00 00 00 01",
		"00 a3 11" + hex.EncodeToString([]byte("com.microsoft:uri")) + "a1 01 78",
		"00 a3 1d" + hex.EncodeToString([]byte("com.microsoft:datetime-offset")) + "81 00 00 00 00 00 00 00 01",
		"98" + strings.Repeat("ab", 16), "83 00 00 00 00 00 00 00 01", "82 00 00 00 00 00 00 00 01",
	} {
		raw, err := hex.DecodeString(strings.ReplaceAll(value, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		pair := append([]byte{codeStr8, 1, 'x'}, raw...)
		encoded := append([]byte{0, codeSmallUlong, sectionApplicationProperties}, appendCompound(nil, codeMap32, 2, pair)...)
		s := scanner{left: maxValues}
		if err := s.message(encoded); err != nil {
			t.Errorf("%s: %v", value, err)
		}
	}
}

// The sanitizer drops whatever a producer writes under our names, and nothing else.
func TestRepairDropsForgedProperties(t *testing.T) {
	var items []byte
	for _, name := range []string{PropertyUnreadable, "color", "REVOKER-MENDED"} {
		items = append(append(append(items, codeStr8, byte(len(name))), name...), codeStr8, 1, 'x')
	}
	encoded := append([]byte{0, codeSmallUlong, sectionApplicationProperties}, appendCompound(nil, codeMap32, 6, items)...)
	r := repair(encoded, "")
	m, err := realDecoder(r.encoded)
	if err != nil || len(m.ApplicationProperties) != 1 || m.ApplicationProperties["color"] != "x" || r.changed {
		t.Errorf("%v, %v, changed %v", m.ApplicationProperties, err, r.changed)
	}
}

func TestScannerAllocatesNothing(t *testing.T) {
	m := newMaker(t, 3)
	var sound [][]byte
	for len(sound) < 100 {
		encoded := m.message(false)
		if s := (scanner{left: maxValues}); s.message(encoded) == nil {
			sound = append(sound, encoded)
		}
	}
	if allocations := testing.AllocsPerRun(100, func() {
		for _, encoded := range sound {
			s := scanner{left: maxValues}
			_ = s.message(encoded)
		}
	}); allocations != 0 {
		t.Errorf("%v allocations for 100 messages", allocations)
	}
}

// A message of nested lists costs as much as its stand-in, however large it is.
func TestRepairNestedValuesCostNothing(t *testing.T) {
	for _, depth := range []int{255_000 / 9, 1 << 20 / 9, 4 << 20 / 9} {
		encoded := append([]byte{0, codeSmallUlong, sectionValue}, nested2(depth)...)
		const runs = 20
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			if r := repair(encoded, ""); len(r.encoded) > 1024 || !r.changed {
				t.Fatalf("%d bytes", len(r.encoded))
			}
		}
		runtime.ReadMemStats(&after)
		if cost := (after.TotalAlloc - before.TotalAlloc) / runs; cost > 16<<10 {
			t.Errorf("%d bytes of nested lists cost %d bytes", len(encoded), cost)
		}
	}
}

// nested2 is like nested, but built from the outside, in linear time.
func nested2(depth int) []byte {
	b := make([]byte, 0, depth*9+1)
	for i := range depth {
		b = appendCompound(b, codeList32, 1, nil)
		size := uint32((depth-i-1)*9 + 1 + 4)
		b[len(b)-8], b[len(b)-7], b[len(b)-6], b[len(b)-5] = byte(size>>24), byte(size>>16), byte(size>>8), byte(size)
	}
	return append(b, codeList0)
}

func BenchmarkScan(b *testing.B) {
	encoded := sample()
	b.ReportAllocs()
	for range b.N {
		s := scanner{left: maxValues}
		if err := s.message(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	encoded := sample()
	b.ReportAllocs()
	for range b.N {
		var m amqp.Message
		if err := m.UnmarshalBinary(encoded); err != nil {
			b.Fatal(err)
		}
	}
}

// sample is a message as Service Bus delivers it.
func sample() []byte {
	m := amqp.NewMessage(bytes.Repeat([]byte("x"), 400))
	m.Header = &amqp.MessageHeader{DeliveryCount: 1, TTL: time.Hour}
	m.Annotations = amqp.Annotations{
		annotationSequence: int64(1 << 40), "x-opt-enqueued-time": time.Now(), "x-opt-locked-until": time.Now(),
	}
	m.DeliveryAnnotations = amqp.Annotations{"x-opt-lock-token": amqp.UUID{1}}
	id := "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01"
	m.Properties = &amqp.MessageProperties{MessageID: id, ContentType: &id, Subject: &id}
	m.ApplicationProperties = map[string]any{"color": "green", "size": int64(7)}
	encoded, err := m.MarshalBinary()
	if err != nil {
		panic(err)
	}
	return encoded
}
