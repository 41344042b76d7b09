package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/replay"
	"github.com/session-revoker/session-revoker/sanitizer"
	bus "github.com/session-revoker/session-revoker/servicebus"
)

// Encoded messages that the client library cannot read, and that no client can create.
var (
	// hostile has an AMQP value body: a map with a list as a key. go-amqp panics in its own
	// goroutine.
	hostile = []byte("\x00\x53\x77\xc1\x07\x02\x00\xa3\x01\x78\x45\x40")
	// odd is a valid event with the application property grade of type char, as .NET may send it in
	// good faith.
	odd = func(body string) []byte {
		text := []byte("\x00\x53\x74\xc1\x0d\x02\xa1\x05grade\x73\x00\x00\x00A")
		return append(append(text, 0, 0x53, 0x75, 0xa0, byte(len(body))), body...)
	}
)

// settleEach receives n messages as the worker does, and calls settle for each, which dead-letters
// or defers it.
func (c *cloud) settleEach(n int, settle func(*azservicebus.Receiver, *azservicebus.ReceivedMessage) error) {
	c.t.Helper()
	client, err := azservicebus.NewClientFromConnectionString(strings.TrimPrefix(c.env[1], "REVOKER_SERVICEBUS_CONNECTION_STRING="),
		&azservicebus.ClientOptions{
			NewWebSocketConn: sanitizer.New(sanitizer.Options{}).Over(bus.Dialer{Plain: true}.Dial),
		})
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close(context.Background())
	receiver, err := client.NewReceiverForQueue(queue, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for n > 0 {
		received, err := receiver.ReceiveMessages(c.t.Context(), n, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, m := range received {
			if err := settle(receiver, m); err != nil {
				c.t.Fatal(err)
			}
			n--
		}
	}
}

func (c *cloud) inject(encoded ...[]byte) {
	c.t.Helper()
	for _, one := range encoded {
		if err := c.broker.Inject(queue, one); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestDLQHandlesUnreadableLetters checks that the commands see unreadable dead letters as the
// worker does, keep their bytes, and send no stand-in.
func TestDLQHandlesUnreadableLetters(t *testing.T) {
	c := newCloud(t, 2, time.Minute)
	body := func(i int) string { return fmt.Sprintf(`{"type":"device.lost","userId":%q}`, id(i)) }
	first := odd(body(0))
	c.inject(hostile, first)
	c.settleEach(2, func(r *azservicebus.Receiver, m *azservicebus.ReceivedMessage) error {
		return r.DeadLetterMessage(c.t.Context(), m, &azservicebus.DeadLetterOptions{Reason: new("Wrong")})
	})
	c.deadLetter(queue, events(1), "RetriesExhausted")

	c.command("", "dlq", "list").want(t, 0, "[unreadable]", "[partly unreadable]", id(0))
	c.command("", "dlq", "list", "--group-by", "reason").want(t, 0, "Wrong")
	c.command("", "dlq", "show", "1").want(t, 0, "Unreadable  ", "the worker cannot handle it", "(cannot be read")
	c.command("", "dlq", "show", "2").want(t, 0, "Partly unreadable", "grade", `"userId": "`+id(0))

	file := filepath.Join(t.TempDir(), "all.ndjson")
	c.command("", "dlq", "export", file).want(t, 0, "3 dead letters written")
	records := readFile(t, file)
	for i, want := range [][]byte{hostile, first[:3]} {
		if got, err := base64.StdEncoding.DecodeString(records[i].Original); err != nil || !bytes.Contains(got, want) {
			t.Errorf("record %d: %x, %v", i, got, err)
		}
	}
	if original, _ := base64.StdEncoding.DecodeString(records[0].Original); !bytes.HasSuffix(original, hostile) {
		t.Errorf("the bytes of the body are lost: %x", original)
	}
	if records[2].Original != "" {
		t.Errorf("a readable message has an original: %+v", records[2])
	}

	c.command("", "dlq", "replay", "--all", "--dry-run").want(t, 0, "2 dead letters", "1 left out because of an unreadable body",
		"left out: sequence number 1")
	c.command("", "dlq", "replay", "--all", "--yes", "--rate", "0").want(t, 1, "2 of 2 dead letters replayed",
		"left out: sequence number 1", "1 without a part", "not replayed: 1 dead letter with an unreadable body")
	if counts := c.counts(); counts.Active != 2 || counts.DeadLetter != 1 {
		t.Errorf("%+v", counts)
	}
	c.command("", "dlq", "import", file, "--dry-run").want(t, 0, "2 well-formed messages would be sent", "line 1 left out")
	c.command("", "dlq", "import", file).want(t, 1, "2 of 2 messages sent", "line 1 left out", "not sent: 1 record without a body")

	gone := filepath.Join(t.TempDir(), "gone.ndjson")
	c.command("1\n", "dlq", "purge", "--all", "--export", gone).want(t, 0, "1 dead letter removed")
	if original, _ := base64.StdEncoding.DecodeString(readFile(t, gone)[0].Original); !bytes.HasSuffix(original, hostile) {
		t.Errorf("a purge has lost the original: %x", original)
	}
	if counts := c.counts(); counts.DeadLetter != 0 || counts.Active != 4 {
		t.Errorf("%+v", counts)
	}
	c.command("", "send", "--type", "device.lost", id(1)).want(t, 0, "1 of 1")
	c.inject(hostile, odd(body(1)))
	c.settleEach(7, func(r *azservicebus.Receiver, m *azservicebus.ReceivedMessage) error {
		return r.DeferMessage(c.t.Context(), m, nil)
	})
	c.command("", "deferred", "list").want(t, 0, id(0), id(1), "[unreadable]")
}

func readFile(t *testing.T, name string) (records []replay.Record) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		record, err := replay.ReadRecord(lines.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	return records
}
