package sanitizer

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/internal/raced"
)

// script is a read-only connection that returns pieces of random size.
type script struct {
	net.Conn
	left   []byte
	random *rand.Rand
}

func (s *script) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 1+s.random.IntN(3000))], s.left)
	s.left = s.left[n:]
	return n, nil
}

// readAll reads through a sanitizer until an error.
func readAll(t *testing.T, stream []byte, seed uint64) ([]byte, error) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 1))
	c := New(Options{MaxMessage: 100_000}).Wrap(&script{left: stream, random: random})
	var out []byte
	for idle := 0; idle < len(stream)+10; {
		p := make([]byte, 1+random.IntN(2000))
		n, err := c.Read(p)
		out = append(out, p[:n]...)
		if err != nil {
			return out, err
		}
		if n == 0 {
			idle++
		}
	}
	t.Fatal("reading does not end")
	return nil, nil
}

// sent holds what one link has received.
type sent struct {
	tag      byte
	payload  []byte
	frames   int
	finished bool
}

func deliveries(t *testing.T, stream []byte) (order []byte, byTag map[byte]*sent) {
	t.Helper()
	byTag = map[byte]*sent{}
	tagOf := map[[2]uint32]byte{}
	r := amqp.NewFrameReader(bytes.NewReader(stream), 1<<20)
	for {
		f, err := r.ReadFrame()
		if errors.Is(err, io.EOF) {
			return order, byTag
		}
		if err != nil {
			t.Fatal(err)
		}
		p, payload, err := amqp.ReadPerformative(f.Body)
		if err != nil {
			t.Fatal(err)
		}
		transfer, ok := p.(*amqp.Transfer)
		if !ok {
			order = append(order, 0xff)
			continue
		}
		link := [2]uint32{uint32(f.Channel), transfer.Handle}
		if transfer.DeliveryID != nil {
			tagOf[link] = transfer.DeliveryTag[0]
		}
		tag := tagOf[link]
		order = append(order, tag)
		s := byTag[tag]
		if s == nil {
			s = &sent{tag: tag}
			byTag[tag] = s
		}
		s.payload = append(s.payload, payload...)
		s.frames++
		s.finished = !transfer.More
	}
}

// Frames stay complete and, in each session, in order. Only payloads change, and only those that
// cannot be read.
func TestConnKeepsNumberAndOrderOfFrames(t *testing.T) {
	t.Logf("again with: -args -seed %d", *seed)
	rounds := uint64(60)
	if raced.Enabled {
		rounds /= 10
	}
	for round := range rounds {
		seed := *seed + round
		random := rand.New(rand.NewPCG(seed, 2))
		m := maker{random}
		var stream []byte
		add := func(channel uint16, p amqp.Performative, payload ...[]byte) {
			var err error
			if stream, err = amqp.AppendFrame(stream, amqp.TypeAMQP, channel, p, payload...); err != nil {
				t.Fatal(err)
			}
		}
		type open struct {
			channel uint16
			handle  uint32
			tag     byte
			payload []byte
			started bool
		}
		var links []*open
		for channel := range uint16(2) {
			for handle := range uint32(2) {
				add(channel, &amqp.Attach{
					Name: "x", Handle: handle, Role: amqp.RoleSender, Source: &amqp.Source{Address: "Events"}, Target: &amqp.Target{},
				})
				links = append(links, &open{channel: channel, handle: handle})
			}
		}
		originals := map[byte][]byte{}
		for tag := byte(1); tag <= 40 || len(links) > 0; {
			l := links[random.IntN(len(links))]
			if random.IntN(4) == 0 {
				add(l.channel, &amqp.Flow{IncomingWindow: 1, OutgoingWindow: 1})
			}
			if l.payload == nil {
				if tag > 40 {
					links = remove(links, l)
					continue
				}
				body := m.bytes(random.IntN(200_000))
				if random.IntN(3) > 0 {
					body = body[:min(len(body), 100)]
				}
				message := append([]byte{0, 0x53, 0x75}, m.sized(codeBin32, body)...)
				if random.IntN(2) == 0 {
					message = append([]byte{0, 0x53, 0x74, 0xc1, 9, 2, 0xa1, 1, 'x', 0x73, 0, 0, 0, 'A'}, message...)
				}
				l.tag, l.payload, l.started = tag, message, false
				originals[tag] = message
				tag++
			}
			n := min(len(l.payload), 1+random.IntN(60_000))
			transfer := &amqp.Transfer{Handle: l.handle, More: n < len(l.payload)}
			if !l.started {
				transfer.DeliveryID, transfer.DeliveryTag, transfer.MessageFormat = new(uint32), []byte{l.tag}, new(uint32)
				l.started = true
			}
			add(l.channel, transfer, l.payload[:n])
			if l.payload = l.payload[n:]; len(l.payload) == 0 {
				l.payload = nil
			}
		}
		out, err := readAll(t, stream, seed)
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		for channel := range uint16(2) {
			wantOrder, _ := deliveries(t, only(t, stream, channel))
			gotOrder, _ := deliveries(t, only(t, out, channel))
			if !bytes.Equal(wantOrder, gotOrder) {
				t.Fatalf("seed %d: frames of session %d came in another order", seed, channel)
			}
		}
		_, want := deliveries(t, stream)
		_, got := deliveries(t, out)
		for tag, original := range originals {
			w, g := want[tag], got[tag]
			if g == nil || g.frames != w.frames || !g.finished {
				t.Fatalf("seed %d: delivery %d: %+v", seed, tag, g)
			}
			expected := original
			switch s := (scanner{left: maxValues}); {
			case len(original) > 100_000:
				if m, err := realDecoder(g.payload); err != nil || m.ApplicationProperties[PropertyUnreadable] != tooLarge {
					t.Fatalf("seed %d: delivery %d of %d bytes: %v, %v", seed, tag, len(original), m.ApplicationProperties, err)
				}
				continue
			case s.message(original) != nil:
				expected = repair(original, "").encoded
			}
			if !bytes.Equal(g.payload, expected) {
				t.Fatalf("seed %d: delivery %d is not what it must be", seed, tag)
			}
		}
	}
}

