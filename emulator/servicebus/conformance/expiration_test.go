package conformance

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const expirationPage = "message-expiration"

var deadLettering = oneQueue(admin.QueueProperties{DeadLetteringOnMessageExpiration: new(true)})

// brief is a message that expires soon.
func brief(body string) *azservicebus.Message {
	return &azservicebus.Message{Body: []byte(body), TimeToLive: new(soon)}
}

var expiration = []feature{
	{
		name: "an expired message is dropped", page: expirationPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", brief("a"))
			c.waitUntilPast()
			c.nothing("after it has expired", c.receiver("q"))
			c.holds("q")
			c.deadLettersAre("q")
		},
	},
	{
		name: "an expired message is dead-lettered", page: expirationPage, entities: deadLettering,
		try: func(c *check) {
			c.send("q", brief("a"))
			c.waitUntilPast()
			c.nothing("after it has expired", c.receiver("q"))
			letter := c.one(c.receiver("q", fromDeadLetters))
			c.equal("reason", value(letter.DeadLetterReason), "TTLExpiredException")
		},
	},
	{
		name: "the entity bounds the time to live", page: expirationPage + "#entity-level-expiration",
		entities: oneQueue(admin.QueueProperties{DefaultMessageTimeToLive: new("PT3S")}),
		try: func(c *check) {
			c.send("q", text("a")...)
			c.send("q", &azservicebus.Message{Body: []byte("b"), TimeToLive: new(time.Hour)})
			c.wait(5 * time.Second)
			c.nothing("after they have expired", c.receiver("q"))
		},
	},
	{
		name: "a locked message does not expire", page: expirationPage, entities: deadLettering,
		try: func(c *check) {
			c.send("q", brief("a"))
			r := c.receiver("q")
			m := c.one(r)
			c.waitUntilPast()
			c.complete(r, m)
			c.holds("q")
			c.deadLettersAre("q")
		},
	},
	{
		name: "a message that expired under its lock ends with it", page: expirationPage, entities: deadLettering,
		try: func(c *check) {
			c.send("q", brief("a"))
			r := c.receiver("q")
			m := c.one(r)
			c.waitUntilPast()
			c.must(r.AbandonMessage(c.ctx, m, nil))
			c.nothing("after it was abandoned", r)
			letter := c.one(c.receiver("q", fromDeadLetters))
			c.equal("reason", value(letter.DeadLetterReason), "TTLExpiredException")
		},
	},
	{
		name: "a deferred message does not expire", page: deadLettersPage + "#time-to-live", entities: deadLettering,
		try: func(c *check) {
			c.send("q", brief("a"))
			r := c.receiver("q")
			c.must(r.DeferMessage(c.ctx, c.one(r), nil))
			c.waitUntilPast()
			c.holds("q", "a")
			c.deadLettersAre("q")
		},
	},
	{
		name: "the expiry is told", page: expirationPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{TimeToLive: new(time.Hour)})
			m := c.one(c.receiver("q"))
			c.equal("time to live", value(m.TimeToLive), time.Hour)
			if got := value(m.ExpiresAt).Sub(value(m.EnqueuedTime)); (got - time.Hour).Abs() > time.Second {
				c.Errorf("it expires %v after it was enqueued", got)
			}
		},
	},
}
