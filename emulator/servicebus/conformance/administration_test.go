package conformance

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const managementPage = "service-bus-management-libraries"

// administration over HTTP. Each feature deletes what it makes beyond its entities.
var administration = []feature{
	withAdmin(feature{
		name: "a queue is made, read, changed and deleted", page: managementPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			name := c.of("made")
			defer c.deleteQueue(name)
			_, err := c.admin.CreateQueue(c.ctx, name, &admin.CreateQueueOptions{Properties: &admin.QueueProperties{
				LockDuration: new("PT30S"), MaxDeliveryCount: new(int32(3)), DeadLetteringOnMessageExpiration: new(true),
				DefaultMessageTimeToLive: new("P1D"), ForwardDeadLetteredMessagesTo: new(c.of("q")), UserMetadata: new("a <note> & more"),
			}})
			c.must(err)
			got := c.queue(name)
			c.equal("lock duration", value(got.LockDuration), "PT30S")
			c.equal("max delivery count", value(got.MaxDeliveryCount), int32(3))
			c.equal("dead-lettering", value(got.DeadLetteringOnMessageExpiration), true)
			c.equal("time to live", value(got.DefaultMessageTimeToLive), "P1D")
			c.equal("metadata", value(got.UserMetadata), "a <note> & more")
			if to := value(got.ForwardDeadLetteredMessagesTo); !strings.HasSuffix(to, c.of("q")) { // the service answers with a URL
				c.Errorf("dead letters are forwarded to %q", to)
			}
			got.MaxDeliveryCount, got.LockDuration = new(int32(5)), new("PT1M")
			_, err = c.admin.UpdateQueue(c.ctx, name, got.QueueProperties, nil)
			c.must(err)
			c.equal("changed max delivery count", value(c.queue(name).MaxDeliveryCount), int32(5))
			c.equal("changed lock duration", value(c.queue(name).LockDuration), "PT1M")
			_, err = c.admin.DeleteQueue(c.ctx, name, nil)
			c.must(err)
			gone, err := c.admin.GetQueue(c.ctx, name, nil)
			c.must(err)
			if gone != nil {
				c.Errorf("a deleted queue is still there")
			}
		},
	}),
	withAdmin(feature{
		name: "defaults are those of the documentation", page: "service-bus-quotas", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			got := c.queue(c.of("q"))
			c.equal("lock duration", value(got.LockDuration), "PT1M")
			c.equal("max delivery count", value(got.MaxDeliveryCount), int32(10))
			c.equal("sessions", value(got.RequiresSession), false)
			c.equal("duplicate detection", value(got.RequiresDuplicateDetection), false)
			c.equal("dead-lettering", value(got.DeadLetteringOnMessageExpiration), false)
			c.equal("status", value(got.Status), admin.EntityStatusActive)
		},
	}),
	withAdmin(feature{
		name: "what exists is not made again, and what does not is not changed", page: managementPage,
		entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			_, err := c.admin.CreateQueue(c.ctx, c.of("q"), nil)
			c.status("create again", err, http.StatusConflict)
			_, err = c.admin.UpdateQueue(c.ctx, c.of("missing"), admin.QueueProperties{}, nil)
			c.status("update", err, http.StatusNotFound)
			_, err = c.admin.DeleteQueue(c.ctx, c.of("missing"), nil)
			c.status("delete", err, http.StatusNotFound)
		},
	}),
	withAdmin(feature{
		name: "topics, subscriptions and rules are made, read and deleted", page: managementPage,
		entities: oneTopic(map[string]subscription{
			"s": {SubscriptionProperties: admin.SubscriptionProperties{LockDuration: new("PT20S")}},
		}),
		try: func(c *check) {
			topic := c.of("t")
			s, err := c.admin.GetSubscription(c.ctx, topic, "s", nil)
			c.must(err)
			if s == nil {
				c.Fatalf("the subscription is missing")
			}
			c.equal("lock duration", value(s.LockDuration), "PT20S")
			_, err = c.admin.CreateRule(c.ctx, topic, "s", &admin.CreateRuleOptions{
				Name: new("red"), Filter: &admin.SQLFilter{Expression: "color = 'red'"},
				Action: &admin.SQLAction{Expression: "SET seen = 1"},
			})
			c.must(err)
			names := []string{}
			for pager := c.admin.NewListRulesPager(topic, "s", nil); pager.More(); {
				page, err := pager.NextPage(c.ctx)
				c.must(err)
				for _, r := range page.Rules {
					names = append(names, r.Name)
				}
			}
			c.equal("rules", names, []string{"$Default", "red"})
			rule, err := c.admin.GetRule(c.ctx, topic, "s", "red", nil)
			c.must(err)
			if rule == nil {
				c.Fatalf("the rule is missing")
			}
			filter, _ := rule.Filter.(*admin.SQLFilter)
			c.equal("filter", value(filter).Expression, "color = 'red'")
			action, _ := rule.Action.(*admin.SQLAction)
			c.equal("action", value(action).Expression, "SET seen = 1")
			_, err = c.admin.DeleteRule(c.ctx, topic, "s", "$Default", nil)
			c.must(err)
			c.send("t", orders()...)
			c.holds("t/s", "red")
			_, err = c.admin.DeleteSubscription(c.ctx, topic, "s", nil)
			c.must(err)
			s, err = c.admin.GetSubscription(c.ctx, topic, "s", nil)
			c.must(err)
			if s != nil {
				c.Errorf("a deleted subscription is still there")
			}
		},
	}),
	withAdmin(feature{
		name: "a rule that makes no sense is refused", page: sqlFilterPage, entities: oneTopic(map[string]subscription{"s": {}}),
		try: func(c *check) {
			_, err := c.admin.CreateRule(c.ctx, c.of("t"), "s", &admin.CreateRuleOptions{
				Name: new("bad"), Filter: &admin.SQLFilter{Expression: "color = = 'red'"},
			})
			c.status("create", err, http.StatusBadRequest)
		},
	}),
	withAdmin(feature{
		name: "lists come in pages", page: managementPage,
		entities: oneTopic(map[string]subscription{"a": {}, "b": {}, "c": {}}),
		try: func(c *check) {
			var names []string
			for pager := c.admin.NewListSubscriptionsPager(c.of("t"), &admin.ListSubscriptionsOptions{MaxPageSize: 2}); pager.More(); {
				page, err := pager.NextPage(c.ctx)
				c.must(err)
				if len(page.Subscriptions) > 2 {
					c.Errorf("a page of %d", len(page.Subscriptions))
				}
				for _, s := range page.Subscriptions {
					names = append(names, s.SubscriptionName)
				}
			}
			slices.Sort(names)
			c.equal("subscriptions", names, []string{"a", "b", "c"})
		},
	}),
	withAdmin(feature{
		name: "messages are counted", page: "message-counters", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", text("1", "2", "3", "4")...)
			_, err := c.sender("q").ScheduleMessages(c.ctx, text("later"), time.Now().Add(time.Hour), nil)
			c.must(err)
			r := c.receiver("q")
			m := c.take(r, 2)
			c.must(r.DeadLetterMessage(c.ctx, m[0], nil))
			var got string
			const want = "3 active, 1 dead, 1 scheduled, 5 in total"
			for range 40 { // the service counts with a delay
				n, err := c.admin.GetQueueRuntimeProperties(c.ctx, c.of("q"), nil)
				c.must(err)
				got = fmt.Sprintf("%d active, %d dead, %d scheduled, %d in total",
					n.ActiveMessageCount, n.DeadLetterMessageCount, n.ScheduledMessageCount, n.TotalMessageCount)
				if got == want && n.SizeInBytes > 0 {
					return
				}
				c.wait(500 * time.Millisecond)
			}
			c.equal("counts", got, want)
		},
	}),
	withAdmin(feature{
		name: "messages of a subscription are counted", page: "message-counters", entities: oneTopic(map[string]subscription{"s": {}}),
		try: func(c *check) {
			c.send("t", text("1", "2")...)
			r := c.receiver("t/s")
			c.must(r.DeadLetterMessage(c.ctx, c.one(r), nil))
			var got string
			const want = "1 active, 1 dead, 2 in total"
			for range 40 {
				n, err := c.admin.GetSubscriptionRuntimeProperties(c.ctx, c.of("t"), "s", nil)
				c.must(err)
				got = fmt.Sprintf("%d active, %d dead, %d in total", n.ActiveMessageCount, n.DeadLetterMessageCount, n.TotalMessageCount)
				if got == want {
					return
				}
				c.wait(500 * time.Millisecond)
			}
			c.equal("counts", got, want)
		},
	}),
	withAdmin(feature{
		name: "a change is in effect for what comes next", page: managementPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			changed := c.queue(c.of("q")).QueueProperties
			changed.MaxDeliveryCount = new(int32(1))
			_, err := c.admin.UpdateQueue(c.ctx, c.of("q"), changed, nil)
			c.must(err)
			c.send("q", text("a")...)
			r := c.receiver("q")
			c.must(r.AbandonMessage(c.ctx, c.one(r), nil))
			c.deadLettersAre("q", "a")
		},
	}),
	withAdmin(feature{
		name: "a disabled entity refuses", page: "entity-suspend",
		entities: entities{queues: map[string]admin.QueueProperties{
			"no-send": {Status: new(admin.EntityStatusSendDisabled)}, "no-receive": {Status: new(admin.EntityStatusReceiveDisabled)},
		}},
		try: func(c *check) {
			client := c.impatient(c.connection)
			sender, err := client.NewSender(c.of("no-send"), nil)
			c.must(err)
			if err := sender.SendMessage(c.ctx, text("a")[0], nil); err == nil {
				c.Errorf("an entity that is disabled for senders took a message")
			}
			c.send("no-receive", text("a")...)
			r, err := c.receiverOf(client, "no-receive")
			c.must(err)
			if got, err := r.ReceiveMessages(c.ctx, 1, nil); err == nil && len(got) > 0 {
				c.Errorf("an entity that is disabled for receivers gave a message")
			}
		},
	}),
	withAdmin(feature{
		name: "the namespace describes itself", page: managementPage,
		try: func(c *check) {
			got, err := c.admin.GetNamespaceProperties(c.ctx, nil)
			c.must(err)
			if got.Name == "" || got.SKU == "" || got.CreatedTime.IsZero() {
				c.Errorf("name %q, SKU %q, created %v", got.Name, got.SKU, got.CreatedTime)
			}
		},
	}),
	withAdmin(feature{
		name: "a message passes four queues and no more", page: deadLettersPage + "#moving-messages-to-the-dlq",
		entities: entities{queues: map[string]admin.QueueProperties{
			"q1": {ForwardTo: new("q2")}, "q2": {ForwardTo: new("q3")}, "q3": {ForwardTo: new("q4")},
			"q4": {ForwardTo: new("q5")}, "q5": {ForwardTo: new("q6")}, "q6": {},
		}},
		try: func(c *check) {
			c.send("q2", text("four")...)
			c.equal("after four hops", string(c.one(c.receiver("q6")).Body), "four")
			c.send("q1", text("five")...)
			letter := c.one(c.receiver("q5", azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueTransfer}))
			c.equal("reason", value(letter.DeadLetterReason), "MaxTransferHopCountExceeded")
		},
	}),
}

func (c *check) queue(name string) *admin.GetQueueResponse {
	c.Helper()
	q, err := c.admin.GetQueue(c.ctx, name, nil)
	c.must(err)
	if q == nil {
		c.Fatalf("the queue %s is missing", name)
	}
	return q
}

// deleteQueue deletes a queue that may be gone.
func (c *check) deleteQueue(name string) {
	if _, err := c.admin.DeleteQueue(c.ctx, name, nil); err != nil && !isGone(err) {
		c.Logf("delete %s: %v", name, err)
	}
}
