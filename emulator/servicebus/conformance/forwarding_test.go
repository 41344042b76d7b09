package conformance

import (
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const forwardingPage = "service-bus-auto-forwarding"

var forwarding = []feature{
	{
		name: "messages are forwarded", page: forwardingPage,
		entities: entities{queues: map[string]admin.QueueProperties{"q": {}, "from": {ForwardTo: new("q")}}},
		try: func(c *check) {
			c.send("from", &azservicebus.Message{Body: []byte("a"), MessageID: new("1"), Subject: new("s")})
			m := c.one(c.receiver("q"))
			c.equal("body", string(m.Body), "a")
			c.equal("message id", m.MessageID, "1")
			c.equal("subject", value(m.Subject), "s")
			if m.EnqueuedSequenceNumber == nil {
				c.Errorf("it does not tell the number that it had at first")
			}
			c.holds("q", "a")
		},
	},
	{
		name: "dead letters are forwarded", page: forwardingPage,
		entities: entities{queues: map[string]admin.QueueProperties{"q": {}, "from": {ForwardDeadLetteredMessagesTo: new("q")}}},
		try: func(c *check) {
			c.send("from", text("a")...)
			r := c.receiver("from")
			c.must(r.DeadLetterMessage(c.ctx, c.one(r), &azservicebus.DeadLetterOptions{Reason: new("bad")}))
			m := c.one(c.receiver("q"))
			c.equal("body", string(m.Body), "a")
			c.equal("reason", m.ApplicationProperties["DeadLetterReason"], any("bad"))
			c.equal("source", value(m.DeadLetterSource), c.of("from"))
		},
	},
}
