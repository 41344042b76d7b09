package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/ingest/ssf/ssftest"
)

const (
	accessToken = "the-access-token-of-the-test"
	pushSecret  = "the-secret-of-the-push"
)

// operatorOf is an operator of a stream called idp.
type operatorOf struct {
	t   *testing.T
	tx  *ssftest.Transmitter
	dir string
}

// newOperator has a transmitter and a configuration. more is added to the stream's settings.
func newOperator(t *testing.T, more string) *operatorOf {
	t.Helper()
	tx := ssftest.New("")
	tx.Access = accessToken
	server := httptest.NewServer(tx)
	t.Cleanup(server.Close)
	tx.Issuer = server.URL + "/tenant"
	dir := t.TempDir()
	for name, text := range map[string]string{
		"token":  accessToken,
		"secret": pushSecret,
		"transmitters.yaml": fmt.Sprintf("transmitters:\n  - {name: idp, issuer: %s, audience: %s, jwks_url: %s/keys}\n",
			tx.Issuer, ssftest.Audience, tx.Issuer),
		"worker.yaml": fmt.Sprintf("events: {transmitters_file: %[1]s/transmitters.yaml}\naudit: {file: %[1]s/audit.ndjson}\n"+
			"ingest:\n  streams:\n    - {name: idp, issuer: %[2]s, token_file: %[1]s/token%[3]s}\n", dir, tx.Issuer,
			strings.ReplaceAll(more, "DIR", dir)),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &operatorOf{t: t, tx: tx, dir: dir}
}

// ssf runs a command, and fails unless it ends with a code and prints the texts.
func (o *operatorOf) ssf(code int, stdin string, args string, texts ...string) string {
	o.t.Helper()
	var stdout, stderr bytes.Buffer
	all := append(append([]string{"ssf"}, strings.Fields(args)...), "--config", filepath.Join(o.dir, "worker.yaml"))
	environ := []string{"REVOKER_GRAPH_TENANT_ID=contoso"}
	if got := run(o.t.Context(), all, environ, strings.NewReader(stdin), &stdout, &stderr); got != code {
		o.t.Errorf("ssf %s: exit code %d, want %d\n%s%s", args, got, code, &stdout, &stderr)
	}
	for _, text := range texts {
		if !strings.Contains(stdout.String()+stderr.String(), text) {
			o.t.Errorf("ssf %s: no %q in\n%s%s", args, text, &stdout, &stderr)
		}
	}
	for _, secret := range []string{accessToken, pushSecret, "\x1b"} {
		if strings.Contains(stdout.String()+stderr.String(), secret) {
			o.t.Errorf("ssf %s: the output contains %q:\n%s%s", args, secret, &stdout, &stderr)
		}
	}
	return stdout.String()
}

func TestSSFCommandsOfAStreamFromItsCreationToItsEnd(t *testing.T) {
	o := newOperator(t, ", events: [account-disabled, session-revoked]")
	o.ssf(5, "", "show idp", "worker ssf create idp")
	o.ssf(1, "", "show", "worker ssf create idp")
	o.ssf(5, "", "status idp")
	o.ssf(0, "", "create idp --why SEC-311", "Created.", "worker ssf verify idp", "stream-1", ssftest.AccountDisabled)
	o.ssf(0, "", "create idp", "nothing was changed")
	if got := o.tx.Streams(); len(got) != 1 || len(got[0].Events) != 2 || got[0].Delivery.Method != "urn:ietf:rfc:8936" {
		t.Fatalf("the transmitter has %+v", got)
	}
	for line := range strings.Lines(o.ssf(0, "", "show", "stream-1", "enabled")) {
		if n := utf8.RuneCountInString(line); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	var shown struct{ StreamID, Status, Issuer, HeartbeatEvery string }
	if err := json.Unmarshal([]byte(o.ssf(0, "", "show idp --output json")), &shown); err != nil || shown.StreamID != "stream-1" ||
		shown.Status != "enabled" || shown.HeartbeatEvery != "15m0s" {
		t.Errorf("%+v, %v", shown, err)
	}
	var list []any
	if err := json.Unmarshal([]byte(o.ssf(0, "", "show --output json")), &list); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	o.ssf(0, "", "update idp", "accepted the update")
	o.ssf(0, "", "verify idp", "heartbeat of the stream")
	if o.tx.Waiting() != 1 {
		t.Error("no verification event was asked for")
	}
	o.ssf(0, "", "status idp --set paused --reason maintenance", "idp is paused")
	o.ssf(0, "", "status idp", "idp is paused")
	o.ssf(2, "", "status idp --set off", "not enabled, paused, or disabled")
	o.ssf(0, "", "subject add idp --email ada@contoso.com", "now sends events")
	o.ssf(2, "", "subject add idp", "give one of")
	o.ssf(2, "", "subject add idp --subject {}", "not a JSON object with a format")
	o.ssf(0, "", `subject remove idp --subject {"format":"opaque","id":"1"}`, "no more events")
	if got := o.tx.Subjects(); len(got) != 2 || !strings.Contains(got[0], "ada@contoso.com") || !strings.HasPrefix(got[1], "-") {
		t.Errorf("subjects %v", got)
	}
	o.ssf(1, "n\n", "delete idp", "not confirmed")
	o.ssf(1, "", "delete idp", "not confirmed")
	if len(o.tx.Streams()) != 1 {
		t.Fatal("deleted without a confirmation")
	}
	o.ssf(0, "y\n", "delete idp", "Deleted", "remove idp from ingest.streams")
	o.ssf(5, "", "delete idp --yes")
	if len(o.tx.Streams()) != 0 {
		t.Error("not deleted")
	}
	text, err := os.ReadFile(filepath.Join(o.dir, "audit-operators.ndjson"))
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"ssf create", "ssf update", "ssf status", "ssf subject add", "ssf subject remove", "ssf delete"} {
		if n := strings.Count(string(text), `"command":"`+command+`"`); n != 2 {
			t.Errorf("%d audit records of %s, want that it begins and that it is done", n, command)
		}
	}
	if !strings.Contains(string(text), "SEC-311") || strings.Contains(string(text), "ada@contoso.com") {
		t.Errorf("the audit log:\n%s", text)
	}
}

func TestSSFCommandsGiveTheTransmitterItsSecret(t *testing.T) {
	o := newOperator(t, ", delivery: push, path: /signals/idp, secret_file: DIR/secret, url: 'https://hooks.contoso.com/signals/idp'")
	o.ssf(0, "", "create idp", "Created.", "https://hooks.contoso.com/signals/idp")
	if got := o.tx.Streams()[0].Delivery; got.Authorization != pushSecret || got.Endpoint != "https://hooks.contoso.com/signals/idp" {
		t.Errorf("the transmitter has %+v", got)
	}
	o = newOperator(t, ", delivery: push, path: /signals/idp, secret_file: DIR/secret")
	o.ssf(2, "", "create idp", "url: required")
}

func TestSSFCommandsSayWhatIsWrong(t *testing.T) {
	o := newOperator(t, "")
	o.ssf(2, "", "show nobody", `"nobody" is no stream`, "there are: idp")
	o.tx.Access = "another"
	o.ssf(3, "", "show idp", "HTTP 401", "renew the access token")
	o.tx.Access = accessToken
	o.tx.Change = func(m map[string]any) { m["default_subjects"] = "NONE" }
	o.ssf(0, "", "create idp", "worker ssf subject add idp")
	o.tx.Change = func(m map[string]any) { m["configuration_endpoint"] = "https://evil.example.com/\x1b[2J" }
	o.ssf(1, "", "show idp", "is not used")
	o.tx.Change = nil
	o = newOperator(t, ", poll_url: 'https://idp.example.com/poll'")
	o.ssf(2, "", "create idp", "no API for streams")
	o.ssf(0, "", "show", "idp")
	o = newOperator(t, "")
	o.tx.Audience = "receiver/stream-1"
	o.ssf(0, "", "create idp", "not in the audience of idp", "correct the audience")
	o.ssf(0, "", "create idp", "nothing was changed", "correct the audience")
}
