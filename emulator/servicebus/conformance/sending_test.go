package conformance

import (
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const quotasPage = "service-bus-quotas"

// sending, in batches and not, with duplicates and too much.
var sending = []feature{
	{
		name: "a batch arrives as a whole and in order", page: "service-bus-performance-improvements",
		entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			sender := c.sender("q")
			batch, err := sender.NewMessageBatch(c.ctx, nil)
			c.must(err)
			var want []string
			for i := range 500 {
				want = append(want, fmt.Sprint(i))
				c.must(batch.AddMessage(text(want[i])[0], nil))
			}
			c.must(sender.SendMessageBatch(c.ctx, batch, nil))
			r := c.receiver("q", andDelete)
			c.equal("received", bodies(c.take(r, 500)), want)
		},
	},
	{
		name: "a full batch is accepted", page: quotasPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			sender := c.sender("q")
			batch, err := sender.NewMessageBatch(c.ctx, nil)
			c.must(err)
			for err == nil {
				err = batch.AddMessage(&azservicebus.Message{Body: make([]byte, 10_000)}, nil)
			}
			if !errors.Is(err, azservicebus.ErrMessageTooLarge) {
				c.Fatalf("%v", err)
			}
			if batch.NumMessages() < 20 {
				c.Errorf("a batch takes %d messages of 10,000 bytes", batch.NumMessages())
			}
			c.must(sender.SendMessageBatch(c.ctx, batch, nil))
			c.take(c.receiver("q", andDelete), int(batch.NumMessages()))
		},
	},
	{
		name: "a message may be as large as the limit, and no larger", page: quotasPage,
		entities: oneQueue(admin.QueueProperties{}), needs: needs{size: true},
		try: func(c *check) {
			sender, err := c.impatient(c.connection).NewSender(c.of("q"), nil)
			c.must(err)
			c.must(sender.SendMessage(c.ctx, &azservicebus.Message{Body: make([]byte, c.maxMessage-64_000)}, nil))
			err = sender.SendMessage(c.ctx, &azservicebus.Message{Body: make([]byte, c.maxMessage)}, nil)
			if !errors.Is(err, azservicebus.ErrMessageTooLarge) {
				c.Errorf("a message above the limit: %v", err)
			}
			c.send("q", text("after it")...)
			m := c.take(c.receiver("q", andDelete), 2)
			c.equal("size", len(m[0].Body), c.maxMessage-64_000)
			c.equal("next", string(m[1].Body), "after it")
		},
	},
	{
		name: "duplicates are dropped within the window", page: "duplicate-detection",
		entities: oneQueue(admin.QueueProperties{
			RequiresDuplicateDetection: new(true), DuplicateDetectionHistoryTimeWindow: new("PT20S"),
		}),
		try: func(c *check) {
			m := func(id, body string) *azservicebus.Message {
				return &azservicebus.Message{MessageID: &id, Body: []byte(body)}
			}
			c.send("q", m("1", "a"), m("1", "b"), m("2", "c"))
			r := c.receiver("q", andDelete)
			c.equal("received", bodies(c.take(r, 2)), []string{"a", "c"})
			c.send("q", m("1", "d")) // also after the first one is gone
			c.nothing("a duplicate", r)
			c.wait(25 * time.Second)
			c.send("q", m("1", "e"))
			c.equal("after the window", string(c.one(r).Body), "e")
		},
	},
	{
		name: "a message may be empty", page: "service-bus-messages-payloads", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{})
			m := c.one(c.receiver("q"))
			c.equal("body", len(m.Body), 0)
			if m.MessageID == "" {
				c.Errorf("it has no message id")
			}
		},
	},
}
