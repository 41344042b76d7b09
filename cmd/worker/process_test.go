package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/cmd/internal/screen"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/invariants"
	"github.com/session-revoker/session-revoker/emulator/leaks"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

// These tests run the real binary in its own process, against emulated servers in this one.

const queue = "events"

var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "worker")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "worker")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the worker: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// cloud is a broker and a Graph server, with people in its directory.
type cloud struct {
	t       *testing.T
	broker  *servicebus.Broker
	graph   *graph.Server
	journal invariants.Journal
	amqp    net.Listener // of the broker
	env     []string
	send    func(...*azservicebus.Message)
}

// clientSecret, the keys and all tokens must never be in a log.
const clientSecret = "9f2c-client-secret"

func newCloud(t *testing.T, people int, lock time.Duration) *cloud {
	t.Helper()
	c := &cloud{t: t}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var users []graph.User
	for i := range people {
		users = append(users, graph.User{ID: id(i), UserPrincipalName: fmt.Sprintf("user%d@contoso.com", i), UserType: "Member"})
	}
	var err error
	c.graph, err = graph.New(graph.Config{Tenant: "contoso", Users: users, Apps: []graph.App{
		{
			ClientID: "client", Secret: clientSecret, Roles: []string{"User.RevokeSessions.All"},
			Public: true, Scopes: []string{"User.RevokeSessions.All"},
		},
	}})
	must(err)
	c.broker, err = servicebus.New(servicebus.Config{
		Queues: append([]servicebus.QueueConfig{
			{Name: queue, LockDuration: lock, MaxDeliveryCount: 100, DeadLetterOnExpiration: true},
			{Name: "by-user", LockDuration: lock, MaxDeliveryCount: 100, DeadLetterOnExpiration: true, RequiresSession: true},
		}, sickQueues...),
		Topics: []servicebus.TopicConfig{{
			QueueConfig: servicebus.QueueConfig{Name: "devices"},
			Subscriptions: []servicebus.SubscriptionConfig{
				{QueueConfig: servicebus.QueueConfig{
					Name: "worker", LockDuration: lock, MaxDeliveryCount: 100,
					DeadLetterOnExpiration: true,
				}},
				{QueueConfig: servicebus.QueueConfig{Name: "archive"}},
			},
		}, {
			QueueConfig: servicebus.QueueConfig{Name: "people"},
			Subscriptions: []servicebus.SubscriptionConfig{
				{QueueConfig: servicebus.QueueConfig{
					Name: "by-user", LockDuration: lock, MaxDeliveryCount: 100,
					DeadLetterOnExpiration: true, RequiresSession: true,
				}},
			},
		}},
		Keys: []servicebus.Key{
			servicebus.DefaultKey,
			{Name: "reader", Value: "r", Listen: true},
			{Name: "writer", Value: "w", Send: true},
		},
		Authorize: func(token string) (servicebus.Grant, error) {
			_, until, err := c.graph.Verify(token, "https://servicebus.azure.net")
			return servicebus.Grant{Listen: true, Send: true, Manage: true, Until: until}, err
		},
		Observe: c.journal.Observe,
	})
	must(err)
	c.amqp, err = net.Listen("tcp", "127.0.0.1:0")
	must(err)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	server := &http.Server{Handler: c.graph}
	go func() { _ = c.broker.Serve(c.amqp) }()
	go func() { _ = server.Serve(web) }()
	connection := servicebus.ConnectionString(c.amqp.Addr().String(), servicebus.DefaultKey)
	root := "http://" + web.Addr().String()
	c.env = []string{
		"PATH=" + os.Getenv("PATH"),
		"REVOKER_SERVICEBUS_CONNECTION_STRING=" + connection,
		"REVOKER_SERVICEBUS_QUEUE=" + queue,
		"REVOKER_SERVICEBUS_LOCK_DURATION=" + max(lock, 5*time.Second).String(),
		"REVOKER_GRAPH_ENDPOINT=" + root,
		"REVOKER_GRAPH_TOKEN_URL=" + root + "/contoso/oauth2/v2.0/token",
		"REVOKER_GRAPH_CLIENT_ID=client",
		"REVOKER_GRAPH_CLIENT_SECRET=" + clientSecret,
		"REVOKER_OPS_ADDRESS=127.0.0.1:0",
		"REVOKER_CONSUMER_CONCURRENCY=4",
		"REVOKER_CONSUMER_MAX_IN_FLIGHT=32",
		"REVOKER_CONSUMER_DRAIN_TIMEOUT=2s",
		"REVOKER_DEDUPE_WINDOW=2s",
	}
	client, err := azservicebus.NewClientFromConnectionString(connection, nil)
	must(err)
	sender, err := client.NewSender(queue, nil)
	must(err)
	c.send = func(messages ...*azservicebus.Message) {
		t.Helper()
		for _, m := range messages {
			must(sender.SendMessage(context.Background(), m, nil))
		}
	}
	t.Cleanup(func() {
		_ = client.Close(context.Background())
		_ = c.broker.Close()
		_ = server.Close()
	})
	return c
}

