package conformance

import (
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const payloadsPage = "service-bus-messages-payloads"

// messages and what they carry.
var messages = []feature{
	{
		name: "every property survives", page: payloadsPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.send("q", &azservicebus.Message{
				Body: []byte{0, 1, 0xff}, ContentType: new("application/json"), CorrelationID: new("correlation"),
				MessageID: new("id"), PartitionKey: new("session"), ReplyTo: new("reply"), ReplyToSessionID: new("reply session"),
				SessionID: new("session"), Subject: new("subject"), To: new("to"), TimeToLive: new(time.Hour),
			})
			m := c.one(c.receiver("q"))
			c.equal("body", m.Body, []byte{0, 1, 0xff})
			c.equal("message id", m.MessageID, "id")
			for name, property := range map[string]struct {
				got  *string
				want string
			}{
				"content type": {m.ContentType, "application/json"}, "correlation id": {m.CorrelationID, "correlation"},
				"partition key": {m.PartitionKey, "session"}, "reply to": {m.ReplyTo, "reply"},
				"reply-to session": {m.ReplyToSessionID, "reply session"}, "session": {m.SessionID, "session"},
				"subject": {m.Subject, "subject"}, "to": {m.To, "to"},
			} {
				c.equal(name, value(property.got), property.want)
			}
		},
	},
	{
		name: "every type of an application property survives", page: payloadsPage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			want := map[string]any{
				"bool": true, "int8": int8(-8), "int16": int16(-16), "int32": int32(-32), "int64": int64(-1 << 40),
				"uint8": uint8(8), "uint16": uint16(16), "uint32": uint32(1 << 31), "uint64": uint64(1 << 63),
				"float32": float32(1.5), "float64": 2.25, "string": "żółw", "binary": []byte{0, 255},
				"time": time.UnixMilli(1_700_000_000_123).UTC(),
			}
			c.send("q", &azservicebus.Message{ApplicationProperties: want})
			m := c.one(c.receiver("q"))
			for name := range want {
				got := m.ApplicationProperties[name]
				if at, ok := got.(time.Time); ok {
					got = at.UTC()
				}
				c.equal(name, got, want[name])
			}
			c.equal("number of properties", len(m.ApplicationProperties), len(want))
		},
	},
	{
		name: "every kind of an AMQP body survives", page: "service-bus-amqp-protocol-guide", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			sender := c.sender("q")
			for _, body := range []azservicebus.AMQPAnnotatedMessageBody{
				{Data: [][]byte{[]byte("one"), []byte("two")}},
				{Value: map[string]any{"text": "a", "number": int64(1)}},
				{Value: "text"},
				{Sequence: [][]any{{"a", int64(1)}, {true}}},
			} {
				c.must(sender.SendAMQPAnnotatedMessage(c.ctx, &azservicebus.AMQPAnnotatedMessage{Body: body}, nil))
				r := c.receiver("q", andDelete)
				got := c.one(r).RawAMQPMessage.Body
				c.must(r.Close(c.ctx))
				c.equal("body", got, body)
			}
		},
	},
	{
		name: "annotations and footer survive", page: "service-bus-amqp-protocol-guide", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.must(c.sender("q").SendAMQPAnnotatedMessage(c.ctx, &azservicebus.AMQPAnnotatedMessage{
				Body:               azservicebus.AMQPAnnotatedMessageBody{Data: [][]byte{[]byte("a")}},
				MessageAnnotations: map[any]any{"x-opt-mine": "kept"}, Footer: map[any]any{"x-opt-sum": "12"},
				Header: &azservicebus.AMQPAnnotatedMessageHeader{Durable: true, Priority: 7},
			}, nil))
			raw := c.one(c.receiver("q")).RawAMQPMessage
			c.equal("annotation", raw.MessageAnnotations["x-opt-mine"], any("kept"))
			c.equal("footer", raw.Footer["x-opt-sum"], any("12"))
			c.equal("priority", raw.Header.Priority, uint8(7))
			c.equal("durable", raw.Header.Durable, true)
		},
	},
}
