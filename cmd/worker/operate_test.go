package main_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/cmd/internal/screen"
	"github.com/session-revoker/session-revoker/emulator/graph"
	"github.com/session-revoker/session-revoker/emulator/servicebus"
)

func TestRevoke(t *testing.T) {
	c := newCloud(t, 4, time.Minute)
	noBus := []string{
		"REVOKER_SERVICEBUS_CONNECTION_STRING=", "REVOKER_SERVICEBUS_QUEUE=",
		"REVOKER_GUARD_PROTECTED_USERS=user3@contoso.com",
	}
	c.commandIn("", noBus, "revoke", "user0@contoso.com", "--dry-run").want(t, 0, "user0@contoso.com", "would be revoked")
	c.commandIn("", noBus, "revoke", id(0), "user1@contoso.com").want(t, 0, id(0), "revoked", "200")
	if n := c.revoked(4); n != 2 {
		t.Fatalf("%d are revoked, want 2", n)
	}
	c.commandIn("user2@contoso.com\n\nUSER2@contoso.com\n", noBus, "revoke", "-", "-o", "ndjson").want(t, 0,
		`"user":"user2@contoso.com","outcome":"revoked","status":200,"result":true,"calls":1,"requestId":"`)
	c.commandIn("", noBus, "revoke", "user3@contoso.com", "x#EXT#@contoso.com").want(t, 1, "protected", "another tenant", "2 of 2")
	c.commandIn("", noBus, "revoke", "--legacy-beta", "user2@contoso.com", "-o", "ndjson").want(t, 0, `"status":204,"result":true`)
	c.commandIn("", noBus, "revoke", "--beta", "user2@contoso.com", "-o", "ndjson").want(t, 0, `"status":200,"result":true`)
	if calls := c.graph.CallsFor(id(2)); calls[len(calls)-1].Path != "/beta/users/user2@contoso.com/revokeSignInSessions" {
		t.Errorf("--beta called %s", calls[len(calls)-1].Path)
	}
	c.commandIn("", noBus, "revoke", "--beta", "--legacy-beta", "user2@contoso.com").want(t, 2, "beta")
	unknown := c.commandIn("", noBus, "revoke", "nobody@contoso.com", "--give-up-after", "10ms", "-o", "ndjson")
	if unknown.want(t, 1, `"status":404`); strings.Contains(unknown.stdout, `"result"`) {
		t.Errorf("a 404 says nothing about a result: %s", unknown.stdout)
	}
	c.commandIn("", noBus, "revoke", "me").want(t, 2, "--delegated")
	c.commandIn("# leavers of May\nuser2@contoso.com\t# asked by HR\nno one\n", noBus, "revoke", "-").want(t, 2, "line 3: ")
	c.commandIn("# leavers of May\nx#EXT#@contoso.com # a guest\n", noBus, "revoke", "-", "--dry-run").want(t, 0,
		"x#EXT#@contoso.com", "would be refused: guest")
	c.commandIn("", noBus, "revoke", "../groups").want(t, 2, "no sessions were revoked", "neither an object id", "name@domain")
	c.commandIn("", noBus, "revoke", "--max", "1", id(0), id(1)).want(t, 2, "--max 1")
	c.commandIn("", noBus, "revoke", "--delegated=magic", id(0)).want(t, 2, "cli or device-code")
	c.commandIn("", append(noBus, "REVOKER_GRAPH_CLIENT_SECRET=wrong"), "revoke", id(0)).want(t, 3, "no token for Graph")
	if n := c.revoked(4); n != 3 {
		t.Errorf("%d are revoked, want 3", n)
	}
	c.graph.Inject(graph.Fault{ValueFalse: true})
	c.commandIn("", append(noBus, "REVOKER_RETRY_INITIAL_INTERVAL=10ms", "REVOKER_RETRY_MAX_ATTEMPTS=2"), "revoke", "--give-up-after",
		"100ms", "-o", "ndjson",
		id(0)).want(t, 1, `"outcome":"not revoked"`, `"status":200,"result":false`, "revoked nothing")
}

