package replay

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
	// Original is the message of an entity as it was encoded, if the client library cannot read all of it and it is still
	// kept: that of a sanitizer. Without one there are no originals.
	Original func(entity string, sequence int64) ([]byte, bool)
	// Timeout bounds one question to Service Bus. Defaults to 12 s.
	Timeout time.Duration

	deferred bool // the messages are deferred ones of the entity itself
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
	// Original is the message as it was encoded, where the client library cannot read all of it; empty if it is not at hand.
	Original []byte
}

// changed says that the client library cannot read all of the message.
func (l Letter) changed() bool { return l.Unreadable != "" || l.Mended != "" }

// read reads a dead letter that was received or peeked at just now.
func (q *Queue) read(m *azservicebus.ReceivedMessage) Found {
	found := Found{Letter: q.newLetter(m), Message: m}
	if found.changed() && q.Original != nil {
		path := q.Entity
		if !q.deferred {
			path += "/$DeadLetterQueue"
		}
		found.Original, _ = q.Original(path, found.SequenceNumber)
	}
	return found
}

// Find peeks at the dead letters that the filter picks, in the order of their sequence numbers; it locks and changes
// nothing. Memory is that of one page, whatever the number. An error ends the sequence.
func (q *Queue) Find(ctx context.Context, f Filter) iter.Seq2[Found, error] {
	return q.scan(ctx, f, func(*azservicebus.ReceivedMessage) bool { return true })
}

// FindDeferred peeks at the messages that the worker has set aside as deferred, like Find at dead letters; q.Receiver must be
// one of the entity itself. Service Bus offers no peek at deferred messages alone, so it goes past all the others: a page of
// 500 in some milliseconds. A reason, in a filter, fits none.
func (q *Queue) FindDeferred(ctx context.Context, f Filter) iter.Seq2[Found, error] {
	mine := *q
	mine.deferred = true
	return mine.scan(ctx, f, func(m *azservicebus.ReceivedMessage) bool { return m.State == azservicebus.MessageStateDeferred })
}

// scan peeks at the messages that pick and the filter pick.
func (q *Queue) scan(ctx context.Context, f Filter, picks func(*azservicebus.ReceivedMessage) bool) iter.Seq2[Found, error] {
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
				sequence := int64(0)
				if m.SequenceNumber != nil {
					sequence = *m.SequenceNumber
				}
				from = sequence + 1
				if f.beyond(sequence) {
					return
				}
				if !picks(m) { // before it is read: a queue may hold many others
					continue
				}
				found := q.read(m)
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
			messages, err = nil, fmt.Errorf("%s from sequence number %d on: %w", q.what(), from, errUnreadable)
		}
	}()
	messages, err = q.Receiver.PeekMessages(ctx, pageSize, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
	if err != nil {
		return nil, fmt.Errorf("peek at the %s: %w", q.what(), err)
	}
	return messages, nil
}

// what names the messages in errors.
func (q *Queue) what() string {
	if q.deferred {
		return "messages of " + q.Entity
	}
	return "dead letters of " + q.Entity
}

func (q *Queue) within(ctx context.Context) (context.Context, context.CancelFunc) {
	if q.Timeout == 0 {
		return context.WithTimeout(ctx, 12*time.Second)
	}
	return context.WithTimeout(ctx, q.Timeout)
}
