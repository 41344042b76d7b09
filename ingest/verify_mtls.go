package ingest

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// maxCertificate bounds a certificate in a header, in bytes.
const maxCertificate = 12 << 10

// newMutualTLS knows a sender by its client certificate: that of the connection or, if header is
// set, the one that a trusted proxy puts there.
func newMutualTLS(b *builder) (verifier, error) {
	text, err := os.ReadFile(b.CAFile)
	if err != nil {
		return verifier{}, fmt.Errorf("ca_file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return verifier{}, fmt.Errorf("ca_file: %s holds no certificate in PEM form", b.CAFile)
	}
	if b.Header != "" && !httpguts.ValidHeaderFieldName(b.Header) {
		return verifier{}, errors.New("header: not the name of a header")
	}
	header, names := b.Header, b.Names
	return verifier{headersProven: true, before: func(_ context.Context, in *incoming) *answer {
		leaf, rest, problem := presented(in, header)
		if problem != "" {
			return forbidden(problem)
		}
		between := x509.NewCertPool()
		for _, c := range rest {
			between.AddCert(c)
		}
		_, err := leaf.Verify(x509.VerifyOptions{
			Roots: roots, Intermediates: between, CurrentTime: in.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		})
		if err != nil || !hasName(leaf, names) {
			return forbidden("the client certificate is not accepted: check its authority (ca_file), its names (names), " +
				"that it has not expired, and that it is for client authentication")
		}
		return nil
	}}, nil
}

// presented returns the client certificate and the authorities that came with it, or the problem.
func presented(in *incoming, header string) (leaf *x509.Certificate, rest []*x509.Certificate, problem string) {
	if header == "" {
		if in.TLS == nil || len(in.TLS.PeerCertificates) == 0 {
			return nil, nil, "there is no client certificate"
		}
		return in.TLS.PeerCertificates[0], in.TLS.PeerCertificates[1:], ""
	}
	if !in.proxied {
		return nil, nil, "the client certificate must come from a proxy of ingest.trusted_proxies"
	}
	values := in.Header.Values(header)
	if len(values) != 1 {
		return nil, nil, "the proxy has put no client certificate, or several, into the header " + header
	}
	leaf, err := readCertificate(values[0])
	if err != nil {
		return nil, nil, "the header " + header + " holds no certificate: the proxy must send it " +
			"as PEM that is escaped for URLs, or as RFC 9440 says"
	}
	return leaf, nil, ""
}

// readCertificate reads a certificate in a header: in PEM, escaped as in a URL (nginx
// $ssl_client_escaped_cert), as Cert="…" of Envoy's X-Forwarded-Client-Cert, or in Base64 between
// colons (RFC 9440).
func readCertificate(value string) (*x509.Certificate, error) {
	if len(value) > maxCertificate {
		return nil, errors.New("too long")
	}
	if encoded, ok := strings.CutPrefix(value, ":"); ok {
		der, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(encoded, ":"))
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	// Each proxy of a chain appends an element to Envoy's header. Only one is believed.
	if _, after, ok := strings.Cut(value, `Cert="`); ok {
		value, _, _ = strings.Cut(after, `"`)
		if strings.Contains(after, `Cert="`) {
			return nil, errors.New("several certificates")
		}
	}
	// Not QueryUnescape, which would turn the + of Base64 into a space.
	text, err := url.PathUnescape(value)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("no PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

// hasName reports whether a certificate has one of the names. Without alternative names, its common
// name counts.
func hasName(c *x509.Certificate, names []string) bool {
	has := slices.Clone(c.DNSNames)
	for _, u := range c.URIs {
		has = append(has, u.String())
	}
	has = append(has, c.EmailAddresses...)
	if len(has) == 0 {
		has = append(has, c.Subject.CommonName)
	}
	return slices.ContainsFunc(has, func(name string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
	})
}