func id(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", i) }

func about(i int) *azservicebus.Message {
	return &azservicebus.Message{Body: []byte(fmt.Sprintf(`{"type":"device.lost","userId":%q}`, id(i)))}
}

// process is a running worker.
type process struct {
	*exec.Cmd
	out screen.Screen
}

func (c *cloud) start(env ...string) *process {
	c.t.Helper()
	p := &process{Cmd: exec.Command(binary, "run")}
	p.Env = append(c.env, env...)
	p.Stdout, p.Stderr = &p.out, &p.out
	if err := p.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
		for _, leak := range leaks.Find(p.out.String(), clientSecret, servicebus.DefaultKey.Value) {
			c.t.Error(leak)
		}
	})
	return p
}

// client connects to the broker. The caller closes it.
func (c *cloud) client() *azservicebus.Client {
	c.t.Helper()
	client, err := azservicebus.NewClientFromConnectionString(strings.TrimPrefix(c.env[1], "REVOKER_SERVICEBUS_CONNECTION_STRING="), nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// The lines in which the process logs where it listens.
const (
	opsLine     = "the operations port is open"
	webhookLine = "receiving webhooks"
)

// address waits until the process logs the line, and returns the address in it. The process picks
// the port itself: one that a test has picked and closed may belong to somebody else by then.
func (c *cloud) address(p *process, line string) string {
	c.t.Helper()
	pattern := regexp.MustCompile(regexp.QuoteMeta(line) + `[^\n]*"address":"([^"]+)"`)
	c.until("the line "+line, func() bool { return pattern.MatchString(p.out.String()) })
	return pattern.FindStringSubmatch(p.out.String())[1]
}

// terminate stops the process as Kubernetes does. The process must exit with 0.
func (p *process) terminate(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("exit: %v\n%s", err, &p.out)
	}
}

// until polls until a condition is true. The servers and the time are real.
func (c *cloud) until(what string, condition func() bool) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("waited a minute for %s; the queue holds %+v", what, c.counts())
		}
	}
}

func (c *cloud) counts() servicebus.Counts {
	c.t.Helper()
	counts, err := c.broker.Counts(queue)
	if err != nil {
		c.t.Fatal(err)
	}
	return counts
}

func (c *cloud) revoked(people int) (n int) {
	for i := range people {
		if _, ok := c.graph.Revoked(id(i)); ok {
			n++
		}
	}
	return n
}

