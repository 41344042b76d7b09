package consumer_test

import (
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// The SDK panics on a message whose property DeadLetterReason is no string. Any producer can send
// one.
func TestLivenessBesideAMessageOnWhichTheSDKPanics(t *testing.T) {
	for name, poison := range map[string]any{"a number": int64(5), "null": nil} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, settings{unguarded: true}, func(t *testing.T, w *world) {
				w.send(
					&azservicebus.Message{Body: []byte("{}"), ApplicationProperties: map[string]any{"DeadLetterReason": poison}},
					about(ada), about(grace),
				)
				w.run()
				time.Sleep(3 * time.Minute)
				w.wantRevoked(ada, grace)
				w.send(about(alan))
				time.Sleep(time.Minute)
				w.wantRevoked(ada, grace, alan)
				if counts := w.counts(); counts.Active != 1 {
					t.Errorf("%+v, want the unreadable message alone in the queue until Service Bus dead-letters it", counts)
				}
			})
		})
	}
}
