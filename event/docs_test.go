package event_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/session-revoker/session-revoker/event"
)

// conforms returns a function that reports whether the published schema accepts a body.
func conforms(t *testing.T) func(body string) bool {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile("../docs/event.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(body string) bool {
		document, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		return err == nil && schema.Validate(document) == nil
	}
}

// accepted reports whether the decoder accepts every event of a message.
func accepted(t *testing.T, m event.Message) bool {
	t.Helper()
	items, err := decoder(t).Decode(m)
	for _, i := range items {
		if i.Err != nil {
			return false
		}
	}
	return err == nil
}

// binaryProperties returns the application properties that docs/events.md gives for a CloudEvent in
// binary form.
func binaryProperties(t *testing.T, document string) map[string]any {
	t.Helper()
	properties := map[string]any{}
	for _, found := range regexp.MustCompile("`(cloudEvents:[a-z]+)` = `([^`]+)`").FindAllStringSubmatch(document, -1) {
		properties[found[1]] = found[2]
	}
	if len(properties) != 4 {
		t.Fatalf("the documented properties of the binary form are %v", properties)
	}
	return properties
}

func TestDecodeAcceptsTheDocumentedExamples(t *testing.T) {
	text, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	valid := conforms(t)
	examples := strings.Split(string(text), "```json\n")[1:]
	forms := map[string]int{}
	for _, rest := range examples {
		example, _, _ := strings.Cut(rest, "```")
		var m event.Message
		switch m.Body = []byte(example); {
		case strings.HasPrefix(example, `{"userId"`): // the data alone
			forms["binary"]++
			m.Properties = binaryProperties(t, string(text))
		case strings.Contains(example, "specversion"):
			forms["CloudEvents"]++
		case strings.Contains(example, "eventType"):
			forms["Event Grid"]++
		default:
			forms["plain"]++
		}
		if m.Properties == nil && !valid(example) {
			t.Errorf("does not conform to the schema:\n%s", example)
		}
		if !accepted(t, m) {
			t.Errorf("is not accepted:\n%s", example)
		}
	}
	if len(forms) != 4 {
		t.Errorf("the examples show %v, want every form", forms)
	}
}

func TestDecoderAgreesWithTheSchema(t *testing.T) {
	valid := conforms(t)
	for _, folder := range []string{"valid", "invalid"} {
		files, err := filepath.Glob("testdata/" + folder + "/*.json")
		if err != nil || len(files) < 5 {
			t.Fatalf("%d files in %s, %v", len(files), folder, err)
		}
		for _, file := range files {
			body, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := folder == "valid"
			if got := accepted(t, event.Message{Body: body}); got != want {
				t.Errorf("%s: the decoder accepts it: %v", file, got)
			}
			// A schema cannot check two things: it does not see names that occur twice, and it
			// knows names in one case only.
			if got := valid(string(body)); got != want && !strings.Contains(file, "twice") && !strings.Contains(file, "other-case") {
				t.Errorf("%s: the schema accepts it: %v", file, got)
			}
		}
	}
}
