package ingest_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/ingest"
)

// serverFiles are the files of a server's certificate.
type serverFiles struct{ dir, cert, key string }

func newServerFiles(t *testing.T) serverFiles {
	t.Helper()
	dir := t.TempDir()
	return serverFiles{dir: dir, cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key")}
}

// use makes the server have TLS.
func (f serverFiles) use(cfg *ingest.Config) { cfg.TLSCertFile, cfg.TLSKeyFile = f.cert, f.key }

// write writes a certificate and its key. The files get the time of the bubble.
func (f serverFiles) write(t *testing.T, c *tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	f.writeFile(t, f.cert, pemOf(c))
	f.writeFile(t, f.key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

func (f serverFiles) writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, time.Now(), time.Now()); err != nil {
		t.Fatal(err)
	}
}

func forServers(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }

// trusting returns a client's configuration that trusts an authority.
func trusting(authority *tls.Certificate, own ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(authority.Leaf)
	return &tls.Config{RootCAs: pool, ServerName: "hooks.contoso.com", Certificates: own, MinVersion: tls.VersionTLS12}
}

// secureClient returns a client over TLS. Each of its requests has a connection of its own.
func (w *world) secureClient(secure *tls.Config, h2 bool) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return w.listener.Dial(ctx) },
		TLSClientConfig:   secure,
		ForceAttemptHTTP2: h2, DisableKeepAlives: true,
	}}
}

// secureRequest makes a right request of a source.
func secureRequest(t *testing.T, path string, body io.Reader) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "https://hooks.contoso.com"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", right[1])
	r.Header.Set("Content-Type", "application/json")
	return r
}

// ask returns the answer, without its body.
func ask(t *testing.T, client *http.Client, r *http.Request) *http.Response {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return response
}

func TestTLSWithHTTP1AndHTTP2(t *testing.T) {
	authority, files := issue(t, "Contoso CA", nil, nil), newServerFiles(t)
	files.write(t, issue(t, "hooks.contoso.com", authority, forServers))
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, change: files.use}, func(w *world) {
		for major, h2 := range map[int]bool{1: false, 2: true} {
			got := ask(t, w.secureClient(trusting(authority), h2), secureRequest(t, "/hr", strings.NewReader(event)))
			if got.StatusCode != http.StatusOK || got.ProtoMajor != major || got.TLS.Version < tls.VersionTLS12 {
				t.Errorf("%d over HTTP/%d, TLS %x", got.StatusCode, got.ProtoMajor, got.TLS.Version)
			}
		}
		w.wantQueued("both", 2)
		old := trusting(authority)
		old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
		_, err := w.secureClient(old, false).Do(secureRequest(t, "/hr", strings.NewReader(event)))
		if err == nil || !strings.Contains(err.Error(), "protocol version") {
			t.Errorf("TLS 1.1: %v", err)
		}
		plain := overHTTP(t, event)
		if response, err := w.client().Do(plain); err == nil {
			_ = response.Body.Close()
			if response.StatusCode < 400 {
				t.Errorf("without TLS: %d", response.StatusCode)
			}
		}
		w.wantQueued("refused ones", 2)
	})
}

