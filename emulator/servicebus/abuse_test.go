package servicebus_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
)

// What clients without rights, or with few, cannot do.

// inMemory is dial over a connection in memory, without a token.
func inMemory(t *testing.T, b *servicebus.Broker) *raw {
	t.Helper()
	conn, err := b.NewClientConn()
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	must(t, conn.SetDeadline(time.Now().Add(patience)))
	r := newRaw(t, conn)
	if outcome := r.signIn("ANONYMOUS", ""); outcome != 0 {
		t.Fatalf("outcome %d", outcome)
	}
	r.open(65536)
	return r
}

// newBroker returns a broker that a test closes when it ends.
func newBroker(t *testing.T, cfg servicebus.Config) *servicebus.Broker {
	t.Helper()
	b, err := servicebus.New(cfg)
	must(t, err)
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// flaky is a listener that has no file descriptors for its first connections.
type flaky struct {
	net.Listener
	failures int
}

func (l *flaky) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: syscall.EMFILE}
	}
	return l.Listener.Accept()
}

func TestServeOutlivesAShortageOfFiles(t *testing.T) {
	b := newBroker(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- b.Serve(&flaky{l, 2}) }()
	dial(t, l.Addr().String())
	must(t, b.Close())
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestConnectionWithoutATokenHasALimitedBacklog(t *testing.T) {
	r := inMemory(t, newBroker(t, servicebus.Config{}))
	r.begin(0)
	echo, err := amqp.AppendFrame(nil, amqp.TypeAMQP, 0, &amqp.Flow{NextIncomingID: new(uint32), Echo: true})
	must(t, err)
	many := bytes.Repeat(echo, 1000)
	for sent := 0; sent < 8<<20; sent += len(many) { // and reads nothing
		if _, err = r.conn.Write(many); err != nil {
			return
		}
	}
	t.Error("the broker keeps 8 MiB of answers for a client that has not signed in")
}

func TestConnectionWithoutATokenHasFewLinks(t *testing.T) {
	r := inMemory(t, newBroker(t, servicebus.Config{}))
	go func() { // ends with the connection
		for channel := range uint16(10) {
			for handle := range uint32(256) {
				b, err := amqp.AppendFrame(nil, amqp.TypeAMQP, channel, &amqp.Attach{
					Name: strings.Repeat("x", 10_000), Handle: handle, Source: &amqp.Source{}, Target: &amqp.Target{Address: queue},
				})
				if handle == 0 {
					begin, _ := amqp.AppendFrame(nil, amqp.TypeAMQP, channel, &amqp.Begin{IncomingWindow: 1, OutgoingWindow: 1})
					b = append(begin, b...)
				}
				if err != nil {
					return
				}
				if _, err = r.conn.Write(b); err != nil {
					return
				}
			}
		}
	}()
	for range 2000 {
		p, _ := r.next()
		if end, ok := p.(*amqp.Close); ok {
			if end.Error == nil || end.Error.Condition != "amqp:unauthorized-access" {
				t.Errorf("closed with %v", end.Error)
			}
			return
		}
	}
	t.Error("a client that has not signed in has any number of links")
}

func TestConnectionWithoutATokenEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := inMemory(t, newBroker(t, servicebus.Config{}))
		stop := make(chan struct{})
		go func() { // ends with the connection
			defer close(stop)
			for {
				if _, err := r.conn.Write([]byte{0, 0, 0, 8, 2, 0, 0, 0}); err != nil { // a keep-alive
					return
				}
				time.Sleep(10 * time.Second)
			}
		}()
		start := time.Now()
		closing := wait[*amqp.Close](r)
		if closing.Error == nil || closing.Error.Condition != "amqp:unauthorized-access" {
			t.Errorf("closed with %v", closing.Error)
		}
		if lasted := time.Since(start); lasted > 2*time.Minute {
			t.Errorf("it lasted %s", lasted)
		}
		_ = r.conn.Close()
		<-stop
	})
}