func remove[T comparable](list []T, one T) (rest []T) {
	for _, x := range list {
		if x != one {
			rest = append(rest, x)
		}
	}
	return rest
}

// only returns the frames of one channel.
func only(t *testing.T, stream []byte, channel uint16) (out []byte) {
	t.Helper()
	r := amqp.NewFrameReader(bytes.NewReader(stream), 1<<20)
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return out
		}
		if f.Channel != channel {
			continue
		}
		p, payload, err := amqp.ReadPerformative(f.Body)
		if err == nil {
			out, err = amqp.AppendFrame(out, amqp.TypeAMQP, f.Channel, p, payload)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// FuzzConn reads any stream. Its properties: reading ends, the result grows only by notes about
// messages, and it does not depend on the sizes of reads.
func FuzzConn(f *testing.F) {
	f.Add([]byte("AMQP\x03\x01\x00\x00AMQP\x00\x01\x00\x00"), uint64(1))
	attach, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Attach{
		Name: "x", Role: amqp.RoleSender, Source: &amqp.Source{Address: "q/$management"}, Target: &amqp.Target{},
	})
	if err != nil {
		f.Fatal(err)
	}
	for _, a := range attacks {
		for _, more := range []bool{false, true} {
			stream, err := amqp.AppendFrame(bytes.Clone(attach), amqp.TypeAMQP, 0,
				&amqp.Transfer{DeliveryID: new(uint32), DeliveryTag: []byte{1}, MessageFormat: new(uint32), More: more}, a.message())
			if err != nil {
				f.Fatal(err)
			}
			if stream, err = amqp.AppendFrame(stream, amqp.TypeAMQP, 0, &amqp.End{}); err != nil {
				f.Fatal(err)
			}
			f.Add(stream, uint64(2))
		}
	}
	var waiting []byte // in each of several sessions a delivery is not complete when the connection is closed
	for channel := range uint16(8) {
		for _, p := range []amqp.Performative{
			&amqp.Attach{Name: "x", Role: amqp.RoleSender, Source: &amqp.Source{Address: "q"}, Target: &amqp.Target{}},
			&amqp.Transfer{DeliveryID: new(uint32), DeliveryTag: []byte{byte(channel)}, MessageFormat: new(uint32), More: true},
		} {
			if waiting, err = amqp.AppendFrame(waiting, amqp.TypeAMQP, channel, p); err != nil {
				f.Fatal(err)
			}
		}
	}
	if waiting, err = amqp.AppendFrame(waiting, amqp.TypeAMQP, 0, &amqp.Close{}); err != nil {
		f.Fatal(err)
	}
	f.Add(waiting, uint64(3))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		if len(stream) > 1<<16 {
			return
		}
		out, _ := readAll(t, stream, seed)
		if other, _ := readAll(t, stream, seed+1); !bytes.Equal(out, other) {
			t.Errorf("other sizes of reads give other bytes\n%x\n%x", out, other)
		}
		// Each frame of 8 bytes or more can grow by the note about its message.
		if len(out) > len(stream)+(len(stream)/frameHeader+1)*(maxNote+256) {
			t.Errorf("%d bytes became %d", len(stream), len(out))
		}
	})
}

// A peek's answer that is too large ends with its last complete message.
func TestAnswerTooLargeIsCut(t *testing.T) {
	message := append([]byte{0, 0x53, 0x75, codeBin32, 0, 0, 3, 0xe8}, make([]byte, 1000)...)
	entry := func(value []byte) []byte {
		pair := append([]byte{codeStr8, 7}, "message"...)
		return appendCompound(nil, codeMap32, 2, append(append(pair, codeBin32, 0, 0, byte(len(value)>>8), byte(len(value))), value...))
	}
	var items []byte
	for range 10 {
		items = append(items, entry(message)...)
	}
	list := append(append([]byte{codeStr8, 8}, "messages"...), appendCompound(nil, codeList32, 10, items)...)
	encoded := append([]byte{0, 0x53, 0x77}, appendCompound(nil, codeMap32, 2, list)...)
	keep := func([]byte, int64) {}
	if answer(encoded, false, 1<<20, keep) != nil {
		t.Error("a sound answer was changed")
	}
	for size := 3; size < len(encoded); size += 7 {
		out := answer(encoded[:size], true, 1<<20, keep)
		if out == nil {
			continue // no part of a message has come
		}
		m, err := realDecoder(out)
		if err != nil {
			t.Fatalf("%d bytes: %v", size, err)
		}
		body, _ := m.Value.(map[string]any)
		if body == nil {
			continue
		}
		messages, _ := body["messages"].([]any)
		for i, one := range messages {
			raw, _ := one.(map[string]any)["message"].([]byte)
			if i > 0 && !bytes.Equal(raw, message) {
				t.Fatalf("%d bytes: message %d is changed", size, i)
			}
		}
		if whole := (size - 40) / len(entry(message)); len(messages) < whole {
			t.Fatalf("%d bytes: %d messages", size, len(messages))
		}
	}
}
