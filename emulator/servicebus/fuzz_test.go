package servicebus

import (
	"io"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// FuzzConnection throws frames at a connection that is open and authorised, so that they reach sessions, links, requests and
// queues. Nothing may panic, and the connection must end when its peer goes.
func FuzzConnection(f *testing.F) {
	frame := func(p amqp.Performative, payload ...[]byte) []byte {
		b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, p, payload...)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	one, credit := uint32(1), uint32(100)
	body := amqp.AppendData(nil, []byte("x"))
	request, err := amqp.Properties{MessageID: "1", ReplyTo: "here"}.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, operation := range []string{"renew-lock", "peek-message", "receive-by-sequence-number", "update-disposition", "schedule-message", "cancel-scheduled-message"} {
		ask, _ := amqp.AppendMapSection(append([]byte(nil), request...), amqp.SectionApplicationProperties, amqp.Map{{Key: "operation", Value: "com.microsoft:" + operation}})
		ask, _ = amqp.AppendAMQPValue(ask, amqp.Map{
			{Key: "from-sequence-number", Value: int64(0)},
			{Key: "message-count", Value: int32(5)},
			{Key: "lock-tokens", Value: amqp.Array{amqp.UUID{}}},
			{Key: "sequence-numbers", Value: amqp.Array{int64(1)}},
			{Key: "disposition-status", Value: "completed"},
			{Key: "messages", Value: []any{amqp.Map{{Key: "message", Value: body}}}},
		})
		f.Add(frame(&amqp.Transfer{Handle: 2, DeliveryID: &one, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, ask))
	}
	f.Add(frame(&amqp.Transfer{Handle: 0, DeliveryID: &one, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, body))
	f.Add(frame(&amqp.Flow{NextIncomingID: new(uint32), IncomingWindow: 100, Handle: &one, DeliveryCount: new(uint32), LinkCredit: &credit, Drain: true}))
	f.Add(frame(&amqp.Disposition{Role: amqp.RoleReceiver, Last: &credit, State: amqp.Modified{UndeliverableHere: true}}))
	f.Add(append(frame(&amqp.Detach{Handle: 1, Closed: true}), frame(&amqp.Detach{Handle: 0})...))
	f.Add(append(frame(&amqp.End{}), frame(&amqp.Begin{})...))

	f.Fuzz(func(t *testing.T, attack []byte) {
		b, err := New(Config{Queues: []QueueConfig{{Name: "q"}}})
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		for range 3 {
			m, err := parseMessage(body, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.queues["q"].enqueue([]*message{m}); err != nil {
				t.Fatal(err)
			}
		}
		client, server := newPipe()
		c := b.admit(server)
		for _, path := range []string{"q", "q/$management", "q/$deadletterqueue"} {
			c.claims[path] = claim{listen: true, send: true, until: time.Now().Add(time.Hour)}
		}
		go c.serve()
		hello := append([]byte(nil), amqp.HeaderAMQP[:]...)
		hello = append(hello, frame(&amqp.Open{ContainerID: "f", MaxFrameSize: 65536})...)
		hello = append(hello, frame(&amqp.Begin{IncomingWindow: 100, OutgoingWindow: 100})...)
		for handle, a := range []amqp.Attach{
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "q"}},
			{Role: amqp.RoleReceiver, Source: &amqp.Source{Address: "q"}, Target: &amqp.Target{}},
			{Role: amqp.RoleSender, Source: &amqp.Source{}, Target: &amqp.Target{Address: "q/$management"}},
			{Role: amqp.RoleReceiver, Source: &amqp.Source{Address: "q/$management"}, Target: &amqp.Target{Address: "here"}},
		} {
			a.Name, a.Handle = string(rune('a'+handle)), uint32(handle)
			hello = append(hello, frame(&a)...)
		}
		for _, handle := range []uint32{1, 3} {
			hello = append(hello, frame(&amqp.Flow{NextIncomingID: new(uint32), IncomingWindow: 100, Handle: &handle, DeliveryCount: new(uint32), LinkCredit: &credit})...)
		}
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = client.Write(append(hello, attack...))
		_ = client.Close()
	})
}
