package consumer_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
)

// losesAnswer loses the first answer with deferred messages, as the client library does when it
// loses its link: it asks again, and Service Bus answers that there are no such messages.
type losesAnswer struct {
	consumer.Receiver
	lost atomic.Bool
}

func (r *losesAnswer) ReceiveDeferredMessages(ctx context.Context, numbers []int64,
	o *azservicebus.ReceiveDeferredMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	if r.lost.CompareAndSwap(false, true) {
		if _, err := r.Receiver.ReceiveDeferredMessages(ctx, numbers, o); err != nil {
			return nil, err
		}
	}
	return r.Receiver.ReceiveDeferredMessages(ctx, numbers, o)
}

func TestDeferredMessagesWhoseAnswerWasLostComeBackAfterTheirLock(t *testing.T) {
	s := settings{wrap: func(r consumer.Receiver) consumer.Receiver { return &losesAnswer{Receiver: r} }}
	inBubble(t, s, func(t *testing.T, w *world) {
		w.send(about(ada), about(grace))
		for n := 0; n < 2; {
			received, err := w.receiver.ReceiveMessages(t.Context(), 2, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range received {
				n++
				if err := w.receiver.DeferMessage(t.Context(), m, nil); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.run()
		w.settled(90 * time.Second)
		w.wantRevoked(ada, grace)
	})
}
