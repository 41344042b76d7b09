// Package servicebus connects to Azure Service Bus. It makes the client and the receivers, survives
// the panics of the client library, and says what to do about an error.
package servicebus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// Config says which namespace to connect to, and as whom.
type Config struct {
	// ConnectionString replaces Namespace and Credential unless it is empty.
	ConnectionString string
	// Namespace is the fully qualified host name.
	Namespace string
	// Credential finds the identity to connect as. New calls it if there is no connection string.
	Credential func() (azcore.TokenCredential, error)
	// Dialer makes the connections.
	Dialer Dialer
}

// New makes the client. It dials nothing yet. The sanitizer makes sure that the client can read
// every message that it receives or peeks at.
func New(cfg Config, s *sanitizer.Sanitizer) (*azservicebus.Client, error) {
	options := &azservicebus.ClientOptions{
		NewWebSocketConn: s.Over(cfg.Dialer.Dial), // WebSocket or not: see sanitizer.Hook
		ApplicationID:    "session-revoker",
		// The receive loop repeats by itself, without end, and logs it. Long retries of the SDK
		// would hide an outage.
		RetryOptions: azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: time.Second, MaxRetryDelay: 5 * time.Second},
	}
	var client *azservicebus.Client
	var err error
	if cfg.ConnectionString != "" {
		client, err = azservicebus.NewClientFromConnectionString(cfg.ConnectionString, options)
	} else {
		var credential azcore.TokenCredential
		if credential, err = cfg.Credential(); err == nil {
			client, err = azservicebus.NewClient(cfg.Namespace, credential, options)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make the Service Bus client: %w", err)
	}
	return client, nil
}

// Token gets a token for Service Bus. The scope is the same in every cloud
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-managed-service-identity).
func Token(ctx context.Context, credential azcore.TokenCredential) (azcore.AccessToken, error) {
	return credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://servicebus.azure.net/.default"}})
}

// NewReceiver makes a receiver of a queue or subscription, or of its dead letters. It dials nothing
// yet.
func NewReceiver(client *azservicebus.Client, entity string, deadLetters bool) (*azservicebus.Receiver, error) {
	options := &azservicebus.ReceiverOptions{}
	if deadLetters {
		options.SubQueue = azservicebus.SubQueueDeadLetter
	}
	var receiver *azservicebus.Receiver
	var err error
	if topic, subscription, ok := config.SplitSubscription(entity); ok {
		receiver, err = client.NewReceiverForSubscription(topic, subscription, options)
	} else {
		receiver, err = client.NewReceiverForQueue(entity, options)
	}
	if err != nil {
		return nil, fmt.Errorf("make the receiver for %q: %w", entity, err)
	}
	return receiver, nil
}

// AcceptSession waits until ctx ends for the next session of a queue or subscription that is free
// and has messages. The error is an azservicebus.Error with CodeTimeout if there is none.
func AcceptSession(ctx context.Context, client *azservicebus.Client, entity string) (*azservicebus.SessionReceiver, error) {
	if topic, subscription, ok := config.SplitSubscription(entity); ok {
		return client.AcceptNextSessionForSubscription(ctx, topic, subscription, nil)
	}
	return client.AcceptNextSessionForQueue(ctx, entity, nil)
}

// ErrUnreadable means that the client library panicked over a message. As of azservicebus v1.11 it
// does so over a DeadLetterReason or DeadLetterErrorDescription that is not a string.
var ErrUnreadable = errors.New("the Service Bus SDK cannot read a message; " +
	"it stays until Service Bus dead-letters it as MaxDeliveryCountExceeded")

// Guard makes a call of the client library. It returns ErrUnreadable and no result if the library
// panics.
func Guard[T any](call func() (T, error)) (result T, err error) {
	defer func() {
		if recover() != nil {
			var none T
			result, err = none, ErrUnreadable
		}
	}()
	return call()
}

// Hint returns what to do about an error of receiving or peeking.
func Hint(err error) string {
	if sb, ok := errors.AsType[*azservicebus.Error](err); ok {
		switch sb.Code {
		case azservicebus.CodeUnauthorizedAccess:
			return "give the identity or key the right to listen: the role 'Azure Service Bus Data Receiver' or a Listen claim"
		case azservicebus.CodeNotFound:
			return "check servicebus.queue, or servicebus.topic and servicebus.subscription: the namespace has no such entity"
		}
	}
	// The service has no codes for these two. Its texts are those that the SDKs' tests expect.
	switch text := err.Error(); {
	case fixOf(text) != "":
		return fixOf(text)
	case strings.Contains(text, "requires sessions to create a non-sessionful"):
		return "the entity requires sessions: set servicebus.sessions to how many are to be held at once"
	case strings.Contains(text, "session receiver on an entity that does not require sessions"):
		return "the entity has no sessions: set servicebus.sessions to 0"
	}
	return "check servicebus.namespace or the connection string, and run worker doctor: it tries each step of the connection"
}

func fixOf(text string) string {
	_, fix := network.SplitFix(text)
	return fix
}
