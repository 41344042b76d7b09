package servicebus_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/go-amqp"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// impatient makes the client fail at once, without retries.
var impatient = &azservicebus.ClientOptions{RetryOptions: azservicebus.RetryOptions{MaxRetries: -1}}

func clientWith(t *testing.T, connectionString string) *azservicebus.Client {
	t.Helper()
	client, err := azservicebus.NewClientFromConnectionString(connectionString, impatient)
	must(t, err)
	t.Cleanup(func() { _ = client.Close(ctx) })
	return client
}

func TestEntityNotFound(t *testing.T) {
	_, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	sender, err := client.NewSender("elsewhere", nil)
	must(t, err)
	wantCode(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil), azservicebus.CodeNotFound)
	receiver, err := client.NewReceiverForQueue("elsewhere", nil)
	must(t, err)
	_, err = receiver.ReceiveMessages(ctx, 1, nil)
	wantCode(t, err, azservicebus.CodeNotFound)
	_, err = receiver.PeekMessages(ctx, 1, nil)
	wantCode(t, err, azservicebus.CodeNotFound)
}

func TestEntityNamesIgnoreCaseAndMayContainSlashes(t *testing.T) {
	_, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: "Security/Events"}}})
	sender, err := client.NewSender("security/EVENTS", nil)
	must(t, err)
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("x")}, nil))
	receiver, err := client.NewReceiverForQueue("SECURITY/events", nil)
	must(t, err)
	if got := bodies(receiveFrom(t, receiver, 1)); got != "[x]" {
		t.Errorf("received %s", got)
	}
}

func TestKeyClaims(t *testing.T) {
	sendOnly := servicebus.Key{Name: "producer", Value: "p", Send: true}
	listenOnly := servicebus.Key{Name: "worker", Value: "w", Listen: true}
	_, _, addr := overTCP(t, servicebus.Config{
		Queues: []servicebus.QueueConfig{{Name: queue}}, Keys: []servicebus.Key{servicebus.DefaultKey, sendOnly, listenOnly},
	})
	send := func(key servicebus.Key) error {
		sender, err := clientWith(t, servicebus.ConnectionString(addr, key)).NewSender(queue, nil)
		must(t, err)
		return sender.SendMessage(ctx, &azservicebus.Message{}, nil)
	}
	peek := func(key servicebus.Key) error {
		receiver, err := clientWith(t, servicebus.ConnectionString(addr, key)).NewReceiverForQueue(queue, nil)
		must(t, err)
		_, err = receiver.PeekMessages(ctx, 1, nil)
		return err
	}
	must(t, send(sendOnly))
	must(t, peek(listenOnly))
	err := send(listenOnly)
	wantCode(t, err, azservicebus.CodeUnauthorizedAccess)
	if err == nil || !strings.Contains(err.Error(), "'Send' claim(s) are required to perform this operation") {
		t.Errorf("the error does not name the claim: %v", err)
	}
	err = peek(sendOnly)
	wantCode(t, err, azservicebus.CodeUnauthorizedAccess)
	if err == nil || !strings.Contains(err.Error(), "'Listen' claim(s) are required to perform this operation") {
		t.Errorf("the error does not name the claim: %v", err)
	}
	for _, wrong := range []servicebus.Key{{Name: "producer", Value: "guess"}, {Name: "nobody", Value: "p"}} {
		wantCode(t, send(wrong), azservicebus.CodeUnauthorizedAccess)
	}
}

