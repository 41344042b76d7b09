package simulation

import (
	"context"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/servicebus/amqp"
	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/replay"
)

// message returns the message that a producer sends.
func (w *world) message(s Send) *azservicebus.Message {
	m := &azservicebus.Message{MessageID: &s.ID, Body: w.body(s)}
	if s.Session != "" && !s.Urgent {
		m.SessionID = &s.Session
	}
	if s.TTL > 0 {
		m.TimeToLive = &s.TTL
	}
	if s.Forged {
		m.ApplicationProperties = map[string]any{
			deadletter.PropertyFailed: "7", deadletter.PropertyOnly: "7", deadletter.PropertyOnlyOf: "somebody's",
			deadletter.PropertyAttempts: int64(3),
			deadletter.PropertyReplays:  "1000000", deadletter.PropertyDeferred: "9999-12-31T23:59:59Z",
		}
	}
	return m
}

// poison puts a message into the queue that the client library cannot read.
func (w *world) poison(s Send) error {
	properties := amqp.Properties{MessageID: s.ID}
	to := urgentQueue
	if !s.Urgent {
		to = queue
		if s.Session != "" {
			properties.GroupID = &s.Session
		}
	}
	encoded, err := properties.Append(nil)
	if err != nil {
		return err
	}
	switch s.Poison {
	case Char:
		encoded = append(encoded, 0, 0x53, amqp.SectionValue, 0x73, 0, 0, 0, 'A')
	case BadKey:
		encoded = append(encoded, 0, 0x53, amqp.SectionValue, 0xc1, 7, 2, 0, 0xa3, 1, 'x', 0x45, 0x40)
	case Property:
		encoded = append(encoded, 0, 0x53, amqp.SectionApplicationProperties, 0xc1, 9, 2, 0xa1, 1, 'x', 0x73, 0, 0, 0, 'A')
		encoded = amqp.AppendData(encoded, w.body(s))
	}
	return w.broker.Inject(to, encoded)
}

// operate does an operator's work on dead letters.
func (w *world) operate(o Operation) error {
	time.Sleep(time.Until(w.start.Add(o.At)))
	names := []string{queue}
	if w.Urgent {
		names = append(names, urgentQueue)
	}
	for _, name := range names {
		if err := w.operateOn(name, o.Purge); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) operateOn(name string, purge bool) error {
	ctx := context.Background()
	client, err := w.client()
	if err != nil {
		return err
	}
	defer client.Close(ctx)
	open := func() (replay.Receiver, error) {
		return client.NewReceiverForQueue(name, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
	}
	receiver, err := open()
	if err != nil {
		return err
	}
	decoder, err := event.NewDecoder(event.Config{AnyType: true})
	if err != nil {
		return err
	}
	letters := &replay.Queue{Entity: name, Receiver: receiver, Open: open, Decoder: decoder}
	if purge {
		plan, err := letters.PlanPurge(ctx, replay.Filter{}, nil)
		if err != nil {
			return err
		}
		_, err = letters.Purge(ctx, plan, func([]replay.Found) error { return nil }, replay.PurgeOptions{})
		return err
	}
	run := replay.NewRun("an operator")
	plan, err := letters.PlanReplay(ctx, replay.Filter{}, run, maxAgain, nil)
	if err != nil {
		return err
	}
	sender, err := client.NewSender(name, nil)
	if err != nil {
		return err
	}
	_, err = letters.Replay(ctx, sender, run, plan, replay.Options{})
	return err
}

// maxAgain bounds how often a dead letter is replayed.
const maxAgain = 5

// noteAgain notes of which message a replayed one is a copy.
func (w *world) noteAgain(m *azservicebus.ReceivedMessage) {
	original, _ := m.ApplicationProperties[deadletter.PropertyOriginalID].(string)
	if original == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	i := slices.IndexFunc(w.Sends, func(s Send) bool { return s.ID == original })
	if i < 0 || w.again[m.MessageID].ID != "" {
		return
	}
	s := w.Sends[i]
	s.ID, s.Forged = m.MessageID, false
	if only, _ := m.ApplicationProperties[deadletter.PropertyOnly].(string); only != "" {
		var people []int
		for _, i := range deadletter.Indexes(only) {
			people = append(people, s.People[i])
		}
		s.People = people
	}
	w.again[m.MessageID] = s
}
