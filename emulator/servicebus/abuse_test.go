package servicebus_test

import (
	"bytes"
	"net"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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
	must(t, conn.SetDeadline(time.Now().Add(5*time.Minute)))
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

func TestInjectRefusesDeadLetterQueues(t *testing.T) {
	b := newBroker(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	for _, part := range []string{"/$DeadLetterQueue", "/$Transfer/$DeadLetterQueue"} {
		if err := b.Inject(queue+part, data(1)); err == nil {
			t.Errorf("a message was sent to %s", part)
		}
	}
}