func TestWorkerLosesNothingWhenKilled(t *testing.T) {
	random := newRand(t)
	const (
		people = 300
		kills  = 12
	)
	c := newCloud(t, people, 2*time.Second) // short locks, so that what a killed worker had locked comes back soon
	c.graph.Inject(graph.Fault{Delay: 3 * time.Millisecond})
	users := c.crowd(people)
	for kill := range kills {
		p := c.start()
		// A random time between the first call of this process and the last of its share.
		share := 1 + random.IntN(people/kills)
		before := len(c.graph.Calls())
		c.until("some progress", func() bool { return len(c.graph.Calls()) >= before+share || c.counts().Active == 0 })
		time.Sleep(upTo(random, 2*time.Millisecond))
		if err := p.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		t.Logf("kill %d after %d calls", kill, len(c.graph.Calls())-before)
	}
	if c.counts().Active == 0 {
		t.Fatal("the scenario is wrong: nothing was left for the last worker")
	}
	c.start()
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	c.verify(users, people, kills+1)
	// Each kill costs at most one repeated call for each message in flight.
	if calls := len(c.graph.Calls()); calls > people+kills*32 {
		t.Errorf("%d calls for %d users", calls, people)
	}
}

func TestWorkerFinishesWhatIsInFlightOnSIGTERM(t *testing.T) {
	const people = 200
	c := newCloud(t, people, time.Minute)
	c.graph.Inject(graph.Fault{Delay: 20 * time.Millisecond})
	for i := range people {
		c.send(about(i))
	}
	p := c.start("REVOKER_CONSUMER_DRAIN_TIMEOUT=1m")
	c.until("some progress", func() bool { return c.revoked(people) >= 20 })
	p.terminate(t)
	counts := c.counts()
	if counts.Locked != 0 || counts.DeadLetter != 0 || counts.Active+c.revoked(people) != people {
		t.Errorf("%+v and %d revoked: every message must be either completed or unlocked", counts, c.revoked(people))
	}
	left, err := c.broker.Peek(queue, 0, people)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range left {
		if m.DeliveryCount != 0 {
			t.Errorf("message %d has a failed delivery, although the drain had time", m.SequenceNumber)
		}
	}
}

