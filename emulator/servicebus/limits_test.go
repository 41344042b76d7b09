package servicebus_test

import (
	"runtime"
	"testing"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What concerns only a link or a session must end only that.

func TestLinkErrorsEndOnlyTheLink(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}, MaxMessageSize: 100_000})
	sender := func(r *raw) { r.sender(1, 5, queue) }
	first := &amqp.Transfer{Handle: 5, DeliveryID: new(uint32), DeliveryTag: []byte{1}, MessageFormat: new(uint32)}
	for name, c := range map[string]struct {
		want amqp.Symbol
		do   func(r *raw)
	}{
		"a handle above the maximum": {"amqp:resource-limit-exceeded", func(r *raw) {
			r.put(1, &amqp.Attach{Name: "x", Handle: 256, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}})
			r.put(1, &amqp.Transfer{Handle: 256, DeliveryID: new(uint32)}) // before the client knows
		}},
		"a transfer on a receiving link": {"amqp:not-allowed", func(r *raw) {
			r.receiver(1, 5, &amqp.Source{Address: queue})
			r.put(1, first)
		}},
		"a delivery without an id": {"amqp:invalid-field", func(r *raw) {
			sender(r)
			r.put(1, &amqp.Transfer{Handle: 5, DeliveryTag: []byte{1}}, data(1))
		}},
		"a message that is too large": {"amqp:link:message-size-exceeded", func(r *raw) {
			sender(r)
			large := *first
			large.More = true
			r.put(1, &large, make([]byte, 60_000))
			r.put(1, &amqp.Transfer{Handle: 5}, make([]byte, 60_000))
			r.put(1, &amqp.Transfer{Handle: 5}, make([]byte, 60_000)) // before the client knows
		}},
		"a transaction": {"amqp:not-implemented", func(r *raw) {
			r.put(1, &amqp.Attach{Name: "x", Handle: 5, Source: &amqp.Source{}, Target: &amqp.Target{Coordinator: true}})
		}},
		"a dynamic node": {"amqp:not-implemented", func(r *raw) {
			r.receiver(1, 5, &amqp.Source{Dynamic: true})
		}},
		"no target": {"amqp:invalid-field", func(r *raw) {
			r.put(1, &amqp.Attach{Name: "x", Handle: 5, Role: amqp.RoleReceiver, Source: &amqp.Source{}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := dial(t, addr)
			r.authorize(addr, queue)
			r.begin(1)
			r.sender(1, 1, queue)
			c.do(r)
			detach := wait[*amqp.Detach](r)
			if detach.Error == nil || detach.Error.Condition != c.want || !detach.Closed || detach.Error.Description == "" {
				t.Errorf("detached with %v, want %s", detach.Error, c.want)
			}
			r.put(1, &amqp.Detach{Handle: detach.Handle, Closed: true})
			if got := r.send(1, 1, 5000, data(1)); got != (amqp.Accepted{}) {
				t.Errorf("the other link of the session: %v", got)
			}
			if detach.Handle != 256 {
				r.sender(1, detach.Handle, queue) // the handle is free again
			}
		})
	}
}

