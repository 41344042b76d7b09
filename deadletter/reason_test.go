package deadletter_test

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/session-revoker/session-revoker/deadletter"
)

var update = flag.Bool("update", false, "write the reasons' table into docs/runbook.md")

func TestGuidesAreInTheRunbook(t *testing.T) {
	var table strings.Builder
	table.WriteString("| dead-letter reason | what happened | what to do |\n|---|---|---|\n")
	for _, g := range deadletter.Guides() {
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", g.Reason, g.Meaning, g.Action)
	}
	const file, open, end = "../docs/runbook.md", "<!-- reasons: made by `go test ./deadletter -update` -->\n", "<!-- /reasons -->"
	readme, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(readme), open)
	got, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatal("docs/runbook.md lacks the marks around its table of reasons")
	}
	want := table.String()
	if *update {
		if err := os.WriteFile(file, []byte(before+open+want+end+after), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("docs/runbook.md's table of reasons is out of date: run go test ./deadletter -update\nwant:\n%s", want)
	}
}

func TestCutKeepsWholeCharactersWithinTheLimit(t *testing.T) {
	for _, s := range []string{"", "short", strings.Repeat("é", 50), strings.Repeat("x", 50), strings.Repeat("語", 50)} {
		for limit := 3; limit < 60; limit++ {
			got := deadletter.Cut(s, limit)
			if len(got) > limit || !utf8.ValidString(got) {
				t.Fatalf("Cut(%q, %d) = %q: %d bytes", s, limit, got, len(got))
			}
			if len(s) <= limit && got != s {
				t.Fatalf("Cut(%q, %d) = %q, needlessly", s, limit, got)
			}
		}
	}
}

func TestGuideToEveryReason(t *testing.T) {
	for _, reason := range []string{"UserNotFound", "MaxDeliveryCountExceeded", "TTLExpiredException", "someone else's"} {
		if g := deadletter.GuideTo(reason); string(g.Reason) != reason || g.Meaning == "" || g.Action == "" {
			t.Errorf("%s: %+v", reason, g)
		}
	}
}
