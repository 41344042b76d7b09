package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
	"github.com/alicebob/miniredis/v2"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/cmd/internal/screen"
	"github.com/session-revoker/session-revoker/emulator/leaks"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var anyPort = []string{
	"--amqp", "127.0.0.1:0", "--graph", "127.0.0.1:0", "--ops", "127.0.0.1:0", "--admin", "127.0.0.1:0",
	"--admin-tls", "127.0.0.1:0", "--ingest", "127.0.0.1:0",
}

// until waits until the screen shows a text.
func until(t *testing.T, s *screen.Screen, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !strings.Contains(s.String(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for %q:\n%s", text, s)
		}
	}
}

func TestSandboxDrainSettlesTheSampleAndChecksIt(t *testing.T) {
	t.Parallel() // it waits most of the time
	var stdout, stderr screen.Screen
	code := run(t.Context(), append(anyPort, "--drain", "--leavers", "10"), &stdout, &stderr)
	var s summary
	if err := json.Unmarshal([]byte(stdout.String()), &s); err != nil {
		t.Fatalf("standard output is not one JSON document: %v\n%s", err, &stdout)
	}
	if code != 0 || !s.OK || len(s.Problems) != 0 {
		t.Errorf("exit code %d, %+v\n%s", code, s, &stderr)
	}
	if s.Completed+sum(s.DeadLetters) != s.Messages || s.GraphCalls["429"] == 0 || s.GraphCalls["dropped"] == 0 {
		t.Errorf("%+v: every message has one end, and the faults were met", s)
	}
}

func TestSandboxReplicasThatShareARedisKeepTheGuaranteesOfOne(t *testing.T) {
	t.Parallel() // it waits most of the time
	redis := miniredis.RunT(t)
	redis.ClockTTL(true) // let keys expire, so that a replica's leftovers do not block the others for long
	var stdout, stderr screen.Screen
	code := run(t.Context(), append(anyPort, "--drain", "--leavers", "10", "--replicas", "4", "--redis", redis.Addr()), &stdout, &stderr)
	if code != 0 || len(redis.Keys()) == 0 {
		t.Errorf("exit code %d, %d keys in Redis\n%s\n%s", code, len(redis.Keys()), &stdout, &stderr)
	}
}

func TestSandboxWorkerLogHoldsNoSecret(t *testing.T) {
	t.Parallel() // it waits most of the time
	var stdout, stderr screen.Screen
	file := filepath.Join(t.TempDir(), "worker.log")
	if code := run(t.Context(), append(anyPort, "--drain", "--leavers", "3", "--log", file), &stdout, &stderr); code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &stdout, &stderr)
	}
	log, err := os.ReadFile(file)
	if err != nil || len(log) == 0 {
		t.Fatalf("%d bytes of log, %v", len(log), err)
	}
	for _, leak := range leaks.Find(string(log), clientSecret, servicebus.DefaultKey.Value) {
		t.Error(leak)
	}
}

