package config_test

import (
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"strings"
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
		"cut off":                {good + good[:len(good)/2], "its certificate number 2 is not complete"},
		"a private key":          {good + key, "it may hold certificates only"},
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
	wantProblems(t, err, "tls.ca_file", "is a directory")
}
