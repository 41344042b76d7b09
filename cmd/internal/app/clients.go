package app

import (
	"context"
	"fmt"
	"net/http"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/revoker"
	"github.com/session-revoker/session-revoker/sanitizer"
	"github.com/session-revoker/session-revoker/servicebus"
)

// NewServiceBus makes the Service Bus client that the configuration asks for. It dials nothing yet.
func NewServiceBus(cfg config.Config) (*azservicebus.Client, error) {
	return newServiceBus(cfg, sanitizer.New(sanitizer.Options{}))
}

// NewServiceBusWithOriginals is NewServiceBus for commands that export messages. Its sanitizer
// keeps the originals of the last messages that it changed.
func NewServiceBusWithOriginals(cfg config.Config) (*azservicebus.Client, *sanitizer.Sanitizer, error) {
	s := sanitizer.New(sanitizer.Options{MaxMessage: maxExported, Originals: originalsKept})
	client, err := newServiceBus(cfg, s)
	return client, s, err
}

const (
	// maxExported is the largest message in bytes that a command exports. It is larger than what a
	// worker acts on.
	maxExported = 16 << 20
	// originalsKept is how many bytes of originals are kept, some hundred of the largest messages
	// of the Standard tier.
	originalsKept = 64 << 20
)

func newServiceBus(cfg config.Config, s *sanitizer.Sanitizer) (*azservicebus.Client, error) {
	dialer, err := ServiceBusDialer(cfg)
	if err != nil {
		return nil, err
	}
	return servicebus.New(servicebus.Config{
		Dialer:           dialer,
		ConnectionString: cfg.ServiceBus.ConnectionString,
		Namespace:        cfg.ServiceBus.Namespace,
		Credential:       func() (azcore.TokenCredential, error) { return DefaultCredential(cfg) },
	}, s)
}

// ServiceBusToken gets a token for Service Bus by the default credential.
func ServiceBusToken(ctx context.Context, cfg config.Config) (azcore.AccessToken, error) {
	credential, err := DefaultCredential(cfg)
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return servicebus.Token(ctx, credential)
}

// newSources makes the Service Bus client, a receiver for each entity without sessions, and a sender
// where events can be scheduled. It dials nothing yet.
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
		receiver, err := servicebus.NewReceiver(client, entity, false)
		if err != nil {
			return nil, nil, err
		}
		source := consumer.Source{Entity: entity, Receiver: receiver}
		if _, _, isSubscription := config.SplitSubscription(entity); !isSubscription && cfg.Events.Horizon > 0 {
			sender, err := client.NewSender(entity, nil)
			if err != nil {
				return nil, nil, fmt.Errorf("make the sender to %q: %w", entity, err)
			}
			source.Scheduler = sender
		}
		sources = append(sources, source)
	}
	return client, sources, nil
}

// acceptFrom returns a function that waits for sessions of an entity.
func acceptFrom(client *azservicebus.Client, entity string) func(context.Context) (consumer.Session, error) {
	return func(ctx context.Context) (consumer.Session, error) {
		receiver, err := servicebus.AcceptSession(ctx, client, entity)
		if err != nil {
			return nil, err
		}
		return consumer.NewSession(receiver), nil
	}
}

// GraphOptions changes how Graph is called. The zero value changes nothing.
type GraphOptions struct {
	// Credential replaces the configured one.
	Credential azcore.TokenCredential
	// Beta and LegacyBeta call methods of the beta API; see revoker.Config.
	Beta, LegacyBeta bool
	// Transport replaces the HTTP transport, including that of the sign-in.
	Transport http.RoundTripper
}

// NewGraph makes the Graph client that the configuration asks for. It calls nothing yet.
func NewGraph(cfg config.Config, o GraphOptions) (*revoker.Revoker, error) {
	if o.Transport == nil {
		own, err := NewNetwork(cfg)
		if err != nil {
			return nil, err
		}
		graph := own.Transport()
		graph.MaxIdleConns, graph.MaxIdleConnsPerHost = cfg.Consumer.Concurrency, cfg.Consumer.Concurrency
		o.Transport = graph
	}
	if o.Credential == nil {
		var err error
		if o.Credential, err = graphCredential(cfg, o.Transport); err != nil {
			return nil, err
		}
	}
	return revoker.New(revoker.Config{
		Root:       cfg.Cloud().GraphRoot,
		Scope:      cfg.Cloud().Scope(),
		Credential: o.Credential,
		Beta:       o.Beta,
		LegacyBeta: o.LegacyBeta,
		Transport:  o.Transport,
		Timeout:    cfg.Graph.Timeout,
	})
}
