package app

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/consumer"
	"github.com/session-revoker/session-revoker/revoker"
)

// NewServiceBus makes the Service Bus client that the configuration asks for. It dials nothing yet.
func NewServiceBus(cfg config.Config) (*azservicebus.Client, error) {
	options := &azservicebus.ClientOptions{
		ApplicationID: "session-revoker",
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

// DelegatedCredential signs an operator in, instead of the application: "cli" uses the account of az login, "device-code" lets
// prompt show a code to type into a browser.
func DelegatedCredential(cfg config.Config, how string, prompt func(string)) (azcore.TokenCredential, error) {
	switch how {
	case "cli":
		return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: cfg.Graph.TenantID})
	case "device-code":
		return azidentity.NewDeviceCodeCredential(&azidentity.DeviceCodeCredentialOptions{
			ClientOptions: azureOptions(cfg), TenantID: cfg.Graph.TenantID, ClientID: cfg.Graph.ClientID,
			UserPrompt: func(_ context.Context, m azidentity.DeviceCodeMessage) error {
				prompt(m.Message)
				return nil
			},
		})
	}
	return nil, fmt.Errorf("%q is not cli or device-code", how)
}

// GraphOptions change how Graph is called.
type GraphOptions struct {
	// Credential replaces the configured one.
	Credential azcore.TokenCredential
	LegacyBeta bool
	// Transport replaces the HTTP transport.
	Transport http.RoundTripper
}

// NewGraph makes the client of Graph that the configuration asks for. It calls nothing yet.
func NewGraph(cfg config.Config, o GraphOptions) (*revoker.Revoker, error) {
	if o.Credential == nil {
		var err error
		if o.Credential, err = graphCredential(cfg); err != nil {
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

// graphCredential picks how the worker signs in to Graph: the sandbox's token endpoint, a client secret, or Azure's
// default chain (workload identity, managed identity, environment, CLI).
func graphCredential(cfg config.Config) (azcore.TokenCredential, error) {
	switch {
	case cfg.Graph.TokenURL != "":
		return &oauthCredential{config: clientcredentials.Config{
			ClientID:     cfg.Graph.ClientID,
			ClientSecret: cfg.Graph.ClientSecret,
			TokenURL:     cfg.Graph.TokenURL,
		}}, nil
	case cfg.Graph.ClientSecret != "":
		credential, err := azidentity.NewClientSecretCredential(cfg.Graph.TenantID, cfg.Graph.ClientID, cfg.Graph.ClientSecret,
			&azidentity.ClientSecretCredentialOptions{ClientOptions: azureOptions(cfg)})
		if err != nil {
			return nil, fmt.Errorf("use graph.client_secret: %w", err)
		}
		return credential, nil
	}
	return DefaultCredential(cfg)
}

// DefaultCredential is how the worker signs in without a connection string or a client secret: by Azure's default chain (workload identity,
// managed identity, environment, CLI).
func DefaultCredential(cfg config.Config) (azcore.TokenCredential, error) {
	credential, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
		ClientOptions: azureOptions(cfg),
		TenantID:      cfg.Graph.TenantID,
	})
	if err != nil {
		return nil, fmt.Errorf("find an Azure credential (workload identity, managed identity, environment, CLI): %w", err)
	}
	return credential, nil
}

func azureOptions(cfg config.Config) azcore.ClientOptions {
	return azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: cfg.Cloud().Authority},
		// One try: package retry repeats.
		Retry: policy.RetryOptions{MaxRetries: -1},
	}
}

// oauthCredential gets tokens from a plain OAuth 2.0 endpoint: azidentity speaks to Entra alone, over https, while the
// sandbox's Graph serves its own on a loopback address.
type oauthCredential struct {
	config clientcredentials.Config

	mu    sync.Mutex
	token *oauth2.Token
}

// GetToken returns the cached token while it is good for a minute more and no claims ask for a new one.
func (c *oauthCredential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token == nil || options.Claims != "" || time.Until(token.Expiry) < time.Minute {
		config := c.config
		config.Scopes = options.Scopes
		var err error
		if token, err = config.Token(ctx); err != nil {
			return azcore.AccessToken{}, fmt.Errorf("get a token from %s: %w", c.config.TokenURL, err)
		}
		c.mu.Lock()
		c.token = token
		c.mu.Unlock()
	}
	return azcore.AccessToken{Token: token.AccessToken, ExpiresOn: token.Expiry}, nil
}
