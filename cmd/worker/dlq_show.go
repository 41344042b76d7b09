package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/replay"
)

// showLetter writes all that is known of a dead letter, for people.
func showLetter(w io.Writer, found replay.Found, record replay.Record, guide deadletter.Guide) {
	l := found.Letter
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-18s %s\n", name, plain(value))
		}
	}
	line("Sequence number", fmt.Sprint(l.SequenceNumber))
	line("Source", l.Source)
	line("Enqueued", when(l.Enqueued))
	line("Message id", l.MessageID)
	line("Users", strings.Join(l.Users, ", "))
	line("Event types", strings.Join(l.Types, ", "))
	line("Events' sources", strings.Join(l.Producers, ", "))
	if len(l.FailedEvents) > 0 {
		line("Failed events", strings.Trim(fmt.Sprint(l.FailedEvents), "[]")+" (counted from 0; the others succeeded)")
	}
	fmt.Fprintln(w)
	line("Reason", l.Reason)
	line("Description", l.Description)
	line("Attempts", fmt.Sprint(l.Attempts))
	line("Graph's answer", strings.TrimSpace(l.Status+" "+l.Code))
	line("Request id", l.RequestID)
	line("Client request id", l.ClientRequestID)
	if l.SupersededCount > 0 {
		line("Stood for", fmt.Sprintf("%d more messages of the same users: %s", l.SupersededCount, strings.Join(l.Superseded, ", ")))
	}
	if l.Replays > 0 {
		line("Replays", fmt.Sprintf("%d, the last by run %s of %s at %s", l.Replays, l.Run, l.ReplayedBy, l.ReplayedAt))
		line("First message id", l.OriginalID)
	}
	if l.Unreadable != "" {
		line("Unreadable", l.Unreadable+": nobody can act on it, and a replay leaves it out; worker dlq export keeps its bytes")
	}
	if l.Mended != "" {
		line("Partly unreadable", l.Mended+": the worker acts without it, and a replay sends the message without it; worker dlq export keeps all its bytes")
	}
	fmt.Fprintf(w, "\nWhat happened:  %s\nWhat to do:     %s\n", guide.Meaning, guide.Action)

	showProperties(w, "Properties, by the producer", record.Properties)
	showProperties(w, "Not believed: under the worker's names, but not written by the worker", l.NotBelieved)
	line("\nContent type", record.ContentType)
	line("Session", record.SessionID)
	fmt.Fprintln(w, "\nBody")
	fmt.Fprintln(w, body(record))
}

func showProperties(w io.Writer, title string, properties map[string]any) {
	if len(properties) == 0 {
		return
	}
	fmt.Fprintln(w, "\n"+title)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		value, _ := json.Marshal(properties[name])
		fmt.Fprintf(w, "  %s = %s\n", plain(name), plain(string(value)))
	}
}

// body is the body as people can read it.
func body(r replay.Record) string {
	switch {
	case r.Letter.Unreadable != "":
		return "(cannot be read: " + plain(r.Letter.Unreadable) + ")"
	case r.BodyText != nil:
		return plainLines(*r.BodyText)
	case r.BodyBase64 != "":
		return "(bytes, in base64) " + r.BodyBase64
	case r.BodyAMQP != "":
		return "(no bytes but AMQP values: nobody can act on it; encoded, in base64) " + r.BodyAMQP
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, r.Body, "", "  ") != nil {
		return plainLines(string(r.Body))
	}
	return plainLines(pretty.String())
}

func plainLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = plain(strings.TrimRight(lines[i], "\r"))
	}
	return strings.Join(lines, "\n")
}