func TestDetachedReceiverThatWaitsForASessionGetsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBroker(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue, RequiresSession: true}}})
		r := inMemory(t, b)
		r.authorize("host", queue)
		r.begin(1)
		r.put(1, &amqp.Attach{
			Name: "waits", Role: amqp.RoleReceiver, Target: &amqp.Target{Address: "me"},
			Source: &amqp.Source{Address: queue, Filter: amqp.Map{{Key: amqp.Symbol("com.microsoft:session-filter"), Value: nil}}},
		})
		synctest.Wait()
		must(t, b.DetachLinks(queue))
		p, _ := r.next()
		if attach, ok := p.(*amqp.Attach); !ok || attach.Source != nil {
			t.Fatalf("%#v in place of the refusal of the attach", p)
		}
		if detach := wait[*amqp.Detach](r); detach.Error == nil || detach.Error.Condition != "amqp:link:detach-forced" {
			t.Errorf("detached with %v", detach.Error)
		}
		client := newClient(t, b)
		defer client.Close(context.Background())
		sender, err := client.NewSender(queue, nil)
		must(t, err)
		must(t, sender.SendMessage(ctx, in("ada", "a1"), nil))
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := client.AcceptNextSessionForQueue(short, queue, nil); err != nil {
			t.Errorf("the session went to the receiver that is detached: %v", err)
		}
	})
}

// ask sends one request to a node on a channel of its own, and returns its answer.
func (r *raw) ask(channel uint16, node, operation string, body amqp.Map) []byte {
	r.t.Helper()
	r.begin(channel)
	r.sender(channel, 0, node)
	r.receiver(channel, 1, &amqp.Source{Address: node})
	r.credit(channel, 1, 1)
	message, err := amqp.Properties{MessageID: "1"}.Append(nil)
	must(r.t, err)
	message, err = amqp.AppendMapSection(message, amqp.SectionApplicationProperties, amqp.Map{{Key: "operation", Value: operation}})
	must(r.t, err)
	message, err = amqp.AppendAMQPValue(message, body)
	must(r.t, err)
	r.put(channel, &amqp.Transfer{DeliveryID: new(uint32), DeliveryTag: []byte{1}, MessageFormat: new(uint32), Settled: true}, message)
	for {
		if p, payload := r.next(); p != nil {
			if _, answer := p.(*amqp.Transfer); answer {
				return payload
			}
		}
	}
}

func TestSessionOfAnotherConnectionCannotBeUsed(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		holder := b.accept("ada")
		must(t, holder.SetSessionState(ctx, []byte("secret"), nil))
		r := inMemory(t, b.broker)
		r.authorize("host", queue)
		for i, operation := range []string{"renew-session-lock", "get-session-state", "set-session-state"} {
			answer := r.ask(uint16(i+1), queue+"/$management", "com.microsoft:"+operation, amqp.Map{
				{Key: "session-id", Value: "ada"}, {Key: "session-state", Value: []byte("forged")},
			})
			if !bytes.Contains(answer, []byte("session-lock-lost")) {
				t.Errorf("%s: %q", operation, answer)
			}
		}
		if state, err := holder.GetSessionState(ctx, nil); err != nil || string(state) != "secret" {
			t.Errorf("state %q, %v", state, err)
		}
		must(t, holder.RenewSessionLock(ctx, nil))
	})
}

func TestIDsOfMessagesAndSessionsAreLimited(t *testing.T) {
	inSessions(t, func(t *testing.T, b *topics) {
		for name, c := range map[string]struct {
			m    *azservicebus.Message
			fits bool
		}{
			"a message id of 128 characters": {in("ada", strings.Repeat("é", 128)), true},
			"a message id of 129 characters": {in("ada", strings.Repeat("é", 129)), false},
			"a session id of 128 characters": {in(strings.Repeat("é", 128), "x"), true},
			"a session id of 129 characters": {in(strings.Repeat("é", 129), "y"), false},
		} {
			sender, err := b.client.NewSender(queue, nil)
			must(t, err)
			short, cancel := context.WithTimeout(ctx, time.Second)
			if err := sender.SendMessage(short, c.m, nil); (err == nil) != c.fits {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
			must(t, sender.Close(ctx))
		}
	})
}

func TestMessagesThatCannotBeForwardedCountTowardsTheSize(t *testing.T) {
	inTopics(t, servicebus.Config{Queues: []servicebus.QueueConfig{
		{Name: "from", ForwardTo: "full", MaxBytes: 10_000}, {Name: "full", MaxBytes: 1},
	}}, func(t *testing.T, b *topics) {
		sender, err := b.client.NewSender("from", nil)
		must(t, err)
		for range 20 {
			short, cancel := context.WithTimeout(ctx, time.Second)
			err = sender.SendMessage(short, &azservicebus.Message{Body: make([]byte, 1000)}, nil)
			cancel()
		}
		if err == nil {
			t.Error("the transfer dead-letter queue holds any number of messages")
		}
	})
}

func TestSessionStatesCountTowardsTheSize(t *testing.T) {
	inTopics(t, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue, RequiresSession: true, MaxBytes: 1000}},
	}, func(t *testing.T, b *topics) {
		r := b.accept("ada")
		must(t, r.SetSessionState(ctx, make([]byte, 900), nil))
		must(t, r.SetSessionState(ctx, make([]byte, 800), nil))
		if err := r.SetSessionState(ctx, make([]byte, 1100), nil); err == nil {
			t.Error("the state is larger than the queue")
		}
		must(t, r.SetSessionState(ctx, nil, nil))
	})
}

