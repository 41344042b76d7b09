package deploy_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/session-revoker/session-revoker/config"
	"github.com/session-revoker/session-revoker/event/mapping"
	"github.com/session-revoker/session-revoker/event/secevent"
	"github.com/session-revoker/session-revoker/ingest"
)

// walk calls visit with the path of each file of the repository that has the suffix.
func walk(t *testing.T, suffix string, visit func(path, text string)) {
	t.Helper()
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." && entry.Name() != ".github":
			return fs.SkipDir
		case !entry.IsDir() && strings.HasSuffix(path, suffix):
			visit(path, string(read(t, path)))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	fences   = regexp.MustCompile("(?ms)^```.*?^```")
	links    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	headings = regexp.MustCompile(`(?m)^#+ (.+)$`)
	noSlug   = regexp.MustCompile(`[^\p{L}\p{N}_ -]`)
)

// anchors returns the fragments of a Markdown page's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	known := map[string]bool{}
	for _, heading := range headings.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
		slug := noSlug.ReplaceAllString(strings.ToLower(strings.TrimSpace(heading[1])), "")
		known[strings.ReplaceAll(slug, " ", "-")] = true
	}
	return known
}

func TestDocumentsLinkToWhatExists(t *testing.T) {
	walk(t, ".md", func(path, text string) {
		for _, link := range links.FindAllStringSubmatch(fences.ReplaceAllString(text, ""), -1) {
			if strings.Contains(link[1], "://") || strings.HasPrefix(link[1], "mailto:") {
				continue
			}
			name, anchor, _ := strings.Cut(link[1], "#")
			target := path
			if name != "" {
				target = filepath.Join(filepath.Dir(path), name)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %s does not exist", path, link[1])
			} else if anchor != "" && strings.HasSuffix(target, ".md") && !anchors(string(read(t, target)))[anchor] {
				t.Errorf("%s: %s has no such heading", path, link[1])
			}
		}
	})
}

var (
	testFunc = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	testName = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
)

// TestDocumentsNameTestsThatExist checks the names of tests in the documents. ARCHITECTURE.md names
// the tests that catch the loss of each guarantee.
func TestDocumentsNameTestsThatExist(t *testing.T) {
	known := map[string]bool{}
	walk(t, "_test.go", func(_, text string) {
		for _, match := range testFunc.FindAllStringSubmatch(text, -1) {
			known[match[1]] = true
		}
	})
	walk(t, ".md", func(path, text string) {
		for _, match := range testName.FindAllStringSubmatch(text, -1) {
			if !known[match[1]] {
				t.Errorf("%s: there is no test %s", path, match[1])
			}
		}
	})
}

var (
	goTests = regexp.MustCompile(`go test [^\n` + "`" + `]*`)
	runFlag = regexp.MustCompile(`-run ([A-Za-z]+)`)
	pkgPath = regexp.MustCompile(` \./([a-z/]+)`)
	makes   = regexp.MustCompile("(?m)(?:^|`)make ([a-z-]+)")
)

// TestDocumentsGiveCommandsThatWork catches commands that name a test by its old name. For these,
// go test prints "ok" and runs nothing.
func TestDocumentsGiveCommandsThatWork(t *testing.T) {
	makefile := string(read(t, "../Makefile"))
	walk(t, ".md", func(path, text string) {
		for _, match := range makes.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+match[1]+":") {
				t.Errorf("%s: make has no target %s", path, match[1])
			}
		}
		for _, command := range goTests.FindAllString(text, -1) {
			run, pkg := runFlag.FindStringSubmatch(command), pkgPath.FindStringSubmatch(command)
			if run == nil || pkg == nil {
				continue
			}
			files, err := filepath.Glob("../" + pkg[1] + "/*_test.go")
			if err != nil {
				t.Fatal(err)
			}
			runs := false
			for _, file := range files {
				for _, match := range testFunc.FindAllStringSubmatch(string(read(t, file)), -1) {
					runs = runs || strings.Contains(match[1], run[1])
				}
			}
			if !runs {
				t.Errorf("%s: %q runs no test", path, command)
			}
		}
	})
}

var yamls = regexp.MustCompile("(?ms)^( *)```yaml\n(.*?)^ *```")