// TestTLSCertificateIsReplacedWithoutARestart writes the two files one after the other, as tools do that
// renew certificates: between the two, they do not fit.
func TestTLSCertificateIsReplacedWithoutARestart(t *testing.T) {
	authority, files := issue(t, "Contoso CA", nil, nil), newServerFiles(t)
	first := issue(t, "hooks.contoso.com", authority, forServers)
	second := issue(t, "hooks.contoso.com", authority, func(c *x509.Certificate) {
		forServers(c)
		c.NotAfter = time.Date(2000, 1, 1, 1, 0, 0, 0, time.UTC)
	})
	files.write(t, first)
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, change: files.use}, func(w *world) {
		presents := func(what string, want *tls.Certificate) {
			t.Helper()
			got := ask(t, w.secureClient(trusting(authority), true), secureRequest(t, "/hr", strings.NewReader(event)))
			if got.StatusCode != http.StatusOK || !got.TLS.PeerCertificates[0].Equal(want.Leaf) {
				t.Errorf("%s: %d with the certificate %s", what, got.StatusCode, got.TLS.PeerCertificates[0].SerialNumber)
			}
		}
		presents("at first", first)
		time.Sleep(time.Minute)
		files.writeFile(t, files.cert, pemOf(second))
		time.Sleep(2 * time.Minute)
		presents("between the two files", first)
		if warnings := fmt.Sprint(w.health.Warnings()); !strings.Contains(warnings, "certificate") {
			t.Errorf("nobody is told: %s", warnings)
		}
		files.write(t, second)
		time.Sleep(2 * time.Minute)
		presents("after it", second)
		if warnings := w.health.Warnings(); len(warnings) > 0 {
			t.Errorf("a warning is left: %v", warnings)
		}
		time.Sleep(time.Hour)
		if warnings := fmt.Sprint(w.health.Warnings()); !strings.Contains(warnings, "expired") {
			t.Errorf("an expired certificate: %s", warnings)
		}
	})
}

func TestTLSClientCertificateEndToEnd(t *testing.T) {
	authority, foreign, files := issue(t, "Contoso CA", nil, nil), issue(t, "Other CA", nil, nil), newServerFiles(t)
	files.write(t, issue(t, "hooks.contoso.com", authority, forServers))
	accepted := filepath.Join(files.dir, "ca.pem")
	files.writeFile(t, accepted, pemOf(authority))
	sources := []config.IngestSource{
		bearerSource(t, "hr"),
		{Name: "mdm", Path: "/mdm", Verify: "mtls", CAFile: accepted, Names: []string{"mdm.contoso.com"}},
	}
	inWorld(t, settings{sources: sources, change: files.use}, func(w *world) {
		for what, c := range map[string]struct {
			own  []tls.Certificate
			path string
			want int
		}{
			"its certificate":                     {[]tls.Certificate{*issue(t, "mdm.contoso.com", authority, nil)}, "/mdm", 200},
			"another name":                        {[]tls.Certificate{*issue(t, "hr.contoso.com", authority, nil)}, "/mdm", 403},
			"another authority":                   {[]tls.Certificate{*issue(t, "mdm.contoso.com", foreign, nil)}, "/mdm", 403},
			"none":                                {nil, "/mdm", 403},
			"none, where none is asked for":       {nil, "/hr", 200},
			"a foreign one, where none is needed": {[]tls.Certificate{*issue(t, "x", foreign, nil)}, "/hr", 200},
		} {
			for _, h2 := range []bool{false, true} {
				client := w.secureClient(trusting(authority, c.own...), h2)
				if got := ask(t, client, secureRequest(t, c.path, strings.NewReader(event))); got.StatusCode != c.want {
					t.Errorf("%s, HTTP/%d: %d, want %d", what, got.ProtoMajor, got.StatusCode, c.want)
				}
			}
		}
		w.wantQueued("accepted", 6)
	})
}

func TestTLSLimitsHoldForHTTP2(t *testing.T) {
	authority, files := issue(t, "Contoso CA", nil, nil), newServerFiles(t)
	files.write(t, issue(t, "hooks.contoso.com", authority, forServers))
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, change: files.use}, func(w *world) {
		client := w.secureClient(trusting(authority), true)
		large := secureRequest(t, "/hr", strings.NewReader(strings.Repeat("x", 65<<10)))
		if got := ask(t, client, large); got.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a large body: %d", got.StatusCode)
		}
		unknown := secureRequest(t, "/hr", io.MultiReader(strings.NewReader(strings.Repeat("x", 65<<10)))) // of unknown length
		if got := ask(t, client, unknown); got.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("a large body of unknown length: %d", got.StatusCode)
		}
		status := rawStream(w.dialTLS(trusting(authority), "h2"), "x-large", strings.Repeat("x", 32<<10))
		if status != "" && status != "431" {
			t.Errorf("a large header: %s", status)
		}
		w.wantQueued("none of these", 0)
	})
}

