package replay_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/emulator/bubble"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	queueName = "events"
	adaID     = "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c01"
	graceID   = "0a5bd9b6-4a5c-4ee1-9a7e-0d3c5a6b7c02"
)

var ctx = context.Background()

// world is a queue with dead letters in virtual time. The real client accesses it.
type world struct {
	t        *testing.T
	broker   *servicebus.Broker
	client   *azservicebus.Client
	sender   *azservicebus.Sender
	receiver *azservicebus.Receiver // of the queue itself
	dead     *azservicebus.Receiver
	letters  *replay.Queue
}

func inBubble(t *testing.T, cfg servicebus.QueueConfig, scenario func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg.Name = queueName
		broker, err := servicebus.New(servicebus.Config{Queues: []servicebus.QueueConfig{cfg, {Name: "other"}}})
		must(t, err)
		client, err := azservicebus.NewClientFromConnectionString(bubble.ConnectionString,
			&azservicebus.ClientOptions{NewWebSocketConn: bubble.DialBroker(broker)})
		must(t, err)
		w := &world{t: t, broker: broker, client: client}
		t.Cleanup(func() {
			_ = client.Close(ctx)
			_ = broker.Close()
			bubble.Drain()
		})
		w.sender, err = client.NewSender(queueName, nil)
		must(t, err)
		w.receiver, err = client.NewReceiverForQueue(queueName, nil)
		must(t, err)
		w.dead, err = client.NewReceiverForQueue(queueName, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
		must(t, err)
		decoder, err := event.NewDecoder(event.Config{AnyType: true})
		must(t, err)
		w.letters = &replay.Queue{
			Entity: queueName, Receiver: w.dead, Decoder: decoder,
			Open: func() (replay.Receiver, error) { return w.openDead() },
		}
		scenario(t, w)
	})
}

func (w *world) openDead() (*azservicebus.Receiver, error) {
	return w.client.NewReceiverForQueue(queueName, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// about returns an event about a user.
func about(id string) *azservicebus.Message {
	return &azservicebus.Message{Body: fmt.Appendf(nil, `{"type":"device.lost","userId":%q}`, id)}
}

// deadLetter sends a message and dead-letters it.
func (w *world) deadLetter(m *azservicebus.Message, reason string, properties map[string]any) {
	w.t.Helper()
	must(w.t, w.sender.SendMessage(ctx, m, nil))
	w.deadLetterNext(reason, properties)
}

func (w *world) deadLetterNext(reason string, properties map[string]any) {
	w.t.Helper()
	description := reason + " it is"
	must(w.t, w.receiver.DeadLetterMessage(ctx, w.receive(w.receiver, 1)[0], &azservicebus.DeadLetterOptions{
		Reason: &reason, ErrorDescription: &description, PropertiesToModify: properties,
	}))
}

// receive receives exactly n messages.
func (w *world) receive(from *azservicebus.Receiver, n int) []*azservicebus.ReceivedMessage {
	w.t.Helper()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var all []*azservicebus.ReceivedMessage
	for len(all) < n {
		messages, err := from.ReceiveMessages(limited, n-len(all), nil)
		if err != nil {
			w.t.Fatalf("received %d of %d: %v", len(all), n, err)
		}
		all = append(all, messages...)
	}
	return all
}

// found returns the dead letters that the filter picks.
func (w *world) found(f replay.Filter) []replay.Letter {
	w.t.Helper()
	var letters []replay.Letter
	for found, err := range w.letters.Find(ctx, f) {
		must(w.t, err)
		letters = append(letters, found.Letter)
	}
	return letters
}

// replay replays what the filter picks.
func (w *world) replay(f replay.Filter, o replay.Options) (replay.Run, replay.Result) {
	w.t.Helper()
	run := replay.NewRun("ada@desk")
	plan, err := w.letters.PlanReplay(ctx, f, run, 3, nil)
	must(w.t, err)
	result, err := w.letters.Replay(ctx, w.sender, run, plan, o)
	must(w.t, err)
	return run, result
}

func (w *world) counts(active, dead int) {
	w.t.Helper()
	counts, err := w.broker.Counts(queueName)
	must(w.t, err)
	if counts.Active != active || counts.DeadLetter != dead {
		w.t.Errorf("%d messages and %d dead letters, want %d and %d", counts.Active, counts.DeadLetter, active, dead)
	}
}
