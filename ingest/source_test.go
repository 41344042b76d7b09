package ingest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest"
)

func TestSourcesThatProveNothingAreRefused(t *testing.T) {
	key, short := secretFile(t, theKey), secretFile(t, "fifteen-bytes-1")
	source := func(change func(s *config.IngestSource)) []config.IngestSource {
		s := config.IngestSource{At: "worker.yaml:7:5", Name: "a", Path: "/a", Verify: "bearer", SecretFile: key}
		change(&s)
		return []config.IngestSource{s}
	}
	nothing := func(*config.IngestSource) {}
	signs := secretFile(t, "a+secret/with=signs")
	for want, sources := range map[string][]config.IngestSource{
		"verify: required":           source(func(s *config.IngestSource) { s.Verify = "" }),
		"verify: unknown":            source(func(s *config.IngestSource) { s.Verify = "none" }),
		"secret_file: required":      source(func(s *config.IngestSource) { s.SecretFile = "" }),
		"no such file":               source(func(s *config.IngestSource) { s.SecretFile += "x" }),
		"15 bytes":                   source(func(s *config.IngestSource) { s.SecretFile = short }),
		"username: has no effect":    source(func(s *config.IngestSource) { s.Username = "x" }),
		"username: required":         source(func(s *config.IngestSource) { s.Verify = "basic" }),
		"name:":                      source(func(s *config.IngestSource) { s.Name = "A b" }),
		"path: must be":              source(func(s *config.IngestSource) { s.Path = "/a/../b" }),
		"without a slash at the end": source(func(s *config.IngestSource) { s.Path = "/a/" }),
		"must be like":               source(func(s *config.IngestSource) { s.Path = "/" }),
		"another source has":         append(source(nothing), source(func(s *config.IngestSource) { s.Path = "/b" })...),
		"path: a has it too":         append(source(nothing), source(func(s *config.IngestSource) { s.Name = "b" })...),
		"respond_busy: 503 or 429":   source(func(s *config.IngestSource) { s.RespondBusy = 400 }),
		"max_body: at most":          source(func(s *config.IngestSource) { s.MaxBody = 1 << 30 }),
		"timeout: from":              source(func(s *config.IngestSource) { s.Timeout = time.Hour }),
		"expect_every: at most":      source(func(s *config.IngestSource) { s.ExpectEvery = 200 * time.Hour }),
		"content_type:":              source(func(s *config.IngestSource) { s.ContentType = "json;;" }),
		"timestamp_header belong": source(func(s *config.IngestSource) {
			s.Verify, s.Header, s.Signed = "hmac", "X", []string{"timestamp", "body"}
		}),
		"must have body":        source(func(s *config.IngestSource) { s.Verify, s.Header, s.Signed = "hmac", "X", []string{"method"} }),
		"algorithm: sha256 or":  source(func(s *config.IngestSource) { s.Verify, s.Header, s.Algorithm = "hmac", "X", "md5" }),
		"tolerance: at most 1h": source(func(s *config.IngestSource) { s.Verify, s.Tolerance = "bamboohr", 2*time.Hour }),
		"Base64":                source(func(s *config.IngestSource) { s.Verify = "standard-webhooks" }),
		"every app of the tenant": source(func(s *config.IngestSource) {
			s.Verify, s.SecretFile, s.Tenant, s.Audience = "entra", "", tenant, "x"
		}),
		"tenant: the tenant's ID": source(func(s *config.IngestSource) {
			s.Verify, s.SecretFile, s.Tenant, s.Audience, s.Caller = "entra", "", "common", "x", "y"
		}),
		"set audience and tenant":     source(func(s *config.IngestSource) { s.Verify, s.SecretFile = "event-grid", "" }),
		"audience: has no effect":     source(func(s *config.IngestSource) { s.Verify, s.Audience = "jamf", "x" }),
		"set username for Basic":      source(func(s *config.IngestSource) { s.Verify = "jamf" }),
		"letters, digits, and - _ . ": source(func(s *config.IngestSource) { s.Verify, s.SecretFile = "fleet", signs }),
		"ca_file": source(func(s *config.IngestSource) {
			s.Verify, s.SecretFile, s.CAFile, s.Names = "mtls", "", key, []string{"x"}
		}),
	} {
		err := ingest.Check(config.Ingest{Sources: sources, MaxBody: 1 << 18, Timeout: time.Second, Concurrency: 8, AddressRate: 1}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "worker.yaml:7:5") {
			t.Errorf("%v, want %q", err, want)
		}
		if err != nil && strings.Contains(err.Error(), theKey) {
			t.Errorf("the error shows a secret: %v", err)
		}
	}
	if _, err := ingest.New(ingest.Config{}, ingest.Dependencies{}); err == nil {
		t.Error("starts without a source")
	}
}

