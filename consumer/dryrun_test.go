package consumer_test

import (
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

func TestDryRunDecidesAndChangesNothing(t *testing.T) {
	inBubble(t, settings{}, func(t *testing.T, w *world) {
		w.send(about(ada), about(ada), about(glass), &azservicebus.Message{Body: []byte("rubbish")}, named(guest.UserPrincipalName))
		ended := make(chan struct{})
		go func() { defer close(ended); w.worker.DryRun(w.soft) }()
		time.Sleep(10 * time.Second)
		w.send(about(grace)) // comes later
		time.Sleep(10 * time.Second)
		if !w.health.Alive() || len(w.health.Problems()) != 0 {
			t.Errorf("health %v", w.health.Problems())
		}
		w.stopSoft()
		<-ended
		lines := strings.Join(w.lines(), "\n")
		for text, want := range map[string]int{
			`"would_revoke"`: 3, `"would_dead_letter"`: 3,
			`"ProtectedUser"`: 1, `"InvalidEvent"`: 1, `"ExternalUser"`: 1, `"outcome":"revoked"`: 0,
		} {
			if got := strings.Count(lines, text); got != want {
				t.Errorf("%s: %d lines, want %d\n%s", text, got, want, lines)
			}
		}
		if calls := w.graph.Calls(); len(calls) != 0 {
			t.Errorf("%d calls", len(calls))
		}
		messages, err := w.broker.Peek(queue, 0, 10)
		if err != nil || len(messages) != 6 {
			t.Fatalf("%d messages, %v", len(messages), err)
		}
		for _, m := range messages {
			if m.State != "active" || m.DeliveryCount != 0 {
				t.Errorf("changed: %+v", m)
			}
		}
		w.wantDead(nil)
	})
}
