package deadletter

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/event"
)

// Receiver is what is needed of a receiver of dead letters; *azservicebus.Receiver is one.
type Receiver interface {
	PeekMessages(ctx context.Context, maxMessageCount int, options *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	ReceiveMessages(ctx context.Context, maxMessages int, options *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.AbandonMessageOptions) error
	Close(ctx context.Context) error
}

// Sender is what is needed of a sender; *azservicebus.Sender is one.
type Sender interface {
	NewMessageBatch(ctx context.Context, options *azservicebus.MessageBatchOptions) (*azservicebus.MessageBatch, error)
	SendMessageBatch(ctx context.Context, batch *azservicebus.MessageBatch, options *azservicebus.SendMessageBatchOptions) error
}

// Queue is the dead-letter queue of one queue or subscription. Its methods may be called one at a time.
type Queue struct {
	// Entity is the queue or subscription (TOPIC/Subscriptions/NAME), without $DeadLetterQueue.
	Entity string
	// Receiver peeks at the dead letters, and gives back; it never receives.
	Receiver Receiver
	// Open makes another receiver of them, for one replay or purge.
	Open func() (Receiver, error)
	// Decoder reads the events; it should accept every type. Without one, users and types stay empty.
	Decoder *event.Decoder
	// Timeout bounds one question to Service Bus. Defaults to 12 s.
	Timeout time.Duration
}

// pageSize is how many messages are asked for at once. Service Bus may answer with fewer.
const pageSize = 500

// errUnreadable: the SDK panicked over a message. Service Bus writes text into both properties of what it dead-letters itself,
// so another program must have dead-lettered it.
var errUnreadable = errors.New("the Service Bus SDK cannot read a message (a property DeadLetterReason or DeadLetterErrorDescription that is no text makes it panic): remove it by another client")

// Found is a dead letter that a filter picks.
type Found struct {
	Letter
	Message *azservicebus.ReceivedMessage
}

// Find peeks at the dead letters that the filter picks, in the order of their sequence numbers; it locks and changes
// nothing. Memory is that of one page, whatever the number. An error ends the sequence.
func (q *Queue) Find(ctx context.Context, f Filter) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		from, n := f.first(), 0
		for {
			messages, err := q.peek(ctx, from)
			if err != nil {
				yield(Found{}, err)
				return
			}
			if len(messages) == 0 {
				return
			}
			for _, m := range messages {
				found := Found{q.newLetter(m), m}
				from = found.SequenceNumber + 1
				if f.beyond(found.SequenceNumber) {
					return
				}
				if !f.Match(found.Letter) {
					continue
				}
				if n++; !yield(found, nil) || n == f.Limit {
					return
				}
			}
		}
	}
}

// peek asks for a page of messages from a sequence number on.
func (q *Queue) peek(ctx context.Context, from int64) (messages []*azservicebus.ReceivedMessage, err error) {
	ctx, cancel := q.within(ctx)
	defer cancel()
	defer func() {
		if recover() != nil {
			messages, err = nil, fmt.Errorf("dead letters of %s from sequence number %d on: %w", q.Entity, from, errUnreadable)
		}
	}()
	messages, err = q.Receiver.PeekMessages(ctx, pageSize, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
	if err != nil {
		return nil, fmt.Errorf("peek at the dead letters of %s: %w", q.Entity, err)
	}
	return messages, nil
}

func (q *Queue) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if q.Timeout == 0 {
		return context.WithTimeout(ctx, 12*time.Second)
	}
	return context.WithTimeout(ctx, q.Timeout)
}
