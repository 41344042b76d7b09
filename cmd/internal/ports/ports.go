// Package ports opens the ports of the embedded servers, for the programs that run them, and reads
// the flags that these programs share.
package ports

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// Ports are a broker's open ports, and those of HTTP servers beside it. One goroutine owns them:
// the methods must not be called at the same time.
type Ports struct {
	broker *servicebus.Broker
	webs   []*http.Server
	ended  chan error // one value from each accept loop
	loops  int        // accept loops whose value is not taken
}

// New returns the Ports of a broker. None is open yet. Close closes the broker, too.
func New(broker *servicebus.Broker) *Ports {
	return &Ports{broker: broker, ended: make(chan error)}
}

// AMQP opens a port for AMQP, over TLS if secure is not nil, and returns its address. An empty
// address is no port. The error names the flag that changes the address.
func (p *Ports) AMQP(flag, address string, secure *tls.Config) (string, error) {
	return p.open(flag, address, secure, p.broker.Serve)
}

// HTTP is AMQP for an HTTP handler. A request's header must arrive within 10 seconds, and its body
// within 30.
func (p *Ports) HTTP(flag, address string, secure *tls.Config, handler http.Handler) (string, error) {
	web := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), // a client that does not trust the certificate is not an error
	}
	opened, err := p.open(flag, address, secure, func(l net.Listener) error {
		if err := web.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	p.webs = append(p.webs, web)
	return opened, err
}

func (p *Ports) open(flag, address string, secure *tls.Config, serve func(net.Listener) error) (string, error) {
	if address == "" {
		return "", nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return "", fmt.Errorf("open a port: %w; choose another with --%s", err, flag)
	}
	address = l.Addr().String()
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	p.loops++
	go func() { p.ended <- serve(l) }()
	return address, nil
}

// Wait returns nil when ctx is done, or the error of the first port that fails.
func (p *Ports) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-p.ended:
		p.loops--
		return err
	}
}

// Close closes the ports, their connections, and the broker. It returns when no goroutine is left,
// with the errors of the ports that had failed.
func (p *Ports) Close() error {
	err := p.broker.Close()
	for _, web := range p.webs {
		err = errors.Join(err, web.Close())
	}
	for ; p.loops > 0; p.loops-- {
		err = errors.Join(err, <-p.ended)
	}
	return err
}
