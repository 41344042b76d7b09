package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"

	"github.com/session-revoker/session-revoker/cmd/internal/ports"
	"github.com/session-revoker/session-revoker/emulator/localhost"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// serve opens the ports that the flags ask for, says how to connect, and serves until ctx is done.
func serve(ctx context.Context, o options, cfg servicebus.Config, stdout, stderr io.Writer) (err error) {
	var signIn http.Handler
	if o.entra != "" {
		directory, authorize, err := o.directory()
		if err != nil {
			return err
		}
		cfg.Authorize = authorize
		paths := http.NewServeMux() // without the paths of Graph
		paths.Handle("/"+tenant+"/", directory)
		signIn = paths
	}
	broker, data, err := newBroker(o, cfg)
	if err != nil {
		return err
	}
	started := false
	open := ports.New(broker)
	defer func() {
		err = errors.Join(err, open.Close())
		if started && data != nil { // nobody changes anything any more
			err = errors.Join(err, data.save())
		}
	}()
	addresses, err := listen(open, o, broker.Web(), signIn)
	if err != nil {
		return err
	}
	if data != nil { // now that no other process has the ports; the user learns at once if it fails
		if err := data.write(broker.Revision()); err != nil {
			return err
		}
	}
	started = true
	addresses.describe(cfg.Keys[0], stdout, stderr)
	if len(cfg.Queues)+len(cfg.Topics) == 0 && o.data == "" {
		fmt.Fprintln(stderr, "There is no queue or topic: create one with the administration API, or start with --queue NAME.")
	}
	if data != nil {
		keeping, stop := context.WithCancel(ctx)
		kept := make(chan struct{})
		go func() {
			defer close(kept)
			data.keep(keeping, stderr)
		}()
		defer func() { stop(); <-kept }()
	}
	return open.Wait(ctx)
}

// addresses are where the servers listen, as clients on this machine name them; "" for nowhere.
type addresses struct{ amqp, amqps, admin, https, entra string }

// listen opens the ports.
func listen(open *ports.Ports, o options, web, signIn http.Handler) (a addresses, err error) {
	var secure *tls.Config
	if o.amqps != "" || o.https != "" || o.entra != "" {
		if secure, err = o.tlsConfig(); err != nil {
			return a, err
		}
	}
	for _, port := range []struct {
		flag, address string
		secure        *tls.Config
		web           http.Handler // nil for AMQP
		opened        *string
	}{
		{"amqp", o.amqp, nil, nil, &a.amqp},
		{"amqps", o.amqps, secure, nil, &a.amqps},
		{"admin", o.admin, nil, localhost.Only(withHealth(web), o.hosts...), &a.admin},
		{"https", o.https, secure, web, &a.https},
		{"entra", o.entra, secure, signIn, &a.entra},
	} {
		var address string
		if port.web == nil {
			address, err = open.AMQP(port.flag, port.address, port.secure)
		} else {
			address, err = open.HTTP(port.flag, port.address, port.secure, port.web)
		}
		if err != nil {
			return a, err
		}
		*port.opened = reachable(address)
	}
	return a, nil
}

// withHealth answers GET /health, as Microsoft's emulator does. With an Authorization header it is
// a request about an entity of that name.
func withHealth(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.EqualFold(r.URL.Path, "/health") && r.Header.Get("Authorization") == "" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"status":"healthy"}`+"\n")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// reachable returns the address of a listener as clients on this machine name it. An empty address
// stays empty.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// describe prints the connection string, alone on stdout, and everything else on stderr.
func (a addresses) describe(key servicebus.Key, stdout, stderr io.Writer) {
	line := func(what, scheme, address, path string) {
		if address != "" {
			fmt.Fprintf(stderr, "%-24s%s%s%s\n", what, scheme, address, path)
		}
	}
	fmt.Fprintf(stderr, "servicebus-emulator %s\n", version)
	line("AMQP", "", a.amqp, "")
	line("AMQP over TLS", "", a.amqps, "")
	line("AMQP over WebSocket", "wss://", a.https, servicebus.WebSocketPath)
	line("Administration", "https://", a.https, "")
	line("Administration, health", "http://", a.admin, "")
	line("Sign-in", "https://", a.entra, "")
	if a.entra != "" {
		fmt.Fprintf(stderr, "%-24stenant %q, scope %s/.default\n", "", tenant, servicebus.Audience)
	}
	switch { // without UseDevelopmentEmulator, clients use TLS
	case a.amqp != "":
		fmt.Fprintln(stdout, servicebus.ConnectionString(a.amqp, key))
	case a.amqps != "" || a.https != "":
		fmt.Fprintln(stdout, servicebus.SecureConnectionString(cmp.Or(a.amqps, a.https), key))
	default:
		fmt.Fprintln(stdout, servicebus.ConnectionString(a.admin, key))
	}
}
