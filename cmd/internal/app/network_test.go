package app

import (
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/network/networktest"
)

// TestCredentialSignsInThroughAProxy checks each way to sign in, and a call of Graph, where only a
// proxy resolves the server's name, and only tls.ca_file names its authority.
func TestCredentialSignsInThroughAProxy(t *testing.T) {
	const host = "entra.test.invalid"
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, 0)
			identity := networktest.NewIdentity(t, host)
			proxy := networktest.NewProxy(t, map[string]string{host + ":443": identity.Serve(t, d)})
			t.Setenv("HTTPS_PROXY", "http://"+proxy.Address())
			d.at("https://" + host)
			settings := append(d.environ, way(t, d)...)
			cfg := load(t, append(settings, "REVOKER_TLS_CA_FILE="+identity.File)...)
			g, err := NewGraph(cfg, GraphOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer g.Close()
			if err := revokeAda(t, g); err != nil {
				t.Fatal(err)
			}
			if _, revoked := d.Revoked("ada@contoso.com"); !revoked || len(proxy.Asked()) == 0 {
				t.Errorf("revoked: %v; the proxy was asked for %v", revoked, proxy.Asked())
			}
			untrusting, err := NewGraph(load(t, settings...), GraphOptions{})
			if err != nil {
				t.Fatal(err)
			}
			defer untrusting.Close()
			if err := revokeAda(t, untrusting); err == nil || !strings.Contains(err.Error(), "certificate") {
				t.Errorf("without tls.ca_file: %v", err)
			}
		})
	}
}
