package consumer

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// overLinkWait bounds a settlement over the link. The settlement must end before the client library
// first tries to recover, which is after a wait of at least 0.8 × 4 s (azservicebus v1.11.0,
// internal/utils/retrier.go, calcDelay; settlements always use its defaults).
const overLinkWait = 3 * time.Second

// link is the link that messages came over. They are settled over it until it is lost.
//
// The client library does not distinguish links in this way. If a message came over a connection
// that is lost, its settlement fails with that connection's error. The library takes it for an
// error of its current connection. It closes the current one, over which everybody else receives,
// and tries the old link again, up to three times (azservicebus v1.11.0, internal/amqpLinks.go,
// Retry and recoverConnection). It uses the entity's management node only if the link was detached
// and the connection was not lost (messageSettler.go, shouldSettleOnMgmtLink).
type link struct{ lost atomic.Bool }

// connected reports whether the link is in use, as far as anybody has noticed. It is false for nil.
func (l *link) connected() bool { return l != nil && !l.lost.Load() }

// lose notes that the link is lost, for all who receive or settle over it.
func (l *link) lose() {
	if l != nil {
		l.lost.Store(true)
	}
}

// settlement is one way to settle a message.
type settlement func(ctx context.Context, m *azservicebus.ReceivedMessage) error

// settleOver settles a message over the link that the message came over. If that link is lost, it
// uses the management node, which needs only the message's lock token. Both together take no longer
// than SettleTimeout.
func (c *Consumer) settleOver(m *message, settle settlement) error {
	deadline := time.Now().Add(c.cfg.SettleTimeout)
	if m.deferred { // it came from the management node
		return settleBy(deadline, m.ReceivedMessage, settle)
	}
	if m.link.connected() {
		err := settle(c.overLink.Of(context.Background()), m.ReceivedMessage)
		if err == nil || isLockLost(err) {
			return err
		}
		m.link.lose()
	}
	if m.session != nil {
		return errLockLost // a session's lock ends with its link
	}
	// Without the raw message, the library finds no link for the settlement, and uses the
	// management node (messageSettler.go, shouldSettleOnReceiver).
	alone := *m.ReceivedMessage
	alone.RawAMQPMessage = nil
	return settleBy(deadline, &alone, settle)
}

// settleBy settles a message before the deadline. The context does not derive from that of the
// work, since a message must be settled even while the worker stops.
func settleBy(deadline time.Time, m *azservicebus.ReceivedMessage, settle settlement) error {
	ctx, cancel := context.WithDeadline(context.Background(), deadline)
	defer cancel()
	return settle(ctx, m)
}
