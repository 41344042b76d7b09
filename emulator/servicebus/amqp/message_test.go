package amqp_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// full returns a message with every section and every type that go-amqp can write.
func full() *goamqp.Message {
	id, to, subject, group := any("id"), "to", "subject", "group"
	sequence := uint32(3)
	return &goamqp.Message{
		Header: &goamqp.MessageHeader{
			Durable: true, Priority: 7, TTL: 90 * time.Second, FirstAcquirer: true, DeliveryCount: 3,
		},
		DeliveryAnnotations: goamqp.Annotations{"d": "x"},
		Annotations:         goamqp.Annotations{"x-opt-a": int64(5), "when": when},
		Properties: &goamqp.MessageProperties{
			MessageID: id, UserID: []byte("u"), To: &to, Subject: &subject, CorrelationID: uint64(9), CreationTime: &when,
			GroupID: &group, GroupSequence: &sequence,
		},
		ApplicationProperties: map[string]any{
			"bool": true, "u8": uint8(1), "u16": uint16(2), "u32": uint32(3), "u64": uint64(1) << 40, "i8": int8(-1), "i16": int16(-2),
			"i32": int32(-3), "i64": int64(-1) << 40,
			"f32": float32(1.5), "f64": 2.5, "s": "é", "b": []byte{0, 1}, "t": when, "null": nil, "uuid": goamqp.UUID{1, 2},
		},
		Data:   [][]byte{[]byte("one"), bytes.Repeat([]byte("2"), 300)},
		Footer: goamqp.Annotations{"f": "y"},
	}
}

// shown returns v as JSON, for comparisons by value.
func shown(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSplitMessageOfGoAMQP(t *testing.T) {
	b, err := full().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	s, err := amqp.SplitMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	joined := bytes.Join([][]byte{
		s.Header, s.DeliveryAnnotations, s.MessageAnnotations, s.Properties, s.ApplicationProperties, s.Body, s.Footer,
	}, nil)
	if !bytes.Equal(joined, b) {
		t.Error("the sections joined are not the message")
	}
	h, err := amqp.ReadHeader(s.Header)
	if err != nil || !h.Durable || *h.Priority != 7 || *h.TTL != 90_000 || !h.FirstAcquirer || h.DeliveryCount != 3 {
		t.Errorf("header %+v, %v", h, err)
	}
	p, err := amqp.ReadProperties(s.Properties)
	if err != nil || p.MessageID != "id" || p.To != "to" || p.Subject != "subject" || p.CorrelationID != uint64(9) {
		t.Errorf("properties %+v, %v", p, err)
	}
	m, err := amqp.ReadMapSection(s.ApplicationProperties)
	if err != nil || len(m) != 16 {
		t.Fatalf("application properties %v, %v", m, err)
	}
	for name, want := range full().ApplicationProperties {
		got, ok := m.Get(name)
		if id, isID := want.(goamqp.UUID); isID {
			want = amqp.UUID(id)
		}
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %T %v, want %T %v", name, got, got, want, want)
		}
	}
	var data []string
	err = amqp.DataSections(s.Body, func(payload []byte) error {
		data = append(data, string(payload))
		return nil
	})
	if err != nil || len(data) != 2 || data[0] != "one" || len(data[1]) != 300 {
		t.Errorf("data %q, %v", data, err)
	}
}

