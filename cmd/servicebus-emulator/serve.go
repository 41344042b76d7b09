package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"time"

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
	s := &servers{broker: broker, done: make(chan error, 5)}
	defer func() {
		err = errors.Join(err, s.stop())
		if started && data != nil { // nobody changes anything any more
			err = errors.Join(err, data.save())
		}
	}()
	addresses, err := s.listen(o, signIn)
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
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.done:
		s.open--
		return err
	}
}

// servers are the open ports.
type servers struct {
	broker *servicebus.Broker
	webs   []*http.Server
	done   chan error // one value from each accept loop
	open   int        // accept loops
}

// addresses are where the servers listen, as clients on this machine name them; "" for nowhere.
type addresses struct{ amqp, amqps, admin, https, entra string }

// listen opens the ports.
func (s *servers) listen(o options, signIn http.Handler) (a addresses, err error) {
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
		{"admin", o.admin, nil, localhost.Only(withHealth(s.broker.Web()), o.hosts...), &a.admin},
		{"https", o.https, secure, s.broker.Web(), &a.https},
		{"entra", o.entra, secure, signIn, &a.entra},
	} {
		if port.address == "" {
			continue
		}
		l, err := net.Listen("tcp", port.address)
		if err != nil {
			return a, fmt.Errorf("open a port: %w; choose another with --%s", err, port.flag)
		}
		*port.opened = reachable(l.Addr())
		if port.secure != nil {
			l = tls.NewListener(l, port.secure)
		}
		s.serve(l, port.web)
	}
	return a, nil
}

// serve serves AMQP on the listener, or HTTP if there is a handler.
func (s *servers) serve(l net.Listener, handler http.Handler) {
	s.open++
	if handler == nil {
		go func() { s.done <- s.broker.Serve(l) }()
		return
	}
	web := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), // a client that does not trust the certificate is not an error
	}
	s.webs = append(s.webs, web)
	go func() { s.done <- web.Serve(l) }()
}

// stop closes the ports and connections, and waits for the accept loops.
func (s *servers) stop() error {
	err := s.broker.Close()
	for _, web := range s.webs {
		err = errors.Join(err, web.Close())
	}
	for range s.open {
		if serveErr := <-s.done; !errors.Is(serveErr, http.ErrServerClosed) {
			err = errors.Join(err, serveErr)
		}
	}
	return err
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

// reachable returns the address of a listener as clients on this machine name it.
func reachable(address net.Addr) string {
	host, port, _ := net.SplitHostPort(address.String())
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
		fmt.Fprintf(stderr, "%-24stenant %q, scope %s/.default\n", "", tenant, audience)
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
