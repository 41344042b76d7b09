package consumer

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// overLinkWait bounds a settlement over the link. It must end before the client library's first recovery: that comes after a
// wait of at least 0.8 × 4 s (azservicebus v1.11.0, internal/utils/retrier.go, calcDelay; settlements always have its defaults).
const overLinkWait = 3 * time.Second

// link is what messages came over: as long as it is there, they are settled over it.
//
// The client library knows no such thing. When the connection is gone that a message came over, settling it fails with that
// connection's error, and the library takes it for one of the connection of now: it closes this one, over which everybody else
// receives, and tries the old link again, up to three times (azservicebus v1.11.0, internal/amqpLinks.go, Retry and
// recoverConnection). It goes through the entity's management node only where the link was detached, and the connection was not
// lost (messageSettler.go, shouldSettleOnMgmtLink).
type link struct{ lost atomic.Bool }

// connected says that the link is there, as far as anybody has noticed. nil is no link.
func (l *link) connected() bool { return l != nil && !l.lost.Load() }

// lose tells whoever receives or settles that the link is gone.
func (l *link) lose() {
	if l != nil {
		l.lost.Store(true)
	}
}

// settlement settles a message in one of the ways that there are.
type settlement func(ctx context.Context, m *azservicebus.ReceivedMessage) error

// settleOver settles a message over the link that it came over, or else through the management node, for which its lock token is
// enough. Both together take no longer than SettleTimeout.
func (c *Consumer) settleOver(m *message, settle settlement) error {
	end := time.Now().Add(c.SettleTimeout)
	if m.deferred { // it came through the management node
		return settleBy(end, m.ReceivedMessage, settle)
	}
	if m.link.connected() {
		err := settleBy(time.Now().Add(min(overLinkWait, c.SettleTimeout/2)), m.ReceivedMessage, settle)
		if err == nil || isLockLost(err) {
			return err
		}
		m.link.lose()
	}
	if m.session != nil {
		return errLockLost // a session's lock ends with its link
	}
	// Without what the library received, it knows no link to settle it over (messageSettler.go, shouldSettleOnReceiver).
	alone := *m.ReceivedMessage
	alone.RawAMQPMessage = nil
	return settleBy(end, &alone, settle)
}

// settleBy has a context of its own, not derived from the work's: what is done must be settled even while the worker stops.
func settleBy(end time.Time, m *azservicebus.ReceivedMessage, settle settlement) error {
	ctx, cancel := context.WithDeadline(context.Background(), end)
	defer cancel()
	return settle(ctx, m)
}
