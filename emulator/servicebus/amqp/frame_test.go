package amqp_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// unhex decodes hexadecimal with spaces.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// performatives has every type of performative, in the form in which it is read.
var performatives = []amqp.Performative{
	&amqp.Open{ContainerID: "c", Hostname: "h", MaxFrameSize: 65536, ChannelMax: 4999, IdleTimeout: 30000},
	&amqp.Begin{RemoteChannel: new(uint16), NextOutgoingID: 1, IncomingWindow: 5000, OutgoingWindow: 5000, HandleMax: 1<<32 - 1},
	&amqp.Begin{IncomingWindow: 1},
	&amqp.Attach{
		Name: "l", Handle: 3, Role: amqp.RoleReceiver, SenderSettleMode: new(uint8), ReceiverSettleMode: new(amqp.ReceiverSecond),
		Source: &amqp.Source{
			Address: "q", Filter: amqp.Map{{amqp.Symbol("f"), amqp.Described{uint64(0x137000000c), "s"}}, {amqp.Symbol("plain"), "s"}},
		},
		Target: &amqp.Target{Address: "me"}, InitialDeliveryCount: new(uint32), MaxMessageSize: 1<<64 - 1,
		Properties: amqp.Map{{amqp.Symbol("p"), uint32(5)}},
	},
	&amqp.Attach{Name: "", Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "q"}},
	&amqp.Attach{Name: "refused"},
	&amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 1, NextOutgoingID: 2, OutgoingWindow: 3, Handle: new(uint32),
		DeliveryCount: new(uint32(7)), LinkCredit: new(uint32(300)), Available: new(uint32), Drain: true, Echo: true,
	},
	&amqp.Flow{},
	&amqp.Transfer{
		Handle: 1, DeliveryID: new(uint32(9)), DeliveryTag: []byte("0123456789abcdef"), MessageFormat: new(uint32), Settled: true,
		More: true,
	},
	&amqp.Transfer{Handle: 1},
	&amqp.Disposition{Role: amqp.RoleReceiver, First: 5, Last: new(uint32(6)), Settled: true, State: amqp.Accepted{}},
	&amqp.Disposition{First: 5, State: amqp.Released{}},
	&amqp.Disposition{
		State: amqp.Rejected{
			Error: &amqp.Error{
				Condition: "com.microsoft:dead-letter", Description: "d", Info: amqp.Map{{amqp.Symbol("DeadLetterReason"), "r"}},
			},
		},
	},
	&amqp.Disposition{State: amqp.Rejected{}},
	&amqp.Disposition{
		State: amqp.Modified{DeliveryFailed: true, UndeliverableHere: true, MessageAnnotations: amqp.Map{{amqp.Symbol("k"), int64(1)}}},
	},
	&amqp.Disposition{},
	&amqp.Detach{Handle: 1, Closed: true, Error: &amqp.Error{Condition: "amqp:not-found"}},
	&amqp.Detach{},
	&amqp.End{}, &amqp.End{Error: &amqp.Error{Condition: "x", Description: "y"}}, &amqp.Close{},
	&amqp.Close{Error: &amqp.Error{Condition: "x"}},
	&amqp.SASLMechanisms{Mechanisms: []amqp.Symbol{"ANONYMOUS", "PLAIN"}}, &amqp.SASLInit{Mechanism: "PLAIN", Response: []byte("r")},
	&amqp.SASLOutcome{Code: 2},
}

func TestPerformativeRoundTrip(t *testing.T) {
	for _, p := range performatives {
		b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 7, p, []byte("pay"), []byte("load"))
		if err != nil {
			t.Fatalf("%+v: %v", p, err)
		}
		frame, err := amqp.NewFrameReader(bytes.NewReader(b), 1<<16).ReadFrame()
		if err != nil || frame.Channel != 7 {
			t.Fatalf("%+v: %+v, %v", p, frame, err)
		}
		got, payload, err := amqp.ReadPerformative(frame.Body)
		if err != nil || !reflect.DeepEqual(got, p) || string(payload) != "payload" {
			t.Errorf("%T:\n got %+v, payload %q, %v\nwant %+v", p, got, payload, err, p)
		}
	}
}

