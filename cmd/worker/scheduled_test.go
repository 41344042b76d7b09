package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit"
)

// announce sends an event of a user with a date.
func (c *cloud) announce(i int, version, effective time.Time, more string) {
	c.t.Helper()
	const body = `{"type":"user.offboarded","userId":%q,"source":"hr","time":%q,"effectiveTime":%q%s}`
	c.send(&azservicebus.Message{Body: []byte(fmt.Sprintf(body,
		id(i), version.UTC().Format(time.RFC3339), effective.UTC().Format(time.RFC3339), more))})
}

func TestScheduledListShowCancelNow(t *testing.T) {
	c := newCloud(t, 4, time.Minute)
	c.command("", "scheduled", "list").want(t, 0, "No scheduled messages.")
	c.command("", "scheduled", "list", "-o", "json").want(t, 0, "[]")
	log := filepath.Join(t.TempDir(), "audit.ndjson")
	c.start("REVOKER_AUDIT_FILE=" + log)
	now := time.Now()
	effective := now.Add(48 * time.Hour).Truncate(time.Second)
	for i := range 3 {
		c.announce(i, now.Add(-time.Hour), effective, "")
	}
	c.announce(3, now.Add(-time.Hour), effective, `,"withdrawn":true`)
	c.until("the worker to schedule them", func() bool { k := c.counts(); return k.Scheduled == 4 && k.Active == 0 })

	list := c.command("", "scheduled", "list")
	list.want(t, 0, "TAKES EFFECT", id(0), id(1), id(2), "user.offboarded", "native", "withdrawn, kept until")
	c.command("", "scheduled", "list", "--until", "7d").want(t, 0, id(0))
	c.command("", "scheduled", "list", "--until", "1h").want(t, 0, "No scheduled message that the filter picks.")
	one := c.command("", "scheduled", "list", "--user", id(1), "-o", "ndjson")
	one.want(t, 0)
	var got struct {
		SequenceNumber int64
		EffectiveTime  time.Time
		Users          []string
		Mapping        string
	}
	if err := json.Unmarshal([]byte(one.stdout), &got); err != nil || !got.EffectiveTime.Equal(effective) || got.Mapping != "native" {
		t.Fatalf("%v: %s", err, one.stdout)
	}
	number := func(i int) string {
		out := c.command("", "scheduled", "list", "--user", id(i), "-o", "ndjson")
		if err := json.Unmarshal([]byte(out.stdout), &got); err != nil {
			t.Fatalf("%v: %s", err, out.stdout)
		}
		return strconv.FormatInt(got.SequenceNumber, 10)
	}
	c.command("", "scheduled", "show", number(0)).want(t, 0, "Takes effect", id(0), `"effectiveTime"`)
	c.command("", "scheduled", "show", "9999").want(t, 5, "no scheduled message")
	c.command("", "scheduled", "show", "x").want(t, 2, "not a sequence number")
	c.command("", "scheduled", "cancel").want(t, 2)
	c.command("", "scheduled", "cancel", "9999", "--yes").want(t, 5, "no scheduled message")

	c.command("", "history", id(0), log).unwrapped().want(t, 0, "Not yet: "+id(0)+" is to be signed out on")
	c.command("", "scheduled", "cancel", number(0), "--dry-run").want(t, 0, id(0), "Would be canceled: 1 scheduled message")
	c.command("", "scheduled", "cancel", number(0), "9999", "--dry-run").want(t, 5, id(0), "Not found: 9999", "sequence number 9999")
	c.command("n\n", "scheduled", "cancel", number(0)).want(t, 1, "nothing was changed")
	if k := c.counts(); k.Scheduled != 4 {
		t.Fatalf("%+v: something was canceled", k)
	}
	canceled := number(0)
	c.command("y\n", "scheduled", "cancel", canceled, "--audit.file="+log, "--why", "stays").want(t, 0, "1 scheduled message canceled")
	c.command("", "scheduled", "now", number(3), "--yes").want(t, 1, "nobody to sign out")
	c.command("", "scheduled", "now", number(1), "--yes", "--audit.file="+log).want(t, 0, "brought forward")
	c.until("the call", func() bool { return c.revoked(4) == 1 && c.counts().Active == 0 }) // so it is in the audit log
	if k := c.counts(); k.Scheduled != 2 {
		t.Errorf("%+v, want those of two people scheduled", k)
	}
	operators := strings.Replace(log, "audit.", "audit-operators.", 1)
	c.command("", "history", id(0), log, operators).unwrapped().
		want(t, 0, "No: "+id(0)+" is not to be signed out: the scheduled message "+canceled+" was canceled at",
			"began to cancel the scheduled message "+canceled+"; why: stays", "canceled the scheduled message "+canceled+".")
	c.command("", "history", id(1), log, operators).unwrapped().want(t, 0, "Yes: ", "and had sent its event without a date before")
	c.command("", "history", id(2), log, operators).unwrapped().want(t, 0, "Not yet: ")
	records, err := os.ReadFile(operators)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"command":"scheduled cancel"`, `"command":"scheduled now"`, `"why":"stays"`, `"canceled":1`, `"sent":1`,
	} {
		if !strings.Contains(string(records), want) {
			t.Errorf("the audit log lacks %s: %s", want, records)
		}
	}
	c.command("", "scheduled", "list", "--servicebus.queue=nowhere").want(t, 5, "no such queue")

	before := len(operations(t, operators))
	c.command("", "scheduled", "cancel", number(2), "9999", "--yes", "--audit.file="+log).want(t, 5, "1 scheduled message canceled", "9999")
	end := operations(t, operators)[before:][1]
	if end.Outcome != audit.Failed || end.Error != "left out: 1" || end.Messages == "" {
		t.Errorf("%+v", end)
	}
}
