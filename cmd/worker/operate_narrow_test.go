package main_test

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestListFitsTheTerminal(t *testing.T) {
	c := newCloud(t, 3, time.Minute)
	c.deadLetter(queue, events(3), "RetriesExhausted", "MaxDeliveryCountExceeded", "UserNotFound")
	narrow := c.commandIn("", []string{"COLUMNS=80"}, "dlq", "list")
	narrow.want(t, 0, "1  20", id(0)+"  RetriesExhausted\n  attempts 0  because of that")
	narrow.narrow(t)
	c.commandIn("", []string{"COLUMNS=80"}, "event", "explain").narrow(t)
	c.commandIn("", []string{"COLUMNS=80"}, "dlq", "show", "1").narrow(t)
	c.command("", "dlq", "list").want(t, 0, "NUMBER  ENQUEUED") // a pipe has no width
	x := c.terminal(nil, "dlq", "list")
	if code := x.code(); code != 0 || !strings.Contains(x.out.String(), "2  20") || strings.Contains(x.out.String(), "NUMBER") {
		t.Errorf("%d: %s", code, &x.out)
	}
}

func TestListRefusesFiltersThatCanPickNothing(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.deadLetter(queue, events(1), "Own")
	c.command("", "dlq", "list", "--reason", "UserNotFuond").want(t, 2, "did you mean UserNotFound?")
	c.command("", "dlq", "list", "--reason", "own").want(t, 0, "Own") // of another program
	c.command("", "dlq", "list", "--user", "no one").want(t, 2, "--user: ")
	c.command("", "dlq", "list", "--user", "serial-number:C02XL0").want(t, 0, "that the filter picks")
	c.command("", "dlq", "list", "--group-by", "hour").want(t, 0, "HOUR", ":00Z")
	c.command("", "dlq", "list", "--group-by", "week").want(t, 2, "reason, user, hour or day")
	c.command("", "__complete", "dlq", "list", "--reason", "").want(t, 0, "UserNotFound\n", "TTLExpiredException\n")
	c.command("", "__complete", "dlq", "list", "--group-by", "").want(t, 0, "hour\n")
	c.command("", "__complete", "send", "--type", "").want(t, 0, "device.stolen\n")
	c.command("", "__complete", "audit", "report", "--output", "").want(t, 0, "html\n")
}

func TestSendRefusesRatesAndPrintsEventIDs(t *testing.T) {
	c := newCloud(t, 2, time.Minute)
	c.command("", "send", "--type", "device.lost", id(0), "--id", "e-1").want(t, 0, "event id e-1")
	c.command("", "send", "--type", "device.lost", id(0), id(1), "-o", "json").want(t, 0, `"eventIds": [`)
	for _, rate := range []string{"-1", "NaN", "+Inf"} {
		c.command("", "send", "--type", "device.lost", id(0), "--rate", rate).want(t, 2, "--rate")
		c.command("", "dlq", "replay", "--all", "--yes", "--rate", rate).want(t, 2, "--rate")
		c.command("{}", "dlq", "import", "-", "--rate", rate).want(t, 2, "--rate")
	}
}

func TestCommandWhoseOutputIsLostFails(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.deadLetter(queue, events(1), "UserNotFound")
	for _, format := range []string{"table", "json", "ndjson"} {
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Skip("there is no /dev/full here")
		}
		if code := c.commandTo(full, "dlq", "list", "-o", format); code != 1 {
			t.Errorf("%s: exit code %d, want 1", format, code)
		}
		_ = full.Close()
	}
}
