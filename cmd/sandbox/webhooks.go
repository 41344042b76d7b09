package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/cmd/internal/app"
	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/emulator/graph"
)

// hook is a source of worker ingest in the sandbox.
type hook struct {
	name   string
	verify string // with further settings in YAML
	path   string // behind /hooks/, if it is not the name
	// who is the person whom the example signs out.
	who graph.User
	// body is the example, with %s for the person. before and curl are what a shell does before curl, and
	// what curl gets; SECRET stands for the file with the secret.
	body         string
	before, curl string
}

// hooks are the sources: one for each way that senders prove themselves.
func hooks() []hook {
	const (
		event = `{"type":"device.lost","userPrincipalName":"%s"}`
		mac   = `openssl dgst -sha256 -hmac "$(cat SECRET)" -r | cut -d" " -f1`
	)
	return []hook{
		{
			name: "okta", verify: "okta", who: person(61, "hedy"),
			body: `{"eventType":"com.okta.event_hook","eventId":"paste-1","data":{"events":[{"uuid":"paste-1",` +
				`"eventType":"user.lifecycle.suspend","published":"2026-03-01T12:00:00Z",` +
				`"actor":{"type":"User","alternateId":"helpdesk@contoso.com"},"outcome":{"result":"SUCCESS"},` +
				`"target":[{"type":"User","alternateId":"%s"}]}]}}`,
			curl: `-H "Authorization: $(cat SECRET)"`,
		},
		{
			name: "jamf", verify: "jamf, username: jamf", who: person(62, "lise"),
			body: `{"webhook":{"name":"paste","webhookEvent":"MobileDeviceUnEnrolled","eventTimestamp":1772366400123},` +
				`"event":{"serialNumber":"DMPX","emailAddress":"%s"}}`,
			curl: `-u "jamf:$(cat SECRET)"`,
		},
		{
			name: "workspace-one", verify: "workspace-one, username: uem", who: person(63, "emmy"),
			body: `{"EventId":178,"EventType":"CompromisedStatusChanged","DeviceId":1001,"EnrollmentEmailAddress":"%s",` +
				`"CompromisedStatus":"Compromised"}`,
			curl: `-u "uem:$(cat SECRET)"`,
		},
		{
			name: "fleet", verify: "fleet", path: `fleet/"$(cat SECRET)"`, who: person(64, "sofia"),
			body: `{"timestamp":"2026-03-01T12:00:00Z","actor_full_name":"Help Desk","type":"wiped_host","details":{"host_id":12,` +
				`"device_mapping":[{"email":"%s","source":"mdm_idp_accounts"}]}}`,
		},
		{
			name: "event-grid", verify: "event-grid", path: `event-grid?code="$(cat SECRET)"`, who: person(65, "vera"),
			body: `[{"id":"paste-1","topic":"/mdm","subject":"x","eventType":"user.compromised","eventTime":"2026-03-01T12:00:00Z",` +
				`"dataVersion":"1","data":{"userPrincipalName":"%s"}}]`,
		},
		{
			name: "github", verify: "github", who: person(66, "rosalind"), body: event,
			curl: `-H "X-Hub-Signature-256: sha256=$(printf %s "$body" | ` + mac + `)"`,
		},
		{ // it names an employee by number: worker ingest accepts it, and nobody is signed out
			name: "bamboohr", verify: "bamboohr",
			body:   `{"type":"employee.deleted","timestamp":"2026-03-01T12:00:00Z","data":{"companyId":"c","employeeId":"7"}}`,
			before: `t=$(date +%s); `,
			curl:   `-H "X-BambooHR-Timestamp: $t" -H "X-BambooHR-Signature: $(printf %s "$body$t" | ` + mac + `)"`,
		},
		{
			name: "standard-webhooks", verify: "standard-webhooks", who: person(67, "sally"), body: event,
			before: `t=$(date +%s); `,
			curl: `-H "webhook-id: msg_$t" -H "webhook-timestamp: $t" -H "webhook-signature: v1,$(printf %s "msg_$t.$t.$body" | ` +
				`openssl dgst -sha256 -mac HMAC -macopt hexkey:"$(cut -c7- SECRET | openssl base64 -d -A | od -An -tx1 | tr -d " \n")" ` +
				`-binary | openssl base64 -A)"`,
		},
		{
			name: "bearer", verify: "bearer", who: person(68, "jocelyn"), body: event,
			curl: `-H "Authorization: Bearer $(cat SECRET)"`,
		},
	}
}

// hookPeople are the people in the examples.
func hookPeople() []graph.User {
	var people []graph.User
	for _, h := range hooks() {
		if h.who.ID != "" {
			people = append(people, h.who)
		}
	}
	return people
}

// webhooks is a running worker ingest with its files.
type webhooks struct {
	dir     string // of the secrets, the configuration, and the curl lines
	secrets map[string]string
	server  *app.Ingest
	cancel  context.CancelFunc
	done    chan error
	client  http.Client
}

