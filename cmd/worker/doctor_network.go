package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/network"
	"github.com/session-revoker/session-revoker/servicebus"
)

// pathTimeout limits one connection. A firewall that drops packets takes all of it.
const pathTimeout = 5 * time.Second

// checkNetwork tries the way to each server, all at the same time: DNS, TCP, the proxy, TLS, and the
// upgrade to a WebSocket. It sends no token.
func checkNetwork(ctx context.Context, cfg config.Config, f *findings) {
	own, err := app.NewNetwork(cfg)
	if err != nil {
		f.fail("network", "correct the setting", "%v", err)
		return
	}
	signIn := cfg.Cloud().Authority
	if cfg.Graph.TokenURL != "" {
		signIn = cfg.Graph.TokenURL
	}
	f.together(
		func(f *findings) { checkServiceBusPath(ctx, cfg, f) },
		func(f *findings) { checkWebPath(ctx, own, "network: Graph", cfg.Cloud().GraphRoot, f) },
		func(f *findings) { checkWebPath(ctx, own, "network: sign-in", signIn, f) },
		func(f *findings) { checkRedisPaths(ctx, cfg, own, f) },
	)
}

// failPath reports a path that does not work.
func (f *findings) failPath(name string, err error) {
	what, fix := network.SplitFix(firstLine(err))
	f.fail(name, fix, "%s", what)
}

// checkServiceBusPath tries the configured transport. If it does not work, it tries the other one,
// and recommends it if that works.
func checkServiceBusPath(ctx context.Context, cfg config.Config, f *findings) {
	const name = "network: Service Bus"
	dialer, err := app.ServiceBusDialer(cfg)
	if err != nil {
		f.fail(name, "correct the setting", "%v", err)
		return
	}
	namespace := namespaceOf(cfg)
	path, err := tryServiceBus(ctx, dialer, namespace)
	if err == nil {
		f.ok(name, "%s to %s, %s", transportName(dialer), dialer.Address(namespace), path)
		return
	}
	f.failPath(name, err)
	other := dialer
	other.WebSockets = !dialer.WebSockets
	if dialer.Plain || other.Address(namespace) == dialer.Address(namespace) {
		return // an emulator or a gateway has another port for each
	}
	path, err = tryServiceBus(ctx, other, namespace)
	setting := "amqp"
	if other.WebSockets {
		setting = "websockets"
	}
	if err != nil {
		what, _ := network.SplitFix(firstLine(err))
		f.warn(name+", "+setting, "ask for one of the two: "+dialer.Address(namespace)+" or "+other.Address(namespace),
			"does not work either: %s", what)
		return
	}
	f.warn(name+", "+setting, "set servicebus.transport to "+setting+" (REVOKER_SERVICEBUS_TRANSPORT)",
		"%s to %s works, %s", transportName(other), other.Address(namespace), path)
}

func transportName(d servicebus.Dialer) string {
	if d.WebSockets {
		return "WebSocket"
	}
	return "AMQP"
}

// tryServiceBus connects as the worker does, and says nothing.
func tryServiceBus(ctx context.Context, d servicebus.Dialer, namespace string) (*network.Path, error) {
	ctx, path := network.Observe(ctx)
	c, err := withinTime(ctx, pathTimeout, func(ctx context.Context) (net.Conn, error) {
		return d.Dial(ctx, azservicebus.NewWebSocketConnArgs{Host: "wss://" + namespace})
	})
	if err != nil {
		return nil, err
	}
	return path, c.Close()
}

// checkWebPath asks a web server for anything. Every answer means that the way is free.
func checkWebPath(ctx context.Context, own *network.Network, name, address string, f *findings) {
	u, err := url.Parse(address)
	if err != nil {
		f.fail(name, "correct the setting", "not a URL")
		return
	}
	transport := own.Transport()
	defer transport.CloseIdleConnections()
	ctx, path := network.Observe(ctx)
	server := network.HostPort(u)
	_, err = withinTime(ctx, pathTimeout, func(ctx context.Context) (int, error) {
		u := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}
		request, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
		if err != nil {
			return 0, err
		}
		response, err := transport.RoundTrip(request) // follows no redirect
		if err != nil {
			return 0, err
		}
		return response.StatusCode, response.Body.Close()
	})
	if err != nil {
		f.failPath(name, path.Explain(ctx, server, err))
		return
	}
	f.ok(name, "%s, %s", server, path)
}

// checkRedisPaths connects to each address of Redis. Redis has no proxy.
func checkRedisPaths(ctx context.Context, cfg config.Config, own *network.Network, f *findings) {
	if !cfg.Redis.Used() {
		return
	}
	var paths []string
	for _, address := range cfg.Redis.Addresses {
		ctx, path := network.Observe(ctx)
		c, err := withinTime(ctx, pathTimeout, func(ctx context.Context) (net.Conn, error) {
			return network.Dial(ctx, address, redisTLS(cfg, own, address))
		})
		if err != nil {
			f.failPath("network: Redis", path.Explain(ctx, address, err))
			return
		}
		_ = c.Close()
		paths = append(paths, address+", "+path.String())
	}
	f.ok("network: Redis", "%s", strings.Join(paths, "; "))
}

// redisTLS returns the TLS configuration for one address, or nil for none.
func redisTLS(cfg config.Config, own *network.Network, address string) *tls.Config {
	if !cfg.Redis.TLS {
		return nil
	}
	secure := own.TLS()
	secure.ServerName, _, _ = net.SplitHostPort(address)
	return secure
}
