package servicebustest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/emulator/servicebus/servicebustest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// t stands for the parameter of a test.
var t = &example{}

func Example() {
	broker := servicebustest.Start(t, "orders")
	client := broker.Client(t)
	sender, _ := client.NewSender("orders", nil)

	_ = sender.SendMessage(context.Background(), &azservicebus.Message{Body: []byte("two lemons")}, nil)
	counts, _ := broker.Counts("orders")
	fmt.Println(counts.Active)
	t.end()
	// Output: 1
}

func send(t testing.TB, client *azservicebus.Client, queue, body string) {
	t.Helper()
	sender, err := client.NewSender(queue, nil)
	if err == nil {
		err = sender.SendMessage(context.Background(), &azservicebus.Message{Body: []byte(body)}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func receive(t testing.TB, client *azservicebus.Client, queue string) (*azservicebus.Receiver, *azservicebus.ReceivedMessage) {
	t.Helper()
	receiver, err := client.NewReceiverForQueue(queue, nil)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := receiver.ReceiveMessages(context.Background(), 1, nil)
	if err != nil || len(messages) != 1 {
		t.Fatalf("received %d messages, %v", len(messages), err)
	}
	return receiver, messages[0]
}

func TestBrokerWorksInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broker := servicebustest.StartWith(t, servicebus.Config{
			Queues: []servicebus.QueueConfig{{Name: "orders", LockDuration: time.Minute}},
		})
		client := broker.Client(t)
		send(t, client, "orders", "x")
		receive(t, client, "orders")
		time.Sleep(61 * time.Second) // the lock expires
		receiver, again := receive(t, client, "orders")
		if again.DeliveryCount != 2 {
			t.Errorf("delivery %d, want 2", again.DeliveryCount)
		}
		if err := receiver.CompleteMessage(t.Context(), again, nil); err != nil {
			t.Error(err)
		}
	})
}

func TestBrokerFindsMessagesThatNobodySettled(t *testing.T) {
	for _, settled := range []bool{true, false} {
		inner := &example{}
		broker := servicebustest.Start(inner, "orders", "idle")
		broker.FailIfLocked(inner)
		client := broker.Client(inner)
		send(t, client, "orders", "x")
		receiver, message := receive(t, client, "orders")
		if settled {
			if err := receiver.CompleteMessage(t.Context(), message, nil); err != nil {
				t.Fatal(err)
			}
		}
		inner.end()
		if found := strings.Contains(inner.said, "orders has 1 locked"); found == settled {
			t.Errorf("settled %v: the test says %q", settled, inner.said)
		}
	}
}

func TestBrokerFindsMessagesOfSubscriptionsThatNobodySettled(t *testing.T) {
	inner := &example{}
	broker := servicebustest.StartWith(inner, servicebus.Config{Topics: []servicebus.TopicConfig{{
		QueueConfig:   servicebus.QueueConfig{Name: "prices"},
		Subscriptions: []servicebus.SubscriptionConfig{{QueueConfig: servicebus.QueueConfig{Name: "billing"}}},
	}}})
	broker.FailIfLocked(inner)
	client := broker.Client(inner)
	send(t, client, "prices", "x")
	receiver, err := client.NewReceiverForSubscription("prices", "billing", nil)
	if err != nil {
		t.Fatal(err)
	}
	if messages, err := receiver.ReceiveMessages(t.Context(), 1, nil); err != nil || len(messages) != 1 {
		t.Fatalf("received %d messages, %v", len(messages), err)
	}
	inner.end()
	if !strings.Contains(inner.said, "prices/Subscriptions/billing has 1 locked") {
		t.Errorf("the test says %q", inner.said)
	}
}

// example is a test that does not end by itself.
type example struct {
	testing.TB
	cleanups []func()
	said     string
}

func (e *example) Helper()                   {}
func (e *example) Cleanup(f func())          { e.cleanups = append(e.cleanups, f) }
func (e *example) Fatal(args ...any)         { panic(fmt.Sprint(args...)) }
func (e *example) Error(args ...any)         { e.said += fmt.Sprintln(args...) }
func (e *example) Errorf(f string, a ...any) { e.said += fmt.Sprintf(f+"\n", a...) }

func (e *example) end() {
	for len(e.cleanups) > 0 {
		last := len(e.cleanups) - 1
		f := e.cleanups[last]
		e.cleanups = e.cleanups[:last]
		f()
	}
}
