package main

import (
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
)

// dates keeps the Date of the last answer of the administration API.
type dates struct {
	mu                   sync.Mutex
	date, sent, received time.Time
}

// Do implements policy.Policy.
func (d *dates) Do(req *policy.Request) (*http.Response, error) {
	sent := time.Now()
	response, err := req.Next()
	if err == nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.date, _ = http.ParseTime(response.Header.Get("Date"))
		d.sent, d.received = sent, time.Now()
	}
	return response, err
}

// elsewhere sends requests to another address. The administration client itself accepts only https
// and the name of the namespace.
type elsewhere struct {
	to   *url.URL
	next http.Client
}

// Do implements policy.Transporter.
func (e *elsewhere) Do(req *http.Request) (*http.Response, error) {
	req.URL.Scheme, req.URL.Host = e.to.Scheme, e.to.Host
	return e.next.Do(req) //nolint:gosec // the operator configures the address
}

// adminTransport returns the way to the administration API: port 443 of the namespace, or of the
// address that is dialed instead.
func adminTransport(cfg config.Config) (*elsewhere, error) {
	dialer, err := app.ServiceBusDialer(cfg)
	if err != nil {
		return nil, err
	}
	if cfg.ServiceBus.AdminEndpoint != "" {
		to, err := url.Parse(cfg.ServiceBus.AdminEndpoint)
		if err != nil {
			return nil, err
		}
		return &elsewhere{to: to, next: http.Client{Transport: dialer.Network.Transport()}}, nil
	}
	namespace, err := url.Parse("https://" + namespaceOf(cfg))
	if err != nil {
		return nil, err
	}
	to := &url.URL{Scheme: "https", Host: namespace.Host}
	if endpoint := dialer.Endpoint; endpoint != "" {
		if name, _, err := net.SplitHostPort(endpoint); err == nil {
			endpoint = name
		}
		to.Host = net.JoinHostPort(strings.Trim(endpoint, "[]"), "443")
	}
	return &elsewhere{to: to, next: http.Client{Transport: dialer.Transport(namespace.Hostname())}}, nil
}

// namespaceOf returns the namespace's HOST or HOST:PORT.
func namespaceOf(cfg config.Config) string {
	if cfg.ServiceBus.ConnectionString == "" {
		return cfg.ServiceBus.Namespace
	}
	_, host := connectionParts(cfg.ServiceBus.ConnectionString)
	return host
}

// newAdmin returns a client of the administration API.
func newAdmin(cfg config.Config, seen *dates) (*admin.Client, error) {
	options := &admin.ClientOptions{ClientOptions: azcore.ClientOptions{
		Retry: policy.RetryOptions{MaxRetries: -1}, PerCallPolicies: []policy.Policy{seen},
	}}
	way, err := adminTransport(cfg)
	if err != nil {
		return nil, err
	}
	options.Transport = way
	if cfg.ServiceBus.ConnectionString != "" {
		return admin.NewClientFromConnectionString(cfg.ServiceBus.ConnectionString, options)
	}
	credential, err := app.DefaultCredential(cfg)
	if err != nil {
		return nil, err
	}
	return admin.NewClient(cfg.ServiceBus.Namespace, credential, options)
}
