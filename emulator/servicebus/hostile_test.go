package servicebus_test

import (
	"encoding/binary"
	"flag"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

var seed = flag.Uint64("seed", rand.Uint64(), "seed of the random bytes in tests")

// stillServes fails unless another client can send, receive and complete a message.
func stillServes(t *testing.T, client *azservicebus.Client) {
	t.Helper()
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("fine")}, nil))
	receiver, err := client.NewReceiverForQueue(queue, nil)
	must(t, err)
	m := receiveFrom(t, receiver, 1)[0]
	must(t, receiver.CompleteMessage(ctx, m, nil))
	must(t, sender.Close(ctx))
	must(t, receiver.Close(ctx))
}

func TestConnectionWithGarbageEndsAlone(t *testing.T) {
	_, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	t.Logf("-seed %d", *seed)
	random := rand.New(rand.NewPCG(*seed, 0))
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	frame := func(body ...byte) []byte {
		b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
		return append(append(b, 2, 0, 0, 0), body...)
	}
	for name, attack := range map[string]func(r *raw){
		"noise":              func(r *raw) { r.bytes(noise) },
		"an oversized frame": func(r *raw) { r.bytes([]byte{0x7f, 0xff, 0xff, 0xff, 2, 0, 0, 0}) },
		"a frame of 4 bytes": func(r *raw) { r.bytes([]byte{0, 0, 0, 4, 2, 0, 0, 0}) },
		"no such performative": func(r *raw) {
			r.bytes(frame(0x00, 0x53, 0x99, 0x45))
		},
		"a list that claims 2^32 items": func(r *raw) {
			r.bytes(frame(0x00, 0x53, 0x11, 0xd0, 0, 0, 0, 8, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0))
		},
		"descriptors within descriptors": func(r *raw) { r.bytes(frame(make([]byte, 60_000)...)) },
		"a session that does not exist":  func(r *raw) { r.put(7, &amqp.Flow{}) },
		"a second open":                  func(r *raw) { r.begin(0); r.put(0, &amqp.Open{ContainerID: "again"}) },
		"a SASL frame after open":        func(r *raw) { r.frame(amqp.TypeSASL, 0, &amqp.SASLInit{Mechanism: "PLAIN"}) },
		"another protocol after open":    func(r *raw) { r.bytes([]byte("GET / HTTP/1.1\r\n\r\n")) },
		"half a frame, and then nothing": func(r *raw) { r.bytes([]byte{0, 0, 1, 0, 2, 0}); _ = r.conn.(*net.TCPConn).CloseWrite() },
		"a message that is not one":      func(r *raw) { r.authorize(addr, queue); sendGarbage(r); _ = r.conn.Close() },
		"a disposition for everything":   func(r *raw) { r.begin(1); disposeAll(r); _ = r.conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			r := dial(t, addr)
			r.t = t
			attack(r)
			_, _ = io.Copy(io.Discard, r.conn) // until the broker has closed it
			stillServes(t, client)
		})
	}
}

func sendGarbage(r *raw) {
	r.begin(1)
	r.put(1, &amqp.Attach{Name: "out", Handle: 0, Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}})
	wait[*amqp.Flow](r)
	batch := uint32(0x80013700)
	for i, format := range []*uint32{new(uint32), &batch} {
		id := uint32(i)
		r.put(1, &amqp.Transfer{DeliveryID: &id, DeliveryTag: []byte{1}, MessageFormat: format}, []byte("garbage"))
		if d := wait[*amqp.Disposition](r); d.First != id {
			r.t.Errorf("answer to %d, want %d", d.First, id)
		} else if _, refused := d.State.(amqp.Rejected); !refused {
			r.t.Errorf("garbage was answered with %T", d.State)
		}
	}
}

