package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"
	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus/admin"
	"github.com/coder/websocket"
	"go.uber.org/goleak"

	"github.com/session-revoker/session-revoker/cmd/internal/screen"
)

// TestMain runs the program itself in a process that a test starts.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_SERVICEBUS_EMULATOR") != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

// emulator is the program in a process of its own.
type emulator struct {
	*exec.Cmd
	connectionString string
	stdout           *bufio.Reader
	stderr           screen.Screen
}

// start starts the program and waits until it says how to connect.
func start(t *testing.T, args ...string) *emulator {
	t.Helper()
	e := &emulator{Cmd: exec.CommandContext(t.Context(), os.Args[0],
		append([]string{"--amqp", "127.0.0.1:0", "--admin", "127.0.0.1:0"}, args...)...)}
	e.Env = append(os.Environ(), "RUN_SERVICEBUS_EMULATOR=1")
	e.Stderr = &e.stderr
	pipe, err := e.StdoutPipe()
	must(t, err)
	must(t, e.Start())
	t.Cleanup(func() { _ = e.Process.Kill(); _ = e.Wait() })
	e.stdout = bufio.NewReader(pipe)
	line, err := e.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %s", err, &e.stderr)
	}
	e.connectionString = strings.TrimSpace(line)
	return e
}

// patience bounds what takes a moment, on a machine that has other things to do.
const patience = time.Minute

// stop ends the program as an operator does. It must exit with 0 soon.
func (e *emulator) stop(t *testing.T) {
	t.Helper()
	began := time.Now()
	must(t, e.Process.Signal(syscall.SIGTERM))
	rest, _ := io.ReadAll(e.stdout)
	if err := e.Wait(); err != nil || len(rest) > 0 || time.Since(began) > patience {
		t.Errorf("ended with %v after %s; more on stdout: %q; stderr: %s", err, time.Since(began), rest, &e.stderr)
	}
}

// address returns what stderr says of a port.
func (e *emulator) address(t *testing.T, what string) string {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); { // the copy of stderr may be late
		for line := range strings.Lines(e.stderr.String()) {
			if rest, ok := strings.CutPrefix(line, what+"  "); ok {
				return strings.TrimSpace(rest)
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nothing is said of %s:\n%s", what, &e.stderr)
	return ""
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func send(t *testing.T, client *azservicebus.Client, body string) {
	t.Helper()
	sender, err := client.NewSender("orders", nil)
	must(t, err)
	must(t, sender.SendMessage(t.Context(), &azservicebus.Message{Body: []byte(body)}, nil))
}

// receive receives and completes n messages and returns their bodies.
func receive(t *testing.T, client *azservicebus.Client, n int) string {
	t.Helper()
	receiver, err := client.NewReceiverForQueue("orders", nil)
	must(t, err)
	var all []string
	for len(all) < n {
		messages, err := receiver.ReceiveMessages(t.Context(), n-len(all), nil)
		must(t, err)
		for _, m := range messages {
			must(t, receiver.CompleteMessage(t.Context(), m, nil))
			all = append(all, string(m.Body))
		}
	}
	return fmt.Sprint(all)
}

func dial(t *testing.T, connectionString string, o *azservicebus.ClientOptions) *azservicebus.Client {
	t.Helper()
	client, err := azservicebus.NewClientFromConnectionString(connectionString, o)
	must(t, err)
	t.Cleanup(func() { _ = client.Close(context.Background()) })
	return client
}

func TestEmulatorServesEveryTransportAndSignIn(t *testing.T) {
	authority := filepath.Join(t.TempDir(), "ca.pem")
	e := start(t, "--queue", "orders", "--amqps", "127.0.0.1:0", "--https", "127.0.0.1:0", "--entra", "127.0.0.1:0", "--ca-out", authority)
	text, err := os.ReadFile(authority)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(text)
	trust := &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
	transport := &http.Transport{TLSClientConfig: trust}
	t.Cleanup(transport.CloseIdleConnections)
	web := &http.Client{Transport: transport}
	credential, err := azidentity.NewClientSecretCredential("tenant", "client", "secret", &azidentity.ClientSecretCredentialOptions{
		ClientOptions: azcore.ClientOptions{
			Cloud: cloud.Configuration{ActiveDirectoryAuthorityHost: e.address(t, "Sign-in")}, Transport: web,
		},
		DisableInstanceDiscovery: true,
	})
	must(t, err)
	webSocket := func(ctx context.Context, args azservicebus.NewWebSocketConnArgs) (net.Conn, error) {
		socket, _, err := websocket.Dial(ctx, args.Host, &websocket.DialOptions{Subprotocols: []string{"AMQPWSB10"}, HTTPClient: web})
		if err != nil {
			return nil, err
		}
		return websocket.NetConn(context.Background(), socket, websocket.MessageBinary), nil
	}
	https := strings.TrimPrefix(e.address(t, "Administration"), "https://")

	overTCP := dial(t, e.connectionString, nil)
	overTLS, err := azservicebus.NewClient(e.address(t, "AMQP over TLS"), credential, &azservicebus.ClientOptions{TLSConfig: trust})
	must(t, err)
	overWebSocket, err := azservicebus.NewClient(https, credential, &azservicebus.ClientOptions{NewWebSocketConn: webSocket})
	must(t, err)
	for _, client := range []*azservicebus.Client{overTCP, overTLS, overWebSocket} {
		send(t, client, "x")
	}
	if got := receive(t, overWebSocket, 3); got != "[x x x]" {
		t.Errorf("received %s", got)
	}
	_ = overTLS.Close(t.Context())
	_ = overWebSocket.Close(t.Context())

	administration, err := admin.NewClient(https, credential, &admin.ClientOptions{ClientOptions: azcore.ClientOptions{Transport: web}})
	must(t, err)
	if got, err := administration.GetQueueRuntimeProperties(t.Context(), "orders", nil); err != nil || got == nil {
		t.Errorf("the queue's counts: %v, %v", got, err)
	}
	answer, err := web.Get(e.address(t, "Administration, health") + "/health")
	must(t, err)
	body, _ := io.ReadAll(answer.Body)
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK || !strings.Contains(string(body), "healthy") {
		t.Errorf("health: %d %s", answer.StatusCode, body)
	}
	e.stop(t)
}

// A file with one changed bit can keep a decoder busy for minutes.
func TestEmulatorRefusesAChangedDataFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	e := start(t, "--queue", "orders", "--data", file)
	send(t, dial(t, e.connectionString, nil), "one")
	e.stop(t)
	saved, err := os.ReadFile(file)
	must(t, err)
	for _, at := range []int{0, len(saved) / 2, len(saved) - 1} {
		changed := slices.Clone(saved)
		changed[at] ^= 1
		must(t, os.WriteFile(file, changed, 0o600))
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), []string{"--amqp", "127.0.0.1:0", "--admin", "", "--data", file}, &stdout, &stderr)
		if code != 1 || !strings.Contains(stderr.String(), "the file is damaged") {
			t.Errorf("with byte %d changed: code %d, %s", at, code, &stderr)
		}
	}
}

