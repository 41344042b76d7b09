package amqp_test

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	goamqp "github.com/Azure/go-amqp"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// complete are performatives with all their fields.
var complete = []amqp.Performative{
	&amqp.Open{
		ContainerID: "c", Hostname: "h", MaxFrameSize: 65536, ChannelMax: 4999, IdleTimeout: 30000,
		OfferedCapabilities: []amqp.Symbol{"a", "b"},
		DesiredCapabilities: []amqp.Symbol{"d"}, Properties: amqp.Map{{amqp.Symbol("product"), "p"}},
	},
	&amqp.Begin{
		RemoteChannel: new(uint16(7)), NextOutgoingID: 1, IncomingWindow: 2, OutgoingWindow: 3, HandleMax: 4,
		OfferedCapabilities: []amqp.Symbol{"a"}, DesiredCapabilities: []amqp.Symbol{"d"},
		Properties: amqp.Map{{amqp.Symbol("p"), int32(1)}},
	},
	&amqp.Attach{
		Name: "l", Handle: 1, Role: amqp.RoleReceiver, SenderSettleMode: new(amqp.SenderMixed),
		ReceiverSettleMode: new(amqp.ReceiverSecond),
		Source: &amqp.Source{
			Address: "q", Durable: 2, ExpiryPolicy: "never", Timeout: 60, Dynamic: true,
			DynamicNodeProperties: amqp.Map{{amqp.Symbol("lifetime-policy"), amqp.Described{uint64(0x2b), []any{}}}},
			DistributionMode:      "move", Filter: amqp.Map{
				{amqp.Symbol("described"), amqp.Described{uint64(0x137000000c), nil}},
				{amqp.Symbol("plain"), nil},
				{amqp.Symbol("text"), "s"},
			},
			DefaultOutcome: amqp.Modified{DeliveryFailed: true}, Outcomes: []amqp.Symbol{"amqp:accepted:list", "amqp:rejected:list"},
			Capabilities: []amqp.Symbol{"queue"},
		},
		Target: &amqp.Target{
			Address: "t", Durable: 1, ExpiryPolicy: "link-detach", Timeout: 5, Dynamic: true,
			DynamicNodeProperties: amqp.Map{{amqp.Symbol("p"), true}}, Capabilities: []amqp.Symbol{"c"},
		},
		Unsettled: amqp.Map{{[]byte{1}, amqp.Described{uint64(0x24), []any{}}}}, IncompleteUnsettled: true,
		InitialDeliveryCount: new(uint32(9)), MaxMessageSize: 1 << 40,
		OfferedCapabilities: []amqp.Symbol{"a"}, DesiredCapabilities: []amqp.Symbol{},
		Properties: amqp.Map{{amqp.Symbol("com.microsoft:timeout"), uint32(60000)}},
	},
	&amqp.Attach{
		Name: "tx", Source: &amqp.Source{},
		Target: &amqp.Target{Coordinator: true, Capabilities: []amqp.Symbol{"amqp:local-transactions"}},
	},
	&amqp.Flow{
		NextIncomingID: new(uint32(1)), IncomingWindow: 2, NextOutgoingID: 3, OutgoingWindow: 4, Handle: new(uint32(5)),
		DeliveryCount: new(uint32(6)),
		LinkCredit:    new(uint32(7)), Available: new(uint32(8)), Drain: true, Echo: true, Properties: amqp.Map{{amqp.Symbol("p"), "v"}},
	},
	&amqp.Transfer{
		Handle: 1, DeliveryID: new(uint32(2)), DeliveryTag: []byte{}, MessageFormat: new(uint32(0x80013700)), Settled: true, More: true,
		ReceiverSettleMode: new(uint8(0)),
		State:              amqp.Accepted{}, Resume: true, Aborted: true, Batchable: true,
	},
	&amqp.Disposition{Role: amqp.RoleReceiver, First: 1, Last: new(uint32(2)), Settled: true, State: amqp.Released{}, Batchable: true},
	&amqp.SASLInit{Mechanism: "PLAIN", Response: []byte{}, Hostname: "h"},
	&amqp.SASLOutcome{Code: 1, AdditionalData: []byte("x")},
}