// TestDocumentsShowSettingsThatLoad loads each piece of YAML in the documents with the code that reads
// it: settings with the sources of worker ingest and their secrets, and mappings.
func TestDocumentsShowSettingsThatLoad(t *testing.T) {
	n := 0
	walk(t, ".md", func(path, text string) {
		for _, match := range yamls.FindAllStringSubmatch(text, -1) {
			piece := strings.ReplaceAll("\n"+match[2], "\n"+match[1], "\n")
			var keys map[string]yaml.Node
			if err := yaml.Unmarshal([]byte(piece), &keys); err != nil {
				t.Errorf("%s: %v\n%s", path, err, piece)
				continue
			}
			switch _, isMapping := keys["mappings"]; {
			case isMapping:
				files := []mapping.File{{Name: path, Text: []byte(piece)}}
				if _, err := mapping.New(mapping.Config{Files: files, Presets: []string{mapping.NoPresets}}); err != nil {
					t.Errorf("%v\n%s", err, piece)
				}
			case isGroup(keys):
				if err := loadSettings(t, piece); err != nil {
					t.Errorf("%s: %v\n%s", path, err, piece)
				}
				n++
			}
		}
	})
	if n < 10 {
		t.Errorf("only %d pieces of settings were found", n)
	}
}

// isGroup reports whether all keys are groups of the configuration file.
func isGroup(keys map[string]yaml.Node) bool {
	groups := map[string]bool{}
	for _, o := range config.Options() {
		group, _, _ := strings.Cut(o.Key, ".")
		groups[group] = true
	}
	for key := range keys {
		if !groups[key] {
			return false
		}
	}
	return len(keys) > 0
}

var secretFile = regexp.MustCompile(`/etc/session-revoker/[a-z/-]+`)

// loadSettings loads settings, whose files it makes.
func loadSettings(t *testing.T, text string) error {
	t.Helper()
	dir := t.TempDir()
	text = secretFile.ReplaceAllStringFunc(text, func(name string) string {
		file := filepath.Join(dir, filepath.Base(name))
		if err := os.WriteFile(file, []byte("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	})
	file := filepath.Join(dir, "worker.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := pflag.NewFlagSet("worker", pflag.ContinueOnError)
	config.Flags(flags)
	if err := flags.Set("config", file); err != nil {
		return err
	}
	var environ []string
	if !strings.Contains(text, "servicebus:") {
		environ = []string{"REVOKER_SERVICEBUS_NAMESPACE=contoso.servicebus.windows.net", "REVOKER_SERVICEBUS_QUEUE=events"}
	}
	cfg, err := config.Load(flags, environ)
	if err != nil {
		return err
	}
	return ingest.Check(cfg.Ingest, anyTransmitter{})
}

// anyTransmitter knows every transmitter of the pages, and verifies nothing.
type anyTransmitter struct{ ingest.Tokens }

func (anyTransmitter) Find(string) (secevent.Transmitter, bool) { return secevent.Transmitter{}, true }

// TestVersionIsTheSameEverywhere ties the chart, the Makefile, GoReleaser, and the program.
func TestVersionIsTheSameEverywhere(t *testing.T) {
	find := func(file, pattern string) string {
		match := regexp.MustCompile(pattern).FindStringSubmatch(string(read(t, file)))
		if match == nil {
			t.Errorf("%s: nothing matches %s", file, pattern)
			return ""
		}
		return match[1]
	}
	want := find(chart+"Chart.yaml", `(?m)^appVersion: (\S+)$`)
	for file, pattern := range map[string]string{
		"../Makefile":                `(?m)^VERSION .*,([^,)]+)\)$`,
		"../cmd/internal/app/app.go": `Version = "([^"]+)"`,
		"../.goreleaser.yaml":        `version_template: (\S+)`,
	} {
		if got := find(file, pattern); got != want {
			t.Errorf("%s says version %q, the chart's appVersion is %q", file, got, want)
		}
	}
}

// TestReleaseBuildsTheMakefilesPlatforms keeps the two ways to build binaries consistent.
func TestReleaseBuildsTheMakefilesPlatforms(t *testing.T) {
	find := func(file, pattern string) string {
		match := regexp.MustCompile(pattern).FindStringSubmatch(string(read(t, file)))
		if match == nil {
			t.Fatalf("%s: nothing matches %s", file, pattern)
		}
		return match[1]
	}
	targets := strings.ReplaceAll(find("../.goreleaser.yaml", `targets: \[(.*)\]`), ",", "")
	if got, want := strings.ReplaceAll(targets, "_", "-"), find("../Makefile", `(?m)^PLATFORMS \?= (.*)$`); got != want {
		t.Errorf(".goreleaser.yaml builds %s, the Makefile %s", got, want)
	}
}
