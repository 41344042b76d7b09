package app

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/network/networktest"
	"github.com/session-revoker/session-revoker/telemetry"
)

// transmittersFile writes the file of one transmitter, whose keys are at an address.
func transmittersFile(t *testing.T, address string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "transmitters.yaml")
	text := "transmitters:\n  - {name: idp, issuer: https://idp.test.invalid, audience: revoker, jwks_url: " + address + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return "REVOKER_EVENTS_TRANSMITTERS_FILE=" + file
}

// TestKeysAreFetchedThroughAProxy fetches a transmitter's keys where only a proxy resolves the
// server's name, and only tls.ca_file names its authority.
func TestKeysAreFetchedThroughAProxy(t *testing.T) {
	const host = "idp.test.invalid"
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	identity := networktest.NewIdentity(t, host)
	keys := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{KeyID: "1", Key: private.Public()}}})
	})
	proxy := networktest.NewProxy(t, map[string]string{host + ":443": identity.Serve(t, keys)})
	t.Setenv("HTTPS_PROXY", "http://"+proxy.Address())
	settings := []string{"REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", transmittersFile(t, "https://"+host+"/keys")}
	refresh := func(settings ...string) secevent.Status {
		t.Helper()
		v, err := NewVerifier(load(t, settings...), nil)
		if err != nil {
			t.Fatal(err)
		}
		return v.Refresh(t.Context())[0]
	}
	if s := refresh(append(settings, "REVOKER_TLS_CA_FILE="+identity.File)...); s.Err != nil || s.Keys != 1 || len(proxy.Asked()) == 0 {
		t.Errorf("%+v; the proxy was asked for %v", s, proxy.Asked())
	}
	if s := refresh(settings...); s.Err == nil || !strings.Contains(s.Err.Error(), "tls.ca_file") {
		t.Errorf("without tls.ca_file: %v", s.Err)
	}
}

func TestTransmittersFileMustBeUsable(t *testing.T) {
	for _, address := range []string{"http://idp.test.invalid/keys", "[", ""} {
		cfg := load(t, "REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", transmittersFile(t, address))
		if _, err := New(cfg, new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "events.transmitters_file: ") {
			t.Errorf("%q: %v", address, err)
		}
	}
}

func TestKeysAreReportedWhenTheyChange(t *testing.T) {
	var out bytes.Buffer
	log, err := telemetry.NewLogger(&out, "info", "json")
	if err != nil {
		t.Fatal(err)
	}
	w := &Worker{log: log, metrics: telemetry.NewMetrics("v", "c")}
	report := w.reportKeys()
	for _, c := range []struct {
		status      secevent.Status
		lines       int
		keys, stale float64
		text        string
	}{
		{secevent.Status{Transmitter: "idp", Err: errors.New("refused")}, 1, 0, 1, "its tokens wait"},
		{secevent.Status{Transmitter: "idp", Err: errors.New("refused")}, 1, 0, 1, "refused"},
		{secevent.Status{Transmitter: "idp", Keys: 2}, 2, 2, 0, "keys of a transmitter read"},
		{secevent.Status{Transmitter: "idp", Keys: 2}, 2, 2, 0, ""},
		{secevent.Status{Transmitter: "idp", Keys: 2, Err: errors.New("refused")}, 3, 2, 1, "stay in force"},
		{secevent.Status{Transmitter: "other", Keys: 1}, 4, 2, 1, `"transmitter":"other"`},
	} {
		report(c.status)
		keys := testutil.ToFloat64(w.metrics.TransmitterKeys.WithLabelValues("idp"))
		stale := testutil.ToFloat64(w.metrics.TransmitterKeysStale.WithLabelValues("idp"))
		if lines := strings.Count(out.String(), "\n"); lines != c.lines || keys != c.keys || stale != c.stale ||
			!strings.Contains(out.String(), c.text) {
			t.Errorf("%+v: %d lines, %v keys, stale %v\n%s", c.status, lines, keys, stale, &out)
		}
	}
}