func TestEmulatorKeepsItsDataOverARestart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "data")
	e := start(t, "--queue", "orders", "--data", file)
	send(t, dial(t, e.connectionString, nil), "one")
	e.stop(t)

	e = start(t, "--data", file) // the queue is in the file
	client := dial(t, e.connectionString, nil)
	before, err := os.Stat(file) // from its start: it writes again only when something has changed
	must(t, err)
	send(t, client, "two")
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if now, err := os.Stat(file); err == nil && !os.SameFile(before, now) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the file is not written")
		}
	}
	must(t, e.Process.Kill()) // as kill -9
	_ = e.Wait()

	e = start(t, "--data", file)
	if got := receive(t, dial(t, e.connectionString, nil), 2); got != "[one two]" {
		t.Errorf("received %s", got)
	}
	e.stop(t)
	if files, _ := filepath.Glob(file + "*"); len(files) != 1 {
		t.Errorf("left behind: %v", files)
	}
}

func TestEmulatorLeavesDataOfOthersAlone(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "data"), filepath.Join(dir, "link")
	must(t, os.Symlink(file, link))
	first := start(t, "--queue", "orders", "--data", file)
	before, err := os.ReadFile(file)
	must(t, err)

	// A second start by accident fails at the ports, and must not have touched the file.
	var stdout, stderr screen.Screen
	_, taken, _ := strings.Cut(first.connectionString, "sb://")
	taken, _, _ = strings.Cut(taken, ";")
	if code := run(t.Context(), []string{"--amqp", taken, "--admin", "", "--queue", "x", "--data", file}, &stdout, &stderr); code != 1 {
		t.Errorf("exit code %d: %s", code, &stderr)
	}
	if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, before) {
		t.Errorf("a start that failed has changed the file, %v", err)
	}

	// One with other ports takes the file over. The first says so, and does not overwrite it.
	second := start(t, "--queue", "more", "--data", link)
	send(t, dial(t, first.connectionString, nil), "lost")
	must(t, first.Process.Signal(syscall.SIGTERM))
	if err := first.Wait(); err == nil || !strings.Contains(first.stderr.String(), "another program has written") {
		t.Errorf("ended with %v: %s", err, &first.stderr)
	}
	send(t, dial(t, second.connectionString, nil), "kept")
	second.stop(t)
	if found, err := os.Lstat(link); err != nil || found.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the symbolic link is replaced: %v, %v", found.Mode(), err)
	}
	third := start(t, "--data", file)
	if got := receive(t, dial(t, third.connectionString, nil), 1); got != "[kept]" {
		t.Errorf("received %s", got)
	}
}

