package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/sync/errgroup"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
	"github.com/session-revoker/session-revoker/replay"
)

// result holds what a command printed, and its exit code.
type result struct {
	stdout, stderr string
	code           int
}

// command runs a command of the worker.
func (c *cloud) command(stdin string, args ...string) result {
	c.t.Helper()
	return c.commandIn(stdin, nil, args...)
}

func (c *cloud) commandIn(stdin string, env []string, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(append([]string{}, c.env...), env...)
	cmd.Dir = c.t.TempDir()
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// commandTo runs a command that prints to a file, and returns its exit code.
func (c *cloud) commandTo(stdout *os.File, args ...string) int {
	c.t.Helper()
	cmd := exec.Command(binary, args...)
	cmd.Env, cmd.Stdout = c.env, stdout
	if err := cmd.Run(); cmd.ProcessState == nil {
		c.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode()
}

// want fails the test unless the command ended with the exit code and printed each text.
func (r result) want(t *testing.T, code int, texts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, want %d\n%s%s", r.code, code, r.stdout, r.stderr)
	}
	for _, text := range texts {
		if !strings.Contains(r.stdout+r.stderr, text) {
			t.Errorf("the output does not contain %q:\n%s%s", text, r.stdout, r.stderr)
		}
	}
	if strings.Contains(r.stderr, "goroutine ") {
		t.Errorf("the command printed a stack trace:\n%s", r.stderr)
	}
}

// deadLetter sends messages and dead-letters them. It uses one reason after the other, in the order
// of their sequence numbers: the client may return a message that it was late for after the next.
func (c *cloud) deadLetter(entity string, messages []*azservicebus.Message, reasons ...string) {
	c.t.Helper()
	client := c.client()
	defer client.Close(context.Background())
	var receiver *azservicebus.Receiver
	var err error
	to := entity
	if topic, subscription, ok := strings.Cut(entity, "/Subscriptions/"); ok {
		to = topic
		receiver, err = client.NewReceiverForSubscription(topic, subscription, nil)
	} else {
		receiver, err = client.NewReceiverForQueue(entity, nil)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	sender, err := client.NewSender(to, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for len(messages) > 0 {
		some := messages[:min(100, len(messages))]
		messages = messages[len(some):]
		batch, err := sender.NewMessageBatch(ctx, nil)
		if err != nil {
			c.t.Fatal(err)
		}
		for _, m := range some {
			if err := batch.AddMessage(m, nil); err != nil {
				c.t.Fatal(err)
			}
		}
		if err := sender.SendMessageBatch(ctx, batch, nil); err != nil {
			c.t.Fatal(err)
		}
		var group errgroup.Group
		for left := len(some); left > 0; {
			received, err := receiver.ReceiveMessages(ctx, left, nil)
			if err != nil {
				c.t.Fatal(err)
			}
			left -= len(received)
			for _, m := range received {
				reason, description := reasons[int(*m.SequenceNumber-1)%len(reasons)], "because of that"
				group.Go(func() error {
					return receiver.DeadLetterMessage(ctx, m,
						&azservicebus.DeadLetterOptions{Reason: &reason, ErrorDescription: &description})
				})
			}
		}
		if err := group.Wait(); err != nil {
			c.t.Fatal(err)
		}
	}
}

func events(n int) []*azservicebus.Message {
	messages := make([]*azservicebus.Message, n)
	for i := range messages {
		messages[i] = about(i)
		messages[i].MessageID = new(fmt.Sprintf("message-%d", i))
	}
	return messages
}

func TestDLQListShowReplay(t *testing.T) {
	c := newCloud(t, 10, time.Minute)
	c.deadLetter(queue, events(9), "RetriesExhausted", "UserNotFound", "NotRevoked")

	c.command("", "dlq", "list").want(t, 0, "ENQUEUED", id(0), "RetriesExhausted", "because of that")
	c.command("", "dlq", "list", "--group-by", "reason").want(t, 0, "RetriesExhausted      3")
	c.command("", "dlq", "list", "--reason", "nothing").want(t, 0, "No dead letter that the filter picks.")
	c.command("", "dlq", "list", "--reason", "nothing, NotRevoked").want(t, 0, id(2), id(5), id(8))
	c.command("", "dlq", "list", "--seq", " 1, 3-3 ").want(t, 0, id(0), id(2))
	c.command("", "dlq", "list", "--reason", "NotRevoked,").want(t, 2, "--reason", "an empty item")
	c.command("", "dlq", "list", "--seq", "1,,2").want(t, 2, "--seq", "an empty item")
	c.command("", "dlq", "list", "--reason", "nothing", "-o", "json").want(t, 0, "[]")
	var listed []replay.Letter
	if err := json.Unmarshal([]byte(c.command("", "dlq", "list", "-o", "json", "--limit", "4").stdout), &listed); err != nil ||
		len(listed) != 4 {
		t.Errorf("%v, %+v", err, listed)
	}
	c.command("", "dlq", "show", "2").want(t, 0, "UserNotFound", "message-1", "What to do  ", "Correct the producer's mapping",
		`"userId": "`+id(1)+`"`)
	c.command("", "dlq", "show", "2", "-o", "json").want(t, 0, `"action": "Correct the producer's mapping`)
	c.command("", "dlq", "show", "99").want(t, 5, "no dead letter with the sequence number 99")

	c.command("", "dlq", "replay").want(t, 2, "--all")
	c.command("", "dlq", "replay", "--all", "--reason", "x").want(t, 2, "use only one of them")
	c.command("", "dlq", "replay", "--reason", "NotRevoked", "--dry-run").want(t, 0, id(2), id(5), id(8), "3 dead letters")
	c.command("n\n", "dlq", "replay", "--reason", "NotRevoked").want(t, 1, "Replay 3 dead letters (3 NotRevoked)", "nothing was replayed")
	if counts := c.counts(); counts.Active != 0 || counts.DeadLetter != 9 {
		t.Fatalf("%+v", counts)
	}
	c.command("y\n", "dlq", "replay", "--reason", "NotRevoked", "--rate", "0").want(t, 0, "3 of 3 dead letters replayed")
	c.command("", "dlq", "replay", "--seq", "1,4-4", "--yes", "--rate", "0", "--lock-wait", "5s", "-o", "json").want(t, 0, `"replayed": 2`)
	if counts := c.counts(); counts.Active != 5 || counts.DeadLetter != 4 {
		t.Fatalf("%+v", counts)
	}
	c.start()
	c.until("the replayed users", func() bool { return c.counts().Active == 0 && c.revoked(10) == 5 })
	c.command("", "dlq", "replay", "--all", "--yes").want(t, 0, "4 of 4")
	c.until("everybody", func() bool { return c.counts().Active == 0 && c.revoked(9) == 9 })
	c.command("", "dlq", "list").want(t, 0, "No dead letters.")
}

func TestDLQTextFromOutsideCannotControlTheTerminal(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.deadLetter(queue, []*azservicebus.Message{{Body: []byte("\x1b[2J\x1b]0;gotcha\x07 \u202eevil")}}, "\x1b[31mRed")
	for _, args := range [][]string{
		{"dlq", "list"},
		{"dlq", "show", "1"},
		{"dlq", "list", "--group-by", "reason"},
		{"dlq", "replay", "--all", "--dry-run"},
	} {
		if out := c.command("", args...); strings.ContainsAny(out.stdout+out.stderr, "\x1b\x07\u202e") {
			t.Errorf("%v: %q", args, out.stdout+out.stderr)
		}
	}
}

func TestDLQPurgeExportEditImport(t *testing.T) {
	c := newCloud(t, 4, time.Minute)
	dir := t.TempDir()
	bad := events(3)
	bad[1].Body = []byte(`{"type":"device.lost","userid":"` + id(1) + `"}`)
	c.deadLetter(queue, bad, "UserNotFound", "InvalidEvent", "UserNotFound")

	file := filepath.Join(dir, "bad.ndjson")
	c.command("", "dlq", "export", file, "--reason", "InvalidEvent").want(t, 0, "1 dead letter written")
	c.command("", "dlq", "export", file).want(t, 2, "exists already")
	c.command("", "dlq", "export", "-", "--limit", "1").want(t, 0, `"messageId":"message-0"`)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, bytes.Replace(text, []byte("userid"), []byte("userId"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	c.command("", "dlq", "import", file, "--dry-run").want(t, 0, "1 well-formed message would be sent")
	c.command("{}\n", "dlq", "import", "-").want(t, 2, "line 1", "nothing was sent")
	c.command(string(text), "dlq", "import", "-", "--dry-run").want(t, 1, "line 1: ", "the worker would refuse 1 event")
	record := []string{"REVOKER_AUDIT_FILE=" + filepath.Join(dir, "audit.ndjson")}
	c.commandIn("", record, "dlq", "import", file).want(t, 0, "1 of 1 message sent")
	c.commandIn("", record, "dlq", "import", file).want(t, 2, "nothing was sent", "was imported at", "--again")
	c.commandIn("", record, "dlq", "import", file, "--again").want(t, 0, "1 of 1 message sent")
	c.command("", "dlq", "export", filepath.Join(dir, "all.ndjson"), "--all").want(t, 0, "3 dead letters written")
	c.command("", "dlq", "export", filepath.Join(dir, "x.ndjson"), "--all", "--limit", "1", "--user", id(1)).
		want(t, 2, "--all and a filter")

	asked := c.command("3\n", "dlq", "purge", "--all", "--export", file)
	if asked.want(t, 2, "exists already"); strings.Contains(asked.stderr, "Type how many") {
		t.Error("it asks before it looks for the file")
	}
	c.command("2\n", "dlq", "purge", "--all").want(t, 1, "Type how many to confirm (3)", "nothing was removed")
	c.command("", "dlq", "purge", "--all", "--confirm", "2").want(t, 1, "nothing was removed")
	c.command("", "dlq", "purge", "--all", "--dry-run").want(t, 0,
		"Would remove 3 dead letters (2 UserNotFound, 1 InvalidEvent) of events")
	gone := filepath.Join(dir, "gone.ndjson")
	c.command("1\n", "dlq", "purge", "--reason", "InvalidEvent", "--export", gone).want(t, 0, "1 dead letter removed")
	if counts := c.counts(); counts.Active != 2 || counts.DeadLetter != 2 {
		t.Fatalf("%+v", counts)
	}
	text, err = os.ReadFile(gone)
	if err != nil || !bytes.Contains(text, []byte("message-1")) || bytes.Count(text, []byte("\n")) != 1 {
		t.Errorf("%v: %s", err, text)
	}
	c.start()
	c.until("the mended event", func() bool { return c.counts().Active == 0 && c.revoked(4) == 1 })
}

// TestDLQPurgeLeavesNoEmptyFile: somebody else holds the only dead letter.
func TestDLQPurgeLeavesNoEmptyFile(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.deadLetter(queue, events(1), "UserNotFound")
	client := c.client()
	defer client.Close(context.Background())
	other, err := client.NewReceiverForQueue(queue, &azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	held, err := other.ReceiveMessages(ctx, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "gone.ndjson")
	purge := []string{"dlq", "purge", "--all", "--confirm", "1", "--export", file, "--lock-wait", "100ms"}
	c.command("", purge...).want(t, 1, "No dead letters were removed, and no file was written",
		"not done: 1 dead letter; repeat the command")
	if _, err := os.Stat(file); !os.IsNotExist(err) {
		t.Errorf("the file is there: %v", err)
	}
	if err := other.AbandonMessage(ctx, held[0], nil); err != nil {
		t.Fatal(err)
	}
	c.command("", purge...).want(t, 0, "1 dead letter removed and written to "+file)
}

func TestDLQOfSubscriptions(t *testing.T) {
	c := newCloud(t, 3, time.Minute)
	c.deadLetter("devices/Subscriptions/worker", events(3), "RetriesExhausted")
	sources := "--servicebus.sources=" + queue + ",devices/Subscriptions/worker"
	none := "--servicebus.queue="
	c.command("", "dlq", "list", none, sources).want(t, 0, "SOURCE", "devices/Subscriptions/worker")
	c.command("", "dlq", "list", none, sources, "--source", "else").want(t, 2, "not configured")
	c.deadLetter(queue, events(3), "UserNotFound")
	for _, command := range [][]string{{"dlq", "list", "-o", "ndjson"}, {"dlq", "export", "-"}} {
		got := c.command("", append(command, none, sources, "--limit", "4")...)
		if got.want(t, 0); strings.Count(got.stdout, "\n") != 4 {
			t.Errorf("%v --limit 4 over two sources: %d lines\n%s", command, strings.Count(got.stdout, "\n"), got.stdout)
		}
	}
	c.command("", "dlq", "replay", none, sources, "--all", "--yes").want(t, 2, "--to")
	c.command("", "dlq", "replay", none, sources, "--source", "devices/subscriptions/worker", "--to", queue, "--yes",
		"--rate", "0").want(t, 0, "3 of 3")
	if counts := c.counts(); counts.Active != 3 {
		t.Errorf("%+v", counts)
	}
}

func TestErrorsAreOneSentenceWithAnExitCode(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.deadLetter(queue, events(1), "RetriesExhausted")
	address := strings.TrimPrefix(strings.SplitN(c.env[1], ";", 2)[0], "REVOKER_SERVICEBUS_CONNECTION_STRING=Endpoint=sb://")
	connection := func(host, rest string) []string {
		return []string{"REVOKER_SERVICEBUS_CONNECTION_STRING=Endpoint=sb://" + host + ";" + rest + ";UseDevelopmentEmulator=true"}
	}
	key := func(name, value string) string { return "SharedAccessKeyName=" + name + ";SharedAccessKey=" + value }
	root := key(servicebus.DefaultKey.Name, servicebus.DefaultKey.Value)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts connections, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mute.Close() }) // after the parallel tests
	expired := "SharedAccessSignature=SharedAccessSignature sr=" +
		strings.ReplaceAll(strings.ReplaceAll("amqp://"+address, ":", "%3a"), "/", "%2f") + "&sig=x&se=1&skn=" +
		servicebus.DefaultKey.Name
	for name, want := range map[string]struct {
		env   []string
		args  []string
		code  int
		texts []string
	}{
		"nobody there": {
			connection("127.0.0.1:1", root),
			[]string{"dlq", "list"},
			4,
			[]string{"no answer from Service Bus", "open outgoing TCP to"},
		},
		"no answer":   {connection(mute.Addr().String(), root), []string{"dlq", "list"}, 4, []string{"no answer from Service Bus"}},
		"wrong queue": {[]string{"REVOKER_SERVICEBUS_QUEUE=nowhere"}, []string{"dlq", "list"}, 5, []string{"no such queue"}},
		"wrong key": {
			connection(address, key(servicebus.DefaultKey.Name, "wrong")),
			[]string{"dlq", "list"},
			3,
			[]string{"refuses access", "Data Receiver"},
		},
		"expired token": {connection(address, expired), []string{"dlq", "list"}, 3, []string{"refuses access"}},
		"no right to send": {
			connection(address, key("reader", "r")),
			[]string{"dlq", "replay", "--all", "--yes"},
			3,
			[]string{"sending to", "Data Sender"},
		},
		"no right to read": {connection(address, key("writer", "w")), []string{"dlq", "list"}, 3, []string{"Data Receiver"}},
		"no configuration": {
			[]string{"REVOKER_SERVICEBUS_CONNECTION_STRING=", "REVOKER_SERVICEBUS_QUEUE="},
			[]string{"dlq", "list"},
			2,
			[]string{"servicebus"},
		},
		"a wrong flag":   {nil, []string{"dlq", "list", "--nonsense"}, 2, []string{"--nonsense"}},
		"a wrong time":   {nil, []string{"dlq", "list", "--since", "yesterday"}, 2, []string{"yesterday"}},
		"a wrong format": {nil, []string{"dlq", "list", "-o", "xml"}, 2, []string{"xml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			got := c.commandIn("", want.env, want.args...)
			got.want(t, want.code, want.texts...)
			if want.code > 2 && strings.Count(strings.TrimSpace(got.stderr), "\n") > 0 {
				t.Errorf("the error is more than one sentence:\n%s", got.stderr)
			}
			// The limit is twelve seconds for the answer. A busy machine takes more to start and to stop.
			if took := time.Since(start); took > 45*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestDLQReplayLosesNothingWhenKilled(t *testing.T) {
	t.Parallel()
	random := newRand(t)
	const letters, kills = 2000, 50
	c := newCloud(t, 1, 2*time.Second) // short locks, so that what a killed run had locked comes back soon
	c.deadLetter(queue, events(letters), "RetriesExhausted")
	everywhere := func() (nowhere, twice int) {
		seen := map[string]int{}
		for _, name := range []string{queue, queue + "/$DeadLetterQueue"} {
			for from := int64(0); ; {
				page, err := c.broker.Peek(name, from, 1000)
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					break
				}
				for _, m := range page {
					from = m.SequenceNumber + 1
					original, ok := m.ApplicationProperties[deadletter.PropertyOriginalID].(string)
					if !ok {
						original = m.MessageID
					}
					seen[original]++
				}
			}
		}
		for i := range letters {
			switch n := seen[fmt.Sprintf("message-%d", i)]; {
			case n == 0:
				nowhere++
			case n > 1:
				twice++
			}
		}
		return nowhere, twice
	}
	early := 0
	for range kills {
		cmd := exec.Command(binary, "dlq", "replay", "--all", "--yes", "--rate", "100")
		cmd.Env = c.env
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// A random time between the start and the last message of its share.
		before, share := c.counts().Active, random.IntN(letters/kills)
		deadline := time.Now().Add(300*time.Millisecond + upTo(random, 300*time.Millisecond)) // it may have to wait for locks
		for c.counts().Active <= before+share && time.Now().Before(deadline) {
			time.Sleep(time.Millisecond)
		}
		if c.counts().Active == before {
			early++
		}
		if err := cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		if nowhere, _ := everywhere(); nowhere > 0 {
			t.Fatalf("%d messages are lost", nowhere)
		}
	}
	left := c.counts().DeadLetter
	if early == kills || left == 0 {
		t.Fatalf("the scenario is wrong: %d of %d runs were killed before they sent anything; %d are left", early, kills, left)
	}
	c.command("", "dlq", "replay", "--all", "--yes", "--rate", "0").want(t, 0, fmt.Sprintf("%d of %d", left, left))
	nowhere, twice := everywhere()
	if counts := c.counts(); nowhere > 0 || counts.DeadLetter != 0 {
		t.Errorf("%d messages are nowhere; %+v", nowhere, counts)
	}
	t.Logf("%d of %d kills came before anything was sent; %d messages are there twice", early, kills, twice)
}
