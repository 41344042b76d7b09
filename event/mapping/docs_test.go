package mapping

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/session-revoker/session-revoker/event"
)

var update = flag.Bool("update", false, "write the guarded names into docs/mappings.md")

const page = "../../docs/mappings.md"

// TestPageNamesTheGuardedFields keeps the lists in docs/mappings.md up to date.
func TestPageNamesTheGuardedFields(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- guarded: begin -->\n", "<!-- guarded: end -->"
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("the page has lost the marks around the lists")
	}
	list := func(title string, names []string) string {
		return wrapAt(title+": `"+strings.Join(names, "`, `")+"`.", 100) + "\n"
	}
	want := before + begin + list("- **Whoever acted**", actors) + list("- **Private addresses**", privates) + end + after
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	} else if want != string(text) {
		t.Error("docs/mappings.md is out of date: run go test ./event/mapping -update")
	}
}

// wrapAt breaks an item of a list into lines.
func wrapAt(text string, width int) string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = " "
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return strings.Join(append(lines, line), "\n")
}

// TestPageExampleWorks decodes the example of docs/mappings.md with the mapping below it.
func TestPageExampleWorks(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	block := func(language string) string {
		_, rest, _ := strings.Cut(string(text), "```"+language+"\n")
		body, _, _ := strings.Cut(rest, "```")
		return body
	}
	d, err := New(Config{Files: []File{{Name: "acme.yaml", Text: []byte(block("yaml"))}}, Presets: []string{NoPresets}})
	if err != nil {
		t.Fatal(err)
	}
	items, err := d.Decode(event.Message{Body: []byte(block("json"))})
	if err != nil || len(items) != 2 {
		t.Fatalf("%+v %v", items, err)
	}
	shown := block("text")
	for _, want := range []string{
		items[0].Event.Mapping, items[0].Event.Type, items[0].Event.User.UPN(), items[0].Event.Field, items[0].Event.Device,
		items[0].Event.Time.Format("2006-01-02 15:04:05Z"),
	} {
		if want == "" || !strings.Contains(shown, want) {
			t.Errorf("the page does not show %q", want)
		}
	}
	if items[1].Err == nil || !strings.Contains(strings.Join(strings.Fields(shown), " "), "NoTrigger: "+items[1].Err.Error()) {
		t.Errorf("the page does not show %v", items[1].Err)
	}
}

// TestPageNamesKeysAndForms checks that the page mentions each key, form, and function.
func TestPageNamesKeysAndForms(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	words := append([]string{}, mappingKeys...)
	words = append(words, allForms...)
	for _, word := range words {
		if !strings.Contains(string(text), "`"+word+"`") {
			t.Errorf("docs/mappings.md does not mention %s", word)
		}
	}
}