func TestEmulatorDeclaresEntitiesKeysAndSizes(t *testing.T) {
	config := filepath.Join(t.TempDir(), "config.json")
	must(t, os.WriteFile(config, []byte(`{"UserConfig": {"Namespaces": [{"Name": "ns", "Queues": [{"Name": "orders"}]}]}}`), 0o600))
	e := start(t, "--config", config, "--topic", "prices/billing", "--topic", "prices/stock", "--no-default-key",
		"--key", "app=s3cret:Listen,Send", "--max-message-size", "1MiB")
	if !strings.Contains(e.connectionString, "SharedAccessKeyName=app;SharedAccessKey=s3cret;") {
		t.Errorf("the connection string is %s", e.connectionString)
	}
	impatient := &azservicebus.ClientOptions{RetryOptions: azservicebus.RetryOptions{MaxRetries: -1}}
	client := dial(t, e.connectionString, impatient)
	send(t, client, strings.Repeat("x", 900_000))
	for _, subscription := range []string{"billing", "stock"} {
		receiver, err := client.NewReceiverForSubscription("prices", subscription, nil)
		must(t, err)
		if _, err := receiver.PeekMessages(t.Context(), 1, nil); err != nil {
			t.Errorf("%s: %v", subscription, err)
		}
	}
	wrong := strings.Replace(e.connectionString, "SharedAccessKeyName=app;SharedAccessKey=s3cret",
		"SharedAccessKeyName=RootManageSharedAccessKey;SharedAccessKey=SAS_KEY_VALUE", 1)
	sender, err := dial(t, wrong, impatient).NewSender("orders", nil)
	must(t, err)
	if err := sender.SendMessage(t.Context(), &azservicebus.Message{}, nil); err == nil {
		t.Error("the well-known key is accepted")
	}
	e.stop(t)
	for _, closed := range []string{"wss://", "https://", "TLS"} {
		if strings.Contains(e.stderr.String(), closed) {
			t.Errorf("a port that is not open is announced:\n%s", &e.stderr)
		}
	}
}

func TestEmulatorRefusesWrongCommandLines(t *testing.T) {
	dir := t.TempDir()
	damaged := filepath.Join(dir, "damaged")
	must(t, os.WriteFile(damaged, []byte("no snapshot"), 0o600))
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	quiet := []string{"--amqp", "127.0.0.1:0", "--admin", ""}
	for want, args := range map[string][]string{
		"2 --queue NAME":             {"extra"},
		"2 --max-message-size":       {"--max-message-size", "1"},
		"2 --key":                    {"--key", "name=value:Read"},
		"2 --config":                 {"--config", filepath.Join(dir, "none")},
		"2 missing [cert-key]":       {"--cert", "x"},
		"2 needs at least one --key": {"--no-default-key"},
		"2 no port":                  {"--amqp", ""},
		"1 declared twice":           {"--queue", "a", "--queue", "A"},
		"1 choose another with --amqp": {
			"--amqp", taken.Addr().String(),
		},
		"1 --cert and --cert-key": {"--cert", damaged, "--cert-key", damaged, "--amqps", "127.0.0.1:0"},
		"2 are for TLS":           {"--ca-out", filepath.Join(dir, "ca.pem")},
		"2 for TLS":               {"--host", "broker.test"},
		"2 give --entra":          {"--entra-client", "a=b:Listen"},
		"2 subscription is":       {"--topic", "prices/"},
		"1 --entra-client":        {"--entra", "127.0.0.1:0", "--entra-client", "nobody"},
		"1 move the file away":    {"--data", damaged},
		"1 write --data":          {"--data", filepath.Join(dir, "no", "such", "folder")},
	} {
		var stdout, stderr screen.Screen
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // if it serves, it exits with 0 then
		defer cancel()
		code := run(ctx, append(append([]string{}, quiet...), args...), &stdout, &stderr)
		if got := fmt.Sprint(code, " ", stderr.String()); !strings.HasPrefix(got, want[:2]) || !strings.Contains(got, want[2:]) {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
		if stdout.String() != "" {
			t.Errorf("%q: standard output has %q", args, &stdout)
		}
	}
}

func TestEmulatorFlagsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/servicebus-emulator.md")
	must(t, err)
	var help, stderr screen.Screen
	if code := run(t.Context(), []string{"--help"}, &help, &stderr); code != 0 {
		t.Fatalf("--help: exit code %d", code)
	}
	for line := range strings.Lines(help.String()) {
		if len(line) > len("\n")+80 {
			t.Errorf("--help does not fit in 80 columns: %s", line)
		}
	}
	flags := regexp.MustCompile(`(?m)^ {6}(--[a-z-]+)`).FindAllStringSubmatch(help.String(), -1)
	if len(flags) < 10 {
		t.Errorf("--help shows %d flags:\n%s", len(flags), &help)
	}
	for _, flag := range flags {
		if !strings.Contains(string(page), "`"+flag[1]) && !strings.Contains(string(page), " "+flag[1]+" ") {
			t.Errorf("docs/servicebus-emulator.md does not mention %s", flag[1])
		}
	}
}

// TestEmulatorLinksNoSDK keeps the program small.
func TestEmulatorLinksNoSDK(t *testing.T) {
	list, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	must(t, err)
	for _, unwanted := range []string{"github.com/Azure", "github.com/microsoft", "go.uber.org", "prometheus", "redis"} {
		if strings.Contains(string(list), unwanted) {
			t.Errorf("the program links %s", unwanted)
		}
	}
}
