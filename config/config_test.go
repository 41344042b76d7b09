package config_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/session-revoker/session-revoker/config"
)

var update = flag.Bool("update", false, "write the table of settings into the documentation")

const secret = "s3cr3t-value"

// minimal is the least that is valid.
var minimal = []string{"REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", "REVOKER_SERVICEBUS_QUEUE=events"}

func load(t *testing.T, file string, environ []string, args ...string) (config.Config, error) {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	config.Flags(fs)
	if file != "" {
		args = append(args, "--config", write(t, "config.yaml", file))
	}
	if err := fs.Parse(args); err != nil {
		t.Fatal(err)
	}
	return config.Load(fs, environ)
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// wantProblems fails unless each text stands in the error.
func wantProblems(t *testing.T, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want problems with %q", texts)
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("the error lacks %q:\n%v", text, err)
		}
	}
}

func TestLoadDefaults(t *testing.T) {
	c, err := load(t, "", minimal)
	if err != nil {
		t.Fatal(err)
	}
	if c.Graph.CloudName != "global" || c.Retry.MaxAttempts != 8 || c.Consumer.MaxInFlight != 256 || c.Dedupe.Window != time.Minute ||
		c.Consumer.DrainTimeout != 25*time.Second ||
		c.Ops.Address != "127.0.0.1:9090" || c.Log.Level != "info" ||
		fmt.Sprint(c.Events.Types) != "[device.stolen device.lost user.compromised user.offboarded]" {
		t.Errorf("%+v", c)
	}
}

func TestLoadPrefersFlagsToEnvironmentToFile(t *testing.T) {
	file := "retry: {max_attempts: 3, max_age: 2h}\nlog: {level: warn}\nguard:\n  protected_users: [a@b.c, d@e.f]\n"
	c, err := load(t, file, append(minimal, "REVOKER_RETRY_MAX_ATTEMPTS=4", "REVOKER_LOG_LEVEL=error"), "--log.level", "debug")
	if err != nil {
		t.Fatal(err)
	}
	if c.Retry.MaxAge != 2*time.Hour || c.Retry.MaxAttempts != 4 || c.Log.Level != "debug" || len(c.Guard.ProtectedUsers) != 2 {
		t.Errorf("%+v", c)
	}
}

func TestLoadReadsListsFromEverySource(t *testing.T) {
	for name, try := range map[string]func() (config.Config, error){
		"file":        func() (config.Config, error) { return load(t, "events: {types: [a.b, c.d]}", minimal) },
		"environment": func() (config.Config, error) { return load(t, "", append(minimal, "REVOKER_EVENTS_TYPES=a.b, c.d,")) },
		"flag":        func() (config.Config, error) { return load(t, "", minimal, "--events.types", "a.b, c.d,") },
	} {
		if c, err := try(); err != nil || fmt.Sprint(c.Events.Types) != "[a.b c.d]" {
			t.Errorf("%s: %v, %v", name, c.Events.Types, err)
		}
	}
}

func TestLoadReportsEveryProblemAtOnce(t *testing.T) {
	file := "servicebus: {namspace: x}\nretry: {max_attempts: many, max_age: 5}\nconsumer: {drain_timeout: 25}\nnonsense: 1\n"
	_, err := load(t, file, []string{"REVOKER_LOG_LEVL=debug", "REVOKER_OPS_ADDRESS=x"})
	wantProblems(t, err, "servicebus.queue: required", "ops.address", `"servicebus.namspace"`, `did you mean "servicebus.namespace"`,
		"retry.max_attempts", "retry.max_age", "consumer.drain_timeout",
		"with its unit", `unknown setting "nons"…`, "REVOKER_LOG_LEVL", `did you mean "REVOKER_LOG_LEVEL"`)

	_, err = load(t, "", []string{
		"REVOKER_GRAPH_CLOUD=mars", "REVOKER_LOG_FORMAT=xml", "REVOKER_OPS_ADDRESS=9090",
		"REVOKER_CONSUMER_CONCURRENCY=0",
	},
		"--retry.initial_interval=30s", "--retry.max_interval=20s", "--guard.protected_users", "somebody", "--events.types=",
		"--events.presets=none,okta", "--events.time_zone=Mars/Base", "--events.allowed_domains=contoso.com,*.,@contoso.com,com")
	wantProblems(t, err, "events.presets: none stands alone", "events.time_zone: \"Mars/Base\"", "events.allowed_domains: \"*.\"",
		"events.allowed_domains: \"@contoso.com\"", "events.allowed_domains: \"com\"")
	wantProblems(t, err, "graph.cloud", "log.format", "ops.address", "consumer.concurrency", "1 to 256", "retry.max_interval",
		"guard.protected_users", "servicebus.queue", "REVOKER_SERVICEBUS_NAMESPACE", "events.types")
}

