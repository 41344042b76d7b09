package conformance

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const deadLettersPage = "service-bus-dead-letter-queues"

var deadLetters = []feature{
	{
		name: "a message is dead-lettered with a reason", page: deadLettersPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{Body: []byte("a"), MessageID: new("1"), ApplicationProperties: map[string]any{"kept": "yes"}})
			r := c.receiver("q")
			m := c.one(r)
			c.must(r.DeadLetterMessage(c.ctx, m, &azservicebus.DeadLetterOptions{
				Reason: new("bad"), ErrorDescription: new("very bad"), PropertiesToModify: map[string]any{"new": "yes"},
			}))
			c.holds("q")
			dead := c.receiver("q", fromDeadLetters)
			letter := c.one(dead)
			c.equal("body", string(letter.Body), "a")
			c.equal("message id", letter.MessageID, "1")
			c.equal("sequence number", value(letter.SequenceNumber), value(m.SequenceNumber))
			c.equal("reason", value(letter.DeadLetterReason), "bad")
			c.equal("description", value(letter.DeadLetterErrorDescription), "very bad")
			c.equal("property of the sender", letter.ApplicationProperties["kept"], any("yes"))
			c.equal("property of the receiver", letter.ApplicationProperties["new"], any("yes"))
			c.complete(dead, letter)
			c.deadLettersAre("q")
		},
	},
	{
		name: "too many deliveries dead-letter a message", page: deadLettersPage + "#maximum-delivery-count",
		entities: oneQueue(admin.QueueProperties{MaxDeliveryCount: new(int32(3))}),
		try: func(c *check) {
			c.send("q", text("a")...)
			r := c.receiver("q")
			for want := range uint32(3) {
				m := c.one(r)
				c.equal("delivery count", m.DeliveryCount, want+1)
				c.must(r.AbandonMessage(c.ctx, m, nil))
			}
			letter := c.one(c.receiver("q", fromDeadLetters))
			c.equal("reason", value(letter.DeadLetterReason), "MaxDeliveryCountExceeded")
			c.holds("q")
		},
	},
	{
		name: "expired locks count as deliveries", page: deadLettersPage + "#maximum-delivery-count",
		entities: oneQueue(admin.QueueProperties{LockDuration: new("PT5S"), MaxDeliveryCount: new(int32(1))}),
		try: func(c *check) {
			c.send("q", text("a")...)
			r := c.receiver("q")
			c.one(r)
			c.wait(7 * time.Second)
			c.nothing("after its only delivery", r)
			letter := c.one(c.receiver("q", fromDeadLetters))
			c.equal("reason", value(letter.DeadLetterReason), "MaxDeliveryCountExceeded")
		},
	},
	{
		name: "a dead letter is resubmitted", page: deadLettersPage + "#sending-dead-lettered-messages-to-be-reprocessed",
		entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{Body: []byte("a"), Subject: new("s"), ApplicationProperties: map[string]any{"kept": "yes"}})
			r := c.receiver("q")
			c.must(r.DeadLetterMessage(c.ctx, c.one(r), &azservicebus.DeadLetterOptions{Reason: new("bad")}))
			dead := c.receiver("q", fromDeadLetters)
			letter := c.one(dead)
			c.send("q", letter.Message())
			c.complete(dead, letter)
			m := c.one(r)
			c.equal("body", string(m.Body), "a")
			c.equal("subject", value(m.Subject), "s")
			c.equal("property", m.ApplicationProperties["kept"], any("yes"))
			c.equal("delivery count", m.DeliveryCount, uint32(1))
			c.complete(r, m)
			c.deadLettersAre("q")
		},
	},
	{
		name: "dead letters do not expire", page: deadLettersPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{Body: []byte("a"), TimeToLive: new(soon)})
			r := c.receiver("q")
			c.must(r.DeadLetterMessage(c.ctx, c.one(r), nil))
			c.waitUntilPast()
			c.equal("dead letter", string(c.one(c.receiver("q", fromDeadLetters)).Body), "a")
		},
	},
	{
		name: "a dead letter is not dead-lettered again", page: deadLettersPage,
		entities: oneQueue(admin.QueueProperties{MaxDeliveryCount: new(int32(2))}),
		try: func(c *check) {
			c.send("q", text("a")...)
			r := c.receiver("q")
			c.must(r.DeadLetterMessage(c.ctx, c.one(r), nil))
			dead := c.receiver("q", fromDeadLetters)
			for range 3 {
				c.must(dead.AbandonMessage(c.ctx, c.one(dead), nil))
			}
			if err := dead.DeadLetterMessage(c.ctx, c.one(dead), nil); err == nil {
				c.Errorf("a dead letter was dead-lettered")
			}
			c.deadLettersAre("q", "a")
		},
	},
	{
		name: "nobody sends to a dead-letter queue", page: deadLettersPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			sender, err := c.impatient(c.connection).NewSender(c.of("q/$DeadLetterQueue"), nil)
			c.must(err)
			if err := sender.SendMessage(c.ctx, text("a")[0], nil); err == nil {
				c.Errorf("a message was accepted")
			}
			c.deadLettersAre("q")
		},
	},
}
