package main_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
)

func TestDeferredList(t *testing.T) {
	c := newCloud(t, 3, time.Minute)
	c.command("", "deferred", "list").want(t, 0, "No deferred messages.")
	c.command("", "deferred", "list", "-o", "json").want(t, 0, "[]")
	c.send(events(3)...)
	c.settleEach(2, func(r *azservicebus.Receiver, m *azservicebus.ReceivedMessage) error {
		return r.DeferMessage(c.t.Context(), m, nil)
	})
	list := c.command("", "deferred", "list")
	list.want(t, 0, "ENQUEUED", "AGE", "EVENT TYPE", id(0), id(1), "device.lost", "message-1")
	if strings.Contains(list.stdout, id(2)) {
		t.Errorf("a message that was not deferred is listed:\n%s", list.stdout)
	}
	one := c.command("", "deferred", "list", "--user", id(1), "-o", "ndjson")
	one.want(t, 0)
	var got map[string]any
	if err := json.Unmarshal([]byte(one.stdout), &got); err != nil || got["sequenceNumber"] != float64(2) ||
		got["messageId"] != "message-1" || got["source"] != queue {
		t.Errorf("%v: %s", err, one.stdout)
	}
	if _, ok := got["ageSeconds"]; !ok {
		t.Errorf("%s", one.stdout)
	}
	c.command("", "deferred", "list", "--limit", "1", "--seq", "1-9").want(t, 0, id(0))
	c.command("", "deferred", "list", "--until", "1h").want(t, 0, "No deferred message that the filter picks.")
	c.command("", "deferred", "list", "--servicebus.queue=by-user", "--servicebus.sessions=4").want(t, 0, "No deferred messages.",
		"defers nothing")
	c.command("", "deferred", "list", "--servicebus.queue=nowhere").want(t, 5, "no such queue")
	c.command("", "deferred", "list", "--reason", "x").want(t, 2, "--reason")
	if counts := c.counts(); counts.Deferred != 2 || counts.Active != 1 {
		t.Errorf("%+v: listing has changed something", counts)
	}
}

// TestDLQShowMarksWhatAProducerSent checks the mark of properties with the worker's names.
func TestDLQShowMarksWhatAProducerSent(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	m := about(0)
	m.ApplicationProperties = map[string]any{"mine": "x", deadletter.PropertyOnly: "5", "revoker-else": "\u202e"}
	c.deadLetterAs(m, "UserNotFound", "why", map[string]any{deadletter.PropertyAttempts: "7", deadletter.PropertyFailed: "0"})
	show := c.command("", "dlq", "show", "1")
	show.want(t, 0, "Attempts           7", "Failed events      0", "Properties set by the producer\n  mine = \"x\"", "Not believed",
		"revoker-only-events = \"5\"")
	c.command("", "dlq", "show", "1", "-o", "json").want(t, 0, `"notBelieved": {`, `"revoker-else": "\u202e"`)
}