func TestLoadRefusesBadFiles(t *testing.T) {
	for name, file := range map[string]string{
		"a key twice":           "log: {level: info}\nlog: {level: warn}",
		"two documents":         "log: {level: info}\n---\nlog: {level: warn}",
		"not a mapping":         "- a\n- b",
		"not YAML":              "log: [",
		"a number for a string": "graph: {tenant_id: 5}",
		"a path and its group":  "log: {level: info}\nlog.level: info",
		"a group as a value":    "log: {level: {info: 1}}",
		"an empty group for it": "log: {level: {}}",
		"a key that is no text": "log: {1: info}",
		"too large":             "# " + strings.Repeat("x", 1<<20),
	} {
		if _, err := load(t, file, minimal); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	for name, file := range map[string]string{"empty": "", "comments": "# nothing\n", "an empty group": "log:\nretry:\n"} {
		if _, err := load(t, "\n"+file, minimal); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c, err := load(t, "log.level: debug\nlog: {format: console}", minimal)
	if err != nil || c.Log.Level != "debug" || c.Log.Format != "console" {
		t.Errorf("paths as names: %+v, %v", c.Log, err)
	}
	_, err = load(t, "", minimal, "--config", "/does/not/exist")
	wantProblems(t, err, "/does/not/exist")
}

func TestLoadIgnoresVariablesThatKubernetesInjects(t *testing.T) {
	_, err := load(t, "", append(minimal, "REVOKER_SERVICE_HOST=10.0.0.1", "REVOKER_SERVICE_PORT=80", "REVOKER_SERVICE_PORT_METRICS=80",
		"REVOKER_PORT=tcp://10.0.0.1:80", "REVOKER_PORT_80_TCP_ADDR=10.0.0.1", "OTHER=1"))
	if err != nil {
		t.Error(err)
	}
}

func TestLoadIgnoresEmptyVariables(t *testing.T) {
	c, err := load(t, "", append(minimal, "REVOKER_RETRY_MAX_AGE=", "REVOKER_OPS_ADDRESS="))
	if err != nil || c.Retry.MaxAge != time.Hour || c.Ops.Address != "" {
		t.Errorf("max age %v, ops %q (an empty address means none), %v", c.Retry.MaxAge, c.Ops.Address, err)
	}
}

// A template that fills in nothing must not switch the volume guard off.
func TestLoadIgnoresNulls(t *testing.T) {
	want, err := load(t, "", minimal)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"guard: {max_users: }", "guard.max_users: ~", "dedupe:\n  window:\n", "redis: {share_rate_limit: null}"} {
		if got, err := load(t, file, minimal); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v; guard %+v", file, err, got.Guard)
		}
	}
}

