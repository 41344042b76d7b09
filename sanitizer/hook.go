package sanitizer

import (
	"context"
	"net"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
)

// Hook is the option NewWebSocketConn of azservicebus.ClientOptions. The client calls it for each
// new connection, and runs AMQP over whatever connection it returns, WebSocket or not.
type Hook = func(context.Context, azservicebus.NewWebSocketConnArgs) (net.Conn, error)

// Over returns a Hook that sanitizes the connections of another one.
func (s *Sanitizer) Over(dial Hook) Hook {
	return func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		c, err := dial(ctx, args)
		if err != nil {
			return nil, err
		}
		return s.Wrap(c), nil
	}
}