// startWebhooks runs worker ingest as cmd/worker does, with secrets that are made for this run, until
// hard is done or stop is called.
func startWebhooks(hard context.Context, s *servers, o options, log io.Writer) (_ *webhooks, err error) {
	w := &webhooks{secrets: map[string]string{}, done: make(chan error, 1)}
	if w.dir, err = os.MkdirTemp("", "sandbox-"); err != nil {
		return nil, fmt.Errorf("make the secrets of webhooks: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(w.dir)
		}
	}()
	file, err := w.writeFiles(o.ingest)
	if err != nil {
		return nil, err
	}
	flags := pflag.NewFlagSet("ingest", pflag.ContinueOnError)
	config.Flags(flags)
	if err := flags.Set("config", file); err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(o.ops)
	cfg, err := config.Load(flags, append(s.settings(o), "REVOKER_OPS_ADDRESS="+net.JoinHostPort(host, "0"), "REVOKER_LOG_LEVEL=debug"))
	if err != nil {
		return nil, err
	}
	if w.server, err = app.NewIngest(cfg, log); err != nil {
		return nil, fmt.Errorf("%w (--ingest)", err)
	}
	if err := os.WriteFile(w.lines(), []byte(w.curlLines()), 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(hard)
	w.cancel = cancel
	go func() { w.done <- w.server.Run(ctx, ctx) }() // no gateway needs time to learn that it ends
	return w, nil
}

// writeFiles writes the secrets and the configuration, and returns the name of the latter.
func (w *webhooks) writeFiles(address string) (file string, err error) {
	var text strings.Builder
	fmt.Fprintf(&text, "ingest:\n  address: %q\n  sources:\n", address)
	for _, h := range hooks() {
		var random [24]byte
		_, _ = rand.Read(random[:]) // never fails (crypto/rand)
		secret := hex.EncodeToString(random[:])
		if h.verify == "standard-webhooks" {
			secret = "whsec_" + base64.StdEncoding.EncodeToString(random[:])
		}
		w.secrets[h.name] = secret
		err = errors.Join(err, os.WriteFile(filepath.Join(w.dir, h.name), []byte(secret), 0o600))
		fmt.Fprintf(&text, "    - {name: %[1]s, path: /hooks/%[1]s, verify: %[2]s, secret_file: %[3]q}\n",
			h.name, h.verify, filepath.Join(w.dir, h.name))
	}
	file = filepath.Join(w.dir, "worker.yaml")
	return file, errors.Join(err, os.WriteFile(file, []byte(text.String()), 0o600))
}

// lines is the file with the curl lines.
func (w *webhooks) lines() string { return filepath.Join(w.dir, "curl.txt") }

// curlLines returns a line for each source that works when it is pasted into a shell.
func (w *webhooks) curlLines() string {
	var b strings.Builder
	b.WriteString("# Paste a line into a shell: the sandbox shows what becomes of it.\n")
	for _, h := range hooks() {
		body, path := h.body, h.path
		if h.who.ID != "" {
			body = fmt.Sprintf(body, h.who.UserPrincipalName)
		}
		if path == "" {
			path = h.name
		}
		line := fmt.Sprintf(`body='%s'; %scurl -i %s -H "Content-Type: application/json" -d "$body" http://%s/hooks/%s`,
			body, h.before, h.curl, w.server.Address(), path)
		fmt.Fprintf(&b, "\n# %s\n%s\n", h.name, strings.ReplaceAll(line, "SECRET", filepath.Join(w.dir, h.name)))
	}
	return b.String()
}

// post sends a message of the sample as its sender does.
func (w *webhooks) post(ctx context.Context, m sampleMessage) error {
	url := "http://" + w.server.Address() + "/hooks/" + m.via
	if m.via == "fleet" {
		url += "/" + w.secrets[m.via]
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(m.message.Body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", *m.message.ContentType)
	switch m.via {
	case "okta":
		request.Header.Set("Authorization", w.secrets[m.via])
	case "jamf":
		request.SetBasicAuth("jamf", w.secrets[m.via])
	case "workspace-one":
		request.SetBasicAuth("uem", w.secrets[m.via])
	}
	response, err := w.client.Do(request)
	if err != nil {
		return fmt.Errorf("call the webhook of %s: %w", m.via, err)
	}
	text, _ := io.ReadAll(io.LimitReader(response.Body, 1024))
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("call the webhook of %s: %d %s", m.via, response.StatusCode, bytes.TrimSpace(text))
	}
	return nil
}

// stop ends worker ingest at once, and removes its files.
func (w *webhooks) stop() error {
	w.client.CloseIdleConnections()
	w.cancel()
	return errors.Join(<-w.done, os.RemoveAll(w.dir))
}

// describe prints how to reach it.
func (w *webhooks) describe(out io.Writer) {
	fmt.Fprintf(out, "Webhooks     http://%s/hooks/…  metrics: http://%s/metrics\n", w.server.Address(), w.server.OpsAddress())
	fmt.Fprintf(out, "             to send one, paste a line of\n             %s\n", w.lines())
}