// TestPerformativeKeepsEveryField is important for attach above all, because clients compare the
// terminus in the answer with their own.
func TestPerformativeKeepsEveryField(t *testing.T) {
	for _, p := range complete {
		b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, p)
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		got, payload, err := amqp.ReadPerformative(b[8:])
		if err != nil || len(payload) > 0 || !reflect.DeepEqual(got, p) {
			t.Errorf("%T:\n got %+v, %v\nwant %+v", p, got, err, p)
		}
	}
}

func TestPerformativeOmitsAbsentBounds(t *testing.T) {
	b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Open{ContainerID: "c", ChannelMax: 1})
	if err != nil || !bytes.Equal(b[8:], unhex(t, "005310 d0 0000000c 00000004 a10163 40 40 600001")) {
		t.Errorf("open is %x, %v: a max-frame-size of 0 would forbid every frame", b[8:], err)
	}
}

func TestPerformativeErrorsNameTheField(t *testing.T) {
	for wire, want := range map[string]string{
		"0053 10 45":                                                      "container-id",    // mandatory
		"0053 12 c0 04 02 a100 43":                                        "role",            // mandatory
		"0053 13 c0 04 03 43 43 43":                                       "outgoing-window", // mandatory
		"0053 15 c0 02 01 41":                                             "first",           // mandatory
		"0053 16 c0 03 02 43 43":                                          "closed",          // a uint
		"0053 17 c0 05 01 0053 24 45":                                     "error",           // an outcome
		"0053 17 c0 03 02 40 40":                                          "at most 1",       // a field too many
		"0053 17 c0 03 01 40 40":                                          "after",           // bytes that belong to no field
		"0053 14 c0 03 02 43 a100":                                        "delivery-id",     // a string
		"0053 14 c0 07 05 43 40 40 40 5602":                               "settled",         // neither true nor false
		"0053 12 c0 10 06 a100 43 41 40 40 0053 28 c0 04 02 a100 41":      "durable",         // a boolean, in the source
		"0053 15 c0 12 05 41 43 40 42 0053 34 c0 08 02 a00100 0053 24 45": "transactions",    // must not be read as an outcome
		"0053 15 c0 09 05 41 43 40 42 0053 10 45":                         "state",           // an open
		"0053 40 c0 03 01 52 01":                                          "mechanisms",      // a uint
		"00 a3 05 6e6f6e7365 45":                                          "descriptor",
		"00 00 53 10 40 45":                                               "descriptor",
	} {
		p, _, err := amqp.ReadPerformative(unhex(t, wire))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s was read as %+v, %v; want an error that names %q", wire, p, err, want)
		}
	}
}

// TestSplitMessageRefusesMalformedContent has sections of the right sizes with malformed content,
// which would break the receiver.
func TestSplitMessageRefusesMalformedContent(t *testing.T) {
	for name, wire := range map[string]string{
		"a list in a value whose item is cut off": "0053 77 c0 03 01 a1 05",
		"an unknown format code in a map":         "0053 74 c1 05 02 a1 01 61 3f",
		"a map without its last value":            "0053 72 c1 04 01 a1 01 61",
		"application properties that are a list":  "0053 74 45",
		"data that is a string":                   "0053 75 a1 01 61",
		"properties that are a map":               "0053 73 c1 01 00",
		"a header that is null":                   "0053 70 40",
		"a sequence that is data":                 "0053 76 a0 00",
		"a named section":                         "00 a3 0f 616d71703a6865616465723a6c697374 45",
		"a boolean of 2":                          "0053 77 5602",
		"nested deeper than 32":                   "0053 77" + strings.Repeat("d0 000000ff 00000001 ", 40),
	} {
		if s, err := amqp.SplitMessage(unhex(t, wire)); err == nil {
			t.Errorf("%s: split into %+v", name, s)
		}
	}
	deep := any("x")
	for range 32 {
		deep = []any{deep}
	}
	b, err := amqp.AppendAMQPValue(nil, deep)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := amqp.SplitMessage(b); err != nil || s.BodyKind != amqp.BodyValue {
		t.Errorf("nested 32 deep: %v", err)
	}
	if _, err := amqp.AppendAMQPValue(nil, []any{deep}); err == nil {
		t.Error("nested 33 deep was written")
	}
}