func TestSessionErrorsEndOnlyTheSession(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	for name, c := range map[string]struct {
		want amqp.Symbol
		do   func(r *raw)
	}{
		"a handle in use": {"amqp:session:handle-in-use", func(r *raw) {
			r.begin(2)
			r.sender(2, 5, queue)
			r.put(2, &amqp.Attach{Name: "x", Handle: 5, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}})
			r.put(2, &amqp.Transfer{Handle: 5, DeliveryID: new(uint32)}, data(1)) // before the client knows
		}},
		"a transfer on no link": {"amqp:session:unattached-handle", func(r *raw) {
			r.begin(2)
			r.put(2, &amqp.Transfer{Handle: 5, DeliveryID: new(uint32)}, data(1))
		}},
		"a session twice": {"amqp:not-allowed", func(r *raw) { r.begin(2); r.put(2, &amqp.Begin{}) }},
		"a channel above the maximum": {"amqp:resource-limit-exceeded", func(r *raw) {
			r.put(1024, &amqp.Begin{IncomingWindow: 1, OutgoingWindow: 1})
			r.put(1024, &amqp.Attach{Name: "x", Source: &amqp.Source{}, Target: &amqp.Target{Address: queue}}) // before the client knows
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := dial(t, addr)
			r.authorize(addr, queue)
			r.begin(1)
			r.sender(1, 1, queue)
			c.do(r)
			if end := wait[*amqp.End](r); end.Error == nil || end.Error.Condition != c.want || end.Error.Description == "" {
				t.Errorf("ended with %v, want %s", end.Error, c.want)
			}
			if got := r.send(1, 1, 0, data(1)); got != (amqp.Accepted{}) {
				t.Errorf("the other session: %v", got)
			}
			if name != "a channel above the maximum" {
				r.put(2, &amqp.End{})
				r.begin(2) // the channel is free again
			}
		})
	}
}

func TestEndOfNoSessionEndsNothing(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, queue)
	r.begin(1)
	r.sender(1, 1, queue)
	r.put(2, &amqp.End{})
	r.put(2, &amqp.Detach{Handle: 1, Closed: true})
	if got := r.send(1, 1, 0, data(1)); got != (amqp.Accepted{}) {
		t.Errorf("the other session: %v", got)
	}
}

func TestConnectionAnnouncesItsLimits(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	if r.opened.ChannelMax != 1023 {
		t.Errorf("channel-max %d", r.opened.ChannelMax)
	}
	r.put(1023, &amqp.Begin{IncomingWindow: 5000, OutgoingWindow: 5000})
	begin := wait[*amqp.Begin](r)
	if begin.HandleMax != 255 {
		t.Errorf("handle-max %d", begin.HandleMax)
	}
	r.sender(1023, 255, "$cbs")
}

func TestConnectionBoundsUnfinishedTokens(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}, MaxMessageSize: 100 << 20})
	r := dial(t, addr)
	r.begin(0)
	for handle := range uint32(6) { // 1.2 MB together
		r.sender(0, handle, "$cbs")
		t := &amqp.Transfer{Handle: handle, More: true, DeliveryID: &handle}
		for range 4 {
			r.put(0, t, make([]byte, 50_000))
		}
	}
	if d := wait[*amqp.Detach](r); d.Handle != 5 || d.Error == nil || d.Error.Condition != "amqp:resource-limit-exceeded" {
		t.Errorf("detached %d with %v", d.Handle, d.Error)
	}
}

// TestConnectionBoundsUnfinishedMessages sends the first parts of a message on each of many links.
func TestConnectionBoundsUnfinishedMessages(t *testing.T) {
	_, client, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	r := dial(t, addr)
	r.authorize(addr, queue)
	channels, handles := uint16(2), uint32(200)
	for channel := range channels {
		r.begin(channel + 1)
		for handle := range handles {
			r.sender(channel+1, handle, queue)
		}
	}
	before := heap()
	for channel := range channels {
		for handle := range handles { // 96 MB together
			t := &amqp.Transfer{Handle: handle, More: true, DeliveryID: &handle, DeliveryTag: []byte{1}, MessageFormat: new(uint32)}
			for range 4 {
				r.put(channel+1, t, make([]byte, 60_000))
				t = &amqp.Transfer{Handle: handle, More: true}
			}
		}
	}
	if d := wait[*amqp.Detach](r); d.Error == nil || d.Error.Condition != "amqp:resource-limit-exceeded" {
		t.Errorf("detached with %v", d.Error)
	}
	if grown := heap() - before; grown > 160<<20 {
		t.Errorf("%d MB of memory for unfinished messages", grown>>20)
	}
	stillServes(t, client)
	runtime.KeepAlive(r)
}
