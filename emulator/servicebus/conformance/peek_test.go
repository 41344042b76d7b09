package conformance

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const peekPage = "message-browsing"

var peek = []feature{
	{
		name: "peek shows messages in every state", page: peekPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("deferred", "locked", "active")...)
			c.send("q", &azservicebus.Message{Body: []byte("scheduled"), ScheduledEnqueueTime: new(time.Now().Add(time.Hour))})
			r := c.receiver("q")
			m := c.take(r, 2)
			c.must(r.DeferMessage(c.ctx, m[0], nil))
			c.must(r.Close(c.ctx))
			seen, err := c.receiver("q").PeekMessages(c.ctx, 10, nil)
			c.must(err)
			states := map[string]azservicebus.MessageState{}
			for _, m := range seen {
				states[string(m.Body)] = m.State
			}
			c.equal("states", states, map[string]azservicebus.MessageState{
				"deferred": azservicebus.MessageStateDeferred, "locked": azservicebus.MessageStateActive,
				"active": azservicebus.MessageStateActive, "scheduled": azservicebus.MessageStateScheduled,
			})
		},
	},
	{
		name: "peek goes on in order and from a number", page: peekPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a", "b", "c", "d")...)
			r := c.receiver("q")
			first, err := r.PeekMessages(c.ctx, 2, nil)
			c.must(err)
			second, err := r.PeekMessages(c.ctx, 10, nil)
			c.must(err)
			c.equal("first", bodies(first), []string{"a", "b"})
			c.equal("second", bodies(second), []string{"c", "d"})
			again, err := c.receiver("q").PeekMessages(c.ctx, 2, &azservicebus.PeekMessagesOptions{
				FromSequenceNumber: new(value(first[1].SequenceNumber)),
			})
			c.must(err)
			c.equal("from the second message", bodies(again), []string{"b", "c"})
		},
	},
	{
		name: "peek locks nothing and counts nothing", page: peekPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a")...)
			for range 3 {
				_, err := c.receiver("q").PeekMessages(c.ctx, 1, nil)
				c.must(err)
			}
			c.equal("delivery count", c.one(c.receiver("q")).DeliveryCount, uint32(1))
		},
	},
	{
		name: "peek finds nothing in an empty queue", page: peekPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			seen, err := c.receiver("q").PeekMessages(c.ctx, 5, nil)
			c.must(err)
			c.equal("messages", len(seen), 0)
		},
	},
}