func TestKeySignaturesThatDoNotApplyAreRefused(t *testing.T) {
	_, _, addr := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}, {Name: "other"}}})
	use := func(signature string) error {
		sender, err := clientWith(
			t, "Endpoint=sb://"+addr+";SharedAccessSignature="+signature+";UseDevelopmentEmulator=true",
		).NewSender(queue, nil)
		must(t, err)
		return sender.SendMessage(ctx, &azservicebus.Message{}, nil)
	}
	must(t, use(sign("amqp://"+addr+"/"+queue, time.Now().Add(time.Hour))))
	must(t, use(sign("amqp://"+addr, time.Now().Add(time.Hour)))) // the whole namespace
	must(t, use(sign(addr, time.Now().Add(time.Hour))))           // the same without a scheme
	for name, signature := range map[string]string{
		"expired":         sign("amqp://"+addr+"/"+queue, time.Now().Add(-time.Minute)),
		"for another one": sign("amqp://"+addr+"/other", time.Now().Add(time.Hour)),
		"for a prefix":    sign("amqp://"+addr+"/ord", time.Now().Add(time.Hour)),
		"tampered":        strings.Replace(sign("amqp://"+addr+"/other", time.Now().Add(time.Hour)), "other", queue, 1),
	} {
		err := use(signature)
		wantCode(t, err, azservicebus.CodeUnauthorizedAccess)
		if name == "expired" && (err == nil || !strings.Contains(err.Error(), "ExpiredToken")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestConnectionRefusesTooLargeMessages(t *testing.T) {
	_, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}, MaxMessageSize: 10_000})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	err = sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, 20_000)}, nil)
	if !errors.Is(err, azservicebus.ErrMessageTooLarge) {
		t.Errorf("got %v", err)
	}
	must(t, sender.SendMessage(ctx, &azservicebus.Message{Body: make([]byte, 9_000)}, nil))
}

func TestConnectionBoundsBatches(t *testing.T) {
	_, client, _ := overTCP(t, servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}, MaxMessageSize: 16 << 20})
	sender, err := client.NewSender(queue, nil)
	must(t, err)
	fill := func(size int) *azservicebus.MessageBatch {
		batch, err := sender.NewMessageBatch(ctx, nil)
		must(t, err)
		for err == nil {
			err = batch.AddMessage(&azservicebus.Message{Body: make([]byte, size)}, nil)
		}
		return batch
	}
	large := fill(10_000)
	if large.NumBytes() > 1<<20 || large.NumMessages() < 100 {
		t.Errorf("a batch has %d messages of 10,000 bytes", large.NumMessages())
	}
	must(t, sender.SendMessageBatch(ctx, large, nil))
	var refused *amqp.Error // the link's own error: the client does not send it again
	err = sender.SendMessageBatch(ctx, fill(1), nil)
	if !errors.As(err, &refused) || refused.Condition != amqp.ErrCondMessageSizeExceeded {
		t.Errorf("a batch of more than 5,000 messages: %v", err)
	}
	must(t, sender.SendMessage(ctx, &azservicebus.Message{}, nil))
}

func TestConfigWithInvalidValuesIsRefused(t *testing.T) {
	for name, cfg := range map[string]servicebus.Config{
		"no name":     {Queues: []servicebus.QueueConfig{{}}},
		"a sub-queue": {Queues: []servicebus.QueueConfig{{Name: "q/$DeadLetterQueue"}}},
		"twice":       {Queues: []servicebus.QueueConfig{{Name: "q"}, {Name: "Q"}}},
		"negative":    {Queues: []servicebus.QueueConfig{{Name: "q", LockDuration: -1}}},
		"small size":  {Queues: []servicebus.QueueConfig{{Name: "q"}}, MaxMessageSize: -1},
		"large size":  {Queues: []servicebus.QueueConfig{{Name: "q"}}, MaxMessageSize: 100<<20 + 1},
		"empty key":   {Queues: []servicebus.QueueConfig{{Name: "q"}}, Keys: []servicebus.Key{{Name: "k"}}},
	} {
		if _, err := servicebus.New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestBrokerDoesNotServeAfterClose(t *testing.T) {
	broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{{Name: queue}}})
	must(t, err)
	must(t, broker.Close())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	if err := broker.Serve(l); err != nil { // as if it had begun just before Close
		t.Errorf("Serve: %v", err)
	}
	if _, err := broker.NewClientConn(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("NewClientConn: %v", err)
	}
}