// TestPerformativeGoldenBytes reads bodies that were derived manually from the specification.
func TestPerformativeGoldenBytes(t *testing.T) {
	for name, c := range map[string]struct {
		body string
		want amqp.Performative
	}{
		"open with list8, missing fields": {"0053 10 c0 03 01 a1 00", &amqp.Open{}},
		"open": {
			"0053 10 c0 11 05 a1 01 63 a1 01 68 70 00010000 60 ffff 52 64",
			&amqp.Open{ContainerID: "c", Hostname: "h", MaxFrameSize: 65536, ChannelMax: 65535, IdleTimeout: 100},
		},
		"open with list32": {"0053 10 d0 00000007 00000001 a1 01 63", &amqp.Open{ContainerID: "c"}},
		"begin": {
			"0053 11 c0 0a 04 40 43 70 00001388 52 05", &amqp.Begin{IncomingWindow: 5000, OutgoingWindow: 5},
		},
		"attach of a receiver": {
			"0053 12 c0 17 07 a1 01 6c 43 41 50 00 50 01 0053 28 c0 04 01 a1 01 71 0053 29 45",
			&amqp.Attach{
				Name: "l", Role: amqp.RoleReceiver, SenderSettleMode: new(uint8), ReceiverSettleMode: new(uint8(1)),
				Source: &amqp.Source{Address: "q"}, Target: &amqp.Target{},
			},
		},
		"attach of a sender": {
			"0053 12 c0 16 07 a1 01 6c 52 02 42 40 40 0053 28 45 0053 29 c0 04 01 a1 01 71",
			&amqp.Attach{Name: "l", Handle: 2, Source: &amqp.Source{}, Target: &amqp.Target{Address: "q"}},
		},
		"attach of a transaction": {
			"0053 12 c0 10 07 a1 01 6c 43 42 40 40 0053 28 45 0053 30 45",
			&amqp.Attach{Name: "l", Source: &amqp.Source{}, Target: &amqp.Target{Coordinator: true}},
		},
		"flow": {
			"0053 13 c0 0b 07 43 52 0a 43 52 0b 43 43 52 64",
			&amqp.Flow{
				NextIncomingID: new(uint32), IncomingWindow: 10, OutgoingWindow: 11, Handle: new(uint32), DeliveryCount: new(uint32),
				LinkCredit: new(uint32(100)),
			},
		},
		"transfer": {
			"0053 14 c0 0a 06 43 43 a0 02 0102 43 42 41",
			&amqp.Transfer{DeliveryID: new(uint32), DeliveryTag: []byte{1, 2}, MessageFormat: new(uint32), More: true},
		},
		"disposition accepted": {
			"0053 15 c0 09 05 41 43 40 42 0053 24 45", &amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.Accepted{}},
		},
		"disposition accepted, long": {
			"0053 15 c0 0c 05 41 43 40 56 01 0053 24 c0 01 00",
			&amqp.Disposition{Role: amqp.RoleReceiver, Settled: true, State: amqp.Accepted{}},
		},
		"disposition released": {
			"0053 15 c0 09 05 41 43 40 42 0053 26 45", &amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.Released{}},
		},
		"disposition modified": {
			"0053 15 c0 0d 05 41 43 40 42 0053 27 c0 03 02 42 41",
			&amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.Modified{UndeliverableHere: true}},
		},
		"disposition rejected": {
			"0053 15 c0 14 05 41 43 40 42 0053 25 c0 0a 01 0053 1d c0 04 01 a3 01 78",
			&amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.Rejected{Error: &amqp.Error{Condition: "x"}}},
		},
		"disposition received": {
			"0053 15 c0 0d 05 41 43 40 42 0053 23 c0 03 02 43 44",
			&amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.OtherState{Code: 0x23}},
		},
		"detach": {
			"0053 16 c0 0d 03 43 41 0053 1d c0 05 01 a3 02 6161", &amqp.Detach{Closed: true, Error: &amqp.Error{Condition: "aa"}},
		},
		"end":                        {"0053 17 45", &amqp.End{}},
		"close with a full ulong":    {"0080 0000000000000018 45", &amqp.Close{}},
		"close by its symbolic name": {"00 a3 0f 616d71703a636c6f73653a6c697374 c0 01 00", &amqp.Close{}},
		"sasl-mechanisms, one":       {"0053 40 c0 04 01 a3 01 41", &amqp.SASLMechanisms{Mechanisms: []amqp.Symbol{"A"}}},
		"sasl-mechanisms, an array": {
			"0053 40 c0 09 01 e0 06 02 a3 01 41 01 42", &amqp.SASLMechanisms{Mechanisms: []amqp.Symbol{"A", "B"}},
		},
		"sasl-init":    {"0053 41 c0 07 02 a3 01 41 a0 01 78", &amqp.SASLInit{Mechanism: "A", Response: []byte("x")}},
		"sasl-outcome": {"0053 44 c0 03 01 50 00", &amqp.SASLOutcome{}},
	} {
		got, payload, err := amqp.ReadPerformative(unhex(t, c.body))
		if err != nil || len(payload) > 0 || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s:\n got %+v, %d bytes after it, %v\nwant %+v", name, got, len(payload), err, c.want)
		}
	}
}

