package servicebus_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// A test needs no port: the real client can connect in memory. The host of its connection string
// does not matter then.
func Example() {
	ctx := context.Background()
	broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "orders"}}})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = broker.Close() }()

	client, err := azservicebus.NewClientFromConnectionString(
		"Endpoint=sb://memory/;SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE",
		&azservicebus.ClientOptions{
			NewWebSocketConn: func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
				return broker.NewClientConn()
			},
		})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = client.Close(ctx) }()

	sender, err := client.NewSender("orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("two lemons")}, nil); err != nil {
		log.Fatal(err)
	}

	receiver, err := client.NewReceiverForQueue("orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	messages, err := receiver.ReceiveMessages(ctx, 1, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("received %q, delivery %d\n", messages[0].Body, messages[0].DeliveryCount)
	counts, _ := broker.Counts("orders")
	fmt.Printf("%d active, of which %d locked\n", counts.Active, counts.Locked)

	if err := receiver.CompleteMessage(ctx, messages[0], nil); err != nil {
		log.Fatal(err)
	}
	counts, _ = broker.Counts("orders")
	fmt.Printf("%d active\n", counts.Active)

	// Output:
	// received "two lemons", delivery 1
	// 1 active, of which 1 locked
	// 0 active
}

// Over TCP, SDKs of any language connect with the connection string of Microsoft's emulator.
func ExampleBroker_Serve() {
	ctx := context.Background()
	broker, err := servicebus.New(servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: "orders", LockDuration: time.Minute, MaxDeliveryCount: 1}},
	})
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- broker.Serve(listener) }()

	connectionString := servicebus.ConnectionString(listener.Addr().String(), servicebus.DefaultKey)
	client, err := azservicebus.NewClientFromConnectionString(connectionString, nil)
	if err != nil {
		log.Fatal(err)
	}
	sender, err := client.NewSender("orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("two lemons")}, nil); err != nil {
		log.Fatal(err)
	}
	receiver, err := client.NewReceiverForQueue("orders", nil)
	if err != nil {
		log.Fatal(err)
	}
	messages, err := receiver.ReceiveMessages(ctx, 1, nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := receiver.AbandonMessage(ctx, messages[0], nil); err != nil {
		log.Fatal(err)
	}

	// A test can look into a queue without a client.
	dead, err := broker.Peek("orders/$DeadLetterQueue", 0, 10)
	if err != nil {
		log.Fatal(err)
	}
	for _, m := range dead {
		fmt.Printf("%s: %s\n", m.Body, m.DeadLetterReason)
	}

	_ = client.Close(ctx)
	_ = broker.Close()
	fmt.Println(<-served)

	// Output:
	// two lemons: MaxDeliveryCountExceeded
	// <nil>
}

// Observe gets every change of a message's state.
func ExampleConfig_observe() {
	broker, err := servicebus.New(servicebus.Config{
		Topics: []servicebus.TopicConfig{{
			QueueConfig:   servicebus.QueueConfig{Name: "events"},
			Subscriptions: []servicebus.SubscriptionConfig{{QueueConfig: servicebus.QueueConfig{Name: "audit"}}},
		}},
		Observe: func(r servicebus.Record) { fmt.Println(r.Queue, r.Event) },
	})
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = broker.Close() }()
	// An encoded message: one data section of five bytes.
	if err := broker.Inject("events", []byte("\x00\x53\x75\xa0\x05hello")); err != nil {
		log.Fatal(err)
	}
	// Output:
	// events enqueued
	// events forwarded
	// events/Subscriptions/audit enqueued
}