func TestConnectionBoundsUnreadResponses(t *testing.T) {
	_, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	for range 20 {
		must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, 200_000)}, nil))
	}
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	management := queue + "/$management"
	r.put(1, &amqp.Attach{Name: "ask", Handle: 0, Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: management}})
	wait[*amqp.Flow](r)
	r.put(1, &amqp.Attach{
		Name: "answers", Handle: 1, Role: amqp.RoleReceiver, Source: &amqp.Source{Address: management},
		Target: &amqp.Target{Address: "here"},
	})
	wait[*amqp.Attach](r)
	message, err := amqp.Properties{MessageID: "1", ReplyTo: "here"}.Append(nil)
	must(t, err)
	message, err = amqp.AppendMapSection(message, amqp.SectionApplicationProperties, amqp.Map{
		{Key: "operation", Value: "com.microsoft:peek-message"},
	})
	must(t, err)
	message, err = amqp.AppendAMQPValue(message, amqp.Map{
		{Key: "from-sequence-number", Value: int64(0)}, {Key: "message-count", Value: int32(100)},
	})
	must(t, err)
	refused := 0
	for id := range uint32(10) { // 4 MB each, without credit
		r.put(1, &amqp.Transfer{DeliveryID: &id, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, message)
		if _, no := wait[*amqp.Disposition](r).State.(amqp.Rejected); no {
			refused++
		}
	}
	if refused < 8 {
		t.Errorf("%d of 10 responses of 4 MB were refused, want at least 8", refused)
	}
	stillServes(t, client)
}

func disposeAll(r *raw) {
	last := uint32(1<<32 - 1)
	r.put(1, &amqp.Disposition{Role: amqp.RoleReceiver, Last: &last, Settled: true, State: amqp.Accepted{}})
}

func TestConnectionNeedsAToken(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	for _, role := range []amqp.Role{amqp.RoleSender, amqp.RoleReceiver} {
		for _, address := range []string{queue, queue + "/$management", queue + "/$DeadLetterQueue"} {
			r := dial(t, addr)
			r.begin(0)
			r.put(0, &amqp.Attach{Name: "x", Role: role, Source: &amqp.Source{Address: address}, Target: &amqp.Target{Address: address}})
			if d := wait[*amqp.Detach](r); d.Error == nil || d.Error.Condition != "amqp:unauthorized-access" {
				t.Errorf("%s: detached with %v", address, d.Error)
			}
		}
	}
}

func TestConnectionPausesForASlowReader(t *testing.T) {
	broker, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	for range 200 {
		must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, 200_000)}, nil))
	}
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.put(1, &amqp.Attach{Name: "slow", Handle: 0, Role: amqp.RoleReceiver, Source: &amqp.Source{Address: queue}, Target: &amqp.Target{}})
	wait[*amqp.Attach](r)
	credit := uint32(200)
	r.put(1, &amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 1 << 20, OutgoingWindow: 1, Handle: new(uint32), DeliveryCount: new(uint32),
		LinkCredit: &credit,
	})
	wait[*amqp.Transfer](r) // after this the client stops reading
	counts, err := broker.Counts(queue)
	must(t, err)
	// Only what fits into the buffers of the broker and the kernel is locked.
	if counts.Locked > 100 {
		t.Errorf("%d messages of 200 kB were sent to a client that does not read", counts.Locked)
	}
	// When the client reads again, it gets the rest.
	for got := 1; got < 200; {
		if p, _ := r.next(); p != nil {
			if transfer, ok := p.(*amqp.Transfer); ok && transfer.DeliveryID != nil {
				got++
			}
		}
	}
}

func TestConnectionRespectsTheSessionWindow(t *testing.T) {
	_, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	for range 10 {
		must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("x")}, nil))
	}
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.put(1, &amqp.Begin{IncomingWindow: 3, OutgoingWindow: 1})
	wait[*amqp.Begin](r)
	r.put(1, &amqp.Attach{Name: "narrow", Handle: 0, Role: amqp.RoleReceiver, Source: &amqp.Source{Address: queue}, Target: &amqp.Target{}})
	wait[*amqp.Attach](r)
	credit := uint32(10)
	flow := &amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 3, OutgoingWindow: 1, Handle: new(uint32), DeliveryCount: new(uint32),
		LinkCredit: &credit, Echo: true,
	}
	r.put(1, flow)
	transfers := func() (n int) {
		for {
			switch p, _ := r.next(); p.(type) {
			case *amqp.Transfer:
				n++
			case *amqp.Flow:
				return n
			}
		}
	}
	if n := transfers(); n != 3 {
		t.Errorf("%d transfers into a window of 3", n)
	}
	three := uint32(3)
	r.put(1, &amqp.Flow{NextIncomingID: &three, IncomingWindow: 100, OutgoingWindow: 1})
	for range 7 {
		wait[*amqp.Transfer](r)
	}
}

