package conformance

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const (
	deferralPage = "message-deferral"
	schedulePage = "message-sequencing#scheduled-messages"
)

// deferral and scheduled messages.
var deferral = []feature{
	{
		name: "a deferred message is received by its number only", page: deferralPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a", "b")...)
			r := c.receiver("q")
			m := c.one(r)
			c.must(r.DeferMessage(c.ctx, m, &azservicebus.DeferMessageOptions{PropertiesToModify: map[string]any{"why": "later"}}))
			c.equal("next message", string(c.one(r).Body), "b")
			c.nothing("while it is deferred", c.receiver("q"))
			deferred, err := r.ReceiveDeferredMessages(c.ctx, []int64{*m.SequenceNumber}, nil)
			c.must(err)
			if len(deferred) != 1 {
				c.Fatalf("received %d deferred messages", len(deferred))
			}
			c.equal("state", deferred[0].State, azservicebus.MessageStateDeferred)
			c.equal("delivery count", deferred[0].DeliveryCount, uint32(2))
			c.equal("body", string(deferred[0].Body), "a")
			c.equal("property", deferred[0].ApplicationProperties["why"], any("later"))
			c.complete(r, deferred[0])
			c.holds("q", "b")
		},
	},
	{
		name: "an abandoned deferred message stays deferred", page: deferralPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a")...)
			r := c.receiver("q")
			m := c.one(r)
			c.must(r.DeferMessage(c.ctx, m, nil))
			for range 2 {
				deferred, err := r.ReceiveDeferredMessages(c.ctx, []int64{*m.SequenceNumber}, nil)
				c.must(err)
				c.must(r.AbandonMessage(c.ctx, deferred[0], nil))
			}
			c.nothing("after it was abandoned", r)
			deferred, err := r.ReceiveDeferredMessages(c.ctx, []int64{*m.SequenceNumber}, nil)
			c.must(err)
			c.must(r.DeadLetterMessage(c.ctx, deferred[0], nil))
			c.deadLettersAre("q", "a")
		},
	},
	{
		name: "a number that names no deferred message is an error", page: deferralPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			_, err := c.receiver("q").ReceiveDeferredMessages(c.ctx, []int64{987654}, nil)
			c.refused("receive", err, azservicebus.CodeNotFound)
		},
	},
	{
		name: "a scheduled message comes when it is due", page: schedulePage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			due := time.Now().Add(soon)
			numbers, err := c.sender("q").ScheduleMessages(c.ctx, text("a", "b"), due, nil)
			c.must(err)
			r := c.receiver("q")
			c.equal("numbers", len(numbers), 2)
			seen, err := r.PeekMessages(c.ctx, 10, nil)
			c.must(err)
			c.equal("peeked", bodies(seen), []string{"a", "b"})
			for i, m := range seen {
				c.equal("state", m.State, azservicebus.MessageStateScheduled)
				c.equal("number", value(m.SequenceNumber), numbers[i])
			}
			c.nothing("before it is due", c.receiver("q"))
			m := c.one(r)
			if early := time.Until(due); early > time.Second {
				c.Errorf("it came %v early", early)
			}
			c.equal("due time", value(m.ScheduledEnqueueTime).Unix(), due.Unix())
		},
	},
	{
		name: "a due message gets a new number", page: schedulePage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			numbers, err := c.sender("q").ScheduleMessages(c.ctx, text("later"), time.Now().Add(soon), nil)
			c.must(err)
			c.send("q", text("at once")...)
			m := c.take(c.receiver("q"), 2)
			c.equal("received", bodies(m), []string{"at once", "later"})
			if value(m[1].SequenceNumber) == numbers[0] || value(m[1].SequenceNumber) < value(m[0].SequenceNumber) {
				c.Errorf("scheduled as %d, it is %d now, after %d", numbers[0], *m[1].SequenceNumber, *m[0].SequenceNumber)
			}
		},
	},
	{
		name: "a scheduled message is canceled", page: schedulePage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			sender := c.sender("q")
			numbers, err := sender.ScheduleMessages(c.ctx, text("a", "b", "c"), time.Now().Add(soon), nil)
			c.must(err)
			c.must(sender.CancelScheduledMessages(c.ctx, numbers[:2], nil))
			r := c.receiver("q")
			c.equal("received", bodies(c.take(r, 1)), []string{"c"})
			c.nothing("canceled messages", r)
		},
	},
	{
		name: "a property schedules a message", page: schedulePage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{Body: []byte("a"), ScheduledEnqueueTime: new(time.Now().Add(soon))})
			r := c.receiver("q")
			c.nothing("before it is due", r)
			c.equal("received", string(c.one(r).Body), "a")
		},
	},
}
