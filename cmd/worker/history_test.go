package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/emulator/graph"
)

// narrow fails the test if a line has more than 80 columns.
func (r result) narrow(t *testing.T) {
	t.Helper()
	for line := range strings.Lines(r.stdout) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

// unwrapped returns the result with its lines joined, so that a test finds a text that is wrapped.
func (r result) unwrapped() result {
	r.stdout = strings.Join(strings.Fields(r.stdout), " ")
	return r
}

// TestHistoryAndReplay follows people from events to calls, dead letters, a replay, and a manual
// revocation, by the commands that an operator has for it.
func TestHistoryAndReplay(t *testing.T) {
	c := newCloud(t, 4, time.Minute)
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	c.env = append(c.env, "REVOKER_AUDIT_FILE="+file, "REVOKER_OPS_ADDRESS=127.0.0.1:1", "REVOKER_RETRY_NOT_FOUND_FOR=0s",
		"REVOKER_LOG_HASH_USERS=true", "REVOKER_RETRY_INITIAL_INTERVAL=50ms")
	c.command("", "status", "--peek", "0").want(t, 1, "no worker could be asked", "connection refused")
	c.command("", "status", "--worker", "http://u:p@x:1").want(t, 2, "give only the host and port")
	ops := c.address(c.start("REVOKER_OPS_ADDRESS=127.0.0.1:0"), opsLine)
	c.env = append(c.env, "REVOKER_OPS_ADDRESS="+ops)
	c.command("", "send", "--type", "device.stolen", "user0@contoso.com", "nobody@contoso.com").want(t, 0)
	c.until("both", func() bool { return c.revoked(1) == 1 && c.counts().DeadLetter == 1 })
	c.command("", "revoke", "user1@contoso.com", "--reason", "she called", "--by", "grace").want(t, 0)

	// Graph has recorded a call before the worker has the answer.
	c.until("the worker's count", func() bool { return strings.Contains(c.command("", "status").stdout, "Last signed out") })
	seen := c.command("", "status")
	seen.want(t, 0, "People are being signed out.", "Last signed out", "events: 1 (1 UserNotFound)", "Worker")
	seen.narrow(t)
	c.command("", "status", "--worker", ops+",localhost:1", "-o", "json").want(t, 1, `"state": "partly"`, "localhost:1")

	c.commandIn("", []string{"REVOKER_OPS_WORKERS=localhost:1"}, "status", "--peek", "0").
		want(t, 1, "http://localhost:1 could not be asked")

	replayed := c.command("", "dlq", "replay", "--all", "--yes", "--wait", "--why", "the account is back")
	replayed.want(t, 1, "1 of 1 dead letter replayed", "Done: 1 message is a dead letter again", "1 dead letters again: UserNotFound")
	_, run, _ := strings.Cut(replayed.stdout, "(run ")
	run, _, _ = strings.Cut(run, ")")
	c.command("", "dlq", "status", run).want(t, 0, "1 message sent", "1 dead_lettered")
	c.command("", "dlq", "status", strings.ToUpper(run), "-o", "json", "--audit", file).want(t, 0, `"UserNotFound": 1`)
	c.command("", "dlq", "status", id(0)).want(t, 5, "No message of this run")
	c.command("", "dlq", "status", "1").want(t, 2, "not the id of a run")
	if err := c.graph.AddUser(graph.User{ID: id(9), UserPrincipalName: "nobody@contoso.com", UserType: "Member"}); err != nil {
		t.Fatal(err)
	}
	c.command("", "dlq", "replay", "--all", "--yes", "--wait", "--lock-wait", "5s").want(t, 0, "Done: no message", "1 revoked")

	nobody := c.command("", "history", "NOBODY@contoso.com")
	nobody.unwrapped().want(t, 0, "UserNotFound", "replayed the dead letter", "why: the account is back", "Back in the queue", "Yes: ")
	nobody.narrow(t)
	c.command("", "history", "user1@contoso.com").unwrapped().want(t, 0, "by hand by grace", "why: she called")
	c.command("", "history", "user3@contoso.com").want(t, 5, "no record in this log names")
	c.command("", "history", "../x").want(t, 2, "neither an object id")

	report := c.command("", "audit", "report")
	report.want(t, 0, "Every event led to a revocation within 1h (2 of 2)", "dlq replay by", "0 problems")
	report.narrow(t)
	c.command("", "audit", "report", "--from", "2001-01-01", "--to", "2001-01-02").want(t, 0, "No event in this period")
	c.command("", "audit", "report", "--from", "2001-01-02", "--to", "2001-01-01").want(t, 2, "the period is empty")
	c.command("", "audit", "report", "--target", "-1h").want(t, 2, "not a positive duration")
	c.command("", "audit", "report", "-o", "html").want(t, 0, "<!doctype html>", "dlq replay")
	c.command("", "audit", "report", "-o", "csv").want(t, 0, "kind,user,event_type,")
	c.command("", "audit", "report", "-o", "ndjson").want(t, 0, `"met":2`)
	c.command("", "history", "user0@contoso.com", "-o", "csv").want(t, 2, "not table, json or ndjson")

	// Standard input, a damaged line, and a file whose last line has no end.
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.ndjson")
	if err := os.WriteFile(cut, text[:len(text)-9], 0o600); err != nil {
		t.Fatal(err)
	}
	c.command("", "history", "user0@contoso.com", cut).unwrapped().want(t, 0, "Yes: user0@contoso.com was signed out",
		"lines of the log that cannot be read: 1", "being written")
	c.command(string(text), "history", "user0@contoso.com", cut, "-").unwrapped().want(t, 0, "cannot be read: 1", "follows record")
	c.commandIn("", []string{"REVOKER_AUDIT_FILE="}, "history", "user0@contoso.com").want(t, 2, "name the files")
	c.command("", "history", "user0@contoso.com", t.TempDir()).want(t, 2, "is a directory")

	c.graph.Inject(graph.Fault{Status: 503})
	c.command("", "send", "--type", "device.stolen", "user2@contoso.com", "user3@contoso.com", "user1@contoso.com").want(t, 0)
	c.until("the breaker", func() bool { return c.command("", "status", "--peek", "0").code == 1 })
	c.command("", "status").want(t, 1, "People are not being signed out, none since 20", "HTTP 503")
}
