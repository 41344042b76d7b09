package ingest_test

import (
	"context"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/config"
	events "github.com/session-revoker/session-revoker/event"
)

func bearerSource(t *testing.T, name string) config.IngestSource {
	t.Helper()
	return config.IngestSource{Name: name, Path: "/" + name, Verify: "bearer", SecretFile: secretFile(t, theKey)}
}

var right = []string{"Authorization", "Bearer " + theKey}

func with(more ...string) []string { return append(append([]string{}, right...), more...) }

func TestMessageHasTheBodyAsItIsAndWhatIsKnown(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}}, func(w *world) {
		const body = " {\"a\":1,\r\n \"a\":2}\x00\xff "
		const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
		w.want("a request", w.post("/hr", body, with("Content-Type", "application/json; charset=iso-8859-1", "traceparent", traceparent,
			"revoker-attempts", "5")...), 200)
		receiver, err := w.broker.Client(w.t).NewReceiverForQueue(queue, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := receiver.ReceiveMessages(context.Background(), 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		m := got[0]
		if string(m.Body) != body || *m.ContentType != "application/json; charset=iso-8859-1" {
			t.Errorf("%q, %s", m.Body, *m.ContentType)
		}
		received, err := time.Parse(time.RFC3339Nano, m.ApplicationProperties["received"].(string))
		if err != nil || time.Since(received) > time.Minute {
			t.Errorf("received %v, %v", received, err)
		}
		if len(m.ApplicationProperties) != 3 || m.ApplicationProperties["source"] != "hr" ||
			m.ApplicationProperties["traceparent"] != traceparent {
			t.Errorf("properties %v", m.ApplicationProperties)
		}
	})
}

func TestMessageOfACloudEventInBinaryForm(t *testing.T) {
	sources := []config.IngestSource{
		{Name: "events", Path: "/events", Verify: "cloudevents", SecretFile: secretFile(t, theKey)},
		{Name: "signed", Path: "/signed", Verify: "github", SecretFile: secretFile(t, theKey)},
	}
	inWorld(t, settings{sources: sources}, func(w *world) {
		attributes := []string{
			"ce-specversion", "1.0", "ce-id", "7", "ce-source", "/mdm", "ce-type", "device.lost", "ce-subject", "caf%C3%A9",
		}
		w.want("an event", w.post("/events", event, with(attributes...)...), 200)
		m := w.wantQueued("an event", 1)
		if !strings.HasPrefix(m.MessageID, "events:/mdm 7:") || m.ApplicationProperties["cloudEvents:type"] != "device.lost" ||
			m.ApplicationProperties["cloudEvents:subject"] != "café" {
			t.Errorf("%s: %v", m.MessageID, m.ApplicationProperties)
		}
		decoder, err := events.NewDecoder(events.Config{})
		if err != nil {
			t.Fatal(err)
		}
		items, err := decoder.Decode(events.Message{Properties: m.ApplicationProperties, Body: m.Body})
		if err != nil || items[0].Err != nil || items[0].Event.ID != "7" {
			t.Errorf("the worker does not read it: %+v, %v", items, err)
		}
		// A signature of the body does not prove the headers.
		w.want("signed", w.post("/signed", event, append(attributes, "X-Hub-Signature-256", "sha256="+hexMAC(event))...), 200)
		if m := w.wantQueued("signed", 2); m.ApplicationProperties["cloudEvents:type"] != nil {
			t.Errorf("headers that nobody signed: %v", m.ApplicationProperties)
		}
	})
}

