package servicebus_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What clients other than Go's send.

func TestDeliveryMayRepeatItsIDInEveryFrame(t *testing.T) {
	broker, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.sender(1, 0, queue)
	for id := range uint32(3) {
		r.sendInFrames(1, 0, id, data(200_000), 30_000)
		if d := wait[*amqp.Disposition](r); d.First != id || d.State != (amqp.Accepted{}) {
			t.Errorf("delivery %d was settled as %d with %v", id, d.First, d.State)
		}
	}
	// An aborted delivery ends. The next one may even have the same id.
	four := uint32(4)
	r.put(1, &amqp.Transfer{DeliveryID: &four, DeliveryTag: []byte{1}, More: true}, data(100)[:50])
	r.put(1, &amqp.Transfer{DeliveryID: &four, Aborted: true})
	r.sendInFrames(1, 0, 4, data(5_000), 1000)
	if d := wait[*amqp.Disposition](r); d.State != (amqp.Accepted{}) {
		t.Errorf("after an aborted delivery: %v", d.State)
	}
	// go-amqp gives up without an end when its context ends, and goes on with the next id.
	five := uint32(5)
	r.put(1, &amqp.Transfer{DeliveryID: &five, DeliveryTag: []byte{1}, More: true}, data(100)[:50])
	r.sendInFrames(1, 0, 6, data(5_000), 1000)
	if d := wait[*amqp.Disposition](r); d.First != 6 || d.State != (amqp.Accepted{}) {
		t.Errorf("after an unfinished delivery: %d with %v", d.First, d.State)
	}
	if counts, err := broker.Counts(queue); err != nil || counts.Active != 5 || counts.Bytes < 610_000 || counts.Bytes > 612_000 {
		t.Errorf("%+v, %v", counts, err)
	}
	// Requests come in several frames too.
	r.sender(1, 1, queue+"/$management")
	r.receiver(1, 2, &amqp.Source{Address: queue + "/$management"})
	r.credit(1, 2, 10)
	r.sendInFrames(1, 1, 7, peekOne(t, "to-2", 20_000), 3_000)
	if d := wait[*amqp.Disposition](r); d.First != 7 || d.State != (amqp.Accepted{}) {
		t.Errorf("a request in several frames: %v", d.State)
	}
	wait[*amqp.Transfer](r)
}

func TestRequestIsSettledBeforeItsAnswer(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	for handle, node := range []string{queue + "/$management", "amqps://localhost/" + queue + "/$management"} {
		in, out := uint32(2*handle), uint32(2*handle+1)
		r.sender(1, out, node)
		r.receiver(1, in, &amqp.Source{Address: node})
		r.credit(1, in, 10)
		request := peekOne(t, fmt.Sprint("to-", in), 0)
		r.put(1, &amqp.Transfer{Handle: out, DeliveryID: &out, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}, request)
		var order []string
		for len(order) < 2 {
			switch p, _ := r.next(); p.(type) {
			case *amqp.Disposition:
				order = append(order, "disposition")
			case *amqp.Transfer:
				order = append(order, "answer")
			}
		}
		if order[0] != "disposition" {
			t.Errorf("%s: %v", node, order)
		}
	}
}

func TestAddressesMayBeAbsolute(t *testing.T) {
	broker, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "a queue/Of Mine"}}})
	for _, prefix := range []string{"amqp://" + addr + "/", "AMQPS://some.where/", "sb://some.where:5671/", "Sb://x/", "/", ""} {
		address, audience := prefix+"A queue/of mine", "sb://x/A%20queue/of%20mine" // which is always absolute
		if strings.Contains(prefix, "://") {
			address = prefix + "A%20queue/of%20mine"
			audience = address
		}
		r := dial(t, addr)
		r.begin(0)
		for _, audience := range []string{audience, "https://some.where/a%20queue/of%20mine"} {
			r.presentToken(audience)
		}
		r.begin(1)
		r.sender(1, 0, address)
		if got := r.send(1, 0, 0, data(1)); got != (amqp.Accepted{}) {
			t.Errorf("%s: %v", address, got)
		}
		answer := r.receiver(1, 1, &amqp.Source{Address: address})
		if answer.Source == nil || answer.Source.Address != address {
			t.Errorf("%s: the answer names %+v", address, answer.Source)
		}
	}
	if counts, _ := broker.Counts("A queue/Of Mine"); counts.Active != 6 {
		t.Errorf("%+v", counts)
	}
}

func TestTokenMayBeForTheWholeNamespace(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, "")
	r.begin(1)
	r.sender(1, 0, queue)
	if got := r.send(1, 0, 0, data(1)); got != (amqp.Accepted{}) {
		t.Error(got)
	}
}

