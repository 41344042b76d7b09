// Package replay is the operators' side of dead letters: it finds, replays, removes, exports and
// imports them, and finds deferred messages. The worker's hot path does not use it; package
// deadletter holds what both share.
package replay

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/event"
	"github.com/session-revoker/session-revoker/schedule"
	"github.com/session-revoker/session-revoker/servicebus"
)

// Receiver is what a Queue needs of a receiver of dead letters. *azservicebus.Receiver implements
// it.
type Receiver interface {
	PeekMessages(
		ctx context.Context, maxMessageCount int, options *azservicebus.PeekMessagesOptions,
	) ([]*azservicebus.ReceivedMessage, error)
	ReceiveMessages(
		ctx context.Context, maxMessages int, options *azservicebus.ReceiveMessagesOptions,
	) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.CompleteMessageOptions) error
	AbandonMessage(ctx context.Context, message *azservicebus.ReceivedMessage, options *azservicebus.AbandonMessageOptions) error
	Close(ctx context.Context) error
}

// Sender is what a replay needs of a sender. *azservicebus.Sender implements it.
type Sender interface {
	NewMessageBatch(ctx context.Context, options *azservicebus.MessageBatchOptions) (*azservicebus.MessageBatch, error)
	SendMessageBatch(ctx context.Context, batch *azservicebus.MessageBatch, options *azservicebus.SendMessageBatchOptions) error
}

// Decoder decodes messages; *event.Decoder and *mapping.Decoder are such.
type Decoder interface {
	Decode(message event.Message) ([]event.Item, error)
}

// Queue is the dead-letter queue of one queue or subscription. Its methods must not be called
// concurrently.
type Queue struct {
	// Entity is the queue or subscription (TOPIC/Subscriptions/NAME), without $DeadLetterQueue.
	Entity string
	// Receiver peeks at the dead letters and unlocks them. It never receives.
	Receiver Receiver
	// Open returns another receiver of the dead letters, for one replay or purge, which closes it.
	Open func() (Receiver, error)
	// Decoder reads the events. It should accept every type. If it is nil, the users and types of
	// the letters stay empty.
	Decoder Decoder
	// Original returns a message of an entity as it was encoded, if the client library cannot read
	// all of it and the original is still in memory. It is a sanitizer's. If it is nil, no
	// originals are available.
	Original func(entity string, sequence int64) ([]byte, bool)
	// Timeout limits one request to Service Bus. The default is 12 s.
	Timeout time.Duration

	deferred bool // the messages are deferred or scheduled messages of the entity itself
}

const (
	// pageSize is the number of messages in one peek. Service Bus may return fewer.
	pageSize = 500
	// defaultTimeout is the default of Queue.Timeout.
	defaultTimeout = 12 * time.Second
)

// errUnreadable means that the SDK panicked over a message. Service Bus writes strings into both
// properties of what it dead-letters itself, so another program must have dead-lettered the
// message.
var errUnreadable = errors.New("the Service Bus SDK cannot read a message: its property DeadLetterReason or " +
	"DeadLetterErrorDescription is not a string, which makes the SDK panic; remove the message with another client")

// Found is a dead letter that a filter picks.
type Found struct {
	Letter
	Message *azservicebus.ReceivedMessage
	// Original is the message as it was encoded, if the client library cannot read all of it. It is
	// empty if the original is not available.
	Original []byte
}

// changed reports whether the client library cannot read all of the message.
func (l Letter) changed() bool { return l.Unreadable != "" || l.Mended != "" }

// read reads a dead letter that was just received or peeked at.
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

// Find peeks at the dead letters that the filter picks, in the order of their sequence numbers. It
// locks and changes nothing, and holds one page in memory, however many letters there are. An error
// ends the sequence.
func (q *Queue) Find(ctx context.Context, f Filter) iter.Seq2[Found, error] {
	return q.scan(ctx, f, func(*azservicebus.ReceivedMessage) bool { return true })
}

// FindDeferred peeks at the messages that the worker has deferred, as Find does at dead letters.
// q.Receiver must be one of the entity itself. Service Bus cannot peek at deferred messages alone,
// so FindDeferred reads all the others too: a page of 500 takes some milliseconds. A filter with a
// reason picks none.
func (q *Queue) FindDeferred(ctx context.Context, f Filter) iter.Seq2[Found, error] {
	mine := *q
	mine.deferred = true
	return mine.scan(ctx, f, func(m *azservicebus.ReceivedMessage) bool { return m.State == azservicebus.MessageStateDeferred })
}

// FindScheduled peeks at the messages that the worker has scheduled, as FindDeferred does at those that
// it has deferred. It picks none without a Decoder.
func (q *Queue) FindScheduled(ctx context.Context, f Filter) iter.Seq2[Found, error] {
	mine := *q
	mine.deferred = true
	return mine.scan(ctx, f, func(m *azservicebus.ReceivedMessage) bool {
		if q.Decoder == nil {
			return false
		}
		_, ok := schedule.Read(m, q.Decoder)
		return ok
	})
}

// scan peeks at the messages that both picks and the filter pick.
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
				if !picks(m) { // before decoding the message, because a queue may hold many others
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

// peek returns a page of messages, from a sequence number on.
func (q *Queue) peek(ctx context.Context, from int64) ([]*azservicebus.ReceivedMessage, error) {
	ctx, cancel := q.within(ctx)
	defer cancel()
	messages, err := servicebus.Guard(func() ([]*azservicebus.ReceivedMessage, error) {
		return q.Receiver.PeekMessages(ctx, pageSize, &azservicebus.PeekMessagesOptions{FromSequenceNumber: &from})
	})
	switch {
	case errors.Is(err, servicebus.ErrUnreadable):
		return nil, fmt.Errorf("%s, from sequence number %d on: %w", q.what(), from, errUnreadable)
	case err != nil:
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
		return context.WithTimeout(ctx, defaultTimeout)
	}
	return context.WithTimeout(ctx, q.Timeout)
}