func TestRevokeAsAPerson(t *testing.T) {
	t.Parallel()
	c := newCloud(t, 2, time.Minute)
	helper := graph.User{ID: id(9), UserPrincipalName: "help@contoso.com", Roles: []string{"Helpdesk Administrator"}}
	if err := c.graph.AddUser(helper); err != nil {
		t.Fatal(err)
	}
	// run runs a command, and calls answer with the code that it shows.
	run := func(answer func(code string) error, args ...string) func(code int, texts ...string) string {
		var out screen.Screen
		cmd := exec.Command(binary, append(args, "--delegated=device-code", "-o", "ndjson")...)
		cmd.Env, cmd.Stdout, cmd.Stderr = c.env, &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		prompt := regexp.MustCompile("/_emulator/devicecode and enter the code ([A-Z2-7]{9})")
		c.until("the code", func() bool { return prompt.MatchString(out.String()) })
		if err := answer(prompt.FindStringSubmatch(out.String())[1]); err != nil {
			t.Error(err)
		}
		return func(code int, texts ...string) string {
			t.Helper()
			_ = cmd.Wait()
			result{out.String(), "", cmd.ProcessState.ExitCode()}.want(t, code, texts...)
			return out.String()
		}
	}
	start := func(answer func(code string) error, args ...string) func(code int, texts ...string) string {
		return run(answer, append([]string{"revoke"}, args...)...)
	}
	as := func(name string) func(string) error {
		return func(code string) error { return c.graph.Approve(code, name) }
	}
	oneself := start(as("user0@contoso.com"), "me")
	another := start(as("help@contoso.com"), "--beta", id(1), "me")
	refused := start(as("user0@contoso.com"), "--give-up-after", "100ms", id(1))
	declined := start(c.graph.Decline, "me")
	checked := run(as("help@contoso.com"), "doctor", "--events.resolve_devices", "--graph.read_users")
	oneself(0, `"user":"me","outcome":"revoked","status":200,"result":true`)
	another(0, `"user":"`+id(1)+`","outcome":"revoked"`, `"user":"me","outcome":"revoked"`)
	refused(3, `"status":403`, "one of the roles")
	declined(3, "nobody has signed in", "authorization_declined")
	if out := checked(0, "Graph: call"); strings.Contains(out, "looking up") || strings.Contains(out, "reading users") {
		t.Errorf("doctor checks as a person what only the worker does: %s", out)
	}
	if n := c.revoked(2); n != 2 {
		t.Errorf("%d are revoked, want 2", n)
	}
	for _, name := range []string{"user0@contoso.com", "help@contoso.com"} {
		if _, revoked := c.graph.Revoked(name); !revoked {
			t.Errorf("%s is not revoked", name)
		}
	}
}

func TestRevokeVerifiesTheEffect(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.commandIn("", nil, "revoke", "--verify", id(0)).want(t, 0, "cannot be read", "User.Read.All")
	c.graph.SetRoles("client", []string{"User.RevokeSessions.All", "User.Read.All"})
	c.commandIn("", nil, "revoke", "--verify", id(0), "-o", "json").want(t, 0, `"validFromBefore"`, `"validFromAfter"`)
}

func TestSend(t *testing.T) {
	c := newCloud(t, 4, time.Minute)
	c.command("", "send", "--type", "device.stolen", id(0), "user1@contoso.com").want(t, 0, "2 of 2 messages sent to events")
	c.command("", "send", "--type", "device.enrolled", id(2)).want(t, 2, "none of events.types: device.stolen", "nothing was sent")
	c.command("", "send", "--type", "device.stolen", "nobody").want(t, 2, "nothing was sent")
	c.command("", "send", "--type", "device.stolen").want(t, 2, "are required")
	c.command("", "send", "--type", "device.lost", id(2), "--dry-run").want(t, 0, `"specversion":"1.0"`, `"userId":"`+id(2),
		"1 message would be sent")
	c.command(`{"type":"device.lost","userId":"`+id(2)+`"} [{"type":"device.lost","userId":"`+id(3)+`"}]`, "send", "--file", "-").
		want(t, 0, "2 of 2")
	c.command(`{"type":`, "send", "--file", "-").want(t, 2, "value 1")
	c.command("", "send", "--file", "/does/not/exist").want(t, 2, "no such file")
	c.command("rubbish", "send", "--file", "-", "--no-check").want(t, 2, "value 1")
	c.command(`{"type":"x"}`, "send", "--file", "-", "--no-check").want(t, 0, "1 of 1")
	c.command("", "send", "--type", "device.lost", id(0), "--to", "nowhere").want(t, 5, "no such queue")
	c.command("", "send", "--type", "device.lost", id(0), "--to", "by-user", "--session", "s").want(t, 0, "1 of 1")
	c.start()
	c.until("everybody", func() bool { return c.counts().Active == 0 && c.revoked(4) == 4 })
	if counts := c.counts(); counts.DeadLetter != 1 {
		t.Errorf("%+v, want one dead letter", counts)
	}
}