func TestFooterMayComeBeforeTheBody(t *testing.T) {
	broker, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	footer, err := amqp.AppendMapSection(nil, amqp.SectionFooter, amqp.Map{{Key: amqp.Symbol("x-crc"), Value: int32(7)}})
	must(t, err)
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.sender(1, 0, queue)
	if got := r.send(1, 0, 0, append(footer, data(10)...)); got != (amqp.Accepted{}) {
		t.Errorf("settled with %v", got)
	}
	if _, refused := r.send(1, 0, 1, append(append(footer, data(10)...), footer...)).(amqp.Rejected); !refused {
		t.Error("two footers were accepted")
	}
	receiver, err := client.NewReceiverForQueue(queue, nil)
	must(t, err)
	m := receiveFrom(t, receiver, 1)[0]
	if len(m.Body) != 10 || m.RawAMQPMessage.Footer["x-crc"] != int32(7) {
		t.Errorf("received %d bytes with the footer %v", len(m.Body), m.RawAMQPMessage.Footer)
	}
	peeked, err := broker.Peek(queue, 0, 1)
	if err != nil || len(peeked) != 1 || len(peeked[0].Body) != 10 {
		t.Errorf("peeked %+v, %v", peeked, err)
	}
}

func TestAttachStatesOnlyWhatIsInEffect(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue}, {Name: "sessions", RequiresSession: true}},
	})
	r := dial(t, addr)
	r.authorize(addr, "")
	r.begin(1)
	selector := amqp.Pair{
		Key:   amqp.Symbol("apache.org:selector-filter:string"),
		Value: amqp.Described{Descriptor: uint64(0x0000468C00000004), Value: "color = 'red'"},
	}
	asked := &amqp.Source{
		Address: queue, Durable: 2, ExpiryPolicy: "never", Timeout: 60, DistributionMode: "copy", Filter: amqp.Map{selector},
		Outcomes:     []amqp.Symbol{"amqp:accepted:list", "amqp:declared:list"},
		Capabilities: []amqp.Symbol{"shared"},
	}
	got := r.receiver(1, 0, asked).Source
	if got.Durable != 0 || got.ExpiryPolicy != "" || got.Timeout != 0 || got.DistributionMode != "move" || len(got.Filter) != 0 ||
		len(got.Outcomes) != 1 || len(got.Capabilities) != 0 || got.Address != queue {
		t.Errorf("the source in effect: %+v", got)
	}
	asked.Address = "sessions"
	asked.Filter = append(asked.Filter, amqp.Pair{Key: amqp.Symbol("com.microsoft:session-filter"), Value: "s1"})
	got = r.receiver(1, 1, asked).Source
	if id, _ := got.Filter.Get("com.microsoft:session-filter"); id != "s1" || len(got.Filter) != 1 {
		t.Errorf("the filter in effect: %v", got.Filter)
	}
	r.put(1, &amqp.Attach{
		Name: "out", Handle: 2, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue, Durable: 2, ExpiryPolicy: "never"},
	})
	if target := wait[*amqp.Attach](r).Target; target.Durable != 0 || target.ExpiryPolicy != "" || target.Address != queue {
		t.Errorf("the target in effect: %+v", target)
	}
}

func TestSenderMayBeginWithAnyDeliveryCount(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	initial := uint32(1<<32 - 3)
	r.put(1, &amqp.Attach{
		Name: "out", Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}, InitialDeliveryCount: &initial,
	})
	if f := wait[*amqp.Flow](r); f.DeliveryCount == nil || *f.DeliveryCount != initial || *f.LinkCredit != 1000 {
		t.Errorf("%+v", f)
	}
}

func TestSASL(t *testing.T) {
	listen := servicebus.Key{Name: "listener", Value: "s3:cret=", Listen: true}
	_, _, addr := overTCP(t, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue}}, Keys: []servicebus.Key{servicebus.DefaultKey, listen},
	})
	for response, want := range map[string]uint8{
		"\x00listener\x00s3:cret=":   0,
		"me\x00listener\x00s3:cret=": 0,
		"\x00listener\x00s3:cret":    1,
		"\x00listener\x00":           1,
		"\x00nobody\x00":             1,
		"\x00nobody\x00s3:cret=":     1,
		"listener\x00s3:cret=":       1,
		"\x00\x00":                   1,
		"":                           1,
	} {
		r := connect(t, addr)
		if got := r.signIn("PLAIN", response); got != want {
			t.Errorf("PLAIN with %q: outcome %d, want %d", response, got, want)
		}
		if want != 0 {
			if _, err := r.conn.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "EOF") {
				t.Errorf("PLAIN with %q: %v, the connection must be closed", response, err)
			}
			continue
		}
		r.open(65536)
		r.begin(0)
		r.receiver(0, 0, &amqp.Source{Address: queue}) // without a token
		r.put(0, &amqp.Attach{Name: "out", Handle: 1, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}})
		if d := wait[*amqp.Detach](r); d.Error == nil || d.Error.Condition != "amqp:unauthorized-access" {
			t.Errorf("a key without the claim Send: %v", d.Error)
		}
	}
	for _, mechanism := range []amqp.Symbol{"EXTERNAL", "SCRAM-SHA-256", ""} {
		if got := connect(t, addr).signIn(mechanism, ""); got != 1 {
			t.Errorf("%s: outcome %d", mechanism, got)
		}
	}
	r := connect(t, addr)
	r.bytes(amqp.HeaderSASL[:])
	r.header(amqp.HeaderSASL)
	if got := fmt.Sprint(wait[*amqp.SASLMechanisms](r).Mechanisms); got != "[MSSBCBS PLAIN ANONYMOUS]" {
		t.Errorf("offered %s", got)
	}
}

