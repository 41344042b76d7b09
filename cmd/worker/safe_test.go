package main

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/session-revoker/session-revoker/deadletter"
)

// nasty holds what a terminal must never get: C0 and C1 controls, bidirectional and other format
// characters (also outside the basic plane), and line and paragraph separators.
const nasty = "a\x1b[2J\x07\x7f\u009b31m\u0085\u202eb\u2066c\u200b\ufeff\u061c\u2028d\u2029\U000e0041é語"

func isSafe(t *testing.T, text string) {
	t.Helper()
	for _, c := range text {
		if deadletter.Hidden(c) && c != '\n' && c != '\t' {
			t.Errorf("%U passes in %q", c, text)
		}
	}
	if !utf8.ValidString(text) {
		t.Errorf("bytes pass that are no UTF-8: %q", text)
	}
}

func TestSafeEscapesHiddenCharacters(t *testing.T) {
	for _, format := range []string{asTable, asJSON, asNDJSON} {
		var printed bytes.Buffer
		out := &output{w: safe{&printed}, format: format}
		list := &rows{output: out, header: table.Row{"A"}}
		value := map[string]any{
			"text": nasty, nasty: 1,
			"raw": json.RawMessage(`{"user":"` + strings.NewReplacer("\x1b", "", "\x07", "").Replace(nasty) + `"}`),
		}
		if err := list.add(value, table.Row{nasty}); err != nil { // a row that did not go through plain
			t.Fatal(err)
		}
		list.end("")
		isSafe(t, printed.String())
		if !strings.Contains(printed.String(), `\u202e`) || !strings.Contains(printed.String(), "é語") {
			t.Errorf("%s: %s", format, &printed)
		}
		if format == asTable {
			continue
		}
		text := bytes.TrimSpace(printed.Bytes())
		text = bytes.TrimSuffix(bytes.TrimPrefix(text, []byte("[")), []byte("]"))
		var got map[string]any
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v\n%s", format, err, &printed)
		}
		if got["text"] != nasty || got[nasty] != float64(1) ||
			!reflect.DeepEqual(got["raw"], map[string]any{"user": strings.NewReplacer("\x1b", "", "\x07", "").Replace(nasty)}) {
			t.Errorf("%s: reads back as %q", format, got)
		}
	}
}

func TestSafeReplacesBytesThatAreNotText(t *testing.T) {
	var printed bytes.Buffer
	n, err := safe{&printed}.Write([]byte("x\x9b31m\xffé\n"))
	if err != nil || n != len("x\x9b31m\xffé\n") || printed.String() != `x\ufffd31m\ufffdé`+"\n" {
		t.Errorf("%q, %d, %v", printed.String(), n, err)
	}
}

// TestPlainKeepsAFieldOnItsLine checks that text from outside cannot look like another row.
func TestPlainKeepsAFieldOnItsLine(t *testing.T) {
	got := plain("a\nb\tc\rd" + nasty)
	isSafe(t, got)
	if strings.ContainsAny(got, "\n\t\r") {
		t.Errorf("%q", got)
	}
}

// TestSafeErrors checks errors, which often contain text from outside.
func TestSafeErrors(t *testing.T) {
	var stdout, stderr bytes.Buffer
	run(t.Context(), []string{"dlq", "list", "--since", nasty},
		[]string{"REVOKER_SERVICEBUS_NAMESPACE=x.servicebus.windows.net", "REVOKER_SERVICEBUS_QUEUE=q"}, strings.NewReader(""), &stdout,
		&stderr)
	isSafe(t, stdout.String()+stderr.String())
	if !strings.Contains(stderr.String(), "is not a time") {
		t.Errorf("%s", &stderr)
	}
}

func FuzzSafe(f *testing.F) {
	f.Add([]byte(nasty))
	f.Fuzz(func(t *testing.T, text []byte) {
		var printed bytes.Buffer
		if n, err := (safe{&printed}).Write(text); n != len(text) || err != nil {
			t.Errorf("%d, %v", n, err)
		}
		isSafe(t, printed.String())
	})
}

func TestPaintColorsOnlyOurText(t *testing.T) {
	var printed bytes.Buffer
	paint(colored{safe{&printed}}, green, "ada\x1b[31m")
	paint(safe{&printed}, green, " plain")
	if got, want := printed.String(), "\x1b[32mada\\u001b[31m\x1b[0m plain"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