func TestPropertiesThatSettlementsAddAreLimited(t *testing.T) {
	inBubble(t, servicebus.QueueConfig{MaxDeliveryCount: 1000}, func(t *testing.T, b *bench) {
		b.send("a")
		var err error
		for i := range 100 {
			m := b.receive(1)[0]
			if err = b.receiver.AbandonMessage(ctx, m, &azservicebus.AbandonMessageOptions{
				PropertiesToModify: map[string]any{fmt.Sprint("key", i): strings.Repeat("x", 10_000)},
			}); err != nil {
				must(t, b.receiver.CompleteMessage(ctx, m, nil)) // it is still locked
				return
			}
		}
		t.Error("a receiver adds any number of properties")
	})
}

func TestInjectRefusesDeadLetterQueues(t *testing.T) {
	b := newBroker(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	for _, part := range []string{"/$DeadLetterQueue", "/$Transfer/$DeadLetterQueue"} {
		if err := b.Inject(queue+part, data(1)); err == nil {
			t.Errorf("a message was sent to %s", part)
		}
	}
}

func TestTokensThatExpireEndTheirLinksAmongManyOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}}
		for i := range 1100 {
			cfg.Queues = append(cfg.Queues, servicebus.QueueConfig{Name: fmt.Sprint("other", i)})
		}
		r := inMemory(t, newBroker(t, cfg))
		must(t, r.conn.SetDeadline(time.Now().Add(3*time.Hour)))
		r.authorize("host", queue)
		r.begin(1)
		r.receiver(1, 0, &amqp.Source{Address: queue})
		for i := range 1100 {
			r.presentToken(fmt.Sprint("amqp://host/other", i))
		}
		for range 61 {
			time.Sleep(time.Minute)
			r.put(1, &amqp.Flow{NextIncomingID: new(uint32), IncomingWindow: 5000, Echo: true})
			for {
				p, _ := r.next()
				if detach, ok := p.(*amqp.Detach); ok {
					if detach.Error == nil || detach.Error.Condition != "amqp:unauthorized-access" {
						t.Errorf("detached with %v", detach.Error)
					}
					return
				}
				if _, ok := p.(*amqp.Flow); ok {
					break
				}
			}
		}
		t.Error("the link outlives its token")
	})
}

func TestAdminForwardsOnlyWhereTheTokensMaySend(t *testing.T) {
	b := newBroker(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "mine"}, {Name: "theirs"}}})
	put := func(property, header, audience string) int {
		body := `<entry xmlns="http://www.w3.org/2005/Atom"><content type="application/xml">` +
			`<QueueDescription xmlns="http://schemas.microsoft.com/netservices/2010/10/servicebus/connect">` +
			"<" + property + ">theirs</" + property + "></QueueDescription></content></entry>"
		r := httptest.NewRequest(http.MethodPut, "/mine", strings.NewReader(body))
		r.Header.Set("Authorization", sign("https://host/mine", time.Now().Add(time.Hour)))
		r.Header.Set("If-Match", "*")
		if header != "" {
			r.Header.Set(header, sign(audience, time.Now().Add(time.Hour)))
		}
		w := httptest.NewRecorder()
		b.Admin().ServeHTTP(w, r)
		return w.Code
	}
	for property, header := range map[string]string{
		"ForwardTo":                     "ServiceBusSupplementaryAuthorization",
		"ForwardDeadLetteredMessagesTo": "ServiceBusDlqSupplementaryAuthorization",
	} {
		if code := put(property, "", ""); code != http.StatusUnauthorized {
			t.Errorf("%s without a token for the target: %d", property, code)
		}
		if code := put(property, header, "https://host/mine"); code != http.StatusUnauthorized {
			t.Errorf("%s with a token for another entity: %d", property, code)
		}
		if code := put(property, header, "https://host/theirs"); code != http.StatusOK {
			t.Errorf("%s with a token for the target: %d", property, code)
		}
	}
}
