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

// showLetter prints everything that is known about a dead letter. On a screen, texts are wrapped.
func showLetter(w io.Writer, onScreen bool, found replay.Found, record replay.Record, guide deadletter.Guide) {
	l := found.Letter
	line := func(name, value string) {
		switch value = plain(value); {
		case value == "":
		case onScreen:
			printHanging(w, name, len("Client request id")+2, value)
		default:
			fmt.Fprintf(w, "%-18s %s\n", name, value)
		}
	}
	for _, fact := range l.Describe() {
		if fact.Name == "Reason" {
			fmt.Fprintln(w)
		}
		line(fact.Name, fact.Value)
	}
	if l.Unreadable != "" {
		line("Unreadable", l.Unreadable+": the worker cannot handle it, and a replay leaves it out; worker dlq export keeps its bytes")
	}
	if l.Mended != "" {
		line("Partly unreadable", l.Mended+
			": the worker ignores this part, and a replay sends the message without it; worker dlq export keeps all bytes")
	}
	fmt.Fprintln(w)
	line("What happened", guide.Meaning)
	line("What to do", guide.Action)

	showProperties(w, "Properties set by the producer", record.Properties)
	showProperties(w, "Not believed: properties with the worker's names that the worker did not write", l.NotBelieved)
	fmt.Fprintln(w)
	line("Content type", record.ContentType)
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

// body returns the body in a readable form.
func body(r replay.Record) string {
	switch {
	case r.Letter.Unreadable != "":
		return "(cannot be read: " + plain(r.Letter.Unreadable) + ")"
	case r.BodyText != nil:
		return plainLines(*r.BodyText)
	case r.BodyBase64 != "":
		return "(bytes, in base64) " + r.BodyBase64
	case r.BodyAMQP != "":
		return "(AMQP values instead of bytes, which the worker cannot handle; encoded, in base64) " + r.BodyAMQP
	}
	var pretty bytes.Buffer
	if json.Indent(&pretty, r.Body, "", "  ") != nil {
		return plainLines(string(r.Body))
	}
	return plainLines(pretty.String())
}

// plainLines makes each line plain.
func plainLines(text string) string {
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = plain(strings.TrimRight(lines[i], "\r"))
	}
	return strings.Join(lines, "\n")
}
