package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
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

// Path observes the steps of one connection. It is safe for concurrent use. The methods of a nil
// Path do nothing.
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

// Explain returns the Error for err, which ended the connection to the server HOST:PORT. It returns
// err itself if ctx, the caller's context, has ended, or if err is an Error already.
func (p *Path) Explain(ctx context.Context, server string, err error) error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &Error{Step: p.step}
	var network net.Error
	e.timeout = errors.Is(err, context.DeadlineExceeded) || errors.As(err, &network) && network.Timeout()
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) || ctx.Err() != nil {
		e.cause = err
	}
	p.describe(e, server, err)
	return e
}

// NoWebSocket returns the Error for a server that answers the upgrade to a WebSocket with an HTTP
// status, or in another way that err describes.
func NoWebSocket(server string, status int, err error) *Error {
	if status == http.StatusSwitchingProtocols {
		return &Error{
			Step: Answer, text: fmt.Sprintf("the WebSocket upgrade of %s fails: %v", server, err),
			fix: "check the address: a proxy, a gateway, or another server answers there",
		}
	}
	e := &Error{
		Step: Answer,
		text: fmt.Sprintf("the WebSocket upgrade of %s fails: HTTP %d (%s) instead of 101", server, status, http.StatusText(status)),
		fix:  "let WebSockets to " + server + " pass every proxy and gateway on the way, or check the address",
	}
	if status == http.StatusBadRequest {
		e.fix += "; for an emulator that speaks TLS there, leave UseDevelopmentEmulator=true out of the connection string"
	}
	if status == http.StatusUnauthorized || status == http.StatusForbidden {
		e.fix = "let WebSockets to " + server + " pass every proxy on the way, and check the namespace's firewall " +
			"(its Networking page: selected networks, private endpoint)"
	}
	return e
}

// describe sets the text and what to do. The caller holds mu.
func (p *Path) describe(e *Error, server string, err error) {
	if refused, ok := errors.AsType[*refusal](err); ok {
		e.Step, e.fix = Proxy, refused.fix()
		e.text = strings.TrimSuffix(refused.Error(), ": "+refused.fix())
		return
	}
	whole := err
	target := server
	var inner *net.OpError
	byProxy := errors.As(err, &inner) && inner.Op == "proxyconnect" || p.proxy != "" && (p.step == DNS || p.step == TCP)
	if byProxy {
		target = "the proxy " + p.proxy
		if inner != nil && inner.Op == "proxyconnect" {
			err = inner.Err
		}
	}
	var unresolved *net.DNSError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unresolved):
		e.Step = DNS
		e.text = fmt.Sprintf("DNS does not resolve %s: %s", hostIn(unresolved.Name, target), reason(e, err))
		e.fix = "check the name, and the DNS servers of this machine"
		if !byProxy {
			e.fix += "; if only a proxy resolves it, set HTTPS_PROXY, with servicebus.transport: websockets for Service Bus"
		}
	case errors.As(err, &untrusted):
		e.Step = Handshake
		distrust(e, target, untrusted)
	case p.step == Proxy:
		e.text = fmt.Sprintf("the proxy %s does not let through to %s: %s", p.proxy, server, reason(e, err))
		e.fix = "check that this is an HTTP proxy, and allow CONNECT to " + server + " on it"
	case p.step == Handshake:
		e.text = fmt.Sprintf("TLS with %s fails: %s", target, reason(e, err))
		e.fix = "a firewall or proxy on the way probably ends it: let TLS to " + target + " pass"
	case p.step == DNS || p.step == TCP:
		e.text = fmt.Sprintf("TCP does not reach %s%s: %s", target, p.where(), reason(e, err))
		e.fix = "open outgoing TCP to " + target + " in every firewall on the way"
	default:
		e.text = fmt.Sprintf("no usable answer from %s: %s", server, reason(e, whole))
		e.fix = "check what answers there: a proxy, a gateway, or another server"
	}
}

// where returns the address that the name has, if that is known.
func (p *Path) where() string {
	if p.step != TCP || p.address == "" {
		return ""
	}
	return " (" + p.address + ")"
}

// distrust explains why a certificate was refused.
func distrust(e *Error, server string, err *tls.CertificateVerificationError) {
	issuer := "an unknown issuer"
	if len(err.UnverifiedCertificates) > 0 {
		issuer = issuerOf(err.UnverifiedCertificates[0])
	}
	var unknown x509.UnknownAuthorityError
	var wrongName x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		e.text = fmt.Sprintf("TLS with %s fails: its certificate comes from %s, which this machine does not trust", server, issuer)
		e.fix = "if this is your proxy that inspects TLS, or your own authority, write the authority's certificate to a PEM file and " +
			"set tls.ca_file (REVOKER_TLS_CA_FILE) to it; if not, somebody is in between"
	case errors.As(err, &wrongName):
		e.text = fmt.Sprintf("TLS with %s fails: %v (issued by %s)", server, wrongName, issuer)
		e.fix = "another server answers at this address: check DNS and servicebus.endpoint; for a private endpoint, keep the " +
			"namespace's own name in servicebus.namespace"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		e.text = fmt.Sprintf("TLS with %s fails: %v (issued by %s)", server, invalid, issuer)
		e.fix = "check this machine's clock, and renew the certificate"
	default:
		e.text = fmt.Sprintf("TLS with %s fails: %v (issued by %s)", server, err.Err, issuer)
		e.fix = "replace the server's certificate, or correct tls.ca_file"
	}
}

// hostIn returns the name that DNS was asked for, or else the server.
func hostIn(name, server string) string {
	if name == "" {
		return server
	}
	return name
}

// reason returns the innermost text of an error, which the caller puts into a sentence.
func reason(e *Error, err error) string {
	if e.timeout {
		return "no answer in time"
	}
	var op *net.OpError
	var dns *net.DNSError
	var request *url.Error
	switch {
	case errors.As(err, &dns):
		return dns.Err
	case errors.As(err, &op):
		err = op.Err
	case errors.As(err, &request):
		err = request.Err
	}
	text := err.Error()
	if len(text) > maxReason { // it may quote what a server has sent
		text = strings.ToValidUTF8(text[:maxReason], "") + "…"
	}
	return text
}

// maxReason bounds the text of a cause in bytes.
const maxReason = 200
