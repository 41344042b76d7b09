package app

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/session-revoker/session-revoker/config"
)

// DelegatedCredential signs in an operator instead of the application. how is "cli" for the account
// of az login, or "device-code". For the latter, prompt shows the operator what to enter in a
// browser.
func DelegatedCredential(cfg config.Config, how string, prompt func(string)) (azcore.TokenCredential, error) {
	switch how {
	case "cli":
		return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: cfg.Graph.TenantID})
	case "device-code":
		own, err := NewNetwork(cfg)
		if err != nil {
			return nil, err
		}
		return azidentity.NewDeviceCodeCredential(&azidentity.DeviceCodeCredentialOptions{
			ClientOptions: azureOptions(cfg, own.Transport()), TenantID: cfg.Graph.TenantID, ClientID: cfg.Graph.ClientID,
			UserPrompt: func(_ context.Context, m azidentity.DeviceCodeMessage) error {
				prompt(m.Message)
				return nil
			},
		})
	}
	return nil, fmt.Errorf("%q is not cli or device-code", how)
}

// graphCredential returns the credential for Graph: the sandbox's token endpoint, a client secret,
// a certificate, or Azure's default chain (workload identity, managed identity, environment, CLI).
func graphCredential(cfg config.Config, transport http.RoundTripper) (azcore.TokenCredential, error) {
	switch {
	case cfg.Graph.TokenURL != "":
		return &oauthCredential{transport: transport, config: clientcredentials.Config{
			ClientID:     cfg.Graph.ClientID,
			ClientSecret: cfg.Graph.ClientSecret,
			TokenURL:     cfg.Graph.TokenURL,
		}}, nil
	case cfg.Graph.ClientSecret != "":
		credential, err := azidentity.NewClientSecretCredential(cfg.Graph.TenantID, cfg.Graph.ClientID, cfg.Graph.ClientSecret,
			&azidentity.ClientSecretCredentialOptions{
				ClientOptions: azureOptions(cfg, transport), DisableInstanceDiscovery: cfg.Graph.Authority != "",
			})
		if err != nil {
			return nil, fmt.Errorf("use graph.client_secret: %w", err)
		}
		return credential, nil
	case cfg.Graph.CertificateFile != "":
		return newCertificateCredential(cfg, transport)
	}
	return defaultCredential(cfg, transport)
}

// DefaultCredential returns Azure's default chain (workload identity, managed identity,
// environment, CLI). The worker uses it without a connection string, client secret, or certificate.
func DefaultCredential(cfg config.Config) (azcore.TokenCredential, error) {
	own, err := NewNetwork(cfg)
	if err != nil {
		return nil, err
	}
	return defaultCredential(cfg, own.Transport())
}

func defaultCredential(cfg config.Config, transport http.RoundTripper) (azcore.TokenCredential, error) {
	credential, err := azidentity.NewDefaultAzureCredential(&azidentity.DefaultAzureCredentialOptions{
		ClientOptions: azureOptions(cfg, transport),
		TenantID:      cfg.Graph.TenantID,
		// The discovery service knows only the authorities of Microsoft.
		DisableInstanceDiscovery: cfg.Graph.Authority != "",
	})
	if err != nil {
		return nil, fmt.Errorf("find an Azure credential (workload identity, managed identity, environment, CLI): %w", err)
	}
	return credential, nil
}

func azureOptions(cfg config.Config, transport http.RoundTripper) azcore.ClientOptions {
	options := azcore.ClientOptions{
		Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: cfg.Cloud().Authority},
		// No retries: package retry repeats attempts.
		Retry: policy.RetryOptions{MaxRetries: -1},
	}
	if transport != nil {
		options.Transport = &http.Client{Transport: transport}
	}
	return options
}

// oauthCredential gets tokens from a plain OAuth 2.0 endpoint, which the sandbox's Graph serves on
// a loopback address. azidentity supports Entra only, and https only. It is safe for concurrent
// use.
type oauthCredential struct {
	config    clientcredentials.Config
	transport http.RoundTripper // nil means http.DefaultTransport

	mu    sync.Mutex
	token *oauth2.Token
}

// GetToken returns the cached token if it is valid for another minute and the options demand no
// claims.
func (c *oauthCredential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token == nil || options.Claims != "" || time.Until(token.Expiry) < time.Minute {
		config := c.config
		config.Scopes = options.Scopes
		ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: c.transport})
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

// certificateCredential signs in with a certificate from a file. It reads the file again when it
// changes, because mounted certificates are renewed. azidentity caches the tokens. It is safe for
// concurrent use.
type certificateCredential struct {
	cfg       config.Config
	transport http.RoundTripper

	mu      sync.Mutex
	read    time.Time // modification time of the file that was read
	current *azidentity.ClientCertificateCredential
}

// newCertificateCredential reads the certificate. The error says why it cannot be used.
func newCertificateCredential(cfg config.Config, transport http.RoundTripper) (*certificateCredential, error) {
	c := &certificateCredential{cfg: cfg, transport: transport}
	_, err := c.credential()
	return c, err
}

// GetToken gets a token with the certificate that is in the file now.
func (c *certificateCredential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	current, err := c.credential()
	if err != nil {
		return azcore.AccessToken{}, err
	}
	return current.GetToken(ctx, options)
}

// credential returns the credential of the certificate in the file. If the file is not usable, it
// returns the last usable one.
func (c *certificateCredential) credential() (*azidentity.ClientCertificateCredential, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.load(c.cfg.Graph.CertificateFile); err != nil && c.current == nil {
		return nil, fmt.Errorf("graph.client_certificate_file: %w", err)
	}
	return c.current, nil
}

// load reads the file if it has changed. The caller holds mu.
func (c *certificateCredential) load(file string) error {
	info, err := os.Stat(file)
	if err != nil {
		return err
	}
	if info.ModTime().Equal(c.read) {
		return nil
	}
	text, err := os.ReadFile(file) //nolint:gosec // the configuration names the file
	if err != nil {
		return err
	}
	certificates, key, err := azidentity.ParseCertificates(text, nil)
	if err != nil {
		return fmt.Errorf("%s contains no certificate with its private key, in PEM form or in PKCS #12 form without a password: %w",
			file, err)
	}
	credential, err := azidentity.NewClientCertificateCredential(c.cfg.Graph.TenantID, c.cfg.Graph.ClientID, certificates, key,
		&azidentity.ClientCertificateCredentialOptions{
			ClientOptions: azureOptions(c.cfg, c.transport), DisableInstanceDiscovery: c.cfg.Graph.Authority != "",
		})
	if err != nil {
		return err
	}
	c.current, c.read = credential, info.ModTime()
	return nil
}