func TestSecretsMayStandInFilesAndTheEnvironment(t *testing.T) {
	connection := "Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=listen;SharedAccessKey=" + secret
	c, err := load(t, "", []string{
		"REVOKER_SERVICEBUS_QUEUE=q", "REVOKER_SERVICEBUS_CONNECTION_STRING_FILE=" + write(t, "cs", connection+"\n"),
		"REVOKER_GRAPH_CLIENT_SECRET_FILE=" + write(t, "secret",
			"  "+secret+"\n"), "REVOKER_GRAPH_CLIENT_ID=c", "REVOKER_GRAPH_TENANT_ID=t",
	})
	if err != nil || c.ServiceBus.ConnectionString != connection || c.Graph.ClientSecret != secret {
		t.Fatalf("%+v, %v", c, err)
	}
	if text := fmt.Sprint(c.Redacted()); strings.Contains(text, secret) || !strings.Contains(text, "graph.client_secret:(set)") {
		t.Errorf("redacted: %s", text)
	}
	c, err = load(t, "", append(minimal, "REVOKER_GUARD_PROTECTED_USERS=glass@contoso.com", "REVOKER_LOG_HASH_USERS=true"))
	if text := fmt.Sprint(c.Redacted()); err != nil || strings.Contains(text, "glass@") || !strings.Contains(text, "(1 users)") {
		t.Errorf("redacted, with hashed users: %s, %v", text, err)
	}
	for _, o := range config.Options() {
		if o.Secret && o.Flag != "" {
			t.Errorf("%s is a secret with a flag: everybody sees a process's arguments", o.Key)
		}
	}
	_, err = load(t, "", append(minimal, "REVOKER_SERVICEBUS_CONNECTION_STRING="+connection, "REVOKER_GRAPH_CLIENT_SECRET="+secret,
		"REVOKER_GRAPH_CLIENT_SECRET_FILE=/does/not/exist"))
	wantProblems(t, err, "client_secret_file are both set")
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error holds a secret: %v", err)
	}
	_, err = load(t, "servicebus: {connection_string: [1, "+secret+"]}", minimal)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("the error holds a secret: %v", err)
	}
	_, err = load(t, "", append(minimal, "REVOKER_GRAPH_CLIENT_SECRET="+secret))
	wantProblems(t, err, "graph.tenant_id", "graph.client_id")
}

func TestCanaryUser(t *testing.T) {
	const id = "22222222-3333-4444-5555-666666666666"
	for name, c := range map[string]struct{ user, protected, problem string }{
		"none":                       {"", "glass@contoso.com", ""},
		"an id":                      {id, "glass@contoso.com,*-admin@contoso.com", ""},
		"a name":                     {"canary@contoso.com", "glass@contoso.com", ""},
		"an id in another form":      {"{" + id + "}", "", "neither an object id"},
		"no name":                    {"canary", "", "neither an object id"},
		"a pattern":                  {"can*@contoso.com", "", "neither an object id"},
		"a path":                     {"a/b@contoso.com", "", "neither an object id"},
		"a guest":                    {"a_fabrikam.com#ext#@contoso.com", "", "guest"},
		"a protected id":             {id, "glass@contoso.com," + id, "protected"},
		"a protected name":           {"Canary@contoso.com", "canary@CONTOSO.com", "protected"},
		"protected by a pattern":     {"svc-Canary@contoso.com", "SVC-*@contoso.com", "protected"},
		"not protected by a pattern": {"canary@contoso.com", "svc-*@contoso.com", ""},
	} {
		cfg, err := load(t, "", append(minimal, "REVOKER_GRAPH_CANARY_USER="+c.user, "REVOKER_GUARD_PROTECTED_USERS="+c.protected))
		switch {
		case c.problem != "":
			wantProblems(t, err, "graph.canary_user", c.problem)
		case err != nil || cfg.Graph.CanaryUser != c.user:
			t.Errorf("%s: %q, %v", name, cfg.Graph.CanaryUser, err)
		}
	}
	c, err := load(t, "", append(minimal, "REVOKER_GRAPH_CANARY_USER=canary@contoso.com", "REVOKER_LOG_HASH_USERS=true"))
	if text := fmt.Sprint(c.Redacted()); err != nil || strings.Contains(text, "canary@") {
		t.Errorf("redacted, with hashed users: %s, %v", text, err)
	}
}

