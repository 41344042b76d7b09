package main_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
)

// blur matches what differs from run to run, and has what the documentation shows instead.
var blur = []struct {
	differs *regexp.Regexp
	written string
}{
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ`), "2026-03-01 02:14:07Z"},
	{regexp.MustCompile(`run [0-9a-f-]{36}`), "run 6c9bbefc-0597-4d45-b4e1-ba7ea47a1d46"},
}

// TestRunbookSession runs the session that docs/runbook.md shows, with the real program, and
// compares what it prints.
func TestRunbookSession(t *testing.T) {
	c := newCloud(t, 6, time.Minute)
	const away = "gave up after 8 attempts in 4m12s: Graph is unavailable or something else answered in its place " +
		"(HTTP 503 serviceUnavailable)"
	for i := range 4 {
		m := about(i)
		m.MessageID = new(fmt.Sprintf("intune-%d", 4711+i))
		c.deadLetterAs(m, "RetriesExhausted", away, map[string]any{
			deadletter.PropertyAttempts: "8", deadletter.PropertyStatus: "503", deadletter.PropertyCode: "serviceUnavailable",
			deadletter.PropertyRequestID: "1d1839af-d82c-4c06-9798-a4eccea0d864",
		})
	}
	c.deadLetterAs(&azservicebus.Message{Body: []byte(`{"type":"user.offboarded","userPrincipalName":"ada.lovelace@mail.contoso.com"}`)},
		"UserNotFound",
		"Graph does not know the user (HTTP 404 Request_ResourceNotFound)",
		map[string]any{deadletter.PropertyAttempts: "7", deadletter.PropertyStatus: "404"})
	c.start() // Graph works again

	var session strings.Builder
	session.WriteString("```console\n")
	say := func(stdin, line string) {
		args := strings.Fields(line)[1:]
		got := c.commandIn(stdin, []string{"COLUMNS=80"}, args...)
		if got.code != 0 {
			t.Fatalf("%s: exit code %d\n%s%s", line, got.code, got.stdout, got.stderr)
		}
		fmt.Fprintf(&session, "$ %s\n", line)
		printed := []string{got.stdout, got.stderr}
		if stdin != "" { // a question comes first
			printed = []string{got.stderr + stdin, got.stdout}
		}
		for _, printed := range printed {
			if printed = strings.TrimRight(printed, "\n"); printed != "" {
				session.WriteString(printed + "\n")
			}
		}
	}
	say("", "worker dlq list --group-by reason")
	say("", "worker dlq list --reason RetriesExhausted")
	say("", "worker dlq show 1")
	say("", "worker dlq replay --reason RetriesExhausted --dry-run")
	say("y\n", "worker dlq replay --reason RetriesExhausted")
	c.until("the replayed users", func() bool { return c.counts().Active == 0 && c.revoked(6) == 4 })
	say("1\n", "worker dlq purge --reason UserNotFound --export removed.ndjson")
	say("", "worker dlq list")
	session.WriteString("```\n")
	want := session.String()
	for _, b := range blur {
		want = b.differs.ReplaceAllString(want, b.written)
	}

	const file, open, end = "../../docs/runbook.md", "<!-- session: made by `go test ./cmd/worker -run Runbook -update` -->\n",
		"<!-- /session -->"
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := bytes.Cut(text, []byte(open))
	got, after, closed := bytes.Cut(rest, []byte(end))
	if !found || !closed {
		t.Fatal("docs/runbook.md lacks the marks around its session")
	}
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.WriteFile(file, bytes.Join([][]byte{before, []byte(open), []byte(want), []byte(end), after}, nil),
			0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if string(got) != want {
		t.Errorf("docs/runbook.md's session is out of date: run go test ./cmd/worker -run Runbook -update\n%s", want)
	}
}

// deadLetterAs sends one message and dead-letters it.
func (c *cloud) deadLetterAs(m *azservicebus.Message, reason, description string, properties map[string]any) {
	c.t.Helper()
	client := c.client()
	defer client.Close(context.Background())
	c.send(m)
	receiver, err := client.NewReceiverForQueue(queue, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	received, err := receiver.ReceiveMessages(c.t.Context(), 1, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := receiver.DeadLetterMessage(c.t.Context(), received[0], &azservicebus.DeadLetterOptions{
		Reason: &reason, ErrorDescription: &description, PropertiesToModify: properties,
	}); err != nil {
		c.t.Fatal(err)
	}
}
