package config_test

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestServiceBusConnectionIsChecked(t *testing.T) {
	const password = "hunter2-hunter2"
	for name, c := range map[string]struct{ transport, proxy, endpoint, want string }{
		"WebSockets":             {"websockets", "", "", ""},
		"through a proxy":        {"websockets", "http://proxy.contoso.com:3128", "", ""},
		"with a password":        {"websockets", "https://ada:" + password + "@proxy.contoso.com/", "", ""},
		"unknown":                {"https", "", "", `servicebus.transport: "https": use amqp or websockets`},
		"AMQP through a proxy":   {"amqp", "http://ada:" + password + "@proxy:3128", "", "set servicebus.transport to websockets"},
		"a proxy without scheme": {"websockets", "proxy.contoso.com:3128", "", "not the URL of an HTTP proxy"},
		"a SOCKS proxy":          {"websockets", "socks5://ada:" + password + "@proxy:1080", "", "not the URL of an HTTP proxy"},
		"a password with a #":    {"websockets", "http://ada:" + password + "#@proxy:3128", "", "percent-encode"},
		"a password with a /":    {"websockets", "http://ada:" + password + "/@proxy:3128", "", "percent-encode"},
		"a proxy with a path":    {"websockets", "http://proxy:3128/" + password, "", "not the URL of an HTTP proxy"},
		"a proxy with port 0":    {"websockets", "http://proxy:0", "", "not the URL of an HTTP proxy"},
		"an address":             {"amqp", "", "10.1.2.3", ""},
		"a host":                 {"amqp", "", "gateway.contoso.com", ""},
		"a host and port":        {"websockets", "", "gateway.contoso.com:8443", ""},
		"an IPv6 address":        {"amqp", "", "fd00::1", ""},
		"with a port":            {"amqp", "", "[fd00::1]:5671", ""},
		"a URL":                  {"amqp", "", "https://gateway.contoso.com", "servicebus.endpoint"},
		"a user":                 {"amqp", "", "ada:" + password + "@gateway", "servicebus.endpoint"},
		"a wrong port":           {"amqp", "", "gateway:70000", "servicebus.endpoint"},
		"no host":                {"amqp", "", ":5671", "servicebus.endpoint"},
	} {
		cfg, err := load(t, "", append(append([]string{}, minimal...), "REVOKER_SERVICEBUS_TRANSPORT="+c.transport,
			"REVOKER_SERVICEBUS_PROXY="+c.proxy, "REVOKER_SERVICEBUS_ENDPOINT="+c.endpoint))
		switch {
		case c.want == "" && err != nil, c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want %q", name, err, c.want)
		case strings.Contains(fmt.Sprint(err, cfg.Redacted()), "hunter2"):
			t.Errorf("%s: the password shows: %v, %v", name, err, cfg.Redacted())
		}
	}
}

// TestProxyOfTheEnvironmentIsChecked: package httpproxy ignores a URL that it cannot parse, or takes
// "http" for the host.
func TestProxyOfTheEnvironmentIsChecked(t *testing.T) {
	for value, want := range map[string]bool{
		"": true, "proxy.contoso.com:3128": true, "ada:hunter2@proxy:3128": true, "HTTP://proxy:3128/": true,
		"https://ada:hunter2@proxy": true, "socks5://proxy:1080": true, "http://ada:hunter2%40@proxy": true,
		"http://ada:hunter2%zz@proxy:3128": false, "http://ada:hunter2#@proxy:3128": false, "http://ada:hunter2/@proxy:3128": false,
		`http://CONTOSO\ada:hunter2@proxy:3128`: false, "http://proxy:99999": false, "http:/proxy:3128": false, "http://": false,
		` http://proxy:3128`: false, `"http://proxy:3128"`: false, "ftp://proxy": false, "http://proxy:3128/hunter2": false,
	} {
		for _, variable := range []string{"HTTPS_PROXY", "https_proxy"} {
			_, err := load(t, "", append(append([]string{}, minimal...), variable+"="+value))
			if want != (err == nil) || err != nil && !strings.Contains(err.Error(), variable+": not the URL of an HTTP proxy") {
				t.Errorf("%s=%s: %v", variable, value, err)
			}
			if strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("%s=%s: the password shows: %v", variable, value, err)
			}
		}
	}
	_, err := load(t, "", append(append([]string{}, minimal...), "HTTPS_PROXY=http://proxy", "https_proxy=:"))
	if err != nil {
		t.Errorf("the upper case has precedence: %v", err)
	}
}