// issue makes a certificate; parent is nil for an authority.
func issue(t *testing.T, name string, parent *tls.Certificate, change func(*x509.Certificate)) *tls.Certificate {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Date(1999, 12, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2000, 2, 1, 0, 0, 0, 0, time.UTC),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	signer, key := c, any(private)
	if parent == nil {
		c.IsCA, c.BasicConstraintsValid, c.DNSNames, c.ExtKeyUsage = true, true, nil, nil
	} else {
		signer, key = parent.Leaf, parent.PrivateKey
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, signer, private.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private, Leaf: leaf}
}

func pemOf(c *tls.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}))
}

func TestClientCertificates(t *testing.T) {
	authority, foreign := issue(t, "Contoso CA", nil, nil), issue(t, "Contoso CA", nil, nil)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, []byte(pemOf(authority)), 0o600); err != nil {
		t.Fatal(err)
	}
	right := issue(t, "mdm.contoso.com", authority, nil)
	certificates := map[string]struct {
		c      *tls.Certificate
		status int
	}{
		"right":          {right, 200},
		"another name":   {issue(t, "hr.contoso.com", authority, nil), 403},
		"another issuer": {issue(t, "mdm.contoso.com", foreign, nil), 403},
		"only common name": {issue(t, "mdm.contoso.com", authority, func(c *x509.Certificate) {
			c.DNSNames = []string{"x.contoso.com"}
		}), 403},
		"for servers": {issue(t, "mdm.contoso.com", authority, func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}), 403},
		"expired": {issue(t, "mdm.contoso.com", authority, func(c *x509.Certificate) {
			c.NotAfter = time.Date(1999, 12, 31, 0, 0, 0, 0, time.UTC)
		}), 403},
	}
	s := settings{proxies: []string{"10.0.0.0/8"}, sources: []config.IngestSource{
		{Name: "direct", Path: "/direct", Verify: "mtls", CAFile: file, Names: []string{"MDM.contoso.com"}},
		{Name: "proxied", Path: "/proxied", Verify: "mtls", CAFile: file, Names: []string{"mdm.contoso.com"}, Header: "X-Client-Cert"},
	}}
	inWorld(t, s, func(w *world) {
		from := func(peer, path string, header ...string) *http.Request {
			r := request(http.MethodPost, path, event, header...)
			r.RemoteAddr = peer
			return r
		}
		for what, c := range certificates {
			r := from("203.0.113.1:1", "/direct")
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.c.Leaf}}
			w.want(what+", direct", w.do(r), c.status)
			escaped := url.PathEscape(pemOf(c.c))
			for form, value := range map[string]string{
				"nginx": escaped, "Envoy": `Hash=x;Cert="` + escaped + `";Subject="CN=x"`,
				"RFC 9440": ":" + base64.StdEncoding.EncodeToString(c.c.Certificate[0]) + ":",
			} {
				w.want(what+" by "+form, w.do(from("10.0.0.1:1", "/proxied", "X-Client-Cert", value)), c.status)
			}
		}
		escaped := url.PathEscape(pemOf(right))
		w.want("a stranger's header", w.do(from("203.0.113.1:1", "/proxied", "X-Client-Cert", escaped)), 403)
		w.want("none", w.do(from("203.0.113.1:1", "/direct")), 403)
		w.want("a header without need", w.do(from("10.0.0.1:1", "/direct", "X-Client-Cert", escaped)), 403)
		w.want("rubbish", w.do(from("10.0.0.1:1", "/proxied", "X-Client-Cert", "%zz")), 403)
		two := from("10.0.0.1:1", "/proxied", "X-Client-Cert", escaped)
		two.Header.Add("X-Client-Cert", escaped)
		w.want("two headers", w.do(two), 403)
		w.want("two of Envoy", w.do(from("10.0.0.1:1", "/proxied", "X-Client-Cert", `Cert="`+escaped+`",Cert="`+escaped+`"`)), 403)
		w.wantQueued("right ones", 4)
	})
}