func TestSplitMessageBodyKinds(t *testing.T) {
	data, value := amqp.AppendData(nil, []byte("x")), unhex(t, "0053 77 40")
	for name, c := range map[string]struct {
		message []byte
		kind    amqp.BodyKind
		body    int
	}{
		"none":      {amqp.Header{}.Append(nil), amqp.BodyNone, 0},
		"value":     {append(amqp.Header{}.Append(nil), value...), amqp.BodyValue, len(value)},
		"data":      {append(bytes.Repeat(data, 3), unhex(t, "0053 78 c1 01 00")...), amqp.BodyData, 3 * len(data)},
		"sequences": {unhex(t, "0053 76 45 0053 76 45"), amqp.BodySequence, 8},
		"footer":    {append(unhex(t, "0053 74 c1 01 00 0053 78 c1 01 00"), data...), amqp.BodyData, len(data)}, // before the body
	} {
		s, err := amqp.SplitMessage(c.message)
		if err != nil || s.BodyKind != c.kind || len(s.Body) != c.body {
			t.Errorf("%s: kind 0x%x, %d bytes, %v; want 0x%x, %d", name, s.BodyKind, len(s.Body), err, c.kind, c.body)
		}
	}
}

func TestPropertiesOfGoAMQPAreRead(t *testing.T) {
	to, subject, replyTo, kind, encoding, group, replyGroup := "to", "s", "r", "application/json", "gzip", "", "rg"
	sequence := uint32(1 << 31)
	for name, id := range map[string]any{"string": "x", "ulong": uint64(1 << 40), "uuid": goamqp.UUID{1, 15: 2}, "binary": []byte("b")} {
		theirs := &goamqp.MessageProperties{
			MessageID: id, UserID: []byte("u"), To: &to, Subject: &subject, ReplyTo: &replyTo, CorrelationID: id, ContentType: &kind,
			ContentEncoding:    &encoding,
			AbsoluteExpiryTime: &when, CreationTime: &when, GroupID: &group, GroupSequence: &sequence, ReplyToGroupID: &replyGroup,
		}
		b, err := (&goamqp.Message{Properties: theirs}).MarshalBinary()
		if err != nil {
			t.Fatal(err)
		}
		p, err := amqp.ReadProperties(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ours, err := p.Append(nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var got goamqp.Message
		if err := got.UnmarshalBinary(ours); err != nil || shown(t, got.Properties) != shown(t, theirs) {
			t.Errorf("%s: %s, %v; want %s", name, shown(t, got.Properties), err, shown(t, theirs))
		}
	}
	if _, err := amqp.ReadProperties(unhex(t, "0053 73 c0 03 01 54 01")); err == nil || !strings.Contains(err.Error(), "message-id") {
		t.Errorf("an int as a message id: %v", err)
	}
	if _, err := (amqp.Properties{MessageID: 5}).Append(nil); err == nil {
		t.Error("an int was written as a message id")
	}
	if _, err := amqp.ReadHeader(unhex(t, "0053 73 45")); err == nil {
		t.Error("properties were read as a header")
	}
}

func TestAppendKeepsTheBufferOnAnError(t *testing.T) {
	dst := append(make([]byte, 0, 1000), "before"...)
	bad := amqp.Map{{"k", struct{}{}}}
	for name, appended := range map[string]func() ([]byte, error){
		"value":      func() ([]byte, error) { return amqp.AppendValue(dst, bad) },
		"frame":      func() ([]byte, error) { return amqp.AppendFrame(dst, 0, 0, &amqp.Open{Properties: bad}) },
		"section":    func() ([]byte, error) { return amqp.AppendMapSection(dst, amqp.SectionFooter, bad) },
		"body":       func() ([]byte, error) { return amqp.AppendAMQPValue(dst, bad) },
		"properties": func() ([]byte, error) { return amqp.Properties{CorrelationID: bad}.Append(dst) },
	} {
		if b, err := appended(); err == nil || string(b) != "before" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
}

func TestFrameReaderGrowsItsBuffer(t *testing.T) {
	payload := bytes.Repeat([]byte("0123456789abcdef"), 1<<14)
	stream, err := amqp.AppendFrame(unhex(t, "00000008 02000000"), amqp.TypeAMQP, 1, &amqp.Transfer{}, payload)
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]io.Reader{"at once": bytes.NewReader(stream), "in halves": iotest.HalfReader(bytes.NewReader(stream))} {
		frames := amqp.NewFrameReader(r, 1<<20)
		if _, err := frames.ReadFrame(); err != nil {
			t.Fatal(err)
		}
		frame, err := frames.ReadFrame()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, got, err := amqp.ReadPerformative(frame.Body); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestFrameReaderDoesNotAllocateAnAnnouncedFrame checks that a peer cannot make the reader allocate
// by sending eight bytes.
func TestFrameReaderDoesNotAllocateAnAnnouncedFrame(t *testing.T) {
	head := unhex(t, "40000000 02000000")
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := amqp.NewFrameReader(bytes.NewReader(head), 1<<31).ReadFrame()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; !errors.Is(err, io.ErrUnexpectedEOF) || n > 1<<18 {
		t.Errorf("%d bytes were allocated for a frame that did not arrive; %v", n, err)
	}
}

func TestFrameReaderStopsWithoutProgress(t *testing.T) {
	if _, err := amqp.NewFrameReader(nothing{}, 512).ReadFrame(); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("%v", err)
	}
}

type nothing struct{}

func (nothing) Read([]byte) (int, error) { return 0, nil }

// TestAllocationsPerMessage bounds the allocations of what a broker does for every message.
func TestAllocationsPerMessage(t *testing.T) {
	message, err := full().MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	s, err := amqp.SplitMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 0, 4096)
	tag, payload := make([]byte, 16), make([]byte, 500)
	transfer, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Transfer{
		DeliveryID: new(uint32(900)), DeliveryTag: tag, MessageFormat: new(uint32),
	}, payload)
	if err != nil {
		t.Fatal(err)
	}
	disposition, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Disposition{
		First: 900, Last: new(uint32(901)), State: amqp.Accepted{},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		most float64
		run  func() error
	}{
		"write a transfer": {0, func() error {
			id, format := uint32(900), uint32(0)
			_, err := amqp.AppendFrame(out, amqp.TypeAMQP, 0, &amqp.Transfer{
				Handle: 1, DeliveryID: &id, DeliveryTag: tag, MessageFormat: &format,
			}, payload)
			return err
		}},
		"write a disposition": {0, func() error {
			_, err := amqp.AppendFrame(out, amqp.TypeAMQP, 0, &amqp.Disposition{First: 900, Settled: true, State: amqp.Accepted{}})
			return err
		}},
		"read a transfer":    {1, func() error { _, _, err := amqp.ReadPerformative(transfer[8:]); return err }},
		"read a disposition": {1, func() error { _, _, err := amqp.ReadPerformative(disposition[8:]); return err }},
		"split a message":    {0, func() error { _, err := amqp.SplitMessage(message); return err }},
		"find the id":        {0, func() error { _, err := amqp.RawMessageID(s.Properties); return err }},
		"write annotations": {0, func() error {
			w := amqp.NewMapWriter(out, amqp.SectionMessageAnnotations)
			w.Long("x-opt-sequence-number", 1<<40)
			w.Time("x-opt-enqueued-time", time.UnixMilli(0))
			w.Done()
			return nil
		}},
	} {
		var failed error
		if n := testing.AllocsPerRun(200, func() {
			if err := c.run(); err != nil {
				failed = err
			}
		}); n > c.most || failed != nil {
			t.Errorf("%s: %v allocations, want at most %v; %v", name, n, c.most, failed)
		}
	}
}