func TestSandboxReplicasWithoutRedis(t *testing.T) {
	t.Parallel() // it waits most of the time
	var stdout, stderr screen.Screen
	if code := run(t.Context(), append(anyPort, "--drain", "--leavers", "10", "--replicas", "2"), &stdout, &stderr); code != 0 {
		t.Errorf("exit code %d\n%s\n%s", code, &stdout, &stderr)
	}
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func TestSandboxCheckFindsProblems(t *testing.T) {
	s := newSample(1)
	servers, err := startServers(options{amqp: "127.0.0.1:0", graph: "127.0.0.1:0"}, s)
	if err != nil {
		t.Fatal(err)
	}
	defer servers.stop()
	if err := publish(t.Context(), servers, s, options{drain: true}); err != nil {
		t.Fatal(err)
	}
	// No worker has run, so all messages are still in the queue, and nobody is revoked.
	result := check(servers, s, 1)
	text := strings.Join(result.Problems, "\n")
	for _, want := range []string{"still in the queue", "ada@contoso.com: revoked is false", "a guest: not dead-lettered as ExternalUser"} {
		if !strings.Contains(text, want) {
			t.Errorf("the problems lack %q:\n%s", want, text)
		}
	}
	if result.OK || report(&screen.Screen{}, result) == nil {
		t.Error("the check is content")
	}
}

func TestSandboxServersServeAnyClientWithoutAWorker(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stdout screen.Screen
	done := make(chan int, 1)
	go func() { done <- run(ctx, append(anyPort, "--no-worker"), &stdout, &stdout) }()
	until(t, &stdout, "Stop with Ctrl-C")
	settings := map[string]string{}
	for line := range strings.Lines(stdout.String()) {
		if setting, ok := strings.CutPrefix(strings.TrimSpace(line), "export "); ok {
			name, value, _ := strings.Cut(setting, "=")
			settings[name] = strings.Trim(value, "'")
		}
	}
	client, err := azservicebus.NewClientFromConnectionString(settings["REVOKER_SERVICEBUS_CONNECTION_STRING"], nil)
	if err != nil {
		t.Fatal(err)
	}
	sender, err := client.NewSender(settings["REVOKER_SERVICEBUS_QUEUE"], nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.SendMessage(ctx, &azservicebus.Message{Body: []byte("hello")}, nil); err != nil {
		t.Fatal(err)
	}
	receiver, err := client.NewReceiverForQueue(settings["REVOKER_SERVICEBUS_QUEUE"], nil)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := receiver.ReceiveMessages(ctx, 1, nil)
	if err != nil || len(messages) != 1 || string(messages[0].Body) != "hello" {
		t.Fatalf("%v, %v", messages, err)
	}
	if err := receiver.CompleteMessage(ctx, messages[0], nil); err != nil {
		t.Error(err)
	}
	if err := client.Close(ctx); err != nil {
		t.Error(err)
	}
	resp, err := http.Get(settings["REVOKER_GRAPH_ENDPOINT"] + "/_emulator/users")
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%v, %v", resp, err)
	} else {
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d:\n%s", code, &stdout)
	}
}

func TestSandboxHasMoreEntitiesKeysAndTheirAdministration(t *testing.T) {
	dir := t.TempDir()
	entities, certificate := filepath.Join(dir, "config.json"), filepath.Join(dir, "ca.pem")
	text := `{"UserConfig": {"Namespaces": [{"Name": "ns", "Topics": [{"Name": "devices", "Subscriptions": [{"Name": "worker"}]}]}]}}`
	if err := os.WriteFile(entities, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := options{
		amqp: "127.0.0.1:0", graph: "127.0.0.1:0", adminTLS: "127.0.0.1:0", adminCert: certificate, entities: entities,
		keys: []string{"kpi=s3cret:Listen,Manage"},
	}
	s, err := startServers(o, newSample(0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(certificate); err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("the certificate: %v", err)
	}
	web := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	defer web.CloseIdleConnections()
	client, err := admin.NewClientFromConnectionString(servicebus.ConnectionString(s.adminTLS,
		servicebus.Key{Name: "kpi", Value: "s3cret"}),
		&admin.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: web}})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := client.GetSubscriptionRuntimeProperties(t.Context(), "devices", "worker", nil); err != nil || got == nil {
		t.Errorf("the declared subscription: %v, %v", got, err)
	}
	if got, err := client.GetQueueRuntimeProperties(t.Context(), queue, nil); err != nil || got == nil {
		t.Errorf("the sandbox's own queue: %v, %v", got, err)
	}
	var said strings.Builder
	if s.describe(&said); strings.Contains(said.String(), "http:// ") || !strings.Contains(said.String(), s.adminTLS) {
		t.Errorf("a port that is not open, or one that is missing:\n%s", &said)
	}
}

func TestSandboxServesTLSAndSignInToTheAzureSDKs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.pem")
	o := options{
		amqp: "127.0.0.1:0", graph: "127.0.0.1:0", amqps: "127.0.0.1:0", graphTLS: "127.0.0.1:0", adminCert: file, maxMessageSize: "1MiB",
	}
	s, err := startServers(o, newSample(0))
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(file); err != nil || !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("the certificate: %v", err)
	}
	trust := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	transport := &http.Transport{TLSClientConfig: trust}
	defer transport.CloseIdleConnections()
	credential, err := azidentity.NewClientSecretCredential(tenant, clientID, clientSecret, &azidentity.ClientSecretCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Cloud:     cloud.Configuration{ActiveDirectoryAuthorityHost: "https://" + s.graphTLS},
			Transport: &http.Client{Transport: transport},
		},
		DisableInstanceDiscovery: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	client, err := azservicebus.NewClient(s.amqps, credential, &azservicebus.ClientOptions{TLSConfig: trust})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close(context.Background())
	sender, err := client.NewSender(queue, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sender.SendMessage(t.Context(), &azservicebus.Message{Body: make([]byte, 900_000)}, nil); err != nil {
		t.Error(err)
	}
}

