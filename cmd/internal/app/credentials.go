package app

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
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

// DelegatedCredential returns the credential of an operator instead of the application's. how is
// "cli" for the account of az login, or "device-code". For the latter, prompt shows the operator what
// to enter in a browser, and SignIn waits until they have.
func DelegatedCredential(cfg config.Config, how string, prompt func(string)) (azcore.TokenCredential, error) {
	switch how {
	case "cli":
		return azidentity.NewAzureCLICredential(&azidentity.AzureCLICredentialOptions{TenantID: cfg.Graph.TenantID})
	case "device-code":
		own, err := NewNetwork(cfg)
		if err != nil {
			return nil, err
		}
		if cfg.Graph.TokenURL != "" {
			return deviceCodeCredential(cfg, own.Transport(), prompt), nil
		}
		return azidentity.NewDeviceCodeCredential(&azidentity.DeviceCodeCredentialOptions{
			ClientOptions: azureOptions(cfg, own.Transport()), TenantID: cfg.Graph.TenantID, ClientID: cfg.Graph.ClientID,
			DisableInstanceDiscovery: cfg.Graph.Authority != "",
			UserPrompt: func(_ context.Context, m azidentity.DeviceCodeMessage) error {
				prompt(m.Message)
				return nil
			},
		})
	}
	return nil, fmt.Errorf("%q is not cli or device-code", how)
}

// signInTime is how long a person has to sign in: Entra's codes are valid for 15 minutes.
const signInTime = 15 * time.Minute

// SignIn gets the first token for Graph, which the credential keeps. A person needs longer to sign in
// than graph.timeout allows an attempt.
func SignIn(ctx context.Context, cfg config.Config, credential azcore.TokenCredential) error {
	ctx, cancel := context.WithTimeout(ctx, signInTime)
	defer cancel()
	_, err := credential.GetToken(ctx, policy.TokenRequestOptions{Scopes: []string{cfg.Cloud().Scope()}})
	return err
}

// deviceCodeCredential signs a person in at the sandbox's token endpoint.
func deviceCodeCredential(cfg config.Config, transport http.RoundTripper, prompt func(string)) *oauthCredential {
	return &oauthCredential{
		url: cfg.Graph.TokenURL, person: true,
		// oauth2 asks for the code without a context.
		client: &http.Client{Transport: transport, Timeout: cfg.Graph.Timeout},
		ask: func(ctx context.Context, scopes []string) (*oauth2.Token, error) {
			config := oauth2.Config{ClientID: cfg.Graph.ClientID, Scopes: scopes, Endpoint: oauth2.Endpoint{
				TokenURL: cfg.Graph.TokenURL, AuthStyle: oauth2.AuthStyleInParams,
				DeviceAuthURL: strings.TrimSuffix(cfg.Graph.TokenURL, "token") + "devicecode",
			}}
			code, err := config.DeviceAuth(ctx)
			if err != nil {
				return nil, err
			}
			prompt(fmt.Sprintf("To sign in, use a web browser to open the page %s and enter the code %s.",
				code.VerificationURI, code.UserCode))
			return config.DeviceAccessToken(ctx, code)
		},
	}
}

// graphCredential returns the credential for Graph: the sandbox's token endpoint, a client secret,
// a certificate, or Azure's default chain (workload identity, managed identity, environment, CLI).
func graphCredential(cfg config.Config, transport http.RoundTripper) (azcore.TokenCredential, error) {
	switch {
	case cfg.Graph.TokenURL != "":
		return applicationCredential(transport, clientcredentials.Config{
			ClientID:     cfg.Graph.ClientID,
			ClientSecret: cfg.Graph.ClientSecret,
			TokenURL:     cfg.Graph.TokenURL,
		}), nil
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
	url    string
	client *http.Client
	ask    func(ctx context.Context, scopes []string) (*oauth2.Token, error) // with client
	person bool                                                              // ask asks a person

	mu    sync.Mutex
	token *oauth2.Token
}

// applicationCredential signs an application in. A nil transport means http.DefaultTransport.
func applicationCredential(transport http.RoundTripper, config clientcredentials.Config) *oauthCredential {
	return &oauthCredential{
		url: config.TokenURL, client: &http.Client{Transport: transport},
		ask: func(ctx context.Context, scopes []string) (*oauth2.Token, error) {
			config := config
			config.Scopes = scopes
			return config.Token(ctx)
		},
	}
}

// GetToken returns the cached token if it is valid for another minute and the options demand no
// claims. A person is not asked a second time while their token is valid.
func (c *oauthCredential) GetToken(ctx context.Context, options policy.TokenRequestOptions) (azcore.AccessToken, error) {
	c.mu.Lock()
	token := c.token
	c.mu.Unlock()
	if token == nil || options.Claims != "" && !c.person || time.Until(token.Expiry) < time.Minute {
		ctx = context.WithValue(ctx, oauth2.HTTPClient, c.client)
		var err error
		if token, err = c.ask(ctx, options.Scopes); err != nil {
			return azcore.AccessToken{}, fmt.Errorf("get a token from %s: %w", c.url, err)
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