func TestMessageIsReadByGoAMQP(t *testing.T) {
	b, err := full().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	s, err := amqp.SplitMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	ttl := uint32(5000)
	ours := amqp.Header{TTL: &ttl}.Append(nil)
	for code, section := range map[byte][]byte{
		amqp.SectionDeliveryAnnotations: s.DeliveryAnnotations, amqp.SectionMessageAnnotations: s.MessageAnnotations,
		amqp.SectionApplicationProperties: s.ApplicationProperties,
	} {
		m, err := amqp.ReadMapSection(section)
		if err != nil {
			t.Fatal(err)
		}
		again, err := amqp.AppendMapSection(nil, code, m)
		if err != nil {
			t.Fatal(err)
		}
		switch code {
		case amqp.SectionDeliveryAnnotations:
			s.DeliveryAnnotations = again
		case amqp.SectionMessageAnnotations:
			s.MessageAnnotations = again
		default:
			s.ApplicationProperties = again
		}
	}
	ours = bytes.Join([][]byte{
		ours, s.DeliveryAnnotations, s.MessageAnnotations, s.Properties, s.ApplicationProperties, amqp.AppendData(nil, []byte("body")),
	}, nil)
	var got goamqp.Message
	if err := got.UnmarshalBinary(ours); err != nil {
		t.Fatal(err)
	}
	want := full()
	if got.Header.TTL != 5*time.Second || got.Header.DeliveryCount != 0 || string(got.GetData()) != "body" ||
		shown(t, got.ApplicationProperties) != shown(t, want.ApplicationProperties) ||
		fmt.Sprint(got.Annotations) != fmt.Sprint(want.Annotations) {
		t.Errorf("got %+v, header %+v", got, got.Header)
	}
	value, err := amqp.AppendAMQPValue(nil, amqp.Map{
		{"expirations", amqp.Array{when}}, {"messages", []any{amqp.Map{{"message", []byte("m")}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got = goamqp.Message{}
	if err := got.UnmarshalBinary(value); err != nil {
		t.Fatal(err)
	}
	m, _ := got.Value.(map[string]any)
	if fmt.Sprintf("%T", m["expirations"]) != "[]time.Time" || fmt.Sprintf("%T", m["messages"]) != "[]interface {}" {
		t.Errorf("an array and a list were read as %T and %T", m["expirations"], m["messages"])
	}
}

func TestHeaderWritesADeliveryCountOf0(t *testing.T) {
	section := amqp.Header{}.Append(nil)
	if section[len(section)-1] != 0x43 { // uint0
		t.Errorf("the header %x does not end with a delivery count of 0", section)
	}
}

func TestMapWriterWritesTheSameAsAppendMapSection(t *testing.T) {
	w := amqp.NewMapWriter([]byte("before"), amqp.SectionMessageAnnotations)
	pairs, err := amqp.AppendValue(nil, amqp.Symbol("own"))
	if err != nil {
		t.Fatal(err)
	}
	pairs, _ = amqp.AppendValue(pairs, "x")
	w.Raw(pairs, 1)
	w.Long("n", 1<<40)
	w.Time("t", when)
	w.Int("s", 2)
	w.String("d", "q")
	w.UUID("u", amqp.UUID{1})
	got, err := amqp.ReadMapSection(bytes.TrimPrefix(w.Done(), []byte("before")))
	want := amqp.Map{
		{amqp.Symbol("own"), "x"},
		{amqp.Symbol("n"), int64(1 << 40)},
		{amqp.Symbol("t"), when},
		{amqp.Symbol("s"), int32(2)},
		{amqp.Symbol("d"), "q"},
		{amqp.Symbol("u"), amqp.UUID{1}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v\nwant %v", got, err, want)
	}
}

func TestWithMessageIDChangesNothingElse(t *testing.T) {
	m := full()
	m.Properties.MessageID = nil
	b, err := m.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	s, err := amqp.SplitMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := amqp.RawMessageID(s.Properties); id != nil || err != nil {
		t.Fatalf("it has the id %x, %v", id, err)
	}
	with, err := amqp.WithMessageID(s.Properties, "new")
	if err != nil {
		t.Fatal(err)
	}
	var got goamqp.Message
	if err := got.UnmarshalBinary(append(with, amqp.AppendData(nil, nil)...)); err != nil {
		t.Fatal(err)
	}
	m.Properties.MessageID = "new"
	if shown(t, got.Properties) != shown(t, m.Properties) {
		t.Errorf("%s, want %s", shown(t, got.Properties), shown(t, m.Properties))
	}
	if with, err = amqp.WithMessageID(nil, "only"); err != nil {
		t.Fatal(err)
	}
	if p, err := amqp.ReadProperties(with); err != nil || p.MessageID != "only" {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestSplitMessageErrors(t *testing.T) {
	data, value := amqp.AppendData(nil, []byte("x")), []byte{0, 0x53, 0x77, 0x40}
	header, footer := amqp.Header{}.Append(nil), []byte{0, 0x53, 0x78, 0xc1, 1, 0}
	for name, b := range map[string][]byte{
		"rubbish":              []byte("rubbish"),
		"a header twice":       append(bytes.Clone(header), header...),
		"the header last":      append(bytes.Clone(data), header...),
		"two values":           append(bytes.Clone(value), value...),
		"data and a value":     append(bytes.Clone(data), value...),
		"a footer twice":       slices.Concat(footer, data, footer),
		"a footer in the body": slices.Concat(data, footer, data),
		"a header after it":    slices.Concat(footer, header, data),
		"an unknown section":   {0, 0x53, 0x79, 0x40},
		"a section cut off":    data[:len(data)-1],
		"a section of nothing": {0, 0x53, 0x75},
	} {
		if s, err := amqp.SplitMessage(b); err == nil {
			t.Errorf("%s: split into %+v", name, s)
		}
	}
	if s, err := amqp.SplitMessage(nil); err != nil || s.Body != nil {
		t.Errorf("an empty message: %+v, %v", s, err)
	}
	if err := amqp.DataSections(value, func([]byte) error { return nil }); err == nil {
		t.Error("a value was read as data")
	}
	if _, err := amqp.ReadMapSection([]byte{0, 0x53, 0x74, 0x41}); err == nil {
		t.Error("a boolean was read as application properties")
	}
}