func TestWorkerReceivesFromASubscription(t *testing.T) {
	c := newCloud(t, 2, time.Minute)
	client := c.client()
	defer client.Close(context.Background())
	sender, err := client.NewSender("devices", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*azservicebus.Message{about(0), about(1), {Body: []byte("rubbish")}} {
		if err := sender.SendMessage(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	p := c.start("REVOKER_SERVICEBUS_QUEUE=", "REVOKER_SERVICEBUS_TOPIC=devices", "REVOKER_SERVICEBUS_SUBSCRIPTION=worker")
	counts := func(name string) servicebus.Counts {
		counts, err := c.broker.Counts("devices/Subscriptions/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return counts
	}
	c.until("an empty subscription", func() bool { return counts("worker").Active == 0 })
	if n, dead := c.revoked(2), counts("worker").DeadLetter; n != 2 || dead != 1 {
		t.Errorf("%d revoked, %d dead letters, want 2 and 1:\n%s", n, dead, &p.out)
	}
	if others := counts("archive"); others.Active != 3 || others.DeadLetter != 0 {
		t.Errorf("another subscription lost something: %+v", others)
	}
}

func TestWorkerServesSessions(t *testing.T) {
	t.Parallel()
	t.Run("of a queue", func(t *testing.T) { testSessions(t, "by-user", "by-user") })
	t.Run("of a subscription", func(t *testing.T) { testSessions(t, "people", "people/Subscriptions/by-user") })
}

func testSessions(t *testing.T, to, source string) {
	const people = 10
	c := newCloud(t, people, time.Minute)
	client := c.client()
	defer client.Close(context.Background())
	sender, err := client.NewSender(to, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * people {
		m, session := about(i%people), id(i%people)
		m.SessionID = &session
		if err := sender.SendMessage(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	from := []string{"REVOKER_SERVICEBUS_QUEUE=", "REVOKER_SERVICEBUS_SOURCES=" + source}
	p := c.start(append(from, "REVOKER_SERVICEBUS_SESSIONS=4")...)
	c.until("an empty source", func() bool {
		counts, err := c.broker.Counts(source)
		if err != nil {
			t.Fatal(err)
		}
		return counts.Active == 0
	})
	if n := c.revoked(people); n != people {
		t.Errorf("%d of %d revoked:\n%s", n, people, &p.out)
	}
	p.terminate(t)

	plain := c.start(from...)
	c.until("the hint", func() bool { return strings.Contains(plain.out.String(), "set servicebus.sessions") })
}

func TestWorkerStopsAtOnceOnASecondSIGTERM(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.graph.Inject(graph.Fault{Status: 503})
	c.send(about(0))
	p := c.start("REVOKER_CONSUMER_DRAIN_TIMEOUT=10m")
	c.until("an attempt", func() bool { return len(c.graph.Calls()) > 0 })
	for range 2 {
		if err := p.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		// Two signals at the same time would count as one.
		c.until("the first signal to be taken", func() bool { return strings.Contains(p.out.String(), "stopped receiving") })
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("exit: %v\n%s", err, &p.out)
	}
	if counts := c.counts(); counts.Active != 1 || counts.DeadLetter != 0 {
		t.Errorf("%+v, want the message in the queue", counts)
	}
}

func TestWorkerOperationsPortAndLog(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	p := c.start()
	address := c.address(p, opsLine)
	get := func(path string) (int, string) {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(text)
	}
	c.until("readiness", func() bool { code, _ := get("/readyz"); return code == http.StatusOK })
	c.send(about(0))
	c.until("the revocation", func() bool { return c.counts().Active == 0 })
	if code, text := get("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, text)
	}
	for _, want := range []string{
		`session_revoker_events_total{outcome="revoked",reason="",source="events"} 1`,
		`session_revoker_graph_attempts_total{result="revoked",status="200"} 1`,
		"session_revoker_enqueue_to_revoked_seconds_count 1", "session_revoker_build_info{", "session_revoker_messages_in_flight 0",
		// An alert must see the first event.
		`session_revoker_events_total{outcome="dead_lettered",reason="ProtectedUser",source="events"} 0`,
	} {
		// The worker counts after the settlement, which the broker has already seen.
		c.until("/metrics with "+want, func() bool { _, metrics := get("/metrics"); return strings.Contains(metrics, want) })
	}
	p.terminate(t)
	log := p.out.String()
	if strings.Contains(log, servicebus.DefaultKey.Value) || strings.Contains(log, clientSecret) {
		t.Errorf("the log holds a secret:\n%s", log)
	}
	decisions := 0
	for line := range strings.Lines(log) {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("not JSON: %s", line)
		}
		if fields["outcome"] == "revoked" {
			decisions++
			for _, key := range []string{
				"messageId", "sequenceNumber", "user", "attempts", "requestId", "clientRequestId",
				"sinceEnqueued", "eventType",
			} {
				if _, ok := fields[key]; !ok {
					t.Errorf("the decision lacks %s: %s", key, line)
				}
			}
		}
	}
	if decisions != 1 {
		t.Errorf("%d decisions logged, want 1:\n%s", decisions, log)
	}
}

func TestConfigurationErrorsExitWith2AndNameEverything(t *testing.T) {
	cmd := exec.Command(binary, "run", "--log.level", "loud")
	cmd.Env = []string{"REVOKER_GRAPH_CLOUD=mars", "REVOKER_GRAPH_COULD=x"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("exit code %d (%v)", cmd.ProcessState.ExitCode(), err)
	}
	for _, want := range []string{
		"REVOKER_GRAPH_COULD", "did you mean", "log.level", "graph.cloud", "servicebus.queue",
		"REVOKER_SERVICEBUS_CONNECTION_STRING",
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the problems lack %s:\n%s", want, out)
		}
	}
}

func TestVersion(t *testing.T) {
	out, err := exec.Command(binary, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "session-revoker ") {
		t.Errorf("%q, %v", out, err)
	}
}