func TestConnectionStrings(t *testing.T) {
	key := ";SharedAccessKeyName=n;SharedAccessKey=" + secret
	for name, c := range map[string]struct {
		connection, queue, problem, wantQueue string
	}{
		"whole":               {"Endpoint=sb://c.servicebus.windows.net/" + key, "q", "", "q"},
		"keys in any case":    {"endpoint=sb://c.servicebus.windows.net/;sharedaccesskeyname=n;sharedaccesskey=x", "q", "", "q"},
		"with a path":         {"Endpoint=sb://c.servicebus.windows.net/" + key + ";EntityPath=events", "", "", "events"},
		"with another path":   {"Endpoint=sb://c.servicebus.windows.net/" + key + ";EntityPath=events", "q", "EntityPath", ""},
		"of a private link":   {"Endpoint=sb://c.privatelink.servicebus.windows.net/" + key, "q", "", "q"},
		"of the emulator":     {"Endpoint=sb://127.0.0.1:5672" + key + ";UseDevelopmentEmulator=true", "q", "", "q"},
		"of one with TLS":     {"Endpoint=sb://localhost:5671/" + key, "q", "", "q"},
		"of an unknown host":  {"Endpoint=sb://bus.example.com/" + key, "q", "does not end in .servicebus.windows.net", ""},
		"of another cloud":    {"Endpoint=sb://c.servicebus.chinacloudapi.cn/" + key, "q", "belongs to the cloud china", ""},
		"without a key":       {"Endpoint=sb://c.servicebus.windows.net/", "q", "SharedAccessKey", ""},
		"without an endpoint": {"SharedAccessKeyName=n;SharedAccessKey=" + secret, "q", "Endpoint", ""},
		"a signature": {
			"Endpoint=sb://c.servicebus.windows.net/;SharedAccessSignature=SharedAccessSignature sr=x&sig=y", "q",
			"", "q",
		},
	} {
		got, err := load(t, "", []string{"REVOKER_SERVICEBUS_CONNECTION_STRING=" + c.connection, "REVOKER_SERVICEBUS_QUEUE=" + c.queue})
		switch {
		case c.problem == "" && (err != nil || got.ServiceBus.Queue != c.wantQueue):
			t.Errorf("%s: queue %q, %v", name, got.ServiceBus.Queue, err)
		case c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)):
			t.Errorf("%s: %v; want %q", name, err, c.problem)
		case err != nil && strings.Contains(err.Error(), secret):
			t.Errorf("%s: the error holds the key: %v", name, err)
		}
	}
}

func TestEntityIsAQueueOrASubscription(t *testing.T) {
	path := "Endpoint=sb://c.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=x;EntityPath=events"
	plain := strings.TrimSuffix(path, ";EntityPath=events")
	for name, c := range map[string]struct {
		connection, queue, topic, subscription string
		want                                   string // the entity, or a part of the problem
	}{
		"a queue":                          {plain, "q", "", "", "q"},
		"a subscription":                   {plain, "", "t", "s", "t/Subscriptions/s"},
		"both":                             {plain, "q", "t", "s", "both a queue and a topic"},
		"a queue and a subscription":       {plain, "q", "", "s", "both a queue and a topic"},
		"nothing":                          {plain, "", "", "", "servicebus.queue: required"},
		"no topic":                         {plain, "", "", "s", "servicebus.topic: required"},
		"no subscription":                  {plain, "", "t", "", "servicebus.subscription: required"},
		"a path as subscription":           {plain, "", "t", "a/b", "not a subscription name"},
		"a subscription with a long name":  {plain, "", "t", strings.Repeat("a", 51), "not a subscription name"},
		"a wrong topic":                    {plain, "", "t$", "s", "not a topic name"},
		"the topic of a connection string": {path, "", "", "s", "events/Subscriptions/s"},
		"the same topic twice":             {path, "", "Events", "s", "Events/Subscriptions/s"},
		"another topic":                    {path, "", "t", "s", "another topic"},
	} {
		got, err := load(t, "", []string{
			"REVOKER_SERVICEBUS_CONNECTION_STRING=" + c.connection, "REVOKER_SERVICEBUS_QUEUE=" + c.queue,
			"REVOKER_SERVICEBUS_TOPIC=" + c.topic, "REVOKER_SERVICEBUS_SUBSCRIPTION=" + c.subscription,
		})
		if err == nil && strings.Join(got.ServiceBus.Entities(), " ") != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: entities %q, %v; want %q", name, got.ServiceBus.Entities(), err, c.want)
		}
	}
}

