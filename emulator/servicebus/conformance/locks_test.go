package conformance

import (
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const locksPage = "message-transfers-locks-settlement"

// shortLock is a lock that a test can wait for, and that a busy machine does not outlast by mistake.
var shortLock = admin.QueueProperties{LockDuration: new("PT20S")}

// locks and settlement.
var locks = []feature{
	{
		name: "peek-lock hides a message until it is completed", page: locksPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a")...)
			first, second := c.receiver("q"), c.receiver("q")
			m := c.one(first)
			c.equal("delivery count", m.DeliveryCount, uint32(1))
			c.nothing("while it is locked", second)
			c.complete(first, m)
			c.nothing("after completion", second)
			c.holds("q")
		},
	},
	{
		name: "receive-and-delete removes at once", page: locksPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a", "b")...)
			c.equal("received", bodies(c.take(c.receiver("q", andDelete), 2)), []string{"a", "b"})
			c.holds("q")
		},
	},
	{
		name: "abandon makes a message available at once and counts", page: locksPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{Body: []byte("a"), ApplicationProperties: map[string]any{"kept": "yes", "changed": "no"}})
			r := c.receiver("q")
			c.must(r.AbandonMessage(c.ctx, c.one(r), &azservicebus.AbandonMessageOptions{
				PropertiesToModify: map[string]any{"changed": "yes", "new": int64(1)},
			}))
			m := c.one(r)
			c.equal("delivery count", m.DeliveryCount, uint32(2))
			c.equal("properties", m.ApplicationProperties, map[string]any{"kept": "yes", "changed": "yes", "new": int64(1)})
			c.complete(r, m)
		},
	},
	{
		name: "a lock expires", page: locksPage, entities: oneQueue(shortLock),
		try: func(c *check) {
			c.send("q", text("a")...)
			first, second := c.receiver("q"), c.receiver("q")
			old := c.one(first)
			c.wait(22 * time.Second)
			m := c.one(second)
			c.equal("delivery count", m.DeliveryCount, uint32(2))
			c.refused("complete with the old lock", first.CompleteMessage(c.ctx, old, nil), azservicebus.CodeLockLost)
			c.complete(second, m)
		},
	},
	{
		name: "a lock is renewed", page: locksPage, entities: oneQueue(shortLock),
		try: func(c *check) {
			c.send("q", text("a")...)
			first, second := c.receiver("q"), c.receiver("q")
			m := c.one(first)
			before := value(m.LockedUntil)
			for range 2 {
				c.wait(12 * time.Second)
				c.must(first.RenewMessageLock(c.ctx, m, nil))
			}
			if !value(m.LockedUntil).After(before) {
				c.Errorf("locked until %v after renewal, and %v before", m.LockedUntil, before)
			}
			c.nothing("while it is locked", second)
			c.complete(first, m)
			c.holds("q")
		},
	},
	{
		name: "an expired lock is not renewed", page: locksPage, entities: oneQueue(shortLock),
		try: func(c *check) {
			c.send("q", text("a")...)
			r := c.receiver("q")
			m := c.one(r)
			c.wait(22 * time.Second)
			c.refused("renew", r.RenewMessageLock(c.ctx, m, nil), azservicebus.CodeLockLost)
		},
	},
	{
		name: "receivers compete", page: "service-bus-queues-topics-subscriptions", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a", "b", "c", "d")...)
			first, second := c.receiver("q"), c.receiver("q")
			taken := c.take(first, 2)
			taken = append(taken, c.take(second, 2)...)
			got := bodies(taken)
			slices.Sort(got)
			c.equal("received by both", got, []string{"a", "b", "c", "d"})
		},
	},
	{
		name: "messages keep their order", page: "message-sequencing", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("a", "b", "c")...)
			r := c.receiver("q")
			m := c.take(r, 3)
			c.equal("received", bodies(m), []string{"a", "b", "c"})
			numbers := []int64{*m[0].SequenceNumber, *m[1].SequenceNumber, *m[2].SequenceNumber}
			if !slices.IsSorted(numbers) || numbers[0] == numbers[2] {
				c.Errorf("the sequence numbers %v do not grow", numbers)
			}
			if m[0].EnqueuedTime == nil || time.Since(*m[0].EnqueuedTime).Abs() > 10*time.Minute {
				c.Errorf("enqueued at %v", m[0].EnqueuedTime)
			}
			c.complete(r, m...)
		},
	},
}