// TestTLSSlowSendersAreCutOff has senders that stop in the handshake, in the header, or in the body.
func TestTLSSlowSendersAreCutOff(t *testing.T) {
	authority, files := issue(t, "Contoso CA", nil, nil), newServerFiles(t)
	files.write(t, issue(t, "hooks.contoso.com", authority, forServers))
	inWorld(t, settings{sources: []config.IngestSource{bearerSource(t, "hr")}, change: files.use}, func(w *world) {
		dial := func(protocol string) *tls.Conn { return w.dialTLS(trusting(authority), protocol) }
		// ends reads until the server closes the connection, and fails if that takes too long.
		ends := func(what string, conn net.Conn, within time.Duration) string {
			t.Helper()
			began := time.Now()
			_ = conn.SetReadDeadline(began.Add(time.Hour))
			text, err := io.ReadAll(conn)
			if took := time.Since(began); took > within || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: held a connection for %s", what, took)
			}
			_ = conn.Close()
			return string(text)
		}
		silent, err := w.listener.Dial(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		ends("no handshake", silent, 6*time.Second)

		header := dial("http/1.1")
		_, _ = io.WriteString(header, "POST /hr HTTP/1.1\r\nHost: x\r\n")
		ends("half a header", header, 6*time.Second)

		body := dial("http/1.1")
		_, _ = io.WriteString(body, "POST /hr HTTP/1.1\r\nHost: x\r\nAuthorization: "+right[1]+
			"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
		if text := ends("half a body", body, 16*time.Second); !strings.HasPrefix(text, "HTTP/1.1 503 ") {
			t.Errorf("half a body: %.40q", text)
		}

		quiet := dial("h2")
		_, _ = io.WriteString(quiet, http2.ClientPreface)
		_ = http2.NewFramer(quiet, nil).WriteSettings()
		ends("HTTP/2 without a request", quiet, 2*time.Minute)

		// A stream whose body never ends gets its answer, and its slot is free for others.
		began := time.Now()
		if status := rawStream(dial("h2"), "x", "y"); status != "503" || time.Since(began) > 6*time.Second {
			t.Errorf("half a body over HTTP/2: %q after %s", status, time.Since(began))
		}
		w.wantQueued("slow ones", 0)
	})
}

// dialTLS returns a connection with a protocol of HTTP.
func (w *world) dialTLS(secure *tls.Config, protocol string) *tls.Conn {
	w.t.Helper()
	conn, err := w.listener.Dial(context.Background())
	if err != nil {
		w.t.Fatal(err)
	}
	secure.NextProtos = []string{protocol}
	return tls.Client(conn, secure)
}

// rawStream sends a right request over HTTP/2 whose body does not end, with one more field, and returns
// the status of the answer, or "" if there is none. It ends the connection. The client of net/http
// holds a mutex while it writes, which would stop the bubble's clock.
func rawStream(conn *tls.Conn, name, value string) (status string) {
	framer := http2.NewFramer(conn, conn)
	var block bytes.Buffer
	fields := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"},
		{":scheme", "https"},
		{":authority", "x"},
		{":path", "/hr"},
		{"authorization", right[1]},
		{"content-type", "application/json"},
		{name, value},
	} {
		_ = fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	var writing sync.WaitGroup
	writing.Go(func() {
		_, _ = io.WriteString(conn, http2.ClientPreface)
		_ = framer.WriteSettings()
		first := block.Next(16 << 10)
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: first, EndHeaders: block.Len() == 0})
		for block.Len() > 0 {
			next := block.Next(16 << 10)
			_ = framer.WriteContinuation(1, block.Len() == 0, next)
		}
		_ = framer.WriteData(1, false, []byte("{"))
	})
	for decoder := hpack.NewDecoder(4096, nil); status == ""; {
		frame, err := framer.ReadFrame()
		if err != nil {
			break
		}
		if headers, ok := frame.(*http2.HeadersFrame); ok {
			if all, err := decoder.DecodeFull(headers.HeaderBlockFragment()); err == nil {
				status = all[0].Value
			}
		}
	}
	_ = conn.Close()
	writing.Wait()
	return status
}
