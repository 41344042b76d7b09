package replay

import (
	"fmt"
	"strings"
)

// Line is one fact about a dead letter, for people. Value may hold text from outside.
type Line struct{ Name, Value string }

// Describe returns what is known about a dead letter, without what has no value: first about the
// message, and from Reason on about its failure.
func (l Letter) Describe() []Line {
	var lines []Line
	line := func(name, value string) {
		if value != "" {
			lines = append(lines, Line{name, value})
		}
	}
	line("Sequence number", fmt.Sprint(l.SequenceNumber))
	line("Source", l.Source)
	if !l.Enqueued.IsZero() {
		line("Enqueued", l.Enqueued.UTC().Format(timeFormat))
	}
	if !l.FirstEnqueued.IsZero() {
		line("First enqueued", l.FirstEnqueued.UTC().Format(timeFormat))
	}
	line("Message id", l.MessageID)
	line("Users", strings.Join(l.Users, ", "))
	line("Event types", strings.Join(l.Types, ", "))
	line("Events' sources", strings.Join(l.Producers, ", "))
	line("Mappings", strings.Join(l.Mappings, ", "))
	line("Users' fields", strings.Join(l.Fields, ", "))
	if len(l.FailedEvents) > 0 {
		line("Failed events", strings.Trim(fmt.Sprint(l.FailedEvents), "[]")+" (counted from 0; all others succeeded)")
	}
	line("Reason", l.Reason)
	line("Description", l.Description)
	line("Attempts", fmt.Sprint(l.Attempts))
	line("Graph's answer", strings.TrimSpace(l.Status+" "+l.Code))
	line("Request id", l.RequestID)
	line("Client request id", l.ClientRequestID)
	if l.SupersededCount > 0 {
		messages := "older messages"
		if l.SupersededCount == 1 {
			messages = "older message"
		}
		line("Superseded", fmt.Sprintf("%d %s of the same users: %s", l.SupersededCount, messages, strings.Join(l.Superseded, ", ")))
	}
	if l.Replays > 0 {
		line("Replays", fmt.Sprintf("%d, last in run %s by %s at %s", l.Replays, l.Run, l.ReplayedBy, l.ReplayedAt))
		line("First message id", l.OriginalID)
	}
	return lines
}

// timeFormat shows times to people.
const timeFormat = "2006-01-02 15:04:05Z"