func TestLargeMessagesPassInSmallFramesAndWindows(t *testing.T) {
	_, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}, MaxMessageSize: 100 << 20})
	const first, second = 2 << 20, 20 << 20 // the first needs several windows
	body := make([]byte, first)
	for i := range body {
		body[i] = byte(i * i >> 8)
	}
	sum := sha256.Sum256(body)
	r := connect(t, addr)
	r.signIn("ANONYMOUS", "")
	r.open(4096)
	r.authorize(addr, queue)
	r.begin(1)
	r.sender(1, 0, queue)
	r.sendInFrames(1, 0, 0, amqp.AppendData(nil, body), 4000)
	if d := wait[*amqp.Disposition](r); d.State != (amqp.Accepted{}) {
		t.Fatal(d.State)
	}
	r.receiver(1, 1, &amqp.Source{Address: queue})
	credit, handle, received := uint32(1), uint32(1), uint32(0)
	for more := true; more; { // 530 frames in windows of 100
		r.put(1, &amqp.Flow{
			NextIncomingID: &received, IncomingWindow: 100, OutgoingWindow: 1, Handle: &handle, DeliveryCount: new(uint32),
			LinkCredit: &credit,
		})
		for asked := false; !asked && more; {
			switch p, payload := r.next(); p := p.(type) {
			case *amqp.Transfer:
				more = p.More
				received++
				if len(payload) > 4096 {
					t.Fatalf("a frame of %d bytes", len(payload))
				}
			case *amqp.Flow:
				asked = p.Echo // the broker needs a new window
			}
		}
		if more && received%100 != 0 {
			t.Errorf("%d frames in windows of 100", received)
		}
	}
	r.put(1, &amqp.Disposition{Role: amqp.RoleReceiver, State: amqp.Released{}})
	wait[*amqp.Disposition](r)
	must(t, r.conn.Close())

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, second)}, nil))
	receiver, err := client.NewReceiverForQueue(queue, nil)
	must(t, err)
	for _, want := range []int{first, second} {
		m := receiveFrom(t, receiver, 1)[0]
		if got := sha256.Sum256(m.Body); len(m.Body) != want || want == first && !bytes.Equal(got[:], sum[:]) {
			t.Errorf("%d bytes with the digest %x", len(m.Body), got)
		}
		must(t, receiver.CompleteMessage(ctx, m, nil))
	}
}

// A broker that waits for a window must not be busy: the bubble would never be idle.
func TestConnectionIsIdleWhileTheWindowIsClosed(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{}, func(t *testing.T, b *bench) {
		must(t, b.sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, 10_000)}, nil))
		conn, err := b.broker.NewClientConn()
		must(t, err)
		defer conn.Close()
		r := newRaw(t, conn)
		r.signIn("PLAIN", "\x00"+servicebus.DefaultKey.Name+"\x00"+servicebus.DefaultKey.Value)
		r.open(4096)
		r.put(0, &amqp.Begin{IncomingWindow: 1, OutgoingWindow: 1})
		wait[*amqp.Begin](r)
		r.receiver(0, 0, &amqp.Source{Address: queue})
		credit := uint32(5)
		r.put(0, &amqp.Flow{
			NextIncomingID: new(uint32), IncomingWindow: 1, OutgoingWindow: 1, Handle: new(uint32), DeliveryCount: new(uint32),
			LinkCredit: &credit,
		})
		if part := wait[*amqp.Transfer](r); !part.More {
			t.Error("10,000 bytes in a frame of 4,096")
		}
		synctest.Wait()
		one := uint32(1)
		r.put(0, &amqp.Flow{NextIncomingID: &one, IncomingWindow: 100, OutgoingWindow: 1})
		for more := true; more; {
			more = wait[*amqp.Transfer](r).More
		}
	})
}
