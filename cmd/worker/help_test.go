package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"github.com/session-revoker/session-revoker/cmd/internal/help"
)

var update = flag.Bool("update", false, "write the help pages and the runbook's session into docs/")

const pages = "../../docs/commands"

// TestHelpPagesAreUpToDate keeps docs/commands up to date.
func TestHelpPagesAreUpToDate(t *testing.T) {
	root := (&program{}).rootCommand()
	root.InitDefaultHelpCmd()
	want := map[string][]byte{}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Name() == "help" {
			return
		}
		var page bytes.Buffer
		if err := doc.GenMarkdownCustom(cmd, &page, func(name string) string { return name }); err != nil {
			t.Fatal(err)
		}
		want[strings.ReplaceAll(cmd.CommandPath(), " ", "_")+".md"] = page.Bytes()
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if *update {
		if err := os.RemoveAll(pages); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(pages, 0o750); err != nil {
			t.Fatal(err)
		}
		for name, page := range want {
			if err := os.WriteFile(filepath.Join(pages, name), page, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return
	}
	for name, page := range want {
		if got, err := os.ReadFile(filepath.Join(pages, name)); err != nil || !bytes.Equal(got, page) {
			t.Errorf("docs/commands/%s is out of date: run go test ./cmd/worker -run Help -update (%v)", name, err)
		}
	}
	there, err := filepath.Glob(filepath.Join(pages, "*"))
	if err != nil || len(there) != len(want) {
		t.Errorf("docs/commands has %d pages, want %d (%v)", len(there), len(want), err)
	}
}

func TestHelpFitsInItsWidth(t *testing.T) {
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		var text bytes.Buffer
		args := strings.Fields(cmd.CommandPath())[1:]
		if code := run(t.Context(), append(args, "--help"), nil, strings.NewReader(""), &text, &text); code != 0 {
			t.Errorf("%s: exit code %d", cmd.CommandPath(), code)
		}
		for line := range strings.Lines(text.String()) {
			// The longest settings leave too little room for the longest words.
			word := (cmd.Name() == "run" || cmd.Name() == "ingest") && len(strings.Fields(line)) == 1
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > help.Width && !word {
				t.Errorf("%s: %d columns: %s", cmd.CommandPath(), n, line)
			}
		}
		for _, sub := range cmd.Commands() {
			walk(sub)
		}
	}
	walk((&program{}).rootCommand())
}
