// Package servicebustest gives a test a Service Bus in three lines:
//
//	broker := servicebustest.Start(t, "orders")
//	client := broker.Client(t)
//	sender, err := client.NewSender("orders", nil)
//
// Nothing listens on a port, and everything ends with the test. It works inside a
// testing/synctest bubble too, where locks and times to live pass in virtual time.
package servicebustest

import (
	"context"
	"net"
	"slices"
	"testing"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// connectionString holds the key of every broker here. Its host is never resolved.
var connectionString = servicebus.SecureConnectionString("servicebustest.servicebus.windows.net", servicebus.DefaultKey)

// Broker is a broker that ends with its test.
type Broker struct {
	*servicebus.Broker
	queues []string // and subscriptions
}

// Start starts a broker with queues of these names.
func Start(t testing.TB, queues ...string) *Broker {
	t.Helper()
	var cfg servicebus.Config
	for _, name := range queues {
		cfg.Queues = append(cfg.Queues, servicebus.QueueConfig{Name: name})
	}
	return StartWith(t, cfg)
}

// StartWith starts a broker with any configuration: topics, sessions, short locks. Its keys must
// include servicebus.DefaultKey.
func StartWith(t testing.TB, cfg servicebus.Config) *Broker {
	t.Helper()
	broker, err := servicebus.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{Broker: broker}
	for _, q := range cfg.Queues {
		b.queues = append(b.queues, q.Name)
	}
	for _, topic := range cfg.Topics {
		for _, s := range topic.Subscriptions {
			b.queues = append(b.queues, topic.Name+"/Subscriptions/"+s.Name)
		}
	}
	t.Cleanup(func() { _ = broker.Close() })
	return b
}

// Client returns a client with servicebus.DefaultKey that is connected in memory. It is closed at
// the end of the test. It may be given options, whose NewWebSocketConn is replaced. Only the first
// of several counts.
func (b *Broker) Client(t testing.TB, options ...azservicebus.ClientOptions) *azservicebus.Client {
	t.Helper()
	var o azservicebus.ClientOptions
	if len(options) > 0 {
		o = options[0]
	}
	o.NewWebSocketConn = func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		return b.NewClientConn()
	}
	client, err := azservicebus.NewClientFromConnectionString(connectionString, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(context.Background()) })
	return client
}

// FailIfLocked makes the test fail if any message of the queues and subscriptions that the broker
// was started with is still locked at the end: if the tested code forgot to settle it. Call it
// before Client, so that it looks after the clients are closed: a message that was delivered only to
// a buffer of the client counts too. It does not find messages of sessions, because they are
// unlocked when the client that held the session closes.
func (b *Broker) FailIfLocked(t testing.TB) {
	t.Cleanup(func() {
		t.Helper()
		for _, name := range slices.Sorted(slices.Values(b.queues)) {
			counts, err := b.Counts(name)
			switch {
			case err != nil:
				t.Error(err)
			case counts.Locked > 0:
				t.Errorf("%s has %d locked messages at the end of the test: nobody settled them", name, counts.Locked)
			}
		}
	})
}
