package servicebus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const queue = "orders"

// patience is how long a test waits for what must come, on a machine that may be busy.
const patience = 5 * time.Minute

// bench is a broker with one queue and the real client connected to it.
type bench struct {
	t        *testing.T
	broker   *servicebus.Broker
	client   *azservicebus.Client
	sender   *azservicebus.Sender
	receiver *azservicebus.Receiver
	records  *[]servicebus.Record
}

// inBubble runs a scenario in virtual time, over connections in memory.
func inBubble(t *testing.T, cfg servicebus.QueueConfig, scenario func(t *testing.T, b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		var records []servicebus.Record // the queue's lock orders the appends; read them only while the bubble is idle
		cfg.Name = queue
		broker, err := servicebus.New(servicebus.Config{
			Queues: []servicebus.QueueConfig{cfg}, MaxMessageSize: 4 << 20,
			Observe: func(r servicebus.Record) { records = append(records, r) },
		})
		must(t, err)
		client := newClient(t, broker)
		b := &bench{t: t, broker: broker, client: client, records: &records}
		t.Cleanup(func() {
			_ = client.Close(context.Background())
			_ = broker.Close()
			synctest.Wait()
		})
		b.sender, err = client.NewSender(queue, nil)
		must(t, err)
		b.receiver, err = client.NewReceiverForQueue(queue, nil)
		must(t, err)
		scenario(t, b)
	})
}

// newClient returns a client whose connections stay in memory.
func newClient(t testing.TB, broker *servicebus.Broker) *azservicebus.Client {
	t.Helper()
	client, err := azservicebus.NewClientFromConnectionString(bubble.ConnectionString,
		&azservicebus.ClientOptions{NewWebSocketConn: bubble.DialBroker(broker)})
	must(t, err)
	return client
}

// overTCP returns a broker that listens on a port, and the real client connected to it.
func overTCP(t testing.TB, cfg servicebus.Config) (*servicebus.Broker, *azservicebus.Client, string) {
	t.Helper()
	broker, err := servicebus.New(cfg)
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	served := make(chan error, 1)
	go func() { served <- broker.Serve(l) }()
	client, err := azservicebus.NewClientFromConnectionString(servicebus.ConnectionString(l.Addr().String(), servicebus.DefaultKey), nil)
	must(t, err)
	t.Cleanup(func() {
		_ = client.Close(context.Background())
		_ = broker.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return broker, client, l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) send(bodies ...string) {
	b.t.Helper()
	for _, body := range bodies {
		must(b.t, b.sender.SendMessage(context.Background(), &azservicebus.Message{MessageID: &body, Body: []byte(body)}, nil))
	}
}

// receive receives exactly n messages.
func (b *bench) receive(n int) []*azservicebus.ReceivedMessage {
	b.t.Helper()
	return receiveFrom(b.t, b.receiver, n)
}

func receiveFrom(t testing.TB, r *azservicebus.Receiver, n int) []*azservicebus.ReceivedMessage {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var all []*azservicebus.ReceivedMessage
	for len(all) < n {
		messages, err := r.ReceiveMessages(ctx, n-len(all), nil)
		if err != nil {
			t.Fatalf("received %d of %d: %v", len(all), n, err)
		}
		all = append(all, messages...)
	}
	return all
}

// nothing fails if a message arrives within this time.
func (b *bench) nothing(r *azservicebus.Receiver, within time.Duration) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	messages, err := r.ReceiveMessages(ctx, 1, nil)
	if len(messages) > 0 {
		b.t.Fatalf("received %q", messages[0].Body)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		b.t.Fatal(err)
	}
}

func (b *bench) deadLetters() *azservicebus.Receiver {
	b.t.Helper()
	r, err := b.client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
	must(b.t, err)
	return r
}

func (b *bench) counts() servicebus.Counts {
	b.t.Helper()
	counts, err := b.broker.Counts(queue)
	must(b.t, err)
	counts.Bytes = 0
	return counts
}

func (b *bench) wantCounts(want servicebus.Counts) {
	b.t.Helper()
	if got := b.counts(); got != want {
		b.t.Errorf("counts %+v, want %+v", got, want)
	}
}

// wantCode fails unless err is the SDK's error with this code.
func wantCode(t testing.TB, err error, code azservicebus.Code) {
	t.Helper()
	var sb *azservicebus.Error
	if !errors.As(err, &sb) || sb.Code != code {
		t.Errorf("error %v, want code %s", err, code)
	}
}

func bodies(messages []*azservicebus.ReceivedMessage) string {
	var list []string
	for _, m := range messages {
		list = append(list, string(m.Body))
	}
	return fmt.Sprint(list)
}