func TestMessageIDIsStableAndBounded(t *testing.T) {
	sources := []config.IngestSource{
		bearerSource(t, "one"), bearerSource(t, "two"),
		{Name: "ids", Path: "/ids", Verify: "header", Header: "X-Key", IDHeader: "X-ID", SecretFile: secretFile(t, theKey)},
	}
	inWorld(t, settings{sources: sources}, func(w *world) {
		n := 0
		id := func(path, body string, header ...string) string {
			t.Helper()
			n++
			w.want("a request", w.post(path, body, header...), 200)
			return w.wantQueued("a request", n).MessageID
		}
		first := id("/one", event, right...)
		if again := id("/one", event, right...); again != first {
			t.Errorf("a repeat has another ID: %s and %s", first, again)
		}
		if other := id("/one", event+" ", right...); other == first {
			t.Error("another body has the same ID")
		}
		if other := id("/two", event, right...); other == first {
			t.Error("another source has the same ID: with duplicate detection, one sender could suppress another's event")
		}
		seen := map[string]bool{}
		for _, own := range []string{"7", strings.Repeat("x", 200), strings.Repeat("x", 199) + "y", "a\tb", "\xff", "ids:7"} {
			got := id("/ids", event, "X-Key", theKey, "X-ID", own)
			if utf8.RuneCountInString(got) > 128 || seen[got] || !strings.HasPrefix(got, "ids:") {
				t.Errorf("%.20q has the ID %q", own, got)
			}
			seen[got] = true
		}
	})
}

func TestMessageHasItsOwnSessionWhereTheQueueRequiresOne(t *testing.T) {
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, sessions: true}, func(w *world) {
		w.want("a request", w.post("/hr", event, right...), 200)
		w.want("another", w.post("/hr", event+" ", right...), 200)
		client := w.broker.Client(w.t)
		for range 2 { // two sessions can be held at the same time
			session, err := client.AcceptNextSessionForQueue(context.Background(), queue, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := session.ReceiveMessages(context.Background(), 5, nil); err != nil || len(got) != 1 {
				t.Errorf("%d messages in a session, %v", len(got), err)
			}
		}
	})
}

// TestReplayIsAnsweredAlikeAndPublishedOnce: a sender that missed the answer must have success, and
// whoever recorded a request must not get it onto the queue again.
func TestReplayIsAnsweredAlikeAndPublishedOnce(t *testing.T) {
	source := config.IngestSource{Name: "hr", Path: "/hr", Verify: "bamboohr", SecretFile: secretFile(t, theKey)}
	inWorld(t, settings{sources: []config.IngestSource{source}}, func(w *world) {
		send := func(at string) int {
			return w.post("/hr", event, "X-BambooHR-Signature", hexMAC(event, at), "X-BambooHR-Timestamp", at).Code
		}
		first := now()
		for range 3 {
			if got := send(first); got != 200 {
				t.Errorf("%d", got)
			}
		}
		id := w.wantQueued("the same request three times", 1).MessageID
		time.Sleep(time.Minute)
		if got := send(now()); got != 200 {
			t.Errorf("signed again: %d", got)
		}
		if again := w.wantQueued("signed again", 2).MessageID; again != id {
			t.Errorf("the same event has two IDs: %s and %s", id, again)
		}
		time.Sleep(5 * time.Minute)
		if got := send(first); got != 403 {
			t.Errorf("after the tolerance: %d", got)
		}
		w.wantQueued("in the end", 2)
	})
}

// TestReplayOfARequestThatWasNotAcceptedIsPublished: only what is on the queue may be answered so.
func TestReplayOfARequestThatWasNotAcceptedIsPublished(t *testing.T) {
	source := config.IngestSource{Name: "hr", Path: "/hr", Verify: "bamboohr", SecretFile: secretFile(t, theKey)}
	faults := &faulty{}
	inWorld(t, settings{sources: []config.IngestSource{source}, wrap: faults.wrap}, func(w *world) {
		at := now()
		send := func() int {
			return w.post("/hr", event, "X-BambooHR-Signature", hexMAC(event, at), "X-BambooHR-Timestamp", at).Code
		}
		faults.set(errAway)
		if got := send(); got != 503 {
			t.Errorf("Service Bus is away: %d", got)
		}
		faults.set(nil)
		if got := send(); got != 200 {
			t.Errorf("Service Bus is back: %d", got)
		}
		w.wantQueued("the repeat", 1)
	})
}
