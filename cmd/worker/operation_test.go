package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// operations returns the records of operators' commands.
func operations(t *testing.T, name string) []audit.Operation {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []audit.Operation
	for line := range strings.Lines(string(text)) {
		var l struct {
			Record struct {
				Operation *audit.Operation `json:"operation"`
			} `json:"record"`
		}
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if l.Record.Operation != nil {
			all = append(all, *l.Record.Operation)
		}
	}
	return all
}

func TestAuditRecordsOfOperatorsCommands(t *testing.T) {
	c := newCloud(t, 3, time.Minute)
	dir := t.TempDir()
	file := filepath.Join(dir, "audit.ndjson")
	key := filepath.Join(dir, "audit.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 48)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	operators := filepath.Join(dir, "audit-operators.ndjson")
	env := []string{ // one call at a time
		"REVOKER_AUDIT_FILE=" + file, "REVOKER_AUDIT_KEY_FILE=" + key, "REVOKER_AUDIT_TOPIC=audit",
		"REVOKER_RETRY_NOT_FOUND_FOR=0s", "REVOKER_CONSUMER_CONCURRENCY=1",
	}
	run := func(code int, args ...string) []audit.Operation {
		t.Helper()
		before := 0
		if _, err := os.Stat(operators); err == nil {
			before = len(operations(t, operators))
		}
		c.commandIn("", env, args...).want(t, code)
		return operations(t, operators)[before:]
	}
	check := func(what string, got []audit.Operation, want ...string) {
		t.Helper()
		if len(got) != len(want) {
			t.Fatalf("%s: %d records, want %d: %+v", what, len(got), len(want), got)
		}
		for i, o := range got {
			if o.Outcome != want[i] || o.Time.IsZero() || o.By == "" || !strings.Contains(o.Account, "@") || o.Run != got[0].Run ||
				o.Run == "" {
				t.Errorf("%s: record %d: %+v, want %s", what, i, o, want[i])
			}
		}
	}
	got := run(1, "revoke", "--by", "ada", "--reason", "stolen on the train", id(0), id(9))
	check("revoke", got, audit.Started, audit.Revoked, audit.NotRevoked, audit.Failed)
	if s := got[0]; s.By != "ada" || s.Why != "stolen on the train" || s.Count != 2 ||
		fmt.Sprint(s.Users) != fmt.Sprint([]string{id(0), id(9)}) || s.Command != "revoke" {
		t.Errorf("%+v", s)
	}
	for _, o := range got[1:3] {
		if o.UserID == "" || o.Calls == 0 || o.Status == 0 || o.RequestID == "" ||
			(o.Outcome == audit.NotRevoked) != (o.Reason == "UserNotFound") {
			t.Errorf("%+v", o)
		}
	}
	if end := got[3]; end.Counts["revoked"] != 1 || end.Counts["not_revoked"] != 1 || end.Error != "not done: 1 of 2" {
		t.Errorf("%+v", end)
	}

	c.send(&azservicebus.Message{Body: []byte("rubbish")}, &azservicebus.Message{Body: []byte("rubbish")})
	p := c.start(env...)
	c.until("dead letters", func() bool { return c.counts().DeadLetter == 2 })
	p.terminate(t)
	got = run(0, "dlq", "replay", "--all", "--yes", "--why", "mended")
	check("dlq replay", got, audit.Started, audit.Done)
	if s, end := got[0], got[1]; s.Source != queue || s.To != queue || s.Messages != "1-2" || s.Count != 2 || s.Why != "mended" ||
		end.Counts["replayed"] != 2 {
		t.Errorf("%+v", got)
	}
	p = c.start(env...)
	c.until("dead letters", func() bool { return c.counts().DeadLetter == 2 })
	p.terminate(t)
	export := filepath.Join(dir, "gone.ndjson")
	got = run(0, "dlq", "purge", "--all", "--confirm", "2", "--export", export, "--by", "bob")
	check("dlq purge", got, audit.Started, audit.Done)
	if s, end := got[0], got[1]; s.File != export || s.Messages == "" || s.Count != 2 || s.By != "bob" || end.Counts["purged"] != 2 {
		t.Errorf("%+v", got)
	}
	got = run(0, "dlq", "import", export)
	check("dlq import", got, audit.Started, audit.Done)
	if s, end := got[0], got[1]; s.File != export || len(s.FileSHA256) != 64 || s.To != queue || end.Counts["sent"] != 2 {
		t.Errorf("%+v", got)
	}
	got = run(0, "guard", "release", "--max", "5000", "--reason", "site closes", "--file", filepath.Join(dir, "release.json"))
	check("guard release", got, audit.Started, audit.Done)
	if s := got[0]; s.MaxUsers != 5000 || s.Until.IsZero() || s.Why != "site closes" {
		t.Errorf("%+v", s)
	}
	if got := run(0, "dlq", "replay", "--all", "--dry-run"); len(got) != 0 {
		t.Errorf("a dry run is recorded: %+v", got)
	}

	c.command("", "audit", "verify", "--key-file", key, "--closed", operators).want(t, 0, "in 5 chains", "authentic")
	c.command("", "audit", "verify", "--key-file", key, "--closed", file).want(t, 0, "in 2 chains", "authentic")
	c.command("", "audit", "verify", file).want(t, 0, "not proof against somebody who can rewrite the file", "was not checked")

	// The published receipts prove that the files are complete.
	published := map[string]int{}
	messages, err := c.broker.Peek("audit", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var receipts strings.Builder
	for _, m := range messages {
		published[fmt.Sprint(m.ApplicationProperties["type"])]++
		fmt.Fprintf(&receipts, "%s\n", m.Body)
	}
	for kind, n := range map[string]int{
		"session.revoked": 1, "session.revocation.failed": 5, "operator.revoke": 2,
		"operator.dlq.replay": 2, "operator.dlq.purge": 2, "operator.dlq.import": 2, "operator.guard.release": 2,
	} {
		if published[kind] != n {
			t.Errorf("%d of %s are published, want %d: %v", published[kind], kind, n, published)
		}
	}
	receiptFile := filepath.Join(dir, "receipts.ndjson")
	if err := os.WriteFile(receiptFile, []byte(receipts.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	c.command("", "audit", "verify", "--key-file", key, "--receipts", receiptFile, file, operators).want(t, 0, "receipts compared")
	c.command("", "audit", "verify", "--receipts", receiptFile, file).want(t, 1, "is missing: there is a receipt for it")

	// Someone changes the file, with the key and without it.
	text, err := os.ReadFile(operators)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(strings.TrimSuffix(string(text), "\n"), "\n")
	cut := strings.Join(lines[:len(lines)-1], "")
	c.command(cut, "audit", "verify", "--key-file", key, "-").want(t, 0, "its end cannot be verified")
	c.command(cut, "audit", "verify", "--key-file", key, "--closed", "-").want(t, 1, "cannot be verified")
	other := filepath.Join(dir, "other.key")
	if err := os.WriteFile(other, []byte(strings.Repeat("o", 48)), 0o600); err != nil {
		t.Fatal(err)
	}
	c.command("", "audit", "verify", "--key-file", other, operators).want(t, 1, "another key")
	c.command("", "audit", "verify", "--key-file", filepath.Join(dir, "nowhere"), operators).want(t, 2, "--key-file")
}

func TestAuditFailureStopsOperatorsCommands(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.send(&azservicebus.Message{Body: []byte("rubbish")})
	p := c.start()
	c.until("a dead letter", func() bool { return c.counts().DeadLetter == 1 })
	p.terminate(t)
	dir := t.TempDir()
	export, release := filepath.Join(dir, "gone.ndjson"), filepath.Join(dir, "release.json")
	record := filepath.Join(dir, "letters.ndjson")
	c.command("", "dlq", "export", record).want(t, 0)
	key := filepath.Join(dir, "short.key")
	if err := os.WriteFile(key, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, env := range map[string][]string{
		"a directory that is not there": {"REVOKER_AUDIT_FILE=" + filepath.Join(dir, "nowhere", "audit.ndjson")},
		"a disk that is full":           {"REVOKER_AUDIT_FILE=/dev/full"},
		"a key that is too short":       {"REVOKER_AUDIT_FILE=" + filepath.Join(dir, "a.ndjson"), "REVOKER_AUDIT_KEY_FILE=" + key},
		"a topic that is not there":     {"REVOKER_AUDIT_TOPIC=nowhere"},
	} {
		if env[0] == "REVOKER_AUDIT_FILE=/dev/full" { // operators' commands write to another file
			full := filepath.Join(dir, "full.ndjson")
			if err := os.Symlink("/dev/full", filepath.Join(dir, "full-operators.ndjson")); err != nil {
				t.Fatal(err)
			}
			env = []string{"REVOKER_AUDIT_FILE=" + full}
		}
		t.Run(name, func(t *testing.T) {
			for _, args := range [][]string{
				{"revoke", id(0)},
				{"dlq", "replay", "--all", "--yes"},
				{"dlq", "purge", "--all", "--confirm", "1", "--export", export},
				{"dlq", "import", record},
				{"guard", "release", "--max", "5", "--file", release},
			} {
				c.commandIn("", env, args...).want(t, 1, "nothing was done")
			}
		})
	}
	c.commandIn("", []string{"REVOKER_AUDIT_KEY_FILE=" + key}, "revoke", id(0)).want(t, 2, "audit.key_file: needs audit.file")
	for _, name := range []string{export, release} {
		if _, err := os.Stat(name); err == nil {
			t.Errorf("%s was written", name)
		}
	}
	if counts := c.counts(); counts != (servicebus.Counts{DeadLetter: 1, Bytes: counts.Bytes}) || c.revoked(1) != 0 {
		t.Errorf("something was done: %+v", counts)
	}
	// In an emergency, an operator can turn off the audit log.
	c.commandIn("", []string{"REVOKER_AUDIT_FILE=/nowhere/audit.ndjson"}, "revoke", "--audit.file=", id(0)).want(t, 0, "revoked")
	// What the worker writes to standard output goes to the command's standard error.
	c.commandIn("", []string{"REVOKER_AUDIT_FILE=-"}, "revoke", "-o", "json", id(0)).want(t, 0, `"outcome":"revoked"`, `"result":true`)
}