func TestSources(t *testing.T) {
	plain := "Endpoint=sb://c.servicebus.windows.net/;SharedAccessKeyName=n;SharedAccessKey=x"
	for name, c := range map[string]struct{ queue, sources, want string }{
		"two":                 {"", "urgent,devices/Subscriptions/bulk", "urgent devices/Subscriptions/bulk"},
		"beside a queue":      {"q", "urgent,bulk", "keep one"},
		"the same twice":      {"", "urgent,bulk,Urgent", "named twice"},
		"no name":             {"", "urgent,$bulk", "neither a queue name nor"},
		"half a subscription": {"", "urgent,devices/Subscriptions/", "neither a queue name nor"},
		"too many":            {"", "a,b,c,d,e,f,g,h,i", "at most 8"},
		"a long s":            {"", "a,devices/ſubscriptions/b", "neither a queue name nor"},
		"no letters":          {"", "a,\xfc\xfc\xfc\xfc/Subscriptions/b", "neither a queue name nor"},
	} {
		got, err := load(t, "", []string{
			"REVOKER_SERVICEBUS_CONNECTION_STRING=" + plain, "REVOKER_SERVICEBUS_QUEUE=" + c.queue,
			"REVOKER_SERVICEBUS_SOURCES=" + c.sources,
		})
		if err == nil && strings.Join(got.ServiceBus.Entities(), " ") != c.want || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: entities %q, %v; want %q", name, got.ServiceBus.Entities(), err, c.want)
		}
	}
}

func TestSessionsFitIntoMaxInFlight(t *testing.T) {
	_, err := load(t, "", []string{
		"REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", "REVOKER_SERVICEBUS_QUEUE=q", "REVOKER_SERVICEBUS_SESSIONS=9",
		"REVOKER_CONSUMER_MAX_IN_FLIGHT=8",
	})
	wantProblems(t, err, "servicebus.sessions")
}

func TestCloud(t *testing.T) {
	clouds := []struct{ name, root, authority, suffix string }{
		{"global", "https://graph.microsoft.com", "https://login.microsoftonline.com/", "servicebus.windows.net"},
		{"usgov-l4", "https://graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net"},
		{"usgov-dod", "https://dod-graph.microsoft.us", "https://login.microsoftonline.us/", "servicebus.usgovcloudapi.net"},
		{"china", "https://microsoftgraph.chinacloudapi.cn", "https://login.chinacloudapi.cn/", "servicebus.chinacloudapi.cn"},
	}
	for _, graph := range clouds {
		for _, bus := range clouds {
			c, err := load(t, "",
				[]string{
					"REVOKER_GRAPH_CLOUD=" + graph.name, "REVOKER_SERVICEBUS_QUEUE=q",
					"REVOKER_SERVICEBUS_NAMESPACE=contoso." + bus.suffix,
				})
			if mixed := graph.suffix != bus.suffix; mixed != (err != nil) {
				t.Errorf("Graph of %s with %s: %v", graph.name, bus.suffix, err)
			}
			if err != nil {
				continue
			}
			if got := c.Cloud(); got.GraphRoot != graph.root || got.Authority != graph.authority || got.Scope() != graph.root+"/.default" {
				t.Errorf("%s: %+v", graph.name, got)
			}
		}
		_, err := load(t, "", append(minimal, "REVOKER_GRAPH_ENDPOINT="+graph.root+"/"))
		wantProblems(t, err, "set graph.cloud")
	}
}