// adminOf serves the broker's administration API with a wrong clock.
func (c *cloud) adminOf(off time.Duration) string {
	c.t.Helper()
	api := c.broker.Admin()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Date", time.Now().Add(off).UTC().Format(http.TimeFormat))
		api.ServeHTTP(w, r)
	}))
	c.t.Cleanup(web.Close)
	return "REVOKER_SERVICEBUS_ADMIN_ENDPOINT=" + web.URL
}

func TestDoctor(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	healthy := []string{c.adminOf(0), "REVOKER_GUARD_PROTECTED_USERS=user0@contoso.com"}
	visit := c.commandIn("", healthy, "doctor", "--strict")
	visit.want(t, 0, "it does not know the user of the test", "events: max delivery count", "can receive", "can send")
	if strings.Contains(visit.stdout, "WARN") || strings.Contains(visit.stdout, "FAIL") {
		t.Errorf("doctor reports a problem of a healthy deployment:\n%s", visit.stdout)
	}
	if n := c.revoked(1); n != 0 {
		t.Error("the doctor has revoked somebody")
	}
	c.commandIn("", healthy, "doctor", "-o", "json").want(t, 0, `"status":"OK","check":"configuration"`)

	address := strings.TrimPrefix(strings.SplitN(c.env[1], ";", 2)[0], "REVOKER_SERVICEBUS_CONNECTION_STRING=Endpoint=sb://")
	key := func(name, value string) string {
		return "REVOKER_SERVICEBUS_CONNECTION_STRING=Endpoint=sb://" + address + ";SharedAccessKeyName=" + name + ";SharedAccessKey=" +
			value + ";UseDevelopmentEmulator=true"
	}
	source := func(name string) []string {
		return []string{"REVOKER_SERVICEBUS_QUEUE=", "REVOKER_SERVICEBUS_SOURCES=" + name}
	}
	for name, broken := range map[string]struct {
		env   []string
		roles []string
		code  int
		texts []string
	}{
		"configuration":       {[]string{"REVOKER_LOG_LEVEL=loud"}, nil, 2, []string{"FAIL  configuration", "log.level"}},
		"nobody is protected": {[]string{"REVOKER_GUARD_PROTECTED_USERS="}, nil, 1, []string{"WARN  protected users"}},
		"wrong secret":        {[]string{"REVOKER_GRAPH_CLIENT_SECRET=x"}, nil, 2, []string{"FAIL  Graph: token", "graph.client_id"}},
		"wrong tenant":        {[]string{"REVOKER_GRAPH_TENANT_ID=" + id(9)}, nil, 2, []string{"FAIL  Graph: tenant"}},
		"no permission": {
			nil,
			[]string{"User.Read.All"},
			2,
			[]string{"FAIL  Graph: permission", "admin consent", "FAIL  Graph: call"},
		},
		"devices cannot be looked up": {
			[]string{"REVOKER_EVENTS_RESOLVE_DEVICES=true"},
			nil, 2,
			[]string{
				"FAIL  Graph: looking up managed-device", "DeviceManagementManagedDevices.Read.All",
				"FAIL  Graph: looking up entra-device", "Device.Read.All", "events.resolve_devices",
			},
		},
		"some devices can be looked up": {
			[]string{"REVOKER_EVENTS_RESOLVE_DEVICES=true"},
			[]string{"User.RevokeSessions.All", "Device.Read.All"},
			1,
			[]string{"WARN  Graph: looking up managed-device", "OK    Graph: looking up entra-device"},
		},
		"all devices can be looked up": {
			[]string{"REVOKER_EVENTS_RESOLVE_DEVICES=true"},
			[]string{"User.RevokeSessions.All", "Device.Read.All", "DeviceManagementManagedDevices.Read.All"},
			0,
			[]string{"OK    Graph: looking up managed-device"},
		},
		"a broader permission": {nil, []string{"Directory.ReadWrite.All"}, 1, []string{"WARN  Graph: permission", "more than needed"}},
		"wrong queue":          {source("nowhere"), nil, 2, []string{"FAIL  nowhere: receive", "FAIL  nowhere: settings"}},
		"no right to read":     {[]string{key("writer", "w")}, nil, 2, []string{"FAIL  events: receive", "Data Receiver"}},
		"no right to send": {
			[]string{key("reader", "r")},
			nil, 1,
			[]string{"OK    events: receive", "WARN  events: replay", "Data Sender", "WARN  events: settings", "Data Owner"},
		},
		"sessions, unwanted": {
			[]string{"REVOKER_SERVICEBUS_SESSIONS=4"},
			nil, 2,
			[]string{"FAIL  events: sessions", "set servicebus.sessions to 0"},
		},
		"sessions, unknown": {source("by-user"), nil, 2, []string{"FAIL  by-user: receive", "set servicebus.sessions to how many"}},
		"sessions, well": {
			append(source("by-user"), "REVOKER_SERVICEBUS_SESSIONS=4"), nil, 0,
			[]string{"OK    by-user: receive", "OK    by-user: sessions"},
		},
		"life without a trace": {
			source("sick"), nil, 2,
			[]string{
				"FAIL  sick: time to live", "without a trace", "WARN  sick: max delivery count", "FAIL  sick: lock duration",
				"WARN  sick: dead letters",
			},
		},
		"forwarding":     {source("forwarding"), nil, 2, []string{"FAIL  forwarding: receive", "FAIL  forwarding: forwarding"}},
		"audit, nowhere": {[]string{"REVOKER_AUDIT_TOPIC=nowhere"}, nil, 2, []string{"FAIL  audit.topic", "Data Sender"}},
		"audit, well":    {[]string{"REVOKER_AUDIT_TOPIC=audit"}, nil, 0, []string{"OK    audit.topic"}},
		"users, unreadable": {
			[]string{"REVOKER_GRAPH_READ_USERS=true"},
			nil, 2,
			[]string{"FAIL  Graph: reading users", "User.Read.All"},
		},
		"users, readable": {
			[]string{"REVOKER_GRAPH_READ_USERS=true"},
			[]string{"User.RevokeSessions.All", "User.Read.All"},
			0,
			[]string{"OK    Graph: reading users"},
		},
		"expiry, no default":  {source("silent"), nil, 2, []string{"FAIL  silent: time to live", "own time to live"}},
		"duplicate detection": {source("forgetful"), nil, 1, []string{"WARN  forgetful: duplicate detection", "MessageID"}},
		"a short life":        {source("short"), nil, 1, []string{"WARN  short: time to live"}},
		"a subscription": {
			source("devices/Subscriptions/worker"), nil, 0,
			[]string{"OK    devices/Subscriptions/worker: receive", "--to"},
		},
		"clock of Service Bus": {[]string{c.adminOf(-time.Minute)}, nil, 2, []string{"FAIL  Service Bus: clock", "NTP"}},
		"no administration API": {
			[]string{"REVOKER_SERVICEBUS_ADMIN_ENDPOINT=http://127.0.0.1:1"},
			nil, 1,
			[]string{"WARN  events: settings", "WARN  Service Bus: clock"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			roles := broken.roles
			if roles == nil {
				roles = []string{"User.RevokeSessions.All"}
			}
			c.graph.SetRoles("client", roles)
			visit := c.commandIn("", append(append([]string{}, healthy...), broken.env...), "doctor", "--strict")
			visit.want(t, broken.code, broken.texts...)
		})
	}
	c.graph.SetRoles("client", []string{"User.RevokeSessions.All"})
	narrow := c.commandIn("", append(healthy, "COLUMNS=80"), "doctor")
	narrow.want(t, 0, "OK    configuration")
	narrow.narrow(t)
	remove := c.graph.Inject(graph.Fault{Status: http.StatusTooManyRequests})
	c.commandIn("", healthy, "doctor", "--strict").want(t, 1, "WARN  Graph: call")
	remove()
	c.graph.Inject(graph.Fault{Status: http.StatusServiceUnavailable})
	c.commandIn("", healthy, "doctor").want(t, 2, "FAIL  Graph: call")
	down := c.commandIn("", append(healthy, "REVOKER_EVENTS_RESOLVE_DEVICES=true"), "doctor")
	down.want(t, 2, "FAIL  Graph: looking up managed-device", "run doctor again when Graph answers")
	if strings.Contains(down.stdout, "events.resolve_devices") {
		t.Errorf("doctor advises to turn look-ups off because Graph is down:\n%s", down.stdout)
	}
}

