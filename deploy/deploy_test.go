// Package deploy_test keeps the chart, the documents, and the program consistent.
package deploy_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/deadletter"
	"github.com/session-revoker/session-revoker/ingest"
	"github.com/session-revoker/session-revoker/telemetry"
)

var update = flag.Bool("update", false, "write the settings into the schema")

const chart = "helm/session-revoker/"

func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// settingsSchema returns the schema of the worker's configuration as the chart accepts it. Secrets
// come from a Secret, and the address of the operations port from metrics.port.
func settingsSchema() map[string]any {
	type object = map[string]any
	groups := object{}
	for _, o := range config.Options() {
		group, name, _ := strings.Cut(o.Key, ".")
		if o.Secret || o.Key == "ops.address" || o.Key == "ingest.address" {
			continue
		}
		if groups[group] == nil {
			groups[group] = object{"type": "object", "additionalProperties": false, "properties": object{}}
		}
		setting := object{"description": o.Doc}
		switch o.Kind() {
		case "int":
			setting["type"] = "integer"
			least, _ := strconv.Atoi(o.Min)
			most, _ := strconv.Atoi(o.Max)
			setting["minimum"], setting["maximum"] = least, most
		case "bool":
			setting["type"] = "boolean"
		case "duration":
			setting["type"], setting["pattern"] = "string", `^([0-9]+h)?([0-9]+m)?([0-9.]+s)?([0-9]+ms)?$`
		case "list":
			setting["type"], setting["items"] = "array", object{"type": "string"}
		default:
			setting["type"] = "string"
		}
		switch o.Key {
		case "graph.cloud":
			setting["enum"] = []string{"global", "usgov-l4", "usgov-dod", "china"}
		case "servicebus.transport":
			setting["enum"] = []string{"amqp", "websockets"}
		case "log.level":
			setting["enum"] = []string{"debug", "info", "warn", "error"}
		case "log.format":
			setting["enum"] = []string{"json", "console"}
		}
		groups[group].(object)["properties"].(object)[name] = setting
	}
	groups["ingest"].(object)["properties"].(object)["sources"] = objectsSchema(config.IngestOptions(), "name", "path", "verify")
	groups["ingest"].(object)["properties"].(object)["streams"] = objectsSchema(config.StreamOptions(), "name", "issuer")
	return object{"type": "object", "additionalProperties": false, "properties": groups}
}

// objectsSchema returns the schema of ingest.sources or ingest.streams.
func objectsSchema(options []config.IngestOption, required ...string) map[string]any {
	type object = map[string]any
	keys := object{}
	for _, o := range options {
		setting := object{"description": o.Doc}
		switch o.Kind {
		case "int":
			setting["type"], setting["minimum"] = "integer", 0
		case "list":
			setting["type"], setting["items"] = "array", object{"type": "string"}
		default: // durations are strings, too
			setting["type"] = "string"
		}
		switch o.Key {
		case "verify":
			setting["enum"] = ingest.Kinds()
		case "delivery":
			setting["enum"] = []string{"poll", "push"}
		}
		keys[o.Key] = setting
	}
	return object{"type": "array", "maxItems": ingest.MaxSources, "items": object{
		"type": "object", "additionalProperties": false, "required": required, "properties": keys,
	}}
}

func TestSchemaKnowsEverySettingAndNoOther(t *testing.T) {
	const file = chart + "values.schema.json"
	text := read(t, file)
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	schema["properties"].(map[string]any)["config"] = settingsSchema()
	var want bytes.Buffer
	encoder := json.NewEncoder(&want)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(schema); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(text, want.Bytes()) {
		t.Error("values.schema.json is out of date: run go test ./deploy -update")
	}
}

