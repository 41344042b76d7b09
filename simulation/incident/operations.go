package incident

import (
	"context"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/consumer"
)

// The kinds of operations at Service Bus.
const (
	receives = iota
	renewals
	peeks
	settlements
	deferrals
	kinds
)

// kindNames names the kinds of operations.
var kindNames = [kinds]string{"receives", "renewals", "peeks", "settlements", "deferrals"}

// credits are what an operation of each kind costs. Service Bus documents one credit for each
// message that is sent, received or peeked, and ten for an operation that manages something
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-throttling). It does not say
// what a settlement and a renewal cost. A settlement goes over the link like a message. A renewal
// is a request to the entity's management node, so ten is the cautious count.
var credits = [kinds]int{receives: 1, renewals: 10, peeks: 1, settlements: 1, deferrals: 1}

// operations counts what the workers do at Service Bus in each second. It is safe for concurrent
// use.
type operations struct {
	start time.Time // set before the first operation

	mu        sync.Mutex
	perSecond [][kinds]int
}

// add counts n operations.
func (o *operations) add(kind, n int) {
	second := int(time.Since(o.start) / time.Second)
	o.mu.Lock()
	defer o.mu.Unlock()
	for len(o.perSecond) <= second {
		o.perSecond = append(o.perSecond, [kinds]int{})
	}
	o.perSecond[second][kind] += n
}

// counted is a Receiver whose operations are counted: messages where several can be had at once, and
// requests otherwise. A request for messages that finds none counts for one.
type counted struct {
	consumer.Receiver
	ops *operations
}

// PeekMessages counts the messages.
func (c *counted) PeekMessages(
	ctx context.Context, n int, o *azservicebus.PeekMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	time.Sleep(busLatency)
	messages, err := c.Receiver.PeekMessages(ctx, n, o)
	c.ops.add(peeks, max(1, len(messages)))
	return messages, err
}

// ReceiveMessages counts the messages.
func (c *counted) ReceiveMessages(
	ctx context.Context, n int, o *azservicebus.ReceiveMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	messages, err := c.Receiver.ReceiveMessages(ctx, n, o)
	c.ops.add(receives, max(1, len(messages)))
	return messages, err
}

// ReceiveDeferredMessages counts the messages.
func (c *counted) ReceiveDeferredMessages(
	ctx context.Context, numbers []int64, o *azservicebus.ReceiveDeferredMessagesOptions,
) ([]*azservicebus.ReceivedMessage, error) {
	time.Sleep(busLatency)
	messages, err := c.Receiver.ReceiveDeferredMessages(ctx, numbers, o)
	c.ops.add(receives, max(1, len(messages)))
	return messages, err
}

// request counts a request that is about one message, and takes the time that it needs.
func (c *counted) request(kind int) {
	c.ops.add(kind, 1)
	time.Sleep(busLatency)
}

// CompleteMessage counts a settlement.
func (c *counted) CompleteMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.CompleteMessageOptions) error {
	c.request(settlements)
	return c.Receiver.CompleteMessage(ctx, m, o)
}

// AbandonMessage counts a settlement.
func (c *counted) AbandonMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.AbandonMessageOptions) error {
	c.request(settlements)
	return c.Receiver.AbandonMessage(ctx, m, o)
}

// DeadLetterMessage counts a settlement.
func (c *counted) DeadLetterMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.DeadLetterOptions) error {
	c.request(settlements)
	return c.Receiver.DeadLetterMessage(ctx, m, o)
}

// DeferMessage counts a deferral.
func (c *counted) DeferMessage(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.DeferMessageOptions) error {
	c.request(deferrals)
	return c.Receiver.DeferMessage(ctx, m, o)
}

// RenewMessageLock counts a renewal.
func (c *counted) RenewMessageLock(ctx context.Context, m *azservicebus.ReceivedMessage, o *azservicebus.RenewMessageLockOptions) error {
	c.request(renewals)
	return c.Receiver.RenewMessageLock(ctx, m, o)
}
