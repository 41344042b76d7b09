package amqp_test

import (
	"bytes"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// FuzzReadValue checks that a value that was read and can be written is read and written the same.
func FuzzReadValue(f *testing.F) {
	for _, v := range values {
		b, _ := amqp.AppendValue(nil, v)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, rest, err := amqp.ReadValue(b)
		if err != nil {
			return
		}
		if len(rest) > len(b) {
			t.Fatal("the rest is longer than the input")
		}
		again, err := amqp.AppendValue(nil, v)
		if err != nil {
			return // arrays of described or empty values can only be read
		}
		if len(again) == 0 {
			t.Fatal("a value without bytes")
		}
		w, rest, err := amqp.ReadValue(again)
		if err != nil || len(rest) > 0 {
			t.Fatalf("%v was written as %x, which cannot be read: %v", v, again, err)
		}
		if b1, err := amqp.AppendValue(nil, w); err != nil || !bytes.Equal(b1, again) {
			t.Fatalf("%v is written as %x, and then as %x", v, again, b1)
		}
	})
}

// FuzzReadPerformative checks that a performative that was read and can be written is read and
// written the same.
func FuzzReadPerformative(f *testing.F) {
	for _, p := range performatives {
		b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[8:])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		p, payload, err := amqp.ReadPerformative(body)
		if err != nil {
			return
		}
		if len(payload) > len(body) {
			t.Fatal("the payload is longer than the body")
		}
		b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, p)
		if err != nil {
			return // a delivery state that can only be read
		}
		again, _, err := amqp.ReadPerformative(b[8:])
		if err != nil {
			t.Fatalf("%+v was written as %x, which cannot be read: %v", p, b, err)
		}
		if b2, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, again); err != nil || !bytes.Equal(b2, b) {
			t.Fatalf("%T was written as %x, read, and written as %x: %v", p, b, b2, err)
		}
	})
}

// FuzzSplitMessage checks that the sections are the whole message, and that reading them does not
// panic.
func FuzzSplitMessage(f *testing.F) {
	b, err := full().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(amqp.AppendData(nil, []byte("x")))
	f.Add(amqp.AppendData([]byte{0, 0x53, amqp.SectionFooter, 0xc1, 1, 0}, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := amqp.SplitMessage(b)
		if err != nil {
			return
		}
		front := [][]byte{s.Header, s.DeliveryAnnotations, s.MessageAnnotations, s.Properties, s.ApplicationProperties}
		if !bytes.Equal(bytes.Join(append(front, s.Body, s.Footer), nil), b) &&
			!bytes.Equal(bytes.Join(append(front, s.Footer, s.Body), nil), b) {
			t.Fatal("the sections joined are not the message")
		}
		_, _ = amqp.ReadHeader(s.Header)
		_, _ = amqp.ReadProperties(s.Properties)
		_, _ = amqp.RawMessageID(s.Properties)
		_, _ = amqp.WithMessageID(s.Properties, "x")
		_, _ = amqp.ReadMapSection(s.ApplicationProperties)
		_, _ = amqp.ReadAMQPValue(s.Body)
		_ = amqp.DataSections(s.Body, func([]byte) error { return nil })
	})
}

// FuzzFrameReader checks that reading ends, with no more bytes than the stream has.
func FuzzFrameReader(f *testing.F) {
	var stream []byte
	for _, p := range performatives {
		stream, _ = amqp.AppendFrame(stream, amqp.TypeAMQP, 0, p)
	}
	f.Add(stream)
	f.Add([]byte{0, 0, 0, 8, 2, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		frames := amqp.NewFrameReader(bytes.NewReader(b), 512)
		read := 0
		for {
			frame, err := frames.ReadFrame()
			if err != nil {
				return
			}
			if read += 8 + len(frame.Body); read > len(b) {
				t.Fatal("the frames are longer than the stream")
			}
		}
	})
}

func BenchmarkTransfer(b *testing.B) {
	payload := make([]byte, 500)
	transfer := &amqp.Transfer{Handle: 1, DeliveryID: new(uint32(900)), DeliveryTag: make([]byte, 16), MessageFormat: new(uint32)}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if out, err = amqp.AppendFrame(out[:0], amqp.TypeAMQP, 0, transfer, payload); err != nil {
			b.Fatal(err)
		}
		if _, _, err = amqp.ReadPerformative(out[8:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDisposition(b *testing.B) {
	disposition := &amqp.Disposition{Role: amqp.RoleReceiver, First: 900, State: amqp.Accepted{}}
	var out []byte
	b.ReportAllocs()
	for b.Loop() {
		var err error
		if out, err = amqp.AppendFrame(out[:0], amqp.TypeAMQP, 0, disposition); err != nil {
			b.Fatal(err)
		}
		if _, _, err = amqp.ReadPerformative(out[8:]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSplitMessage(b *testing.B) {
	message, err := full().MarshalBinary()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := amqp.SplitMessage(message); err != nil {
			b.Fatal(err)
		}
	}
}
