package conformance

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const sessionsPage = "message-sessions"

var inSessions = oneQueue(admin.QueueProperties{RequiresSession: new(true), LockDuration: new("PT20S")})

// in makes messages of a session.
func in(session string, bodies ...string) []*azservicebus.Message {
	all := text(bodies...)
	for _, m := range all {
		m.SessionID = &session
	}
	return all
}

func (c *check) accept(session string) *azservicebus.SessionReceiver {
	c.Helper()
	r, err := c.client.AcceptSessionForQueue(c.ctx, c.of("q"), session, nil)
	c.must(err)
	return r
}

func (c *check) acceptNext() *azservicebus.SessionReceiver {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 30*time.Second)
	defer cancel()
	r, err := c.client.AcceptNextSessionForQueue(ctx, c.of("q"), nil)
	c.must(err)
	return r
}

var sessions = []feature{
	{
		name: "a session keeps its order and has one holder", page: sessionsPage, entities: inSessions,
		try: func(c *check) {
			c.send("q", slices.Concat(in("x", "x1"), in("y", "y1"), in("x", "x2"), in("y", "y2"))...)
			x := c.accept("x")
			c.equal("session", x.SessionID(), "x")
			other, err := c.impatient(c.connection).AcceptSessionForQueue(c.ctx, c.of("q"), "x", nil)
			if err == nil {
				c.Errorf("the session %s has a second holder", other.SessionID())
			}
			y := c.accept("y")
			inX, inY := c.take(x, 2), c.take(y, 2)
			c.equal("in x", bodies(inX), []string{"x1", "x2"})
			c.equal("in y", bodies(inY), []string{"y1", "y2"})
			c.equal("session of a message", value(inX[0].SessionID), "x")
			c.complete(x, inX...)
			c.complete(y, inY...)
			c.send("q", in("x", "x3")...) // what arrives later belongs to the holder too
			c.equal("arriving later", string(c.one(x).Body), "x3")
		},
	},
	{
		name: "the next free session is accepted", page: sessionsPage, entities: inSessions,
		try: func(c *check) {
			c.send("q", slices.Concat(in("x", "1"), in("y", "2"))...)
			got := []string{c.acceptNext().SessionID(), c.acceptNext().SessionID()}
			slices.Sort(got)
			c.equal("sessions", got, []string{"x", "y"})
		},
	},
	{
		name: "accepting times out without a session", page: sessionsPage, entities: inSessions,
		try: func(c *check) {
			ctx, cancel := context.WithTimeout(c.ctx, 3*time.Second)
			defer cancel()
			_, err := c.client.AcceptNextSessionForQueue(ctx, c.of("q"), nil)
			if !errors.Is(err, context.DeadlineExceeded) { // the client tells the service when its context ends
				c.refused("accept", err, azservicebus.CodeTimeout)
			}
		},
	},
	{
		name: "a session has a state", page: sessionsPage + "#message-session-state", entities: inSessions,
		try: func(c *check) {
			c.send("q", in("x", "a")...)
			r := c.accept("x")
			state, err := r.GetSessionState(c.ctx, nil)
			c.must(err)
			c.equal("state at first", len(state), 0)
			c.must(r.SetSessionState(c.ctx, []byte("half done"), nil))
			c.complete(r, c.one(r))
			c.must(r.Close(c.ctx))
			r = c.accept("x") // the state outlives the messages and the holder
			state, err = r.GetSessionState(c.ctx, nil)
			c.must(err)
			c.equal("state", string(state), "half done")
			c.must(r.SetSessionState(c.ctx, nil, nil))
			state, err = r.GetSessionState(c.ctx, nil)
			c.must(err)
			c.equal("cleared state", len(state), 0)
		},
	},
	{
		name: "a session's lock expires and counts", page: sessionsPage + "#impact-of-delivery-count", entities: inSessions,
		try: func(c *check) {
			c.send("q", in("x", "a")...)
			first := c.accept("x")
			old := c.one(first)
			c.wait(23 * time.Second)
			second := c.accept("x")
			m := c.one(second)
			c.equal("delivery count", m.DeliveryCount, uint32(2))
			if err := first.CompleteMessage(c.ctx, old, nil); err == nil {
				c.Errorf("the old holder completed a message")
			}
			c.complete(second, m)
		},
	},
	{
		name: "a session's lock is renewed", page: sessionsPage, entities: inSessions,
		try: func(c *check) {
			c.send("q", in("x", "a")...)
			r := c.accept("x")
			before := r.LockedUntil()
			m := c.one(r)
			for range 2 {
				c.wait(12 * time.Second)
				c.must(r.RenewSessionLock(c.ctx, nil))
			}
			if !r.LockedUntil().After(before) {
				c.Errorf("locked until %v after renewal, and %v before", r.LockedUntil(), before)
			}
			c.complete(r, m)
			c.peeks(r, "left in the queue")
		},
	},
	{
		name: "closing frees a session and counts nothing", page: sessionsPage + "#impact-of-delivery-count", entities: inSessions,
		try: func(c *check) {
			c.send("q", in("x", "a")...)
			first := c.accept("x")
			c.one(first)
			c.must(first.Close(c.ctx))
			m := c.one(c.accept("x"))
			c.equal("delivery count", m.DeliveryCount, uint32(1))
		},
	},
	{
		name: "an entity with sessions takes and gives nothing else", page: sessionsPage, entities: inSessions,
		try: func(c *check) {
			client := c.impatient(c.connection)
			sender, err := client.NewSender(c.of("q"), nil)
			c.must(err)
			if err := sender.SendMessage(c.ctx, text("a")[0], nil); err == nil {
				c.Errorf("a message without a session was accepted")
			}
			r, err := c.receiverOf(client, "q")
			c.must(err)
			if _, err := r.ReceiveMessages(c.ctx, 1, nil); err == nil {
				c.Errorf("a receiver without a session was accepted")
			}
		},
	},
	{
		name: "messages of a session are settled in every way", page: sessionsPage, entities: inSessions,
		try: func(c *check) {
			c.send("q", in("x", "complete", "abandon", "defer", "dead-letter")...)
			r := c.accept("x")
			m := c.take(r, 4)
			c.complete(r, m[0])
			c.must(r.DeferMessage(c.ctx, m[2], nil))
			c.must(r.DeadLetterMessage(c.ctx, m[3], nil))
			c.must(r.AbandonMessage(c.ctx, m[1], nil))
			again := c.one(r)
			c.equal("abandoned", string(again.Body), "abandon")
			c.complete(r, again)
			deferred, err := r.ReceiveDeferredMessages(c.ctx, []int64{*m[2].SequenceNumber}, nil)
			c.must(err)
			c.equal("deferred", bodies(deferred), []string{"defer"})
			c.complete(r, deferred...)
			c.peeks(r, "left in the queue")
			c.deadLettersAre("q", "dead-letter")
		},
	},
	{
		name: "sessions are listed", page: "service-bus-amqp-request-response#enumerate-sessions", entities: inSessions,
		try: func(c *check) {
			c.send("q", slices.Concat(in("x", "1"), in("y", "2"))...)
			var got []string
			for pager := c.client.NewListSessionsForQueuePager(c.of("q"), nil); pager.More(); {
				page, err := pager.NextPage(c.ctx)
				c.must(err)
				got = append(got, page.Sessions...)
			}
			slices.Sort(got)
			c.equal("sessions", got, []string{"x", "y"})
		},
	},
}