func TestNamespaceIsAHostName(t *testing.T) {
	for namespace, want := range map[string]string{
		"contoso.servicebus.windows.net":         "",
		"Contoso-1.ServiceBus.Windows.NET":       "",
		"contoso.servicebus.windows.net.":        "without a dot at the end",
		" contoso.servicebus.windows.net":        "must be a host name",
		"contoso.servicebus.windows.net ":        "must be a host name",
		"contoso#.servicebus.windows.net":        "must be a host name",
		"ada@contoso.servicebus.windows.net":     "must be a host name",
		"contoso%zz.servicebus.windows.net":      "must be a host name",
		"büro.servicebus.windows.net":            "must be a host name",
		"contoso..servicebus.windows.net":        "must be a host name",
		".servicebus.windows.net":                "must be a host name",
		"contoso.servicebus.windows.net:5671":    "must be a host name",
		"sb://contoso.servicebus.windows.net":    "must be a host name",
		"contoso.servicebus.windows.net.evil.io": "does not end in",
	} {
		_, err := load(t, "", []string{"REVOKER_SERVICEBUS_NAMESPACE=" + namespace, "REVOKER_SERVICEBUS_QUEUE=events"})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v; want %q", namespace, err, want)
		}
	}
}

func TestCAFileIsChecked(t *testing.T) {
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	good := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	bad := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("nonsense")}))
	key := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("secret")}))
	for name, c := range map[string]struct{ text, want string }{
		"one":                    {good, ""},
		"two, with remarks":      {"# Contoso\n" + good + "# Fabrikam\n" + good + "\n", ""},
		"Windows line ends":      {strings.ReplaceAll(good, "\n", "\r\n"), ""},
		"empty":                  {"", "holds no certificate in PEM form"},
		"garbage":                {"\x30\x82\x01\x00DER", "holds no certificate in PEM form"},
		"damaged":                {good + bad, "its certificate number 2 cannot be read"},
		"cut off":                {good + good[:len(good)/2], "of 2 certificates, 1 are not complete"},
		"a private key":          {good + key, "it may hold certificates only"},
		"two, after a BOM":       {"\ufeff" + good + good, "of 2 certificates, 1 are not complete or do not begin a line"},
		"one is indented":        {good + "  " + strings.ReplaceAll(good, "\n", "\n  ") + "\n" + good, "of 3 certificates, 1 are not"},
		"larger than a megabyte": {strings.Repeat("#", 1<<20+1), "larger than"},
	} {
		_, err := load(t, "", append(append([]string{}, minimal...), "REVOKER_TLS_CA_FILE="+write(t, "ca.pem", c.text)))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), "tls.ca_file") ||
			!strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	_, err := load(t, "", append(append([]string{}, minimal...), "REVOKER_TLS_CA_FILE=/does/not/exist"))
	wantProblems(t, err, "tls.ca_file", "no such file")
	_, err = load(t, "", append(append([]string{}, minimal...), "REVOKER_TLS_CA_FILE="+t.TempDir()))
	wantProblems(t, err, "tls.ca_file", "is not a regular file")
	pipe := filepath.Join(t.TempDir(), "pipe") // nobody writes to it
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = load(t, "", append(append([]string{}, minimal...), "REVOKER_TLS_CA_FILE="+pipe))
	wantProblems(t, err, "tls.ca_file", "is not a regular file")
}
