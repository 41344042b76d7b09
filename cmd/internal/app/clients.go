package app

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/sanitizer"
)

// NewServiceBus makes the Service Bus client that the configuration asks for. It dials nothing yet. Every message that it
// receives or peeks at can be read; see package sanitizer.
func NewServiceBus(cfg config.Config) (*azservicebus.Client, error) {
	return newServiceBus(cfg, sanitizer.New(sanitizer.Options{}))
}

// NewServiceBusWithOriginals is NewServiceBus with a sanitizer that keeps the last messages it changed, for commands that
// export them.
func NewServiceBusWithOriginals(cfg config.Config) (*azservicebus.Client, *sanitizer.Sanitizer, error) {
	s := sanitizer.New(sanitizer.Options{MaxMessage: maxExported, Originals: originalsKept})
	client, err := newServiceBus(cfg, s)
	return client, s, err
}

// What a command that exports reads and keeps, in bytes: more than a worker acts on, and some hundred messages of the Standard
// tier's largest.
const (
	maxExported   = 16 << 20
	originalsKept = 64 << 20
)

func newServiceBus(cfg config.Config, s *sanitizer.Sanitizer) (*azservicebus.Client, error) {
	dialer := sanitizer.Dialer{Plain: sanitizer.ForEmulator(cfg.ServiceBus.ConnectionString)}
	options := &azservicebus.ClientOptions{
		NewWebSocketConn: s.Over(dialer.Dial), // it need not be a WebSocket: see sanitizer.Hook
		ApplicationID:    "session-revoker",
		// The receive loop repeats by itself, for ever and visibly: the SDK's own silent minutes would hide an outage.
		RetryOptions: azservicebus.RetryOptions{MaxRetries: 1, RetryDelay: time.Second, MaxRetryDelay: 5 * time.Second},
	}
	var client *azservicebus.Client
	var err error
	if cfg.ServiceBus.ConnectionString != "" {
		client, err = azservicebus.NewClientFromConnectionString(cfg.ServiceBus.ConnectionString, options)
	} else {
		var credential azcore.TokenCredential
		if credential, err = DefaultCredential(cfg); err == nil {
			client, err = azservicebus.NewClient(cfg.ServiceBus.Namespace, credential, options)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("make the Service Bus client: %w", err)
	}
	return client, nil
}

// ServiceBusToken gets a token for Service Bus; the scope is the same in every cloud
// (https://learn.microsoft.com/azure/service-bus-messaging/service-bus-managed-service-identity).
func ServiceBusToken(ctx context.Context, cfg config.Config) (azcore.AccessToken, error) {
	credential, err := DefaultCredential(cfg)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{"https://servicebus.azure.net/.default"}})
}

// NewReceiver makes a receiver of a queue or subscription, or of its dead letters.
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

// newSources makes the Service Bus client and a receiver for each entity. It dials nothing yet.
func newSources(cfg config.Config) (*azservicebus.Client, []consumer.Source, error) {
	client, err := NewServiceBus(cfg)
	if err != nil {
		return nil, nil, err
	}
	var sources []consumer.Source
	for _, entity := range cfg.ServiceBus.Entities() {
		if n := cfg.ServiceBus.Sessions; n > 0 {
			sources = append(sources, consumer.Source{Entity: entity, Sessions: n, Accept: acceptFrom(client, entity)})
			continue
		}
		receiver, err := NewReceiver(client, entity, false)
		if err != nil {
			return nil, nil, err
		}
		sources = append(sources, consumer.Source{Entity: entity, Receiver: receiver})
	}
	return client, sources, nil
}

// acceptFrom waits for sessions of an entity.
func acceptFrom(client *azservicebus.Client, entity string) func(context.Context) (consumer.Session, error) {
	return func(ctx context.Context) (consumer.Session, error) {
		var receiver *azservicebus.SessionReceiver
		var err error
		if topic, subscription, ok := config.SplitSubscription(entity); ok {
			receiver, err = client.AcceptNextSessionForSubscription(ctx, topic, subscription, nil)
		} else {
			receiver, err = client.AcceptNextSessionForQueue(ctx, entity, nil)
		}
		if err != nil {
			return nil, err
		}
		return consumer.NewSession(receiver), nil
	}
}

// GraphOptions change how Graph is called.
type GraphOptions struct {
	// Credential replaces the configured one.
	Credential azcore.TokenCredential
	LegacyBeta bool
	// Transport replaces the HTTP transport, that of the sign-in too.
	Transport http.RoundTripper
}

// NewGraph makes the client of Graph that the configuration asks for. It calls nothing yet.
func NewGraph(cfg config.Config, o GraphOptions) (*revoker.Revoker, error) {
	if o.Credential == nil {
		var err error
		if o.Credential, err = graphCredential(cfg, o.Transport); err != nil {
			return nil, err
		}
	}
	return revoker.New(revoker.Config{
		Root:        cfg.Cloud().GraphRoot,
		Scope:       cfg.Cloud().Scope(),
		Credential:  o.Credential,
		LegacyBeta:  o.LegacyBeta,
		Transport:   o.Transport,
		Timeout:     cfg.Graph.Timeout,
		Connections: cfg.Consumer.Concurrency,
	})
}
