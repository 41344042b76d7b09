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
)

// showLetter writes all that is known of a dead letter, for people.
func showLetter(w io.Writer, found deadletter.Found, record deadletter.Record, guide deadletter.Guide) {
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
	if l.StoodForCount > 0 {
		line("Stood for", fmt.Sprintf("%d more messages of the same users: %s", l.StoodForCount, strings.Join(l.StoodFor, ", ")))
	}
	if l.Replays > 0 {
		line("Replays", fmt.Sprintf("%d, the last by run %s", l.Replays, l.Run))
	}
	fmt.Fprintf(w, "\nWhat happened:  %s\nWhat to do:     %s\n", guide.Meaning, guide.Action)

	if len(record.Properties) > 0 {
		fmt.Fprintln(w, "\nProperties")
		for _, name := range slices.Sorted(maps.Keys(record.Properties)) {
			value, _ := json.Marshal(record.Properties[name])
			fmt.Fprintf(w, "  %s = %s\n", plain(name), plain(string(value)))
		}
	}
	line("\nContent type", record.ContentType)
	line("Session", record.SessionID)
	fmt.Fprintln(w, "\nBody")
	fmt.Fprintln(w, body(record))
}

// body is the body as people can read it.
func body(r deadletter.Record) string {
	switch {
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
