package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
)

// Step is a step on the way to a server.
type Step string

// The steps, in order. Without a proxy there is no Proxy. The last one depends on the protocol.
const (
	DNS       Step = "DNS"
	TCP       Step = "TCP"
	Proxy     Step = "proxy"
	Handshake Step = "TLS"
	Answer    Step = "answer" // HTTP, or the upgrade to a WebSocket
)

// Error is an error of a connection.
type Error struct {
	// Step is the step that failed.
	Step Step

	text    string // which step failed, where, and why
	fix     string // what to do
	timeout bool
	cause   error
}

// whatToDo separates the parts of an Error's text.
const whatToDo = "; what to do: "

// Error returns the step, the address, the reason, and what to do.
func (e *Error) Error() string { return e.text + whatToDo + e.fix }

// SplitFix splits the text of an error into what has happened and what to do. fix is empty if the
// text is not that of an Error. It takes a text because the Service Bus client hides the errors
// that it wraps.
func SplitFix(text string) (what, fix string) {
	what, fix, _ = strings.Cut(text, whatToDo)
	return what, fix
}

// Timeout implements net.Error: the Service Bus client then connects again.
func (e *Error) Timeout() bool { return e.timeout }

// Temporary implements net.Error.
func (e *Error) Temporary() bool { return true }

// Unwrap returns the cause. It is nil if the connection itself took too long. Otherwise the Service
// Bus client, which sees context.DeadlineExceeded in a timeout of package net, would take it for the
// end of its caller's context, and give up.
func (e *Error) Unwrap() error { return e.cause }

// Path observes the steps of one connection. It is safe for concurrent use. What a dialer notes in a
// nil Path, because nobody observes, is forgotten.
type Path struct {
	mu      sync.Mutex
	step    Step
	address string // that the step is about
	proxy   string // HOST:PORT
	tunnel  bool   // through the proxy exists
	remote  string // that TCP connected to
	issuer  string
}

type pathKey struct{}

func pathOf(ctx context.Context) *Path {
	p, _ := ctx.Value(pathKey{}).(*Path)
	return p
}

// Observe returns a context for one connection, and the Path that observes it. If ctx has a Path
// already, Observe returns this one.
func Observe(ctx context.Context) (context.Context, *Path) {
	if p := pathOf(ctx); p != nil {
		return ctx, p
	}
	p := &Path{}
	// Package net calls these hooks, too.
	return httptrace.WithClientTrace(context.WithValue(ctx, pathKey{}, p), &httptrace.ClientTrace{
		DNSStart:          func(i httptrace.DNSStartInfo) { p.at(DNS, i.Host) },
		ConnectStart:      func(_, address string) { p.at(TCP, address) },
		ConnectDone:       func(_, address string, err error) { p.connected(address, err) },
		TLSHandshakeStart: func() { p.at(Handshake, "") },
		TLSHandshakeDone: func(state tls.ConnectionState, err error) {
			if err == nil {
				p.secured(state)
			}
		},
		GotConn: func(httptrace.GotConnInfo) { p.at(Answer, "") },
	}), p
}

func (p *Path) at(step Step, address string) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step, p.address = step, address
}

func (p *Path) connected(address string, err error) {
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.remote = address
	if p.proxy != "" {
		p.step = Proxy
	}
}

func (p *Path) through(proxy *url.URL) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.proxy = HostPort(proxy)
}

func (p *Path) tunneled() {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tunnel = true
}

// secured notes that TLS is established.
func (p *Path) secured(state tls.ConnectionState) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.proxy != "" && !p.tunnel {
		p.step = Proxy // this was the TLS of an https proxy
		return
	}
	p.step = Answer
	if len(state.PeerCertificates) > 0 {
		p.issuer = issuerOf(state.PeerCertificates[0])
	}
}

// String describes the connection that was established: its address, the proxy, and the issuer of
// the server's certificate.
func (p *Path) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	text := "at " + p.remote
	if p.proxy != "" {
		text = "through the proxy " + p.proxy
	}
	if p.issuer != "" {
		text += ", certificate from " + p.issuer
	}
	return text
}

// issuerOf names the authority that issued a certificate.
func issuerOf(c *x509.Certificate) string {
	var names []string
	if len(c.Issuer.Organization) > 0 {
		names = append(names, c.Issuer.Organization[0])
	}
	if c.Issuer.CommonName != "" {
		names = append(names, c.Issuer.CommonName)
	}
	if len(names) == 0 {
		return "an issuer without a name"
	}
	return fmt.Sprintf("%q", strings.Join(names, ", "))
}