func TestSandboxWithoutFlagsShowsTheSampleUntilItIsStopped(t *testing.T) {
	t.Parallel() // it waits most of the time
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var stdout screen.Screen
	done := make(chan int, 1)
	go func() { done <- run(ctx, append(anyPort, "--leavers", "3"), &stdout, &stdout) }()
	until(t, &stdout, "everything is settled")
	lines := regexp.MustCompile(`\S+/curl\.txt`).FindString(stdout.String())
	pasteWebhooks(t, &stdout, lines)
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d:\n%s", code, &stdout)
	}
	if _, err := os.Stat(filepath.Dir(lines)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the secrets of the webhooks are left: %v", err)
	}
	for _, want := range []string{
		"webhook        okta  accepted", "ada@contoso.com", "ProtectedUser", "ExternalUser", "UserNotFound", "superseded", "/metrics",
	} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("nothing was shown of %s:\n%s", want, &stdout)
		}
	}
}

// pasteWebhooks runs each curl line of a file, as somebody does who tries the sandbox.
func pasteWebhooks(t *testing.T, s *screen.Screen, file string) {
	t.Helper()
	for _, program := range []string{"sh", "curl", "openssl"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Logf("there is no %s: the curl lines are not tried", program)
			return
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		n++
		cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
		cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1")
		if out, err := cmd.Output(); err != nil || !strings.HasPrefix(string(out), "HTTP/1.1 200 ") {
			t.Errorf("%s%v %s", line, err, out)
		}
	}
	if n != len(hooks()) {
		t.Errorf("%d curl lines for %d sources", n, len(hooks()))
	}
	for _, p := range hookPeople() {
		until(t, s, p.UserPrincipalName)
	}
	until(t, s, "hr-webhooks-bamboohr  OwnerUnclear")
}

func TestSandboxRefusesWrongCommandLines(t *testing.T) {
	var wrong screen.Screen
	if code := run(t.Context(), append(anyPort, "--no-worker", "--key", "name=value:Read"), &wrong,
		&wrong); code != 1 || !strings.Contains(wrong.String(), "--key") {
		t.Errorf("a wrong key: exit code %d, %q", code, &wrong)
	}
	if code := run(t.Context(), append(anyPort, "--no-worker", "--entities", "missing.json"), &wrong,
		&wrong); code != 1 || !strings.Contains(wrong.String(), "--entities") {
		t.Errorf("a missing file: exit code %d, %q", code, &wrong)
	}
	for _, args := range [][]string{{"--drain", "--no-worker"}, {"--replicas", "0"}, {"--unknown"}, {"extra"}} {
		var out screen.Screen
		if code := run(t.Context(), args, &out, &out); code != 2 || out.String() == "" {
			t.Errorf("%v: exit code %d, %q", args, code, &out)
		}
	}
	var out screen.Screen
	if code := run(t.Context(), append(anyPort[2:], "--amqp", "256.0.0.1:1"), &out, &out); code != 1 || !strings.Contains(out.String(),
		"--amqp") {
		t.Errorf("an impossible address: exit code %d, %q", code, &out)
	}
}
