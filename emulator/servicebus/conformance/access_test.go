package conformance

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
)

const (
	signaturePage  = "service-bus-sas"
	exceptionsPage = "service-bus-messaging-exceptions"
)

var access = []feature{
	{
		name: "an entity that does not exist is not found", page: exceptionsPage,
		try: func(c *check) {
			client := c.impatient(c.connection)
			sender, err := client.NewSender(c.of("missing"), nil)
			c.must(err)
			c.refused("send", sender.SendMessage(c.ctx, text("a")[0], nil), azservicebus.CodeNotFound)
			r, err := c.receiverOf(client, "missing")
			c.must(err)
			_, err = r.ReceiveMessages(c.ctx, 1, nil)
			c.refused("receive", err, azservicebus.CodeNotFound)
			_, err = client.AcceptSessionForQueue(c.ctx, c.of("missing"), "x", nil)
			c.refused("accept a session", err, azservicebus.CodeNotFound)
		},
	},
	{
		name: "names ignore case", page: "service-bus-queues-topics-subscriptions", entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			sender, err := c.client.NewSender(strings.ToUpper(c.of("q")), nil)
			c.must(err)
			c.must(sender.SendMessage(c.ctx, text("a")[0], nil))
			c.holds("q", "a")
		},
	},
	{
		name: "a wrong key is refused", page: signaturePage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			wrong := strings.Replace(c.connection, c.parsed.key, "bm90IHRoZSByaWdodCBrZXk=", 1)
			c.refused("send", c.sendWith(wrong), azservicebus.CodeUnauthorizedAccess)
		},
	},
	{
		name: "a signature expires and is for its entity only", page: signaturePage, entities: oneQueue(admin.QueueProperties{}),
		try: func(c *check) {
			c.must(c.sendWith(c.signed(c.of("q"), time.Now().Add(time.Hour))))
			c.refused("expired", c.sendWith(c.signed(c.of("q"), time.Now().Add(-time.Hour))), azservicebus.CodeUnauthorizedAccess)
			c.refused("of another entity", c.sendWith(c.signed("other", time.Now().Add(time.Hour))), azservicebus.CodeUnauthorizedAccess)
		},
	},
	{
		name: "Listen does not send, and Send does not receive", page: signaturePage, entities: oneQueue(admin.QueueProperties{}),
		needs: needs{claims: true},
		try: func(c *check) {
			c.must(c.sendWith(c.sendOnly))
			c.refused("send with Listen", c.sendWith(c.listenOnly), azservicebus.CodeUnauthorizedAccess)
			for connection, allowed := range map[string]bool{c.listenOnly: true, c.sendOnly: false} {
				r, err := c.receiverOf(c.impatient(connection), "q")
				c.must(err)
				_, err = r.ReceiveMessages(c.ctx, 1, nil)
				if allowed {
					c.must(err)
				} else {
					c.refused("receive with Send", err, azservicebus.CodeUnauthorizedAccess)
				}
			}
		},
	},
}

// sendWith sends a message to the queue q with this connection string.
func (c *check) sendWith(connection string) error {
	c.Helper()
	sender, err := c.impatient(connection).NewSender(c.of("q"), nil)
	c.must(err)
	return sender.SendMessage(c.ctx, text("a")[0], nil)
}

// signed returns a connection string with a signature for an entity.
func (c *check) signed(entity string, until time.Time) string {
	resource := strings.ToLower(url.QueryEscape(c.audience(entity)))
	mac := hmac.New(sha256.New, []byte(c.parsed.key))
	fmt.Fprintf(mac, "%s\n%d", resource, until.Unix())
	signature := fmt.Sprintf("SharedAccessSignature sr=%s&sig=%s&se=%d&skn=%s", resource,
		url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))), until.Unix(), c.parsed.keyName)
	return fmt.Sprintf("Endpoint=sb://%s/;SharedAccessSignature=%s;UseDevelopmentEmulator=%v", c.parsed.host, signature, c.parsed.emulator)
}

// audience returns the URL of an entity for which the client asks a token.
func (c *check) audience(entity string) string {
	scheme := "amqps"
	if c.parsed.emulator {
		scheme = "amqp"
	}
	return (&url.URL{Scheme: scheme, Host: c.parsed.host, Path: "/" + entity}).String()
}