func TestEndpointForEmulators(t *testing.T) {
	for endpoint, accepted := range map[string]bool{
		"http://127.0.0.1:8081": true, "http://localhost:8081": true, "http://[::1]:8081": true, "https://graph.test.example": true,
		"http://graph.test.example": false, "http://10.0.0.1": false, "graph": false, "ftp://x": false, "https://u:p@x": false,
		"https://x/?q": false,
	} {
		if _, err := load(t, "", append(minimal, "REVOKER_GRAPH_ENDPOINT="+endpoint)); (err == nil) != accepted {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
	withToken := append(minimal, "REVOKER_GRAPH_TOKEN_URL=http://127.0.0.1:8081/t/token", "REVOKER_GRAPH_CLIENT_ID=c",
		"REVOKER_GRAPH_CLIENT_SECRET=s")
	_, err := load(t, "", append(withToken, "REVOKER_GRAPH_ENDPOINT=https://graph.test.example"))
	wantProblems(t, err, "loopback")
	c, err := load(t, "", append(withToken, "REVOKER_GRAPH_ENDPOINT=http://127.0.0.1:8081/"))
	if err != nil || c.Cloud().GraphRoot != "http://127.0.0.1:8081" {
		t.Errorf("%+v, %v", c.Cloud(), err)
	}
}

func TestOptionsHaveOneDescriptionEach(t *testing.T) {
	described := config.Described()
	for _, o := range config.Options() {
		if o.Doc == "" || !strings.HasSuffix(o.Doc, ".") {
			t.Errorf("%s: %q is not a description", o.Key, o.Doc)
		}
		delete(described, o.Key)
	}
	if len(described) > 0 {
		t.Errorf("descriptions of settings that do not exist: %v", described)
	}
}

func TestOptionsAreDocumented(t *testing.T) {
	for file, c := range map[string]struct{ name, table string }{
		"../docs/configuration.md":  {"options", config.MarkdownTable()},
		"../docs/ingest.md":         {"sources", config.SourcesTable()},
		"../docs/shared-signals.md": {"streams", config.StreamsTable()},
	} {
		open, end := "<!-- "+c.name+": made by `go test ./config -update` -->\n", "<!-- /"+c.name+" -->"
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		before, rest, found := strings.Cut(string(text), open)
		got, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Fatalf("%s has lost the marks around its table of settings", file)
		}
		if *update {
			if err := os.WriteFile(file, []byte(before+open+c.table+end+after), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if got != c.table {
			t.Errorf("%s: the table of settings is out of date: run go test ./config -update", file)
		}
	}
}

func TestExampleFileIsValidAndNamesEveryPlainSetting(t *testing.T) {
	text, err := os.ReadFile("../worker.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, string(text), nil); err != nil {
		t.Error(err)
	}
	for _, o := range config.Options() {
		if _, name, _ := strings.Cut(o.Key, "."); !strings.Contains(string(text), name+":") {
			t.Errorf("the example does not mention %s", o.Key)
		}
	}
}

func TestSourcesAreReadStrictly(t *testing.T) {
	c, err := load(t, "ingest:\n  validate: true\n  sources:\n    - name: okta\n      path: /okta\n      verify: okta\n"+
		"      tolerance: 90s\n      rate: 5\n      names: [a, b]\n      username:\n    - {name: b}\n", minimal)
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Ingest.Sources; len(s) != 2 || s[0].Name != "okta" || s[0].Tolerance != 90*time.Second || s[0].Rate != 5 ||
		fmt.Sprint(s[0].Names) != "[a b]" || !strings.HasSuffix(s[0].At, "config.yaml:4:7") || s[1].Name != "b" || !c.Ingest.Validate {
		t.Errorf("%+v", s)
	}
	for file, want := range map[string]string{
		"ingest.sources: [{name: a}]":                                  "",
		"ingest: {sources: []}":                                        "",
		"ingest: {sources: }":                                          "",
		"ingest:\n  sources:\n    - nam: a":                            `3:7: a source has no setting "nam"; did you mean "name"?`,
		"ingest:\n  sources:\n    - {name: a, secret: " + secret + "}": `config.yaml:3:17: a source has no setting "secr"…`,
		"ingest:\n  sources:\n    - " + secret + ": a":                 `config.yaml:3:7: a source has no setting "s3cr"…`,
		"ingest:\n  sources:\n    - {name: 5}":                         `config.yaml:3:14: name: must be a string`,
		"ingest:\n  sources:\n    - {rate: many}":                      `config.yaml:3:14: rate: must be a whole number`,
		"ingest:\n  sources:\n    - {timeout: 5}":                      `config.yaml:3:17: timeout: must be a duration`,
		"ingest:\n  sources:\n    - {names: {a: b}}":                   `config.yaml:3:15: names: must be a list`,
		"ingest:\n  sources:\n    - {name: a, name: b}":                `name`,
		"ingest:\n  sources: {name: a}":                                `config.yaml:2:12: ingest.sources must be a list`,
		"ingest:\n  sources: [a]":                                      `config.yaml:2:13: a source of ingest.sources must be a mapping`,
		"ingest: {sources: []}\ningest.sources: []":                    `unknown setting`,
	} {
		_, err := load(t, file, minimal)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s\n%v\nwant %s", file, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the problem shows a value: %v", err)
		}
	}
}

func TestStreamsAreRead(t *testing.T) {
	c, err := load(t, "ingest:\n  streams:\n    - {name: a, issuer: 'https://a', origins: [b], verify_every: 5m, max_events: 7}", minimal)
	if err != nil || len(c.Ingest.Streams) != 1 || len(c.Ingest.Sources) != 0 {
		t.Fatalf("%+v, %v", c.Ingest, err)
	}
	if s := c.Ingest.Streams[0]; s.Name != "a" || s.Issuer != "https://a" || s.VerifyEvery != 5*time.Minute || s.MaxEvents != 7 ||
		!strings.HasSuffix(s.At, "config.yaml:3:7") {
		t.Errorf("%+v", s)
	}
	_, err = load(t, "ingest: {streams: [{name: a, isuer: x}], sources: [{name: b, pth: x}]}", minimal)
	wantProblems(t, err, `"isuer"; did you mean "issuer"`, "a stream has no setting", "a source has no setting")
}

func TestSourcesHaveDescriptions(t *testing.T) {
	for _, o := range append(config.IngestOptions(), config.StreamOptions()...) {
		if !strings.HasSuffix(o.Doc, ".") {
			t.Errorf("%s: %q is not a description", o.Key, o.Doc)
		}
	}
}

func TestIngestSettings(t *testing.T) {
	_, err := load(t, "ingest: {address: x, tls_cert_file: a, trusted_proxies: [10.0.0.0/33], destination: ' ', max_body: 5}", minimal)
	wantProblems(t, err, "ingest.address", "ingest.tls_cert_file", "ingest.trusted_proxies", "ingest.destination", "ingest.max_body")
	for _, everybody := range []string{"0.0.0.0/0", "::/0"} {
		_, err := load(t, "ingest: {trusted_proxies: ["+`"`+everybody+`"`+"]}", minimal)
		if err == nil || !strings.Contains(err.Error(), "everybody") {
			t.Errorf("trusted_proxies: %s: %v", everybody, err)
		}
	}
	for file, want := range map[string]string{
		"": "events", "ingest: {destination: other}": "other",
		"servicebus: {topic: t, subscription: s}": "t",
		"servicebus: {sources: [a, b]}":           "",
	} {
		environ := minimal
		if strings.Contains(file, "servicebus") {
			environ = minimal[:1] // without the queue
		}
		if c, err := load(t, file, environ); err != nil || c.To() != want {
			t.Errorf("%s: sends to %q, %v", file, c.To(), err)
		}
	}
}

func FuzzFile(f *testing.F) {
	for _, seed := range []string{
		"", "log: {level: info}", "retry:\n  max_age: 1h\n", "a: &a [*a]", "? 1\n: 2", "log: 5",
		"events: {types: {a: b}}", "{}", "\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, file string) {
		c, err := load(t, file+"\n", minimal)
		if err == nil && c.ServiceBus.Queue == "" {
			t.Error("accepted without a queue")
		}
	})
}

func TestLoadNamesTheLineOfASettingInTheFile(t *testing.T) {
	_, err := load(t, "log:\n  level: loud\nretry.max_attempts: x\nservicebus: {queue: q, sessions: 101}\n",
		[]string{"REVOKER_SERVICEBUS_NAMESPACE=n", "REVOKER_LOG_FORMAT=xml"})
	wantProblems(t, err, "config.yaml:2)", "config.yaml:3)", "servicebus.sessions", "config.yaml:4)", "(REVOKER_LOG_FORMAT)")
	if strings.Contains(err.Error(), "REVOKER_LOG_LEVEL") || strings.Contains(err.Error(), "REVOKER_RETRY_MAX_ATTEMPTS") {
		t.Errorf("a variable that was not set is named:\n%v", err)
	}
	// The variable takes precedence, and is what must be changed.
	_, err = load(t, "log:\n  level: info\n", append(minimal, "REVOKER_LOG_LEVEL=loud"))
	wantProblems(t, err, "(REVOKER_LOG_LEVEL)")
}
