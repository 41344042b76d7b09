package ingest

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// maxHeader is the maximum size of a request's header, in bytes.
	maxHeader = 16 << 10
	// headerTime bounds TLS and the header of a request, and idleTime the time between two requests
	// of a connection.
	headerTime = 5 * time.Second
	idleTime   = time.Minute
	// maxStreams is the maximum number of requests of one HTTP/2 connection at the same time.
	maxStreams = 64
	// writeTime is how long a sender may take to read its answer.
	writeTime = 15 * time.Second
)

// farewell is how long a server that is to stop still takes connections: a gateway learns only after
// a while that it ends, and for some senders an event that finds nobody is lost.
const farewell = 3 * time.Second

// wait waits for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 { // a timer that is due at once has crashed Go 1.26's race detector in a bubble
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// Run answers the connections of l until ctx ends, and for 3 s longer. Then it takes no more,
// finishes the requests in flight for at most drain, and returns. When hard ends, it returns at once.
// l is closed; it is nil if nothing is received by HTTP. Streams are polled until ctx ends: then what
// has come is put on the queue and acknowledged.
func (s *Server) Run(ctx, hard context.Context, l net.Listener, drain time.Duration) error {
	sending, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var publishing, streaming sync.WaitGroup
	publishing.Go(func() { s.publisher.run(sending) })
	publishing.Go(func() { s.watchFiles(sending) })
	polling, end := context.WithCancel(ctx)
	defer end()
	for _, st := range s.streams {
		streaming.Go(func() { st.run(polling, hard) })
	}
	var err error
	if l == nil {
		<-ctx.Done()
	} else {
		err = s.serve(ctx, hard, l, drain)
	}
	end() // also if the port is lost
	streaming.Wait()
	stop()
	publishing.Wait()
	return err
}

// serve answers the connections of l.
func (s *Server) serve(ctx, hard context.Context, l net.Listener, drain time.Duration) error {
	longest := s.cfg.Timeout
	for _, src := range s.sources {
		longest = max(longest, src.Timeout)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       headerTime + bodyTime,
		WriteTimeout:      headerTime + longest + writeTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerConnection: 1 << 20, MaxReceiveBufferPerStream: 256 << 10,
			SendPingTimeout: idleTime, PingTimeout: headerTime, WriteByteTimeout: writeTime,
		},
		// What is wrong with connections is the business of those who open them.
		ErrorLog: stdlog.New(io.Discard, "", 0),
	}
	l = &bounded{
		Listener: l, max: s.cfg.MaxConnections, maxEach: max(1, s.cfg.MaxConnections/4), open: map[netip.Addr]int{}, exempt: s.trusts,
	}
	if s.certs != nil {
		server.TLSConfig = &tls.Config{
			MinVersion: tls.VersionTLS12, GetCertificate: s.certs.get,
			// A source with verify: mtls checks the certificate itself.
			ClientAuth: tls.RequestClientCert,
		}
	}
	served := make(chan error, 1)
	go func() {
		if s.certs != nil {
			served <- server.ServeTLS(l, "", "")
		} else {
			served <- server.Serve(l)
		}
	}()
	var err error
	select {
	case err = <-served:
		err = fmt.Errorf("receive webhooks on %s: %w", l.Addr(), err)
	case <-ctx.Done():
		s.stopping.Store(true)
		wait(hard, farewell)
		within, cancel := context.WithTimeout(hard, drain)
		if server.Shutdown(within) != nil {
			s.deps.Log.Warn("requests in flight were cut off: their senders come again", zap.Duration("after", drain))
		}
		cancel()
		if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
			err = serveErr
		}
	}
	_ = server.Close()
	return err
}

// watchEvery is the interval at which the secrets' files are looked at.
const watchEvery = time.Minute

// watchFiles warns about files that have become unusable, until ctx ends. Their last usable content
// stays in force.
func (s *Server) watchFiles(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, src := range s.sources {
			for _, secret := range src.secrets {
				secret.all(time.Now())
				s.warn("secret of "+src.Name, secret.trouble())
			}
		}
		if s.certs != nil {
			s.warn("certificate", s.certs.trouble())
		}
	}
}

// warn tells health and log about a file that is not usable, or that it is again.
func (s *Server) warn(part string, trouble error) {
	problem := ""
	if trouble != nil {
		problem = trouble.Error()
	}
	if s.deps.Health.Warn(part, problem) && problem != "" {
		s.deps.Log.Error("a file is not usable; its last usable content stays in force",
			zap.String("part", part), zap.String("problem", problem))
	}
}

// bounded is a listener with a maximum number of open connections, in all and for each address. It
// closes a connection that is too many at once: one that waits would hold up those behind it.
type bounded struct {
	net.Listener
	max, maxEach int
	exempt       func(netip.Addr) bool // from the limit for each address

	mu    sync.Mutex
	total int
	open  map[netip.Addr]int
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		address := netip.Addr{}
		if peer, err := netip.ParseAddrPort(c.RemoteAddr().String()); err == nil {
			address = network(peer.Addr().Unmap()).Addr()
		}
		if b.enter(address) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { b.leave(address) })}, nil
		}
		_ = c.Close()
	}
}

func (b *bounded) enter(address netip.Addr) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total >= b.max || b.open[address] >= b.maxEach && !b.exempt(address) {
		return false
	}
	b.total++
	b.open[address]++
	return true
}

func (b *bounded) leave(address netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total--
	if b.open[address]--; b.open[address] == 0 {
		delete(b.open, address)
	}
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// certificate is the server's own, which is read again when its files change.
type certificate struct {
	certFile, keyFile string

	mu      sync.Mutex
	checked time.Time
	stamp   [2]time.Time
	current *tls.Certificate
	problem error // of the last reading
}

func newCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.load(time.Now())
}

// get returns the certificate. While new files are not usable, the last good one stays in use.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.checked) >= readEvery {
		_ = c.load(now)
	}
	return c.current, nil
}

// trouble returns why the files are not usable, or nil. A certificate that has expired is no use to
// anybody either.
func (c *certificate) trouble() error {
	_, _ = c.get(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if leaf := c.current.Leaf; c.problem == nil && leaf != nil && time.Now().After(leaf.NotAfter) {
		return fmt.Errorf("the certificate in %s has expired on %s", c.certFile, leaf.NotAfter.Format(time.DateOnly))
	}
	return c.problem
}

func (c *certificate) load(now time.Time) (err error) {
	c.checked = now
	defer func() { c.problem = err }()
	var stamp [2]time.Time
	for i, file := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		stamp[i] = info.ModTime()
	}
	if stamp == c.stamp {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.current, c.stamp = &pair, stamp
	return nil
}
