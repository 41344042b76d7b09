package conformance

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// check is the test of one feature. What it reports as an error also goes into the table.
type check struct {
	*testing.T
	ctx context.Context //nolint:containedctx // it lasts as long as the test
	*target
	naming
	client   *azservicebus.Client
	problems []string
	closers  []func()
}

// Errorf reports a difference.
func (c *check) Errorf(format string, args ...any) {
	c.Helper()
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
	c.T.Errorf(format, args...)
}

// Fatalf reports a difference after which the feature cannot be tried further.
func (c *check) Fatalf(format string, args ...any) {
	c.Helper()
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
	c.T.Fatalf(format, args...)
}

func (c *check) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatalf("%v", err)
	}
}

// equal compares by value.
func (c *check) equal(what string, got, want any) {
	c.Helper()
	if !reflect.DeepEqual(got, want) {
		c.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// refused fails unless err is the client's error with this code.
func (c *check) refused(what string, err error, code azservicebus.Code) {
	c.Helper()
	var sb *azservicebus.Error
	if !errors.As(err, &sb) || sb.Code != code {
		c.Errorf("%s: error %v, want code %s", what, err, code)
	}
}

// status fails unless err is an answer of the administration API with this status.
func (c *check) status(what string, err error, status int) {
	c.Helper()
	var response *azcore.ResponseError
	if !errors.As(err, &response) || response.StatusCode != status {
		c.Errorf("%s: error %v, want HTTP %d", what, err, status)
	}
}

// wait lets time pass: in virtual time at once, else really.
func (c *check) wait(d time.Duration) { time.Sleep(d) }

// soon is how long a feature has for what it must do before a message is due or expires. Where time is
// real, a busy machine may stop it for seconds.
const soon = 15 * time.Second

// waitUntilPast lets more than soon pass.
func (c *check) waitUntilPast() { c.wait(soon + 2*time.Second) }

// connect returns a client that is closed at the end.
func (c *check) connect(connection string) *azservicebus.Client {
	c.Helper()
	return c.connectWith(connection, c.options)
}

// impatient returns a client that does not try again, for calls that must fail.
func (c *check) impatient(connection string) *azservicebus.Client {
	c.Helper()
	options := c.options
	options.RetryOptions.MaxRetries = -1
	return c.connectWith(connection, options)
}

func (c *check) connectWith(connection string, options azservicebus.ClientOptions) *azservicebus.Client {
	c.Helper()
	client, err := azservicebus.NewClientFromConnectionString(connection, &options)
	c.must(err)
	c.closers = append(c.closers, func() { _ = client.Close(context.Background()) })
	return client
}

// close closes every client.
func (c *check) close() {
	for _, shut := range slices.Backward(c.closers) {
		shut()
	}
}

func (c *check) sender(entity string) *azservicebus.Sender {
	c.Helper()
	sender, err := c.client.NewSender(c.of(entity), nil)
	c.must(err)
	return sender
}

// send sends messages one after the other.
func (c *check) send(entity string, messages ...*azservicebus.Message) {
	c.Helper()
	sender := c.sender(entity)
	for _, m := range messages {
		c.must(sender.SendMessage(c.ctx, m, nil))
	}
	c.must(sender.Close(c.ctx))
}

// text makes messages from bodies.
func text(bodies ...string) []*azservicebus.Message {
	var all []*azservicebus.Message
	for _, body := range bodies {
		all = append(all, &azservicebus.Message{Body: []byte(body)})
	}
	return all
}

// receiver opens a receiver of a queue, or of a subscription if the name is TOPIC/SUBSCRIPTION.
func (c *check) receiver(entity string, options ...azservicebus.ReceiverOptions) *azservicebus.Receiver {
	c.Helper()
	r, err := c.receiverOf(c.client, entity, options...)
	c.must(err)
	return r
}

func (c *check) receiverOf(
	client *azservicebus.Client, entity string, options ...azservicebus.ReceiverOptions,
) (*azservicebus.Receiver, error) {
	var o azservicebus.ReceiverOptions
	if len(options) > 0 {
		o = options[0]
	}
	if topic, subscription, ok := strings.Cut(entity, "/"); ok {
		return client.NewReceiverForSubscription(c.of(topic), subscription, &o)
	}
	return client.NewReceiverForQueue(c.of(entity), &o)
}

var (
	fromDeadLetters = azservicebus.ReceiverOptions{SubQueue: azservicebus.SubQueueDeadLetter}
	andDelete       = azservicebus.ReceiverOptions{ReceiveMode: azservicebus.ReceiveModeReceiveAndDelete}
)

// taker is what plain and session receivers have in common.
type taker interface {
	ReceiveMessages(context.Context, int, *azservicebus.ReceiveMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
	CompleteMessage(context.Context, *azservicebus.ReceivedMessage, *azservicebus.CompleteMessageOptions) error
}

// take receives exactly n messages.
func (c *check) take(r taker, n int) []*azservicebus.ReceivedMessage {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	var all []*azservicebus.ReceivedMessage
	for len(all) < n {
		some, err := r.ReceiveMessages(ctx, n-len(all), nil)
		if err != nil {
			c.Fatalf("received %d of %d messages: %v", len(all), n, err)
		}
		all = append(all, some...)
	}
	return all
}

// one receives a message.
func (c *check) one(r taker) *azservicebus.ReceivedMessage {
	c.Helper()
	return c.take(r, 1)[0]
}

// nothing fails if a message arrives within two seconds.
func (c *check) nothing(what string, r taker) {
	c.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
	defer cancel()
	some, err := r.ReceiveMessages(ctx, 1, nil)
	if len(some) > 0 {
		c.Errorf("%s: received %q", what, some[0].Body)
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		c.Errorf("%s: %v", what, err)
	}
}

// complete settles messages.
func (c *check) complete(r taker, messages ...*azservicebus.ReceivedMessage) {
	c.Helper()
	for _, m := range messages {
		c.must(r.CompleteMessage(c.ctx, m, nil))
	}
}

// holds fails unless the entity and its subscriptions hold exactly messages with these bodies.
func (c *check) holds(entity string, want ...string) {
	c.Helper()
	c.peeks(c.receiver(entity), entity, want...)
}

// deadLettersAre is holds for the entity's dead letters.
func (c *check) deadLettersAre(entity string, want ...string) {
	c.Helper()
	c.peeks(c.receiver(entity, fromDeadLetters), "dead letters of "+entity, want...)
}

// peeker is what plain and session receivers have in common.
type peeker interface {
	PeekMessages(context.Context, int, *azservicebus.PeekMessagesOptions) ([]*azservicebus.ReceivedMessage, error)
}

// peeks fails unless a receiver sees exactly messages with these bodies. It tries for a while,
// because the service moves messages asynchronously.
func (c *check) peeks(r peeker, what string, want ...string) {
	c.Helper()
	var got []string
	for range 20 {
		messages, err := r.PeekMessages(c.ctx, 100, &azservicebus.PeekMessagesOptions{FromSequenceNumber: new(int64(0))})
		c.must(err)
		if got = bodies(messages); slices.Equal(got, want) {
			return
		}
		c.wait(250 * time.Millisecond)
	}
	c.Errorf("%s: got %q, want %q", what, got, want)
}

func bodies(messages []*azservicebus.ReceivedMessage) []string {
	var list []string
	for _, m := range messages {
		list = append(list, string(m.Body))
	}
	return list
}

// value returns what p points at, or the zero value.
func value[T any](p *T) (v T) {
	if p != nil {
		return *p
	}
	return v
}
