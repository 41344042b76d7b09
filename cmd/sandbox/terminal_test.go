//go:build !windows

package main

import (
	"context"
	"io"
	"regexp"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/creack/pty"

	"github.com/session-revoker/session-revoker/cmd/internal/screen"
)

// drawing begins each drawing but the first: the cursor goes up by the height of the last one.
var drawing = regexp.MustCompile(`\x1b\[(\d+)A`)

func TestViewFitsATerminalOf80x24(t *testing.T) {
	t.Parallel() // it waits most of the time
	terminal, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no terminal: %v", err)
	}
	defer terminal.Close()
	if err := pty.Setsize(tty, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatal(err)
	}
	var shown screen.Screen
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&shown, terminal)
	}()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, append(anyPort, "--leavers", "3", "--console", ""), tty, tty)
		_ = tty.Close()
	}()
	until(t, &shown, "everything is settled")
	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit code %d", code)
	}
	<-read

	drawings := drawing.Split(shown.String(), -1)[1:]
	if len(drawings) < 10 {
		t.Fatalf("%d drawings", len(drawings))
	}
	last := drawings[len(drawings)-1]
	view, summary, _ := strings.Cut(last, "\nSigned out ")
	drawings[len(drawings)-1] = view
	for _, d := range drawings {
		lines := strings.Split(strings.TrimSuffix(strings.ReplaceAll(d, "\r", ""), "\n"), "\n")
		if len(lines) > 23 { // the cursor stands below them
			t.Fatalf("%d lines:\n%s", len(lines), d)
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(strings.TrimPrefix(line, "\x1b[J")); n > 80 {
				t.Fatalf("%d columns: %q", n, line)
			}
		}
		if !strings.Contains(lines[0], "signed out") {
			t.Fatalf("the first line is %q", lines[0])
		}
	}
	if !strings.Contains(summary, "Dead letters: ") {
		t.Errorf("no summary: %q", last)
	}
}
