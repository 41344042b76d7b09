package main_test

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/session-revoker/session-revoker/cmd/internal/screen"
)

// terminal is a command that runs on a terminal of 80 columns.
type terminal struct {
	t   *testing.T
	cmd *exec.Cmd
	pty *os.File
	out screen.Screen
	end chan error
}

func (c *cloud) terminal(env []string, args ...string) *terminal {
	c.t.Helper()
	x := &terminal{t: c.t, cmd: exec.Command(binary, args...), end: make(chan error, 1)}
	x.cmd.Env = append(append([]string{"TERM=xterm"}, c.env...), env...)
	x.cmd.Dir = c.t.TempDir()
	var err error
	if x.pty, err = pty.StartWithSize(x.cmd, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		c.t.Skipf("there are no terminals here: %v", err)
	}
	go func() {
		_, _ = io.Copy(&x.out, x.pty) // ends with the command
		x.end <- x.cmd.Wait()
	}()
	c.t.Cleanup(func() {
		_ = x.cmd.Process.Kill()
		_ = x.pty.Close()
	})
	return x
}

// code waits for the end of the command and returns its exit code.
func (x *terminal) code() int {
	x.t.Helper()
	select {
	case err := <-x.end:
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			x.t.Fatal(err)
		}
		return x.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		x.t.Fatalf("the command hangs:\n%s", &x.out)
		return -1
	}
}

func TestRevokeEndsOnATerminalWithoutACall(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	x := c.terminal([]string{"REVOKER_GUARD_PROTECTED_USERS=user0@contoso.com"}, "revoke", "user0@contoso.com")
	if code := x.code(); code != 1 || !strings.Contains(x.out.String(), "protected") {
		t.Errorf("code %d:\n%s", code, &x.out)
	}
}

func TestColors(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	env := []string{"REVOKER_GUARD_PROTECTED_USERS=x@contoso.com"}
	const red, green, yellow = "\x1b[31m", "\x1b[32m", "\x1b[33m"
	for name, x := range map[string]struct {
		run  *terminal
		want string // "" for no color at all
	}{
		"revoked":     {c.terminal(env, "revoke", id(0)), green + id(0)},
		"not revoked": {c.terminal(env, "revoke", "x@contoso.com"), red + "x@contoso.com"},
		"not known":   {c.terminal(env, "status"), yellow + "Not known"},
		"NO_COLOR":    {c.terminal(append(env, "NO_COLOR=1"), "revoke", id(0)), ""},
		"dumb":        {c.terminal(append(env, "TERM=dumb"), "revoke", id(0)), ""},
		"JSON":        {c.terminal(env, "revoke", "-o", "json", id(0)), ""},
	} {
		x.run.code()
		// The bar on standard error moves the cursor, and has no color.
		text := x.run.out.String()
		if x.want == "" && strings.Contains(text, "\x1b[3") || !strings.Contains(text, x.want) {
			t.Errorf("%s:\n%q", name, text)
		}
	}
	// A pipe gets no colors.
	if r := c.command("", "doctor"); strings.Contains(r.stdout, "\x1b") || !strings.Contains(r.stdout, "OK    configuration") {
		t.Errorf("%q", r.stdout)
	}
}

func TestControlCEndsAQuestion(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.deadLetter(queue, events(1), "Forbidden")
	for name, interrupt := range map[string]func(*terminal) error{
		"a signal":     func(x *terminal) error { return x.cmd.Process.Signal(syscall.SIGTERM) },
		"the keyboard": func(x *terminal) error { _, err := x.pty.WriteString("\x03"); return err },
	} {
		t.Run(name, func(t *testing.T) {
			x := c.terminal(nil, "dlq", "purge", "--all", "--export", "letters.ndjson")
			c.until("the question", func() bool { return strings.Contains(x.out.String(), "Type how many") })
			if err := interrupt(x); err != nil {
				t.Fatal(err)
			}
			if code := x.code(); code != 1 || !strings.Contains(x.out.String(), "nothing was changed") {
				t.Errorf("code %d:\n%s", code, &x.out)
			}
		})
	}
	if n := c.counts().DeadLetter; n != 1 {
		t.Errorf("%d dead letters are left", n)
	}
}

func TestMistypedSubcommandsFail(t *testing.T) {
	c := newCloud(t, 1, time.Minute)
	c.command("", "dlq", "lst").want(t, 2, `unknown command "lst"`, "Did you mean list?")
	c.command("", "audit", "vrify").want(t, 2, "verify")
	c.command("", "guard", "relase").want(t, 2, "release")
	c.command("", "deferred", "x").want(t, 2, "worker deferred --help")
	c.command("", "dlq").want(t, 0, "Available Commands")
}

func TestLostOutputIsAFailure(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"version"}, {"--help"}, {"revoke", "--dry-run", "ada@contoso.com"}} {
		cmd := exec.Command(binary, args...)
		cmd.Stdout = full
		if err := cmd.Run(); err == nil || cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%v: %v", args, err)
		}
	}
}
