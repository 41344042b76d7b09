package event_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/session-revoker/session-revoker/event"
)

// conforms says whether the published schema accepts a body.
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

// accepted says whether the decoder accepts every event of a body.
func accepted(t *testing.T, body string) bool {
	t.Helper()
	items, err := decoder(t).Decode(event.Message{Body: []byte(body)})
	for _, i := range items {
		if i.Err != nil {
			return false
		}
	}
	return err == nil
}

func TestTheDocumentedExamplesAreAccepted(t *testing.T) {
	text, err := os.ReadFile("../docs/events.md")
	if err != nil {
		t.Fatal(err)
	}
	valid := conforms(t)
	examples := strings.Split(string(text), "```json\n")[1:]
	if len(examples) < 5 {
		t.Fatalf("%d examples, want one of each form", len(examples))
	}
	for _, rest := range examples {
		example, _, _ := strings.Cut(rest, "```")
		if !valid(example) {
			t.Errorf("does not conform to the schema:\n%s", example)
		}
		if !accepted(t, example) {
			t.Errorf("is not accepted:\n%s", example)
		}
	}
}

func TestSchemaAndDecoderAgree(t *testing.T) {
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
			if got := accepted(t, string(body)); got != want {
				t.Errorf("%s: the decoder accepts it: %v", file, got)
			}
			// What a schema cannot say: names given twice are lost before it sees them.
			if got := valid(string(body)); got != want && !strings.Contains(file, "twice") {
				t.Errorf("%s: the schema accepts it: %v", file, got)
			}
		}
	}
}