func TestPerformativeEncodingForStrictClients(t *testing.T) {
	b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Open{})
	if err != nil || !bytes.HasPrefix(b[8:], unhex(t, "0053 10 d0")) || b[8+12] == 0x40 {
		t.Errorf("open begins %x: the descriptor must be a small ulong, the container id not null (%v)", b[8:], err)
	}
	b, err = amqp.AppendFrame(nil, amqp.TypeAMQP, 0, nil)
	if err != nil || !bytes.Equal(b, unhex(t, "00000008 02000000")) {
		t.Errorf("a keep-alive is %x, %v", b, err)
	}
	if _, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Disposition{State: 5}); err == nil {
		t.Error("5 was written as a delivery state")
	}
}

func TestPerformativeErrorsNameWrongTypes(t *testing.T) {
	for wire, field := range map[string]string{
		"0053 13 c0 03 01 a1 00":       "0x13, field 1",
		"0053 12 c0 05 02 a1 00 a1 00": "0x12, field 2",
		"0053 14 c0 04 03 43 43 41":    "0x14, field 3",
		"0053 15 c0 03 02 41 41":       "0x15, field 2",
		"0053 10 c0 03 01 52 05":       "0x10, field 1",
	} {
		if _, _, err := amqp.ReadPerformative(unhex(t, wire)); err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v; want an error that names %s", wire, err, field)
		}
	}
	for _, wire := range []string{"", "00", "0053", "0053 99 45", "0053 10 a1 00", "53 10 45", "0053 10 c0 05 01 a1 00"} {
		if p, _, err := amqp.ReadPerformative(unhex(t, wire)); err == nil {
			t.Errorf("%q was read as %+v", wire, p)
		}
	}
}

func TestFrameReaderReadsInAnyChunks(t *testing.T) {
	var stream []byte
	for i, p := range performatives {
		var err error
		if stream, err = amqp.AppendFrame(stream, amqp.TypeAMQP, uint16(i), p, bytes.Repeat([]byte{byte(i)}, 100*i)); err != nil {
			t.Fatal(err)
		}
		stream = append(stream, unhex(t, "00000008 02000000")...) // a keep-alive between
	}
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(stream), "byte by byte": iotest.OneByteReader(bytes.NewReader(stream)),
		"with the end": iotest.DataErrReader(bytes.NewReader(stream)),
	} {
		frames := amqp.NewFrameReader(r, 4096)
		for i := range performatives {
			frame, err := frames.ReadFrame()
			if err != nil || frame.Channel != uint16(i) {
				t.Fatalf("%s, frame %d: %+v, %v", name, i, frame, err)
			}
			if _, payload, err := amqp.ReadPerformative(frame.Body); err != nil || len(payload) != 100*i {
				t.Fatalf("%s, frame %d: %d bytes of payload, %v", name, i, len(payload), err)
			}
			if frame, err = frames.ReadFrame(); err != nil || len(frame.Body) != 0 {
				t.Fatalf("%s: no keep-alive after frame %d: %+v, %v", name, i, frame, err)
			}
		}
		if _, err := frames.ReadFrame(); !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %v", name, err)
		}
	}
}

func TestFrameReaderBounds(t *testing.T) {
	read := func(wire string) (amqp.Frame, error) {
		return amqp.NewFrameReader(bytes.NewReader(unhex(t, wire)), 4096).ReadFrame()
	}
	var tooLarge *amqp.FrameSizeError
	if _, err := read("00001001 02000000"); !errors.As(err, &tooLarge) || tooLarge.Size != 4097 || tooLarge.Max != 4096 {
		t.Errorf("a frame of 4097 bytes: %v", err)
	}
	if frame, err := read("00000010 03000005 deadbeef 00531745"); err != nil || !bytes.Equal(frame.Body, unhex(t, "00531745")) ||
		frame.Channel != 5 {
		t.Errorf("an extended header is not skipped: %+v, %v", frame, err)
	}
	for _, wire := range []string{"00000008 01000000", "00000004 02000000", "00000008 03000000", "00000000 00000000"} {
		if frame, err := read(wire); err == nil {
			t.Errorf("%s was read as %+v", wire, frame)
		}
	}
	for _, wire := range []string{"00000010 02000000 00", "0000"} {
		if _, err := read(wire); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s, cut off: %v", wire, err)
		}
	}
}
