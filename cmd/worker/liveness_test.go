package main_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// defaults removes the settings with which newCloud makes tests quicker.
func (c *cloud) defaults() {
	c.env = slices.DeleteFunc(c.env, func(setting string) bool {
		return strings.HasPrefix(setting, "REVOKER_CONSUMER_") || strings.HasPrefix(setting, "REVOKER_DEDUPE_")
	})
}

// sendMany sends messages in batches.
func (c *cloud) sendMany(messages ...*azservicebus.Message) {
	c.t.Helper()
	client := c.client()
	defer client.Close(context.Background())
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	for len(messages) > 0 {
		batch, err := sender.NewMessageBatch(c.t.Context(), nil)
		if err != nil {
			c.t.Fatal(err)
		}
		for len(messages) > 0 && batch.NumMessages() < 500 && batch.AddMessage(messages[0], nil) == nil {
			messages = messages[1:]
		}
		if batch.NumMessages() == 0 {
			c.t.Fatal("a message is larger than a batch may be")
		}
		if err := sender.SendMessageBatch(c.t.Context(), batch, nil); err != nil {
			c.t.Fatal(err)
		}
	}
}

// peak returns the peak memory of the process in bytes, or 0 if it is unknown.
func (p *process) peak() int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, _ := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			return kib << 10
		}
	}
	return 0
}

// maxMemory is the most memory that the worker may need under any mix of attacks. It is below the
// chart's limit.
const maxMemory = 128 << 20

func (p *process) wantLittleMemory(t *testing.T) {
	t.Helper()
	peak := p.peak()
	if peak > maxMemory {
		t.Errorf("the worker needed %d MiB, more than %d MiB", peak>>20, maxMemory>>20)
	}
	t.Logf("memory: %d MiB at most", peak>>20)
}

// TestLivenessWhoeverFails reports a stolen device after many users who keep failing for reasons of
// their own. The worker must call Graph for it in the time that the liveness guarantee allows.
func TestLivenessWhoeverFails(t *testing.T) {
	many := long(10_000, 1_000)
	for name, trouble := range map[string]struct {
		users  int
		fault  graph.Fault
		within time.Duration
	}{
		"403": {many, graph.Fault{Status: http.StatusForbidden}, 30 * time.Second},
		"404": {
			many,
			graph.Fault{Status: http.StatusNotFound, Body: `{"error":{"code":"Request_ResourceNotFound"}}`},
			30 * time.Second,
		},
		"value is false":       {many, graph.Fault{ValueFalse: true}, 30 * time.Second},
		"503 for ever":         {200, graph.Fault{Status: http.StatusServiceUnavailable}, 30 * time.Second},
		"connections that end": {200, graph.Fault{Drop: true}, 30 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCloud(t, trouble.users+1, time.Minute)
			c.defaults()
			var messages []*azservicebus.Message
			for i := range trouble.users {
				fault := trouble.fault
				fault.User = id(i)
				c.graph.Inject(fault)
				messages = append(messages, about(i))
			}
			victim := trouble.users
			c.sendMany(append(messages, about(victim))...)
			began := time.Now()
			p := c.start()
			called := func() bool { _, ok := c.graph.Revoked(id(victim)); return ok }
			c.until("the call for the stolen device", called)
			took := time.Since(began)
			if took > trouble.within {
				t.Errorf("called after %s, want within %s", took, trouble.within)
			}
			t.Logf("called after %s, behind %d users", took.Round(time.Millisecond), trouble.users)
			p.wantLittleMemory(t)
		})
	}
}

func TestLivenessWhateverCannotBeRead(t *testing.T) {
	unreadable, within := long(1_000, 100), 10*time.Second
	c := newCloud(t, 1, time.Minute)
	c.defaults()
	for i := range unreadable {
		c.inject(poisons[i%len(poisons)])
	}
	c.send(about(0))
	began := time.Now()
	p := c.start()
	c.until("the call for the stolen device", func() bool { return c.revoked(1) == 1 })
	took := time.Since(began)
	if took > within {
		t.Errorf("called after %s, want within %s", took, within)
	}
	t.Logf("called after %s, behind %d messages", took.Round(time.Millisecond), unreadable)
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	if counts := c.counts(); counts.DeadLetter != unreadable {
		t.Errorf("%+v, want %d dead letters", counts, unreadable)
	}
	letters, err := c.broker.Peek(queue+"/$DeadLetterQueue", 0, unreadable)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range letters {
		if l.DeadLetterReason != string(deadletter.UnreadableMessage) || l.DeliveryCount != 0 {
			t.Errorf("message %d is dead-lettered as %q (%s) after %d failed deliveries", l.SequenceNumber, l.DeadLetterReason,
				l.DeadLetterDescription, l.DeliveryCount)
		}
	}
	p.wantLittleMemory(t)
}
