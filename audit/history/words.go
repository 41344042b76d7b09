package history

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/deadletter"
)

// notBelieved is why a record of a revocation counts for nothing.
const notBelieved = "the record that says so was changed"

// reportText says which event named the person.
func reportText(d audit.Decision, enqueued time.Time) string {
	var text strings.Builder
	text.WriteString(because(d.EventType, "an event without a type"))
	if d.EventSource != "" {
		fmt.Fprintf(&text, " by %s", d.EventSource)
	}
	if d.Mapping != "" {
		fmt.Fprintf(&text, " (mapping %s)", d.Mapping)
	}
	if d.LookedUp != "" {
		fmt.Fprintf(&text, "; it named %s", d.LookedUp)
		if d.UserID == "" && d.UserPrincipalName == "" {
			text.WriteString(", and nobody was found for that")
		}
	}
	if t := d.EventTime; !t.IsZero() && t.Sub(enqueued).Abs() >= time.Minute {
		fmt.Fprintf(&text, "; it is said to have happened on %s", clock(t))
	}
	if !d.EffectiveTime.IsZero() {
		fmt.Fprintf(&text, "; it takes effect on %s", clock(d.EffectiveTime))
	}
	return text.String()
}

// callText says which call was made.
func callText(d audit.Decision) string {
	text := "Called Graph to revoke all sessions"
	if d.Calls > 1 {
		text += fmt.Sprintf(", for the last time of %d", d.Calls)
	}
	if d.Outcome != "revoked" {
		text += "; it answered " + statusText(d.Status)
	}
	if d.RequestID != "" {
		text += " (request " + d.RequestID + ")"
	}
	return text + "."
}

func statusText(status int) string {
	if status == 0 {
		return "nothing"
	}
	return "with HTTP " + strconv.Itoa(status)
}

// effectText says what is known about the effect of a confirmed call.
func effectText(d audit.Decision, end time.Time) string {
	switch {
	case !d.ValidFromAfter.IsZero() && d.Unverified == "":
		return "Effect verified: sessions that began before " + clock(d.ValidFromAfter) + " are not valid any more."
	case d.Unverified != "":
		return "Effect not verified: " + d.Unverified + "."
	}
	return fmt.Sprintf("Effect expected within a few minutes. Apps without continuous access evaluation can accept a token until about %s.",
		clock(end.Add(time.Hour)))
}

// deadText says why the person was not signed out.
func deadText(d audit.Decision) string {
	if d.Reason == string(deadletter.NoTrigger) {
		return "Nobody was to be signed out: " + because(d.Error, d.Reason) + "."
	}
	text := "Not signed out, dead-lettered: " + inWords(d.Reason) + "."
	if d.Error != "" {
		text += " The worker's words: " + strings.TrimRight(d.Error, ". ") + "."
	}
	return text
}

// inWords returns the reason of a dead letter with what it means.
func inWords(reason string) string {
	if reason == "" {
		return "for no reason that the record gives"
	}
	meaning, _, _ := strings.Cut(strings.ReplaceAll(deadletter.GuideTo(reason).Meaning, "`", ""), ". ")
	return reason + " (" + strings.TrimSuffix(meaning, ".") + ")"
}

// because returns the text, or another one if it is empty.
func because(text, otherwise string) string {
	if text = strings.TrimRight(text, ". "); text != "" {
		return text
	}
	return otherwise
}

func byMessage(sequence int64) string {
	if sequence == 0 {
		return ""
	}
	return fmt.Sprintf(" (message %d)", sequence)
}

// instead names the scheduled messages that were canceled for a decision.
func instead(canceled []int64) string {
	switch len(canceled) {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("; the scheduled message %d was canceled", canceled[0])
	}
	return fmt.Sprintf("; %d scheduled messages were canceled", len(canceled))
}

// clock formats a time for people.
func clock(t time.Time) string {
	if t.IsZero() {
		return "an unknown date"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

// firstOf returns the first time that is not zero.
func firstOf(times ...time.Time) time.Time {
	for _, t := range times {
		if !t.IsZero() {
			return t
		}
	}
	return time.Time{}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
