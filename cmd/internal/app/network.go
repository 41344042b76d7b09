package app

import (
	"fmt"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/servicebus"
	"github.com/session-revoker/session-revoker/telemetry"
)

// NewNetwork returns the way to every server: the proxies of the environment, and the authorities of
// tls.ca_file.
func NewNetwork(cfg config.Config) (*network.Network, error) {
	roots, err := cfg.TLS.Authorities()
	if err != nil {
		return nil, fmt.Errorf("tls.ca_file: %w", err)
	}
	return network.New(roots), nil
}

// newTracing returns what exports spans, to a collector that the authorities of tls.ca_file may vouch
// for.
func newTracing(cfg config.Config) (*telemetry.Tracing, error) {
	roots, err := cfg.TLS.Authorities()
	if err != nil {
		return nil, fmt.Errorf("tls.ca_file: %w", err)
	}
	return telemetry.NewTracing(Version, roots)
}

// ServiceBusDialer returns the Dialer that the configuration asks for.
func ServiceBusDialer(cfg config.Config) (servicebus.Dialer, error) {
	own, err := NewNetwork(cfg)
	if err != nil {
		return servicebus.Dialer{}, err
	}
	proxy, err := cfg.ServiceBus.ProxyURL()
	if err != nil {
		return servicebus.Dialer{}, fmt.Errorf("servicebus.proxy: %w", err)
	}
	return servicebus.Dialer{
		Network:    own,
		Plain:      servicebus.ForEmulator(cfg.ServiceBus.ConnectionString),
		WebSockets: cfg.ServiceBus.Transport == "websockets",
		Proxy:      proxy,
		Endpoint:   cfg.ServiceBus.Endpoint,
	}, nil
}
