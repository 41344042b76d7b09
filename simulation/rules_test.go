package simulation_test

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var allRules = flag.Bool("rules", false, "remove each of the rules that scenarios can test, not only some")

// rule is a rule of the worker, and a change of its source that removes the rule.
type rule struct {
	without  string // the name of the rule, which the changed worker lacks
	file     string // from the module's root
	old, new string // old occurs in the file exactly once
	// seed is the first scenario to play. It, or one of the next few, shows that the rule is
	// missing.
	seed uint64
	// crafted is the scenario to play instead, if not "".
	crafted string
}

// rules lists the rules that scenarios can test. The other rules have unit tests. Every test run
// removes the first few, one after the other. With -rules, it removes all of them.
var rules = []rule{
	{"shares", "consumer/consumer.go", "max(1, cfg.MaxInFlight/4), max(1, cfg.MaxInFlight/2)", "cfg.MaxInFlight, cfg.MaxInFlight", 308, ""},
	{"proof that a failure is the user's own", "retry/retry.go", "case shared(err) && !proved &&", "case false && !proved &&", 2, ""},
	{
		"a check that the newer message lives longer", "dedupe/event.go",
		"return !older.ExpiresAt.IsZero() && !e.ExpiresAt.Before(older.ExpiresAt)", "return true", 4, "",
	},

	{"a waiting room", "dedupe/message.go", "return !m.Fixed && !m.deferring.Load() &&", "return false && !m.deferring.Load() &&", 308, ""},
	{"a check of TimeToLive before ExpiresAt", "consumer/message.go", "m.TimeToLive != nil && *m.TimeToLive > 0", "true", 99, ""},
	{
		"a volume for each event type", "guard/volume.go", "\tif k := v.kinds[name]; k != nil {",
		"\tname = otherKind\n\tif k := v.kinds[name]; k != nil {", 84, "",
	},
	{
		"refunds of the volume", "guard/volume.go", "\tif !r.isNew {\n\t\treturn\n\t}\n\tif r.kind.reserved",
		"\tif !r.isNew || true {\n\t\treturn\n\t}\n\tif r.kind.reserved", 324, "",
	},
	{"a bound on lock renewals", "consumer/consumer.go", "const RenewalsPerSecond = 20", "const RenewalsPerSecond = 100_000", 1307, ""},
	{
		"lanes", "dispatch/queue.go", "return !q.lastWasRetry && q.retries[0].urgent <= q.first[0].urgent", "return true",
		1, "retries that hang",
	},
	{
		"doubt in a canary that a user's success contradicts", "retry/breaker.go",
		"\t\tb.distrustCanary = true\n\t}", "\t\treturn\n\t}", 1679, "",
	},
	{"an order of announcements by version", "schedule/announcement.go", "\t\ta.Version.Compare(b.Version),\n", "", 1, "leavers"},
	{
		"marks of withdrawals", "consumer/announcement.go", "keeps = time.Until(at) > schedule.DueWithin", "keeps = false", 1, "leavers",
	},
	{"budgets of deferred users", "dispatch/budgets.go", "\tb.users.Set(key, budget)", "", 12, ""},
}

// always is the number of rules that every test run removes. Each one takes a build.
const always = 3

// TestRulesAreNeeded proves for each rule that scenarios show its absence. It removes the rule from
// the source, and plays.
func TestRulesAreNeeded(t *testing.T) {
	const few = 10
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	some := rules
	if !*allRules {
		some = rules[:always]
	}
	for _, r := range some {
		t.Run(strings.ReplaceAll(r.without, " ", "_"), func(t *testing.T) {
			binary := r.build(t, root)
			play := exec.CommandContext(t.Context(), binary, "-test.run=^TestSeeds$", "-test.timeout=10m",
				"-seeds", fmt.Sprint(few), "-first", fmt.Sprint(r.seed), "-step", "1", "-crafted", r.crafted)
			play.Env = append(os.Environ(), "GOMAXPROCS=1", "GODEBUG="+seeded, "GOGC=off", "GOMEMLIMIT=1GiB")
			out, err := play.CombinedOutput()
			if err == nil || !strings.Contains(string(out), "broken guarantees") {
				t.Errorf("a worker without %s breaks no guarantee in %d scenarios from seed %d on", r.without, few, r.seed)
			}
			t.Logf("%s", out[:min(len(out), 3000)])
		})
	}
}

// TestRulesMatchTheSource finds rules whose source has changed, without the builds of
// TestRulesAreNeeded.
func TestRulesMatchTheSource(t *testing.T) {
	for _, r := range rules {
		r.removed(t, "..")
	}
}

// removed returns the path of the rule's file, and the file's content without the rule.
func (r rule) removed(t *testing.T, root string) (file, content string) {
	t.Helper()
	file = filepath.Join(root, filepath.FromSlash(r.file))
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(source), r.old); n != 1 {
		t.Errorf("%s has changed: the text to replace for %s occurs in it %d times; adapt the rule in this file", r.file, r.without, n)
	}
	return file, strings.Replace(string(source), r.old, r.new, 1)
}

// build compiles this package's tests with the rule removed from the source.
func (r rule) build(t *testing.T, root string) (binary string) {
	t.Helper()
	dir := t.TempDir()
	file, content := r.removed(t, root)
	changed := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(changed, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{file: changed}})
	if err != nil {
		t.Fatal(err)
	}
	overlayFile := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(overlayFile, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "simulation.test")
	build := exec.CommandContext(t.Context(), "go", "test", "-c", "-ldflags=-s -w", "-overlay", overlayFile, "-o", binary, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build a worker without %s: %v\n%s", r.without, err, out)
	}
	return binary
}