// TestValuesFilesAreAcceptedByTheProgram catches what a schema cannot say.
func TestValuesFilesAreAcceptedByTheProgram(t *testing.T) {
	files, err := filepath.Glob(chart + "ci/*-values.yaml")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d values files, %v", len(files), err)
	}
	for _, file := range files {
		var values struct {
			Config map[string]any `yaml:"config"`
			Secret struct {
				ConnectionStringKey string `yaml:"connectionStringKey"`
				ClientSecretKey     string `yaml:"clientSecretKey"`
				RedisPasswordKey    string `yaml:"redisPasswordKey"`
			} `yaml:"secret"`
			ExtraEnv []struct {
				Name string `yaml:"name"`
			} `yaml:"extraEnv"`
		}
		if err := yaml.Unmarshal(read(t, file), &values); err != nil {
			t.Fatal(err)
		}
		for _, env := range values.ExtraEnv {
			known := slices.ContainsFunc(config.Options(), func(o config.Option) bool { return o.Env == env.Name })
			if strings.HasPrefix(env.Name, config.EnvPrefix) && !known {
				t.Errorf("%s: the program does not know %s", file, env.Name)
			}
		}
		environ := []string{}
		if values.Secret.ConnectionStringKey != "" {
			environ = append(environ, "REVOKER_SERVICEBUS_CONNECTION_STRING="+
				"Endpoint=sb://contoso.servicebus.windows.net/;SharedAccessKeyName=k;SharedAccessKey=v")
		}
		if values.Secret.ClientSecretKey != "" {
			environ = append(environ, "REVOKER_GRAPH_CLIENT_SECRET=s")
		}
		if values.Secret.RedisPasswordKey != "" {
			environ = append(environ, "REVOKER_REDIS_PASSWORD=s")
		}
		text, err := yaml.Marshal(values.Config)
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(t.TempDir(), "worker.yaml")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		config.Flags(fs)
		if err := fs.Set(config.FileFlag, name); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(fs, environ); err != nil && filepath.Base(file) != "default-values.yaml" {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// exposed returns the names of all metrics of the program, including those that Prometheus derives
// from a histogram.
func exposed(t *testing.T) map[string]bool {
	t.Helper()
	metrics := telemetry.NewMetrics("v", "c")
	// A vector without a child shows nothing.
	metrics.Watch(func() telemetry.State { return telemetry.State{Guard: []telemetry.Guard{{Type: "device.stolen"}}} })
	metrics.Events.WithLabelValues("q", "revoked", "")
	metrics.GraphCalls.WithLabelValues("revoked", "200")
	metrics.Canaries.WithLabelValues("well")
	metrics.Deferred.WithLabelValues("q")
	metrics.Settlements.WithLabelValues("complete", "ok")
	metrics.Renewals.WithLabelValues("ok")
	metrics.LastReceive.WithLabelValues("q")
	metrics.AuditFailures.WithLabelValues("file")
	metrics.TransmitterKeys.WithLabelValues("okta")
	metrics.TransmitterKeysStale.WithLabelValues("okta")
	metrics.Replicas.WithLabelValues("away")
	in := telemetry.NewIngestMetrics("v", "c")
	in.Requests.WithLabelValues("okta", "accepted")
	in.LastAccepted.WithLabelValues("okta")
	in.Expected.WithLabelValues("okta")
	in.StreamWorking.WithLabelValues("okta")
	families, err := metrics.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	more, err := in.Registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	families = append(families, more...)
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
		if f.GetType().String() == "HISTOGRAM" {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				names[f.GetName()+suffix] = true
			}
		}
	}
	return names
}

var (
	metricName = regexp.MustCompile(`\b(session_revoker_[a-z_]+|process_[a-z_]+|go_[a-z_]+)\b`)
	reasonName = regexp.MustCompile(`reason="([A-Za-z]+)"`)
)

// TestAlertsAndPanelsUseExposedMetrics catches alerts on a renamed metric, which would never fire.
func TestAlertsAndPanelsUseExposedMetrics(t *testing.T) {
	known := exposed(t)
	for _, file := range []string{chart + "files/alerts.yaml", chart + "files/dashboard.json"} {
		text := string(read(t, file))
		asked := metricName.FindAllString(text, -1)
		if len(asked) == 0 {
			t.Errorf("%s uses no metric", file)
		}
		for _, name := range asked {
			if !known[name] {
				t.Errorf("%s: the program exposes no metric %s", file, name)
			}
		}
		for _, match := range reasonName.FindAllStringSubmatch(text, -1) {
			if g := deadletter.GuideTo(match[1]); strings.Contains(g.Meaning, "not one of the worker's") {
				t.Errorf("%s: there is no reason %s", file, match[1])
			}
		}
	}
}

func TestAlertsHaveARunbook(t *testing.T) {
	var alerts struct {
		Groups []struct {
			Rules []struct {
				Alert       string            `yaml:"alert"`
				Labels      map[string]string `yaml:"labels"`
				Annotations map[string]string `yaml:"annotations"`
			} `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(read(t, chart+"files/alerts.yaml"), &alerts); err != nil {
		t.Fatal(err)
	}
	runbook := strings.ToLower(string(read(t, "../docs/runbook.md")))
	n := 0
	for _, group := range alerts.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				continue
			}
			n++
			_, anchor, _ := strings.Cut(rule.Annotations["runbook_url"], "#")
			if rule.Labels["severity"] == "" || rule.Annotations["summary"] == "" || anchor == "" {
				t.Errorf("%s lacks a severity, a summary or a runbook", rule.Alert)
			}
			if !strings.Contains(runbook, "### "+strings.ToLower(rule.Alert)) || anchor != strings.ToLower(rule.Alert) {
				t.Errorf("%s: docs/runbook.md has no section for %q", rule.Alert, anchor)
			}
		}
	}
	if n < 6 {
		t.Errorf("%d alerts", n)
	}
}