func TestDoctorComparesItsClockWithGraph(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	directory, err := graph.New(graph.Config{Tenant: "contoso", ClockOffset: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(directory)
	defer web.Close()
	c.commandIn("", []string{
		"REVOKER_GRAPH_ENDPOINT=" + web.URL, "REVOKER_GRAPH_CLIENT_SECRET=secret",
		"REVOKER_GRAPH_TOKEN_URL=" + web.URL + "/contoso/oauth2/v2.0/token",
	}, "doctor").
		want(t, 2, "FAIL  Graph: clock", "NTP", "dedupe.skew_margin")
	// The token is for another cloud.
	c.commandIn("", []string{"REVOKER_GRAPH_ENDPOINT=" + strings.Replace(web.URL, "127.0.0.1", "localhost", 1)}, "doctor").want(t, 2,
		"FAIL  Graph: call")
}

func TestConfigurationIsTheSameForEveryCommand(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	file := filepath.Join(t.TempDir(), "worker.yaml")
	if err := os.WriteFile(file, []byte("servicebus:\n  queue: nowhere\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.commandIn("", []string{"REVOKER_SERVICEBUS_QUEUE=" + queue}, "dlq", "list", "--config", file).want(t, 0, "No dead letters.")
	c.command("", "dlq", "list", "--servicebus.queue", "nowhere").want(t, 5)
}

func TestWorkerReadsUsersToFindGuestsAndToVerifyTheEffect(t *testing.T) {
	c := newCloud(t, 2, time.Minute)
	c.graph.SetRoles("client", []string{"User.RevokeSessions.All", "User.Read.All"})
	if err := c.graph.AddUser(graph.User{
		ID: id(7), UserPrincipalName: "visitor_fabrikam.com#EXT#@contoso.com",
		UserType: "Guest",
	}); err != nil {
		t.Fatal(err)
	}
	c.send(about(0), about(7))
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	p := c.start("REVOKER_GRAPH_READ_USERS=true", "REVOKER_GRAPH_VERIFY_TIMEOUT=15s", "REVOKER_AUDIT_FILE="+file)
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	if counts := c.counts(); counts.DeadLetter != 1 {
		t.Errorf("%+v", counts)
	}
	c.command("", "dlq", "list").want(t, 0, "ExternalUser", id(7))
	c.until("the log", func() bool { return strings.Contains(p.out.String(), `"validFromAfter"`) })
	if text, err := os.ReadFile(file); err != nil || !strings.Contains(string(text), `"validFromAfter"`) {
		t.Errorf("%v: %s", err, text)
	}
}

func TestGuardRelease(t *testing.T) {
	t.Parallel()
	c := newCloud(t, 6, time.Minute)
	file := filepath.Join(t.TempDir(), "release.json")
	c.send(events(6)...)
	p := c.start("REVOKER_GUARD_MAX_USERS=2", "REVOKER_GUARD_RELEASE_FILE="+file)
	c.until("a trip", func() bool { return strings.Contains(p.out.String(), "the guard has tripped") })
	if n := c.revoked(6); n != 2 {
		t.Errorf("%d people, want 2", n)
	}
	c.command("", "guard", "release", "--for", "25h", "--max", "5").want(t, 2, "at most 24h")
	c.command("", "guard", "release", "--for", "1h").want(t, 2, "at least 1")
	c.command("", "guard", "release", "--max", "5", "--type", "user.offboarded", "--reason", "drill").want(t, 0, `"maxUsers": 5`,
		`"type": "user.offboarded"`, `"reason": "drill"`, "Nobody is released before")
	c.command("", "guard", "release", "--max", "5", "--file", "/nowhere/release.json").want(t, 1, "the directory of /nowhere/release.json")
	c.command("", "guard", "release", "--max", "6", "--type", "device.stollen", "--file", file).want(t, 0, "for device.stollen")
	c.until("a word about the type", func() bool { return strings.Contains(p.out.String(), "not one of events.types") })
	c.command("", "guard", "release", "--max", "6", "--by", "ada", "--file", file).want(t, 0, "up to 6 people for each type")
	c.until("everybody", func() bool { return c.counts().Active == 0 && c.revoked(6) == 6 })
	c.until("the operator's name in the log", func() bool { return strings.Contains(p.out.String(), `"by":"ada"`) })
}

func TestWorkerDryRun(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.send(about(0))
	p := c.start("REVOKER_CONSUMER_DRY_RUN=true")
	c.until("the decision", func() bool { return strings.Contains(p.out.String(), `"would_revoke"`) })
	p.terminate(t)
	if counts := c.counts(); counts.Active != 1 || len(c.graph.Calls()) != 0 {
		t.Errorf("%+v, %d calls", counts, len(c.graph.Calls()))
	}
}

func TestWorkerAuditLog(t *testing.T) {
	c := newCloud(t, 3, time.Minute)
	file := filepath.Join(t.TempDir(), "audit.ndjson")
	env := []string{"REVOKER_AUDIT_FILE=" + file, "REVOKER_AUDIT_TOPIC=audit"}
	c.send(events(3)...)
	c.send(&azservicebus.Message{Body: []byte("rubbish")})
	p := c.start(env...)
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	c.command("", "audit", "verify", file).want(t, 0, "open: chain")
	p.terminate(t)
	whole := c.command("", "audit", "verify", file)
	whole.want(t, 0, "5 records in 1 chain")
	if strings.Contains(whole.stdout, "open") {
		t.Errorf("the chain is not closed:\n%s", whole.stdout)
	}
	published := map[string]int{}
	messages, err := c.broker.Peek("audit", 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		published[fmt.Sprint(m.ApplicationProperties["type"], " ", m.ApplicationProperties["reason"])]++
		if !strings.Contains(string(m.Body), `"specversion":"1.0"`) {
			t.Errorf("not a CloudEvent: %s", m.Body)
		}
	}
	if published["session.revoked "] != 3 || published["session.revocation.failed InvalidEvent"] != 1 || len(published) != 2 {
		t.Errorf("published %v", published)
	}
	// A second worker continues in the same file, and someone removes a record.
	c.send(about(0))
	p = c.start(env...)
	c.until("an empty queue", func() bool { return c.counts().Active == 0 })
	p.terminate(t)
	c.command("", "audit", "verify", file, "-o", "json").want(t, 0, `"chains": 2`)
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(text), "\n")
	c.command(strings.Join(append(lines[:1], lines[2:]...), ""), "audit", "verify", "-").want(t, 1, "follows record 1", "not intact")
	c.command("", "audit", "verify", "/does/not/exist").want(t, 2)
}

var sickQueues = []servicebus.QueueConfig{
	{Name: "audit"},
	{Name: "sick", LockDuration: 5 * time.Second, MaxDeliveryCount: 10, DefaultTTL: time.Hour, ForwardDeadLettersTo: queue},
	{Name: "silent", LockDuration: time.Minute, MaxDeliveryCount: 100},
	{Name: "forgetful", LockDuration: time.Minute, MaxDeliveryCount: 100, DeadLetterOnExpiration: true, DuplicateWindow: time.Minute},
	{Name: "forwarding", LockDuration: time.Minute, MaxDeliveryCount: 100, ForwardTo: queue},
	{Name: "short", LockDuration: time.Minute, MaxDeliveryCount: 100, DefaultTTL: time.Minute, DeadLetterOnExpiration: true},
}
