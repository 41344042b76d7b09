package network

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
)

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
		name := hostIn(unresolved.Name, target)
		e.fix = "check the name, and the DNS servers of this machine"
		if byProxy {
			name = "the proxy " + unresolved.Name
			e.fix = "check the proxy's URL (HTTPS_PROXY or servicebus.proxy), and the DNS servers of this machine"
		} else {
			e.fix += "; if only a proxy resolves it, set HTTPS_PROXY, with servicebus.transport: websockets for Service Bus"
		}
		e.text = fmt.Sprintf("DNS does not resolve %s: %s", name, reason(e, err))
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
		e.text = fmt.Sprintf("TCP does not reach %s%s: %s", target, p.where(target), reason(e, err))
		e.fix = "open outgoing TCP to " + target + " in every firewall on the way"
	default:
		e.text = fmt.Sprintf("no usable answer from %s: %s", server, reason(e, whole))
		e.fix = "check what answers there: a proxy, a gateway, or another server"
	}
}

// where returns the address that the name has, if that is known.
func (p *Path) where(target string) string {
	if p.step != TCP || p.address == "" || strings.HasSuffix(target, p.address) {
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
		if invalid.Cert.IsCA {
			e.fix = "check this machine's clock; the certificate of the authority itself has expired: renew it on the server, " +
				"and in the file of tls.ca_file"
		}
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