func TestConnectionSettlesOnlyOnAnOutcome(t *testing.T) {
	broker, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("x")}, nil))
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.put(1, &amqp.Attach{Name: "in", Handle: 0, Role: amqp.RoleReceiver, Source: &amqp.Source{Address: queue}, Target: &amqp.Target{}})
	wait[*amqp.Attach](r)
	credit := uint32(1)
	r.put(1, &amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 5000, OutgoingWindow: 1, Handle: new(uint32), DeliveryCount: new(uint32),
		LinkCredit: &credit,
	})
	wait[*amqp.Transfer](r)
	r.put(1, &amqp.Disposition{Role: amqp.RoleReceiver}) // without a state it is not an outcome
	r.put(1, &amqp.Flow{NextIncomingID: new(uint32), IncomingWindow: 5000, OutgoingWindow: 1, Echo: true})
	wait[*amqp.Flow](r)
	if counts, err := broker.Counts(queue); err != nil || counts.Locked != 1 {
		t.Errorf("%+v, %v: the message must still be locked", counts, err)
	}
	r.put(1, &amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.Accepted{}})
	if d := wait[*amqp.Disposition](r); d.State != (amqp.Accepted{}) {
		t.Errorf("settled with %v", d.State)
	}
	if counts, err := broker.Counts(queue); err != nil || counts.Active != 0 {
		t.Errorf("%+v, %v: the message must be gone", counts, err)
	}
}

func TestConnectionRejectsMalformedMessages(t *testing.T) {
	broker, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.put(1, &amqp.Attach{Name: "out", Handle: 0, Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}})
	wait[*amqp.Flow](r)
	for i, message := range [][]byte{
		{0, 0x53, 0x75, 0xa1, 1, 'x'},              // data that is a string
		{0, 0x53, 0x77, 0xc0, 9, 2, 0x40, 0xa1},    // a value that is cut off
		{0, 0x53, 0x74, 0xc1, 3, 2, 0xa1, 0x3f},    // application properties with an unknown type
		{0, 0x53, 0x73, 0x41, 0, 0x53, 0x75, 0xa0}, // properties that are a boolean
	} {
		id := uint32(i)
		r.put(1, &amqp.Transfer{DeliveryID: &id, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, message)
		if _, refused := wait[*amqp.Disposition](r).State.(amqp.Rejected); !refused {
			t.Errorf("%x was accepted", message)
		}
	}
	if counts, err := broker.Counts(queue); err != nil || counts.Active != 0 {
		t.Errorf("%+v, %v", counts, err)
	}
}

func TestConnectionDrainUsesUpTheCredit(t *testing.T) {
	_, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("x")}, nil))
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.put(1, &amqp.Attach{Name: "in", Handle: 0, Role: amqp.RoleReceiver, Source: &amqp.Source{Address: queue}, Target: &amqp.Target{}})
	wait[*amqp.Attach](r)
	credit := uint32(50)
	r.put(1, &amqp.Flow{
		NextIncomingID: new(uint32), IncomingWindow: 5000, OutgoingWindow: 1, Handle: new(uint32), DeliveryCount: new(uint32),
		LinkCredit: &credit, Drain: true,
	})
	wait[*amqp.Transfer](r)
	f := wait[*amqp.Flow](r)
	if !f.Drain || f.LinkCredit == nil || *f.LinkCredit != 0 || f.DeliveryCount == nil || *f.DeliveryCount != 50 || f.Handle == nil {
		t.Errorf("answer to a drain: %+v", f)
	}
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("y")}, nil))
	r.put(1, &amqp.Flow{NextIncomingID: new(uint32), IncomingWindow: 5000, OutgoingWindow: 1, Echo: true})
	if p, _ := r.next(); p != nil {
		if _, delivered := p.(*amqp.Transfer); delivered {
			t.Error("a message was delivered on credit that was drained")
		}
	}
}
