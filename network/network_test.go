package network_test

import (
	"net/url"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/network"
)

func TestProxyFollowsTheEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://ada:hunter2@proxy.contoso.com:3128")
	t.Setenv("HTTP_PROXY", "http://plain.contoso.com:3128")
	t.Setenv("NO_PROXY", "login.contoso.com,.internal.contoso.com,10.0.0.0/8,bus.contoso.com:443,[fd00::1]:8443")
	n := network.New(nil)
	for target, want := range map[string]string{
		"https://graph.microsoft.com":                           "proxy.contoso.com:3128",
		"http://graph.microsoft.com":                            "plain.contoso.com:3128",
		"https://login.contoso.com":                             "",
		"https://x.login.contoso.com":                           "",
		"https://internal.contoso.com":                          "proxy.contoso.com:3128", // only what is below it
		"https://x.internal.contoso.com":                        "",
		"https://10.1.2.3":                                      "",
		"https://bus.contoso.com":                               "",
		"https://bus.contoso.com:8443":                          "proxy.contoso.com:3128",
		"https://[fd00::1]:8443":                                "",
		"https://[fd00::1]:443":                                 "proxy.contoso.com:3128",
		"http://127.0.0.1:8081":                                 "",
		"https://localhost:8443":                                "",
		"http://169.254.169.254/metadata/identity/oauth2/token": "", // managed identity of a machine
		"http://[fe80::1]":                                      "",
	} {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		proxy, err := n.Proxy(u)
		if proxy != nil {
			got = proxy.Host
		}
		if err != nil || got != want {
			t.Errorf("%s: proxy %q, %v; want %q", target, got, err, want)
		}
	}
}

func TestSplitFix(t *testing.T) {
	if what, fix := network.SplitFix("x: " + network.NoWebSocket("bus:443", 403, nil).Error()); fix == "" ||
		strings.Contains(what, "to do") || !strings.HasPrefix(what, "x: the WebSocket") {
		t.Errorf("%q, %q", what, fix)
	}
	if what, fix := network.SplitFix("amqp: refused"); what != "amqp: refused" || fix != "" {
		t.Errorf("%q, %q", what, fix)
	}
}
